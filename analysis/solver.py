"""Bounded nonlinear least squares for many candidates at once.

One batched Levenberg-Marquardt serves the multi-start, the profiles (a parameter held, the others free) and the
bootstrap (other targets or weights): each is a batch of small problems with the same points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from analysis.laws import Floats, Law

Space = Literal["linear", "log", "logit"]
Bools = NDArray[np.bool_]
TINY = 1e-300
START_DAMPING = 1.0  # of a unit diagonal: a bolder first step can leave the basin for good (NIST Bennett5, start 1)


def transform(y: Floats, space: Space) -> Floats:
    """The scale on which residuals are taken."""
    if space == "log":
        return np.log(np.maximum(y, TINY))
    if space == "logit":
        inside = np.clip(y, 1e-12, 1 - 1e-12)
        return np.log(inside / (1 - inside))
    return y


def slope_of(y: Floats, space: Space) -> Floats:
    """Derivative of ``transform`` at y."""
    if space == "log":
        return 1 / np.maximum(y, TINY)
    if space == "logit":
        inside = np.clip(y, 1e-12, 1 - 1e-12)
        return 1 / (inside * (1 - inside))
    return np.ones_like(y)


@dataclass(frozen=True)
class Problem:
    """Points, weights (of squared residuals in ``space``) and loss of one fit; or of B fits of one law with as many
    points each."""

    law: Law
    x: Floats  # (n, k) or (B, n, k)
    y: Floats  # (n,) or (B, n)
    w: Floats  # (n,) or (B, n)
    space: Space
    signs: Floats  # (p,), or (B, p) with points (B, n, k)
    lower: Floats  # (p,) on fit coordinates
    upper: Floats
    delta: float | None = None  # Huber's, in residual units; None: least squares
    over: float = 1.0  # how many times a point counts that is predicted too high

    def model(self, u: Floats) -> tuple[Floats, Floats]:
        """(B, n) fitted values in ``space`` and their (B, n, p) derivatives by u."""
        value, grad = self.law.evaluate(self.x, u, self.signs)
        return transform(value, self.space), grad * slope_of(value, self.space)[..., None]

    @property
    def exact(self) -> bool:
        """Whether least squares is a linear problem. Laws that are linear in all parameters have no bounds."""
        return self.law.linear and self.space == "linear" and self.delta is None

    def of_rows(self, rows: NDArray[np.intp]) -> Problem:
        """The problem of some candidates: of their own points where it is of a batch."""
        return self if self.x.ndim == 2 else replace(self, x=self.x[rows], signs=self.signs[rows])

    def cost(self, residual: Floats) -> Floats:
        """(B,) the objective: half the sum of squares, or the sum of Huber's function."""
        size = np.minimum(np.abs(residual), 1e100)  # a wild candidate costs much, not infinity
        if self.delta is None:
            return np.asarray(0.5 * (size**2).sum(axis=-1))
        huber = np.where(size <= self.delta, 0.5 * size**2, self.delta * (size - self.delta / 2))
        return np.asarray((huber * self._sides(residual)).sum(axis=-1))

    def tempered(self, residual: Floats) -> Floats:
        """Weights that make Huber's gradient a weighted least-squares gradient."""
        if self.delta is None:
            return np.ones_like(residual)
        return np.minimum(1.0, self.delta / np.maximum(np.abs(residual), TINY)) * self._sides(residual)

    def _sides(self, residual: Floats) -> Floats | float:
        return 1.0 if self.over == 1.0 else np.where(residual > 0, self.over, 1.0)


@dataclass(frozen=True)
class Solution:
    """Where each candidate of a batch ended: coordinates (B, p), cost (B,), and whether it converged (B,)."""

    u: Floats
    cost: Floats
    converged: Bools


def levenberg(
    problem: Problem, start: Floats, target: Floats | None = None, weights: Floats | None = None,
    free: Bools | None = None, max_iterations: int = 200,
) -> Solution:  # fmt: skip
    """Minimise from every row of ``start`` (B, p) within the bounds.

    ``target`` (B, n) replaces the transformed y, ``weights`` (B, n) the weights, and parameters where ``free``
    (B, p) is False stay where they start. A linear problem with all parameters free is solved directly.
    """
    u = np.clip(start, problem.lower, problem.upper)
    batch, p = u.shape
    goal = transform(problem.y, problem.space) if target is None else target
    root = np.sqrt(problem.w if weights is None else weights)
    if problem.exact and free is None:
        return _solved(problem, u, goal, root)
    goal, root = (np.broadcast_to(v, (batch, problem.y.shape[-1])) for v in (goal, root))
    movable = np.ones((batch, p), dtype=bool) if free is None else free
    fitted, grad = problem.model(u)
    residual, jac = root * (fitted - goal), root[..., None] * grad
    cost, damping, done = problem.cost(residual), np.full(batch, START_DAMPING), np.zeros(batch, dtype=bool)
    live = np.arange(batch)
    for _ in range(max_iterations):
        step, predicted = _step(problem, u[live], residual[live], jac[live], damping[live], movable[live])
        trial = np.clip(u[live] + step, problem.lower, problem.upper)
        fitted, grad = problem.of_rows(live).model(trial)
        new_residual = root[live] * (fitted - goal[live])
        new_cost = problem.cost(new_residual)
        better = new_cost < cost[live]
        finished = (predicted <= 1e-14 * (cost[live] + TINY)) | (damping[live] > 1e14)
        moved = live[better]
        u[moved], residual[moved], cost[moved] = trial[better], new_residual[better], new_cost[better]
        jac[moved] = (root[live][..., None] * grad)[better]
        damping[live] = np.where(better, np.maximum(damping[live] / 5, 1e-12), damping[live] * 4)
        done[live[finished]] = True
        live = live[~finished]
        if not len(live):
            break
    return Solution(u, cost, done)


def _solved(problem: Problem, u: Floats, goal: Floats, root: Floats) -> Solution:
    """A linear problem from u (B, p), with goal and root of the weights (n,) or (B, n): one pseudo-inverse for all
    candidates that share points and weights."""
    fitted, grad = problem.model(u)
    shared = root.ndim == 1 and problem.x.ndim == 2
    design = root[..., None] * (grad[:1] if shared else grad)
    scale = np.maximum(np.linalg.norm(design, axis=1, keepdims=True), TINY)
    inverse = np.linalg.pinv(design / scale) / np.swapaxes(scale, 1, 2)
    missing = root * (goal - fitted)
    u = u + (missing @ inverse[0].T if shared else (inverse @ missing[..., None])[..., 0])
    return Solution(u, problem.cost(root * (problem.model(u)[0] - goal)), np.asarray(np.isfinite(u).all(axis=1)))


def _step(
    problem: Problem, u: Floats, residual: Floats, jac: Floats, damping: Floats, movable: Bools
) -> tuple[Floats, Floats]:
    """The damped Gauss-Newton step (B, p) on the parameters not held at a bound, and the decrease it predicts."""
    if problem.delta is None:
        weighted, bent = residual, jac
    else:
        temper = problem.tempered(residual)
        weighted, bent = residual * temper, jac * temper[..., None]
    hessian = np.swapaxes(bent, 1, 2) @ jac
    gradient = (weighted[:, None] @ jac)[:, 0]
    held = ((u <= problem.lower) & (gradient > 0)) | ((u >= problem.upper) & (gradient < 0)) | ~movable
    gradient = np.where(held, 0.0, gradient)
    diagonal = np.einsum("bii->bi", hessian)
    scale = 1 / np.sqrt(np.where(held | (diagonal <= 0), 1.0, diagonal))
    hessian = hessian * scale[:, :, None] * scale[:, None, :]
    hessian = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian)
    index = np.arange(u.shape[1])
    hessian[:, index, index] = np.where(held, 1.0, hessian[:, index, index] + damping[:, None])
    scaled = -np.linalg.solve(hessian, (gradient * scale)[..., None])[..., 0]
    predicted = -0.5 * (scaled * gradient * scale).sum(axis=1)
    return scaled * scale, predicted


def polish(problem: Problem, u: Floats) -> tuple[Floats, float, bool]:
    """One candidate (p,) refined by scipy's least_squares (trust region, analytic derivatives), for least squares;
    by BFGS on the summed objective for Huber's. Returns coordinates, cost and whether it converged."""
    goal, root = transform(problem.y, problem.space), np.sqrt(problem.w)

    def residuals(v: Floats) -> Floats:
        return np.asarray(root * (problem.model(v[None])[0][0] - goal))

    def jacobian(v: Floats) -> Floats:
        return np.asarray(root[:, None] * problem.model(v[None])[1][0])

    def objective(v: Floats) -> tuple[float, Floats]:
        r = residuals(v)
        return float(problem.cost(r)), jacobian(v).T @ (r * problem.tempered(r))

    if problem.delta is not None:
        bounds = list(zip(problem.lower, problem.upper, strict=True))
        found = optimize.minimize(objective, u, jac=True, method="L-BFGS-B", bounds=bounds,
                                  options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10})  # fmt: skip
        return np.asarray(found.x), float(found.fun), bool(found.success)
    interior = bool(((u > problem.lower) & (u < problem.upper)).all())
    # a linear problem is solved already; at a bound the batch's own active set has the answer
    if problem.exact or not interior or len(problem.y) < len(u):
        return u, float(problem.cost(residuals(u))), True
    result = optimize.least_squares(
        residuals, u, jacobian, method="lm", x_scale="jac", xtol=1e-13, ftol=1e-13, gtol=1e-13
    )
    inside = bool(((result.x >= problem.lower) & (result.x <= problem.upper)).all())
    before = float(problem.cost(residuals(u)))
    if inside and result.cost <= before:
        return np.asarray(result.x), float(result.cost), result.status > 0
    return u, before, result.status > 0 and result.cost >= before * (1 - 1e-8)
