"""Preference models pretrained on votes against those from a fresh head, and votes mixed into the comparisons (Bai et
al. 2022, figure 20)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style
from reports.formats import format_number
from reports.pm_figures import draw_references, level_rows, reference_names
from reports.pm_score_figures import accuracy_cells, model_cells
from reports.results import estimate_cells, has_value, rows_of, tidy

FRESH, PRETRAINED = "from a fresh head", "pretrained on votes"
LOOKS = {FRESH: (style.BEFORE, "s"), PRETRAINED: (style.MATCHED, "o")}
ACCURACY, CHANGE = "accuracy", "change"
TITLES = {ACCURACY: "Accuracy", CHANGE: "Change by the votes"}
Row = Mapping[str, Any]


def share_words(share: float) -> str:
    """How many votes go with the comparisons."""
    return f"votes, {format_number(100 * share, 0)} % as many" if share else "no votes"


# ---------------------------------------------------------------- tables


def pretraining_table(results: Row) -> pd.DataFrame:
    """Tidy rows, a panel a size: accuracy at each number of comparisons, with and without pretraining."""
    every = rows_of(results, "pm_pretraining")
    rows = [row for row in every if row["n_comparisons"] and has_value(row["accuracy"])]
    out: list[dict[str, Any]] = [
        {**model_cells(row), "panel": row["model"], "layer": "point", "x_name": "n_comparisons"}
        | {"x": row["n_comparisons"], "series": PRETRAINED if row["pretrained"] else FRESH, **accuracy_cells(row)}
        for row in rows
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        out += level_rows(results, "all", model)
    return tidy(out)


def extra_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 20: accuracy at each size by the share of votes, and its difference from none."""
    rows = [row for row in rows_of(results, "pm_extra") if has_value(row["accuracy"])]
    out: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: row["extra_share"]):
        shared = {**model_cells(row), "layer": "point", "series": share_words(row["extra_share"])}
        shared |= {"x_name": "n_params", "x": row["n_params"]}
        out.append({**shared, "panel": ACCURACY, **accuracy_cells(row)})
        if has_value(row["difference"]):
            out.append({**shared, "panel": CHANGE, "y_name": "difference", **estimate_cells(row["difference"])})
    return tidy([*out, *level_rows(results, "all", ACCURACY)]) if out else tidy([])


# ---------------------------------------------------------------- drawing


def draw_pretraining(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a size: accuracy against comparisons, with and without pretraining."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=3, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        points = rows[rows["layer"] == "point"]
        moved = style.dodged(points, points["series"], step=0.03)
        for name, (colour, marker) in LOOKS.items():
            here = moved[points["series"] == name]
            style.error_points(axes, here, colour, marker, linestyle="-", linewidth=1.0)
        draw_references(axes, rows)
        style.log_count_axis(axes, points["x"])
        axes.set_title(style.panel_title(panel))
    style.outer_labels(grid, 3, "comparisons trained on", "held-out accuracy")
    names = [Line2D([], [], color=c, marker=m, markersize=4, label=name) for name, (c, m) in LOOKS.items()]
    style.legend_below(figure, [*names, *reference_names(table)])


def draw_extra(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 20: left accuracy against parameters, a line a share of votes; right the differences from none."""
    names = list(dict.fromkeys(table[table["layer"] == "point"]["series"]))
    looks = _share_looks(names)
    panels = [panel for panel in TITLES if (table["panel"] == panel).any()]
    grid = style.panel_grid(figure, len(panels), columns=2)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        points = rows[rows["layer"] == "point"]
        moved = style.dodged(points, points["series"], step=0.03)
        for name in names:
            colour, marker = looks[name]
            here = moved[points["series"] == name]
            style.error_points(axes, here, colour, marker, linestyle="-", linewidth=1.0)
        draw_references(axes, rows)
        if panel == CHANGE:
            axes.axhline(0, color=style.MUTED, linewidth=0.9)
        style.size_axis(axes, points)
        label = "held-out accuracy" if panel == ACCURACY else "accuracy minus that without votes"
        axes.set(title=TITLES[panel], xlabel="parameters (non-embedding)", ylabel=label)
    handles = [Line2D([], [], color=c, marker=m, markersize=4, label=name) for name, (c, m) in looks.items()]
    style.legend_below(figure, [*handles, *reference_names(table)])


def _share_looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each share; none is grey."""
    plain, others = [name for name in names if name == share_words(0)], [n for n in names if n != share_words(0)]
    colours = {name: style.BEFORE for name in plain} | style.size_colours(others)
    markers = style.size_markers(names)
    return {name: (colours[name], markers[name]) for name in names}
