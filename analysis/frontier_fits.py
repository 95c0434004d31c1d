"""The laws fitted to a study's policies: score against sqrt(KL), per run and per size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.crossed import replicates
from analysis.estimates import Estimate, mean
from analysis.fit_result import FitResult, Note, Param
from analysis.fits import fit, fit_each
from analysis.frames import base_note
from analysis.frontier import SCORES, Curve
from analysis.spread import pool_spread

Floats = NDArray[np.float64]
PROMPT_DRAWS = 400
FEW_RUNS = 3  # below this a size's own spread between runs says too little
MIN_POINTS = 3  # of one run, for its exponent
SIZE_LAWS = ("sqrt-kl-linear", "sqrt-kl-power", "bon", "rl")
SHARED_LAWS = ("sqrt-kl-linear", "bon", "rl")  # linear in their parameters: sizes can share the spread between runs


def frontier_fits(curves: list[Curve]) -> list[FitResult]:
    """score = c sqrt(KL) for every policy and, pooled over its runs, every size; for each size also the exponent
    (``sqrt-kl-power``) and the two laws with a peak (``bon``, ``rl``).

    Collapsed policies are left out, and so are evaluations whose KL is below two standard errors; the start itself
    is exact and stays as the origin that every law goes through. Slopes of sizes with two runs borrow their spread.
    """
    fits, sizes = [], defaultdict(list)
    for curve in curves:
        if curve.finished and curve.resolved().any():
            sizes[curve.model].append(curve)
    for model in sorted(sizes, key=lambda m: (m.n_params, m.name)):
        runs = sizes[model]
        for name, column in SCORES.items():
            measured = [curve for curve in runs if column in curve.values]
            if not measured:
                continue
            fits += [pooled_runs(law, measured, name, model.name) for law in SIZE_LAWS]
            fits += [one_run("sqrt-kl-linear", c, name, f"{model.name} seed {c.seed}") for c in measured]
    return shared_spread(fits)


def shared_spread(fits: Sequence[FitResult]) -> list[FitResult]:
    """The fits with the parameters' spread between runs averaged over sizes, where some size has below three runs."""
    found = {id(f): f for f in fits}
    for law, y in product(SHARED_LAWS, SCORES):
        alike = [f for f in fits if f.law == law and f.y == y and f.ci_method == "per-run-t"]
        if min((f.n_clusters or 0 for f in alike), default=FEW_RUNS) < FEW_RUNS:
            found |= {id(old): new for old, new in zip(alike, pool_spread(alike), strict=True)}
    return list(found.values())


def points_of(curve: Curve, name: str) -> tuple[Floats, Floats]:
    """sqrt(KL) and mean score above the first step's at the resolved evaluations; the first step is the origin."""
    relative, kept = curve.relative(SCORES[name]), curve.resolved()
    assert relative is not None
    return curve.sqrt_kl()[kept], np.asarray(relative[kept].mean(axis=1))


def censored(runs: Sequence[Curve]) -> tuple[Note, ...]:
    """A note that counts the evaluations left out because their KL cannot be told from zero."""
    left, all_ = sum(int((~c.resolved()[1:]).sum()) for c in runs), sum(len(c.steps) - 1 for c in runs)
    text = f"{left} of {all_} evaluations have a KL below two standard errors and are not fitted"
    return (Note("censored", text),) if left else ()


def pooled_runs(law: str, runs: list[Curve], name: str, group: str) -> FitResult:
    """A law over all runs of a size, clustered by what replicates (``crossed.replicates``: run, or base where the runs
    are on several); with one run, that run's own fit."""
    if len(runs) == 1:
        return one_run(law, runs[0], name, group)
    parts = [points_of(curve, name) for curve in runs]
    chains = np.array([curve.chain or curve.record.stage_id for curve in runs], dtype=object)
    run = np.repeat(replicates(chains), [len(x) for x, _ in parts])
    x, y = (np.concatenate(side) for side in zip(*parts, strict=True))
    result = fit(law, x, y, cluster=run, group=group, x_names=("sqrt_kl",), y_name=name)
    told = base_note(set(chains))
    shared = (Note("shared_base", told),) if told is not None else ()
    return replace(result, notes=(*result.notes, *shared, *censored(runs)))


def one_run(law: str, curve: Curve, name: str, group: str) -> FitResult:
    """A law along one run. Its points are one history, so its interval is over prompts only (both axes redrawn) and is
    conditional on this run; laws that are not linear in their parameters have none."""
    x, y = points_of(curve, name)
    run = np.zeros(len(x))
    result = fit(law, x, y, cluster=run, group=group, x_names=("sqrt_kl",), y_name=name)
    result = replace(result, notes=(*result.notes, *censored([curve])))
    if law not in SHARED_LAWS or result.status == "not_identified" or len(set(curve.cluster)) < 2:
        return result
    drawn = _redraw_parameters(law, curve, name)
    ends, errors = np.quantile(drawn, (0.025, 0.975), axis=0), drawn.std(axis=0, ddof=1)
    params = {
        key: Param(result.params[key].value, float(errors[i]), float(ends[0, i]), float(ends[1, i]))
        for i, key in enumerate(result.params)
    }
    covariance = tuple(tuple(float(v) for v in row) for row in np.atleast_2d(np.cov(drawn, rowvar=False)))
    known = {"params": params, "covariance": covariance, "df": float(curve.cluster.max())}
    note = Note("one_cluster", "the interval is over prompts, conditional on this run")
    return replace(result, **known, ci_method="prompt-bootstrap", notes=(note, *censored([curve])))  # type: ignore[arg-type]


def _redraw_parameters(law: str, curve: Curve, name: str) -> Floats:
    """(draws, p) least squares with conversations redrawn, the same draw at every step (fixed seed)."""
    share = _redrawn_shares(curve.cluster.tobytes())
    relative, kept = curve.relative(SCORES[name]), curve.resolved()
    assert relative is not None
    d = np.sqrt(np.maximum(share @ curve.kls[kept].T, 0.0))
    r = share @ relative[kept].T
    other = {"sqrt-kl-linear": [], "bon": [-(d**2)], "rl": [-d * np.log(np.maximum(d, 1e-300))]}[law]
    design = np.stack([d, *other], axis=2)
    gram, moment = np.swapaxes(design, 1, 2) @ design, np.swapaxes(design, 1, 2) @ r[..., None]
    return np.asarray((np.linalg.pinv(gram, hermitian=True) @ moment)[..., 0])


@lru_cache(maxsize=8)
def _redrawn_shares(cluster: bytes) -> Floats:
    """(draws, P) the share of every prompt in each draw of conversations, from the memory of the prompts' clusters."""
    cluster_of = np.frombuffer(cluster, dtype=np.intp)
    groups = int(cluster_of.max()) + 1
    counts = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=PROMPT_DRAWS)[:, cluster_of]
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


class Exponents(NamedTuple):
    """k of score = A sqrt(KL)^k by run, and why other finished runs have none."""

    found: dict[str, float]
    failed: dict[str, str]


def mean_exponent(found: Mapping[str, float], chains: Mapping[str, str]) -> Estimate:
    """The mean k over runs, clustered by what replicates (``crossed.replicates``); a run without chain is its own."""
    return mean(list(found.values()), replicates(np.array([chains.get(run, run) for run in found], dtype=object)))


def run_exponents(curves: list[Curve], name: str = "score_train") -> Exponents:
    """The exponent of every finished run, by stage id."""
    exponents = Exponents({}, {})
    measured = [curve for curve in curves if curve.finished and SCORES[name] in curve.values]
    enough = [curve for curve in measured if curve.resolved().sum() >= MIN_POINTS]
    results = fit_each("sqrt-kl-power", [points_of(curve, name) for curve in enough])
    fitted = {curve.record.stage_id: result for curve, result in zip(enough, results, strict=True)}
    for curve in measured:
        run, n = curve.record.stage_id, int(curve.resolved().sum())
        k = fitted[run].params["k"].value if run in fitted else None
        if run not in fitted:
            exponents.failed[run] = f"{n} evaluations with a KL above two standard errors, {MIN_POINTS} are needed"
        elif fitted[run].status == "ok" and k is not None:
            exponents.found[run] = k
        else:
            exponents.failed[run] = fitted[run].status.replace("_", " ")
    return exponents
