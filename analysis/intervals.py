"""Intervals of fitted parameters, all on fit coordinates: profile-t, Wald-t, cluster-robust, per-run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.estimates import Codes, t_quantile
from analysis.laws import Floats
from analysis.solver import Bools, Problem, levenberg

MAX_PROFILE_STEPS = 40


@dataclass(frozen=True)
class Uncertainty:
    """Per parameter (p,): standard error and interval ends; nan is unknown, +-inf an end that is open."""

    se: Floats
    low: Floats
    high: Floats
    method: str
    covariance: Floats  # (p, p), nan where unknown
    failed: float = 0.0  # share of bootstrap draws that did not converge
    within_sd: float | None = None  # of points about the law of their own run


def unknown(p: int, method: str = "none") -> Uncertainty:
    """No statement about any of ``p`` parameters."""
    nan = np.full(p, math.nan)
    return Uncertainty(nan, nan, nan, method, np.full((p, p), math.nan))


@dataclass(frozen=True)
class Optimum:
    """A fitted problem: coordinates (p,), weighted residuals (n,) and their derivatives (n, p) there."""

    problem: Problem
    u: Floats
    residual: Floats
    jac: Floats

    @property
    def inside(self) -> Bools:
        """(p,) parameters that are not at a bound."""
        return (self.u > self.problem.lower) & (self.u < self.problem.upper)

    @property
    def df(self) -> int:
        return len(self.residual) - len(self.u)

    @property
    def variance(self) -> float:
        """s^2 = SSE / (n - p), nan without degrees of freedom."""
        return float((self.residual**2).sum() / self.df) if self.df > 0 else math.nan

    def bread(self) -> Floats:
        """(J'J)^-1 over the parameters inside their bounds, nan for the others."""
        inside = self.inside
        full = np.full((len(self.u), len(self.u)), math.nan)
        jac = self.jac[:, inside]
        scale = np.linalg.norm(jac, axis=0)
        scale[scale == 0] = 1.0
        full[np.ix_(inside, inside)] = np.linalg.pinv((jac / scale).T @ (jac / scale)) / np.outer(scale, scale)
        return full


def from_covariance(u: Floats, covariance: Floats, df: float, method: str) -> Uncertainty:
    """Symmetric t intervals."""
    se = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    half = se * t_quantile(0.975, df)
    return Uncertainty(se, u - half, u + half, method, covariance)


def wald(best: Optimum) -> Uncertainty:
    """s^2 (J'J)^-1 with t on n - p."""
    if best.df <= 0:
        return unknown(len(best.u))
    return from_covariance(best.u, best.variance * best.bread(), best.df, "wald-t")


def cluster_robust(best: Optimum, cluster: Codes) -> Uncertainty:
    """Sandwich with G/(G-1) * (n-1)/(n-p) and t on G - 1."""
    groups, (n, p) = int(cluster.max()) + 1, best.jac.shape
    if groups < 2 or n <= p:
        return unknown(p)
    scores = np.zeros((groups, p))
    np.add.at(scores, cluster, best.jac * best.residual[:, None])
    bread, inside = best.bread(), best.inside
    meat = scores[:, inside].T @ scores[:, inside] * groups / (groups - 1) * (n - 1) / (n - p)
    covariance = np.full((p, p), math.nan)
    part = bread[np.ix_(inside, inside)]
    covariance[np.ix_(inside, inside)] = part @ meat @ part
    return from_covariance(best.u, covariance, groups - 1, "cluster-robust-t")


# ---------------------------------------------------------------- profile


def profile(best: Optimum) -> Uncertainty:
    """{theta: SSE(theta) - SSE_min <= s^2 t^2(n - p)}, all other parameters refitted; open ends are infinite."""
    start = wald(best)
    if best.df <= 0 or best.variance == 0:
        return start
    if best.problem.law.linear:  # exactly the same set
        return Uncertainty(start.se, start.low, start.high, "profile-t", start.covariance)
    search = _ProfileSearch(best, start)
    low, high = search.run()
    return Uncertainty(start.se, low, high, "profile-t", start.covariance)


class _ProfileSearch:
    """Root finding on both ends of every parameter's interval at once; lane 2j is low, 2j + 1 high."""

    def __init__(self, best: Optimum, start: Uncertainty) -> None:
        self.best, p = best, len(best.u)
        self.which, self.sign = np.repeat(np.arange(p), 2), np.tile([-1.0, 1.0], p)
        self.t = t_quantile(0.975, best.df)
        self.cost = 0.5 * float((best.residual**2).sum())
        guess = np.where(np.isfinite(start.se) & (start.se > 0), start.se, 0.1 + 0.1 * np.abs(best.u))
        self.width = np.repeat(self.t * guess, 2)
        self.limit = 1e3 * self.width
        logs = np.repeat(best.problem.law.logs, 2)
        self.limit[logs] = np.maximum(60.0, 20 * self.width[logs])
        self.direction = np.nan_to_num(start.covariance / np.where(start.se > 0, start.se, np.nan)[:, None] ** 2)

    def run(self) -> tuple[Floats, Floats]:
        lanes = len(self.which)
        inner, inner_z = np.zeros(lanes), np.zeros(lanes)
        outer, outer_z = np.full(lanes, math.inf), np.full(lanes, math.inf)
        ends, live = np.full(lanes, math.nan), np.arange(lanes)
        for _ in range(MAX_PROFILE_STEPS):
            z, at_edge = self._evaluate(live)
            for lane, value, edge in zip(live, z, at_edge, strict=True):
                width = self.width[lane]
                if abs(value - self.t) < 1e-3 * self.t:
                    ends[lane] = width
                elif value > self.t:
                    outer[lane], outer_z[lane] = width, value
                elif edge or width > self.limit[lane]:
                    ends[lane] = width if edge else math.inf
                else:
                    inner[lane], inner_z[lane] = width, value
                self.width[lane] = self._next(inner[lane], inner_z[lane], outer[lane], outer_z[lane])
            live = live[np.isnan(ends[live])]
            if not len(live):
                break
        ends = np.where(np.isnan(ends), outer, ends)
        return self._ends(ends, 0), self._ends(ends, 1)

    def _ends(self, widths: Floats, side: int) -> Floats:
        end = self.best.u + self.sign[side] * widths[side::2]
        problem = self.best.problem
        return np.where(np.isinf(widths[side::2]), end, np.clip(end, problem.lower, problem.upper))

    def _next(self, inner: float, inner_z: float, outer: float, outer_z: float) -> float:
        if math.isinf(outer):
            return inner * min(max(1.05 * self.t / max(inner_z, 1e-9), 1.2), 3.0)
        share = (self.t - inner_z) / max(outer_z - inner_z, 1e-12)
        return inner + (outer - inner) * min(max(share, 0.05), 0.95)

    def _evaluate(self, live: NDArray[np.intp]) -> tuple[Floats, Bools]:
        problem, rows = self.best.problem, np.arange(len(live))
        column = self.which[live]
        shift = self.sign[live] * self.width[live]
        held = np.clip(self.best.u[column] + shift, problem.lower[column], problem.upper[column])
        moved = self.best.u + self.direction[column] * (held - self.best.u[column])[:, None]
        moved[rows, column] = held
        free = np.ones(moved.shape, dtype=bool)
        free[rows, column] = False
        # from the optimum and along the Wald direction: a curved valley defeats either alone
        plain = np.repeat(self.best.u[None], len(live), axis=0)
        plain[rows, column] = held
        found = levenberg(problem, np.vstack([moved, plain]), free=np.vstack([free, free]))
        cost = np.fmin(found.cost[: len(live)], found.cost[len(live) :])
        edge = (held <= problem.lower[column]) | (held >= problem.upper[column])
        return np.sqrt(np.maximum(2 * (cost - self.cost), 0.0) / self.best.variance), edge


# ---------------------------------------------------------------- one fit per run


def per_run(best: Optimum, cluster: Codes) -> tuple[Floats, Uncertainty] | None:
    """For laws with few parameters: the mean of one fit per cluster, with t on G - 1 from their spread.

    None where some cluster cannot be fitted by itself. A run's points may depend on each other in any way.
    """
    groups, p = int(cluster.max()) + 1, len(best.u)
    if not best.problem.law.each_run or groups < 2:
        return None
    problem, sizes = best.problem, np.bincount(cluster)
    ends = np.cumsum(sizes)
    place = (ends - sizes)[:, None] + np.minimum(np.arange(sizes.max()), sizes[:, None] - 1)
    rows = np.argsort(cluster, kind="stable")[place]  # (G, most points of a run), filled up with a run's last point
    own = np.arange(sizes.max()) < sizes[:, None]  # what it is filled up with has no weight
    jac = best.jac[rows] * own[..., None]
    scale = np.linalg.norm(jac, axis=1, keepdims=True)
    if (sizes < p).any() or (scale == 0).any() or (np.linalg.cond(jac / scale) > 1e7).any():
        return None
    signs = np.tile(problem.signs, (groups, 1))
    each = replace(problem, x=problem.x[rows], y=problem.y[rows], w=problem.w[rows] * own, signs=signs)
    found = levenberg(each, np.repeat(best.u[None], groups, axis=0))
    if not found.converged.all():
        return None
    covariance = np.atleast_2d(np.cov(found.u, rowvar=False)) / groups
    u, df = found.u.mean(axis=0), len(cluster) - groups * p
    within = math.sqrt(2 * float(found.cost.sum()) / df) if df > 0 else 0.0  # a run's cost is half its squares
    return u, replace(from_covariance(u, covariance, groups - 1, "per-run-t"), within_sd=within)
