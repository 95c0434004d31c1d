"""Bootstrap intervals of fitted parameters, on fit coordinates: wild by cluster or point, and cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from analysis.estimates import Codes, t_quantile
from analysis.intervals import Optimum, Uncertainty, unknown
from analysis.laws import Floats
from analysis.solver import Problem, Solution, levenberg, transform

Z = t_quantile(0.975, None)
# Webb 2014: six points with mean 0 and variance 1, enough different draws for a handful of clusters
WEBB = np.array([-math.sqrt(1.5), -1.0, -math.sqrt(0.5), math.sqrt(0.5), 1.0, math.sqrt(1.5)])
MOST_AT_ONCE = 2_000_000  # derivatives of draws that are refitted together: 16 MB
Part = Callable[[slice], Floats]  # some of the draws: (rows, n)


@dataclass(frozen=True)
class Redraw:
    """How a wild bootstrap draws: ``noise`` (draws, n), errors that points share, is added to every draw's points;
    ``df`` is t's where clusters or points do not count it right."""

    draws: int
    seed: int
    noise: Floats | None = None
    df: float | None = None


def wild(best: Optimum, cluster: Codes, clustered: bool, how: Redraw) -> Uncertainty:
    """Wild bootstrap: residuals, inflated by (I - H_gg)^-1, flip and stretch together within a cluster (Webb).

    Percentile intervals, widened by t / z on G - 1 (n - p where every point is its own cluster).
    """
    n, p = best.jac.shape
    groups = int(cluster.max()) + 1
    df = how.df if how.df is not None else groups - 1 if clustered else n - p
    if groups < 2 or df <= 0:
        return unknown(p)
    inflated = _inflate(best, cluster)
    sign = np.random.default_rng(how.seed).choice(WEBB, size=(how.draws, groups))
    root = np.sqrt(best.problem.w)
    fitted = best.residual / root + transform(best.problem.y, best.problem.space)
    target = fitted - sign[:, cluster] * inflated / root + (0.0 if how.noise is None else how.noise)
    found = _refit(best, target)
    return _percentiles(best, found, df, "wild-cluster-bootstrap" if clustered else "wild-bootstrap")


def _refit(best: Optimum, target: Floats) -> Solution:
    """The fit to every row of ``target`` (draws, n).

    Points at one x count by their mean alone: sum w (t - f)^2 = W (mean t - f)^2 + what no parameter changes.
    """
    problem, draws = best.problem, len(target)
    places, first, level = np.unique(problem.x, axis=0, return_index=True, return_inverse=True)
    if best.jac.shape[1] < len(places) < len(level):
        w = np.asarray(np.bincount(level.ravel(), weights=problem.w), dtype=float)
        share = np.zeros((len(level), len(places)))
        share[np.arange(len(level)), level.ravel()] = problem.w / w[level.ravel()]
        problem, target = replace(problem, x=places, y=problem.y[first], w=w), target @ share
    return _in_parts(problem, best.u, draws, target=lambda rows: target[rows])


def _inflate(best: Optimum, cluster: Codes) -> Floats:
    """Residuals times (I - H_gg)^-1, cluster by cluster (the jackknife's, as in HC3 and CR3).

    With J = QR, H_gg = Q_g Q_g' and (I - H_gg)^-1 e = e + Q_g (I - Q_g'Q_g)^-1 Q_g'e: matrices of p, not of the
    cluster's points. A cluster that alone decides a parameter has leverage 1; its residual there is 0 and stays so.
    """
    jac = best.jac[:, best.inside]
    q = np.linalg.qr(jac / np.maximum(np.linalg.norm(jac, axis=0), 1e-300))[0]
    groups, p = int(cluster.max()) + 1, q.shape[1]
    gram, score = np.zeros((groups, p, p)), np.zeros((groups, p))
    np.add.at(gram, cluster, q[:, :, None] * q[:, None, :])
    np.add.at(score, cluster, q * best.residual[:, None])
    solved = np.linalg.pinv(np.eye(p) - gram, rcond=1e-8, hermitian=True) @ score[..., None]
    return np.asarray(best.residual + (q * solved[cluster, :, 0]).sum(axis=1))


def cases(best: Optimum, cluster: Codes, draws: int, seed: int) -> Uncertainty:
    """Cases (whole clusters) redrawn with replacement; percentile intervals."""
    groups = int(cluster.max()) + 1
    if groups < 2:
        return unknown(len(best.u))
    counts = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(float)
    limit = 200 if best.problem.delta is None else 2000  # an absolute error converges slowly, one kink at a time
    own = best.problem.w
    found = _in_parts(best.problem, best.u, draws, weights=lambda rows: own * counts[rows][:, cluster], limit=limit)
    return _percentiles(best, found, groups - 1, "cases-bootstrap")


def _in_parts(
    problem: Problem, u: Floats, draws: int, target: Part | None = None, weights: Part | None = None, limit: int = 200
) -> Solution:
    """All draws refitted from u (p,), as many at once as memory is well used by."""
    size, found = max(1, MOST_AT_ONCE // (len(problem.y) * len(u))), []
    for first in range(0, draws, size):
        rows = slice(first, min(first + size, draws))
        start = np.repeat(u[None], rows.stop - first, axis=0)
        goal, own = (None if part is None else part(rows) for part in (target, weights))
        found.append(levenberg(problem, start, target=goal, weights=own, max_iterations=limit))
    return Solution(*(np.concatenate([getattr(one, name) for one in found]) for name in ("u", "cost", "converged")))


def _percentiles(best: Optimum, found: Solution, df: float, method: str) -> Uncertainty:
    u = found.u[found.converged]
    failed = 1 - len(u) / len(found.u)
    if len(u) < 0.5 * len(found.u):
        return unknown(len(best.u), method)
    stretch = t_quantile(0.975, df) / Z
    low, high = best.u + stretch * (np.quantile(u, (0.025, 0.975), axis=0) - best.u)
    problem = best.problem
    with np.errstate(over="ignore"):  # draws that ran away: infinite, which is said as unknown
        covariance = np.atleast_2d(np.cov(u, rowvar=False))
    return Uncertainty(
        np.sqrt(np.diag(covariance)),
        np.maximum(low, problem.lower),
        np.minimum(high, problem.upper),
        method,
        covariance,
        failed,
    )
