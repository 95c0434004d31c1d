"""Preference models on probes: accuracy by category against size (Bai et al. 2022, figure 5, left), and how far apart
the largest size scores the two sides (figure 10, left)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import style
from reports.pm_figures import CHANCE, LENGTH, draw_references, reference_names
from reports.pm_score_figures import accuracy_cells, model_cells
from reports.results import estimate_cells, has_value, model_names, rows_of, tidy

ALL = "all"
RIGHT, WRONG = "the chosen side scores higher", "the rejected side scores higher"
COLOURS = {RIGHT: style.MATCHED, WRONG: style.AFTER}
Row = Mapping[str, Any]


def panel_name(row: Row) -> str:
    """A probe and one of its categories."""
    return f"{row['probe']}: {row['category']}"


def short_names(panels: Sequence[str]) -> dict[str, str]:
    """The panels' titles: a category alone where there is one probe, whose own name is that of everything."""
    probes = {panel.rpartition(": ")[0] for panel in panels}
    if len(probes) > 1:
        return {panel: style.panel_title(panel) for panel in panels}
    cut = {panel: panel.rpartition(": ") for panel in panels}
    return {panel: style.panel_title(probe if name == ALL else name) for panel, (probe, _, name) in cut.items()}


# ---------------------------------------------------------------- tables


def probes_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 5 (left), a panel a category: accuracy at each size, what length reaches, chance."""
    out: list[dict[str, Any]] = []
    levels: dict[str, Row] = {}
    for row in _by_probe([row for row in rows_of(results, "pm_probes") if has_value(row["accuracy"])]):
        shared = {**model_cells(row), "panel": panel_name(row), "series": row["model"]}
        out.append({**shared, "layer": "point", "x_name": "n_params", "x": row["n_params"], **accuracy_cells(row)})
        levels[panel_name(row)] = row["length_accuracy"] or {}  # the comparisons are the same for every size
    for panel, level in levels.items():
        shared = {"panel": panel, "layer": "reference", "y_name": "accuracy"}
        out += [{**shared, "series": LENGTH, **estimate_cells(level)}] if has_value(level) else []
        out.append({**shared, "series": CHANCE, "y": 0.5})
    return tidy(out)


def margins_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 10 (left): mean (point), quantiles and density of the largest size's margins."""
    out: list[dict[str, Any]] = []
    for row in _by_probe([row for row in rows_of(results, "pm_margins") if has_value(row["margin"])]):
        shared = {**model_cells(row), "panel": panel_name(row), "series": row["model"]}
        out.append({**shared, "layer": "point", "y_name": "mean margin", **estimate_cells(row["margin"])})
        for name in ("q05", "q25", "q50", "q75", "q95"):
            place = {"x_name": "quantile", "x": int(name[1:]) / 100}
            out.append({**shared, "layer": "quantile", **place, "y_name": "margin", "y": row[name]})
        for left, right, density in zip(row["edges"][:-1], row["edges"][1:], row["density"], strict=True):
            place = {"x_name": "margin", "x": (left + right) / 2}
            out.append({**shared, "layer": "density", **place, "y_name": "density", "y": density})
    return tidy(out)


def _by_probe(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows probe by probe, each with all of its comparisons first, then the categories by name."""
    return sorted(rows, key=lambda row: (row["probe"], row["category"] != ALL, row["category"]))


# ---------------------------------------------------------------- drawing


def draw_probes(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 5 (left): accuracy against parameters, one panel a category, with what length reaches and chance."""
    panels, models = list(dict.fromkeys(table["panel"])), model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    titles = short_names(panels)
    grid = style.panel_grid(figure, len(panels), columns=3, sharex=True, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        points = rows[rows["layer"] == "point"]
        axes.plot(points["x"], points["y"], color=style.MUTED, linewidth=0.8, alpha=0.6, zorder=2)
        for model in models:
            style.error_points(axes, points[points["model"] == model], colours[model], markers[model])
        draw_references(axes, rows)
        style.size_axis(axes, table)
        axes.set_title(f"{titles[panel]} (n={int(points['n'].max()):,})")
    style.outer_labels(grid, 3, "parameters (non-embedding)", "accuracy")
    handles = [*style.size_handles(models, colours, markers), *reference_names(table)]
    style.legend_below(figure, handles, columns=style.even_columns(len(handles)))


def draw_margins(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 10 (left): a histogram a category of chosen minus rejected score, coloured by which side scores higher."""
    panels = list(dict.fromkeys(table["panel"]))
    titles = short_names(panels)
    grid = style.panel_grid(figure, len(panels), columns=3, sharey=len({p.rpartition(": ")[0] for p in panels}) == 1)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        _draw_bars(axes, rows[rows["layer"] == "density"])
        for level in rows[rows["layer"] == "point"]["y"].tolist():
            axes.axvline(level, color=style.INK, linestyle="--", linewidth=1.1)
        axes.axvline(0, color=style.MUTED, linewidth=0.9)
        count = int(rows[rows["layer"] == "point"]["n"].max())
        axes.set_title(f"{titles[panel]} (n={count:,})")
    style.outer_labels(grid, 3, "score of chosen minus rejected", "density")
    for axes in grid:  # each probe's margins reach as far as they reach
        axes.tick_params(labelbottom=True)
    mean = Line2D([], [], color=style.INK, linestyle="--", linewidth=1.1, label="mean")
    style.legend_below(figure, [*(Patch(color=c, alpha=0.75, label=name) for name, c in COLOURS.items()), mean])


def _draw_bars(axes: Axes, bars: pd.DataFrame) -> None:
    width = float(np.diff(bars["x"]).min())
    colours = [COLOURS[RIGHT if x > 0 else WRONG] for x in bars["x"]]
    axes.bar(bars["x"], bars["y"], width=0.94 * width, color=colours, alpha=0.75)
