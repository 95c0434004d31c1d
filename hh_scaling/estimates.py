"""Point estimates with standard errors, in the form that summaries hold: ``{"value", "se", "n"}``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
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
    return {
        "value": float(value),
        "se": linearised_error((top - value * bottom) / bottom.sum(), clusters),
        "n": top.size,
    }


def clustered_mean(values: ArrayLike, clusters: ArrayLike | None = None) -> dict[str, Any]:
    """Estimate of the mean, its standard error over ``clusters`` (each item its own cluster without); see ``ratio``."""
    array = np.asarray(values, dtype=float)
    return ratio(array, np.ones_like(array), clusters)


def linearised_error(influence: ArrayLike, clusters: ArrayLike | None = None) -> float | None:
    """Standard error of an estimate from each item's influence on it: sqrt(G / (G - 1) * sum_g (sum over g)^2).

    None with fewer than two clusters.
    """
    sums = np.asarray(influence, dtype=float)
    if clusters is not None:
        sums = np.bincount(np.unique(np.asarray(clusters), return_inverse=True)[1], weights=sums)
    n = sums.size
    return float(np.sqrt(n / (n - 1) * np.sum(sums**2))) if n > 1 else None


def square_root(mean: dict[str, Any]) -> dict[str, Any]:
    """Estimate of sqrt(max(mean, 0)), its error se / (2 sqrt(mean)) by the delta method.

    At a mean of 0 or below the error is None, but 0 where the mean is 0 without error, as at the start of a run.
    """
    root = math.sqrt(max(mean["value"], 0.0))
    exact = mean["value"] == 0 and mean["se"] == 0
    se = mean["se"] / (2 * root) if root > 0 and mean["se"] is not None else 0.0 if exact else None
    return {"value": root, "se": se, "n": mean["n"]}


def length_controlled_change(
    score: ArrayLike, length: ArrayLike, first_score: ArrayLike, first_length: ArrayLike, clusters: ArrayLike | None
) -> dict[str, Any] | None:
    """Change of the mean score since the first evaluation, had responses kept their mean length of then.

    (mean s - b (mean l - mean l_0)) - mean s_0, with b the least-squares slope of score s on length l over the present
    responses (what goes with length, not what length causes); the k-th entries of all arrays are of one prompt. The
    error is the linearised one, slope included. None where no slope can be had: all responses are equally long, yet
    not as long as the first ones were.
    """
    s, x, s0, x0 = (np.asarray(values, dtype=float) for values in (score, length, first_score, first_length))
    longer, change, centred = x.mean() - x0.mean(), (s - s0).mean(), x - x.mean()
    spread = float((centred**2).sum())
    if spread == 0:
        return None if longer else clustered_mean(s - s0, clusters)
    slope = float((centred * (s - s.mean())).sum()) / spread
    residuals = s - s.mean() - slope * centred
    influence = (s - s0 - change - slope * (x - x0 - longer)) / len(s) - longer * centred * residuals / spread
    return {"value": float(change - slope * longer), "se": linearised_error(influence, clusters), "n": len(s)}


def distinct(texts: Sequence[Sequence[str]], n: int, clusters: Sequence[Any] | None = None) -> dict[str, Any] | None:
    """Distinct-n of several texts taken together (Li et al. 2016): different n-grams of words over all n-grams.

    Its error is the jackknife's over clusters of texts (each text its own without). It falls as there is more text,
    so that only evaluations on the same prompts are compared. None where no text has ``n`` words.
    """
    grams = [Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1)) for text in texts]
    by_cluster: dict[Any, Counter[Any]] = {}
    for name, counts in zip(range(len(texts)) if clusters is None else clusters, grams, strict=True):
        by_cluster.setdefault(name, Counter()).update(counts)
    clusters_with = Counter(gram for counts in by_cluster.values() for gram in counts)
    total = sum(counts.total() for counts in by_cluster.values())
    if total == 0:
        return None
    left_out: list[float] = [
        (len(clusters_with) - sum(clusters_with[gram] == 1 for gram in counts)) / (total - counts.total())
        for counts in by_cluster.values()
        if counts.total() < total
    ]
    g = len(left_out)
    se = float(np.sqrt((g - 1) / g * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))) if g > 1 else None
    return {"value": len(clusters_with) / total, "se": se, "n": len(texts)}
