"""The preference models of a study with their place in it, and those of one size pooled for a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from analysis.calibration import slope_influences
from analysis.crossed import Measured, Term, combine
from analysis.estimates import influences
from analysis.frames import MAIN, Model, Setting, Study, base_of, join_notes
from analysis.held_out import KINDS, Bools, Floats, HeldOut, Objects
from hh_scaling.records import Record

GOLD = "gold"  # the part of the comparisons whose PM stands in for people, and is none of those that are compared


@dataclass(frozen=True)
class PM:
    """One preference model; ``n_comparisons`` is the number it was asked to train on."""

    record: Record
    model: Model
    chain: str
    setting: Setting
    n_comparisons: int
    scores: HeldOut

    @property
    def half(self) -> str:
        return str(self.record.config["half"])

    @property
    def place(self) -> tuple[Any, ...]:
        return (self.model.n_params, self.model.name)

    @cached_property
    def slope(self) -> tuple[float, Floats] | None:
        """Its calibration slope and the influence of every comparison on it (``slope_influences``)."""
        return slope_influences(self.scores.difference)


def preference_models(study: Study, scores: dict[str, HeldOut]) -> list[PM]:
    """Every scored PM of either half whose ancestors are of the main setting, by size and in the study's order, on
    the comparisons that all of them scored."""
    whole, found = largest_half(study), []
    for stage_id, held_out in scores.items():
        record = study.records[stage_id]
        setting, wanted = study.setting(record), record.config.get("n_comparisons")
        if setting is not None and record.config.get("half") != GOLD:
            n = whole if wanted is None else int(wanted)
            found.append(PM(record, study.model(record), study.chain(record), setting, n, held_out))
    return on_common_comparisons(study, sorted(found, key=lambda pm: pm.place))


def on_common_comparisons(study: Study, pms: list[PM]) -> list[PM]:
    """The PMs with the scores of the comparisons that all scored, in one order: they are paired and crossed with runs.

    A PM that scored less than half of the comparisons that most scored is left out; what is left out is said.
    """
    if all(np.array_equal(pm.scores.comparison_id, pms[0].scores.comparison_id) for pm in pms):
        return pms
    counts = Counter(name for pm in pms for name in pm.scores.comparison_id)
    usual = {name for name, n in counts.items() if 2 * n > len(pms)}
    kept = [pm for pm in pms if 2 * len(usual.intersection(pm.scores.comparison_id)) > len(usual)]
    for pm in pms:
        if pm not in kept:
            study.exclude(pm.record.stage_id, "scored other comparisons than most preference models", pm.record)
    if all(np.array_equal(pm.scores.comparison_id, kept[0].scores.comparison_id) for pm in kept):
        return kept
    common = set.intersection(*(set(pm.scores.comparison_id) for pm in kept))
    total = len(set().union(*(pm.scores.comparison_id for pm in kept)))
    study.exclude("held-out comparisons", f"{total - len(common)} of {total} were not scored by every preference model")
    order = [name for name in kept[0].scores.comparison_id if name in common]
    return [replace(pm, scores=pm.scores.in_order(order)) for pm in kept]


def largest_half(study: Study) -> int:
    """What "all comparisons of the half" is called: the most that any such PM was trained on, the same for all, so
    that halves which differ by a few dropped pairs stay one point of a curve."""
    halves = [r for r in study.main_of_kind("pm") if r.config.get("half") != GOLD]
    everything = [r for r in halves if r.config.get("n_comparisons") is None]
    return max((int(r.summary.get("n_comparisons") or 0) for r in everything), default=0)


@dataclass(frozen=True)
class Pool:
    """PMs whose held-out comparisons are pooled; with R rows in all, one PM's after the other's."""

    pms: tuple[PM, ...]

    @cached_property
    def scores(self) -> HeldOut:
        return HeldOut.joined([pm.scores for pm in self.pms])

    @cached_property
    def centred(self) -> HeldOut:
        """Scores with every PM's own mean subtracted."""
        return HeldOut.joined([pm.scores.centred() for pm in self.pms])

    @cached_property
    def which(self) -> Floats:
        """(R,) the index of the PM of each row."""
        return np.repeat(np.arange(len(self.pms)), [len(pm.scores.correct) for pm in self.pms])

    @cached_property
    def spans(self) -> list[slice]:
        """The rows of each PM."""
        ends = np.cumsum([len(pm.scores.correct) for pm in self.pms]).tolist()
        return [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def chain(self) -> Objects:
        """(R,) what replicates: the base model, whose seeds are not independent of each other; base model and seed
        where there is one base alone, so that what is measured is given that base."""
        names = [pm.chain if len(self.bases) == 1 else base_of(pm.chain) for pm in self.pms]
        return np.array(names, dtype=object)[self.which]

    @property
    def model(self) -> Model:
        return self.pms[0].model

    @property
    def labels(self) -> dict[str, Any]:
        """The columns that say which size the pool is of."""
        name = {"model": self.model.name, "n_params": self.model.n_params}
        return name | {"n_comparisons": self.pms[0].n_comparisons}

    @property
    def chains(self) -> set[str]:
        return {pm.chain for pm in self.pms}

    @cached_property
    def bases(self) -> set[str]:
        return {base_of(pm.chain) for pm in self.pms}

    def rows(self, group: str) -> Bools:
        """(R,) those of helpful or harmless comparisons; of every comparison for any other name."""
        return self.scores.kind == group if group in KINDS else np.ones(len(self.chain), dtype=bool)

    def term(self, values: Floats, rows: Bools | None = None) -> Term | None:
        """The mean of ``values`` (R,) over ``rows``; None where there are none."""
        kept = np.ones(len(values), dtype=bool) if rows is None else rows
        if not kept.any():
            return None
        return self._term(*influences(values[kept]), kept)

    def mean_of_kinds(self, values: Floats, rows: Bools | None = None) -> Term | None:
        """The mean of the helpful and the harmless comparisons' means over ``rows``, whatever their numbers."""
        every = np.ones(len(values), dtype=bool) if rows is None else rows
        terms = [self.term(values, self.rows(kind) & every) for kind in KINDS]
        mean = combine(*((1 / len(KINDS), term) for term in terms))
        return None if mean is None else replace(mean, n=sum(term.n for term in terms if term is not None))

    def influence_term(self, value: float, influence: Floats) -> Term:
        """A term from any quantity's influence of every row (R,)."""
        return self._term(value, influence, np.ones(len(influence), dtype=bool))

    def _term(self, value: float, influence: Floats, kept: Bools) -> Term:
        n = int(np.bincount(self.which[kept]).max())  # the comparisons are the same for every PM
        return Term(value, influence, self.scores.conversation[kept], self.chain[kept], n)

    def note(self, study: Study, *measured: Measured) -> str | None:
        """What the measurements say of themselves, and which chains share a base."""
        return join_notes(*(m.note for m in measured), study.base_note([pm.record for pm in self.pms]))


def with_both_kinds(pools: Iterable[Pool]) -> bool:
    """Whether the held-out comparisons are of both kinds, helpful and harmless."""
    return all(all(pool.rows(kind).any() for kind in KINDS) for pool in pools)


def groups_of(pools: Sequence[Pool]) -> tuple[str, ...]:
    """ "all", and either kind of comparison where there are both."""
    return ("all", *KINDS) if with_both_kinds(pools) else ("all",)


# ---------------------------------------------------------------- which PMs a table pools


def grouped(pms: Iterable[PM], key: Callable[[PM], Any]) -> dict[Any, Pool]:
    """Pools of PMs that share a key, in the order of the keys' first PMs."""
    found: dict[Any, list[PM]] = {}
    for pm in pms:
        found.setdefault(key(pm), []).append(pm)
    return {value: Pool(tuple(members)) for value, members in found.items()}


def largest(pms: Iterable[PM]) -> list[Pool]:
    """One pool a size, smallest first: its main PMs at the most comparisons that every size has, both halves; at each
    size's own most where the sizes have no number in common, which rows say (``n_comparisons``)."""
    main = sorted((pm for pm in pms if pm.setting == MAIN), key=lambda pm: pm.place)
    return _at_most(list(grouped(main, lambda pm: pm.place).values()), lambda pm: True)


def _at_most(sizes: Sequence[Pool], counts: Callable[[PM], bool]) -> list[Pool]:
    """Every size's PMs at the most comparisons that each has, among those that count; else at its own most."""
    numbers = [{pm.n_comparisons for pm in pool.pms if counts(pm)} for pool in sizes]
    common = set.intersection(*numbers) if numbers else set()
    chosen = [max(common or own) for own in numbers]
    return [
        Pool(tuple(pm for pm in pool.pms if pm.n_comparisons == most)) for pool, most in zip(sizes, chosen, strict=True)
    ]


def everything(pms: Iterable[PM]) -> Pool | None:
    """All sizes' main PMs at the most comparisons that every size has, together; None where there is no such number:
    PMs of different numbers of comparisons differ in more than their size."""
    found = tuple(pm for pool in largest(pms) for pm in pool.pms)
    return Pool(found) if len({pm.n_comparisons for pm in found}) == 1 else None


def varied(pms: Sequence[PM], axis: str) -> list[dict[float | None, Pool]]:
    """By size the train-half PMs that vary ``axis`` (a field of Setting) alone, pooled by its value.

    The main PM of the same number of comparisons is among them, under the axis's value in the main setting. Sizes
    that do not vary it are left out.
    """
    default = next(f.default for f in fields(Setting) if f.name == axis)
    alone = [pm for pm in pms if pm.half == "train" and pm.setting.varies_only(axis)]

    def changed(pm: PM) -> bool:
        return bool(getattr(pm.setting, axis) != default)

    sizes = [pool for pool in grouped(alone, lambda pm: pm.place).values() if any(map(changed, pool.pms))]
    return [grouped(pool.pms, lambda pm: getattr(pm.setting, axis)) for pool in _at_most(sizes, changed)]


def on_common_chains(one: Pool, other: Pool) -> tuple[Pool, Pool] | None:
    """Both pools without the chains that only one has; None where they share none."""
    shared = one.chains & other.chains
    if not shared:
        return None
    kept = [replace(pool, pms=tuple(pm for pm in pool.pms if pm.chain in shared)) for pool in (one, other)]
    return kept[0], kept[1]
