"""Who scores policies: the study's own preference models, the world, or a classifier that somebody else trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from sweeps.load import KeyPath, nearest
from sweeps.study import PMChoice, PPOSection, Study

Found = Iterator[tuple[KeyPath, str]]
FOREIGN = "{hub: NAME} or {path: FOLDER} of a sequence classifier"


def choice_for_test(ppo: PPOSection) -> PMChoice:
    """Whose test score is followed: as for the train score where the study does not say, if that is an own model."""
    if ppo.test_pm is not None:
        return ppo.test_pm
    return PMChoice() if ppo.pm.is_foreign else ppo.pm


def gold_source(study: Study) -> Literal["world", "largest", "foreign"] | None:
    """What the gold score is from: in a world its exact score where the study does not say, else nothing."""
    gold = None if study.ppo is None else study.ppo.gold
    if gold is None:
        return None
    if gold.is_foreign:
        return "foreign"
    return gold.source or ("world" if study.world is not None else None)


def lacks_own(study: Study) -> bool:
    """Whether policies are scored by preference models of the study, and it has none."""
    ppo = study.ppo
    return ppo is not None and study.pm is None and not (ppo.pm.is_foreign and choice_for_test(ppo).is_foreign)


def scoring_problems(study: Study, names: list[str]) -> Found:
    """Choices that name nothing, two things, or what the study does not have."""
    ppo, pm = study.ppo, study.pm
    if ppo is None:
        return
    for key, choice in (("pm", ppo.pm), ("test_pm", ppo.test_pm), ("gold", ppo.gold)):
        if choice is not None and len(choice.given) > 1:
            yield ("ppo", key), f"has {' and '.join(choice.given)} (allowed: one of them)"
    yield from gold_problems(study)
    if lacks_own(study):
        yield ("ppo",), f"needs preference models, but pm is null (else: ppo.pm and ppo.test_pm as {FOREIGN})"
        return
    if pm is not None and pm.halves == "train" and not choice_for_test(ppo).is_foreign:
        yield ("pm", "halves"), "is train, but ppo needs those of the test half too (allowed: both; --set ppo=null)"
    scored = [] if pm is None else list(pm.sizes or names)
    yield from size_problems(ppo, scored, names)
    yield from crossing_problems(ppo, scored)


def size_problems(ppo: PPOSection, scored: list[str], names: list[str]) -> Found:
    """Policies without a preference model to score them."""
    without = [name for name in ppo.sizes or names if name in names and name not in scored]
    chosen = {"pm": ppo.pm} | ({} if choice_for_test(ppo) == ppo.pm else {"test_pm": choice_for_test(ppo)})
    for key, choice in chosen.items():
        if choice.is_foreign:
            continue
        allowed = ["same", "largest", *scored]
        if choice.size not in (None, *allowed):
            hint = nearest(str(choice.size), allowed)
            yield ("ppo", key), f"is '{choice.size}' (allowed: {', '.join(allowed)}, {FOREIGN}{hint})"
        elif choice.size in (None, "same") and without:
            others = ", ".join(["largest", *scored])
            yield ("ppo", key), f"is same, but pm.sizes leaves out {', '.join(without)} (allowed: {others}, {FOREIGN})"


def crossing_problems(ppo: PPOSection, scored: list[str]) -> Found:
    """Further train and test PMs of sizes that have none, or named twice."""
    for key in ("pm_sizes", "test_pm_sizes"):
        chosen = getattr(ppo, key)
        for i, name in enumerate(chosen):
            if name not in scored:
                allowed = ", ".join(scored) or "none, since pm is null"
                yield ("ppo", key, i), f"is '{name}' (allowed: {allowed}{nearest(name, scored)})"
            elif name in chosen[:i]:
                yield ("ppo", key, i), f"is '{name}' a second time"


def gold_problems(study: Study) -> Found:
    """Gold scores that there is nothing to take from."""
    source, world = gold_source(study), study.world is not None
    allowed = f"{'world' if world else 'largest'}, null, {FOREIGN}"
    if source == "world" and not world:
        yield ("ppo", "gold"), f"is world, but the comparisons are not made by one (allowed: {allowed})"
    if source == "largest" and not study.data.gold_fraction:
        text = f"is largest, but data.gold_fraction keeps no comparisons for it (allowed: {allowed}"
        yield ("ppo", "gold"), f"{text}; --set data.gold_fraction=0.2)"
    if source == "largest" and study.pm is None:
        yield ("ppo", "gold"), f"is largest, but pm is null (allowed: {allowed})"
