"""Several estimates of one thing (a tax on several tasks) put together: fixed effect, and random effects.

y_j is the estimate of study j with variance v_j. Fixed: weights 1 / v_j, exact for one common effect. Random: the true
effects scatter with variance tau2, weights 1 / (v_j + tau2), tau2 after Paule and Mandel (1982), the error after
Hartung and Knapp (2001) with t on k - 1. The estimates must be independent of each other given what they share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from analysis.estimates import Estimate, t_quantile

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Meta:
    """k estimates combined. ``prediction`` is the 95 % interval of the true effect on one more such task (t on k - 2,
    Higgins et al. 2009), None below three; ``i2`` the share of the scatter that is not the estimates' own error."""

    fixed: Estimate
    random: Estimate
    tau2: float
    q: float
    i2: float
    prediction: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        low, high = self.prediction or (None, None)
        scatter = {"tau2": self.tau2, "q": self.q, "i2": self.i2, "prediction_low": low, "prediction_high": high}
        return {"fixed_effect": self.fixed.to_dict(), "random_effect": self.random.to_dict()} | scatter


def combine_effects(y: ArrayLike, v: ArrayLike) -> Meta | None:
    """Estimates y (k,) with variances v (k,); None below two, or where a variance is not a positive number.

    The Hartung-Knapp factor q = Q / (k - 1) is never taken below 1: where the estimates happen to agree better than
    their errors let expect, the interval would be too short (Roever et al. 2015).
    """
    values, variances = np.asarray(y, dtype=float), np.asarray(v, dtype=float)
    k = len(values)
    if k < 2 or not (np.isfinite(variances) & (variances > 0)).all():
        return None
    centre, weights, q0 = _weighted(values, variances, 0.0)
    fixed = Estimate(centre, math.sqrt(1 / weights.sum()), k)
    tau2 = paule_mandel(values, variances)
    mean, weights, q = _weighted(values, variances, tau2)
    random = Estimate(mean, math.sqrt(max(q / (k - 1), 1.0) / weights.sum()), k, k - 1)
    half = None
    if k > 2 and random.se is not None:
        half = t_quantile(0.975, k - 2) * math.sqrt(tau2 + random.se**2)
    prediction = None if half is None else (mean - half, mean + half)
    return Meta(fixed, random, tau2, q0, max(0.0, 1 - (k - 1) / q0) if q0 > 0 else 0.0, prediction)


def paule_mandel(y: Floats, v: Floats) -> float:
    """The variance between true effects at which Q equals its expectation k - 1; 0 where Q is below it already."""
    df = len(y) - 1
    if _weighted(y, v, 0.0)[2] <= df:
        return 0.0
    high = float(np.ptp(y) ** 2) + float(v.max())
    while _weighted(y, v, high)[2] > df:
        high *= 4
    return float(optimize.brentq(lambda tau2: _weighted(y, v, tau2)[2] - df, 0.0, high, xtol=1e-14))


def _weighted(y: Floats, v: Floats, tau2: float) -> tuple[float, Floats, float]:
    """The mean with weights w = 1 / (v + tau2), the weights, and Q = sum w (y - mean)^2."""
    w = 1 / (v + tau2)
    mean = float((w * y).sum() / w.sum())
    return mean, w, float((w * (y - mean) ** 2).sum())
