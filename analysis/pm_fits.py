"""The laws fitted to a study's PMs: accuracy and loss against size and against the number of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimates import cochran_df, codes, influences
from analysis.fit_result import FitResult, Note, Param
from analysis.fits import fit
from analysis.frames import MAIN, SHARED_BASE, base_of
from analysis.held_out import KINDS, HeldOut
from analysis.pools import PM, Pool, with_both_kinds
from analysis.spread import covariance_of, pool_spread, with_covariance

Floats = NDArray[np.float64]
PM_X = ("n_params", "n_comparisons")
VALUES = {"accuracy": "correct", "log_loss": "log_loss"}  # what is fitted: the items' values that it is the mean of


@dataclass(frozen=True)
class PointSet:
    """PMs that one law is fitted to; ``cluster`` is the column of what was drawn together."""

    group: str
    points: pd.DataFrame
    x: tuple[str, ...]
    cluster: str
    y: str = "accuracy"

    @property
    def columns(self) -> Floats:
        return self.points[list(self.x)].to_numpy(float)


def pm_fits(pms: Sequence[PM]) -> list[FitResult]:
    """Accuracy and log loss as log-linear laws of size and data together, of data at each size, and of size at the
    most data.

    Points are PMs; clusters are base models, whose seeds are not independent of each other. A slope with data varies
    within a base; with one base its clusters are the seeds, and what it says is given that base. A slope with size
    varies only between bases and has t on their number less two. The variance of the shared held-out comparisons is
    added. Where the held-out comparisons are of both kinds, each has laws of its own besides ("pm helpful all", …): the
    paper's equation A.1 is of helpfulness alone.
    """
    main = [pm for pm in pms if pm.setting == MAIN]
    kinds = KINDS if main and with_both_kinds([Pool((pm,)) for pm in main]) else ()
    found = [result for y in VALUES for result in _log_linear(main, y)]
    for kind in kinds:
        own = [replace(pm, scores=pm.scores.select(pm.scores.kind == kind)) for pm in main]
        fits = [result for y in VALUES for result in _log_linear(own, y)]
        found += [replace(result, group=result.group.replace("pm ", f"pm {kind} ", 1)) for result in fits]
    return found


def _log_linear(pms: Sequence[PM], y: str) -> list[FitResult]:
    sets = point_sets(pm_points(pms, y), y)
    scores = {pm.record.stage_id: pm.scores for pm in pms}
    fits = pool_spread([_fit(one) for one in sets])
    return [
        with_item_variance(between_bases(result, one), one.columns, [scores[s] for s in one.points.stage_id], y)
        for result, one in zip(fits, sets, strict=True)
    ]


def pm_points(pms: Sequence[PM], y: str) -> pd.DataFrame:
    """The main PMs with size, data, chain and base, and the mean over their items of what is fitted as ``y``."""
    points = [
        {"stage_id": pm.record.stage_id, "model": pm.model.name, "n_params": pm.model.n_params,
         "n_comparisons": pm.n_comparisons, "chain": pm.chain, "base": base_of(pm.chain),
         "y": influences(getattr(pm.scores, VALUES[y]))[0]}
        for pm in pms if pm.setting == MAIN
    ]  # fmt: skip
    return pd.DataFrame(points)


def point_sets(points: pd.DataFrame, y: str = "accuracy") -> list[PointSet]:
    """All PMs; those of each size; and those at the most comparisons that every size has."""
    if points.empty:
        return []
    sets = [PointSet("pm all", points, PM_X, "base", y)]
    for (_, model), part in points.groupby(["n_params", "model"], sort=True):
        cluster = "base" if part.base.nunique() > 1 else "chain"
        sets.append(PointSet(f"pm {model}", part, ("n_comparisons",), cluster, y))
    everywhere = points.groupby("n_comparisons").model.nunique() == points.model.nunique()
    if everywhere.any():
        most = int(everywhere.index[everywhere].max())
        sets.append(PointSet(f"pm n={most}", points[points.n_comparisons == most], ("n_params",), "base", y))
    return sets


def _fit(one: PointSet) -> FitResult:
    cluster, draws = one.points[one.cluster], draws_for(len(one.points))
    return fit(
        "log-linear", one.columns, one.points.y, cluster=cluster, group=one.group, x_names=one.x, y_name=one.y,
        draws=draws, repeats=True,  # both halves' PMs of a base
    )  # fmt: skip


def draws_for(n_points: int, most: int = 2000) -> int:
    """Bootstrap draws: 2,000, and fewer (at least 500) where so many of thousands of points would not fit in memory."""
    return min(most, max(1_000_000 // max(n_points, 1), 500))


def between_bases(result: FitResult, one: PointSet) -> FitResult:
    """The fit with t on the number of bases less two where size varies, and no interval where that leaves none.

    Where it does not, chains that all share a base say nothing about how bases differ, and a note says so.
    """
    if "n_params" not in one.x:
        shared = one.points.base.nunique() == 1 < one.points.chain.nunique()
        return replace(result, notes=(*result.notes, Note("shared_base", SHARED_BASE))) if shared else result
    n_bases = one.points.base.nunique()
    if n_bases > 2:
        note = Note("clusters", f"clusters are {n_bases} base models, t on {n_bases - 2} degrees of freedom")
        return replace(result, df=float(n_bases - 2), notes=(*result.notes, note))
    note = Note("too_few_bases", f"{n_bases} base models leave no degrees of freedom between sizes: no interval")
    params = {name: Param(p.value, None, None, None) for name, p in result.params.items()}
    return replace(result, params=params, ci_method="none", covariance=(), df=None, notes=(*result.notes, note))


def given_one_chain(result: FitResult, x: Floats, items: Floats, n_conversations: int) -> FitResult:
    """A slope with data from one base and seed: the items' covariance plus that of the scatter of its PMs about the
    line, s^2 (X'X)^-1 with t on the distinct numbers of comparisons less two; no interval where that leaves none."""
    kept = tuple(other for other in result.notes if other.code != "one_cluster")
    n_counts = len(np.unique(x))
    if n_counts < 3 or result.residual_sd is None:
        note = Note("one_chain", f"one chain at {n_counts} numbers of comparisons: its scatter is not known")
        params = {name: Param(p.value, None, None, None) for name, p in result.params.items()}
        return replace(result, params=params, ci_method="none", covariance=(), df=None, notes=(*kept, note))
    design = np.column_stack([np.ones(len(x)), np.log(x)])
    scatter = result.residual_sd**2 * np.linalg.inv(design.T @ design)
    parts = zip(np.diag(items), np.diag(scatter), strict=True)
    df = [cochran_df((float(a), float(b)), (n_conversations - 1, n_counts - 2)) for a, b in parts]
    message = f"given this chain: {n_conversations} held-out conversations and the scatter about the line"
    note = Note("one_chain", message)
    fitted = replace(result, notes=kept)
    return with_covariance(fitted, items + scatter, np.array(df), "items and scatter, one chain", note)


def with_item_variance(result: FitResult, x: Floats, scores: list[HeldOut], y: str = "accuracy") -> FitResult:
    """The fit with the covariance of the shared items added to that of the runs; t by Cochran's rule.

    With a single chain what runs vary by is its scatter about the line (``given_one_chain``).
    """
    if result.status != "ok":
        return result
    items, n_conversations = item_covariance(x, scores, y)
    if result.n_clusters == 1:
        return given_one_chain(result, x, items, n_conversations)
    if result.df is None:
        return result
    runs = covariance_of(result)
    pairs = zip(np.diag(runs), np.diag(items), strict=True)
    df = np.array([cochran_df((float(a), float(b)), (result.df, n_conversations - 1)) for a, b in pairs])
    note = Note("shared_items", f"the variance of {n_conversations} shared held-out conversations is added")
    return with_covariance(result, runs + items, df, f"{result.ci_method}, items added", note)


def item_covariance(x: Floats, scores: list[HeldOut], y: str = "accuracy") -> tuple[Floats, int]:
    """(p, p) covariance of log-linear coefficients from redrawing the held-out conversations, the same for all runs.

    Coefficients are linear in the runs' means, so a conversation's influence on them is the weighted sum of its
    influences on the means. Also the number of conversations.
    """
    weights = np.linalg.pinv(np.column_stack([np.ones(len(x)), np.log(x)]))  # (p, runs)
    cluster = codes(np.concatenate([part.conversation for part in scores]))
    groups, start = int(cluster.max()) + 1, 0
    influence = np.zeros((groups, len(weights)))
    for run, part in enumerate(scores):
        values = getattr(part, VALUES[y])
        end = start + len(values)
        centred = (values - values.mean()) / len(values)
        influence += np.bincount(cluster[start:end], centred, minlength=groups)[:, None] * weights[:, run]
        start = end
    return influence.T @ influence * groups / max(groups - 1, 1), groups
