"""Preference-model accuracy by kind of comparison and number trained on, passes of their own beside one long pass
(Bai et al. 2022, figure 31)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import style
from reports.pm_figures import draw_references, law_cells, level_rows, levelling_handle, reference_names
from reports.pm_score_figures import GROUP_TITLES, GROUPS, accuracy_cells, model_cells
from reports.results import data_fit, has_value, model_names, models_by_size, rows_of, saturating_fit, tidy, usable
from reports.tax_figures import mean_of_seeds

LOG_LINEAR, SATURATING = "log-linear", "levels off"  # status of a law's vertices
Row = Mapping[str, Any]


# ---------------------------------------------------------------- tables


def pm_data_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 31, a panel a kind: passes of their own, the long pass, levels, and laws of the kind.

    Kinds are helpful and harmless where a pass was scored on its way, else the tranches; empty where neither is there.
    """
    curve = [row for row in rows_of(results, "pm_curve") if has_value(row["accuracy"])]
    rows = _curve_rows(curve) if curve else _tranche_rows(results)
    if not any(row["layer"] == "point" for row in rows):
        return tidy([])
    reached: dict[str, list[float]] = {}
    for row in rows:
        reached.setdefault(row["model"], []).append(row["x"])
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    levels = [level for panel in panels for level in level_rows(results, panel, panel)]
    return tidy([*rows, *levels, *_laws(results, reached, panels)])


def _curve_rows(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Along the train half's pass of each size, and at the same numbers the passes of their own, of both halves as the
    laws have them; the pass's end is one of them."""
    out: list[dict[str, Any]] = []
    for row in sorted(curve, key=lambda row: (GROUPS.index(row["group"]), row["n_params"], row["model"], row["pairs"])):
        shared = {**_place(row, row["group"]), "x": row["pairs"]}
        out.append({**shared, "layer": "curve", **accuracy_cells(row)})
        if has_value(own := row.get("separate")):
            out.append({**shared, "x": row["n_comparisons"], "layer": "point", **accuracy_cells({"accuracy": own})})
    return out


def _tranche_rows(results: Row) -> list[dict[str, Any]]:
    """Means over preference models by tranche; nothing with one tranche, which figure 7 shows."""
    singles = [row for row in rows_of(results, "pm") if has_value(row["accuracy"])]
    numbers = {row["n_comparisons"] for row in singles}
    if len({row["tranche"] for row in singles}) < 3 or len(numbers) < 2:
        return []
    pooled = [{**row, "tranche": "all"} for row in rows_of(results, "pm_trend") if has_value(row["accuracy"])]
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in singles:
        if row["tranche"] != "all":
            place = GROUPS.index(row["tranche"]) if row["tranche"] in GROUPS else len(GROUPS)
            key = (place, row["tranche"], row["n_params"], row["model"], row["n_comparisons"])
            cells.setdefault(key, []).append({**row, "score": row["accuracy"]})
    means = [{**_point(rows[0], rows[0]["tranche"]), **mean_of_seeds(rows)} for _, rows in sorted(cells.items())]
    return [{**_point(row, "all"), **accuracy_cells(row)} for row in pooled] + means


def _place(row: Row, panel: str) -> dict[str, Any]:
    return {**model_cells(row), "panel": panel, "series": row["model"], "x_name": "n_comparisons"}


def _point(row: Row, panel: str) -> dict[str, Any]:
    return {**_place(row, panel), "layer": "point", "x": row["n_comparisons"], "y_name": "accuracy"}


def _laws(results: Row, reached: Mapping[str, list[float]], panels: Iterable[str]) -> list[dict[str, Any]]:
    """Each size's laws of the panel's kind of comparison, inside the range of its data, with the interval of the mean;
    laws that level off are of all comparisons."""
    out: list[dict[str, Any]] = []
    for panel, model in product(panels, models_by_size(results)):
        name, xs = model["name"], reached.get(model["name"], [])
        levelling = saturating_fit(results, f"pm {name}", ["n_comparisons"]) if panel == "all" else None
        for fit, status in ((data_fit(results, name, panel), LOG_LINEAR), (levelling, SATURATING)):
            if fit is not None and usable(fit) and len(set(xs)) > 1:
                shared = {"panel": panel, "layer": "fit", "series": name, "model": name, "status": status}
                shared |= {"n_params": model["n_params"], "x_name": "n_comparisons", "y_name": "accuracy"}
                out += [{**shared, **cells} for cells in law_cells(fit, min(xs), max(xs))]
    return out


# ---------------------------------------------------------------- drawing


def draw_pm_data(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 31: a panel a kind of comparison, accuracy against comparisons by size, bands behind, passes as lines."""
    panels, models = list(dict.fromkeys(table["panel"])), model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(panels), columns=3, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        points = rows[rows["layer"] == "point"]
        moved = style.dodged(points, points["model"], step=0.022)
        for model in models:
            _draw_laws(axes, rows[(rows["model"] == model) & (rows["layer"] == "fit")], colours[model])
            curve = rows[(rows["model"] == model) & (rows["layer"] == "curve")]
            axes.plot(curve["x"], curve["y"], color=colours[model], linewidth=0.9, zorder=2.5)
            style.error_points(axes, moved[points["model"] == model], colours[model], markers[model], 4.2, bars=0.6)
        draw_references(axes, rows)
        style.log_count_axis(axes, points["x"])
        axes.set_title(GROUP_TITLES.get(panel, style.panel_title(panel)))
    style.outer_labels(grid, 3, "comparisons trained on", "held-out accuracy")
    handles = [*style.size_handles(models, colours, markers), *_handles(table)]
    style.legend_below(figure, handles, columns=style.even_columns(len(handles), 5))


def _draw_laws(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    """The log-linear law as a band, a law that levels off as a dashed line."""
    band, levelling = (rows[rows["status"] == status] for status in (LOG_LINEAR, SATURATING))
    axes.fill_between(band["x"], band["low"], band["high"], color=colour, alpha=0.13, linewidth=0, zorder=1.2)
    axes.plot(levelling["x"], levelling["y"], color=colour, linewidth=1.1, linestyle=style.LEVELS_OFF, zorder=2.2)


def _handles(table: pd.DataFrame) -> list[Line2D | Patch]:
    """Legend entries for lines, bands and levels, where there are any."""
    status, layers = set(table["status"].dropna()), set(table["layer"])
    shown = (
        (Line2D([], [], linewidth=0.9, color=style.INK, label="along the one longest pass"), "curve" in layers),
        (Patch(facecolor=style.INK, alpha=0.2, label="log-linear law, 95 % of the mean"), LOG_LINEAR in status),
        (levelling_handle(), SATURATING in status),
    )
    return [*(handle for handle, there in shown if there), *reference_names(table)]
