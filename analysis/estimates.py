"""Means with standard errors that know what was drawn together: clusters, pairs, and items crossed with seeds.

Everything is built from influence values: a weighted mean is theta = sum(w x) / sum(w), and the influence of
row i is psi_i = w_i (x_i - theta) / sum(w). Rows of one cluster were drawn together, so their influences are
added before squaring: V = G / (G - 1) * sum_g (sum_{i in g} psi_i)^2, with t on G - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]


@dataclass(frozen=True)
class Estimate:
    """A measured number; ``se`` and ``df`` are None where its uncertainty cannot be said."""

    value: float
    se: float | None
    n: int  # rows it was measured on
    df: float | None = None  # of t; None with an se means the normal distribution

    def half_width(self, level: float = 0.95) -> float | None:
        """Half the width of the two-sided interval, or None."""
        if self.se is None:
            return None
        return self.se * t_quantile(0.5 + level / 2, self.df)

    def interval(self, level: float = 0.95) -> tuple[float | None, float | None]:
        """``(low, high)`` at ``level``, or ``(None, None)``."""
        half = self.half_width(level)
        return (None, None) if half is None else (self.value - half, self.value + half)

    def p_value(self, null: float = 0.0) -> float | None:
        """Two-sided p of ``value == null`` from the t statistic; None without a standard error."""
        if self.se is None:
            return None
        if self.se == 0:
            return 1.0 if self.value == null else 0.0
        statistic = abs(self.value - null) / self.se
        return float(2 * (special.ndtr(-statistic) if self.df is None else special.stdtr(self.df, -statistic)))

    def detectable(self, power: float = 0.80, tests: int = 1) -> float | None:
        """The smallest true value that a two-sided 5 % test finds with that power: se (t(1 - .025 / m) + t(power)).

        m = ``tests`` is the size of the family whose p values Holm adjusts: its first rejection needs p < .05 / m.
        """
        if self.se is None:
            return None
        return self.se * (t_quantile(1 - 0.025 / max(tests, 1), self.df) + t_quantile(power, self.df))

    def normal_variance(self) -> float:
        """The variance that makes a normal interval as wide as the estimate's own t interval; 0 where unknown."""
        return ((self.half_width() or 0.0) / t_quantile(0.975, None)) ** 2

    def scaled(self, factor: float) -> Estimate:
        """The estimate of ``factor`` times the quantity."""
        return Estimate(self.value * factor, None if self.se is None else self.se * abs(factor), self.n, self.df)

    def to_dict(self) -> dict[str, Any]:
        """``{"value", "se", "low", "high", "n"}`` with the 95 % interval; None where unknown."""
        low, high = self.interval()
        return {"value": self.value, "se": self.se, "low": low, "high": high, "n": self.n}

    def to_proportion(self) -> dict[str, Any]:
        """``to_dict`` of a number between 0 and 1: a t interval may reach beyond what such a number can be."""
        found = self.to_dict()
        ends = {key: None if found[key] is None else min(max(found[key], 0.0), 1.0) for key in ("low", "high")}
        return found | ends

    def to_difference(self, tests: int = 1) -> dict[str, Any]:
        """``to_dict`` with ``mde``, the smallest true difference found with 80 % power (``detectable``)."""
        return self.to_dict() | {"mde": self.detectable(tests=tests)}


def t_quantile(p: float, df: float | None) -> float:
    """The quantile of t with ``df`` degrees of freedom; of the normal distribution where ``df`` is None."""
    return float(special.ndtri(p) if df is None else special.stdtrit(df, p))


def codes(labels: ArrayLike) -> Codes:
    """Labels as integers 0 .. G - 1, in order of appearance (hashing is several times faster than sorting)."""
    array = np.asarray(labels)
    dense = array.dtype.kind == "i" and len(array) > 0 and array.min() == 0 and array.max() < len(array)
    if dense and np.bincount(array).all():  # already such integers
        return array
    return np.asarray(pd.factorize(array)[0])


def influences(values: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, Floats]:
    """The weighted mean, and each row's influence on it (they add up to zero)."""
    x = np.asarray(values, dtype=float)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=float)
    total = w.sum()
    value = float((w * x).sum() / total)
    return value, w * (x - value) / total


def means(values: Floats, clusters: ArrayLike, weights: Floats | None = None) -> list[Estimate]:
    """``mean`` of every row of ``values`` (k, n) on the same clusters (n,); weights (k, n)."""
    cluster, (k, n) = codes(clusters), values.shape
    w = np.ones_like(values) if weights is None else weights
    total = w.sum(axis=1, keepdims=True)
    value = (w * values).sum(axis=1, keepdims=True) / total
    influence = w * (values - value) / total
    groups = int(cluster.max()) + 1
    if groups < 2:
        return [Estimate(v, None, n) for v in value[:, 0].tolist()]
    place = (np.arange(k) * groups)[:, None] + cluster
    sums = np.bincount(place.ravel(), influence.ravel(), k * groups).reshape(k, groups)
    se = np.sqrt((sums**2).sum(axis=1) * groups / (groups - 1))
    return [Estimate(v, s, n, groups - 1) for v, s in zip(value[:, 0].tolist(), se.tolist(), strict=True)]


def clustered_variance(influence: Floats, cluster: Codes) -> float:
    """G / (G - 1) times the sum over clusters of the squared sum of influences; nan with one cluster."""
    sums = np.bincount(cluster, weights=influence)
    groups = len(sums)
    return float((sums**2).sum() * groups / (groups - 1)) if groups > 1 else math.nan


def mean(values: ArrayLike, clusters: ArrayLike | None = None, weights: ArrayLike | None = None) -> Estimate:
    """The (weighted) mean with its clustered standard error and t on G - 1; each row its own cluster by default.

    With weights this is the ratio estimator sum(w x) / sum(w), linearised.
    """
    value, influence = influences(values, weights)
    n = len(influence)
    cluster = np.arange(n) if clusters is None else codes(clusters)
    groups = int(cluster.max()) + 1
    if groups < 2:
        return Estimate(value, None, n)
    return Estimate(value, math.sqrt(clustered_variance(influence, cluster)), n, groups - 1)


def paired_difference(
    before: ArrayLike, after: ArrayLike, clusters: ArrayLike | None = None, weights: ArrayLike | None = None
) -> Estimate:
    """The mean of ``before - after`` over rows that are the same items in the same order."""
    return mean(np.asarray(before, dtype=float) - np.asarray(after, dtype=float), clusters, weights)


@dataclass(frozen=True)
class Cell:
    """One quantity measured on items crossed with runs: rows, the item cluster and the run of each, and weights."""

    values: ArrayLike
    items: ArrayLike
    runs: ArrayLike
    weights: ArrayLike | None = None


@dataclass(frozen=True)
class Influence:
    """A weighted mean and the influence of every row on it, with rows labelled by item cluster and run."""

    value: float
    rows: Floats
    item: Codes
    run: Codes

    @property
    def n_runs(self) -> int:
        return int(self.run.max()) + 1

    def by_run(self) -> float:
        """The clustered variance with runs as clusters; nan with one run."""
        return clustered_variance(self.rows, self.run)


@dataclass(frozen=True)
class RunSpread:
    """The variance of a single run's mean about all runs', averaged over sizes, and its degrees of freedom."""

    variance: float
    df: int


def influence_of(cell: Cell) -> Influence:
    """The cell's weighted mean with its influences."""
    value, rows = influences(cell.values, cell.weights)
    return Influence(value, rows, codes(cell.items), codes(cell.runs))


def crossed_mean(
    values: ArrayLike, items: ArrayLike, runs: ArrayLike, weights: ArrayLike | None = None
) -> tuple[Estimate, str | None]:
    """The mean over items crossed with runs (every run meets the same items), and a note or None.

    V = V_items + V_runs - V_items:runs (two-way clustering), never below the larger of the first two. With
    fewer than three runs nothing is subtracted, which is conservative, and the note says so; with one run the
    variance is that of the items alone. The t quantile is Cochran's weighted one (see ``cochran_df``): with two or
    three runs Satterthwaite's covers 88 to 90 % instead of 95 where runs differ more than items do.
    """
    return crossed_estimate(influence_of(Cell(values, items, runs, weights)))


def crossed_means(cells: Sequence[Cell]) -> list[tuple[Estimate, str | None]]:
    """``crossed_mean`` of the same quantity at several sizes.

    A size with fewer than three runs says little about the spread between runs: it takes the larger of its own and
    the average over all sizes. Of that, the average is known with the degrees of freedom of all sizes, and what its
    own has beyond it with its own alone: larger models may scatter more.
    """
    return crossed_estimates([influence_of(cell) for cell in cells])


def crossed_estimates(cells: Sequence[Influence]) -> list[tuple[Estimate, str | None]]:
    """``crossed_means`` from influences, for estimates that are not plain means."""
    several = [cell for cell in cells if cell.n_runs > 1]
    df = sum(cell.n_runs - 1 for cell in several)
    spread = None
    if len(cells) > 1 and df > 1:
        spread = RunSpread(sum(cell.by_run() * cell.n_runs * (cell.n_runs - 1) for cell in several) / df, df)
    return [crossed_estimate(cell, spread) for cell in cells]


def crossed_estimate(cell: Influence, spread: RunSpread | None = None) -> tuple[Estimate, str | None]:
    """One estimate, with the spread between runs borrowed from other sizes where it is given and needed."""
    n, n_items, n_runs = len(cell.rows), int(cell.item.max()) + 1, cell.n_runs
    if n_items < 2:
        return Estimate(cell.value, None, n), "one item cluster: no standard error"
    by_item = clustered_variance(cell.rows, cell.item)
    if n_runs < 2 and spread is None:
        note = "one run: the interval is over items alone, conditional on this run"
        return Estimate(cell.value, math.sqrt(by_item), n, n_items - 1), note
    by_run, few = cell.by_run() if n_runs > 1 else 0.0, None
    parts = [(by_run, n_runs - 1)]
    both = clustered_variance(cell.rows, cell.item * n_runs + cell.run) if n_runs >= 3 else 0.0
    if n_runs < 3:
        few = f"training variance is estimated from {n_runs} run{'s' if n_runs > 1 else ''}"
        if spread is not None:
            few += f" and the average over sizes ({spread.df} degrees of freedom)"
            pooled = spread.variance / n_runs
            parts = [(pooled, spread.df)] + ([(by_run - pooled, n_runs - 1)] if by_run > pooled else [])
            by_run = max(by_run, pooled)
    variance = max(by_item + by_run - both, by_item, by_run)
    variances, df = zip((by_item, n_items - 1), *parts, strict=True)
    return Estimate(cell.value, math.sqrt(variance), n, cochran_df(variances, df)), few


def cochran_df(variances: Sequence[float], df: Sequence[float]) -> float:
    """Degrees of freedom whose 97.5 % t quantile is sum(V_j t_j) / sum(V_j), t_j that of each part (Cochran 1964).

    It never trusts a variance from one degree of freedom because it happened to come out small.
    """
    total = sum(variances)
    if total <= 0:
        return float(min(df))
    wanted = sum(v * t_quantile(0.975, d) for v, d in zip(variances, df, strict=True)) / total
    low, high = float(min(df)), float(max(df))
    if t_quantile(0.975, low) <= wanted or low == high:
        return low
    if t_quantile(0.975, high) >= wanted:
        return high
    return float(optimize.brentq(lambda d: t_quantile(0.975, d) - wanted, low, high, xtol=1e-6))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the given order (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
