"""The search for a fit's optimum: a law's grid of starts, variable projection, the batched solver, a last polish."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.fit_result import Loss
from analysis.intervals import Optimum
from analysis.laws import Floats, Law
from analysis.projection import project
from analysis.solver import Problem, Space, levenberg, polish, slope_of, transform

HOFFMANN_DELTA = 1e-3  # on log residuals, Hoffmann et al. 2022
# A prediction too high counts ten times: a run can be worse than its law, hardly better (kyo-takano/chinchilla).
OVER = 10.0
ABSOLUTE = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # of the robust standard deviation
N_FOLLOWED = 8  # of the grid's starts, the best; the very best also by variable projection


def make_problem(of: Law, x: Floats, y: Floats, se: Floats | None, space: Space) -> Problem:
    """Weights and bounds on fit coordinates. A floor E is kept at or above 0 where every y is."""
    w = np.ones_like(y) if se is None else 1 / (se * slope_of(y, space)) ** 2
    w = w / np.exp(np.log(w).mean())
    lower, upper = np.array(of.lower), np.array(of.upper)
    if of.params[0] == "E" and lower[0] < 0 and (y >= 0).all():
        lower[0] = 0.0
    if "x1" in of.params:  # a break outside the points cannot be seen
        lower[of.params.index("x1")], upper[of.params.index("x1")] = x.min(), x.max()
    with np.errstate(divide="ignore"):
        lower = np.where(of.logs & (lower > 0), np.log(np.maximum(lower, 1e-300)), np.where(of.logs, -math.inf, lower))
        upper = np.where(of.logs, np.log(np.maximum(upper, 1e-300)), upper)
    return Problem(of, x, y, w, space, np.ones(len(lower)), lower, upper)


@dataclass(frozen=True)
class Found:
    """The best optimum over all starts; how many of those followed to the end came within 1e-6 of its objective."""

    best: Optimum
    converged: bool
    n_starts: int
    n_followed: int
    n_at_best: int


def solve(problem: Problem, loss: Loss) -> Found:
    """The best optimum over all of the law's starts, with the signs of amplitudes and the loss settled."""
    problem, starts, n_starts = _candidates(problem)
    best = _descend(problem, starts)
    for robust in _robust(problem, best.u, loss):
        problem = robust
        best = _descend(robust, np.vstack([best.u[None], starts]))
    goal, root = transform(problem.y, problem.space), np.sqrt(problem.w)
    fitted, grad = problem.model(best.u[None])
    optimum = Optimum(problem, best.u, root * (fitted[0] - goal), root[:, None] * grad[0])
    return Found(optimum, best.converged, n_starts, len(starts), best.n_at_best)


def solve_each(problems: Sequence[Problem]) -> list[Found]:
    """``solve`` by least squares for problems of one law and bounds with as many points each, all in one batch; from
    the best starts on the grid alone, which is fine enough for a law with one exponent."""
    starts, signs, tried = _best_of_grids(problems)
    n, followed, width = starts.shape
    each = np.arange(n)
    found = levenberg(_batch(problems, np.repeat(each, followed), signs), starts.reshape(-1, width))
    ends = found.cost.reshape(n, followed)
    best = ends.argmin(axis=1)
    at_best = (ends <= ends[each, best][:, None] * (1 + 1e-6) + 1e-300).sum(axis=1)
    rows = each * followed + best
    settled, u = _batch(problems, each, signs), found.u[rows]
    fitted, grad = settled.model(u)
    root = np.sqrt(settled.w)
    residual, jac = root * (fitted - transform(settled.y, settled.space)), root[..., None] * grad
    return [
        Found(
            Optimum(replace(one, signs=signs[i]), u[i], residual[i], jac[i]), bool(found.converged[rows[i]]),
            tried, followed, int(at_best[i]),
        )
        for i, one in enumerate(problems)
    ]  # fmt: skip


def _best_of_grids(problems: Sequence[Problem]) -> tuple[Floats, Floats, int]:
    """Every problem's best starts (R, S, p), the signs (R, p) of the very best, and the size of the grid."""
    raw = np.array([one.law.starts(one.x, one.y, one.w * slope_of(one.y, one.space) ** 2) for one in problems])
    of, n, tried = problems[0], len(raw), raw.shape[1]
    u = np.clip(of.law.coordinates(raw), of.lower, of.upper)
    signs = np.where(raw < 0, -1.0, 1.0)
    cost = np.array([_costs(*each) for each in zip(problems, signs, u, strict=True)])
    order = np.argsort(cost, axis=1, kind="stable")[:, :N_FOLLOWED]
    return np.take_along_axis(u, order[..., None], axis=1), signs[np.arange(n), order[:, 0]], tried


def _batch(problems: Sequence[Problem], rows: NDArray[np.intp], signs: Floats) -> Problem:
    """The problems of these indices as one; ``signs`` (R, p)."""
    x, y, w = (np.array([getattr(one, name) for one in problems])[rows] for name in ("x", "y", "w"))
    return replace(problems[0], x=x, y=y, w=w, signs=signs[rows])


def _candidates(problem: Problem) -> tuple[Problem, Floats, int]:
    """The problem with its signs, the best starts (S, p) from the grid and by projection, and the grid's size."""
    of = problem.law
    raw = of.starts(problem.x, problem.y, problem.w * slope_of(problem.y, problem.space) ** 2)
    signs = np.where(raw < 0, -1.0, 1.0)
    u = np.clip(of.coordinates(raw), problem.lower, problem.upper)
    cost = _costs(problem, signs, u)
    order = np.argsort(cost, kind="stable")[:N_FOLLOWED]
    lead = replace(problem, signs=signs[order[0]])
    starts, lowest = u[order], cost[order[0]]
    projected, v = project(lead, u[order[0]])
    v = np.clip(v, problem.lower, problem.upper)
    if _costs(projected, projected.signs[None], v[None])[0] < lowest:
        lead = projected
    return lead, np.array([*starts, v]), len(raw)


def _costs(problem: Problem, signs: Floats, u: Floats) -> Floats:
    """(S,) the objective at candidates u (S, p) with signs (S, p); infinite where the law is not finite there."""
    goal, root, cost = transform(problem.y, problem.space), np.sqrt(problem.w), np.empty(len(u))
    for own in np.unique(signs, axis=0):
        rows = (signs == own).all(axis=1)
        cost[rows] = problem.cost(root * (replace(problem, signs=own).model(u[rows])[0] - goal))
    return np.where(np.isfinite(cost), cost, math.inf)


def _robust(problem: Problem, u: Floats, loss: Loss) -> Iterator[Problem]:
    """The problems of a robust loss, to be solved one after the other; none for least squares.

    ``huber``: delta is 1.345 robust standard deviations. ``hoffmann``: as published. ``asymmetric``: an absolute
    error, approached by ever smaller deltas, since at a tiny one the objective has a kink at every point.
    """
    residual = np.sqrt(problem.w) * (problem.model(u[None])[0][0] - transform(problem.y, problem.space))
    scale = max(float(np.median(np.abs(residual - np.median(residual)))) / 0.6745, 1e-12)
    if loss == "huber":
        yield replace(problem, delta=1.345 * scale)
    elif loss == "hoffmann":
        yield replace(problem, delta=HOFFMANN_DELTA)
    elif loss == "asymmetric":
        for share in ABSOLUTE:
            yield replace(problem, delta=share * scale, over=OVER)


@dataclass(frozen=True)
class _Descent:
    u: Floats
    converged: bool
    n_at_best: int


def _descend(problem: Problem, starts: Floats) -> _Descent:
    robust = problem.delta is not None
    found = levenberg(problem, starts, max_iterations=2000 if robust else 200)
    best = int(np.argmin(found.cost))
    u, cost, polished = polish(problem, found.u[best])
    converged = polished
    if found.cost[best] <= cost:
        u, cost, converged = found.u[best], float(found.cost[best]), bool(found.converged[best]) or polished
    return _Descent(u, converged, int((found.cost <= cost * (1 + 1e-6) + 1e-300).sum()))
