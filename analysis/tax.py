"""The alignment tax: the paired loss of quality from before to after RLHF, positive where RLHF costs something.

Every row compares the same items before and at a checkpoint. Items are shared by all runs of a size, so items and
runs are crossed, and runs on one of several bases count as one; verdicts are taken on the chance-normalised scale
D / (1 - chance), or on the raw scale of scores that have no chance level (bits per byte).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from analysis.answers import answer_calibration
from analysis.crossed import Term, mean_term, replicates
from analysis.estimates import (
    Cell,
    Estimate,
    Influence,
    codes,
    crossed_estimate,
    crossed_estimates,
    crossed_means,
    holm,
    influence_of,
    influences,
    t_quantile,
)
from analysis.items import TASK_KEYS, Floats, Objects, Pair, Stack, normaliser, stack
from analysis.paired_tests import benjamini_hochberg, mcnemar
from analysis.ratios import ratios

MARGIN = 1.0  # chance-normalised percentage points
BITS_MARGIN = 0.01  # bits per byte
INFORMATIVE_SE = 2.0  # standard errors above chance before: a model at chance cannot pay
MEANS_SE = 4.0  # the same for means, trends and claims: a score that barely passed 2 was likely lucky and falls back


def task_rows(
    sizes: Sequence[Sequence[Pair]], margin: float = MARGIN, bits_margin: float = BITS_MARGIN
) -> list[dict[str, Any]]:
    """The tax on one task at several sizes, one row each, without adjusted p and verdict (``judge`` adds them, and the
    ``mde`` that the adjustment leaves).

    ``value``, ``se``, ``low``, ``high`` are in the metric's own unit; ``normalised`` is chance-normalised (None
    where unbounded); ``mde`` (80 % power), ``margin`` and the 90 % interval are on the scale the verdict is taken on.
    """
    stacks = [stack(pairs) for pairs in sizes]
    metric, bounded = stacks[0].key[3], all(one.bounded for one in stacks)
    raw = crossed_means([_cell(one, one.loss) for one in stacks])
    decided = crossed_means([_cell(one, one.loss * normaliser(one.chance, bounded)) for one in stacks])
    unit_margin = margin / 100 if bounded else bits_margin if metric.startswith("bits_") else None
    shares = ratios(stacks, lambda one: _term(one, one.loss), lambda one: _term(one, _excess(one)))
    rows = [
        _task_row(one, bounded, unit_margin, raw_one, decided_one[0])
        for one, raw_one, decided_one in zip(stacks, raw, decided, strict=True)
    ]
    for row, one, share in zip(rows, stacks, shares, strict=True):
        told = share is not None and row["enters_means"] and not unchanged(one)
        row["lost_share"] = share.to_dict() if told and share is not None else None
    return rows


def normalised_taxes(sizes: Sequence[Sequence[Pair]]) -> list[Estimate]:
    """The chance-normalised tax on one task at several sizes, with the rule of three where no item changed."""
    stacks = [stack(pairs) for pairs in sizes]
    found = crossed_means([_cell(one, one.loss * normaliser(one.chance, bounded=True)) for one in stacks])
    return [
        floored(estimate, rule_of_three(one, True)) if unchanged(one) else estimate
        for one, (estimate, _) in zip(stacks, found, strict=True)
    ]


def _cell(of: Stack, values: Floats) -> Cell:
    return Cell(values, of.item, of.replicate, of.weight)


def _term(of: Stack, values: Floats) -> Term | None:
    return mean_term(values, of.item, of.run, of.weight, n=of.n_items)


def _excess(of: Stack) -> Floats:
    """(n,) the score before RLHF above chance."""
    return np.asarray(of.before - np.nan_to_num(of.chance))


def _task_row(
    of: Stack, bounded: bool, margin: float | None, raw_and_note: tuple[Estimate, str | None], decided: Estimate
) -> dict[str, Any]:
    raw, note = raw_and_note
    n_items = of.n_items
    if unchanged(of):
        note = "every paired difference is equal: the interval is the rule of three over items"
        raw, decided = floored(raw, rule_of_three(of, False)), floored(decided, rule_of_three(of, bounded))
    decided = replace(decided, n=n_items)
    columns = (of.before, of.after, _excess(of))
    scores = (crossed_estimate(influence_of(_cell(of, column)))[0] for column in columns)
    before, after, excess = (replace(score, n=n_items) for score in scores)
    low90, high90 = decided.interval(0.90)
    return {
        **dict(zip(TASK_KEYS, of.key, strict=True)),
        **{k: v for k, v in raw.to_dict().items() if k != "n"},
        "unit": "fraction" if bounded else of.key[3], "normalised": decided.to_dict() if bounded else None,
        "before_score": before.to_dict(), "after_score": after.to_dict(),
        "chance": None if np.isnan(of.chance).all() else float(np.nanmean(of.chance)),
        "n_items": n_items, "n_clusters": int(of.item.max()) + 1, "n_seeds": int(of.which.max()) + 1,
        "p": decided.p_value(), "p_adjusted": None, "q_bh": None, "mcnemar": _mcnemar(of),
        "p_equivalence": equivalence_p(decided, margin), "low90": low90, "high90": high90,
        "mde": decided, "margin": margin, "informative": not bounded or above_chance(excess),
        "enters_means": bounded and above_chance(excess, MEANS_SE), "verdict": None, "note": note,
        "calibration": calibration_of(of),
    }  # fmt: skip


def calibration_of(of: Stack) -> dict[str, Any] | None:
    """The calibration error of the answers before and after, and its change; None for a task without choices."""
    if of.confidence is None:
        return None
    before, after = of.confidence
    return answer_calibration((before, of.before), (after, of.after), of.item, of.run)


def _mcnemar(of: Stack) -> dict[str, Any] | None:
    """McNemar's test of one run on items that are independent of each other; None where that is not what was measured:
    several runs answer the same items, items share a document or a subject, or an item is neither right nor wrong."""
    if len(set(of.run)) > 1 or len(set(of.cluster)) < len(of.cluster) or len(set(of.weight)) > 1:
        return None
    worse, better = (of.before, of.after) if of.higher_is_better else (of.after, of.before)
    return mcnemar(worse, better)


def equivalence_p(decided: Estimate, margin: float | None) -> float | None:
    """p of two one-sided tests (Schuirmann 1987): the larger of those of a tax of -margin or less and of +margin or
    more; below .05 exactly where the 90 % interval lies within the margin. None without margin or error."""
    if margin is None or decided.se is None:
        return None
    sides = [(margin - decided.value) / decided.se, (margin + decided.value) / decided.se] if decided.se > 0 else []
    if not sides:
        return 0.0 if abs(decided.value) < margin else 1.0
    least = min(sides)
    return float(special.ndtr(-least) if decided.df is None else special.stdtr(decided.df, -least))


def unchanged(of: Stack) -> bool:
    """Whether all paired differences are equal, so that their spread says nothing about the next one."""
    return bool((of.loss == of.loss[0]).all())


def rule_of_three(of: Stack, normalised: bool) -> float:
    """Half the 95 % interval of a mean of n equal differences: they bound the rate of others by 3 / n."""
    scale = np.average(normaliser(of.chance, True), weights=of.weight) if normalised else 1.0
    return float(3 / len(set(of.cluster)) * scale)


def floored(estimate: Estimate, half: float) -> Estimate:
    """The estimate with an interval at least ``half`` to either side."""
    return replace(estimate, se=max(estimate.se or 0.0, half / t_quantile(0.975, estimate.df)))


def above_chance(excess: Estimate, errors: float = INFORMATIVE_SE) -> bool:
    """Whether the score before exceeds chance by that many standard errors: a model at chance cannot pay."""
    return excess.se is not None and excess.value > errors * excess.se


def judge(rows: list[dict[str, Any]]) -> None:
    """Fill in ``p_adjusted`` (Holm), ``mde`` at Holm's level and ``verdict`` of one size's family, in place."""
    tested = [row for row in rows if row["p"] is not None]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_adjusted"] = adjusted
    for row in rows:
        row["mde"] = row["mde"].detectable(tests=len(tested))  # until here the estimate that it follows from
        row["verdict"] = verdict(row)


def judge_map(families: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Fill in ``q_bh``, p adjusted over the whole map of tasks and sizes (Benjamini and Hochberg), in place.

    Holm's adjusted p guards each size's verdicts; q says which cells of the map to look at.
    """
    tested = [row for family in families for row in family if row["p"] is not None]
    for row, adjusted in zip(tested, benjamini_hochberg([row["p"] for row in tested]), strict=True):
        row["q_bh"] = adjusted


def verdict(row: dict[str, Any]) -> str:
    """equivalent (90 % interval within the margin, TOST), else tax or bonus (adjusted p < .05), else inconclusive.

    The sign is that of the value which was tested: chance-normalised where there is one, since with chance levels that
    vary by item the raw one may have another.
    """
    margin, low, high = row["margin"], row["low90"], row["high90"]  # a metric of unknown scale has no margin
    if margin is not None and low is not None and -margin <= low and high <= margin:
        return "equivalent"
    if row["p_adjusted"] is not None and row["p_adjusted"] < 0.05:
        return "tax" if (row.get("normalised") or row)["value"] > 0 else "bonus"
    return "inconclusive"


# ---------------------------------------------------------------- the mean over tasks


@dataclass(frozen=True)
class Pooled:
    """The mean normalised tax over tasks at one size, with what is needed to combine sizes."""

    estimate: Estimate
    tasks: tuple[str, ...]
    note: str | None
    n_runs: int
    by_cluster: dict[str, float]  # influence of every item cluster, summed over runs


def pooled_taxes(sizes: Sequence[Mapping[str, Sequence[Pair]]]) -> list[Pooled]:
    """At every size the mean of its tasks' normalised taxes, equal weights (the estimand: this suite of tasks).

    Items are crossed with runs, and a run's tasks move together because they share its training. Every size must
    have at least one task; one on which nothing changed adds the variance of the rule of three.
    """
    suites = [_suite(by_task) for by_task in sizes]
    found = crossed_estimates([influence for influence, _ in suites])
    return [
        Pooled(_raised(estimate, by_task), tuple(sorted(by_task)), note, _n_runs(by_task), _sums(influence, cluster))
        for by_task, (influence, cluster), (estimate, note) in zip(sizes, suites, found, strict=True)
    ]


def _n_runs(by_task: Mapping[str, Sequence[Pair]]) -> int:
    return len({pair.run for pairs in by_task.values() for pair in pairs})


def _raised(estimate: Estimate, by_task: Mapping[str, Sequence[Pair]]) -> Estimate:
    """The mean over tasks with the rule of three's variance of every task on which all differences are equal."""
    stacks = [stack(pairs) for pairs in by_task.values()]
    halves = [rule_of_three(one, True) / len(stacks) / t_quantile(0.975, None) for one in stacks if unchanged(one)]
    return replace(estimate, se=math.hypot(estimate.se or 0.0, *halves)) if halves else estimate


def _suite(by_task: Mapping[str, Sequence[Pair]]) -> tuple[Influence, Objects]:
    """The mean over tasks with the influence of every item and run on it, and the rows' item clusters."""
    values, rows, clusters, runs = [], [], [], []
    for task in sorted(by_task):
        one = stack(by_task[task])
        value, influence = influences(one.loss * normaliser(one.chance, bounded=True), one.weight)
        values.append(value)
        rows.append(influence / len(by_task))
        clusters.append(one.cluster)
        runs.append(one.run)
    cluster = np.concatenate(clusters)
    of_runs = replicates(np.concatenate(runs))
    return Influence(float(np.mean(values)), np.concatenate(rows), codes(cluster), of_runs), cluster


def _sums(influence: Influence, cluster: Objects) -> dict[str, float]:
    sums = np.bincount(influence.item, weights=influence.rows)
    names = np.empty(len(sums), dtype=object)
    names[influence.item] = cluster
    return dict(zip(map(str, names), map(float, sums), strict=True))
