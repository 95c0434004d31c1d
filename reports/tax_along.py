"""The mean tax along the way, against √KL and the gold reward, with mitigations on the same axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style
from reports.formats import plain_label
from reports.results import estimate_cells, has_value, rows_of, tidy
from reports.tax_figures import against_base, recipe_label

Row = Mapping[str, Any]
COLUMNS = 4
SQRT_KL, REWARD = "√KL from the reference", "rise of the gold score"
LOOKS = ((style.AFTER, "s", "-"), (style.MATCHED, "D", "--"), ("#7a5c00", "^", ":"), ("#4c2a85", "v", "-."))


# ---------------------------------------------------------------- tables


def sqrt_kl_table(results: Row) -> pd.DataFrame:
    """Tidy rows of the mean tax against √KL, means over runs, a panel a size and number of shots, a series a recipe."""
    rows = against_base(rows_of(results, "pooled"))
    return _along((row, row.get("at_sqrt_kl"), {**row, "n": None}) for row in rows)


def reward_table(results: Row) -> pd.DataFrame:
    """The same against the rise of the gold score at the same checkpoints, over the runs that have both."""
    known = [{**row, **row["tax"]} for row in rows_of(results, "tax_per_reward") if has_value(row["tax"])]
    return _along((row, row["reward"]["value"], row["tax"]) for row in against_base(known))


def _along(found: Iterable[tuple[Row, float | None, Row]]) -> pd.DataFrame:
    """Rows of (labels, place, tax), a recipe's in the order of √KL, without what was read between checkpoints."""
    rows = []
    for row, place, tax in found:
        if place is None or not has_value(tax) or row["at"].startswith("gold="):
            continue
        panel = f"{row['model']}, {row['k_shot']}-shot" if row["k_shot"] else str(row["model"])
        labels = {"panel": panel, "layer": "point", "series": recipe_label(row["recipe"]), "model": row["model"]}
        size = {"n_params": row["n_params"], "x": place, "y_name": "points"}
        order = (row["k_shot"], row["n_params"], row["model"], row["recipe"], row.get("at_sqrt_kl") or 0.0)
        rows.append((order, {**labels, **size, **_points(tax)}))
    return tidy(row for _, row in sorted(rows, key=lambda entry: entry[0]))


def equal_reward_table(results: Row) -> pd.DataFrame:
    """Tidy rows of recipes' mean tax against size at equal gold reward, a panel a pair of recipes and number of shots.

    Either recipe of a size is read where all runs of both on common chains had gained the same.
    """
    rows: list[dict[str, Any]] = []
    for row in rows_of(results, "at_equal_reward"):
        if row["before"] != "base" or not has_value(row["difference"]):
            continue
        shots = f", {row['k_shot']}-shot" if row["k_shot"] else ""
        for recipe, key in (("recipe", "tax"), ("other", "other_tax")):
            labels = {"panel": f"{recipe_label(row['other'])}{shots}", "layer": "point", "model": row["model"]}
            size = {"n_params": row["n_params"], "x_name": "n_params", "x": row["n_params"], "y_name": "points"}
            rows.append({**labels, "series": recipe_label(row[recipe]), **size, **_points(row[key])})
    return tidy(rows)


def _points(estimate: Row) -> dict[str, Any]:
    """An estimate of a fraction as y, low and high in percentage points, and n."""
    cells = estimate_cells(estimate)
    return {key: None if cells[key] is None else cells[key] * 100 for key in ("y", "low", "high")} | {"n": cells["n"]}


# ---------------------------------------------------------------- drawing


def draw_along(figure: Figure, table: pd.DataFrame, xlabel: str) -> None:
    """A panel a size: tax with intervals along the way, a line a recipe from the start, which costs nothing."""

    def draw(axes: Axes, name: str, here: pd.DataFrame, look: tuple[str, str, str]) -> None:
        colour, marker, dashes = look
        axes.plot([0.0, *here["x"]], [0.0, *here["y"]], color=colour, linestyle=dashes, linewidth=1.0, zorder=2)
        style.error_points(axes, here, colour, marker)

    grid = _draw(figure, table, draw)
    style.outer_labels(grid, COLUMNS, xlabel, "mean tax (points)")
    for axes in grid:
        axes.tick_params(labelbottom=True)


draw_sqrt_kl = partial(draw_along, xlabel=SQRT_KL)
draw_reward = partial(draw_along, xlabel=REWARD)


def draw_equal_reward(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a pair of recipes: the tax of both against parameters, side by side."""
    moved = style.dodged(table, table["series"], step=0.07)

    def draw(axes: Axes, name: str, here: pd.DataFrame, look: tuple[str, str, str]) -> None:
        style.error_points(axes, moved.loc[here.index], look[0], look[1])

    grid = _draw(figure, table, draw)
    for axes, panel in zip(grid, dict.fromkeys(table["panel"]), strict=True):
        style.size_axis(axes, table[table["panel"] == panel])
    style.outer_labels(grid, COLUMNS, "parameters (non-embedding)", "mean tax (points)")


def _draw(figure: Figure, table: pd.DataFrame, draw: Any) -> list[Axes]:
    """Every panel's series by ``draw``, in the look that a series has in all panels; the panels' axes."""
    panels, names = list(dict.fromkeys(table["panel"])), list(dict.fromkeys(table["series"]))
    names.sort(key=lambda name: (name != "PPO", "interpolated" in name, name))  # the same looks in all figures
    looks = {name: LOOKS[i % len(LOOKS)] for i, name in enumerate(names)}
    grid = style.panel_grid(figure, len(panels), columns=COLUMNS)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        for name in (name for name in names if (rows["series"] == name).any()):
            draw(axes, name, rows[rows["series"] == name], looks[name])
        axes.axhline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        axes.set_title(style.panel_title(panel))
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=dashes, label=plain_label(name))
        for name, (colour, marker, dashes) in looks.items()
    ]
    style.legend_below(figure, handles)
    return grid
