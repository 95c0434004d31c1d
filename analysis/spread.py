"""The spread between runs, averaged over sizes, and fits with their intervals from another covariance."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis.estimates import t_quantile
from analysis.fit_result import FitResult, Note, Param

Floats = NDArray[np.float64]


def pool_spread(fits: list[FitResult]) -> list[FitResult]:
    """The fits with the covariance of those made run by run replaced by the average over sizes of the spread between
    runs: a size's own two or three runs say little about it. Assumes that the spread does not depend on size."""
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
        with_covariance(
            f, spread / (f.n_clusters or 1), np.full(len(f.params), float(df)), "per-run-t, pooled spread", note
        )
        if any(f is other for other in alike)
        else f
        for f in fits
    ]


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
