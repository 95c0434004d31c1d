"""Benchmarks before and after RLHF (Bai et al. 2022, figures 3 and 28), and the tax by size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import style
from reports.formats import plain_label
from reports.results import estimate_cells, has_value, reference_levels, rows_of, tidy

BEFORE, END = "before RLHF", "end of RLHF"
RIGHT = ("acc", "exact_match")  # shares of items answered right
CHANCE = "chance"
MARGIN = "margin"
MEAN = "mean of tasks above chance"
INTERPOLATED = " interpolated"  # at the end of such a recipe's name
Row = Mapping[str, Any]


# ---------------------------------------------------------------- tables


def mean_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 3: mean accuracy over the tasks that every size took, before and at the end."""
    rows = [row for row in _scores(results) if row["metric"] in RIGHT]
    out: list[dict[str, Any]] = []
    for form in dict.fromkeys(row["k_shot"] for row in rows):
        here = [row for row in rows if row["k_shot"] == form]
        groups = _grouped(here, "model", "series")
        tasks = _common_tasks(groups.values())
        for (model, series), group in groups.items():
            cells = mean_of_tasks([row for row in group if (row["task"], row["format"]) in tasks])
            shared = {"panel": f"{form}-shot", "layer": "point", "series": series, "model": model}
            shared |= {"n_params": group[0]["n_params"], "x_name": "n_params", "x": group[0]["n_params"]}
            out.append({**shared, "y_name": f"mean accuracy of {len(tasks)} tasks", **cells})
    return tidy(out)


def tasks_table(results: Row) -> pd.DataFrame:
    """Tidy rows of figure 28: each task's score by size before and at the end, mean over seeds, with chance."""
    out: list[dict[str, Any]] = []
    for (task, form, k_shot), rows in _grouped(_scores(results), "task", "format", "k_shot").items():
        panel = task_label(task, form, k_shot)
        for (model, series), group in _grouped(rows, "model", "series").items():
            shared = {"panel": panel, "layer": "point", "series": series, "model": model}
            shared |= {"n_params": group[0]["n_params"], "x_name": "n_params", "x": group[0]["n_params"]}
            out.append({**shared, "y_name": group[0]["metric"], **mean_of_seeds(group)})
        if (chance := rows[0].get("chance")) is not None:
            out.append({"panel": panel, "layer": "reference", "series": CHANCE, "y_name": "acc", "y": chance})
    return tidy(out)


def task_label(task: str, form: str, k_shot: int) -> str:
    """A task's name with its format, and its shots where there are any."""
    shots = f", {k_shot}-shot" if k_shot else ""
    return f"{task} ({form}{shots})"


def _scores(results: Row) -> list[dict[str, Any]]:
    """Benchmark rows of the base models ("before", as in the paper) and of the policies at their end, by size."""
    rows = [row for row in rows_of(results, "benchmarks") if has_value(row["score"]) and row["metric"] != "bias"]
    before = [{**row, "series": BEFORE} for row in rows if row["stage_kind"] == "base"]
    ends = [row for row in rows if row["stage_kind"] == "ppo" and row.get("at") == "end"]
    end = [{**row, "series": END} for row in ends if not is_mitigation(row.get("recipe"))]
    return sorted(before + end, key=lambda row: (row["n_params"], row["series"] == END, row["stage_id"]))


def _grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _common_tasks(groups: Iterable[Sequence[Row]]) -> set[tuple[str, str]]:
    """Tasks that every group has, so that means over tasks compare the same thing."""
    taken = [{(row["task"], row["format"]) for row in group} for group in groups]
    return set.intersection(*taken) if taken else set()


def mean_of_seeds(rows: Sequence[Row]) -> dict[str, Any]:
    """The mean score of one task over seeds as y, low, high and n (items).

    Seeds meet the same items, so their errors are not independent: the half width is the mean of the seeds'
    half widths, which holds for any correlation between them; spread between seeds is not in it.
    """
    cells = [estimate_cells(row["score"]) for row in rows]
    y = math.fsum(c["y"] for c in cells) / len(cells)
    if any(c["low"] is None or c["high"] is None for c in cells):
        return {"y": y, "low": None, "high": None, "n": cells[0]["n"]}
    half = math.fsum((c["high"] - c["low"]) / 2 for c in cells) / len(cells)
    return {"y": y, "low": y - half, "high": y + half, "n": cells[0]["n"]}


def mean_of_tasks(rows: Sequence[Row]) -> dict[str, Any]:
    """The equally weighted mean over tasks (each a mean over seeds); tasks have independent items."""
    tasks = [mean_of_seeds(group) for group in _grouped(rows, "task", "format").values()]
    if not tasks:
        return {}
    y = math.fsum(c["y"] for c in tasks) / len(tasks)
    n = sum(c["n"] for c in tasks)
    if any(c["low"] is None for c in tasks):
        return {"y": y, "n": n}
    half = math.sqrt(math.fsum(((c["high"] - c["low"]) / 2) ** 2 for c in tasks)) / len(tasks)
    return {"y": y, "low": y - half, "high": y + half, "n": n}


# ---------------------------------------------------------------- drawing

_LOOK = {BEFORE: (style.BEFORE, "o", "-"), END: (style.AFTER, "s", "-")}


def draw_mean(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 3: mean accuracy against parameters, before and after RLHF, one panel a number of shots."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=2, sharey=True)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        _draw_before_after(axes, rows)
        axes.set(title=f"Mean of {rows['y_name'].iloc[0].split()[3]} tasks, {panel}", ylabel="mean accuracy")
        axes.set_xlabel("parameters (non-embedding)")
    style.legend_below(figure, _before_after_handles())


def draw_tasks(figure: Figure, table: pd.DataFrame) -> None:
    """Figure 28: one panel a task, score against parameters before and after RLHF, chance dotted."""
    panels = list(dict.fromkeys(table["panel"]))
    grid = style.panel_grid(figure, len(panels), columns=3)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        _draw_before_after(axes, rows)
        for level in reference_levels(rows).values():
            style.reference_line(axes, level, ":")
        lower_is_better = "bits" in rows["y_name"].iloc[0]
        axes.set_ylabel("bits per byte (lower is better)" if lower_is_better else "accuracy")
        axes.set_title(style.panel_title(panel))
    style.outer_labels(grid, 3, "parameters (non-embedding)", None)
    chance = [style.reference_handle(CHANCE, ":")] if (table["series"] == CHANCE).any() else []
    style.legend_below(figure, [*_before_after_handles(), *chance])


def _draw_before_after(axes: Axes, rows: pd.DataFrame) -> None:
    points = rows[rows["layer"] == "point"]
    moved = style.dodged(points, points["series"])
    for series, (colour, marker, dashes) in _LOOK.items():
        here = moved[points["series"] == series]
        style.error_points(axes, here, colour, marker, linestyle=dashes, linewidth=1.2)
    style.size_axis(axes, points)


def _before_after_handles() -> list[Line2D]:
    return [Line2D([], [], color=c, marker=m, linestyle=d, label=name) for name, (c, m, d) in _LOOK.items()]


# ---------------------------------------------------------------- the tax itself


def tax_table(results: Row) -> pd.DataFrame:
    """Tidy rows of the tax by size: a panel a task and one of their mean, a series for the end and each matched point.

    Bounded scores are chance-normalised percentage points, others in their own unit; ``reference`` rows hold the
    margin within which a difference counts as none.
    """
    rows = by_size(against_base(rows_of(results, "tax")))
    out: list[dict[str, Any]] = []
    for (k_shot,), group in _grouped(by_size(against_base(rows_of(results, "pooled"))), "k_shot").items():
        panel = f"{MEAN}, {k_shot}-shot" if k_shot else MEAN
        out += [_tax_cells({**row, "normalised": row}, panel) for row in group]
    for (task, form, k_shot), group in _grouped(rows, "task", "format", "k_shot").items():
        panel = task_label(task, form, k_shot)
        out += [_tax_cells(row, panel) for row in group]
        half = (group[0].get("margin") or 0.0) * tax_scale(group[0])
        margin = {"panel": panel, "layer": "reference", "series": MARGIN, "y_name": tax_unit(group[0])}
        out.append({**margin, "y": 0.0, "low": -half, "high": half})
    return tidy(out)


def against_base(rows: Iterable[Row]) -> list[Row]:
    """Measured taxes against the base model (against the reference only where no base was benchmarked), by size.

    Each row gains ``place``, where along the run it was taken in a few words, with the recipe if there are several.
    """
    known = [row for row in rows if row.get("value") is not None]
    side = "base" if any(row["before"] == "base" for row in known) else "reference"
    kept = [row for row in known if row["before"] == side]
    several = len({row["recipe"] for row in kept}) > 1
    placed = [{**row, "place": at_label(row) + (f" ({row['recipe']})" if several else "")} for row in kept]
    return sorted(placed, key=lambda row: (row["at"] != "end", row["place"], row["n_params"], row["model"]))


def is_mitigation(recipe: str | None) -> bool:
    """Whether a recipe is meant to lessen the tax of another: pretraining text in the mix, weights in between."""
    return recipe is not None and (":ptx" in recipe or recipe.endswith(INTERPOLATED))


def recipe_label(recipe: str) -> str:
    """A recipe without its study's name: PPO, PPO-ptx 1, interpolated."""
    own = recipe.removesuffix(INTERPOLATED)
    _, _, rest = own.partition(":")
    name = f"PPO-ptx {rest.removeprefix('ptx')}" if rest.startswith("ptx") else own if rest else "PPO"
    if own == recipe:
        return name
    return "interpolated" if name == "PPO" else f"{name}, interpolated"


def by_size(rows: Sequence[Row]) -> list[Row]:
    """Of the main recipe every place, of mitigations one: the end, of weights in between those nearest half way."""
    alphas = [float(row["at"].removeprefix("alpha=")) for row in rows if row["at"].startswith("alpha=")]
    middle = min(alphas, key=lambda alpha: (abs(alpha - 0.5), alpha), default=None)
    return [r for r in rows if not is_mitigation(r["recipe"]) or r["at"] in ("end", f"alpha={middle}")]


def taken(row: Row, results: Row) -> str:
    """Where a tax was taken, with its recipe where the study has several and its shots where there are any."""
    several = len({r["recipe"] for r in rows_of(results, "tax")}) > 1
    recipe = f" ({recipe_label(row['recipe'])})" if several else ""
    return at_label(row) + recipe + (f", {row['k_shot']}-shot" if row.get("k_shot") else "")


def by_place(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """``against_base`` of the main recipe and of mitigations' ends, in groups that can be compared over sizes: one
    place, recipe and number of shots each."""
    groups: dict[str, list[Row]] = {}
    for row in (r for r in against_base(rows) if r["at"] == "end" or not is_mitigation(r["recipe"])):
        shots = f", {row['k_shot']}-shot" if row["k_shot"] else ""
        groups.setdefault(row["place"] + shots, []).append(row)
    return groups


def decided(row: Row) -> Row:
    """The estimate on the scale that verdicts are taken on: chance-normalised, or raw where there is no chance."""
    normalised = row.get("normalised")
    return normalised if normalised is not None else {**row, "n": row.get("n_items")}


def tax_scale(row: Row) -> float:
    """What a tax is multiplied with for people: 100 for fractions, 1 for scores with a unit of their own."""
    return 100.0 if row.get("normalised") is not None else 1.0


def tax_unit(row: Row) -> str:
    """The unit of ``decided`` times ``tax_scale``."""
    return "points" if row.get("normalised") is not None else str(row.get("unit", "")).replace("_", " ")


def at_label(row: Row) -> str:
    """Where along the run a tax was taken, in words."""
    if row["at"] == "end":
        return END
    name, _, value = str(row["at"]).partition("=")
    place = f"√KL {value}" if name == "sqrt_kl" else f"{name.replace('_', ' ')} {value}"
    return f"at {place}"


def at_phrase(place: str) -> str:
    """A place as part of a sentence: "at the end of RLHF", "at √KL 1.0"."""
    return f"at the {place}" if place.startswith(END) else place


def _tax_cells(row: Row, panel: str) -> dict[str, Any]:
    scale = tax_scale(row)
    cells = {key: None if v is None else v * scale for key, v in estimate_cells(decided(row)).items()}
    shared = {"panel": panel, "layer": "point", "series": row["place"], "model": row["model"]}
    shared |= {"n_params": row["n_params"], "x_name": "n_params", "x": row["n_params"], "y_name": tax_unit(row)}
    return {**shared, **cells, "n": row.get("n_items"), "hollow": not row.get("informative", True)}


def draw_tax(figure: Figure, table: pd.DataFrame) -> None:
    """The tax against parameters, one panel a task, the end and the matched points side by side."""
    panels = list(dict.fromkeys(table["panel"]))
    names = list(dict.fromkeys(table[table["layer"] == "point"]["series"]))
    looks = dict(zip(names, _TAX_LOOKS * len(names), strict=False))
    grid = style.panel_grid(figure, len(panels), columns=3)
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        _draw_tax_panel(axes, rows, looks)
        axes.set_title(style.panel_title(panel))
        axes.set_ylabel(f"tax ({rows['y_name'].iloc[0]})")
    style.outer_labels(grid, 3, "parameters (non-embedding)", None)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", label=plain_label(name))
        for name, (colour, marker) in looks.items()
    ]
    if (table["series"] == MARGIN).any():
        handles.append(Patch(facecolor=style.RULE, alpha=0.6, label="within the margin"))
    if table["hollow"].any():
        hollow = Line2D([], [], color=style.INK, marker="o", markerfacecolor="white", linestyle="none")
        hollow.set_label("hollow: at chance before, could not pay")
        handles.append(hollow)
    style.legend_below(figure, handles)


_TAX_LOOKS = [
    *((style.AFTER, "s"), (style.MATCHED, "D"), ("#7a5c00", "^"), ("#4c2a85", "v")),
    *((style.INK, "o"), ("#0f6b5c", "P"), ("#a3427a", "X"), ("#5b6270", "<")),
]


def _draw_tax_panel(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, tuple[str, str]]) -> None:
    points = rows[rows["layer"] == "point"]
    moved = style.dodged(points, points["series"], step=0.07)
    for name, (colour, marker) in looks.items():
        style.error_points(axes, moved[points["series"] == name], colour, marker)
    margin = rows[rows["series"] == MARGIN]
    for low, high in zip(margin["low"].tolist(), margin["high"].tolist(), strict=True):
        axes.axhspan(low, high, color=style.RULE, alpha=0.6, zorder=0.5, linewidth=0)
    axes.axhline(0, color=style.MUTED, linewidth=0.9, zorder=1)
    style.size_axis(axes, points)
