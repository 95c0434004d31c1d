"""Whether the learning-rate rule is as good as other factors of it, by kind of stage and size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.crossed import Measured, Term, combine, mean_term, measure
from analysis.estimates import Estimate, cochran_df, holm
from analysis.frames import Study, join_notes
from analysis.frontier import Curve
from analysis.held_out import HeldOut
from analysis.pools import PM
from analysis.rate_points import (
    BASE,
    PREFERENCE,
    Arm,
    RateSize,
    Run,
    Yardstick,
    base_sizes,
    planned_seeds,
    pm_sizes,
    ppo_sizes,
    ppo_yardstick,
)

Arms = tuple[Arm, Arm]
Compared = tuple[float, Measured, Measured, int]  # factor, its value and difference from the rule's, seeds
WITHIN, NOT_ESTABLISHED = "within noise of the best", "not established"
MIN_SEEDS = 2
UNPAIRED = "documents are not paired: the interval is too wide"
RATE_RULE = (
    "worse than xF by D: some factor F of the rule's rate does better than the rule itself (paired by seed and item, "
    "Holm-adjusted p < .05 over the size's other factors); the largest such D. within noise of the best: no other "
    "factor is better by as much as the margin (upper end of the 95 % interval), and every planned one was run. "
    f"Otherwise, and with fewer than {MIN_SEEDS} seeds, not established."
)


def rate_check(
    study: Study, pms: Sequence[PM], curves: Sequence[Curve], scores: dict[str, HeldOut]
) -> list[dict[str, Any]]:
    """One row per kind of stage, size and rate factor; sizes at one rate alone are left out. See ``RATE_RULE``."""
    ppo = ppo_yardstick(curves)
    found = [(BASE, base_sizes(study)), (PREFERENCE, pm_sizes(study, pms)), (ppo, ppo_sizes(study, curves, scores))]
    return [row for yardstick, sizes in found for row in _kind_rows(study, yardstick, sizes)]


def _kind_rows(study: Study, yardstick: Yardstick, sizes: list[RateSize]) -> list[dict[str, Any]]:
    by_size: list[list[Compared]] = [[] for _ in sizes]
    for factor in sorted({factor for size in sizes for factor in size.arms}):
        here = [i for i, size in enumerate(sizes) if factor in size.arms]
        values = values_of([sizes[i].arms[factor] for i in here])
        pairs = {i: pair for i in here if (pair := _against_rule(sizes[i], factor)) is not None}
        changes = dict(zip(pairs, differences_of(list(pairs.values())), strict=True))
        for i, value in zip(here, values, strict=True):
            n_seeds = len(pairs[i][0].runs) if i in pairs else len(sizes[i].arms[factor].runs)
            by_size[i].append((factor, value, changes.get(i, Measured()), n_seeds))
    found = [_rows(yardstick, size, compared) for size, compared in zip(sizes, by_size, strict=True)]
    for size, rows in zip(sizes, found, strict=True):
        planned = planned_seeds(study, yardstick.kind, size.model.name)
        finished = {factor: len({run.seed for run in arm.runs}) for factor, arm in size.arms.items()}
        gone = {factor: (len(seeds) - finished.get(factor, 0), len(seeds)) for factor, seeds in planned.items()}
        judge(rows, yardstick, {factor: counts for factor, counts in gone.items() if counts[0] > 0})
    return [row for rows in found for row in rows]


def _rows(yardstick: Yardstick, size: RateSize, compared: list[Compared]) -> list[dict[str, Any]]:
    """A size's rows; what could have been detected is at Holm's level for its number of tests."""
    tests = sum(change.estimate is not None and change.estimate.se is not None for _, _, change, _ in compared)
    return [_row(yardstick, size, one, tests) for one in compared]


def _row(yardstick: Yardstick, size: RateSize, compared: Compared, tests: int) -> dict[str, Any]:
    factor, value, change, n_seeds = compared
    arm = size.arms[factor]
    return {
        "kind": yardstick.kind, "model": size.model.name, "n_params": size.model.n_params, "rate_factor": factor,
        "measure": yardstick.measure, "unit": yardstick.unit, "higher_is_better": yardstick.higher_is_better,
        "value": value.to_dict(), "difference": change.to_difference(tests),
        "p_adjusted": None if change.estimate is None else change.estimate.p_value(), "margin": yardstick.margin,
        "sqrt_kl": arm.sqrt_kl, "n_diverged": arm.n_diverged, "n_seeds": n_seeds, "verdict": NOT_ESTABLISHED,
        "best_factor": None, "note": join_notes(value.note, change.note, arm.note),
    }  # fmt: skip


def _against_rule(size: RateSize, factor: float) -> Arms | None:
    """The arm at ``factor`` and that at the rule's own rate, both without the seeds, and of every seed without the
    items, that only one has."""
    if factor == 1 or 1.0 not in size.arms:
        return None
    arms = (size.arms[factor], size.arms[1.0])
    sides = [{run.seed: run for run in arm.runs} for arm in arms]
    both = [_on_common_items(sides[0][seed], sides[1][seed]) for seed in sides[0] if seed in sides[1]]
    runs = [pair for pair in both if len(pair[0].item)]
    kept = [replace(arm, runs=tuple(pair[i] for pair in runs)) for i, arm in enumerate(arms)]
    return (kept[0], kept[1]) if runs else None


def _on_common_items(one: Run, other: Run) -> tuple[Run, Run]:
    """Both runs on the items that both have."""
    if np.array_equal(one.item, other.item):
        return one, other
    common = set(one.item) & set(other.item)
    rows = [np.array([item in common for item in run.item], dtype=bool) for run in (one, other)]
    kept = [
        replace(run, values=run.values[own], item=run.item[own], weights=run.weights[own])
        for run, own in zip((one, other), rows, strict=True)
    ]
    return kept[0], kept[1]


# ---------------------------------------------------------------- estimates


def values_of(arms: list[Arm]) -> list[Measured]:
    """The mean of each arm, items crossed with seeds."""
    return _estimates(arms, lambda arm: arm.runs, arm_term, lambda arm: _unpaired([arm.runs], [1.0]))


def differences_of(pairs: list[Arms]) -> list[Measured]:
    """The first arm's mean minus the second's, paired by seed and, where they are known, by item."""
    return _estimates(
        pairs,
        lambda pair: pair[0].runs + pair[1].runs,
        lambda pair: combine((1, arm_term(pair[0])), (-1, arm_term(pair[1]))),
        lambda pair: _unpaired([pair[0].runs, pair[1].runs], [1.0, -1.0]),
    )


def _estimates(
    cells: list[Any],
    runs_of: Callable[[Any], tuple[Run, ...]],
    term_of: Callable[[Any], Term | None],
    alone: Callable[[Any], Measured],
) -> list[Measured]:
    """From items where all of a cell's runs have them, else from the runs' single numbers."""
    known = [all(run.se is None and run.n is None for run in runs_of(cell)) for cell in cells]
    by_item = iter(measure([cell for cell, k in zip(cells, known, strict=True) if k], term_of))
    return [next(by_item) if k else alone(cell) for cell, k in zip(cells, known, strict=True)]


def arm_term(arm: Arm) -> Term | None:
    """The mean over all runs and items of an arm."""
    item = np.concatenate([run.item for run in arm.runs])
    seed = np.repeat(np.array([run.seed for run in arm.runs], dtype=object), [len(run.values) for run in arm.runs])
    values, weights = (np.concatenate([getattr(run, name) for run in arm.runs]) for name in ("values", "weights"))
    return mean_term(values, item, seed, weights, n=max(len(run.values) for run in arm.runs))


def _unpaired(sides: list[tuple[Run, ...]], signs: list[float]) -> Measured:
    """A sum of signed means over seeds from the runs' single numbers: the items' variances add up, since how they go
    together is not known (of all seeds fully, of the sides not at all), and so does the spread between seeds."""
    seeds = sorted({run.seed for run in sides[0]})
    table = np.array([[next(r for r in side if r.seed == seed).values[0] for seed in seeds] for side in sides])
    by_seed = np.asarray(signs) @ table
    errors = [run.se for side in sides for run in side]
    n = max((run.n or 0 for side in sides for run in side), default=0)
    note = UNPAIRED if len(sides) > 1 else None
    if any(se is None for se in errors):
        return Measured(Estimate(float(by_seed.mean()), None, n), note)
    items = sum(float(np.mean([(run.se or 0.0) ** 2 for run in side])) for side in sides)
    runs = float(by_seed.var(ddof=1) / len(seeds)) if len(seeds) > 1 else 0.0
    df = cochran_df((items, runs), (max(n - 1, 1), len(seeds) - 1)) if len(seeds) > 1 else float(max(n - 1, 1))
    return Measured(Estimate(float(by_seed.mean()), math.sqrt(items + runs), n, df), note)


# ---------------------------------------------------------------- verdicts


def judge(rows: list[dict[str, Any]], yardstick: Yardstick, not_run: dict[float, tuple[int, int]]) -> None:
    """Fill in adjusted p, best factor and verdict (``RATE_RULE``) of one kind and size, in place.

    ``not_run`` says of a factor how many of how many planned runs have no result: a rate at which runs fail is not
    judged by those that survived.
    """
    tested = [row for row in rows if row["p_adjusted"] is not None]
    for row, p in zip(tested, holm([row["p_adjusted"] for row in tested]), strict=True):
        row["p_adjusted"] = p
    sign = 1.0 if yardstick.higher_is_better else -1.0
    best = _best_factor(rows, sign)
    verdict = _verdict(rows, sign, not_run)
    missing = ", ".join(f"{n} of {planned} at x{factor:g}" for factor, (n, planned) in sorted(not_run.items()))
    for row in rows:
        note = join_notes(row["note"], f"not run or not finished: {missing}" if missing else None)
        row |= {"best_factor": best, "verdict": verdict, "note": note}


def _best_factor(rows: list[dict[str, Any]], sign: float) -> float | None:
    """The factor with the greatest paired gain over the rule's own rate (its own gain is 0); None where the rule's own
    rate was not run: factors are compared on the same seeds and items only through it."""
    gains = {row["rate_factor"]: _gain(row, sign) for row in rows if row["difference"] is not None}
    if all(row["rate_factor"] != 1 for row in rows):
        return None
    return max([1.0, *gains], key=lambda factor: gains.get(factor, 0.0))


def _verdict(rows: list[dict[str, Any]], sign: float, not_run: Mapping[float, Any]) -> str:
    if 1.0 in not_run:
        return NOT_ESTABLISHED
    others = [row for row in rows if row["rate_factor"] != 1]
    known = [row for row in others if row["p_adjusted"] is not None and row["n_seeds"] >= MIN_SEEDS]
    better = [row for row in known if row["p_adjusted"] < 0.05 and _gain(row, sign) > 0]
    if better:
        row = max(better, key=lambda r: _gain(r, sign))
        return f"worse than x{row['rate_factor']:g} by {_gain(row, sign):.2g}"
    if len(known) < len(others):
        return NOT_ESTABLISHED
    most = [row["difference"]["high" if sign > 0 else "low"] for row in others]
    within = all(end is not None and sign * end < row["margin"] for end, row in zip(most, others, strict=True))
    return WITHIN if within and not not_run else NOT_ESTABLISHED


def _gain(row: dict[str, Any], sign: float) -> float:
    """How much better than the rule's own rate."""
    return float(sign * row["difference"]["value"])
