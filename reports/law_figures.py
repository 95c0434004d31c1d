"""Slopes of score against √KL by size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports import style
from reports.law_sentences import NAMES
from reports.results import estimate_cells, has_value, rows_of, tidy

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
