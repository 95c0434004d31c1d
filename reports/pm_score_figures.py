"""How preference models score: by turn, by score difference, where both score high (Bai et al. 2022, figures 8, 9, 25),
and the scores themselves (figure 14, left)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator

from reports import style
from reports.frontier_figures import size_title
from reports.pm_figures import LENGTH, LEVELS, level_handles, level_lines
from reports.results import estimate_cells, has_value, model_names, rows_of, tidy

GROUPS = ("all", "helpful", "harmless")
GROUP_TITLES = {"all": "All comparisons", "helpful": "Helpful comparisons", "harmless": "Harmless comparisons"}
NUMBERS, BY_TURN = "comparisons by turn", "accuracy by turn"
SIDES = {"chosen": (style.MATCHED, "-"), "rejected": (style.AFTER, "--")}
Row = Mapping[str, Any]


# ---------------------------------------------------------------- tables


def turns_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 8: conversations at each turn, accuracy there by size, and what length alone and a perfect
    reader reach; empty with one turn."""
    rows = [row for row in rows_of(results, "pm_turns") if has_value(row["accuracy"])]
    if len({row["turn"] for row in rows}) < 2:
        return tidy([])
    counts = {row["turn"]: row for row in rows}  # every model meets the same conversations
    bars = [
        {**_turn_cells(row), "panel": NUMBERS, "layer": "count", "y_name": "conversations", "y": row["n_conversations"]}
        for _, row in sorted(counts.items())
    ]
    points = [
        {**_turn_cells(row), **model_cells(row), "panel": BY_TURN, "layer": "point", **accuracy_cells(row)}
        for row in rows
    ]
    levels = [
        {**_turn_cells(row), "panel": BY_TURN, "layer": "level", "series": name, "y_name": "accuracy", **cells}
        for name, column in LEVELS
        for _, row in sorted(counts.items())
        if (cells := estimate_cells(row.get(column)))["y"] is not None
    ]
    return tidy(bars + points + levels)


def _turn_cells(row: Row) -> dict[str, Any]:
    return {"series": f"turn {row['label']}", "x_name": "turn", "x": row["turn"]}


def model_cells(row: Row) -> dict[str, Any]:
    """The columns that say whose row it is."""
    return {"model": row["model"], "n_params": row["n_params"]}


def accuracy_cells(row: Row) -> dict[str, Any]:
    """A row's accuracy as tidy columns."""
    return {"y_name": "accuracy", **estimate_cells(row["accuracy"])}


def calibration_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 9, a panel a size: accuracy in each bin of score differences, and the accuracy promised."""
    rows = [row for row in rows_of(results, "pm_calibration") if has_value(row["accuracy"])]
    out: list[dict[str, Any]] = []
    for row in rows:
        shared = {**model_cells(row), "panel": row["model"], "x_name": "difference", "x": row["difference"]}
        out.append({**shared, "layer": "point", "series": "accuracy", **accuracy_cells(row)})
        promised = {"series": "promised by the scores", "y_name": "mean sigmoid", "y": row["expected"]}
        out.append({**shared, "layer": "promise", **promised})
        if has_value(length := row.get("length_accuracy")):
            out.append({**shared, "layer": "level", "series": LENGTH, "y_name": "accuracy", **estimate_cells(length)})
    return tidy(out)


def floor_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 25, a panel a kind: accuracy above each threshold, placed by the part left out."""
    rows = [row for row in rows_of(results, "pm_floor") if has_value(row["accuracy"])]
    out: list[dict[str, Any]] = []
    for row in _by_group(rows):
        shared = {**model_cells(row), "panel": row["group"], "series": row["model"]}
        shared |= {"x_name": "share left out", "x": row["share"]}
        out.append({**shared, "layer": "point", **accuracy_cells(row)})
        out.append({**shared, "layer": "threshold", "y_name": "threshold", "y": row["threshold"]})
    return tidy(out)


def scores_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 14 (left), a panel a kind: means (points), quantiles and densities of both sides."""
    out: list[dict[str, Any]] = []
    for row in _by_group([row for row in rows_of(results, "pm_scores") if has_value(row["mean"])]):
        shared = {**model_cells(row), "panel": row["group"], "series": row["side"]}
        out.append({**shared, "layer": "point", "y_name": "mean score", **estimate_cells(row["mean"])})
        for name in ("q05", "q25", "q50", "q75", "q95"):
            place = {"x_name": "quantile", "x": int(name[1:]) / 100}
            out.append({**shared, "layer": "quantile", **place, "y_name": "score", "y": row[name]})
        for left, right, density in zip(row["edges"][:-1], row["edges"][1:], row["density"], strict=True):
            place = {"x_name": "score", "x": (left + right) / 2}
            out.append({**shared, "layer": "density", **place, "y_name": "density", "y": density})
    return tidy(out)


def _by_group(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with all comparisons first, then the kinds."""
    order = {group: i for i, group in enumerate(GROUPS)}
    return sorted(rows, key=lambda row: order.get(row["group"], len(order)))


# ---------------------------------------------------------------- drawing


def draw_turns(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 8: left how many conversations reach each turn, right accuracy by turn and size."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    bars, points = table[table["panel"] == NUMBERS], table[table["panel"] == BY_TURN]
    left.bar(bars["x"], bars["y"], width=0.7, color=style.MUTED)
    left.set(xlabel="turn", ylabel="held-out conversations", title="Conversations by turn")
    models = model_names(points)
    colours, markers = style.size_colours(models), style.size_markers(models)
    moved = style.set_apart(points, points["model"])
    for model in models:
        here = moved[points["model"] == model]
        style.error_points(right, here, colours[model], markers[model], bars=0.6, linestyle="-", linewidth=0.9)
    right.set(xlabel="turn", ylabel="held-out accuracy", title="Accuracy by turn")
    for axes in (left, right):
        _turn_axis(axes, bars)
    level_lines(right, table[table["panel"] == BY_TURN])
    handles = [*style.size_handles(models, colours, markers), *level_handles(table)]
    style.legend_below(figure, handles, columns=style.even_columns(len(handles)))


def _turn_axis(axes: Axes, bars: pd.DataFrame) -> None:
    labels = [name.removeprefix("turn ") for name in bars["series"]]
    axes.xaxis.set_major_locator(FixedLocator(list(bars["x"])))
    axes.xaxis.set_major_formatter(FixedFormatter(labels))
    axes.set_xlim(bars["x"].min() - 0.6, bars["x"].max() + 0.6)


def draw_calibration(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 9: one panel a size, accuracy against score difference with the logistic line, axes as far as needed."""
    models = model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    points = table[table["layer"] == "point"]
    grid = style.panel_grid(figure, len(models), columns=3, sharey=True)
    for axes, model in zip(grid, models, strict=True):
        rows = points[points["model"] == model]
        right = 1.08 * float(rows["x"].max()) or 1.0
        x = np.linspace(0.0, right, 100)
        axes.plot(x, 1 / (1 + np.exp(-x)), color=style.INK, linestyle="--", linewidth=1.1, zorder=2)
        style.error_points(axes, rows, colours[model], markers[model])
        level_lines(axes, table[table["model"] == model])
        axes.locator_params(axis="x", nbins=5)
        axes.set(xlim=(0, right), title=size_title(model, rows["n_params"].iloc[0]))
    low, high = points[["y", "low"]].min().min(), points[["y", "high"]].max().max()
    grid[0].set_ylim(min(0.48, low - 0.02), min(1.02, max(high, 0.75) + 0.02))  # an accuracy is at most 1
    style.outer_labels(grid, 3, "absolute difference of scores", "held-out accuracy")
    for axes in grid:  # every size's differences reach as far as they reach
        axes.tick_params(labelbottom=True)
    line = Line2D([], [], color=style.INK, linestyle="--", linewidth=1.1, label="1 / (1 + exp(−difference))")
    style.legend_below(figure, [line, *level_handles(table)])


def draw_floor(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 25: one panel a kind of comparison, accuracy against the part of comparisons left out, by size."""
    panels, models = list(dict.fromkeys(table["panel"])), model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(panels), columns=3, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        points = table[(table["panel"] == panel) & (table["layer"] == "point")]
        points = points.assign(x=100 * points["x"])
        moved = style.set_apart(points, points["model"], share=0.5)
        for model in models:
            here = moved[points["model"] == model]
            style.error_points(axes, here, colours[model], markers[model], 3.6, 0.9, 0.5, linestyle="-", linewidth=0.9)
        axes.set_title(GROUP_TITLES.get(panel, style.panel_title(panel)))
    style.outer_labels(grid, 3, "left out for a low score (%)", "held-out accuracy")
    style.legend_below(figure, style.size_handles(models, colours, markers), columns=style.even_columns(len(models)))


def draw_scores(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 14 (left): one panel a kind of comparison, densities of chosen and rejected responses' scores."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=3, sharex=True, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        for side, (colour, dashes) in SIDES.items():
            here = rows[rows["series"] == side]
            density, mean = (here[here["layer"] == layer] for layer in ("density", "point"))
            axes.fill_between(density["x"], density["y"], color=colour, alpha=0.12, linewidth=0)
            axes.plot(density["x"], density["y"], color=colour, linestyle=dashes, linewidth=1.4)
            for level in mean["y"].tolist():
                axes.axvline(level, color=colour, linestyle=dashes, linewidth=0.9)
        axes.set_title(GROUP_TITLES.get(panel, style.panel_title(panel)))
    grid[0].set_ylim(0, 1.06 * float(table[table["layer"] == "density"]["y"].max()))
    style.outer_labels(grid, 3, "score (mean subtracted)", "density")
    handles = [Line2D([], [], color=c, linestyle=d, label=f"{side} response") for side, (c, d) in SIDES.items()]
    style.legend_below(figure, handles)
