"""Laws of PMs that return to chance at small scale and level off at large: accuracy (P4) and log loss (P3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.estimates import codes
from analysis.fit_result import FitResult, Note
from analysis.fits import fit
from analysis.frames import SHARED_BASE
from analysis.held_out import Floats, HeldOut
from analysis.pm_fits import VALUES, PointSet, draws_for, pm_points, point_sets
from analysis.pools import PM

LAWS = {"accuracy": "pm-accuracy", "log_loss": "pm-loss"}
ONE_AXIS, TWO_AXES = 4, 3  # fewest levels: one more than the parameters that an axis decides
PER_AXIS = 3  # parameters that the bases decide: limit, amplitude and exponent of size
BETTER = 2.0  # of AICc: laws closer than that both have substantial support (Burnham and Anderson 2002, section 2.6)
DRAWS = 1000
FEW_CHAINS = 3


def saturation_fits(pms: Sequence[PM]) -> list[FitResult]:
    """``pm-accuracy`` and ``pm-loss`` of size and data together, of data at each size and of size at the most data,
    where there are enough levels of each.

    Each is compared with the log-linear law on the same points by AICc (``delta_aicc``), and says so where it is not
    better. Intervals are from a wild bootstrap over runs with the held-out conversations redrawn jointly for all
    points. What varies with size has as many degrees of freedom as base models less three, and no interval without any.
    """
    scores = {pm.record.stage_id: pm.scores for pm in pms}
    return [
        _fit(law, one, item_noise([scores[s] for s in one.points.stage_id], y))
        for y, law in LAWS.items()
        for one in point_sets(pm_points(pms, y), y)
        if enough(one)
    ]


def enough(one: PointSet) -> bool:
    """Whether every axis has the levels that its parameters need."""
    wanted = ONE_AXIS if len(one.x) == 1 else TWO_AXES
    return all(one.points[name].nunique() >= wanted for name in one.x)


def item_noise(scores: Sequence[HeldOut], y: str) -> Floats:
    """(draws, points) what redrawing the held-out conversations, the same for all, adds to each point's mean."""
    values = [getattr(part, VALUES[y]) for part in scores]
    cluster = codes(np.concatenate([part.conversation for part in scores]))
    groups, ends = int(cluster.max()) + 1, np.cumsum([len(v) for v in values])
    parts = list(zip(values, np.split(cluster, ends[:-1]), strict=True))
    sums = np.stack([np.bincount(group, of, minlength=groups) for of, group in parts], axis=1)
    sizes = np.stack([np.bincount(group, minlength=groups) for _, group in parts], axis=1)
    rng, draws = np.random.default_rng(0), draws_for(len(scores), DRAWS)
    counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(float)
    return np.asarray(counts @ sums / np.maximum(counts @ sizes, 1.0) - sums.sum(axis=0) / sizes.sum(axis=0))


def _fit(law: str, one: PointSet, noise: Floats) -> FitResult:
    """One law; where only size varies, of the mean of each base's PMs."""
    if one.x == ("n_params",):
        one, noise = per_base(one, noise)
    chains, bases = one.points.chain.nunique(), one.points.base.nunique()
    clustered = "n_params" in one.x or min(chains, one.points[one.cluster].nunique()) >= FEW_CHAINS
    df = float(bases - PER_AXIS) if "n_params" in one.x else None
    cluster = one.points[one.cluster] if clustered else None
    result = fit(
        law, one.columns, one.points.y, cluster=cluster, ci="bootstrap", group=one.group, x_names=one.x, y_name=one.y,
        noise=noise, df=df, repeats=True,  # both halves' PMs of a base
    )  # fmt: skip
    line = fit("log-linear", one.columns, one.points.y, cluster=cluster, ci="wald")
    return against_line(replace(result, notes=(*result.notes, *_notes(one, clustered, df))), line)


def against_line(result: FitResult, line: FitResult) -> FitResult:
    """The fit with its AICc compared with that of the log-linear law, and a note where it is not clearly lower."""
    if result.aicc is None or line.aicc is None:
        note = Note("not_compared", "too few clusters for AICc: not compared with the log-linear law")
        return replace(result, notes=(*result.notes, note))
    delta = result.aicc - line.aicc
    if delta > -BETTER:
        note = Note("not_better", f"the log-linear law describes the points as well: AICc {delta:+.1f} against it")
        return replace(result, delta_aicc=delta, notes=(*result.notes, note))
    return replace(result, delta_aicc=delta)


def per_base(one: PointSet, noise: Floats) -> tuple[PointSet, Floats]:
    """The points, and what they share, averaged over the PMs of each base model."""
    base = codes(one.points.base)
    share = np.equal.outer(np.arange(base.max() + 1), base) / np.bincount(base)[:, None]  # (bases, points)
    rows = one.points.drop_duplicates("base")  # in order of appearance, as the codes
    return replace(one, points=rows.assign(y=share @ one.points.y.to_numpy(float))), noise @ share.T


def _notes(one: PointSet, clustered: bool, df: float | None) -> list[Note]:
    notes = [Note("shared_items", "the held-out conversations are redrawn jointly for all points")]
    bases = one.points.base.nunique()
    if df is not None and df <= 0:
        notes = [Note("too_few_bases", f"{bases} base models leave no degrees of freedom between sizes: no interval")]
    elif df is not None:
        notes.append(Note("clusters", f"t on {df:g} degrees of freedom: base models less {PER_AXIS}"))
    elif not clustered:
        notes.append(Note("few_chains", "the PMs of one base and seed are taken as independent given the law"))
    if one.points.base.nunique() < one.points.chain.nunique() and ("n_params" in one.x or bases == 1):
        notes.append(Note("shared_base", SHARED_BASE))
    return notes
