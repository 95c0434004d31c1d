"""Tests on paired items beside the t test: McNemar's, and adjusted p values over a map of tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def mcnemar(before: ArrayLike, after: ArrayLike) -> dict[str, Any] | None:
    """Items answered right before and wrong after (``lost``), the other way round (``gained``), and two-sided p values
    of lost and gained being equally likely: exact binomial, and mid-p (exact less half the observed term's, Fagerland
    et al. 2013). None where an item is neither right nor wrong. Items must be independent."""
    one, two = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if not (np.isin(one, (0.0, 1.0)).all() and np.isin(two, (0.0, 1.0)).all()):
        return None
    lost, gained = int((one > two).sum()), int((one < two).sum())
    n, least = lost + gained, min(lost, gained)
    exact = min(1.0, 2 * float(stats.binom.cdf(least, n, 0.5)))
    mid = 2 * (float(stats.binom.cdf(least, n, 0.5)) - 0.5 * float(stats.binom.pmf(least, n, 0.5)))
    return {"lost": lost, "gained": gained, "p_exact": exact, "p_mid": min(mid, 1.0) if n else 1.0}


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values that bound the expected share of false rejections (Benjamini and Hochberg 1995), in order."""
    p = np.asarray(p_values, dtype=float)
    if not len(p):
        return []
    order = np.argsort(p)[::-1]
    scaled = p[order] * len(p) / np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]
