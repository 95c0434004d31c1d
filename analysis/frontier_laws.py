"""Which law does score against sqrt(KL) follow? Four shapes on the same points, by AICc and by what lies farther out.

All runs of a size share a law's shape and each has a height of its own, since runs differ in how far they get and that
is no matter of shape. Points of one run are one history and are not counted one by one: with residuals whose neighbours
correlate by rho, K points say as much as K (1 - rho) / (1 + rho) independent ones, and a run never less than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.frames import Model
from analysis.frontier import SCORES, Curve
from analysis.frontier_fits import points_of

Floats = NDArray[np.float64]
Shape = Callable[[Floats, Floats], Floats]  # d (n,) over the farthest and candidates (B,) -> (B, n)
ANGLES = np.linspace(-math.pi / 2, math.pi / 2, 721)  # between a line and the law's second term, all proportions
SHAPES: dict[str, tuple[Shape, Floats]] = {
    "sqrt-kl-linear": (lambda d, t: np.broadcast_to(d, (len(t), len(d))), np.zeros(1)),
    "sqrt-kl-power": (lambda d, t: d[None] ** t[:, None], np.geomspace(0.02, 5.0, 721)),
    "bon": (lambda d, t: np.cos(t)[:, None] * d - np.sin(t)[:, None] * d**2, ANGLES),
    "rl": (lambda d, t: np.cos(t)[:, None] * d - np.sin(t)[:, None] * d * np.log(d), ANGLES),
}
HELD_OUT = 2 / 3  # of a size's farthest sqrt(KL): what lies beyond is predicted from what lies nearer
MIN_HELD = 3  # points on either side of that
ALL = "all"
NOT_COMPARED = "not compared by AICc: the points are worth too few independent ones"


@dataclass(frozen=True)
class Points:
    """Resolved evaluations of one size's runs in order: sqrt(KL) above 0, score and run of each (n,)."""

    model: Model
    x: Floats
    y: Floats
    run: NDArray[np.intp]

    def kept(self, which: NDArray[np.bool_]) -> Points:
        return Points(self.model, self.x[which], self.y[which], self.run[which])

    @property
    def n_runs(self) -> int:
        return len(set(self.run.tolist()))


@dataclass(frozen=True)
class Fitted:
    """A law's shape and every run's height, by least squares."""

    law: str
    theta: float
    heights: dict[int, float]
    scale: float  # what distances were divided by

    @property
    def n_parameters(self) -> int:
        return len(self.heights) + (self.law != "sqrt-kl-linear")

    def at(self, x: Floats, run: NDArray[np.intp]) -> Floats:
        """(n,) the law at distances x of runs that it was fitted to."""
        shape = SHAPES[self.law][0](x / self.scale, np.array([self.theta]))[0]
        return np.asarray(shape * np.array([self.heights[int(r)] for r in run]))


def law_rows(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """One row per size, score and law, and per score one of all sizes together, whose AICc are the sums."""
    rows = []
    for name in SCORES:
        sizes = [points for runs in by_size(curves, name) if (points := points_over(runs, name)) is not None]
        own = [size_rows(points, name) for points in sizes]
        rows += [row for size in own for row in size]
        if len(own) > 1:
            rows += _together(own, name)
    return rows


def by_size(curves: Sequence[Curve], name: str) -> list[list[Curve]]:
    """The finished runs in which that score was measured, size by size."""
    usable = [c for c in curves if c.finished and SCORES[name] in c.values and c.resolved().any()]
    models = sorted({c.model for c in usable}, key=lambda m: (m.n_params, m.name))
    return [[c for c in usable if c.model == model] for model in models]


def points_over(runs: Sequence[Curve], name: str) -> Points | None:
    """The points of all runs of a size; None where there are none."""
    parts = [points_of(curve, name) for curve in runs]
    run = np.repeat(np.arange(len(runs)), [len(x) for x, _ in parts])
    x, y = (np.concatenate(side) for side in zip(*parts, strict=True))
    points = Points(runs[0].model, x, y, run).kept(x > 0)
    return points if len(points.x) else None


def fit_shape(law: str, points: Points) -> Fitted:
    """The shape with the least sum of squares, every run at its best height, by search over the grid of shapes."""
    shape, grid = SHAPES[law]
    scale = float(points.x.max())
    values = shape(points.x / scale, grid)  # (B, n)
    runs = np.unique(points.run)
    mine = (points.run == runs[:, None]).astype(float)  # (G, n)
    top, bottom = (values * points.y) @ mine.T, np.maximum(values**2 @ mine.T, 1e-300)  # (B, G)
    best = int(np.argmax((top**2 / bottom).sum(axis=1)))
    heights = {int(r): float(h) for r, h in zip(runs, top[best] / bottom[best], strict=True)}
    return Fitted(law, float(grid[best]), heights, scale)


# ---------------------------------------------------------------- AICc


def effective_number(residual: Floats, run: NDArray[np.intp]) -> float:
    """How many independent points the residuals (n,) of these runs, in the order of training, are worth."""
    own = [residual[run == r] for r in np.unique(run)]
    pairs, total = sum(len(r) - 1 for r in own), float(residual @ residual)
    rho = 0.0
    if total > 0 and pairs > 0:
        rho = (sum(float(r[:-1] @ r[1:]) for r in own) / pairs) / (total / len(residual))
        rho = min(max(rho + (1 + 3 * rho) / len(residual), 0.0), 0.99)  # short series: Marriott and Pope 1954
    return sum(max(1.0, len(r) * (1 - rho) / (1 + rho)) for r in own)


def aicc_of(sse: float, n_points: int, n: float, parameters: int) -> float | None:
    """n ln(SSE / points) + 2k + 2k(k + 1) / (n - k - 1) with k counting the variance; None where n <= k + 1."""
    k = parameters + 1
    if n <= k + 1 or sse <= 0:
        return None
    return n * math.log(sse / n_points) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def size_rows(points: Points, name: str) -> list[dict[str, Any]]:
    """One row per law of one size and score."""
    found = {law: fit_shape(law, points) for law in SHAPES}
    residuals = {law: points.y - fitted.at(points.x, points.run) for law, fitted in found.items()}
    n = effective_number(min(residuals.values(), key=lambda r: float(r @ r)), points.run)
    labels = {"model": points.model.name, "n_params": points.model.n_params, "score": name}
    labels |= {"n_points": len(points.x), "n_runs": points.n_runs, "n_effective": n}
    held_out, rows = beyond(points), []
    for law, fitted in found.items():
        aicc = aicc_of(float(residuals[law] @ residuals[law]), len(points.x), n, fitted.n_parameters)
        rows.append(labels | {"law": law, "aicc": aicc} | held_out[law])
    return _with_weights(rows)


def _with_weights(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every law's AICc minus the best's, and Akaike weights; None unless all laws have one."""
    known = [row["aicc"] for row in rows]
    if any(value is None for value in known):
        return [row | {"delta_aicc": None, "weight": None, "note": NOT_COMPARED} for row in rows]
    best = min(known)
    shares = [math.exp(-(value - best) / 2) for value in known]
    return [
        row | {"delta_aicc": row["aicc"] - best, "weight": share / sum(shares), "note": None}
        for row, share in zip(rows, shares, strict=True)
    ]


def _together(own: Sequence[Sequence[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    """The laws over all sizes whose AICc is known, each size with parameters of its own."""
    compared = [size for size in own if size[0]["delta_aicc"] is not None]
    rows = []
    for i, law in enumerate(SHAPES):
        here = [size[i] for size in compared]
        row = {"model": ALL, "n_params": None, "score": name, "law": law}
        row |= {key: sum(r[key] for r in here) for key in ("n_points", "n_runs", "n_effective")}
        row |= {"aicc": sum(r["aicc"] for r in here) if here else None}
        rows.append(row | NOTHING)
    return _with_weights(rows)


# ---------------------------------------------------------------- what lies farther out

NOTHING: dict[str, Any] = dict.fromkeys(("held_out_rmse", "last_value_rmse", "beats_last_value")) | {"n_held_out": 0}


def beyond(points: Points) -> dict[str, dict[str, Any]]:
    """Every law fitted to the points nearer than two thirds of the farthest sqrt(KL) and asked for the others: its
    error (root mean square) beside that of each run's last near point. Nulls with too few points on either side."""
    near = points.x <= HELD_OUT * float(points.x.max())
    far = ~near & np.isin(points.run, points.run[near])  # of runs that have a near point to go on from
    if near.sum() < MIN_HELD or far.sum() < MIN_HELD:
        return dict.fromkeys(SHAPES, NOTHING)
    train, test = points.kept(near), points.kept(far)
    last = {r: train.y[train.run == r][int(np.argmax(train.x[train.run == r]))] for r in np.unique(train.run)}
    naive = _rmse(test.y - np.array([last[r] for r in test.run]))
    found = {}
    for law in SHAPES:
        error = _rmse(test.y - fit_shape(law, train).at(test.x, test.run))
        found[law] = {"held_out_rmse": error, "last_value_rmse": naive, "beats_last_value": error < naive}
        found[law] |= {"n_held_out": int(far.sum())}
    return found


def _rmse(error: Floats) -> float:
    return float(np.sqrt(np.mean(error**2)))
