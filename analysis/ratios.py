"""The ratio of two estimates made on the same runs, with Fieller's interval: a tax as a share, a tax per reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from analysis.crossed import Term, combine, measure
from analysis.crossover import Line, fieller_root
from analysis.estimates import Estimate

T = TypeVar("T")


@dataclass(frozen=True)
class Ratio:
    """top / bottom. ``kind`` interval: [low, high]; ray: open where low or high is None; none: the bottom cannot be
    told from 0, and nothing can be said. ``n`` counts the rows of the top."""

    value: float | None
    low: float | None
    high: float | None
    kind: str
    n: int
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """An estimate without standard error, which Fieller's set does not have, and its ``kind``."""
        ends = {"low": self.low, "high": self.high}
        return {"value": self.value, "se": None, **ends, "n": self.n, "kind": self.kind}


def fieller_ratio(top: Estimate, bottom: Estimate, difference: Estimate, note: str | None = None) -> Ratio:
    """All r at which top - r bottom is not measurably different from 0 (95 %, Fieller 1954).

    The covariance comes from the variance of top - bottom: 2 cov = V(top) + V(bottom) - V(top - bottom). The degrees of
    freedom are the fewest of the three.
    """
    ses = [estimate.se for estimate in (top, bottom, difference)]
    if bottom.value == 0 or any(se is None for se in ses):
        return Ratio(None, None, None, "none", top.n, note)
    v_top, v_bottom, v_difference = (float(se or 0.0) ** 2 for se in ses)
    most = math.sqrt(v_top * v_bottom)
    covariance = min(max((v_top + v_bottom - v_difference) / 2, -most), most)
    known = [estimate.df for estimate in (top, bottom, difference) if estimate.df is not None]
    joint = np.array([[v_top, -covariance], [-covariance, v_bottom]])
    root = fieller_root(Line(top.value, -bottom.value, joint, 0.0, min(known, default=1e9), 0.0, top.n))
    return Ratio(root.value, root.low, root.high, root.kind, top.n, note)


def ratios(
    cells: Sequence[T], top_of: Callable[[T], Term | None], bottom_of: Callable[[T], Term | None]
) -> list[Ratio | None]:
    """The ratio for every cell (a size each), sizes with few runs borrowing the spread between runs; None where either
    was not measured."""
    tops, bottoms = measure(cells, top_of), measure(cells, bottom_of)
    differences = measure(cells, lambda cell: combine((1.0, top_of(cell)), (-1.0, bottom_of(cell))))
    found: list[Ratio | None] = []
    for top, bottom, difference in zip(tops, bottoms, differences, strict=True):
        if top.estimate is None or bottom.estimate is None or difference.estimate is None:
            found.append(None)
        else:
            found.append(fieller_ratio(top.estimate, bottom.estimate, difference.estimate, top.note))
    return found
