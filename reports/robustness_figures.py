"""Robustness of preference models in pictures: scores by train and test PMs, gold, where they part, PM sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style
from reports.formats import plain_label
from reports.frontier_figures import SQRT_KL_LABEL, size_title
from reports.results import estimate_cells, find_fit, has_value, model_names, rows_of, tidy, usable

Row = Mapping[str, Any]
TRAIN, GOLD = "train PM", "gold"
SD_LABEL = "change (sd of the PM's scores)"
BEST_OF_N, POLICY = "best of n", "PPO"


def score_series(row: Row) -> str:
    """What a score is called: the train PM's, a test PM's with its size, or gold."""
    return TRAIN if row["score"] == "train" else GOLD if row["score"] == "gold" else f"test PM {row['pm']}"


def group_name(row: Row) -> str:
    """The group of the fits of that policy size, train PM and score, as the analysis calls them."""
    by = "" if row.get("pm") is None else f" by {row['pm']}"
    return f"{row['model']} against {row['train_pm']}, {row['score']}{by}"


def cell_title(row: Row) -> str:
    """A panel for one policy size against one train PM."""
    return f"{plain_label(str(row['model']), 14)} against {plain_label(str(row['train_pm']), 14)}"


def _ordered(results: Row, key: str) -> list[dict[str, Any]]:
    """Rows by policy size, train PM size, run and place; sizes of PMs from small to large."""
    sizes = ("n_params", "train_pm_n_params", "pm_n_params")
    return sorted(
        rows_of(results, key), key=lambda row: (*(row[name] or 0 for name in sizes), row["stage_id"], row["place"])
    )


# ---------------------------------------------------------------- tables


def scores_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figures 4 and 13: PM scores against √KL, a panel a policy size and train PM, with fitted lines and
    the place where train and test score part (its interval, of √KL, is in low and high)."""
    rows: list[dict[str, Any]] = []
    measured = (row for row in _ordered(results, "robustness_points") if has_value(row["change"]))
    points = [row for row in measured if row["way"] == "ppo" and row["score"] != "gold"]
    for panel in dict.fromkeys(map(cell_title, points)):
        here = [row for row in points if cell_title(row) == panel]
        rows += [_point(row, panel, score_series(row)) for row in here]
        for series in dict.fromkeys(map(score_series, here)):
            rows += _line(results, [row for row in here if score_series(row) == series], panel, series)
        rows += _parting(results, here[0], panel)
    return tidy(rows)


def gold_table(results: Row) -> pd.DataFrame:
    """Tidy rows of the gold score against √KL, a panel a policy size and a series a train PM and way."""
    rows: list[dict[str, Any]] = []
    for row in sorted(_ordered(results, "robustness_points"), key=lambda row: row["train_pm_n_params"]):
        if row["score"] == "gold" and has_value(row["change"]):
            panel, series = str(row["model"]), str(row["train_pm"])
            shown = _point(row, panel, series) | {"layer": "point" if row["way"] == "ppo" else "pool"}
            rows.append(shown)
    for first in _firsts(rows_of(results, "robustness_points")):
        rows += _curve(results, first, rows)
    return tidy(rows)


def parting_table(results: Row) -> pd.DataFrame:
    """Tidy rows of where train and test score part, by policy size, a panel a test PM and a series a train PM; what
    was not reached is a hollow point at the farthest √KL."""
    rows = []
    sizes = ("test_pm_n_params", "train_pm_n_params", "n_params")
    for row in sorted(rows_of(results, "robustness"), key=lambda row: [row[name] for name in sizes]):
        if not has_value(row["parting_at_end"]):  # not compared at all
            continue
        parted = has_value(row["parting_sqrt_kl"])
        place = estimate_cells(row["parting_sqrt_kl"]) if parted else {"y": row["reach"]}
        labels: dict[str, Any] = {
            "panel": f"test PM {plain_label(str(row['test_pm']), 14)}",
            "series": str(row["train_pm"]),
        }
        labels |= {"model": row["model"], "n_params": row["n_params"], "layer": "point", "hollow": not parted}
        rows.append({**labels, "x_name": "n_params", "x": row["n_params"], "y_name": "parting_sqrt_kl", **place})
    return tidy(rows)


def effect_table(results: Row) -> pd.DataFrame:
    """Tidy rows of what a large train PM gives over a small one at equal √KL, by policy size, a panel a score."""
    rows = []
    for row in rows_of(results, "pm_size_effect"):
        if row["n_params"] is not None and has_value(row["difference"]):
            labels = {"panel": score_series(row), "series": f"{row['large']} over {row['small']}", "layer": "point"}
            place = {"model": row["model"], "n_params": row["n_params"], "x_name": "n_params", "x": row["n_params"]}
            rows.append({**labels, **place, "y_name": "difference", **estimate_cells(row["difference"])})
    order = {GOLD: 0}
    return tidy(sorted(rows, key=lambda cells: (order.get(str(cells["panel"]), 1), cells["n_params"])))


def _point(row: Row, panel: str, series: str) -> dict[str, Any]:
    kl = row["kl"]
    hollow = bool(kl["se"]) and kl["value"] < 2 * kl["se"]
    labels = {"panel": panel, "layer": "point", "series": series, "model": row["model"], "n_params": row["n_params"]}
    place = {"run": row["stage_id"], "x_name": "sqrt_kl", "x": row["sqrt_kl"], "status": row["status"]}
    return labels | place | {"y_name": f"change_{row['score']}", "hollow": hollow} | estimate_cells(row["change"])


def _line(results: Row, points: Sequence[Row], panel: str, series: str) -> list[dict[str, Any]]:
    """The cell's line through the origin, to its farthest point."""
    fit = find_fit(results, "sqrt-kl-linear", group_name(points[0]), ["sqrt_kl"], f"change_{points[0]['score']}")
    if fit is None or not usable(fit):
        return []
    shared = {"panel": panel, "layer": "fit", "series": series, "model": points[0]["model"], "x_name": "sqrt_kl"}
    slope, end = fit["params"]["c"]["value"], max(row["sqrt_kl"] for row in points)
    shared |= {"n_params": points[0]["n_params"], "y_name": f"change_{points[0]['score']}"}
    return [{**shared, "x": x, "y": slope * x} for x in (0.0, end)]


def _parting(results: Row, cell: Row, panel: str) -> list[dict[str, Any]]:
    """Where the train score parts from that of the largest test PM, if it does."""
    rows = [row for row in rows_of(results, "robustness") if cell_title(row) == cell_title(cell)]
    row = max(rows, key=lambda r: r["test_pm_n_params"], default=None)
    if row is None or not has_value(row["parting_sqrt_kl"]):
        return []
    place = row["parting_sqrt_kl"]
    shared = {"panel": panel, "layer": "parting", "series": f"test PM {row['test_pm']}", "model": row["model"]}
    shared |= {"n_params": row["n_params"], "x_name": "sqrt_kl", "y_name": "parting_sqrt_kl"}
    return [{**shared, "x": place["value"], "low": place["low"], "high": place["high"], "n": place["n"]}]


def _firsts(points: Sequence[Row]) -> list[Row]:
    """One gold row of each policy size and train PM."""
    found: dict[tuple[str, str], Row] = {}
    for row in points:
        if row["score"] == "gold":
            found.setdefault((row["model"], row["train_pm"]), row)
    return list(found.values())


def _curve(results: Row, row: Row, points: Sequence[Row]) -> list[dict[str, Any]]:
    """d (alpha - beta ln d) of a cell's policies, over the distances that they reached."""
    fit = find_fit(results, "rl", group_name(row), ["sqrt_kl"], "change_gold")
    own = [p["x"] for p in points if (p["panel"], p["series"], p["layer"]) == (row["model"], row["train_pm"], "point")]
    if fit is None or not usable(fit) or not own or max(own) <= 0:
        return []
    alpha, beta = (fit["params"][name]["value"] for name in ("alpha", "beta"))
    shared = {"panel": str(row["model"]), "layer": "fit", "series": str(row["train_pm"]), "model": row["model"]}
    shared |= {"n_params": row["n_params"], "x_name": "sqrt_kl", "y_name": "change_gold"}
    distances = np.linspace(max(own) / 40, max(own), 40)
    return [{**shared, "x": float(d), "y": float(d * (alpha - beta * np.log(d)))} for d in distances]


# ---------------------------------------------------------------- drawing


def draw_scores(figure: Figure, table: pd.DataFrame) -> None:
    """PM scores against √KL; black: the train PM, from warm to dark: test PMs by size; a grey band where they part."""
    panels = list(dict.fromkeys(table["panel"]))
    series = [str(name) for name in dict.fromkeys(table["series"])]
    tests = [name for name in series if name != TRAIN]
    colours = {TRAIN: style.INK} | dict(zip(tests, style.size_colours(tests).values(), strict=True))
    markers = {TRAIN: "o"} | {name: style.MARKERS[1 + i] for i, name in enumerate(tests)}
    grid = style.panel_grid(figure, len(panels), columns=4, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        for name in [*tests, TRAIN]:
            own = rows[rows["series"] == name]
            points, line = own[own["layer"] == "point"], own[own["layer"] == "fit"]
            style.error_points(axes, points, colours[name], markers[name], 2.8, 0.7, 0.35)
            axes.plot(line["x"], line["y"], color=colours[name], linewidth=1.6)
        _mark_parting(axes, rows[rows["layer"] == "parting"])
        axes.set_title(panel)
    _finish(grid, SQRT_KL_LABEL, SD_LABEL, columns=4)
    handles: list[Any] = [Line2D([], [], color=colours[n], marker=markers[n], label=n) for n in [TRAIN, *tests]]
    if (table["layer"] == "parting").any():
        handles.append(Line2D([], [], color=style.MUTED, linestyle=":", label="train and largest test part, 95 %"))
    style.legend_below(figure, [*handles, *_hollow(table)], columns=4)


def draw_gold(figure: Figure, table: pd.DataFrame) -> None:
    """Gold against √KL, a panel a policy size, a colour a train PM: PPO's points with its law, the best of n dashed."""
    panels, pms = model_names(table), _by_pm(table)
    colours, markers = style.size_colours(pms), style.size_markers(pms)
    grid = style.panel_grid(figure, len(panels), columns=2, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        for name in pms:
            own = rows[rows["series"] == name]
            style.error_points(axes, own[own["layer"] == "point"], colours[name], markers[name], 3.4, 0.7, 0.4)
            law = own[own["layer"] == "fit"]
            axes.plot(law["x"], law["y"], color=colours[name], linewidth=1.6)
            for _, pool in own[own["layer"] == "pool"].groupby("run", sort=False):
                axes.plot(pool["x"], pool["y"], color=colours[name], linestyle="--", linewidth=1.1, alpha=0.8)
        axes.set_title(size_title(panel, rows["n_params"].iloc[0]))
    _finish(grid, SQRT_KL_LABEL, "gold score, change from the start", columns=2)
    handles: list[Any] = [
        Line2D([], [], color=colours[n], marker=markers[n], label=f"train PM {plain_label(n, 14)}") for n in pms
    ]
    if (table["layer"] == "fit").any():
        handles.append(Line2D([], [], color=style.INK, label=f"{POLICY}: d (α − β ln d), d = √KL"))
    if (table["layer"] == "pool").any():
        handles.append(Line2D([], [], color=style.INK, linestyle="--", label=BEST_OF_N))
    style.legend_below(figure, [*handles, *_hollow(table)], columns=4)


def draw_parting(figure: Figure, table: pd.DataFrame) -> None:
    """Where train and test score part, by policy size; hollow: not before this √KL."""
    panels, pms = list(dict.fromkeys(table["panel"])), _by_pm(table)
    colours, markers = style.size_colours(pms), style.size_markers(pms)
    grid = style.panel_grid(figure, len(panels), columns=2, sharey=True)
    moved = style.dodged(table, table["series"])
    for axes, panel in zip(grid, panels, strict=True):
        rows = moved[moved["panel"] == panel]
        for name in pms:
            own = rows[rows["series"] == name].assign(run="")
            style.error_points(axes, own, colours[name], markers[name], 5)
            for x, y in own.loc[own["hollow"], ["x", "y"]].itertuples(index=False):
                up = {"arrowstyle": "<-", "color": colours[name]}  # from the point upwards
                axes.annotate("", (x, y), xytext=(0, 16), textcoords="offset points", arrowprops=up)
        axes.set_title(panel)
        axes.margins(y=0.15)  # room for the arrows
        style.size_axis(axes, table[table["panel"] == panel])
    style.outer_labels(grid, 2, "policy parameters (non-embedding)", "√KL where the scores part")
    handles: list[Any] = [
        Line2D([], [], color=colours[n], marker=markers[n], linestyle="none", label=f"train PM {n}") for n in pms
    ]
    if table["hollow"].any():
        look: dict[str, Any] = {"color": style.INK, "marker": "o", "linestyle": "none", "markerfacecolor": "white"}
        handles.append(Line2D([], [], label="hollow: not parted up to here", **look))
    style.legend_below(figure, handles)


def draw_effect(figure: Figure, table: pd.DataFrame) -> None:
    """What a large train PM gives over a small one at equal √KL, by policy size."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=3)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        style.error_points(axes, rows, style.MATCHED, "o", 5)
        axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
        style.size_axis(axes, rows)
        axes.set_title("gold score" if panel == GOLD else panel)
        axes.set_ylabel("in its own unit" if panel == GOLD else "sd of the PM's scores")
    style.outer_labels(grid, 3, "policy parameters (non-embedding)", None)


def _mark_parting(axes: Axes, rows: pd.DataFrame) -> None:
    for x, low, high in rows[["x", "low", "high"]].itertuples(index=False):
        axes.axvline(x, color=style.MUTED, linestyle=":", linewidth=1.3, zorder=1)
        if pd.notna(low) and pd.notna(high):
            axes.axvspan(low, high, color=style.MUTED, alpha=0.13, linewidth=0, zorder=0.5)


def _finish(grid: Sequence[Axes], xlabel: str, ylabel: str, columns: int) -> None:
    """A line at zero, labels on the outside, and every panel's own reach in √KL from just left of 0."""
    style.outer_labels(grid, columns, xlabel, ylabel)
    for axes in grid:
        axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
        axes.tick_params(labelbottom=True)
        if np.isfinite(farthest := axes.dataLim.x1) and farthest > 0:  # else nothing was drawn
            axes.set_xlim(left=-0.03 * farthest, right=1.03 * farthest)


def _by_pm(table: pd.DataFrame) -> list[str]:
    """Train PMs in the order of the table, which is that of their sizes."""
    return [str(name) for name in dict.fromkeys(table["series"])]


def _hollow(table: pd.DataFrame) -> list[Line2D]:
    if not table["hollow"].any():
        return []
    look: dict[str, Any] = {"color": style.INK, "marker": "o", "linestyle": "none", "markerfacecolor": "white"}
    return [Line2D([], [], label="hollow: KL below 2 standard errors", **look)]
