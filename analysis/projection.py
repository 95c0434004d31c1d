"""Variable projection: parameters that a law is linear in are solved for, and only the others are searched.

Golub and Pereyra 1973, with Kaufman's 1975 approximation of the derivatives. The search has one or two dimensions
instead of three to six and is well conditioned, so that a start far off reaches the minimum.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import optimize

from analysis.laws import Floats
from analysis.solver import Problem

MAX_EVALUATIONS = 200
WORSE = 1e100  # a residual where the law is not finite
_Place = tuple[Floats, Floats]  # values (n,) and derivatives (n, p) of the law


class _Projected:
    """The problem as a function of the parameters that are not solved for; bounds of the solved ones are ignored."""

    def __init__(self, problem: Problem, u: Floats) -> None:
        self.problem, self.u, self.root = problem, u, np.sqrt(problem.w)
        self.solved = np.array([name in problem.law.projected for name in problem.law.params])
        self.logs = problem.law.logs[self.solved]
        self.last: tuple[bytes, _Place] | None = None

    def at(self, free: Floats) -> tuple[Floats, Floats]:
        """The coordinates (p,) and signs (p,) with the linear parameters at their best for ``free``; nan where the
        law is not finite. Amplitudes far from their best would drown y, so they are solved for twice."""
        u, signs = self.u.copy(), self.problem.signs.copy()
        u[~self.solved] = free
        for _ in range(2 if self.logs.any() else 1):
            u[self.solved] = np.where(self.logs, u[self.solved], 0.0)
            best = self._solve(u, signs)
            size = np.log(np.maximum(np.abs(best), 1e-300))
            u[self.solved] = np.where(self.logs, u[self.solved] + size, best)
            signs[self.solved] *= np.where(self.logs & (best < 0), -1.0, 1.0)
        return u, signs

    def _solve(self, u: Floats, signs: Floats) -> Floats:
        """The linear parameters; those held as logarithms as factors of what they are at u."""
        value, grad = self.problem.law.evaluate(self.problem.x, u[None], signs)
        columns = grad[0][:, self.solved]  # of a parameter held as a logarithm: times the parameter
        goal = self.problem.y - value[0] + columns @ np.where(self.logs, 1.0, 0.0)
        if not (np.isfinite(columns).all() and np.isfinite(goal).all()):
            return np.full(columns.shape[1], np.nan)
        scale = np.maximum(np.linalg.norm(columns * self.root[:, None], axis=0), 1e-300)
        return np.asarray(np.linalg.lstsq(columns * self.root[:, None] / scale, goal * self.root)[0] / scale)

    def _evaluated(self, free: Floats) -> _Place:
        """The law with the linear parameters at their best: derivatives are asked for where residuals just were."""
        if self.last is None or self.last[0] != free.tobytes():
            u, signs = self.at(free)
            value, grad = self.problem.law.evaluate(self.problem.x, u[None], signs)
            self.last = free.tobytes(), (value[0], grad[0])
        return self.last[1]

    def residual(self, free: Floats) -> Floats:
        """(n,) weighted residuals at the best linear parameters."""
        residual = self.root * (self._evaluated(free)[0] - self.problem.y)
        return np.where(np.isfinite(residual), residual, WORSE)  # a step there is taken back

    def jacobian(self, free: Floats) -> Floats:
        """(n, free) Kaufman's derivatives: those of the law, less what the linear parameters make up for."""
        grad = self.root[:, None] * self._evaluated(free)[1]
        columns = grad[:, self.solved]
        basis = np.linalg.qr(columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300))[0]
        slopes = grad[:, ~self.solved]
        return np.asarray(slopes - basis @ (basis.T @ slopes))


def project(problem: Problem, u: Floats) -> tuple[Problem, Floats]:
    """The least-squares minimum near u (p,) in linear space, and the problem with the signs found there.

    The result may lie outside the bounds of the linear parameters; u itself comes back where there is nothing to
    solve for, nothing to search, or the search broke down.
    """
    solved = set(problem.law.projected)
    if problem.space != "linear" or problem.delta is not None or not 0 < len(solved) < len(u):
        return problem, u
    part = _Projected(problem, u)
    low, high = problem.lower[~part.solved], problem.upper[~part.solved]
    free = u[~part.solved]
    if ((free <= low) | (free >= high)).any():  # least_squares wants to start inside
        return problem, u
    try:
        found = optimize.least_squares(
            part.residual, free, part.jacobian, bounds=(low, high), x_scale="jac", max_nfev=MAX_EVALUATIONS
        )
    except (ValueError, np.linalg.LinAlgError):  # a start where the law is no number
        return problem, u
    best, signs = part.at(found.x)
    if not np.isfinite(best).all():
        return problem, u
    return replace(problem, signs=signs), best
