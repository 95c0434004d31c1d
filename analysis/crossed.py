"""Estimates on items crossed with runs, as terms that can be subtracted, divided and pooled before they are judged.

A term holds the influence of every row on its value, labelled by what was drawn together. Influences add up linearly,
and those of one item (or one run) are summed before squaring, so that a difference of two terms on the same items and
runs is paired by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.estimates import (
    Codes,
    Estimate,
    Influence,
    clustered_variance,
    cochran_df,
    codes,
    crossed_estimates,
    influences,
)
from analysis.frames import base_of

Floats = NDArray[np.float64]
Objects = NDArray[np.object_]
T = TypeVar("T")


@dataclass(frozen=True)
class Term:
    """A value with the influence of R rows on it, the item cluster and the run of each, and its distinct items."""

    value: float
    rows: Floats
    item: Objects | Codes
    run: Objects
    n: int

    def influence(self) -> Influence:
        return Influence(self.value, self.rows, codes(self.item), replicates(self.run))


def replicates(run: Objects) -> Codes:
    """(R,) what was drawn independently, as integers: the base model of each row's run, since runs on one base share
    its error; the run itself where all are on one base, so that what is measured is given that base."""
    run_codes, names = pd.factorize(run)
    bases = codes([base_of(str(name)) for name in names])
    return np.asarray(bases[run_codes] if len(bases) and bases.max() > 0 else run_codes)


@dataclass(frozen=True)
class Measured:
    """An estimate with a note; None: not measured."""

    estimate: Estimate | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any] | None:
        return None if self.estimate is None else self.estimate.to_dict()

    def to_proportion(self) -> dict[str, Any] | None:
        """With the interval kept within 0 to 1."""
        return None if self.estimate is None else self.estimate.to_proportion()

    def to_difference(self, tests: int = 1) -> dict[str, Any] | None:
        """With the smallest difference that could have been found as one of ``tests``."""
        return None if self.estimate is None else self.estimate.to_difference(tests)


def mean_term(
    values: ArrayLike,
    item: Objects | Codes,
    run: Objects,
    weights: ArrayLike | None = None,
    n: int | None = None,
) -> Term | None:
    """The (weighted) mean of ``values``; None without rows. ``n`` defaults to the number of rows."""
    if len(item) == 0:
        return None
    value, rows = influences(values, weights)
    return Term(value, rows, item, run, len(rows) if n is None else n)


def combine(*parts: tuple[float, Term | None]) -> Term | None:
    """The sum of factor * term; None where a term is. A difference is ``combine((1, a), (-1, b))``."""
    found = [(factor, term) for factor, term in parts if term is not None]
    if len(found) < len(parts):
        return None
    return Term(
        sum(factor * term.value for factor, term in found),
        np.concatenate([factor * term.rows for factor, term in found]),
        np.concatenate([term.item for _, term in found]),
        np.concatenate([term.run for _, term in found]),
        max(term.n for _, term in found),
    )


def ratio(top: Term | None, bottom: Term | None) -> Term | None:
    """top / bottom by the delta method: influence top' / b - t bottom' / b^2. None where the bottom is zero."""
    if top is None or bottom is None or bottom.value == 0:
        return None
    linear = combine((1 / bottom.value, top), (-top.value / bottom.value**2, bottom))
    return None if linear is None else replace(linear, value=top.value / bottom.value)


def measure(cells: Sequence[T], term_of: Callable[[T], Term | None]) -> list[Measured]:
    """The same quantity for every cell (a size each); sizes with few runs borrow the spread between runs."""
    terms = [term_of(cell) for cell in cells]
    found = iter(crossed_estimates([term.influence() for term in terms if term is not None]))
    return [Measured() if term is None else _measured(term, *next(found)) for term in terms]


def _measured(term: Term, estimate: Estimate, note: str | None) -> Measured:
    return Measured(replace(estimate, n=term.n), note)


def one(term: Term | None) -> Estimate | None:
    """The estimate of a single term."""
    return measure([term], lambda same: same)[0].estimate


# ---------------------------------------------------------------- over sizes


@dataclass(frozen=True)
class BasePoint:
    """One base model's own value of a quantity at ln(parameters) x, and its share of the size's runs."""

    x: float
    value: float
    share: float


def base_points(x: float, term: Term) -> list[BasePoint]:
    """A term's value base by base: theta plus the sum of the base's influences over its share of the rows.

    Exact for means (and differences and means of means) of runs that met the same items.
    """
    base = codes([base_of(run) for run in term.run])
    share = np.bincount(base) / len(base)
    values = term.value + np.bincount(base, weights=term.rows) / share
    return [BasePoint(x, float(v), float(w)) for v, w in zip(values, share, strict=True)]


def _crossed(value: float, whole: Term | None, by_base: float, df: int, n: int) -> Estimate | None:
    """An estimate on items crossed with bases from its variance between bases: V_items + V_bases - V_items:bases, and
    never below the larger of the first two, as that of a mean (``crossed_mean``)."""
    if whole is None or (n_items := len(set(whole.item))) < 2:
        return None
    item, base = codes(whole.item), codes([base_of(run) for run in whole.run])
    by_item = clustered_variance(whole.rows, item)
    both = clustered_variance(whole.rows, item * (int(base.max()) + 1) + base)
    variance = max(by_item + by_base - both, by_item, by_base)
    return Estimate(value, math.sqrt(variance), n, cochran_df((by_item, by_base), (n_items - 1, df)))


def size_mean(terms: Sequence[Term | None]) -> Estimate | None:
    """The mean over the base models of all sizes, with what sizes differ by in its variance; None below two bases."""
    known = [term for term in terms if term is not None]
    points = [base_points(0.0, term) for term in known]
    n_bases = sum(map(len, points))
    if n_bases < 2:
        return None
    values, weight = np.array([(p.value, p.share * len(size)) for size in points for p in size]).T
    mean = float(np.average(values, weights=weight))
    by_base = float((weight**2 * (values - mean) ** 2).sum()) / (n_bases * (n_bases - 1))
    whole = combine(*((len(size) / n_bases, term) for size, term in zip(points, known, strict=True)))
    return _crossed(mean, whole, by_base, n_bases - 1, len(known))


def size_slope(n_params: Sequence[int], terms: Sequence[Term | None]) -> Estimate | None:
    """The slope in ln(parameters) of one quantity measured at several sizes on the same items.

    Least squares over base models, every one a point: nothing else tells size from training. Items are crossed with
    bases, whose variance is the jackknife's (HC3), which does not need the bases of all sizes to scatter alike; with
    one base a size it is that of the residuals. t on bases less two. None below three bases, with one size alone, or
    where two sizes do not have two bases each.
    """
    known = [(math.log(n), term) for n, term in zip(n_params, terms, strict=True) if term is not None]
    points = [base_points(x, term) for x, term in known]
    sizes, n_bases = len({x for x, _ in known}), sum(map(len, points))
    if sizes < 2 or n_bases < 3 or (sizes == 2 and min(map(len, points)) < 2):
        return None
    slope, factors, by_base = _line_over_bases(points)
    whole = combine(*((factor, term) for factor, (_, term) in zip(factors, known, strict=True)))
    return _crossed(slope, whole, by_base, n_bases - 2, len(known))


def _line_over_bases(points: Sequence[Sequence[BasePoint]]) -> tuple[float, Floats, float]:
    """The slope, what it takes of every size's value (sizes,), and its variance between bases.

    A base weighs as its share of the size's runs times the size's bases: 1 where every base has as many runs.
    """
    every = [(p.x, p.value, p.share * len(size)) for size in points for p in size]
    x, y, weight = np.array(every).T
    centred = x - np.average(x, weights=weight)
    total = float((weight * centred**2).sum())
    factor = weight * centred / total
    slope = float(factor @ y)
    residual = y - np.average(y, weights=weight) - slope * centred
    size = np.repeat(np.arange(len(points)), [len(of) for of in points])
    per_size = np.asarray(np.bincount(size, weights=factor), dtype=float)
    if len(points) == len(every):
        return slope, per_size, float((residual**2).sum() / (len(every) - 2) * (factor**2).sum())
    leverage = weight / weight.sum() + weight * centred**2 / total
    left_out = np.where(leverage < 1 - 1e-9, residual / np.maximum(1 - leverage, 1e-9), 0.0)
    return slope, per_size, float((factor**2 * left_out**2).sum())
