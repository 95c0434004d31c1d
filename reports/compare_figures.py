"""The tax of several studies or recipes side by side, and at equal gold reward, as figures with their CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import save, style, tax_figures
from reports.figure_spec import grid_size
from reports.formats import plain_label
from reports.results import estimate_cells, has_value, tidy

Row = Mapping[str, Any]
NAME, EQUAL = "compare", "equal_reward"
FIRST, SECOND, SAVED = "tax of A", "tax of B", "A minus B: what B saves"
LOOKS = {FIRST: (style.BEFORE, "o"), SECOND: (style.AFTER, "s"), SAVED: (style.MATCHED, "D")}


def compare_table(compared: Row) -> pd.DataFrame:
    """Tidy rows of every study's tax at the end of RLHF by size, a series a study, from ``analysis.compare``."""
    several = {row["study"] for row in compared["tax"] if _recipes(compared, row["study"]) > 1}
    named = {key: list(_named(compared[key], several)) for key in ("tax", "pooled")}
    return tax_figures.tax_table(named)


def _recipes(compared: Row, study: str) -> int:
    return len({row["recipe"] for row in compared["tax"] if row["study"] == study})


def _named(rows: Iterable[Row], several: set[str]) -> Iterable[dict[str, Any]]:
    """The rows at the end of RLHF, the study (and its recipe, where it has several) in the recipe's place."""
    for row in rows:
        if row["at"] == "end":
            study = row["study"]
            yield {**row, "recipe": f"{study}/{row['recipe']}" if study in several else study}


def write_comparison(compared: Row, out: Path) -> list[Path]:
    """Write ``compare.png``, ``.svg`` and ``.csv`` in ``out/figures``; returns their paths, none without a tax.

    The figure carries the words "synthetic world" if any of its studies is one.
    """
    table = compare_table(compared)
    if not (table["layer"] == "point").any():
        return []
    size = grid_size(table["panel"].nunique(), columns=3)
    drawn = save.render(tax_figures.draw_tax, table, size, bool(compared.get("synthetic")))
    save.save(drawn, out / "figures", NAME)
    return [out / "figures" / f"{NAME}.{suffix}" for suffix in ("png", "svg", "csv")]


# ---------------------------------------------------------------- at equal gold reward


def equal_reward_figure_table(compared: Row) -> pd.DataFrame:
    """Tidy rows in chance-normalised points, a panel a couple of recipes: the tax of either, and how much less the
    second pays; against the base model where that was measured."""
    rows = [row for row in compared["at_equal_reward"] if has_value(row["difference"])]
    side = "base" if any(row["before"] == "base" for row in rows) else "reference"
    short = short_names(compared["studies"])
    out = []
    for row in (row for row in rows if row["before"] == side):
        names = (_side(row, "study", "recipe", short), _side(row, "other_study", "other", short))
        panel = f"A: {plain_label(names[0], 36)}\nB: {plain_label(names[1], 36)}"
        for series, key in ((FIRST, "tax"), (SECOND, "other_tax"), (SAVED, "difference")):
            cells = {k: v if k == "n" or v is None else 100 * v for k, v in estimate_cells(row[key]).items()}
            shared = {"panel": panel, "layer": "point", "series": series, "model": row["model"], "y_name": "points"}
            out.append({**shared, "n_params": row["n_params"], "x_name": "n_params", "x": row["n_params"], **cells})
    return tidy(sorted(out, key=lambda cells: (cells["panel"], cells["n_params"])))


def short_names(studies: Sequence[str]) -> dict[str, str]:
    """Names of studies for a figure: of directories only as many last parts as tell them apart."""
    for n in range(1, 1 + max((len(Path(name).parts) for name in studies), default=0)):
        short = {name: "/".join(Path(name).parts[-n:]) for name in studies}
        if len(set(short.values())) == len(set(studies)):
            return short
    return {name: name for name in studies}


def _side(row: Row, study: str, recipe: str, short: Mapping[str, str]) -> str:
    return str(row[recipe]) if str(row[recipe]).startswith(str(row[study])) else f"{short[row[study]]}/{row[recipe]}"


def draw_equal_reward(figure: Figure, table: pd.DataFrame) -> None:
    """A panel a couple of recipes, against parameters."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=2, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        moved = style.dodged(rows, rows["series"], step=0.06)
        for name, (colour, marker) in LOOKS.items():
            style.error_points(axes, moved[rows["series"] == name], colour, marker)
        axes.axhline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        style.size_axis(axes, rows)
        axes.set_title(panel)
    style.outer_labels(grid, 2, "parameters (non-embedding)", "chance-normalised points")
    for axes in grid:
        axes.tick_params(labelbottom=True)
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", label=n) for n, (c, m) in LOOKS.items()]
    style.legend_below(figure, handles)


def write_equal_reward(compared: Row, out: Path) -> list[Path]:
    """Write ``equal_reward.png``, ``.svg`` and ``.csv`` of the figure in ``out``; none where nothing was compared."""
    table = equal_reward_figure_table(compared)
    if table.empty:
        return []
    size = grid_size(table["panel"].nunique(), columns=2)
    save.save(save.render(draw_equal_reward, table, size, bool(compared.get("synthetic"))), out, EQUAL)
    return [out / f"{EQUAL}.{suffix}" for suffix in ("png", "svg", "csv")]
