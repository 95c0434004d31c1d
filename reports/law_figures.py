"""Slopes of score against √KL by size, and the tax beside the gold reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports import style
from reports.law_sentences import NAMES
from reports.results import estimate_cells, has_value, model_names, rows_of, tidy
from reports.tax_figures import against_base

Row = Mapping[str, Any]
COMMON = "all sizes together"


def slopes_table(results: Row) -> pd.DataFrame:
    """Tidy rows of every size's slope, a panel a score, with the slope common to all as reference."""
    rows: list[dict[str, Any]] = []
    for row in (row for row in rows_of(results, "frontier_slopes") if has_value(row["common"])):
        panel = f"{NAMES[row['score']]} ({'sd' if row['unit'] != 'gold' else 'gold units'} per √nat)"
        shared = {"panel": panel, "y_name": row["score"]}
        for size in row["slopes"]:
            place = {"model": size["model"], "n_params": size["n_params"], "x_name": "n_params", "x": size["n_params"]}
            rows.append({**shared, "layer": "point", "series": "size", **place, **estimate_cells(size)})
        rows.append({**shared, "layer": "reference", "series": COMMON, **estimate_cells(row["common"])})
    return tidy(rows)


def draw_slopes(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a score: slope against parameters, the common slope as a line with its interval as a band."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=3)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        points, common = rows[rows["layer"] == "point"], rows[rows["layer"] == "reference"].iloc[0]
        if pd.notna(common["low"]):
            axes.axhspan(common["low"], common["high"], color=style.RULE, alpha=0.6, zorder=0.5, linewidth=0)
        style.reference_line(axes, float(common["y"]), "--")
        style.error_points(axes, points, style.AFTER, "s")
        axes.axhline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        style.size_axis(axes, points)
        axes.set_title(style.panel_title(panel))
    style.outer_labels(grid, 3, "parameters (non-embedding)", "slope")
    style.legend_below(figure, [style.reference_handle(f"{COMMON}, with 95 % band", "--")])


def reward_table(results: Row) -> pd.DataFrame:
    """Tidy rows of the mean tax against the gold reward, a panel a number of shots, a line a size from the origin."""
    known = [{**row, **row["tax"]} for row in rows_of(results, "tax_per_reward") if has_value(row["tax"])]
    rows = []
    for row in sorted(against_base(known), key=lambda row: (row["n_params"], row["model"], row["reward"]["value"])):
        shots = f", {row['k_shot']}-shot" if row["k_shot"] else ""
        cells = {key: None if v is None else v * 100 for key, v in estimate_cells(row["tax"]).items()}
        labels = {"panel": f"mean of tasks{shots}", "layer": "point", "series": row["place"], "model": row["model"]}
        place = {"n_params": row["n_params"], "x_name": "gold reward", "x": row["reward"]["value"], "y_name": "points"}
        rows.append(labels | place | cells | {"n": row["tax"]["n"]})
    return tidy(rows)


def draw_reward(figure: Figure, table: pd.DataFrame) -> None:
    """Tax against gold reward, a colour a size."""
    panels = list(dict.fromkeys(table["panel"]))
    models = model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(panels), columns=2)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        for model in models:
            here = rows[rows["model"] == model]
            style.error_points(axes, here, colours[model], markers[model])
        axes.axhline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        axes.axvline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        axes.set(xlabel="rise of the gold score", title=style.panel_title(panel) if len(panels) > 1 else "")
    grid[0].set_ylabel("mean tax (points)")
    style.legend_below(figure, style.size_handles(models, colours, markers))
