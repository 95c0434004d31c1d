"""Telling harmful requests from helpful ones by a model's activations (Bai et al. 2022, section 5.4 and appendix B.9).

Mathematics alone, in float64: distances to what is known, a linear head that has seen a few outliers, and ranks. Rows
(n, d) are activations, the known ones those of helpful prompts; a larger score means further from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

SHRINKAGE = 0.01  # of the covariance towards its mean variance: d directions are estimated from few more rows
LEAST_VARIANCE = 1e-12  # where all rows are the same, as the embeddings of a last token that all prompts share
RIDGE = 1.0  # penalty of the head's weights, on standardised activations
MAX_STEPS, TOLERANCE = 100, 1e-8


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and covariance (d, d) of the known rows."""

    mean: np.ndarray
    covariance: np.ndarray


def fit_gaussian(known: np.ndarray, shrinkage: float = SHRINKAGE) -> Gaussian:
    """Of (n, d) rows; the covariance is (1 - s) S + s (tr S / d) I. ValueError with fewer than two rows."""
    rows = np.asarray(known, dtype=float)
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} rows, needed: at least two for a covariance")
    sample = np.cov(rows, rowvar=False, bias=True).reshape(rows.shape[1], rows.shape[1])
    ridge = max(np.trace(sample) / len(sample), LEAST_VARIANCE)
    return Gaussian(rows.mean(0), (1 - shrinkage) * sample + shrinkage * ridge * np.eye(len(sample)))


def mahalanobis(rows: np.ndarray, known: Gaussian) -> np.ndarray:
    """(n,) (x - mu)^T Sigma^-1 (x - mu)."""
    centred = np.asarray(rows, dtype=float) - known.mean
    whitened = np.linalg.solve(np.linalg.cholesky(known.covariance), centred.T)
    result: np.ndarray = np.sum(whitened**2, axis=0)
    return result


def relative_mahalanobis(rows: np.ndarray, known: Gaussian) -> np.ndarray:
    """(n,) the simplified relative distance: ``mahalanobis`` less that of the diagonal of Sigma alone."""
    centred = np.asarray(rows, dtype=float) - known.mean
    result: np.ndarray = mahalanobis(rows, known) - np.sum(centred**2 / np.diag(known.covariance), axis=1)
    return result


# ---------------------------------------------------------------- a linear head with few outliers


def outlier_weights(n_known: int, n_outliers: int) -> np.ndarray:
    """(n_known + n_outliers,) weights: an outlier counts n_known // n_outliers times, at least once."""
    return np.repeat([1.0, max(1.0, float(n_known // n_outliers))], [n_known, n_outliers])


def fit_head(rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """(d + 1,) weights w and bias b that minimise sum_i weight_i ln(1 + exp(-s_i (x_i w + b))) + ridge / 2 |w|^2,
    s_i = 2 label_i - 1; by Newton's method with halved steps."""
    x = np.column_stack([np.asarray(rows, dtype=float), np.ones(len(rows))])
    penalty = np.append(np.full(x.shape[1] - 1, ridge), 0.0)
    theta = np.zeros(x.shape[1])

    def loss(at: np.ndarray) -> float:
        return float(weights @ np.logaddexp(0.0, -(2 * labels - 1) * (x @ at)) + penalty @ at**2 / 2)

    for _ in range(MAX_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ theta, -500, 500)))
        gradient = x.T @ (weights * (p - labels)) + penalty * theta
        if np.abs(gradient).max() < TOLERANCE * weights.sum():
            break
        curvature = (x.T * (weights * p * (1 - p))) @ x + np.diag(penalty + 1e-12)
        step, size = np.linalg.solve(curvature, gradient), 1.0
        while loss(theta - size * step) > loss(theta) and size > 1e-8:
            size /= 2
        theta = theta - size * step
    return theta


def outlier_exposure(known: np.ndarray, outliers: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n,) score of the rows by a head that tells known from outliers; activations are standardised by the known."""
    centre, spread = known.mean(0), known.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    train = (np.concatenate([known, outliers]) - centre) / spread
    labels = np.repeat([0.0, 1.0], [len(known), len(outliers)])
    head = fit_head(train, labels, outlier_weights(len(known), len(outliers)))
    result: np.ndarray = ((rows - centre) / spread) @ head[:-1] + head[-1]
    return result


# ---------------------------------------------------------------- how well scores separate


def auroc(outside: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """P(outside > inside) + P(equal) / 2 over all pairs, and its standard error (DeLong et al. 1988).

    The error is sqrt(var(V_out) / m + var(V_in) / n), V the share of the other group that a score beats; it is NaN with
    fewer than two of either. ValueError without any.
    """
    a, b = np.asarray(outside, dtype=float), np.asarray(inside, dtype=float)
    if not len(a) or not len(b):
        raise ValueError("no scores to compare")
    ranks = rankdata(np.concatenate([a, b]))
    beaten = (ranks[: len(a)] - rankdata(a)) / len(b)
    losing = 1 - (ranks[len(a) :] - rankdata(b)) / len(a)
    value = float(beaten.mean())
    if min(len(a), len(b)) < 2:
        return value, float("nan")
    return value, float(np.sqrt(beaten.var(ddof=1) / len(a) + losing.var(ddof=1) / len(b)))
