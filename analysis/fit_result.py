"""A fitted law as an immutable object: parameters with intervals, status, notes, predictions and bands."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.estimates import t_quantile
from analysis.laws import SQRT_KL, Floats, law
from analysis.solver import Space, slope_of, transform

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Loss = Literal["ls", "huber", "hoffmann", "asymmetric"]
Status = Literal["ok", "at_bound", "not_identified", "not_converged"]
Kind = Literal["mean", "new_run"]


@dataclass(frozen=True)
class Param:
    """A fitted parameter on the raw scale of x; None is unknown or an open end."""

    value: float | None
    se: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Note:
    """Something a reader of a fit must know."""

    code: str
    message: str


@dataclass(frozen=True)
class Starts:
    """How many starts the law's grid had, how many of the best were followed to the end, and how many of those ended
    within 1e-6 of the best objective: few of many is a sign of several minima."""

    tried: int
    followed: int
    at_best: int


@dataclass(frozen=True)
class Forecast:
    """A fitted law at one x: its value, the ends of both 95 % bands, and how far x lies outside the fitted points.

    None is unknown. ``decades`` is 0 inside; beyond 1 the law itself is a guess that no interval covers.
    """

    x: tuple[float, ...]
    value: float | None
    low: float | None
    high: float | None
    new_run_low: float | None
    new_run_high: float | None
    decades: float


@dataclass(frozen=True)
class FitResult:
    """A fitted law. Immutable; ``to_dict`` is an element of ``results.json``'s ``fits``."""

    law: str
    formula: str
    group: str
    x: tuple[str, ...]
    y: str
    params: Mapping[str, Param]
    ci_method: str
    n_points: int
    n_clusters: int | None
    aicc: float | None
    status: Status
    notes: tuple[Note, ...]
    r2: float | None
    loss: Loss = "ls"
    space: Space = "linear"
    x_range: tuple[tuple[float, float], ...] = ()
    residual_sd: float | None = None  # in ``space``
    covariance: tuple[tuple[float | None, ...], ...] = field(default=(), repr=False)  # of fit coordinates
    df: float | None = None
    bic: float | None = None
    within_sd: float | None = None  # of a run's points about its own law, where runs were fitted one by one
    starts: Starts | None = None
    delta_aicc: float | None = None  # minus the AICc of the log-linear law on the same points; None: not compared

    def predict(self, x: ArrayLike) -> Floats:
        """(n,) the fitted law at x (n,) or (n, k); nan where the parameters are unknown."""
        points = as_columns(x)
        raw = [self.params[name].value for name in self.params]
        if any(value is None for value in raw):
            return np.full(len(points), math.nan)
        return law(self.law, len(self.x)).values(points, np.array(raw, dtype=float))

    def band(self, x: ArrayLike, level: float = 0.95, kind: Kind = "mean") -> tuple[Floats, Floats]:
        """(n,) low and high at x by the delta method with t; nan where the covariance is unknown.

        ``mean`` is the law's own band; ``new_run`` is where one measurement of a run not seen yet falls: wider by
        the scatter of points about the law and, where runs were fitted one by one, by that of runs. With standard
        errors the scatter is that of a point with a typical one (their geometric mean).
        """
        points, middle = as_columns(x), self.predict(x)
        covariance = np.array([[math.nan if v is None else v for v in row] for row in self.covariance], dtype=float)
        if not len(covariance) or np.isnan(middle).any() or self.df is None:
            return np.full(len(points), math.nan), np.full(len(points), math.nan)
        of = law(self.law, len(self.x))
        raw = np.array([self.params[name].value for name in self.params], dtype=float)
        value, grad = of.evaluate(points, of.coordinates(raw)[None], np.where(raw < 0, -1.0, 1.0))
        grad = grad[0] * slope_of(value[0], self.space)[:, None]
        variance = np.einsum("ni,ij,nj->n", grad, covariance, grad)
        if kind == "new_run":
            variance = self._of_new_run(variance)
        half = np.sqrt(np.maximum(variance, 0.0)) * t_quantile(0.5 + level / 2, self.df)
        centre = transform(middle, self.space)
        return _back(centre - half, self.space), _back(centre + half, self.space)

    def _of_new_run(self, variance: Floats) -> Floats:
        """The variance (n,) of the mean law, raised to that of one measurement of a new run."""
        if self.within_sd is not None and self.n_clusters:
            return variance * (1 + self.n_clusters) + self.within_sd**2
        return variance + (math.nan if self.residual_sd is None else self.residual_sd**2)

    def decades(self, x: ArrayLike) -> Floats:
        """(n,) how many powers of ten x lies outside the fitted points, of several columns the most; 0 inside.

        Towards x = 0 of a law of sqrt(KL), where the law is 0 by definition, nothing is extrapolated.
        """
        points, outside = as_columns(x), np.zeros(len(as_columns(x)))
        for column, (low, high) in zip(points.T, self.x_range, strict=True):
            size = np.log10(np.maximum(column, 1e-300))
            below = np.log10(low) - size if low > 0 and self.law not in SQRT_KL else np.zeros(len(column))
            above = size - np.log10(high) if high > 0 else np.where(column > high, math.inf, 0.0)
            outside = np.maximum(outside, np.maximum(below, above))
        return outside

    def forecast(self, x: ArrayLike, level: float = 0.95) -> list[Forecast]:
        """The law at each x, with both bands and the distance of extrapolation."""
        points = as_columns(x)
        (low, high), (new_low, new_high) = self.band(points, level), self.band(points, level, "new_run")
        value, far = self.predict(points), self.decades(points)
        return [
            Forecast(
                x=tuple(float(v) for v in points[i]),
                value=_known(value[i]), low=_known(low[i]), high=_known(high[i]),
                new_run_low=_known(new_low[i]), new_run_high=_known(new_high[i]), decades=float(far[i]),
            )
            for i in range(len(points))
        ]  # fmt: skip

    def plot(self, ax: Axes | None = None, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Axes:
        """The law with its bands, and the points where they are given, on ``ax`` (its own figure without one)."""
        from analysis.fit_plot import plot

        return plot(self, ax, x, y)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: None where unknown, never nan."""
        params = {name: vars(param) for name, param in self.params.items()}
        return {
            "law": self.law, "formula": self.formula, "group": self.group, "x": list(self.x), "y": self.y,
            "params": params, "ci_method": self.ci_method, "n_points": self.n_points, "n_clusters": self.n_clusters,
            "aicc": self.aicc, "status": self.status, "notes": [vars(note) for note in self.notes], "r2": self.r2,
            "loss": self.loss, "space": self.space, "x_range": [list(r) for r in self.x_range],
            "residual_sd": self.residual_sd, "df": self.df, "bic": self.bic, "within_sd": self.within_sd,
            "starts": None if self.starts is None else vars(self.starts), "delta_aicc": self.delta_aicc,
            "covariance": [list(row) for row in self.covariance],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FitResult:
        """The inverse of ``to_dict``."""
        fields = dict(value)
        fields["params"] = {name: Param(**param) for name, param in value["params"].items()}
        fields["notes"] = tuple(Note(**note) for note in value["notes"])
        fields["x"] = tuple(value["x"])
        fields["starts"] = Starts(**value["starts"]) if value.get("starts") else None
        fields["x_range"] = tuple((low, high) for low, high in value["x_range"])
        fields["covariance"] = tuple(tuple(row) for row in value["covariance"])
        return cls(**fields)

    def to_json(self) -> str:
        """``to_dict`` as JSON text; numbers come back bit by bit."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> FitResult:
        """The inverse of ``to_json``."""
        return cls.from_dict(json.loads(text))

    def summary(self) -> str:
        """A few lines of text: the law, its parameters with intervals, and every note."""
        clusters = "" if self.n_clusters is None else f", {self.n_clusters} clusters"
        how = f"{self.loss}, {self.space} residuals, intervals: {self.ci_method}"
        lines = [
            f"{self.law}: {self.y} = {self.formula}   [{self.status}, n = {self.n_points}{clusters}; {how}]",
        ]
        for name, p in self.params.items():
            ends = f"[{_show(p.low)}, {_show(p.high)}]"
            lines.append(f"  {name:<7} {_show(p.value):>12}   se {_show(p.se):>10}   95 % {ends}")
        compared = "" if self.delta_aicc is None else f", {self.delta_aicc:+.2f} against log-linear"
        lines.append(f"  R2 {_show(self.r2)}   AICc {_show(self.aicc)}   BIC {_show(self.bic)}{compared}")
        if self.starts is not None and self.starts.followed > 1:
            lines.append(f"  {self.starts.at_best} of {self.starts.followed} starts followed reach this minimum")
        return "\n".join(lines + [f"  note ({note.code}): {note.message}" for note in self.notes])


def _show(value: float | None) -> str:
    return "?" if value is None else f"{value:.5g}"


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _back(value: Floats, space: Space) -> Floats:
    if space == "log":
        return np.exp(value)
    return 0.5 * (1 + np.tanh(value / 2)) if space == "logit" else value


def as_columns(x: ArrayLike) -> Floats:
    """x as (n, k) floats."""
    array = np.asarray(x, dtype=float)
    return array[:, None] if array.ndim == 1 else array
