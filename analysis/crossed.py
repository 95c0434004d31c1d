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
from numpy.typing import ArrayLike, NDArray

from analysis.crossover import gls_line, shared_covariance
from analysis.estimates import Estimate, Influence, codes, crossed_estimates, influences
from analysis.frames import base_of

Floats = NDArray[np.float64]
Objects = NDArray[np.object_]
T = TypeVar("T")


@dataclass(frozen=True)
class Term:
    """A value with the influence of R rows on it, the item cluster and the run of each, and its distinct items."""

    value: float
    rows: Floats
    item: Objects
    run: Objects
    n: int

    def influence(self) -> Influence:
        return Influence(self.value, self.rows, codes(self.item), codes(self.run))

    def by_item(self) -> dict[Any, float]:
        """The influence of every item cluster, summed over rows."""
        group = codes(self.item)
        sums = np.bincount(group, weights=self.rows)
        names = np.empty(len(sums), dtype=object)
        names[group] = self.item
        return dict(zip(names, map(float, sums), strict=True))


@dataclass(frozen=True)
class Measured:
    """An estimate with a note; None: not measured."""

    estimate: Estimate | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any] | None:
        return None if self.estimate is None else self.estimate.to_dict()

    def to_difference(self) -> dict[str, Any] | None:
        """With the smallest difference that could have been found."""
        return None if self.estimate is None else self.estimate.to_difference()


def mean_term(
    values: ArrayLike, item: Objects, run: Objects, weights: ArrayLike | None = None, n: int | None = None
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


def size_slope(n_params: Sequence[int], terms: Sequence[Term | None]) -> Estimate | None:
    """The slope in ln(parameters) of one quantity measured at several sizes on the same items.

    From three sizes on by generalised least squares with the items' covariance and a variance between sizes; of two
    sizes by their difference, which needs two runs at each: nothing else tells size from training. None otherwise.
    """
    sizes = [(n, term) for n, term in zip(n_params, terms, strict=True) if term is not None]
    known = [term for _, term in sizes]
    found = measure(known, lambda term: term)
    if len({n for n, _ in sizes}) < 2 or any(m.estimate is None or m.estimate.se is None for m in found):
        return None
    x = np.log([float(n) for n, _ in sizes])
    variances = [m.estimate.normal_variance() for m in found if m.estimate is not None]
    covariance = shared_covariance([term.by_item() for term in known], variances)
    y = np.array([term.value for term in known])
    if len(sizes) > 2:
        return replace(gls_line(x, y, covariance).slope, n=len(sizes))
    if min(len(set(map(base_of, term.run))) for term in known) < 2:
        return None
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    width = float(x[1] - x[0])
    return Estimate(float(y[1] - y[0]) / width, math.sqrt(max(variance, 0.0)) / abs(width), 2)
