"""Context distillation: the divergence along training (Bai et al. 2022, figure 30), and what the base, the base that
reads the prompt and the distilled model make of held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style
from reports.pm_score_figures import model_cells
from reports.results import estimate_cells, has_value, model_names, rows_of, tidy

BASE, PROMPTED, DISTILLED = "base", "base with the prompt", "distilled"
LOOKS = {BASE: (style.BEFORE, "s"), PROMPTED: (style.AFTER, "^"), DISTILLED: (style.MATCHED, "o")}
KL, LOSS, CHANGE, TEXT = "kl", "loss", "change", "text"
TITLES = {
    KL: "KL from the teacher, responses",
    LOSS: "Loss on responses",
    CHANGE: "Change of that loss",
    TEXT: "Change of the loss on plain text",
}
LABELS = {KL: "nats a token", LOSS: "nats a token", CHANGE: "minus the base's", TEXT: "minus the base's"}
SHOWN = (  # panel, part of the held-out text, series, measure
    (KL, "responses", BASE, "kl_base"),
    (KL, "responses", DISTILLED, "kl_distilled"),
    (LOSS, "responses", BASE, "nats_base"),
    (LOSS, "responses", PROMPTED, "nats_prompted"),
    (LOSS, "responses", DISTILLED, "nats_distilled"),
    (CHANGE, "responses", PROMPTED, "prompted_minus_base"),
    (CHANGE, "responses", DISTILLED, "distilled_minus_base"),
    (TEXT, "text", DISTILLED, "distilled_minus_base"),
)
Row = Mapping[str, Any]


def curve_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 30: every run's KL in training against the tokens it has read."""
    return tidy(
        {**model_cells(row), "panel": "curve", "layer": "point", "series": row["model"], "run": row["stage_id"]}
        | {"x_name": "tokens", "x": row["tokens"], "y_name": "kl", **estimate_cells(row["loss"])}
        for row in rows_of(results, "distillation_curve")
        if has_value(row["loss"])
    )


def draw_curve(figure: Figure, table: pd.DataFrame) -> None:
    """One panel, a line a run."""
    axes, models = figure.subplots(), model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    for model in models:
        for _, run in table[table["model"] == model].groupby("run", sort=True):
            style.error_points(axes, run, colours[model], markers[model], size=3.5, linestyle="-", linewidth=1.0)
    axes.set_ylim(bottom=0)
    style.count_axis(axes)
    axes.set(xlabel="tokens trained on", ylabel="KL(teacher ‖ student), nats a token")
    style.legend_below(figure, style.size_handles(models, colours, markers))


def loss_table(results: Row) -> pd.DataFrame:
    """Tidy rows by size: KL from the teacher, losses, and their changes from the base."""
    return tidy(
        {**model_cells(row), "panel": panel, "layer": "point", "series": series, "x_name": "n_params"}
        | {"x": row["n_params"], "y_name": measure, **estimate_cells(row[measure])}
        for panel, part, series, measure in SHOWN
        for row in rows_of(results, "distillation")
        if row["part"] == part and has_value(row[measure])
    )


def draw_losses(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a measure: a line for each of base, prompted and distilled against parameters."""
    panels = [panel for panel in TITLES if (table["panel"] == panel).any()]
    grid = style.panel_grid(figure, len(panels), columns=2)
    for axes, panel in zip(grid, panels, strict=True):
        points = table[table["panel"] == panel]
        moved = style.dodged(points, points["series"], step=0.03)
        for name, (colour, marker) in LOOKS.items():
            here = moved[points["series"] == name]
            style.error_points(axes, here, colour, marker, linestyle="-", linewidth=1.0)
        if panel in (CHANGE, TEXT):
            axes.axhline(0, color=style.MUTED, linewidth=0.9)
        if panel == KL:
            axes.set_ylim(bottom=0)
        style.size_axis(axes, points)
        axes.set(title=TITLES[panel], xlabel="parameters (non-embedding)", ylabel=LABELS[panel])
    shown = [name for name in LOOKS if (table["series"] == name).any()]
    handles = [Line2D([], [], color=LOOKS[n][0], marker=LOOKS[n][1], markersize=4, label=n) for n in shown]
    style.legend_below(figure, handles)
