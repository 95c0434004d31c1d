"""The laws fitted to a study's PMs: accuracy against size and against the number of comparisons."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimates import cochran_df, codes, t_quantile
from analysis.fit_result import FitResult, Note, Param
from analysis.fits import fit
from analysis.frames import Study
from analysis.pm import HeldOut, chain_of

Floats = NDArray[np.float64]
PM_X = ("n_params", "n_comparisons")


def pm_fits(study: Study, scores: dict[str, HeldOut], rows: list[dict[str, Any]]) -> list[FitResult]:
    """Accuracy as a log-linear law of size and data together, of data at each size, and of size at the most data.

    Points are runs, clustered by chain (base model and seed); the variance of the shared held-out comparisons is added.
    """
    points = pd.DataFrame([row | {"y": row["accuracy"]["value"]} for row in rows if row["tranche"] == "all"])
    if points.empty:
        return []
    points["chain"] = [chain_of(study, study.records[s]) for s in points.stage_id]
    sets: list[tuple[str, pd.DataFrame, tuple[str, ...]]] = [("pm all", points, PM_X)]
    for _, part in points.groupby("n_params", sort=True):
        sets.append((f"pm {part.model.iloc[0]}", part, ("n_comparisons",)))
    everywhere = points.groupby("n_comparisons").n_params.nunique() == points.n_params.nunique()
    if everywhere.any():
        most = int(everywhere.index[everywhere].max())
        sets.append((f"pm n={most}", points[points.n_comparisons == most], ("n_params",)))
    fits = [
        fit(
            "log-linear",
            part[list(x)].to_numpy(float),
            part.y,
            cluster=part.chain,
            group=group,
            x_names=x,
            y_name="accuracy",
        )
        for group, part, x in sets
    ]
    fits = pool_spread(fits)
    return [
        with_item_variance(result, part[list(x)].to_numpy(float), [scores[s] for s in part.stage_id])
        for result, (_, part, x) in zip(fits, sets, strict=True)
    ]


def pool_spread(fits: list[FitResult]) -> list[FitResult]:
    """The fits with the covariance of those made run by run replaced by the average over sizes of the spread between
    runs: a size's own two or three runs say little about it. Assumes that the spread does not depend on size."""
    alike = [f for f in fits if f.ci_method == "per-run-t" and (f.n_clusters or 0) > 1]
    df = sum((f.n_clusters or 0) - 1 for f in alike)
    if len(alike) < 2:
        return fits
    counts = np.array([f.n_clusters or 0 for f in alike], dtype=float)
    spread = np.tensordot(counts * (counts - 1), np.array([_covariance(f) for f in alike]), axes=1) / df
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


def _covariance(result: FitResult) -> Floats:
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


def with_item_variance(result: FitResult, x: Floats, scores: list[HeldOut]) -> FitResult:
    """The fit with the covariance of the shared items added to that of the runs; t by Cochran's rule.

    With a single chain the items' is all there is: an interval that is conditional on this chain.
    """
    if result.status != "ok":
        return result
    items, n_conversations = item_covariance(x, scores)
    if result.n_clusters == 1:
        df = np.full(len(items), float(n_conversations - 1))
        note = Note("items_only", f"the interval is over {n_conversations} held-out conversations, given this chain")
        return with_covariance(replace(result, notes=()), items, df, "items only, one chain", note)
    if result.df is None:
        return result
    runs = _covariance(result)
    pairs = zip(np.diag(runs), np.diag(items), strict=True)
    df = np.array([cochran_df((float(a), float(b)), (result.df, n_conversations - 1)) for a, b in pairs])
    note = Note("shared_items", f"the variance of {n_conversations} shared held-out conversations is added")
    return with_covariance(result, runs + items, df, f"{result.ci_method}, items added", note)


def item_covariance(x: Floats, scores: list[HeldOut]) -> tuple[Floats, int]:
    """(p, p) covariance of log-linear coefficients from redrawing the held-out conversations, the same for all runs.

    Coefficients are linear in the runs' accuracies, so a conversation's influence on them is the weighted sum of its
    influences on the accuracies. Also the number of conversations.
    """
    weights = np.linalg.pinv(np.column_stack([np.ones(len(x)), np.log(x)]))  # (p, runs)
    cluster = codes(np.concatenate([part.conversation for part in scores]))
    groups, start = int(cluster.max()) + 1, 0
    influence = np.zeros((groups, len(weights)))
    for run, part in enumerate(scores):
        end = start + len(part.correct)
        centred = (part.correct - part.correct.mean()) / len(part.correct)
        influence += np.bincount(cluster[start:end], centred, minlength=groups)[:, None] * weights[:, run]
        start = end
    return influence.T @ influence * groups / max(groups - 1, 1), groups
