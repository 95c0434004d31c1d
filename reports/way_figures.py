"""Other ways to a higher score beside training, against √KL: the best of n samples, and weights in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style
from reports.formats import plain_label
from reports.frontier_figures import SCORES, SQRT_KL_LABEL, unresolved
from reports.results import estimate_cells, find_fit, has_value, models_by_size, rows_of, tidy, usable

Row = Mapping[str, Any]
BEST_OF_N, BETWEEN, POLICY = "best of n samples", "weights in between", "PPO"
LOOK = {POLICY: (style.AFTER, "o"), BEST_OF_N: (style.MATCHED, "s"), BETWEEN: (style.MATCHED, "D")}


def best_of_n_table(results: Row) -> pd.DataFrame:
    """Tidy rows of the best of n beside PPO, a panel a size and score, with the fitted law of the best of n."""
    rows = _beside(results, "best_of_n", BEST_OF_N)
    return tidy([*rows, *_laws(results, rows)])


def interpolation_table(results: Row) -> pd.DataFrame:
    """Tidy rows of the weights between reference and policy beside PPO, a panel a size and score."""
    return tidy(_beside(results, "interpolation", BETWEEN))


def _beside(results: Row, key: str, series: str) -> list[dict[str, Any]]:
    """The points of a way, and of the policies of the sizes that have it."""
    ways, rows = rows_of(results, key), []
    for model in models_by_size(results):
        here = [row for row in ways if row["model"] == model["name"]]
        policies = [row for row in rows_of(results, "frontier") if here and row["model"] == model["name"]]
        for score, column in SCORES.items():
            if any(has_value(row.get(column)) for row in here):
                panel = f"{plain_label(str(model['name']), 20)}, {score}"
                rows += [_point(row, panel, POLICY, column, unresolved(row)) for row in _measured(policies, column)]
                rows += [_point(row, panel, series, column, _open(row)) for row in _measured(here, column)]
    return rows


def _measured(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """Rows with that score, each run's in the order of its path, which may come back in √KL."""
    known = [row for row in rows if has_value(row.get(column)) and row.get("sqrt_kl") is not None]
    return sorted(known, key=lambda row: (row["stage_id"], row.get("step", row.get("n", row.get("alpha")))))


def _open(row: Row) -> bool:
    """Whether a KL is within two standard errors of 0; one that is exactly 0 is known."""
    se = row["kl"].get("se")
    return bool(se) and row["kl"]["value"] < 2 * se


def _point(row: Row, panel: str, series: str, column: str, hollow: bool) -> dict[str, Any]:
    labels = {"model": row["model"], "n_params": row["n_params"], "run": row["stage_id"]}
    place = {"x_name": "sqrt_kl", "x": row["sqrt_kl"], "y_name": column, "status": row.get("status")}
    return (
        {"panel": panel, "layer": "point", "series": series, "hollow": hollow}
        | labels
        | place
        | (estimate_cells(row[column]))
    )


def _laws(results: Row, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each panel's d (alpha - beta d) over the distances that the best of n reached, where it was identified."""
    rows: list[dict[str, Any]] = []
    for panel in dict.fromkeys(point["panel"] for point in points):
        here = [point for point in points if point["panel"] == panel and point["series"] == BEST_OF_N]
        fit = find_fit(results, "bon", f"best-of-n {here[0]['model']}", ["sqrt_kl"], here[0]["y_name"])
        if fit is not None and usable(fit):
            alpha, beta = (fit["params"][name]["value"] for name in ("alpha", "beta"))
            shared = {name: here[0][name] for name in ("panel", "series", "model", "n_params", "x_name", "y_name")}
            for d in np.linspace(0.0, max(point["x"] for point in here), 33):
                rows.append({**shared, "layer": "fit", "x": float(d), "y": float(d * (alpha - beta * d))})
    return rows


def draw_beside(figure: Figure, table: pd.DataFrame) -> None:
    """Score against √KL, a panel a size and score: training's path solid, the other way's points and its law."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=3)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        points = rows[rows["layer"] == "point"]
        law = rows[rows["layer"] == "fit"]
        for (series, _), run in points.groupby(["series", "run"], sort=False):
            colour, marker = LOOK[str(series)]
            alpha = 0.3 if run["status"].iloc[0] == "diverged" else 0.85
            if series != BEST_OF_N or law.empty:
                axes.plot(run["x"], run["y"], color=colour, alpha=alpha, linewidth=1.2)
            style.error_points(axes, run, colour, marker, 3.8, alpha, 0.6)
        axes.plot(law["x"], law["y"], color=style.MATCHED, linewidth=1.2, linestyle="--")
        axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
        axes.set_title(panel)
    style.outer_labels(grid, 3, SQRT_KL_LABEL, "score, change from the reference")
    for axes in grid:
        axes.tick_params(labelbottom=True)
    style.legend_below(figure, _handles(table), columns=6)


def _handles(table: pd.DataFrame) -> list[Line2D]:
    present = set(table["series"])
    handles = [
        Line2D([], [], color=LOOK[name][0], marker=LOOK[name][1], label=name, linewidth=1.2)
        for name in LOOK
        if name in present
    ]
    if (table["layer"] == "fit").any():
        handles.append(Line2D([], [], color=style.MATCHED, linestyle="--", label="d (α − β d), d = √KL"))
    if table["hollow"].any():
        look: dict[str, Any] = {"color": style.INK, "marker": "o", "linestyle": "none", "markerfacecolor": "white"}
        handles.append(Line2D([], [], label="hollow: KL below 2 standard errors", **look))
    return handles
