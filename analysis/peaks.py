"""Where the laws d (alpha - beta d) and d (alpha - beta ln d) have their peak, with Fieller's interval.

Both peaks are monotone in rho = alpha / beta: d* = rho / 2 (best of n) and d* = exp(rho - 1) (RL), so the interval of
rho maps to one of d*. The height is R* = alpha d* / 2 and beta d*. A peak beyond what was trained is a legal answer,
and so is none: where beta may be 0 the curve need not turn at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.crossover import Line, exp_or_none, fieller_root
from analysis.estimates import t_quantile
from analysis.fit_result import FitResult
from analysis.frontier import Curve
from analysis.spread import covariance_of

PEAKED = ("bon", "rl")


def peak_rows(fits: Sequence[FitResult], curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """One row per size, score and law with a peak, of the fits over that size's runs."""
    rows = []
    for model in sorted({c.model for c in curves if c.finished}, key=lambda m: (m.n_params, m.name)):
        farthest = max(float(c.sqrt_kl().max()) for c in curves if c.model == model and c.finished)
        for fit in fits:
            if fit.law in PEAKED and fit.group == model.name and fit.x == ("sqrt_kl",):
                labels = {"model": model.name, "n_params": model.n_params, "score": fit.y, "law": fit.law}
                rows.append(labels | {"farthest_sqrt_kl": farthest} | peak(fit, farthest))
    return rows


def peak(fit: FitResult, farthest: float) -> dict[str, Any]:
    """sqrt(KL) and height at the peak, and whether it was passed.

    ``verdict``: in range (beta is above 0 and the peak nearer than the farthest point, both with 95 % confidence);
    beyond the range (if there is a peak it is farther: the interval or ray of the estimate lies wholly beyond the
    farthest point); no peak (beta is below 0: the curve bends upward); or not identified.
    """
    alpha, beta = (fit.params[name] for name in ("alpha", "beta"))
    covariance = covariance_of(fit)
    row: dict[str, Any] = {
        "alpha": vars(alpha), "beta": vars(beta), "n_runs": fit.n_clusters, "sqrt_kl_peak": None, "kind": "none",
        "reward_peak": None, "verdict": "not identified",
    }  # fmt: skip
    if alpha.value is None or beta.value is None or fit.status == "not_identified":
        return row
    if beta.high is not None and beta.high < 0:
        return row | {"verdict": "no peak"}
    if beta.value <= 0 or not covariance.size or not np.isfinite(covariance).all() or not fit.df:
        return row
    turned = covariance * np.array([[1.0, -1.0], [-1.0, 1.0]])
    root = fieller_root(Line(alpha.value, -beta.value, turned, 0.0, fit.df, 0.0, fit.n_points))
    value, low, high = (place_of(fit.law, rho) for rho in (root.value, root.low, root.high))
    row |= {
        "kind": root.kind,
        "sqrt_kl_peak": {"value": value, "se": None, "low": low, "high": high, "n": fit.n_points},
    }
    if root.kind == "interval" and value is not None and value > 0:
        row["reward_peak"] = height(fit, value)
    measured = beta.low is not None and beta.low > 0
    if measured and high is not None and high < farthest:
        row["verdict"] = "in range"
    elif root.kind != "none" and low is not None and low > farthest:
        row["verdict"] = "beyond the range"
    return row


def place_of(law: str, rho: float | None) -> float | None:
    """d* of alpha / beta; None where it is open, or larger than a number can be."""
    if rho is None:
        return None
    return rho / 2 if law == "bon" else exp_or_none(rho - 1)


def height(fit: FitResult, place: float) -> dict[str, Any]:
    """R(d*) with its interval. At the peak the law is flat in d, so that to first order only alpha and beta matter:
    the variance is that of the law's mean at the place found."""
    gradient = np.array([place, -(place**2) if fit.law == "bon" else -place * math.log(place)])
    values: Mapping[str, Any] = fit.params
    value = float(gradient @ [values[name].value for name in ("alpha", "beta")])
    se = math.sqrt(max(float(gradient @ covariance_of(fit) @ gradient), 0.0))
    half = se * t_quantile(0.975, fit.df)
    return {"value": value, "se": se, "low": value - half, "high": value + half, "n": fit.n_points}
