"""The tax against size: a generalised least squares line over ln N, and where it crosses zero (Fieller's theorem)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from analysis.estimates import Estimate, t_quantile

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """y = a + b (x - centre) with the joint covariance of (a, b) and t degrees of freedom."""

    a: float
    b: float
    covariance: Floats  # (2, 2)
    centre: float
    df: float
    tau2: float  # variance of a size's true value about the line
    n: int

    @property
    def slope(self) -> Estimate:
        return Estimate(self.b, math.sqrt(self.covariance[1, 1]), self.n, self.df)

    @property
    def intercept(self) -> Estimate:
        """At x = 0."""
        gradient = np.array([1.0, -self.centre])
        variance = float(gradient @ self.covariance @ gradient)
        return Estimate(self.a - self.b * self.centre, math.sqrt(variance), self.n, self.df)


def gls_line(x: Floats, y: Floats, covariance: Floats) -> Line:
    """The line through correlated estimates ``y`` with their (k, k) covariance; k >= 3, t on k - 2.

    ``tau2`` is added to every size's variance so that the generalised Q equals its expectation k - 2
    (Paule and Mandel 1982), and is zero where the points lie closer to the line than their errors. The covariance
    is scaled by Q / (k - 2) (Hartung-Knapp), but never so far that t^2 times it falls below z^2 times the unscaled.
    """
    centre = float(x.mean())
    design = np.column_stack([np.ones_like(x), x - centre])
    df = len(x) - 2

    def solve(tau2: float) -> tuple[Floats, Floats, float]:
        weight = np.linalg.pinv(covariance + tau2 * np.eye(len(x)), hermitian=True)
        spread: Floats = np.asarray(np.linalg.inv(design.T @ weight @ design), dtype=float)
        beta = np.asarray(spread @ design.T @ weight @ y)
        residual = y - design @ beta
        return beta, spread, float(residual @ weight @ residual)

    tau2, high = 0.0, float(np.ptp(y) ** 2) + 1e-300
    if solve(0.0)[2] > df:
        while solve(high)[2] > df:
            high *= 4
        tau2 = float(optimize.brentq(lambda v: solve(v)[2] - df, 0.0, high))
    beta, spread, q = solve(tau2)
    spread = spread * max(q / df, (t_quantile(0.975, None) / t_quantile(0.975, df)) ** 2)
    return Line(float(beta[0]), float(beta[1]), spread, centre, df, tau2, len(x))


@dataclass(frozen=True)
class Root:
    """Where a line is zero. ``interval``: [low, high]; ``ray``: the set is unbounded but leaves out a gap, and
    low or high is None on the open side of the part that holds ``value``; ``none``: nothing can be said."""

    kind: str
    value: float | None
    low: float | None
    high: float | None
    g: float | None  # t^2 var(b) / b^2; below 1 the interval is finite


def fieller_root(line: Line, level: float = 0.95) -> Root:
    """The 95 % set of x with a + b (x - centre) = 0: all x at which zero is not rejected (Fieller 1954)."""
    t2 = t_quantile(0.5 + level / 2, line.df) ** 2
    (v_aa, v_ab), (_, v_bb) = line.covariance
    quadratic, linear, constant = line.b**2 - t2 * v_bb, line.a * line.b - t2 * v_ab, line.a**2 - t2 * v_aa
    if line.b == 0:
        return Root("none", None, None, None, None)
    value, g = line.centre - line.a / line.b, t2 * v_bb / line.b**2
    discriminant = linear**2 - quadratic * constant
    if discriminant <= 0 or quadratic == 0:
        return Root("none", value, None, None, g)
    ends = sorted((-linear + sign * math.sqrt(discriminant)) / quadratic + line.centre for sign in (-1, 1))
    if quadratic > 0:
        return Root("interval", value, ends[0], ends[1], g)
    return Root("ray", value, None, ends[0], g) if value <= ends[0] else Root("ray", value, ends[1], None, g)


def shared_covariance(influence: list[dict[Any, float]], variances: list[float]) -> Floats:
    """(k, k) covariance of k sizes' estimates: shared item clusters off the diagonal, ``variances`` on it.

    ``influence[i]`` holds the summed influence of every item cluster at size i. The result is made positive
    semi-definite by raising negative eigenvalues to zero.
    """
    labels = sorted(set().union(*influence), key=str)
    table = np.array([[size.get(label, 0.0) for label in labels] for size in influence])
    covariance = table @ table.T * len(labels) / max(len(labels) - 1, 1)
    scale = np.sqrt(np.minimum(1.0, np.asarray(variances) / np.maximum(np.diag(covariance), 1e-300)))
    covariance = covariance * np.outer(scale, scale)  # a correlation never above 1
    np.fill_diagonal(covariance, variances)
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def exp_or_none(value: float | None) -> float | None:
    """e^value, or None where it is unknown or beyond what a float holds."""
    return None if value is None or abs(value) > 700 else math.exp(value)
