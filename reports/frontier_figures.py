"""Scores along RLHF: against samples (Bai et al. 2022, figure 4), against √KL (figure 13), and against the truth.

All scores are differences from the same run's own start, over the same prompts, so every curve begins at the origin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style
from reports.formats import format_count, format_number, join_words, plain_label, plural, says_count
from reports.results import (
    estimate_cells,
    has_value,
    model_names,
    models_by_size,
    rows_of,
    slope_fit,
    tidy,
    usable,
)

TRAIN, TEST, GOLD = "train PM", "test PM", "gold"
SCORES = {TRAIN: "score_train", TEST: "score_test", GOLD: "score_gold"}
SQRT_KL_LABEL = "√KL from the reference (√nats)"
WORSE = "worse than a constant"  # status of a fitted line whose R² is below 0
LARGEST, EACH = "largest size", "every size"  # the second is a mean over runs
Row = Mapping[str, Any]


# ---------------------------------------------------------------- tables


def unresolved(row: Row) -> bool:
    """Whether a checkpoint's KL is within two standard errors of 0 (the start itself is exact)."""
    kl = row["kl"]
    return row["step"] > 0 and (kl.get("se") is not None) and kl["value"] < 2 * kl["se"]


def samples_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 4: train and test score against prompts sampled, for the largest size and for each."""
    frontier = rows_of(results, "frontier")
    names = [m["name"] for m in models_by_size(results) if any(row["model"] == m["name"] for row in frontier)]
    rows = []
    for score in (TRAIN, TEST):
        largest = [row for row in frontier if row["model"] in names[-1:]]
        rows += [{**cells, "panel": LARGEST} for cells in _points(largest, score, "samples")]
        if len(names) > 1:
            rows += [{**cells, "panel": EACH} for cells in _mean_over_runs(_points(frontier, score, "samples"))]
    return tidy(rows)


def _mean_over_runs(points: Iterable[Row]) -> list[dict[str, Any]]:
    """The mean over each size's runs at every number of samples, without interval; diverged runs are left out."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for cells in points:
        if cells["status"] != "diverged":
            groups.setdefault((cells["model"], cells["x"]), []).append(cells)
    mean = {"run": "mean over runs", "low": None, "high": None, "hollow": False}
    return [
        {**group[0], **mean, "y": math.fsum(cells["y"] for cells in group) / len(group)} for group in groups.values()
    ]


def sqrt_kl_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 13: train and test score against √KL per run, with the line through the origin."""
    rows: list[dict[str, Any]] = []
    for score in (TRAIN, TEST):
        points = _points(rows_of(results, "frontier"), score, "sqrt_kl")
        rows += points + _lines_through_origin(results, score, points)
    return tidy(rows)


def gold_table(results: Row) -> pd.DataFrame:
    """Tidy rows of the gold score against √KL, one panel a size; with each run's peak where the size's gold falls.

    The peak is the middle of the three successive evaluations with the highest mean, as in the rule of the analysis.
    """
    falls = {row["model"] for row in rows_of(results, "overoptimisation") if row.get("gold_verdict") == "falls"}
    points = _points(rows_of(results, "frontier"), GOLD, "sqrt_kl")
    rows = [{**cells, "panel": cells["model"]} for cells in points]
    for run in dict.fromkeys(cells["run"] for cells in rows):
        curve = [cells for cells in rows if cells["run"] == run and cells["status"] != "diverged"]
        if len(curve) > 3 and curve[0]["model"] in falls:
            means = [math.fsum(cells["y"] for cells in curve[i - 1 : i + 2]) for i in range(1, len(curve) - 1)]
            rows.append({**curve[means.index(max(means)) + 1], "layer": "peak"})
    return tidy(rows)


def _points(frontier: Iterable[Row], score: str, x_name: str) -> list[dict[str, Any]]:
    column = SCORES[score]
    return [
        {
            "panel": score,
            "layer": "point",
            "series": score,
            "model": row["model"],
            "n_params": row["n_params"],
            "run": row["stage_id"],
            "x_name": x_name,
            "x": row[x_name],
            "y_name": column,
            **estimate_cells(row[column]),
            "hollow": unresolved(row),
            "status": row.get("status"),
        }
        for row in sorted(frontier, key=lambda row: (row["n_params"], row["stage_id"], row["step"]))
        if has_value(row.get(column)) and row.get(x_name) is not None
    ]


def _lines_through_origin(results: Row, score: str, points: Sequence[Row]) -> list[dict[str, Any]]:
    """Each size's fitted line from the origin to the farthest checkpoint of that size, marked where it fits worse
    than a constant."""
    rows: list[dict[str, Any]] = []
    for model in models_by_size(results):
        reached = [cells["x"] for cells in points if cells["model"] == model["name"]]
        fit = slope_fit(results, model["name"], SCORES[score])
        if fit is not None and usable(fit) and reached:
            slope = fit["params"]["c"]["value"]
            shared = {"panel": score, "layer": "fit", "series": score, "model": model["name"]}
            shared |= {"n_params": model["n_params"], "x_name": "sqrt_kl", "y_name": SCORES[score]}
            shared["status"] = WORSE if (fit.get("r2") or 0.0) < 0 else None
            rows += [{**shared, "x": x, "y": slope * x} for x in (0.0, max(reached))]
    return rows


# ---------------------------------------------------------------- drawing


def draw_samples(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 4: score against samples; solid on the train PM, dashed on the test PM."""
    models, panels = model_names(table), list(dict.fromkeys(table["panel"]))
    colours, markers = style.size_colours(models), style.size_markers(models)
    titles = {LARGEST: f"Largest size: {plain_label(models[-1])}", EACH: "Every size, mean over runs"}
    grid = style.panel_grid(figure, len(panels), columns=2)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        _draw_runs(axes, rows[rows["series"] == TRAIN], colours, markers, "-")
        _draw_runs(axes, rows[rows["series"] == TEST], colours, markers, "--")
        style.count_axis(axes)
        axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
        axes.set(xlabel="prompts sampled in RLHF", title=titles[panel] if len(panels) > 1 else "")
    grid[0].set_ylabel("PM score, change from the start")
    kinds = [
        Line2D([], [], color=style.INK, linestyle=dashes, label=name) for name, dashes in ((TRAIN, "-"), (TEST, "--"))
    ]
    style.legend_below(figure, [*style.size_handles(models, colours, markers), *kinds], columns=9)


def draw_sqrt_kl(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 13: score against √KL per size, left on the train PM, right on the test PM, with fitted lines, dashed
    where they fit worse than a constant."""
    panels = list(dict.fromkeys(table["panel"]))
    models = model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(panels), columns=2, sharey=True, sharex=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        _draw_runs(axes, rows[rows["layer"] == "point"], colours, markers, "none")
        for model, line in rows[rows["layer"] == "fit"].groupby("model", sort=False):
            dashes = "--" if line["status"].eq(WORSE).any() else "-"
            axes.plot(line["x"], line["y"], color=colours[str(model)], linewidth=1.4, linestyle=dashes)
        axes.set(xlabel=SQRT_KL_LABEL, title=f"Scored by the {panel}")
    _origins(grid)
    grid[0].set_ylabel("PM score, change from the start")
    style.legend_below(figure, [*style.size_handles(models, colours, markers), *_special_handles(table)], columns=9)


def draw_gold(figure: Figure, table: pd.DataFrame) -> None:
    """Gold score against √KL, one panel a size, each run a line; a star marks a peak that the run left behind."""
    models = model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(models), columns=3, sharey=True)
    for axes, model in zip(grid, models, strict=True):
        rows = table[table["panel"] == model]
        _draw_runs(axes, rows[rows["layer"] == "point"], colours, markers, "-")
        _draw_peaks(axes, rows[rows["layer"] == "peak"], colours[model])
        axes.set_title(size_title(model, rows["n_params"].iloc[0]))
    _origins(grid)
    style.outer_labels(grid, 3, SQRT_KL_LABEL, "gold score, change")
    for axes in grid:  # every size reaches as far as it reaches
        axes.tick_params(labelbottom=True)
    peaks = [Line2D([], [], color=style.INK, marker="*", markersize=11, linestyle="none", label="peak, then a fall")]
    style.legend_below(figure, [*(peaks if (table["layer"] == "peak").any() else []), *_special_handles(table)])


def _draw_runs(
    axes: Axes, points: pd.DataFrame, colours: Mapping[str, str], markers: Mapping[str, str], dashes: str
) -> None:
    for (model, _), run in points.groupby(["model", "run"], sort=False):
        alpha = 0.3 if run["status"].iloc[0] == "diverged" else 0.85
        name = str(model)
        style.error_points(axes, run, colours[name], markers[name], 3.6, alpha, linestyle=dashes, linewidth=1.2)


def _draw_peaks(axes: Axes, peaks: pd.DataFrame, colour: str) -> None:
    """A star on every peak, and in the corner where they lie."""
    if peaks.empty:
        return
    axes.plot(
        peaks["x"],
        peaks["y"],
        linestyle="none",
        marker="*",
        markersize=12,
        color=colour,
        markeredgecolor="white",
        zorder=5,
    )
    places = [format_number(x, 2) for x in sorted(peaks["x"])]
    span = f"{places[0]} to {places[-1]}" if len(places) > 2 else join_words(places)
    text = f"{plural(len(places), 'peak')} at √KL {span}"
    axes.text(0.98, 0.04, text, transform=axes.transAxes, ha="right", fontsize=7.5, color=style.MUTED)


def size_title(model: str, n_params: float) -> str:
    """A panel title: the model's name, and its parameters where the name does not say them already."""
    name = plain_label(model, 24)
    return f"{name} parameters" if says_count(model, n_params) else f"{name} · {format_count(n_params)} parameters"


def _origins(grid: Sequence[Axes]) -> None:
    """A line at zero, and limits from just left of 0 to just right of the farthest point; called once all is drawn,
    since panels that share an axis share its limits."""
    for axes in grid:
        axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
        axes.margins(x=0.04, y=0.12)
    for axes, right in [(axes, axes.get_xlim()[1]) for axes in grid]:
        axes.set_xlim(-0.03 * right, right)


def _special_handles(table: pd.DataFrame) -> list[Line2D]:
    """Legend entries for hollow points and faint runs, where there are any."""
    look: dict[str, Any] = {"color": style.INK, "marker": "o", "linestyle": "none"}
    hollow = Line2D([], [], markerfacecolor="white", label="hollow: KL below 2 standard errors", **look)
    faint = Line2D([], [], alpha=0.3, label="faint: the policy diverged", **look)
    dashed = Line2D([], [], color=style.INK, linestyle="--", label="dashed: fits worse than a constant")
    status = table["status"]
    present = (
        (hollow, table["hollow"].any()),
        (faint, status.eq("diverged").any()),
        (dashed, status.eq(WORSE).any()),
    )
    return [handle for handle, there in present if there]
