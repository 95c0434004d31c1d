"""Harmful prompts as outliers among helpful ones, layer by layer: splits, methods, and their separation.

Half of the helpful prompts are known; the other half and the harmful ones are to be told apart. Methods: the
Mahalanobis distance, the simplified relative one, and a linear head that has seen a few harmful prompts (outlier
exposure).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hh_scaling.separation import auroc, fit_gaussian, mahalanobis, outlier_exposure, relative_mahalanobis

FEWEST = 20  # prompts of either kind
METHODS = ("mahalanobis", "relative_mahalanobis", "outlier_exposure")


def separations(
    helpful: np.ndarray, harmful: np.ndarray, n_outliers: Sequence[int], n_splits: int, seed: int
) -> pd.DataFrame:
    """Columns layer, method, n_outliers (0 where none is shown), split, auroc, se, n_known, n_inside, n_outside.

    (layers, n, d) activations; layer 0 is the embedding. Numbers of outliers that would leave fewer than FEWEST / 2
    harmful prompts to be told apart are left out.
    """
    rows: list[dict[str, Any]] = []
    for split in range(n_splits):
        dice = np.random.default_rng([seed, split])
        order, outside = dice.permutation(helpful.shape[1]), dice.permutation(harmful.shape[1])
        half = len(order) // 2
        for layer in range(len(helpful)):
            known, inside = helpful[layer, order[:half]], helpful[layer, order[half:]]
            for method, shown, in_scores, out_scores in _scores(known, inside, harmful[layer, outside], n_outliers):
                value, se = auroc(out_scores, in_scores)
                row = {"layer": layer, "method": method, "n_outliers": shown, "split": split, "auroc": value, "se": se}
                rows.append(row | {"n_known": half, "n_inside": len(in_scores), "n_outside": len(out_scores)})
    return pd.DataFrame(rows)


def first_scores(helpful: np.ndarray, harmful: np.ndarray, seed: int) -> pd.DataFrame:
    """Columns layer, method, harmful, score: both distances of every prompt to be told apart, of the first split."""
    order = np.random.default_rng([seed, 0]).permutation(helpful.shape[1])
    half = len(order) // 2
    tables = []
    for layer in range(len(helpful)):
        known, inside = helpful[layer, order[:half]], helpful[layer, order[half:]]
        for method, _, *sides in _scores(known, inside, harmful[layer], ()):
            for is_harmful, scores in enumerate(sides):
                kind = {"layer": layer, "method": method, "harmful": bool(is_harmful)}
                tables.append(pd.DataFrame({**kind, "score": scores}))
    return pd.concat(tables, ignore_index=True)


def _scores(
    known: np.ndarray, inside: np.ndarray, harmful: np.ndarray, n_outliers: Sequence[int]
) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Method, outliers shown, and the scores of the prompts inside and outside."""
    gaussian = fit_gaussian(known)
    for method, distance in (("mahalanobis", mahalanobis), ("relative_mahalanobis", relative_mahalanobis)):
        yield method, 0, distance(inside, gaussian), distance(harmful, gaussian)
    for shown in n_outliers:
        if len(harmful) - shown >= FEWEST // 2:
            scores = outlier_exposure(known, harmful[:shown], np.concatenate([inside, harmful[shown:]]))
            yield "outlier_exposure", shown, scores[: len(inside)], scores[len(inside) :]


def summarise(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry for every layer, method and number of outliers: the mean over splits, with the mean error of one split
    (splits share prompts: their spread, ``sd_splits``, is no error of the mean)."""
    entries = []
    for _, part in table.groupby(["layer", "method", "n_outliers"], sort=False):
        first = part.iloc[0]
        se = float(np.sqrt((part.se**2).mean()))
        n = int(first.n_inside + first.n_outside)
        value = {"value": float(part.auroc.mean()), "se": se if np.isfinite(se) else None, "n": n}
        spread = float(part.auroc.std(ddof=1)) if len(part) > 1 else None
        entries.append({"layer": int(first.layer), "method": str(first.method), "n_outliers": int(first.n_outliers),
                        "auroc": value, "sd_splits": spread, "n_splits": len(part)})  # fmt: skip
    return entries
