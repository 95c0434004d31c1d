"""The tax and the gold reward together: at equal reward, per unit of reward, and recipes beside each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from analysis.bias import METRIC as BIAS
from analysis.crossed import Term, combine, mean_term, measure
from analysis.frames import Model, Study, base_note, join_notes
from analysis.items import K_SHOT, Pair, TaskKey, normaliser, pair_items, stack
from analysis.judging import by_sign
from analysis.ratios import ratios
from analysis.reward_paths import Items, Path, Rise, common_reward
from analysis.tax import task_rows
from analysis.tax_groups import Group, Key
from analysis.tax_pooled import Tasks, poolable
from hh_scaling.records import Record

Befores = Callable[[Record], list[tuple[str, Items]]]  # of a policy: "base" or "reference", and its items
Sizes = Sequence[tuple[dict[str, Any], Group, Tasks]]  # labels, runs, and the tasks of the mean at each size
NO_REWARD = "the gold score did not rise measurably above 0 in every run, so there is no reward at which to compare"


# ---------------------------------------------------------------- at a matched reward


def add_rewards(study: Study, groups: dict[Key, Group], paths: Sequence[Path], befores: Befores) -> None:
    """Add to ``groups`` the tax at the largest gold reward that all runs of a recipe reached, over all sizes, and to
    those that are there the rise of the gold score at each of their runs."""
    by_recipe: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_recipe[path.recipe].append(path)
        for place in path.places:
            for before in ("base", "reference"):
                if (group := groups.get((path.recipe, path.model.name, before, place.at))) is not None:
                    group.rises[path.chain] = (place.rise, path.conversation)
    for recipe, members in by_recipe.items():
        reward = common_reward(members)
        if reward is None:
            study.exclude(f"tax at equal gold reward ({recipe})", NO_REWARD)
            continue
        for path in members:
            _add_path(study, groups, path, reward, befores)


def _add_path(study: Study, groups: dict[Key, Group], path: Path, reward: float, befores: Befores) -> None:
    place = path.at_reward(reward)
    for before, before_items in befores(path.record):
        if place is None:
            continue
        group = groups.setdefault((path.recipe, path.model.name, before, place.at), Group(path.model))
        group.at_sqrt_kl[path.chain] = place.sqrt_kl
        group.rises[path.chain] = (place.rise, path.conversation)
        for key, pair in _pairs(path, before_items, place.items).items():
            group.pairs[key].append(pair)


def _pairs(path: Path, before: Items, after: Items) -> dict[TaskKey, Pair]:
    """The tasks of a path that its origin took too; what is refused has been said of the checkpoints themselves."""
    asked = {key: before[key] for key in after if key in before and key[3] != BIAS}  # a bias is no quality
    return pair_items(asked, after, path.chain, "")[0]


# ---------------------------------------------------------------- per unit of reward


def mean_tax_term(tasks: Tasks, runs: Sequence[str] | None = None) -> Term | None:
    """The equal-weight mean over tasks of the normalised tax, of those runs; None without tasks."""
    parts = []
    for name in sorted(tasks):
        of = stack([pair for pair in tasks[name] if runs is None or pair.run in runs])
        values = of.loss * normaliser(of.chance, bounded=True)
        parts.append((1 / len(tasks), mean_term(values, of.cluster, of.run, of.weight)))
    return combine(*parts) if parts else None


def rise_term(rises: dict[str, Rise]) -> Term | None:
    """The mean rise of a score over prompts and runs, prompts labelled apart from the items of benchmarks."""
    if not rises:
        return None
    values = np.concatenate([rise for rise, _ in rises.values()])
    prompt = np.concatenate([[f"prompt {name}" for name in names] for _, names in rises.values()]).astype(object)
    run = np.repeat(np.array(list(rises), dtype=object), [len(rise) for rise, _ in rises.values()])
    return mean_term(values, prompt, run, n=max(len(rise) for rise, _ in rises.values()))


def per_reward_rows(sizes: Sizes) -> list[dict[str, Any]]:
    """The mean tax at every size divided by the rise of the gold score at the same checkpoints (Fieller's interval).

    Items and prompts are independent, and both are crossed with the same runs. Sizes without a gold score have no row.
    """
    cells = []
    for labels, group, tasks in sizes:
        runs = sorted({pair.run for pairs in tasks.values() for pair in pairs} & set(group.rises))
        if runs and all(any(pair.run in runs for pair in pairs) for pairs in tasks.values()):
            cells.append(
                (labels, mean_tax_term(tasks, runs), rise_term({r: group.rises[r] for r in runs}), tasks, runs)
            )
    taxes, rises = measure(cells, lambda cell: cell[1]), measure(cells, lambda cell: cell[2])
    found = ratios(cells, lambda cell: cell[1], lambda cell: cell[2])
    return [
        cell[0] | {
            "tax": tax.to_dict(), "reward": rise.to_dict(), "per_reward": None if ratio is None else ratio.to_dict(),
            "tasks": sorted(cell[3]), "n_seeds": len(cell[4]), "note": tax.note,
        }
        for cell, tax, rise, ratio in zip(cells, taxes, rises, found, strict=True)
    ]  # fmt: skip


# ---------------------------------------------------------------- recipes beside each other


def equal_reward_rows(paths: Sequence[Path], befores: Befores) -> list[dict[str, Any]]:
    """Every size's recipes against its first at equal gold reward: the mean tax of each where all their runs on common
    chains had risen by the same, and the difference, paired on items and runs."""
    by_size: dict[Model, dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    for path in paths:
        by_size[path.model][path.recipe][path.chain] = path
    rows = []
    for model in sorted(by_size, key=lambda m: (m.n_params, m.name)):
        recipes = by_size[model]
        plain, *others = sorted(recipes, key=lambda name: (-len(recipes[name]), len(name), name))
        for other in others:
            chains = sorted(set(recipes[plain]) & set(recipes[other]))
            both = [[recipes[name][chain] for chain in chains] for name in (plain, other)]
            shots = sorted({key[K_SHOT] for path in recipes[plain].values() for key in path.start})
            rows += _compared(model, (plain, other), both, befores, shots)
    return rows


def _compared(
    model: Model, names: tuple[str, str], both: Sequence[Sequence[Path]], befores: Befores, shots: Sequence[int]
) -> list[dict[str, Any]]:
    """One row per kind of origin and number of shots; without numbers where the runs reached no common reward."""
    labels = {"model": model.name, "n_params": model.n_params, "recipe": names[0], "other": names[1]}
    reward = common_reward([path for paths in both for path in paths])
    empty: dict[str, Any] = {"reward": reward, "tasks": [], "n_seeds": len(both[0])}
    empty |= dict.fromkeys(("tax", "other_tax", "difference", "note")) | {"verdict": "inconclusive"}
    if reward is None:
        note = NO_REWARD if both[0] else "no chain has both recipes"
        return [labels | {"before": "base", "k_shot": k_shot} | empty | {"note": note} for k_shot in shots]
    shared = base_note({path.chain for path in both[0]})
    rows = []
    for before in dict.fromkeys(name for name, _ in befores(both[0][0].record)):
        sides = [pairs_at_reward(paths, before, befores, reward) for paths in both]
        for k_shot in shots:
            one, two = ({key: pairs for key, pairs in side.items() if key[K_SHOT] == k_shot} for side in sides)
            found = _side_by_side(one, two, names)
            place = {"before": before, "k_shot": k_shot}
            rows.append(labels | place | empty | found | {"note": join_notes(found["note"], shared)})
    return rows


def _side_by_side(
    one: dict[TaskKey, list[Pair]], two: dict[TaskKey, list[Pair]], names: tuple[str, str]
) -> dict[str, Any]:
    """The mean tax of either recipe over the tasks that both took, their difference, and whose is less."""
    tasks = poolable(one, [task_rows([pairs])[0] for pairs in one.values()])
    shared = {name: pairs for name, pairs in tasks.items() if pairs[0].key in two}
    terms = (mean_tax_term(shared), mean_tax_term({name: two[pairs[0].key] for name, pairs in shared.items()}))
    found = [measure([term], lambda same: same)[0] for term in (*terms, combine((1, terms[0]), (-1, terms[1])))]
    known = {"tax": found[0].to_dict(), "other_tax": found[1].to_dict(), "difference": found[2].to_difference()}
    low, high = (None, None) if found[2].estimate is None else found[2].estimate.interval()
    cheaper = {"supported": names[1], "contradicted": names[0]}.get(by_sign(low, high), "inconclusive")
    note = found[2].note if shared else "no common task"
    return known | {"tasks": sorted(shared), "verdict": cheaper, "note": note}


def pairs_at_reward(paths: Sequence[Path], before: str, befores: Befores, reward: float) -> dict[TaskKey, list[Pair]]:
    """The paired items of all paths where their gold score had risen by ``reward``, by task."""
    found: dict[TaskKey, list[Pair]] = defaultdict(list)
    for path in paths:
        place, origins = path.at_reward(reward), dict(befores(path.record))
        if place is not None and before in origins:
            for key, pair in _pairs(path, origins[before], place.items).items():
                found[key].append(pair)
    return {key: pairs for key, pairs in found.items() if len(pairs) == len(paths)}
