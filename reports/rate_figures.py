"""What other learning rates than the rule's do, as differences from the rule's at the same seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import style
from reports.formats import format_number
from reports.pm_score_figures import model_cells
from reports.results import estimate_cells, has_value, model_names, rows_of, tidy

KINDS = {"base": "base models", "pm": "preference models", "ppo": "policies"}
MEASURES = {
    "held_out_loss": "held-out loss",
    "log_loss": "held-out log loss",
    "gold": "gold score at the end",
    "score_test": "test score at the end",
}
MARGIN = "margin"
_ORDER = {kind: i for i, kind in enumerate(KINDS)}
Row = Mapping[str, Any]


def rate_table(results: Row) -> pd.DataFrame:
    """Tidy rows of the check, a panel a kind of stage and measure: differences from factor 1, itself a point at 0."""
    panels: dict[str, list[Row]] = {}
    for row in sorted(rows_of(results, "rate_check"), key=lambda row: _ORDER.get(row["kind"], len(_ORDER))):
        if has_value(row["value"]) and (row["rate_factor"] == 1 or has_value(row["difference"])):
            panels.setdefault(f"{KINDS[row['kind']]}: {measure_words(row)}", []).append(row)
    out: list[dict[str, Any]] = []
    for panel, rows in panels.items():
        if len({row["rate_factor"] for row in rows}) > 1:
            out += [{"panel": panel, **_cells(row)} for row in rows]
            out += [{"panel": panel, **_margin(row)} for row in rows[:1] if row.get("margin") is not None]
    return tidy(out)


def _cells(row: Row) -> dict[str, Any]:
    shared = {**model_cells(row), "layer": "point", "series": row["model"], "x_name": "rate_factor"}
    shared |= {"x": row["rate_factor"], "y_name": _y_name(row), "hollow": bool(row.get("n_diverged"))}
    own = {"y": 0.0, "n": row["value"].get("n")}
    return {**shared, **(own if row["rate_factor"] == 1 else estimate_cells(row["difference"]))}


def _margin(row: Row) -> dict[str, Any]:
    ends = {"y": 0.0, "low": -row["margin"], "high": row["margin"]}
    return {"layer": "reference", "series": MARGIN, "y_name": _y_name(row), **ends}


def _y_name(row: Row) -> str:
    return f"difference ({row['unit']}), {'higher' if row['higher_is_better'] else 'lower'} is better"


def measure_words(row: Row) -> str:
    """What a kind of stage is judged by."""
    return MEASURES.get(row["measure"], str(row["measure"]).replace("_", " "))


def factor_words(factor: float) -> str:
    """A factor of the rate: ×0.5, ×1, ×2."""
    return f"×{format_number(factor, 3).rstrip('0').rstrip('.')}"


def draw_rates(figure: Figure, table: pd.DataFrame) -> None:
    """One panel a kind of stage: difference from factor 1 against the factor, by size, with the margin as a band."""
    panels, models = list(dict.fromkeys(table["panel"])), model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(panels), columns=3)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        points = rows[rows["layer"] == "point"]
        moved = style.dodged(points, points["model"])
        for model in models:
            here = moved[points["model"] == model]
            style.error_points(axes, here, colours[model], markers[model], linestyle="-", linewidth=0.9)
        margin = rows[rows["series"] == MARGIN]
        for low, high in zip(margin["low"].tolist(), margin["high"].tolist(), strict=True):
            axes.axhspan(low, high, color=style.RULE, alpha=0.6, zorder=0.5, linewidth=0)
        axes.axhline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        style.log_count_axis(axes, points["x"], min_decades=0.1, names={float(x): factor_words(x) for x in points["x"]})
        axes.set_title(f"{panel[0].upper()}{panel[1:]}".replace(": ", "\n"))
        difference, _, better = str(rows["y_name"].iloc[0]).rpartition(", ")
        axes.set_ylabel(f"{textwrap.fill(difference, 32)}\n{better}")
    style.outer_labels(grid, 3, "factor of the rule's learning rate", None)
    handles: list[Any] = style.size_handles(models, colours, markers)
    if (table["series"] == MARGIN).any():
        handles.append(Patch(facecolor=style.RULE, alpha=0.6, label="within the margin"))
    if table["hollow"].any():
        look: dict[str, Any] = {"color": style.INK, "marker": "o", "markerfacecolor": "white", "linestyle": "none"}
        handles.append(Line2D([], [], label="hollow: a run diverged", **look))
    style.legend_below(figure, handles, columns=style.even_columns(len(handles)))
