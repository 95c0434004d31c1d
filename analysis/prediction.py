"""Leave the largest sizes out, fit the rest, and ask for what was left out; beside it the forecasts that need no law.

A law that is farther off at the largest size than "as at the largest size it was fitted to" does not extrapolate here,
whatever its R2, and is marked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.estimates import t_quantile
from analysis.fits import FitError, fit
from analysis.pm_fits import VALUES, pm_points, point_sets
from analysis.pools import PM

Floats = NDArray[np.float64]
LEFT_OUT = (1, 2)  # largest sizes
NULLS: dict[str, Any] = dict.fromkeys(
    ("predicted", "low", "high", "error", "last_value_error", "mean_error", "in_band", "verdict", "decades")
)


@dataclass(frozen=True)
class Series:
    """One quantity at several sizes (or numbers of comparisons): points x, y (n,), several at one x where several base
    models or runs measured it, and the laws that may describe it."""

    quantity: str
    group: str
    axis: str
    x: Floats
    y: Floats
    laws: tuple[str, ...]


def prediction_rows(series: Iterable[Series]) -> list[dict[str, Any]]:
    """One row per series, law and number of sizes left out, as far as there are sizes to leave out."""
    rows = []
    for one in series:
        levels = np.unique(one.x)
        for left_out in LEFT_OUT:
            if len(levels) - left_out >= 2:
                rows += [_row(one, law, levels, left_out) for law in one.laws]
    return rows


def _row(of: Series, law: str, levels: Floats, left_out: int) -> dict[str, Any]:
    cut, place = float(levels[-left_out - 1]), float(levels[-1])
    train = of.x <= cut
    observed = of.y[of.x == place]
    row: dict[str, Any] = {
        "quantity": of.quantity, "group": of.group, "axis": of.axis, "law": law, "left_out": left_out,
        "fitted_to": [float(level) for level in levels[:-left_out]], "at": place,
        "observed": float(observed.mean()), "n_observed": len(observed), **NULLS, "note": None,
    }  # fmt: skip
    last, mean = float(of.y[of.x == cut].mean()), float(_level_means(of.x[train], of.y[train]).mean())
    row |= {"last_value_error": last - row["observed"], "mean_error": mean - row["observed"]}
    row["decades"] = math.log10(place / cut)
    try:
        result = fit(law, of.x[train], of.y[train], ci="wald", x_names=(of.axis,), y_name=of.quantity)
    except FitError as error:
        return row | {"note": str(error)}
    predicted = float(result.predict([place])[0])
    if result.status == "not_identified" or not math.isfinite(predicted):
        return row | {"note": "; ".join(note.message for note in result.notes) or "not identified"}
    low, high = (float(end[0]) for end in result.band([place]))
    row |= {"predicted": predicted, "error": predicted - row["observed"]}
    if math.isfinite(low) and math.isfinite(high) and result.residual_sd is not None and result.df:
        scatter = t_quantile(0.975, result.df) * result.residual_sd / math.sqrt(len(observed))
        half = math.hypot((high - low) / 2, scatter)
        row |= {"low": predicted - half, "high": predicted + half, "in_band": abs(row["error"]) <= half}
    better = abs(row["error"]) < abs(row["last_value_error"])
    return row | {"verdict": "beats last value" if better else "loses to last value"}


def _level_means(x: Floats, y: Floats) -> Floats:
    return np.array([y[x == level].mean() for level in np.unique(x)])


# ---------------------------------------------------------------- what a study can be asked


def pm_series(pms: Sequence[PM]) -> list[Series]:
    """Accuracy and log loss against size at the most comparisons, and against comparisons at every size; seeds of one
    base model are one point."""
    found = []
    for y in VALUES:
        saturating = "pm-accuracy" if y == "accuracy" else "pm-loss"
        for one in point_sets(pm_points(pms, y), y):
            if len(one.x) == 1:
                axis = one.x[0]
                points = one.points.groupby([axis, one.cluster], sort=True).y.mean().reset_index()
                x, values = points[axis].to_numpy(float), points.y.to_numpy(float)
                found.append(Series(f"pm {y}", one.group, axis, x, values, ("log-linear", saturating)))
    return found


def tax_series(pooled: Sequence[dict[str, Any]]) -> list[Series]:
    """The mean tax at the end against size, at every number of shots, where all sizes have one suite."""
    found = []
    ends = [row for row in pooled if row["at"] == "end" and row["before"] == "base" and row["suite"] == "common"]
    for recipe, k_shot in sorted({(row["recipe"], row["k_shot"]) for row in ends}):
        here = [row for row in ends if (row["recipe"], row["k_shot"]) == (recipe, k_shot) and row["value"] is not None]
        if here:
            x, y = (np.array([float(row[key]) for row in here]) for key in ("n_params", "value"))
            found.append(Series("mean tax", f"{recipe} {k_shot}-shot", "n_params", x, y, ("log-linear", "power")))
    return found


def slope_series(slopes: Sequence[dict[str, Any]]) -> list[Series]:
    """Every size's slope of score per sqrt(KL), on the scale on which sizes compare."""
    found = []
    for row in slopes:
        x, y = (np.array([float(size[key]) for size in row["slopes"]]) for key in ("n_params", "value"))
        found.append(Series("score per sqrt(KL)", row["score"], "n_params", x, y, ("log-linear",)))
    return found
