"""Whether sigma(score difference) is the probability of being right: expected calibration error and the slope."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.estimates import Estimate, clustered_variance, codes
from analysis.held_out import sigmoid

Floats = NDArray[np.float64]
N_BINS = 10
N_DRAWS = 200


def calibration_error(difference: Floats, correct: Floats, cluster: Any) -> Estimate:
    """Expected calibration error over ten equal bins of the confidence in [1/2, 1].

    Its standard error is from 200 draws of Poisson weights on conversations (fixed seed). The error is biased
    upwards in small samples: a perfectly calibrated model has about sqrt(bins / (4 n)).
    """
    confidence = sigmoid(np.abs(difference))
    bins = np.minimum(((confidence - 0.5) * 2 * N_BINS).astype(int), N_BINS - 1)
    group = codes(cluster)
    sizes = np.bincount(group).astype(float)
    sums = np.bincount(group * N_BINS + bins, correct - confidence, len(sizes) * N_BINS)
    sums = sums.reshape(len(sizes), N_BINS)  # of (correct - confidence), by conversation and bin
    draws = poisson_draws(len(sizes))
    value = float(np.abs(sums.sum(axis=0)).sum() / len(correct))
    drawn = np.abs(draws @ sums).sum(axis=1) / np.maximum(draws @ sizes, 1.0)
    return Estimate(value, float(drawn.std(ddof=1)) if len(sizes) > 1 else None, len(correct))


@lru_cache(maxsize=64)
def poisson_draws(groups: int) -> Floats:
    """(N_DRAWS, groups) weights of a Poisson bootstrap, always the same."""
    return np.random.default_rng(0).poisson(1.0, size=(N_DRAWS, groups)).astype(float)


def slope_influences(difference: Floats) -> tuple[float, Floats] | None:
    """b that maximises sum(log sigma(b * difference)), and the influence of every row on it.

    b = 1 is calibrated, above 1 under-confident. None where the maximum is at infinity (every comparison right, or
    every one wrong) or was not reached.
    """
    scale = float(np.abs(difference).mean())
    if scale == 0 or (difference >= 0).all() or (difference <= 0).all():
        return None
    x, b = difference / scale, 0.0
    for _ in range(60):  # Newton on a concave function of one variable, damped by at most one unit a step
        q = sigmoid(-b * x)
        curvature = float((x**2 * q * (1 - q)).sum())
        if curvature <= 0:
            return None
        step = float((x * q).sum()) / curvature
        b += float(np.clip(step, -1.0, 1.0))
        if abs(step) < 1e-10 * max(1.0, abs(b)):
            return b / scale, x * q / curvature / scale
    return None


def calibration_slope(difference: Floats, cluster: Any) -> Estimate | None:
    """The slope (``slope_influences``) with its clustered standard error."""
    found = slope_influences(difference)
    if found is None:
        return None
    group = codes(cluster)
    groups = int(group.max()) + 1
    if groups < 2:
        return Estimate(found[0], None, len(difference))
    return Estimate(found[0], float(np.sqrt(clustered_variance(found[1], group))), len(difference), groups - 1)
