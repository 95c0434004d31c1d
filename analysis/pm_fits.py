"""The laws fitted to a study's PMs: accuracy against size and against the number of comparisons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimates import cochran_df, codes
from analysis.fit_result import FitResult, Note, Param
from analysis.fits import fit
from analysis.frames import SHARED_BASE, Study
from analysis.pm import HeldOut
from analysis.spread import covariance_of, pool_spread, with_covariance

Floats = NDArray[np.float64]
PM_X = ("n_params", "n_comparisons")


@dataclass(frozen=True)
class PointSet:
    """PMs that one law is fitted to; ``cluster`` is the column of what was drawn together."""

    group: str
    points: pd.DataFrame
    x: tuple[str, ...]
    cluster: str

    @property
    def columns(self) -> Floats:
        return self.points[list(self.x)].to_numpy(float)


def pm_fits(study: Study, scores: dict[str, HeldOut], rows: list[dict[str, Any]]) -> list[FitResult]:
    """Accuracy as a log-linear law of size and data together, of data at each size, and of size at the most data.

    Points are PMs. A slope with data varies within a chain (base model and seed), which is its cluster; a slope with
    size varies only between base models, so its clusters are base stages with t on their number less two. The
    variance of the shared held-out comparisons is added.
    """
    points = pd.DataFrame([row | {"y": row["accuracy"]["value"]} for row in rows if row["tranche"] == "all"])
    if points.empty:
        return []
    records = [study.records[s] for s in points.stage_id]
    points["chain"] = [study.chain(record) for record in records]
    points["base"] = [chain.rsplit("/", 1)[0] for chain in points.chain]
    sets = point_sets(points)
    fits = pool_spread([_fit(one) for one in sets])
    return [
        with_item_variance(between_bases(result, one), one.columns, [scores[s] for s in one.points.stage_id])
        for result, one in zip(fits, sets, strict=True)
    ]


def point_sets(points: pd.DataFrame) -> list[PointSet]:
    """All PMs; those of each size; and those at the most comparisons that every size has."""
    sets = [PointSet("pm all", points, PM_X, "base")]
    for _, part in points.groupby("n_params", sort=True):
        sets.append(PointSet(f"pm {part.model.iloc[0]}", part, ("n_comparisons",), "chain"))
    everywhere = points.groupby("n_comparisons").n_params.nunique() == points.n_params.nunique()
    if everywhere.any():
        most = int(everywhere.index[everywhere].max())
        sets.append(PointSet(f"pm n={most}", points[points.n_comparisons == most], ("n_params",), "base"))
    return sets


def _fit(one: PointSet) -> FitResult:
    cluster = one.points[one.cluster]
    return fit(
        "log-linear", one.columns, one.points.y, cluster=cluster, group=one.group, x_names=one.x, y_name="accuracy"
    )


def between_bases(result: FitResult, one: PointSet) -> FitResult:
    """The fit with t on the number of bases less two where size varies, and no interval where that leaves none.

    Where it does not, chains that share a base say nothing about how bases differ, and a note says so.
    """
    if one.cluster == "chain":
        shared = one.points.base.nunique() < one.points.chain.nunique()
        return replace(result, notes=(*result.notes, Note("shared_base", SHARED_BASE))) if shared else result
    n_bases = one.points.base.nunique()
    if n_bases > 2:
        note = Note("clusters", f"clusters are {n_bases} base models, t on {n_bases - 2} degrees of freedom")
        return replace(result, df=float(n_bases - 2), notes=(*result.notes, note))
    note = Note("too_few_bases", f"{n_bases} base models leave no degrees of freedom between sizes: no interval")
    params = {name: Param(p.value, None, None, None) for name, p in result.params.items()}
    return replace(result, params=params, ci_method="none", covariance=(), df=None, notes=(*result.notes, note))


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
        kept = tuple(other for other in result.notes if other.code != "one_cluster")
        return with_covariance(replace(result, notes=kept), items, df, "items only, one chain", note)
    if result.df is None:
        return result
    runs = covariance_of(result)
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
