"""Point estimates with standard errors, in the form that summaries hold: ``{"value", "se", "n"}``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def ratio(numerator: ArrayLike, denominator: ArrayLike, clusters: ArrayLike | None = None) -> dict[str, Any]:
    """Estimate of sum(numerator) / sum(denominator), its standard error from the variation between clusters.

    The error is the linearised one, sqrt(G / (G - 1) * sum_g e_g^2) / sum(denominator) with e_g the sum over cluster g
    of numerator - ratio * denominator; every item is a cluster of its own where ``clusters`` is left out. ``n`` counts
    items. ``se`` is None with fewer than two clusters; ValueError without items.
    """
    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    if top.size == 0 or bottom.sum() == 0:
        raise ValueError("no items to estimate from")
    value = top.sum() / bottom.sum()
    residuals = top - value * bottom
    if clusters is not None:
        groups = np.unique(np.asarray(clusters), return_inverse=True)[1]
        residuals = np.bincount(groups, weights=residuals)
    n_clusters = residuals.size
    if n_clusters < 2:
        return {"value": float(value), "se": None, "n": int(top.size)}
    spread = np.sqrt(n_clusters / (n_clusters - 1) * np.sum(residuals**2)) / bottom.sum()
    return {"value": float(value), "se": float(spread), "n": int(top.size)}


def clustered_mean(values: ArrayLike, clusters: ArrayLike | None = None) -> dict[str, Any]:
    """Estimate of the mean, its standard error over ``clusters`` (each item its own cluster without); see ``ratio``."""
    array = np.asarray(values, dtype=float)
    return ratio(array, np.ones_like(array), clusters)
