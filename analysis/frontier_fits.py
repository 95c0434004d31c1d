"""The laws fitted to a study's policies: score against sqrt(KL), per run and per size."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis.fit_result import FitResult, Note, Param
from analysis.fits import fit
from analysis.frontier import SCORES, Curve

Floats = NDArray[np.float64]
PROMPT_DRAWS = 400


def frontier_fits(curves: list[Curve]) -> list[FitResult]:
    """score = c sqrt(KL) for every policy and, pooled over its runs, every size; for each size also the exponent
    (``sqrt-kl-power``) and, where there is a gold score, the best-of-n form. Collapsed policies are left out."""
    fits, sizes = [], defaultdict(list)
    for curve in curves:
        if curve.finished and len(curve.steps) > 1:
            sizes[curve.model].append(curve)
    for model in sorted(sizes, key=lambda m: (m.n_params, m.name)):
        runs = sizes[model]
        for name, column in SCORES.items():
            measured = [curve for curve in runs if column in curve.values]
            if not measured:
                continue
            laws = ["sqrt-kl-linear", "sqrt-kl-power"] + (["bon"] if name == "score_gold" else [])
            fits += [pooled_runs(law, measured, name, model.name) for law in laws]
            fits += [one_run("sqrt-kl-linear", c, name, f"{model.name} seed {c.seed}") for c in measured]
    return fits


def points_of(curve: Curve, name: str) -> tuple[Floats, Floats]:
    """(S - 1,) sqrt(KL) and mean score above the first step's, without the first step, which is the origin."""
    relative = curve.relative(SCORES[name])
    assert relative is not None
    return curve.sqrt_kl()[1:], np.asarray(relative[1:].mean(axis=1))


def pooled_runs(law: str, runs: list[Curve], name: str, group: str) -> FitResult:
    """A law over all runs of a size, clustered by run; with one run, that run's own fit."""
    if len(runs) == 1:
        return one_run(law, runs[0], name, group)
    parts = [points_of(curve, name) for curve in runs]
    run = np.repeat([curve.record.stage_id for curve in runs], [len(x) for x, _ in parts])
    x, y = (np.concatenate(side) for side in zip(*parts, strict=True))
    return fit(law, x, y, cluster=run, group=group, x_names=("sqrt_kl",), y_name=name)


def one_run(law: str, curve: Curve, name: str, group: str) -> FitResult:
    """A law along one run. Its points are one history, so its interval is over prompts only (both axes redrawn for
    the linear law, scores alone for others) and is conditional on this run."""
    x, y = points_of(curve, name)
    run = np.zeros(len(x))
    result = fit(law, x, y, cluster=run, group=group, x_names=("sqrt_kl",), y_name=name)
    if law != "sqrt-kl-linear" or result.status == "not_identified" or len(set(curve.cluster)) < 2:
        return result
    drawn = _redraw_slope(curve, name)
    low, high = (float(v) for v in np.quantile(drawn, (0.025, 0.975)))
    params = {"c": Param(result.params["c"].value, float(drawn.std(ddof=1)), low, high)}
    note = Note("one_cluster", "the interval is over prompts, conditional on this run")
    return replace(result, params=params, ci_method="prompt-bootstrap", notes=(note,))


def _redraw_slope(curve: Curve, name: str) -> Floats:
    """(draws,) c = sum(d R) / sum(d^2) with conversations redrawn, the same draw at every step (fixed seed)."""
    cluster = curve.cluster
    groups = int(cluster.max()) + 1
    counts = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=PROMPT_DRAWS)[:, cluster]
    share = counts / counts.sum(axis=1, keepdims=True)
    relative = curve.relative(SCORES[name])
    assert relative is not None
    d = np.sqrt(np.maximum(share @ curve.values["kl_k1"].T, 0.0))
    r = share @ relative.T
    return np.asarray((d * r).sum(axis=1) / np.maximum((d**2).sum(axis=1), 1e-300))


def run_exponents(curves: list[Curve], name: str = "score_train") -> dict[str, float]:
    """k of score = A sqrt(KL)^k for every finished run, by stage id; runs that cannot be fitted are absent."""
    found = {}
    for curve in curves:
        if not curve.finished or len(curve.steps) < 4 or SCORES[name] not in curve.values:
            continue
        result = fit("sqrt-kl-power", *points_of(curve, name), ci="wald")
        k = result.params["k"].value
        if result.status == "ok" and k is not None:
            found[curve.record.stage_id] = k
    return found
