"""The spread between runs, averaged over sizes, and fits with their intervals from another covariance."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis.estimates import cochran_df, t_quantile
from analysis.fit_result import FitResult, Note, Param

Floats = NDArray[np.float64]


def pool_spread(fits: list[FitResult]) -> list[FitResult]:
    """The fits with the covariance of those made run by run replaced by the average over sizes of the spread between
    runs: a size's own two or three runs say little about it.

    Where a size's own variance of a parameter is larger it is kept, and what it has beyond the average is known with
    the size's own degrees of freedom alone (Cochran's rule): larger models may scatter more.
    """
    alike = [f for f in fits if f.ci_method == "per-run-t" and (f.n_clusters or 0) > 1]
    df = sum((f.n_clusters or 0) - 1 for f in alike)
    if len(alike) < 2:
        return fits
    counts = np.array([f.n_clusters or 0 for f in alike], dtype=float)
    spread = np.tensordot(counts * (counts - 1), np.array([covariance_of(f) for f in alike]), axes=1) / df
    note = Note(
        "pooled_spread", f"the spread between runs is averaged over {len(alike)} sizes ({df} degrees of freedom)"
    )
    return [
        with_covariance(f, *_raised(spread / (f.n_clusters or 1), df, f), "per-run-t, pooled spread", note)
        if any(f is other for other in alike)
        else f
        for f in fits
    ]


def _raised(pooled: Floats, df: int, own: FitResult) -> tuple[Floats, Floats]:
    """The pooled covariance with every variance raised to the fit's own where that is larger, and the degrees of
    freedom of each parameter; correlations stay the pooled ones."""
    variance, mine = np.diag(pooled), np.diag(covariance_of(own))
    raised = np.maximum(variance, mine)
    scale = np.sqrt(raised / np.maximum(variance, 1e-300))
    degrees = (float(df), float((own.n_clusters or 2) - 1))
    parts = zip(variance, np.maximum(mine - variance, 0.0), strict=True)
    return pooled * np.outer(scale, scale), np.array([cochran_df((float(p), float(q)), degrees) for p, q in parts])


def covariance_of(result: FitResult) -> Floats:
    return np.array([[math.nan if v is None else v for v in row] for row in result.covariance], dtype=float)


def with_covariance(result: FitResult, covariance: Floats, df: Floats, method: str, note: Note) -> FitResult:
    """The same estimates with symmetric t intervals from another covariance (p, p) and degrees of freedom (p,)."""
    params = {}
    for i, (name, p) in enumerate(result.params.items()):
        se = math.sqrt(covariance[i, i])
        half = se * t_quantile(0.975, float(df[i]))
        value = p.value
        params[name] = Param(
            value, se, None if value is None else value - half, None if value is None else value + half
        )
    plain = tuple(tuple(float(v) for v in row) for row in covariance)
    return replace(
        result, params=params, ci_method=method, covariance=plain, df=float(df.min()), notes=(*result.notes, note)
    )
