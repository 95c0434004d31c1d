"""The paper's other evaluations before and after RLHF: bias of occupations (Bai et al. 2022, figure 40), sentiment
(figure 17), the loss on good and bad answers (figure 37) and which of them a policy finds likelier (figure 34)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style
from reports.formats import plain_label
from reports.pm_score_figures import model_cells
from reports.results import has_value, model_names, rows_of, tidy
from reports.tax_figures import BEFORE, END, at_label, mean_of_seeds

REFERENCE = "reference"
BY_SIZE = "Bias by size"
EVERY_GROUP = "all groups"
LOSS, DIFFERENCE, CHANGE = "Loss by side", "Rejected minus chosen", "Change to the end"
CHOSEN, REJECTED, BOTH = "chosen", "rejected", "rejected minus chosen"
CHANGES = {"mean_loss_chosen": CHOSEN, "mean_loss_rejected": REJECTED, "difference": BOTH}
PARAMETERS = "parameters (non-embedding)"
ALONG = ((style.MATCHED, "D"), ("#4c2a85", "v"), ("#0f6b5c", "P"), ("#a3427a", "X"), (style.INK, "*"))
FIRST = {BEFORE: (style.BEFORE, "o"), REFERENCE: ("#7a5c00", "^"), END: (style.AFTER, "s")}
GROUP_COLOURS = ("#b3261e", "#1f6fb2", "#7a5c00", "#4c2a85", "#0f6b5c", "#a3427a", "#5b6270")
CHANCE = "chance"
Row = Mapping[str, Any]


# ---------------------------------------------------------------- rows


def place_of(row: Row) -> str:
    """Where a model stands: before RLHF, reference, a checkpoint of RLHF, or weights in between."""
    if row["stage_kind"] in ("base", None):
        return BEFORE
    if row["stage_kind"] == "reference":
        return REFERENCE
    if row["stage_kind"] == "interpolation":
        return f"weights between, {str(row['at']).replace('=', ' ')}"
    return at_label({"at": row["at"] or "end"})


def scored(results: Row, evaluation: str, key: str = "behaviours") -> list[dict[str, Any]]:
    """Measured rows of one evaluation, each with its ``place``, from the base along RLHF to its end; collapsed policies
    are left out of what is averaged over runs."""
    value = "change" if key == "behaviour_changes" else "score"
    known = [row for row in rows_of(results, key) if row["evaluation"] == evaluation and has_value(row[value])]
    placed = [{**row, "place": place_of(row)} for row in known if row.get("status") != "diverged"]
    return sorted(placed, key=in_order)


def in_order(row: Row) -> tuple[Any, ...]:
    """By size, then along RLHF, then by seed."""
    return (row["n_params"], row["model"], along(row), row["at_sqrt_kl"] or 0.0, row["stage_id"])


def along(row: Row) -> tuple[int, float, str]:
    """The order of places: before, reference, checkpoints by the distance asked for, end, weights in between."""
    order = {BEFORE: 0, REFERENCE: 1, END: 3}.get(row["place"], 4 if row["stage_kind"] == "interpolation" else 2)
    _, _, value = str(row["at"]).partition("=")
    return (order, float(value) if value else 0.0, row["place"])


def by_place(rows: Iterable[Row]) -> list[Row]:
    """The rows place by place along RLHF, within one as they are: of panels side by side for each place."""
    return sorted(rows, key=along)


def means(rows: Iterable[Row], *keys: str, value: str = "score") -> list[tuple[Row, dict[str, Any]]]:
    """For each model, place and what else ``keys`` name: a row of it and the mean over seeds that were measured, as
    tidy cells."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in (row for row in rows if has_value(row[value])):
        groups.setdefault(tuple(row[key] for key in ("model", "place", *keys)), []).append(row)
    return [(group[0], mean_of_seeds([{"score": row[value]} for row in group])) for group in groups.values()]


def by_size(row: Row, panel: str, series: str, cells: Row, y_name: str) -> dict[str, Any]:
    """A tidy point against parameters."""
    shared = {**model_cells(row), "panel": panel, "layer": "point", "series": series, "y_name": y_name}
    return {**shared, "x_name": "n_params", "x": row["n_params"], **cells}


def looks_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every place, those of before and after RLHF as in all figures."""
    others = [name for name in names if name not in FIRST]
    more = {name: ALONG[i % len(ALONG)] for i, name in enumerate(others)}
    return {name: FIRST[name] if name in FIRST else more[name] for name in names}


# ---------------------------------------------------------------- occupations (figure 40)


def occupations_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 40: the mean absolute bias by size and place, and every occupation's bias of the largest size
    before (x) and at the end of RLHF (y; layer ``occupation``, its series the occupation)."""
    rows = [row for row in scored(results, "occupations") if row["measure"] == "mean_abs"]
    out = [by_size(row, BY_SIZE, row["place"], cells, "mean_abs") for row, cells in means(rows)]
    pairs = [{**row, "place": place_of(row)} for row in rows_of(results, "behaviour_occupations")]
    ends = sorted((row for row in pairs if row["place"] == END and row.get("status") != "diverged"), key=in_order)
    largest = [row for row in ends if row["model"] == ends[-1]["model"]]
    largest = [row for row in largest if has_value(row["before"]) and has_value(row["after"])]
    before = {row["occupation"]: cells for row, cells in means(largest, "occupation", value="before")}
    for row, cells in means(largest, "occupation", value="after"):
        shared = {**model_cells(row), "panel": str(row["model"]), "layer": "occupation", "series": row["occupation"]}
        x = before[row["occupation"]]["y"]
        out.append({**shared, "x_name": "bias before", "x": x, "y_name": "bias at the end", **cells})
    return tidy(out)


def draw_occupations(figure: Figure, table: pd.DataFrame) -> None:
    """Left bias against parameters; right, where measured, each occupation at the end of RLHF against before."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=2)
    points = table[table["layer"] == "point"]
    places = looks_of(list(dict.fromkeys(points["series"])))
    draw_against_size(grid[0], points, places)
    grid[0].set(title=BY_SIZE, ylabel="mean over occupations of |bias|, nats", xlabel=PARAMETERS)
    grid[0].set_ylim(bottom=0)
    for axes, panel in zip(grid[1:], panels[1:], strict=True):
        rows = table[table["panel"] == panel]
        style.error_points(axes, rows, style.AFTER, "o", size=3, bars=0.35)
        ends = [rows["x"].min(), rows["x"].max()]
        axes.plot(ends, ends, color=style.MUTED, linestyle=":", linewidth=1.2)
        title = f"{plain_label(panel, 14)}, each occupation (n={len(rows)})"
        axes.set(title=title, xlabel="bias before RLHF, nats", ylabel="bias at the end of RLHF, nats")
    equal = [Line2D([], [], color=style.MUTED, linestyle=":", label="no change")] if len(panels) > 1 else []
    style.legend_below(figure, [*place_handles(places), *equal])


# ---------------------------------------------------------------- sentiment (figure 17)


def sentiment_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 17: mean probability of positive by size, a panel a place and kind of group, a series a
    group."""
    out = []
    for row, cells in means(by_place(scored(results, "sentiment")), "part"):
        kind, _, group = str(row["part"]).partition(": ")
        out.append(by_size(row, f"{kind}, {row['place']}", group or EVERY_GROUP, cells, "positive"))
    return tidy(out)


def draw_sentiment(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a kind of group before, along and after RLHF, a line a group; black: all groups."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=2, sharey=True)
    handles: list[Line2D] = []
    for kind in dict.fromkeys(panel.partition(", ")[0] for panel in panels):
        here = table[table["panel"].str.startswith(f"{kind}, ")]
        groups = sorted(set(here["series"]) - {EVERY_GROUP})
        looks = {
            name: (GROUP_COLOURS[i % len(GROUP_COLOURS)], style.MARKERS[i % len(style.MARKERS)])
            for i, name in enumerate(groups)
        }
        for axes, panel in zip(grid, panels, strict=True):
            if panel.startswith(f"{kind}, "):
                rows = here[here["panel"] == panel]
                draw_against_size(axes, rows, {**looks, EVERY_GROUP: (style.INK, "")}, bars=0.3)
                axes.set_title(f"{style.panel_title(panel)} (n={int(rows['n'].max())})")
        handles += place_handles(looks)
    style.outer_labels(grid, 2, PARAMETERS, "mean P(positive)")
    for axes in grid:
        axes.tick_params(labelbottom=True)
    every = Line2D([], [], color=style.INK, linewidth=1.2, label=EVERY_GROUP)
    style.legend_below(figure, [*handles, every], columns=style.even_columns(len(handles) + 1))


# ---------------------------------------------------------------- good and bad answers (figure 37)


def answers_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 37: loss on chosen and rejected answers, their difference, and the change of each from before
    to the end of RLHF on the same comparisons."""
    rows = [row for row in scored(results, "answers") if row["part"] == "all"]
    out = []
    for row, cells in means(rows, "measure"):
        side = {"loss_chosen": CHOSEN, "loss_rejected": REJECTED}.get(str(row["measure"]))
        if side is not None:
            out.append(by_size(row, LOSS, f"{side}, {row['place']}", cells, "nats a token"))
        elif row["measure"] == "difference":
            out.append(by_size(row, DIFFERENCE, row["place"], cells, "nats a token"))
    changed = [row for row in scored(results, "answers", "behaviour_changes") if row["part"] == "all"]
    for row, cells in means((row for row in changed if row["place"] == END), "measure", value="change"):
        if row["measure"] in CHANGES:
            out.append(by_size(row, CHANGE, CHANGES[row["measure"]], cells, "nats a token"))
    order = [LOSS, DIFFERENCE, CHANGE]
    return tidy(sorted(out, key=lambda row: order.index(str(row["panel"]))))


def draw_answers(figure: Figure, table: pd.DataFrame) -> None:
    """A panel each for the loss, the difference between the sides, and the paired changes."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=3)
    names = [str(name) for name in dict.fromkeys(table["series"])]
    places = looks_of(list(dict.fromkeys(name.partition(", ")[2] for name in names if ", " in name)))
    sides = {CHOSEN: (style.MATCHED, "^"), REJECTED: ("#7a5c00", "v"), BOTH: (style.INK, "X")}
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        if panel == LOSS:
            for side, dashes in ((CHOSEN, "-"), (REJECTED, "--")):
                looks = {f"{side}, {place}": look for place, look in places.items()}
                draw_against_size(axes, rows[rows["series"].isin(list(looks))], looks, dashes)
        else:
            draw_against_size(axes, rows, places if panel == DIFFERENCE else sides)
            axes.axhline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        axes.set(title=f"{panel} (n={int(rows['n'].max()):,})", ylabel="nats a token")
    style.outer_labels(grid, 3, PARAMETERS, None)
    handles = place_handles(places)
    handles += [Line2D([], [], color=style.INK, linestyle=d, label=s) for s, d in ((CHOSEN, "-"), (REJECTED, "--"))]
    if CHANGE in panels:
        handles += place_handles({f"change, {name}": look for name, look in sides.items()})
    style.legend_below(figure, handles, columns=style.even_columns(len(handles), most=5))


# ---------------------------------------------------------------- which answer is likelier (figure 34)


def agreement_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 34: how often the chosen response has the higher mean log-probability, along RLHF, a panel a
    tranche; layer ``ceiling``: the accuracy of PMs of that size."""
    rows = [
        row for row in scored(results, "answers") if row["measure"] == "accuracy" and row.get("samples") is not None
    ]
    out = []
    for row, cells in means(rows, "part"):
        same = [r["samples"] for r in rows if all(r[key] == row[key] for key in ("model", "place", "part"))]
        shared = {**model_cells(row), "panel": str(row["part"]), "layer": "point", "series": row["model"]}
        x = math.fsum(same) / len(same)
        out.append({**shared, "run": row["place"], "x_name": "samples", "x": x, "y_name": "accuracy", **cells})
    shown = {(row["model"], row["panel"]) for row in out}
    pms = [{**row, "place": ""} for row in rows_of(results, "pm") if has_value(row["accuracy"])]
    most = max((row["n_comparisons"] for row in pms), default=None)
    for row, cells in means((row for row in pms if row["n_comparisons"] == most), "tranche", value="accuracy"):
        if (row["model"], row["tranche"]) in shown:
            shared = {**model_cells(row), "panel": str(row["tranche"]), "layer": "ceiling", "series": row["model"]}
            out.append({**shared, "y_name": "accuracy", **cells})
    return tidy(sorted(out, key=lambda r: (r["panel"] != "all", r["panel"], r["n_params"], r["layer"], r.get("x", 0))))


def draw_agreement(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a tranche, a line a size; dashed that size's PMs."""
    panels, models = list(dict.fromkeys(table["panel"])), model_names(table)
    colours, markers = style.size_colours(models), style.size_markers(models)
    grid = style.panel_grid(figure, len(panels), columns=3, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        points = rows[rows["layer"] == "point"]
        moved = style.set_apart(points, points["model"], share=0.2)
        for model in models:
            here = moved[moved["model"] == model]
            style.error_points(axes, here, colours[model], markers[model], 4, linestyle="-", linewidth=1.1)
            for level in rows[(rows["layer"] == "ceiling") & (rows["model"] == model)]["y"].tolist():
                axes.axhline(level, color=colours[model], linestyle="--", linewidth=1.1, zorder=1.5)
        style.reference_line(axes, 0.5, ":")
        style.count_axis(axes)
        axes.set_title(f"{style.panel_title(panel)} (n={int(points['n'].max()):,})")
    style.outer_labels(grid, 3, "responses sampled in RLHF", "chosen response is likelier")
    for axes in grid:
        axes.tick_params(labelbottom=True)
    handles = [*style.size_handles(models, colours, markers), style.reference_handle(CHANCE, ":")]
    if (table["layer"] == "ceiling").any():
        handles.append(style.reference_handle("accuracy of the size's PMs", "--"))
    style.legend_below(figure, handles)


# ---------------------------------------------------------------- drawing


def draw_against_size(
    axes: Axes, points: pd.DataFrame, looks: Mapping[str, tuple[str, str]], dashes: str = "-", bars: float = 1.0
) -> None:
    """A line for each series that ``looks`` names, moved apart, and an axis of sizes."""
    moved = style.dodged(points, points["series"], step=0.02)
    for name, (colour, marker) in looks.items():
        here = moved[points["series"] == name]
        if len(here):
            style.error_points(axes, here, colour, marker, 4, bars=bars, linestyle=dashes, linewidth=1.1)
    style.size_axis(axes, points)


def place_handles(looks: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """Legend entries of series."""
    return [Line2D([], [], color=c, marker=m, markersize=4, label=plain_label(n)) for n, (c, m) in looks.items()]
