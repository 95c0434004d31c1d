"""The alignment tax: the paired loss of quality from before to after RLHF, positive where RLHF costs something.

Every row compares the same items before and at a checkpoint. Items are shared by all runs of a size, so items and
runs are crossed; verdicts are taken on the chance-normalised scale D / (1 - chance), or on the raw scale of
scores that have no chance level (bits per byte).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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

Floats = NDArray[np.float64]
MARGIN = 1.0  # chance-normalised percentage points
BITS_MARGIN = 0.01  # bits per byte
MDE_FACTOR = 2.80  # z(.975) + z(.80): detected with 80 % power at the 5 % level
TASK_KEYS = ["task", "format", "k_shot", "metric"]
UNBOUNDED = ("bits_per_byte", "bits_per_word", "perplexity")


class MismatchedItems(ValueError):
    """Two models were not asked the same items; the message names the task and one differing document."""


@dataclass(frozen=True)
class Pair:
    """The items of one run before and after, joined on document; ``items`` has one row per document.

    Columns: task, format, k_shot, metric, cluster, weight, chance, higher_is_better, before, after.
    """

    run: Hashable  # the seed or chain
    items: pd.DataFrame


def join_items(before: pd.DataFrame, after: pd.DataFrame, where: str) -> tuple[pd.DataFrame, list[str]]:
    """The two models' items joined on (task, format, k_shot, metric, doc_hash), and why tasks were refused.

    A task whose documents differ between the two is refused as a whole; one that only one side has is named too.
    """
    kept, refused = [], []
    sides = [dict(list(_numbered(frame).groupby(TASK_KEYS, sort=True))) for frame in (before, after)]
    for key in sorted(sides[0].keys() | sides[1].keys(), key=str):
        name = f"{where}: {key[0]} ({key[1]}, {key[2]}-shot, {key[3]})"
        if key not in sides[0] or key not in sides[1]:
            refused.append(f"{name}: scored only {'after' if key not in sides[0] else 'before'}")
            continue
        first, second = sides[0][key], sides[1][key]
        differing = first.index.symmetric_difference(second.index)
        if len(differing):
            refused.append(
                f"{name}: item sets differ ({len(first)} before, {len(second)} after; "
                f"{len(differing)} unpaired, first doc_hash {differing[0][0]})"
            )
            continue
        joined = first.rename(columns={"score": "before"})
        joined["after"] = second.score.loc[first.index]
        kept.append(joined.reset_index())
    return (pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()), refused


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows indexed by document hash and, for repeated documents, the how-manieth of its kind it is."""
    frame = frame.sort_values([*TASK_KEYS, "doc_id"], kind="stable")
    repeat = frame.groupby([*TASK_KEYS, "doc_hash"]).cumcount()
    return frame.assign(repeat=repeat).set_index(["doc_hash", "repeat"])


def is_bounded(metric: str, frame: pd.DataFrame) -> bool:
    """Whether a score has a ceiling of 1, so that normalising by chance means something."""
    scores = frame[[name for name in ("score", "before", "after") if name in frame]].to_numpy(float)
    return metric not in UNBOUNDED and bool(((scores >= 0) & (scores <= 1)).all())


def normaliser(chance: Floats, bounded: bool) -> Floats:
    """1 / (1 - chance) per item; 1 where the score is unbounded. An unknown chance counts as 0."""
    return 1 / (1 - np.nan_to_num(chance)) if bounded else np.ones_like(chance)


def task_rows(
    sizes: list[list[Pair]], margin: float = MARGIN, bits_margin: float = BITS_MARGIN
) -> list[dict[str, Any]]:
    """The tax on one task at several sizes, one row each, without adjusted p and verdict (``judge`` adds them).

    ``value``, ``se``, ``low``, ``high`` are in the metric's own unit; ``normalised`` is chance-normalised (None
    where unbounded); ``mde``, ``margin`` and the 90 % interval are on the scale the verdict is taken on.
    """
    frames = [_stack(pairs) for pairs in sizes]
    metric = str(frames[0].metric.iloc[0])
    bounded = all(is_bounded(metric, frame) for frame in frames)
    scales = [normaliser(frame.chance.to_numpy(float), bounded) for frame in frames]
    raw = crossed_means([_cell(frame, losses(frame)) for frame in frames])
    decided = crossed_means([_cell(f, losses(f) * scale) for f, scale in zip(frames, scales, strict=True)])
    unit_margin = margin / 100 if bounded else bits_margin if metric.startswith("bits_") else None
    return [
        _task_row(frame, bounded, unit_margin, raw_one, decided_one[0])
        for frame, raw_one, decided_one in zip(frames, raw, decided, strict=True)
    ]


def _cell(frame: pd.DataFrame, values: Floats) -> Cell:
    return Cell(values, frame.cluster, frame.run, frame.weight)


def _task_row(
    frame: pd.DataFrame,
    bounded: bool,
    margin: float | None,
    raw_and_note: tuple[Estimate, str | None],
    decided: Estimate,
) -> dict[str, Any]:
    (raw, note), n_clusters = raw_and_note, frame.cluster.nunique()
    if (losses(frame) == raw.value).all():
        note = "every paired difference is equal: the interval is the rule of three over items"
        raw, decided = _rule_of_three(raw, n_clusters), _rule_of_three(decided, n_clusters)
    chance = frame.chance.to_numpy(float)
    columns = (frame.before.to_numpy(float), frame.after.to_numpy(float), frame.before - np.nan_to_num(chance))
    before, after, excess = (crossed_estimate(influence_of(_cell(frame, np.asarray(c))))[0] for c in columns)
    low90, high90 = decided.interval(0.90)
    return {
        **{name: _plain(frame[name].iloc[0]) for name in TASK_KEYS},
        **{k: v for k, v in raw.to_dict().items() if k != "n"},
        "unit": "fraction" if bounded else str(frame.metric.iloc[0]),
        "normalised": decided.to_dict() if bounded else None, "before_score": before.to_dict(),
        "after_score": after.to_dict(), "chance": None if np.isnan(chance).all() else float(np.nanmean(chance)),
        "n_items": int(frame.groupby("run").size().max()), "n_clusters": n_clusters, "n_seeds": frame.run.nunique(),
        "p": decided.p_value(), "p_adjusted": None, "low90": low90, "high90": high90,
        "mde": None if decided.se is None else MDE_FACTOR * decided.se, "margin": margin,
        "informative": above_chance(excess, bounded), "verdict": None, "note": note,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _stack(pairs: Iterable[Pair]) -> pd.DataFrame:
    return pd.concat([pair.items.assign(run=str(pair.run)) for pair in pairs], ignore_index=True)


def losses(frame: pd.DataFrame) -> Floats:
    """Quality lost per item: before - after where higher is better, after - before where lower is."""
    sign = np.where(frame.higher_is_better.to_numpy(bool), 1.0, -1.0)
    return np.asarray(sign * (frame.before - frame.after).to_numpy(float))


def _rule_of_three(estimate: Estimate, n_clusters: int) -> Estimate:
    """An se such that the 95 % interval is +- 3 / n: n equal differences bound the rate of others by that."""
    return Estimate(estimate.value, 3 / n_clusters / t_quantile(0.975, estimate.df), estimate.n, estimate.df)


def above_chance(excess: Estimate, bounded: bool) -> bool:
    """Whether the score before exceeds chance by two standard errors: a model at chance cannot pay."""
    if not bounded:
        return True
    return excess.se is not None and excess.value > 2 * excess.se


def judge(rows: list[dict[str, Any]]) -> None:
    """Fill in ``p_adjusted`` (Holm) and ``verdict`` of one size's family of tests, in place."""
    tested = [row for row in rows if row["p"] is not None]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_adjusted"] = adjusted
    for row in rows:
        row["verdict"] = verdict(row)


def verdict(row: dict[str, Any]) -> str:
    """equivalent (90 % interval within the margin, TOST), else tax or bonus (adjusted p < .05), else inconclusive."""
    margin, low, high = row["margin"], row["low90"], row["high90"]  # a metric of unknown scale has no margin
    if margin is not None and low is not None and -margin <= low and high <= margin:
        return "equivalent"
    if row["p_adjusted"] is not None and row["p_adjusted"] < 0.05:
        return "tax" if row["value"] > 0 else "bonus"
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


def pooled_taxes(sizes: list[dict[str, list[Pair]]]) -> list[Pooled]:
    """At every size the mean of its tasks' normalised taxes, equal weights (the estimand: this suite of tasks).

    Items are crossed with runs, and a run's tasks move together because they share its training. Every size must
    have at least one task.
    """
    stacked = [_suite(by_task) for by_task in sizes]
    cells = [
        Influence(value, rows.influence.to_numpy(float), codes(rows.cluster), codes(rows.run))
        for value, rows in stacked
    ]
    return [
        Pooled(estimate, tuple(sorted(by_task)), note, rows.run.nunique(), _cluster_sums(rows))
        for by_task, (_, rows), (estimate, note) in zip(sizes, stacked, crossed_estimates(cells), strict=True)
    ]


def _suite(by_task: dict[str, list[Pair]]) -> tuple[float, pd.DataFrame]:
    """The mean over tasks and the influence of every item and run on it."""
    values, parts = [], []
    for task in sorted(by_task):
        frame = _stack(by_task[task])
        loss = losses(frame) * normaliser(frame.chance.to_numpy(float), bounded=True)
        value, influence = influences(loss, frame.weight)
        values.append(value)
        parts.append(pd.DataFrame({"cluster": frame.cluster, "run": frame.run, "influence": influence / len(by_task)}))
    return float(np.mean(values)), pd.concat(parts, ignore_index=True)


def _cluster_sums(rows: pd.DataFrame) -> dict[str, float]:
    sums = rows.groupby("cluster").influence.sum()
    return dict(zip(map(str, sums.index), sums.to_numpy(float), strict=True))
