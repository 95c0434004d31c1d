"""Recipes of several studies at equal gold reward: where all runs of two had gained the same, what had each lost?

Two recipes are compared at one size on the items that both took. Where they descend from common base models their runs
are paired too; else runs are independent and only items are shared. What cannot be compared is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import Any

from analysis.crossed import Measured, Term, combine, measure
from analysis.estimates import Estimate, clustered_variance, cochran_df, codes
from analysis.frames import AnalysisError, Model, Study, join_notes, load_study
from analysis.frontier import Curve, gold_source, load_curves
from analysis.items import n_other_prompts, task_name
from analysis.judging import by_sign
from analysis.reward_paths import Items, Path, common_reward, interpolated_paths, load_paths
from analysis.tax import task_rows
from analysis.tax_pooled import Tasks, poolable
from analysis.tax_reward import NO_REWARD, Befores, mean_tax_term, pairs_at_reward
from analysis.tax_sizes import benchmark_items, origins, recipes, untuned_items
from hh_scaling.records import Record

WORLD_KEYS = ("seed", "n_entities", "n_values")  # of a world's configuration: what is true in it depends on no other
REFUSED = "not compared"
NOTHING = "no policy whose benchmarks and gold score lie there item by item, so nothing at equal gold reward"


@dataclass(frozen=True)
class Side:
    """One recipe of one study at one size: its runs' paths by chain, and what its gold score is from."""

    study: str
    recipe: str
    model: Model
    paths: Mapping[str, Path]
    gold: str
    befores: Befores

    @property
    def size(self) -> tuple[int, str]:
        """What makes two studies' models the same size: parameters without embeddings, and the name."""
        return self.model.n_params, self.model.name

    @property
    def name(self) -> str:
        """Study and recipe, as notes call it."""
        return self.recipe if self.recipe.startswith(self.study) else f"{self.study}/{self.recipe}"


def equal_reward_across(runs: Sequence[tuple[str, Folder]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every recipe against the first of the first study, and a study's own against its first, size by size; and notes
    of what could not take part.

    ``runs`` are labels and RUNS directories. Each row has the tax of either side at the largest gold reward that all
    their runs reached, ``tax`` less ``other_tax`` as ``difference``, what was ``refused`` and why, and a verdict: the
    recipe that pays less, inconclusive, or not compared.
    """
    by_study = {label: sides_of(label, folder) for label, folder in runs}
    notes = [f"{label}: {NOTHING}" for label, sides in by_study.items() if not sides]
    sides = [side for of in by_study.values() for side in of]
    rows = []
    for size in sorted({side.size for side in sides}):
        here = [side for side in sides if side.size == size]
        rows += [row for one, two in couples(here) for row in compared(one, two)]
        absent = [label for label, of in by_study.items() if of and not any(side.size == size for side in of)]
        notes += [f"{size[1]} ({size[0]:,} parameters): not in {label}" for label in absent]
    return rows, notes


def couples(sides: Sequence[Side]) -> Iterator[tuple[Side, Side]]:
    """Which recipes of a size stand beside each other; ``sides`` study by study, each study's first its plainest."""
    first: dict[str, Side] = {}
    for side in sides:
        first.setdefault(side.study, side)
    for side in sides[1:]:
        yield sides[0], side
        if first[side.study] is not side and first[side.study] is not sides[0]:
            yield first[side.study], side


def sides_of(label: str, folder: Folder) -> list[Side]:
    """The recipes of a study by size, the one with most runs first; none where its stages are not in ``folder``."""
    try:
        study = load_study(folder)
    except AnalysisError:
        return []
    recipe_of, items = recipes(study), benchmark_items(study)
    curves = [curve for curve in load_curves(study) if curve.record.stage_id in recipe_of]
    paths = load_paths(study, curves, items, recipe_of)
    gold = {curve.record.stage_id: gold_of(study, curve) for curve in curves}
    befores = _befores(study, items)
    found: dict[tuple[Model, str], dict[str, Path]] = {}
    for path in paths + interpolated_paths(study, paths, curves, items):
        found.setdefault((path.model, path.recipe), {})[path.chain] = path
    sides = []
    for model, recipe in sorted(found, key=lambda key: (-len(found[key]), len(key[1]), key[1])):
        members = found[model, recipe]
        sources = sorted({gold[path.record.stage_id] for path in members.values()})
        sides.append(Side(label, recipe, model, members, " and ".join(sources), befores))
    return sides


def gold_of(study: Study, curve: Curve) -> str:
    """What a policy's gold score is from, in words that are equal where scores are on one scale."""
    source = gold_source(curve)
    if source != "world":
        return f"the gold model {source}"
    data = study.parent(curve.record, "data")
    world = (data.config.get("world") if data is not None else None) or {}
    return f"the world of {', '.join(f'{key} {world.get(key)}' for key in WORLD_KEYS)}"


def _befores(study: Study, items: Mapping[str, Items]) -> Befores:
    before_items = untuned_items(study, dict(items))

    def befores(policy: Record) -> list[tuple[str, Items]]:
        found = origins(study, policy)
        return [(name, before_items[r.stage_id]) for name, r in found if r.stage_id in before_items]

    return befores


# ---------------------------------------------------------------- two sides


def compared(one: Side, two: Side) -> list[dict[str, Any]]:
    """One row per kind of origin that both have; a single one without numbers where they cannot be compared."""
    chains = sorted(set(one.paths) & set(two.paths))
    both = [[side.paths[c] for c in (chains or sorted(side.paths))] for side in (one, two)]
    labels = {"model": one.model.name, "n_params": one.model.n_params, "study": one.study, "recipe": one.recipe}
    labels |= {"other_study": two.study, "other": two.recipe}
    row: dict[str, Any] = labels | {"before": "base", "reward": None, "paired_runs": bool(chains)}
    row |= dict.fromkeys(("tax", "other_tax", "difference", "note")) | {"verdict": REFUSED, "tasks": []}
    row |= {"n_seeds": len(both[0]), "other_n_seeds": len(both[1]), "refused": []}
    if one.gold != two.gold:
        return [row | {"refused": [f"gold scores on different scales: {one.gold}; {two.gold}"]}]
    same, refused = same_items(one, two, both[0][0].start, both[1][0].start)
    if not same:
        return [row | {"refused": refused or ["no task was taken by both"]}]
    row |= {"reward": common_reward([path for paths in both for path in paths]), "refused": refused}
    if row["reward"] is None:
        return [row | {"note": NO_REWARD}]
    names = [[name for name, _ in side.befores(of[0].record)] for side, of in zip((one, two), both, strict=True)]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        return [row | {"refused": [*refused, f"measured from {names[0]} and {names[1]}: no origin in common"]}]
    return [row | {"before": name} | _numbers(one, two, both, name, row["reward"], same) for name in common]


def same_items(one: Side, two: Side, first: Items, second: Items) -> tuple[set[Any], list[str]]:
    """The tasks whose documents and prompts are the same, and by name why others were refused."""
    same, refused = set(), []
    for key in sorted({*first, *second}):
        name = task_name(key)
        if key not in first or key not in second:
            refused.append(f"{name}: taken by {(one if key in first else two).name} alone")
            continue
        a, b = first[key], second[key]
        if len(a.document) != len(b.document) or (a.document != b.document).any():
            odd = len(set(a.document) ^ set(b.document))
            sizes = f"{len(a.document)} of {one.name}, {len(b.document)} of {two.name}"
            refused.append(f"{name}: items differ ({sizes}; {odd} of one alone)")
        elif differ := n_other_prompts(a, b):
            refused.append(f"{name}: prompts differ on {differ} of {len(a.document)} items")
        else:
            same.add(key)
    return same, refused


def _numbers(
    one: Side, two: Side, both: Sequence[Sequence[Path]], before: str, reward: float, same: set[Any]
) -> dict[str, Any]:
    """The taxes of either side from one kind of origin, and their difference."""
    usable = [_tasks(side, paths, before, reward, same) for side, paths in zip((one, two), both, strict=True)]
    shared = sorted(set(usable[0]) & set(usable[1]))
    if not shared:
        return {"verdict": REFUSED, "note": "no common task on which both were well above chance before RLHF"}
    terms = [mean_tax_term({name: tasks[name] for name in shared}) for tasks in usable]
    taxes = [measure([term], lambda same: same)[0] for term in terms]
    paired = bool(set(one.paths) & set(two.paths))
    found = measure([combine((1, terms[0]), (-1, terms[1]))], lambda t: t)[0] if paired else independent(*terms)
    low, high = (None, None) if found.estimate is None else found.estimate.interval()
    cheaper = {"supported": two.name, "contradicted": one.name}.get(by_sign(low, high), "inconclusive")
    prompts = [{name for path in paths for name in path.conversation} for paths in both]
    other = None if prompts[0] == prompts[1] else "gold rewards were measured on different prompts"
    return {
        "tax": taxes[0].to_dict(), "other_tax": taxes[1].to_dict(), "difference": found.to_difference(),
        "verdict": cheaper, "tasks": shared, "note": join_notes(found.note, other),
    }  # fmt: skip


def _tasks(side: Side, paths: Sequence[Path], before: str, reward: float, same: set[Any]) -> Tasks:
    """The tasks of the mean at that reward: the same for both sides, and well above chance before."""
    pairs = {key: of for key, of in pairs_at_reward(paths, before, side.befores, reward).items() if key in same}
    return poolable(pairs, [task_rows([of])[0] for of in pairs.values()])


def independent(one: Term | None, two: Term | None) -> Measured:
    """The difference one - two of terms on the same items and different runs.

    V = V_items + V_runs(one) + V_runs(two): items pair themselves, nothing is subtracted, and the t quantile is
    Cochran's over the parts. With one run a side's spread between runs is unknown and the note says so.
    """
    found = combine((1, one), (-1, two))
    if found is None or one is None or two is None:
        return Measured()
    n_items, notes = len(set(found.item)), []
    if n_items < 2:
        return Measured(Estimate(found.value, None, found.n), "one item cluster: no standard error")
    parts = [(clustered_variance(found.rows, codes(found.item)), n_items - 1)]
    for term in (one, two):
        run = codes(term.run)
        if int(run.max()) > 0:
            parts.append((clustered_variance(term.rows, run), int(run.max())))
        else:
            notes.append("one run on a side: the interval leaves out how runs of it differ")
    variances, df = zip(*parts, strict=True)
    estimate = Estimate(found.value, math.sqrt(sum(variances)), found.n, cochran_df(variances, df))
    return Measured(estimate, join_notes(*notes))
