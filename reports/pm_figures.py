"""Preference models: accuracy against the number of comparisons and against parameters (Bai et al. 2022, figure 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.fit_result import FitResult
from reports import style
from reports.formats import format_count
from reports.results import (
    data_fit,
    estimate_cells,
    has_value,
    joint_fit,
    model_names,
    models_by_size,
    reference_levels,
    rows_of,
    saturating_fit,
    size_fit,
    tidy,
    usable,
)

BY_DATA, BY_SIZE = "by comparisons", "by parameters"
BAYES, LENGTH, CHANCE = "Bayes ceiling", "the longer one wins", "chance"
LEVELS = ((BAYES, "bayes_accuracy"), (LENGTH, "length_accuracy"))
N_VERTICES = 25  # of a curve
Row = Mapping[str, Any]


# ---------------------------------------------------------------- tables


def pm_accuracy_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 7: pooled accuracies, single PMs, fitted lines and the two reference levels."""
    trend = [row for row in rows_of(results, "pm_trend") if has_value(row["accuracy"])]
    singles = [row for row in rows_of(results, "pm") if row["tranche"] == "all" and has_value(row["accuracy"])]
    rows = [cells for row in trend for cells in _both_panels(row, "point", estimate_cells(row["accuracy"]))]
    rows += [cells for row in singles for cells in _both_panels(row, "run", {"y": row["accuracy"]["value"]})]
    rows += _fitted_lines(results, trend) + _saturating_curves(results, trend)
    if rows:
        rows += _references(singles)
    return tidy(rows)


def pm_tranche_table(results: Row) -> pd.DataFrame:
    """Tidy rows of accuracy by tranche at the largest number of comparisons, mean over PMs, one panel a tranche."""
    singles = [row for row in rows_of(results, "pm") if has_value(row["accuracy"])]
    if len({row["tranche"] for row in singles}) < 3:  # "all" and one tranche say the same thing twice
        return tidy([])
    most = max(row["n_comparisons"] for row in singles)
    rows: list[dict[str, Any]] = []
    for tranche in dict.fromkeys(row["tranche"] for row in singles):
        here = [row for row in singles if row["tranche"] == tranche and row["n_comparisons"] == most]
        rows += [_tranche_cells(row) for row in here]
        rows += [{**cells, "panel": tranche} for cells in _references(here) if cells["panel"] == BY_SIZE]
    return tidy(rows)


def _both_panels(row: Row, layer: str, measured: Row) -> list[dict[str, Any]]:
    shared = {
        "layer": layer,
        "model": row["model"],
        "n_params": row["n_params"],
        "run": row.get("stage_id"),
        "y_name": "accuracy",
        **measured,
    }
    n_pairs = row["n_comparisons"]
    return [
        {**shared, "panel": BY_DATA, "series": row["model"], "x_name": "n_comparisons", "x": n_pairs},
        {**shared, "panel": BY_SIZE, "series": format_count(n_pairs), "x_name": "n_params", "x": row["n_params"]},
    ]


def _tranche_cells(row: Row) -> dict[str, Any]:
    return {
        "panel": row["tranche"],
        "layer": "point",
        "series": row.get("half"),
        "model": row["model"],
        "n_params": row["n_params"],
        "run": row.get("stage_id"),
        "x_name": "n_params",
        "x": row["n_params"],
        "y_name": "accuracy",
        **estimate_cells(row["accuracy"]),
    }


def _references(singles: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The levels that length alone and a perfect reader of the labels reach on the same held-out items."""
    rows = []
    for name, column in LEVELS:
        known = [row[column] for row in singles if has_value(row.get(column))]
        if known:
            cells = estimate_cells(known[-1])
            shared = {"layer": "reference", "series": name, "y_name": "accuracy", **cells}
            rows += [{**shared, "panel": panel} for panel in (BY_DATA, BY_SIZE)]
    return rows


def level_rows(results: Row, group: str, panel: str) -> list[dict[str, Any]]:
    """The levels of a kind of comparison (its tranches' means weighted by n), of one tranche, of all or of both kinds'
    mean, as tidy rows of ``panel``."""
    if group == "mean":
        both = [_levels(results, kind) for kind in ("helpful", "harmless")]
        found = {name: (both[0][name] + both[1][name]) / 2 for name in both[0] if name in both[1]}
    else:
        found = _levels(results, group)
    return [{"panel": panel, "layer": "reference", "series": n, "y_name": "accuracy", "y": y} for n, y in found.items()]


def _levels(results: Row, group: str) -> dict[str, float]:
    """The Bayes ceiling and what length reaches, where they are known; the items are the same for every PM."""
    every = rows_of(results, "pm")
    rows = [row for row in every if row["stage_id"] == every[0]["stage_id"]]  # none of none
    own = [row for row in rows if row["tranche"] == group]
    parts = own or [row for row in rows if row["tranche"].startswith(group)]
    found = {}
    for name, column in LEVELS:
        known = [row[column] for row in parts if has_value(row.get(column))]
        if known and len(known) == len(parts):
            n = sum(level["n"] for level in known)
            found[name] = sum(level["value"] * level["n"] for level in known) / n
    return found


def _fitted_lines(results: Row, trend: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two vertices a log-linear fit (straight on a logarithmic axis), inside the range of its data.

    Against data every size has a fit of its own; against size the lines are those of the joint fit in both.
    """
    rows: list[dict[str, Any]] = []
    for model in models_by_size(results):
        here = [row["n_comparisons"] for row in trend if row["model"] == model["name"]]
        shared = {"panel": BY_DATA, "series": model["name"], "model": model["name"], "n_params": model["n_params"]}
        fit, shared = data_fit(results, model["name"]), {**shared, "x_name": "n_comparisons"}
        rows += _line(fit, here, shared) + _band(fit, here, shared)
    for n_pairs in sorted({row["n_comparisons"] for row in trend}):
        here = [row["n_params"] for row in trend if row["n_comparisons"] == n_pairs]
        joint = joint_fit(results)
        fit = joint if joint is not None and usable(joint) else size_fit(results, n_pairs)
        shared = {"panel": BY_SIZE, "series": format_count(n_pairs), "x_name": "n_params"}
        rows += _line(fit, here, shared, math.log(n_pairs))
        rows += _band(fit, here, shared, n_pairs if fit is joint else None)
    return rows


def _saturating_curves(results: Row, trend: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The laws that level off, inside the range of their data, where they could be determined: against data one a
    size, against size the joint law, or that of the most comparisons alone."""
    rows: list[dict[str, Any]] = []
    for model in models_by_size(results):
        here = [row["n_comparisons"] for row in trend if row["model"] == model["name"]]
        fit = saturating_fit(results, f"pm {model['name']}", ["n_comparisons"])
        shared = {"panel": BY_DATA, "series": model["name"], "model": model["name"], "n_params": model["n_params"]}
        rows += [{**shared, "x_name": "n_comparisons", **cells} for cells in _curve(fit, here)]
    joint = saturating_fit(results, "pm all", ["n_params", "n_comparisons"])
    for n_pairs in sorted({row["n_comparisons"] for row in trend}):
        here = [row["n_params"] for row in trend if row["n_comparisons"] == n_pairs]
        own = saturating_fit(results, f"pm n={n_pairs}", ["n_params"])
        cells = _curve(own, here) if joint is None else _curve(joint, here, n_pairs)
        rows += [{"panel": BY_SIZE, "series": format_count(n_pairs), "x_name": "n_params", **c} for c in cells]
    return rows


def law_cells(fit: Row, first: float, last: float, n_pairs: int | None = None) -> list[dict[str, float]]:
    """Vertices of a law of one x from ``first`` to ``last``, at that number of comparisons where it is a law of both,
    with the 95 % interval of its mean where it is known."""
    law, x = FitResult.from_dict(fit), np.geomspace(first, last, N_VERTICES)
    at = x if n_pairs is None else np.column_stack([x, np.full_like(x, n_pairs)])
    low, high = law.band(at)
    return [{"x": a, "y": b, "low": c, "high": d} for a, b, c, d in zip(x, law.predict(at), low, high, strict=True)]


def _curve(fit: Row | None, xs: list[float], n_pairs: int | None = None) -> list[dict[str, Any]]:
    """Vertices of a law over the range of ``xs``, at that number of comparisons where it is a law of both."""
    if fit is None or len(set(xs)) < 2:
        return []
    x = np.geomspace(min(xs), max(xs), N_VERTICES)
    y = FitResult.from_dict(fit).predict(x if n_pairs is None else np.column_stack([x, np.full_like(x, n_pairs)]))
    return [{"layer": "curve", "x": a, "y_name": "accuracy", "y": b} for a, b in zip(x, y, strict=True)]


def _band(fit: Row | None, xs: list[float], shared: Row, n_pairs: int | None = None) -> list[dict[str, Any]]:
    """The 95 % interval of the mean law over ``xs``; nothing where it is not known."""
    if fit is None or not usable(fit) or len(set(xs)) < 2:
        return []
    cells = [c for c in law_cells(fit, min(xs), max(xs), n_pairs) if np.isfinite(c["low"])]
    return [{**shared, "layer": "band", "y_name": "accuracy", **c} for c in cells]


def _line(fit: Row | None, xs: list[float], shared: Row, log_pairs: float = 0.0) -> list[dict[str, Any]]:
    """Both ends of c0 + c1 ln x (+ c2 ln D where the fit has it) over ``xs``."""
    if fit is None or not usable(fit) or len(set(xs)) < 2:
        return []
    params = {name: float(param["value"]) for name, param in fit["params"].items()}
    level = params["c0"] + params.get("c2", 0.0) * log_pairs
    return [
        {**shared, "layer": "fit", "x": x, "y_name": "accuracy", "y": level + params["c1"] * math.log(x)}
        for x in (min(xs), max(xs))
    ]


# ---------------------------------------------------------------- drawing


def draw_pm_accuracy(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 7: left against the number of comparisons per size, right against parameters per number."""
    left, right = figure.subplots(1, 2, sharey=True)
    models = model_names(table)
    by_data, by_size = table[table["panel"] == BY_DATA], table[table["panel"] == BY_SIZE]
    colours, markers = style.size_colours(models), style.size_markers(models)
    _draw_panel(left, by_data, models, colours, markers)
    levelling = [levelling_handle()] if (table["layer"] == "curve").any() else []
    style.legend_under(left, [*style.size_handles(models, colours, markers), *levelling], columns=4)
    numbers = list(dict.fromkeys(by_data[by_data["layer"] == "point"].sort_values("x")["x"].map(format_count)))
    greys, shapes = _number_looks(numbers)
    _draw_panel(right, by_size, numbers, greys, shapes)
    handles = [
        Line2D([], [], color=greys[n], marker=shapes[n], markersize=4, label=f"{n} comparisons") for n in numbers
    ]
    style.legend_under(right, [*handles, *_reference_handles(by_size)], columns=2)
    left.set(xlabel="comparisons trained on", ylabel="held-out accuracy", title="Accuracy against data")
    style.size_axis(right, by_size)
    right.set(xlabel="parameters (non-embedding)", title="Accuracy against size")


def _number_looks(numbers: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """A grey, darker with more comparisons, and a marker for each number of comparisons."""
    levels = np.linspace(0.5, 0.95, len(numbers)) if len(numbers) > 1 else [0.95]
    greys = {n: to_hex(mpl.colormaps["Greys"](float(g))) for n, g in zip(numbers, levels, strict=True)}
    return greys, style.size_markers(numbers)


def _draw_panel(
    axes: Axes, rows: pd.DataFrame, series: list[str], colours: dict[str, str], markers: dict[str, str]
) -> None:
    known = rows[rows["series"].isin(series)]
    moved = style.dodged(known, known["series"], step=0.022)
    for name in series:
        colour = colours[name]
        runs, points = (moved[(known["series"] == name) & (known["layer"] == layer)] for layer in ("run", "point"))
        fit = known[(known["series"] == name) & (known["layer"] == "fit")]
        axes.plot(runs["x"], runs["y"], linestyle="none", marker=".", markersize=4, color=colour, alpha=0.35)
        axes.plot(fit["x"], fit["y"], color=colour, linewidth=1.2, alpha=0.8)
        curve, band = (known[(known["series"] == name) & (known["layer"] == layer)] for layer in ("curve", "band"))
        axes.fill_between(band["x"], band["low"], band["high"], color=colour, alpha=0.13, linewidth=0, zorder=1.2)
        axes.plot(curve["x"], curve["y"], color=colour, linewidth=1.2, alpha=0.8, linestyle=style.LEVELS_OFF)
        style.error_points(axes, points, colour, markers[name])
    draw_references(axes, rows)
    style.log_count_axis(axes, known[~known["layer"].isin(["curve", "band"])]["x"].dropna())


def draw_references(axes: Axes, rows: pd.DataFrame) -> None:
    """A line across the panel at each of its reference levels."""
    for name, level in reference_levels(rows).items():
        style.reference_line(axes, level, _DASHES[name])


def levelling_handle() -> Line2D:
    """The legend entry of a law that levels off."""
    return Line2D([], [], color=style.INK, linestyle=style.LEVELS_OFF, linewidth=1.2, label="law that levels off")


def reference_names(table: pd.DataFrame) -> list[Line2D]:
    """A legend entry for each reference level, once, without its value, which differs between panels."""
    names = dict.fromkeys(table[table["layer"] == "reference"]["series"])
    return [style.reference_handle(name, _DASHES[name]) for name in names]


def level_lines(axes: Axes, rows: pd.DataFrame) -> None:
    """A line over x for each level that differs from place to place (layer ``level``)."""
    for name, level in rows[rows["layer"] == "level"].groupby("series", sort=False):
        axes.plot(level["x"], level["y"], color=style.INK, linewidth=0.9, linestyle=_DASHES[str(name)], zorder=1.5)


def level_handles(table: pd.DataFrame) -> list[Line2D]:
    """A legend entry for each such level."""
    names = dict.fromkeys(table[table["layer"] == "level"]["series"])
    return [style.reference_handle(name, _DASHES[name]) for name in names]


def _reference_handles(rows: pd.DataFrame) -> list[Line2D]:
    levels = reference_levels(rows).items()
    return [style.reference_handle(f"{name} ({level:.3f})", _DASHES[name]) for name, level in levels]


_DASHES = {BAYES: "--", LENGTH: ":", CHANCE: "-."}


def draw_pm_tranches(figure: Figure, table: pd.DataFrame) -> None:
    """Accuracy against parameters, one panel a tranche, each PM with its interval and the two levels."""
    panels = list(dict.fromkeys(table["panel"]))
    models = model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(panels), columns=3, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        for model in models:
            points = rows[(rows["model"] == model) & (rows["layer"] == "point")]
            style.error_points(axes, style.dodged(points, points["run"]), colours[model], markers[model])
        draw_references(axes, rows)
        style.size_axis(axes, rows)
        axes.set_title(style.panel_title(panel))
    style.outer_labels(grid, 3, "parameters (non-embedding)", "held-out accuracy")
    handles = [*style.size_handles(models, colours, markers), *reference_names(table)]
    style.legend_below(figure, handles, columns=style.even_columns(len(handles)))
