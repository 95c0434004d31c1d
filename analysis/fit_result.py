"""A fitted law as an immutable object: parameters with intervals, status, notes, predictions and bands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.estimates import t_quantile
from analysis.laws import Floats, law
from analysis.solver import Space, slope_of, transform

Loss = Literal["ls", "huber", "hoffmann"]
Status = Literal["ok", "at_bound", "not_identified", "not_converged"]


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
    delta_aicc: float | None = None  # minus the AICc of the log-linear law on the same points; None: not compared

    def predict(self, x: ArrayLike) -> Floats:
        """(n,) the fitted law at x (n,) or (n, k); nan where the parameters are unknown."""
        points = as_columns(x)
        raw = [self.params[name].value for name in self.params]
        if any(value is None for value in raw):
            return np.full(len(points), math.nan)
        return law(self.law, len(self.x)).values(points, np.array(raw, dtype=float))

    def band(self, x: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
        """(n,) low and high of the mean at x by the delta method with t; nan where the covariance is unknown."""
        points, middle = as_columns(x), self.predict(x)
        covariance = np.array([[math.nan if v is None else v for v in row] for row in self.covariance], dtype=float)
        if not len(covariance) or np.isnan(middle).any() or self.df is None:
            return np.full(len(points), math.nan), np.full(len(points), math.nan)
        of = law(self.law, len(self.x))
        raw = np.array([self.params[name].value for name in self.params], dtype=float)
        value, grad = of.evaluate(points, of.coordinates(raw)[None], np.where(raw < 0, -1.0, 1.0))
        grad = grad[0] * slope_of(value[0], self.space)[:, None]
        variance = np.einsum("ni,ij,nj->n", grad, covariance, grad)
        half = np.sqrt(np.maximum(variance, 0.0)) * t_quantile(0.5 + level / 2, self.df)
        centre = transform(middle, self.space)
        return _back(centre - half, self.space), _back(centre + half, self.space)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: None where unknown, never nan."""
        params = {name: vars(param) for name, param in self.params.items()}
        return {
            "law": self.law, "formula": self.formula, "group": self.group, "x": list(self.x), "y": self.y,
            "params": params, "ci_method": self.ci_method, "n_points": self.n_points, "n_clusters": self.n_clusters,
            "aicc": self.aicc, "status": self.status, "notes": [vars(note) for note in self.notes], "r2": self.r2,
            "loss": self.loss, "space": self.space, "x_range": [list(r) for r in self.x_range],
            "residual_sd": self.residual_sd, "df": self.df, "delta_aicc": self.delta_aicc,
            "covariance": [list(row) for row in self.covariance],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FitResult:
        """The inverse of ``to_dict``."""
        fields = dict(value)
        fields["params"] = {name: Param(**param) for name, param in value["params"].items()}
        fields["notes"] = tuple(Note(**note) for note in value["notes"])
        fields["x"] = tuple(value["x"])
        fields["x_range"] = tuple((low, high) for low, high in value["x_range"])
        fields["covariance"] = tuple(tuple(row) for row in value["covariance"])
        return cls(**fields)

    def summary(self) -> str:
        """A few lines of text: the law, its parameters with intervals, and every note."""
        clusters = "" if self.n_clusters is None else f", {self.n_clusters} clusters"
        lines = [
            f"{self.law}: {self.y} = {self.formula}   [{self.status}, n = {self.n_points}{clusters}, {self.ci_method}]"
        ]
        for name, p in self.params.items():
            ends = f"[{_show(p.low)}, {_show(p.high)}]"
            lines.append(f"  {name:<7} {_show(p.value):>12}   se {_show(p.se):>10}   95 % {ends}")
        compared = "" if self.delta_aicc is None else f", {self.delta_aicc:+.2f} against log-linear"
        lines.append(f"  R2 {_show(self.r2)}   AICc {_show(self.aicc)}{compared}")
        return "\n".join(lines + [f"  note ({note.code}): {note.message}" for note in self.notes])


def _show(value: float | None) -> str:
    return "?" if value is None else f"{value:.5g}"


def _back(value: Floats, space: Space) -> Floats:
    if space == "log":
        return np.exp(value)
    return 0.5 * (1 + np.tanh(value / 2)) if space == "logit" else value


def as_columns(x: ArrayLike) -> Floats:
    """x as (n, k) floats."""
    array = np.asarray(x, dtype=float)
    return array[:, None] if array.ndim == 1 else array
