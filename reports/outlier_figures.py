"""Harmful requests as outliers among helpful ones: by layer and method (Bai et al. 2022, figures 22, left, and 39), by
how many were shown (figure 23), and where the distances lie (figure 22, right)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.behaviours import shown_layer
from reports import style
from reports.behaviour_figures import CHANCE, by_place, in_order, means, place_of, scored
from reports.pm_score_figures import model_cells
from reports.results import estimate_cells, has_value, model_names, rows_of, tidy

METHODS = {"relative_mahalanobis": "relative", "mahalanobis": "Mahalanobis"}
EXPOSURE = "outlier_exposure"
HELPFUL, HARMFUL = "helpful", "harmful"
COLOURS = {HELPFUL: style.MATCHED, HARMFUL: style.AFTER}
Row = Mapping[str, Any]


def layers_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figures 22 (left) and 39: AUROC against the share of the layers passed, a panel a distance and
    place; the embedding is at 0."""
    rows = [row for row in _separations(results) if not row["n_outliers"] and row["measure"] in METHODS]
    out = []
    for row, cells in means(_by_panel(rows), "measure", "layer"):
        shared = {**model_cells(row), "panel": f"{METHODS[row['measure']]}, {row['place']}", "layer": "point"}
        x = row["layer"] / row["n_layers"]
        out.append({**shared, "series": row["model"], "x_name": "layer fraction", "x": x, "y_name": "auroc", **cells})
    return tidy(out)


def exposure_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 23: AUROC at the layer shown against the harmful prompts that the linear head had seen."""
    rows = [row for row in _separations(results) if row["n_outliers"] and row["layer"] == shown_layer(row["n_layers"])]
    return tidy(
        {**model_cells(row), "panel": row["place"], "layer": "point", "series": row["model"], "x_name": "n_outliers"}
        | {"x": row["n_outliers"], "y_name": "auroc", **cells}
        for row, cells in means(by_place(rows), "n_outliers")
    )


def distances_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 22 (right): density of both kinds' distances at the largest size, and their means (point)."""
    known = [
        row for row in rows_of(results, "behaviour_distances") if row["method"] in METHODS and has_value(row["mean"])
    ]
    out: list[dict[str, Any]] = []
    for row in _by_panel([{**row, "measure": row["method"], "place": place_of(row)} for row in known]):
        panel = f"{METHODS[row['method']]}, {row['place']}"
        shared = {**model_cells(row), "panel": panel, "series": HARMFUL if row["harmful"] else HELPFUL}
        out.append({**shared, "layer": "point", "y_name": "mean distance", **estimate_cells(row["mean"])})
        for left, right, density in zip(row["edges"][:-1], row["edges"][1:], row["density"], strict=True):
            place = {"x_name": "distance", "x": (left + right) / 2, "y_name": "density", "y": density}
            out.append({**shared, "layer": "density", **place})
    return tidy(out)


def _separations(results: Row) -> list[dict[str, Any]]:
    return [row for row in scored(results, "outliers") if row.get("layer") is not None and row.get("n_layers")]


def _by_panel(rows: Sequence[Row]) -> list[Row]:
    """The rows place by place, in each the relative distance first, so that a column of panels is a method."""
    return by_place(sorted(rows, key=lambda row: (list(METHODS).index(row["measure"]), *in_order(row))))


# ---------------------------------------------------------------- drawing


def draw_layers(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a distance and place, a line a size."""
    grid = _lines(figure, style.set_apart(table, table["model"], share=0.15))
    style.outer_labels(grid, 2, "share of the layers passed", "AUROC, harmful against helpful")


def draw_exposure(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a place, a line a size."""
    grid = _lines(figure, style.dodged(table, table["model"], step=0.04))
    counts = sorted(set(table["x"]))
    for axes in grid:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(counts))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    style.outer_labels(grid, 2, "harmful prompts shown", "AUROC, harmful against helpful")


def _lines(figure: Figure, table: pd.DataFrame) -> list[Axes]:
    panels, models = list(dict.fromkeys(table["panel"])), model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(panels), columns=2, sharex=True, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        for model in models:
            here = rows[rows["model"] == model]
            style.error_points(axes, here, colours[model], markers[model], 4, linestyle="-", linewidth=1.1)
        style.reference_line(axes, 0.5, ":")
        axes.set_title(f"{panel[:1].upper()}{style.panel_title(panel)[1:]} (n={int(rows['n'].max()):,})")
    style.legend_below(figure, [*style.size_handles(models, colours, markers), style.reference_handle(CHANCE, ":")])
    return grid


def draw_distances(figure: Figure, table: pd.DataFrame) -> None:
    """A histogram a distance and place: helpful and harmful prompts, their means dashed."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=2)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        for name, colour in COLOURS.items():
            own = rows[rows["series"] == name]
            bars, means_of = own[own["layer"] == "density"], own[own["layer"] == "point"]
            half = float(np.diff(bars["x"]).min()) / 2 if len(bars) > 1 else 0.5
            edges = [*(bars["x"] - half), bars["x"].max() + half]
            axes.stairs(bars["y"], edges, fill=True, color=colour, alpha=0.5)
            for level in means_of["y"].tolist():
                axes.axvline(level, color=colour, linestyle="--", linewidth=1.1)
        n = int(rows[rows["layer"] == "point"]["n"].sum())
        axes.set_title(f"{panel[:1].upper()}{style.panel_title(panel)[1:]} (n={n:,})")
    style.outer_labels(grid, 2, "distance from the helpful prompts that are known", "density")
    for axes in grid:
        axes.tick_params(labelbottom=True)
    mean = Line2D([], [], color=style.INK, linestyle="--", linewidth=1.1, label="mean")
    style.legend_below(figure, [*(Patch(color=c, alpha=0.5, label=name) for name, c in COLOURS.items()), mean])
