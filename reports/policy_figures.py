"""What becomes of a policy along RLHF: its KL from the reference by every estimator, and how its responses change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style
from reports.frontier_figures import size_title
from reports.results import estimate_cells, has_value, model_names, rows_of, tidy

Row = Mapping[str, Any]
REVERSED = "reversed, exact"
ESTIMATORS = {"exact": "kl_exact", "k1": "kl_k1", "k3": "kl_k3", REVERSED: "reverse_kl_exact"}
LOOKS = {  # colour, marker and dashes of an estimator
    "exact": (style.INK, "o", "-"),
    "k1": (style.MATCHED, "s", "-"),
    "k3": ("#8a5a00", "D", "-"),
    REVERSED: (style.AFTER, "^", "--"),
}
HELD, PLAIN = "train PM, length held", "train PM"
MEASURES = {  # panel -> series -> column of the frontier
    "Entropy, nats a token": {"entropy": "entropy"},
    "Response length, tokens": {"length": "length"},
    "Share cut off by the limit": {"cut off": "truncated"},
    "Different words / words": {"distinct-1": "distinct_1"},
    "Different word pairs / pairs": {"distinct-2": "distinct_2"},
    "Train PM's score, change": {HELD: "score_train_controlled", PLAIN: "score_train"},
}


def kl_table(results: Row) -> pd.DataFrame:
    """Tidy rows of each estimate of KL against updates, one panel a size."""
    names = {column: name for name, column in ESTIMATORS.items()}
    measured = _measured(results, names)
    return tidy(_cells(row, column, names[column], "step") | {"panel": row["model"]} for row, column in measured)


def responses_table(results: Row) -> pd.DataFrame:
    """Tidy rows of entropy, length, ends, variety and score against prompts sampled, one panel a measure."""
    rows = []
    for panel, series in MEASURES.items():
        names = {column: name for name, column in series.items()}
        for row, column in _measured(results, names):
            rows.append(_cells(row, column, names[column], "samples") | {"panel": panel})
    return tidy(rows)


def _measured(results: Row, columns: Mapping[str, str]) -> list[tuple[Row, str]]:
    """Rows of the frontier, by size, run and step, with each of the columns that was measured there."""
    frontier = sorted(rows_of(results, "frontier"), key=lambda row: (row["n_params"], row["stage_id"], row["step"]))
    return [(row, column) for column in columns for row in frontier if has_value(row.get(column))]


def _cells(row: Row, column: str, series: str, x_name: str) -> dict[str, Any]:
    labels = {"layer": "point", "series": series, "model": row["model"], "n_params": row["n_params"]}
    labels |= {"run": row["stage_id"], "x_name": x_name, "x": row[x_name], "y_name": column}
    return labels | estimate_cells(row[column]) | {"status": row.get("status")}


def draw_kl(figure: Figure, table: pd.DataFrame) -> None:
    """KL against updates, one panel a size, an estimator a colour; moved apart a little, so that intervals show."""
    models = model_names(table)
    grid = style.panel_grid(figure, len(models), columns=3)
    for axes, model in zip(grid, models, strict=True):
        rows = table[table["panel"] == model]
        apart = style.set_apart(rows, rows["series"], share=0.25)
        for (series, _), run in apart.groupby(["series", "run"], sort=False):
            colour, marker, dashes = LOOKS[str(series)]
            style.error_points(axes, run, colour, marker, 3.4, _alpha(run), linestyle=dashes, linewidth=1.0)
        axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
        axes.set_title(size_title(model, rows["n_params"].iloc[0]))
    style.outer_labels(grid, 3, "updates", "KL (nats a response)")
    for axes in grid:
        axes.tick_params(labelbottom=True)
    looks = [(name, LOOKS[name]) for name in ESTIMATORS if (table["series"] == name).any()]
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=dashes, label=name)
        for name, (colour, marker, dashes) in looks
    ]
    style.legend_below(figure, [*handles, *_faint(table)])


def draw_responses(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a measure, a line a run, a colour a size."""
    models, panels = model_names(table), list(dict.fromkeys(table["panel"]))
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(panels), columns=3)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        _draw_runs(axes, rows[rows["series"] != PLAIN], colours, markers, "-")
        _draw_runs(axes, rows[rows["series"] == PLAIN], colours, dict.fromkeys(models, "none"), ":")
        axes.set_title(panel)
        style.count_axis(axes)
    style.outer_labels(grid, 3, "prompts sampled in RLHF", None)
    for axes in grid:
        axes.tick_params(labelbottom=True)
    held = (table["series"] == HELD).any() and (table["series"] == PLAIN).any()
    dotted = [Line2D([], [], color=style.INK, linestyle=":", label="dotted: length not held")] if held else []
    style.legend_below(figure, [*style.size_handles(models, colours, markers), *dotted, *_faint(table)], columns=7)


def _draw_runs(
    axes: Axes, rows: pd.DataFrame, colours: Mapping[str, str], markers: Mapping[str, str], dashes: str
) -> None:
    for (model, _), run in rows.groupby(["model", "run"], sort=False):
        colour, marker = colours[str(model)], markers[str(model)]
        if marker == "none":
            axes.plot(run["x"], run["y"], color=colour, linestyle=dashes, alpha=_alpha(run), linewidth=1.2)
        else:
            style.error_points(axes, run, colour, marker, 3.2, _alpha(run), bars=0.5, linestyle=dashes, linewidth=1.1)


def _alpha(run: pd.DataFrame) -> float:
    return 0.3 if run["status"].iloc[0] == "diverged" else 0.85


def _faint(table: pd.DataFrame) -> Sequence[Line2D]:
    """The legend's entry for faint runs, where there are any."""
    faint = Line2D([], [], color=style.INK, alpha=0.3, marker="o", label="faint: the policy diverged")
    return [faint] if table["status"].eq("diverged").any() else []
