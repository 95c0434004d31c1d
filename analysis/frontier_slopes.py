"""Are the lines of score against sqrt(KL) parallel over sizes, and is the exponent of KL one half?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from analysis.estimates import Estimate, mean
from analysis.frames import SHARED_BASE, Study, base_of, join_notes
from analysis.frontier import SCORES, Curve, gold_source, spread
from analysis.frontier_fits import Exponents, mean_exponent, points_of, run_exponents
from analysis.frontier_laws import by_size
from analysis.held_out import HeldOut


@dataclass(frozen=True)
class RunSlope:
    """One run's slope through the origin; ``unit``: what replicates (a base, or a chain of a size's only base)."""

    model: str
    n_params: int
    unit: str
    value: float


def slope_rows(
    study: Study, curves: Sequence[Curve], scores: dict[str, HeldOut], trained: Exponents | None = None
) -> list[dict[str, Any]]:
    """One row per score: every size's slope, whether they are alike, how they change with size, the slope common to
    all sizes, and the exponent of KL.

    Scores of PMs are in standard deviations of that PM's held-out scores, since sizes are scored by PMs of their own; a
    gold score is in its own unit, and left out where sizes have different ones. ``trained``: the runs' exponents of the
    score trained on, where they are known.
    """
    rows = []
    for name in SCORES:
        runs = run_slopes(study, curves, scores, name)
        if len({run.model for run in runs}) > 1:
            unit = "gold" if name == "score_gold" else "sd of the PM's held-out scores"
            known = trained if name == "score_train" else None
            exponents = run_exponents(list(curves), name) if known is None else known
            rows.append({"score": name, "unit": unit} | compared(runs) | _exponent(study, exponents.found))
    return rows


def run_slopes(study: Study, curves: Sequence[Curve], scores: dict[str, HeldOut], name: str) -> list[RunSlope]:
    """c = sum(d R) / sum(d^2) of every finished run on one scale for all sizes; none where there is no such scale."""
    sizes = by_size(curves, name)
    if name == "score_gold" and len({gold_source(c) for runs in sizes for c in runs}) > 1:
        return []
    found = []
    for runs in sizes:
        bases = {base_of(study.chain(c.record)) for c in runs}
        for curve in runs:
            scale = 1.0 if name == "score_gold" else spread(study, curve, name.removeprefix("score_"), scores)
            d, r = points_of(curve, name)
            if scale and len(d) and float(d @ d) > 0:
                chain = study.chain(curve.record)
                unit = chain if len(bases) == 1 else base_of(chain)
                value = float(d @ r) / float(d @ d) / scale
                found.append(RunSlope(curve.model.name, curve.model.n_params, unit, value))
    return found


def _units(runs: Sequence[RunSlope]) -> dict[str, list[tuple[int, float]]]:
    """By size the parameters and mean slope of every unit that replicates."""
    values: dict[str, dict[str, list[RunSlope]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        values[run.model][run.unit].append(run)
    return {
        model: [(own[0].n_params, float(np.mean([run.value for run in own]))) for own in units.values()]
        for model, units in values.items()
    }


def compared(runs: Sequence[RunSlope]) -> dict[str, Any]:
    """Slopes by size, tested for being alike, their change with size and their mean."""
    sizes = _units(runs)
    values = [np.array([value for _, value in units]) for units in sizes.values()]
    within, df = _within(values)
    slopes = [
        {"model": model, "n_params": sizes[model][0][0]}
        | Estimate(float(v.mean()), _se(within, len(v)), len(v), df).to_dict()
        for model, v in zip(sizes, values, strict=True)
    ]
    points = np.array([point for units in sizes.values() for point in units])
    chains = len({run.unit for run in runs}) > len({base_of(run.unit) if "/" in run.unit else run.unit for run in runs})
    error = None if within is None else math.sqrt(within * sum(1 / len(v) for v in values)) / len(values)
    average = Estimate(float(np.mean([v.mean() for v in values])), error, len(points), df)
    few = None if within is not None else "no size has two runs: whether the slopes differ cannot be tested"
    return {
        "slopes": slopes, **anova(values), "per_ln_params": trend(points[:, 0], points[:, 1]).to_dict(),
        "common": average.to_dict(), "span_ln_params": float(np.log(points[:, 0].max() / points[:, 0].min())),
        "note": join_notes(few, SHARED_BASE if chains else None),
    }  # fmt: skip


def _within(values: Sequence[np.ndarray[Any, Any]]) -> tuple[float | None, int | None]:
    """The variance between units of one size, over all sizes, and its degrees of freedom; None without replication."""
    df = sum(len(v) - 1 for v in values)
    return (None, None) if df == 0 else (float(sum(((v - v.mean()) ** 2).sum() for v in values)) / df, df)


def _se(within: float | None, n: int) -> float | None:
    return None if within is None else math.sqrt(within / n)


def anova(values: Sequence[np.ndarray[Any, Any]]) -> dict[str, Any]:
    """The F test that all sizes have one slope, a run's (base's) slope being one observation; nulls where no size has
    two of them."""
    within, df = _within(values)
    if within is None or df is None or within == 0 or len(values) < 2:
        return {"f": None, "df1": len(values) - 1, "df2": df, "p_equal": None}
    grand, df1 = np.concatenate(values).mean(), len(values) - 1
    f = sum(len(v) * (v.mean() - grand) ** 2 for v in values) / df1 / within
    return {"f": float(f), "df1": df1, "df2": df, "p_equal": float(special.fdtrc(df1, df, f))}


def trend(n_params: np.ndarray[Any, Any], slopes: np.ndarray[Any, Any]) -> Estimate:
    """The change of slope per ln(parameters), least squares over units; no interval below three."""
    x = np.log(n_params) - np.log(n_params).mean()
    total, df = float(x @ x), len(x) - 2
    value = float(x @ slopes) / total
    residual = slopes - slopes.mean() - value * x
    se = math.sqrt(float(residual @ residual) / df / total) if df > 0 else None
    return Estimate(value, se, len(x), df if df > 0 else None)


def _exponent(study: Study, found: dict[str, float]) -> dict[str, Any]:
    """The mean exponent of KL over runs (one half where the score is linear in its root), clustered by base model, and
    whether its interval holds one half."""
    if not found:
        return {"kl_exponent": None, "holds_half": None, "n_runs": 0}
    chains = {run: study.chain(study.records[run]) for run in found}
    exponent = mean_exponent({run: k / 2 for run, k in found.items()}, chains)
    low, high = exponent.interval()
    holds = None if low is None or high is None else low <= 0.5 <= high
    return {"kl_exponent": exponent.to_dict(), "holds_half": holds, "n_runs": len(found)}


# ---------------------------------------------------------------- how far a score can go for its KL


def bound_rows(study: Study, curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """One row per size and score: the rise at the end of training as a share of sqrt(2 sigma^2 KL).

    Where a score has sub-Gaussian tails with variance sigma^2 under the reference, no policy at that KL can rise by
    more (Donsker and Varadhan). sigma is the standard deviation over prompts of the scores of the reference's own
    responses, one a prompt: it holds the differences between prompts too, so the bound is a wide one. Means over runs.
    """
    rows = []
    for name, column in SCORES.items():
        for runs in by_size(curves, name):
            sigma = [float(c.values[column][0].std(ddof=1)) for c in runs]
            share = [_share(c, column, s, c.resolved()) for c, s in zip(runs, sigma, strict=True)]
            known = [(c, s) for c, s in zip(runs, share, strict=True) if s is not None and len(s)]
            if not known:
                continue
            cluster = _cluster(study, [c for c, _ in known])
            at_end = mean([s[-1] for _, s in known], cluster)
            rows.append({
                "model": runs[0].model.name, "n_params": runs[0].model.n_params, "score": name,
                "sigma": float(np.mean(sigma)), "share_at_end": at_end.to_dict(),
                "largest_share": max(float(s.max()) for _, s in known), "n_runs": len(known),
                "verdict": _bound_verdict(at_end),
            })  # fmt: skip
    return rows


def _share(curve: Curve, column: str, sigma: float, kept: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    relative = curve.relative(column)
    if relative is None or sigma <= 0:
        return None
    return np.asarray(relative[kept].mean(axis=1) / (sigma * math.sqrt(2) * curve.sqrt_kl()[kept]))


def _bound_verdict(share: Estimate) -> str:
    """above: the whole interval is above 1, so the score has heavier tails than the bound takes it to have."""
    low, high = share.interval()
    if low is None or high is None:
        return "above, without an interval" if share.value > 1 else "within, without an interval"
    return "above" if low > 1 else "within" if high < 1 else "inconclusive"


def _cluster(study: Study, runs: Sequence[Curve]) -> np.ndarray[Any, Any]:
    chains = [study.chain(curve.record) for curve in runs]
    base: Callable[[str], str] = base_of if len({base_of(chain) for chain in chains}) > 1 else str
    return np.array([base(chain) for chain in chains], dtype=object)
