"""Helpful and harmless comparisons in one preference model: mixtures of both, and weights (Bai et al. 2022, figures 19,
26 and 27)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import style
from reports.formats import format_number
from reports.pm_figures import CHANCE, draw_references, level_rows, reference_names
from reports.pm_score_figures import accuracy_cells, model_cells
from reports.results import estimate_cells, has_value, model_names, rows_of, tidy

TITLES = {"helpful": "Helpful comparisons", "harmless": "Harmless comparisons", "mean": "Mean of both kinds"}
RELATIVE = "relative to the best"
HARMLESS, WEIGHT = "harmless among those trained on (%)", "weight λ of harmless comparisons"
Row = Mapping[str, Any]


# ---------------------------------------------------------------- tables


def shares_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 19: helpful and harmless accuracy against the harmless part, as it is and over the best."""
    return tidy(_shares(results, ("helpful", "harmless")))


def shares_mean_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 26: the mean of both accuracies against the harmless part, as it is and over the best."""
    return tidy(_shares(results, ("mean",)))


def _shares(results: Row, groups: Sequence[str]) -> list[dict[str, Any]]:
    """The rows whose share was set, which the main preference model's was not."""
    rows = [row for row in rows_of(results, "pm_shares") if row["helpful_share"] is not None]
    out: list[dict[str, Any]] = []
    for key, suffix in (("accuracy", ""), ("relative", f", {RELATIVE}")):
        for group in groups:
            here = [row for row in rows if row["group"] == group and has_value(row[key])]
            out += [
                {**_cells(row, HARMLESS, 100 * (1 - row["helpful_share"])), "panel": group + suffix, "y_name": key}
                | estimate_cells(row[key])
                for row in here
            ]
            out += [*level_rows(results, group, group), *_chance(group)] if here and not suffix else []
    return out


def _cells(row: Row, x_name: str, x: float) -> dict[str, Any]:
    return {**model_cells(row), "layer": "point", "series": row["model"], "x_name": x_name, "x": x}


def _chance(panel: str) -> list[dict[str, Any]]:
    return [{"panel": panel, "layer": "reference", "series": CHANCE, "y_name": "accuracy", "y": 0.5}]


def weights_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 27, a panel each for helpful, harmless and their mean: accuracy against the weight."""
    rows = [row for row in rows_of(results, "pm_weights") if has_value(row["accuracy"])]
    if len({row["harmless_weight"] for row in rows}) < 2:
        return tidy([])
    out: list[dict[str, Any]] = []
    for group in ("harmless", "helpful", "mean"):
        here = [row for row in rows if row["group"] == group]
        out += [{**_cells(row, WEIGHT, row["harmless_weight"]), "panel": group, **accuracy_cells(row)} for row in here]
        out += level_rows(results, group, group) if here else []
    return tidy(out)


# ---------------------------------------------------------------- drawing


def draw_grid(figure: Figure, table: pd.DataFrame) -> None:
    """Figures 19, 26 and 27: a panel a kind of comparison (and scale), one line a size."""
    panels, models = list(dict.fromkeys(table["panel"])), model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    x_name = str(table["x_name"].dropna().iloc[0])
    columns = 3 if x_name == WEIGHT else 2
    grid = style.panel_grid(figure, len(panels), columns)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        points = rows[rows["layer"] == "point"]
        moved = (
            style.dodged(points, points["model"])
            if x_name == WEIGHT
            else style.set_apart(points, points["model"], share=0.3)
        )
        for model in models:
            here = moved[points["model"] == model]
            style.error_points(axes, here, colours[model], markers[model], 4.2, 0.9, 0.6, linestyle="-", linewidth=1.0)
        draw_references(axes, rows)
        _dress(axes, panel, x_name, points["x"])
    style.outer_labels(grid, columns, x_name, None)
    handles = [*style.size_handles(models, colours, markers), *reference_names(table)]
    style.legend_below(figure, handles, columns=style.even_columns(len(handles)))


def _dress(axes: Axes, panel: str, x_name: str, values: Iterable[float]) -> None:
    """Title, y label and x axis of one panel."""
    group, _, scale = panel.partition(", ")
    axes.set_title(f"{TITLES[group]}, over the best" if scale else TITLES[group])
    axes.set_ylabel("accuracy / best of the size" if scale else "held-out accuracy")
    if x_name == WEIGHT:
        names = {float(x): format_number(x, 2).rstrip("0").rstrip(".") for x in values}
        style.log_count_axis(axes, values, min_decades=0.1, names=names)
    else:
        axes.set_xticks([0, 25, 50, 75, 100])
