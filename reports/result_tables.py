"""Tables of measured results: preference models, the frontier by size, the tax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reports.formats import (
    format_count,
    format_difference,
    format_estimate,
    format_interval,
    format_number,
    format_p,
    join_words,
)
from reports.results import data_fit, models_by_size, rows_of, slope_fit, usable
from reports.tables import HtmlTable
from reports.tax_figures import taken, tax_scale, tax_unit

Row = Mapping[str, Any]
LN2 = math.log(2.0)


def trend_table(results: Row) -> HtmlTable:
    """Pooled accuracy, sizes down and numbers of comparisons across, with each size's slope with data."""
    cells = {(row["model"], row["n_comparisons"]): row for row in rows_of(results, "pm_trend")}
    numbers = sorted({n for _, n in cells})
    rows = []
    for model in models_by_size(results):
        here = [cells.get((model["name"], n)) for n in numbers]
        if any(here):
            fit = data_fit(results, model["name"])
            shown = ["–" if cell is None else format_estimate(cell["accuracy"]) for cell in here]
            runs = ", ".join("–" if cell is None else str(cell["n_runs"]) for cell in here)
            rows.append([str(model["name"]), format_count(model["n_params"]), *shown, per_doubling(fit), runs])
    head = ["model", "parameters", *(f"{n:,} comparisons" for n in numbers), "points per doubling of data", "PMs"]
    return HtmlTable(
        "Held-out accuracy, mean over seeds and halves (n counts held-out comparisons)",
        head,
        rows,
        empty="No preference model was trained and scored.",
        numbers=(1,),
    )


def per_doubling(fit: Row | None) -> str:
    """A log-linear fit's slope in points per doubling of x, with its interval; words where there is none."""
    if fit is None:
        return "not fitted"
    if not usable(fit):
        return str(fit["status"]).replace("_", " ")
    return format_estimate({**fit["params"]["c1"], "n": None}, signed=True, scale=100 * LN2)


def pm_table(results: Row) -> HtmlTable:
    """Every preference model on all held-out comparisons, beside what length alone reaches."""
    rows = [
        [
            str(row["model"]),
            format_count(row["n_params"]),
            str(row["half"]),
            str(row["seed"]),
            f"{row['n_comparisons']:,}",
            format_estimate(row["accuracy"]),
            format_difference(row.get("accuracy_minus_length")),
            format_estimate(row.get("length_matched_accuracy")),
            format_difference(row.get("bayes_gap")),
            format_estimate(row["log_loss"]),
            format_estimate(row.get("ece")),
            format_estimate(row.get("calibration_slope")),
        ]
        for row in rows_of(results, "pm")
        if row["tranche"] == "all"
    ]
    head = ["model", "parameters", "half", "seed", "comparisons", "accuracy", "accuracy − length baseline"]
    head += ["accuracy where lengths match", "Bayes ceiling − accuracy"]
    return HtmlTable(
        "Preference models on held-out comparisons (95 % intervals, clustered by conversation)",
        [*head, "log loss (nats)", "calibration error", "calibration slope"],
        rows,
        empty="No preference model was trained and scored.",
        numbers=(1, 4),
    )


def frontier_table(results: Row) -> HtmlTable:
    """Per size: how far policies went, slopes of score against √KL with R², the gold score's rise and fall."""
    frontier = rows_of(results, "frontier")
    over = {row["model"]: row for row in rows_of(results, "overoptimisation")}
    rows = []
    for model in models_by_size(results):
        here = sorted((row for row in frontier if row["model"] == model["name"]), key=lambda row: row["step"])
        if here:
            ends = list({row["stage_id"]: row for row in here}.values())
            rows.append([str(model["name"]), str(len(ends)), join_words([_reach(row) for row in ends])])
            rows[-1] += [_slope(results, model["name"], score) for score in ("score_train", "score_test")]
            rows[-1] += _gold_cells(over.get(model["name"]) or {})
    head = ["model", "runs", "√KL at the end of each", "train score per √nat", "test score per √nat"]
    head += ["train − test rise (sd)", "gold: mean peak at √KL", "gold: rise to peak", "gold: fall from peak"]
    return HtmlTable(
        "The frontier by size, over finished runs (n counts prompts)",
        [*head, "gold: start to end", "gold", "note"],
        rows,
        empty="The study has no policy with evaluations.",
        wide=(11,),
        numbers=(1, 6),
    )


def _reach(row: Row) -> str:
    return format_number(row["sqrt_kl"], 2) + (" (diverged)" if row["status"] == "diverged" else "")


def _gold_cells(row: Row) -> list[str]:
    place = row.get("peak_sqrt_kl")
    keys = ("parting", "gold_rise", "gold_fall", "gold_change")
    estimates = [format_estimate(row.get(key), signed=True) for key in keys]
    peak = "–" if place is None else format_number(place, 2)
    return [estimates[0], peak, *estimates[1:], str(row.get("gold_verdict") or "–"), str(row.get("note") or "–")]


def _slope(results: Row, model: str, score: str) -> str:
    fit = slope_fit(results, model, score)
    if fit is None:
        return "not fitted"
    if not usable(fit):
        return str(fit["status"]).replace("_", " ")
    slope = fit["params"]["c"]
    r2 = "" if fit.get("r2") is None else f", R² {format_number(fit['r2'], 3)}"
    r2 += " (worse than a constant)" if (fit.get("r2") or 0.0) < 0 else ""
    return f"{format_number(slope['value'], 2, True)} {format_interval(slope, 2, True)}{r2}"


def pooled_table(results: Row) -> HtmlTable:
    """The mean tax over informative tasks for every size and place along the run, against base and reference."""
    rows = [
        [
            str(row["model"]),
            taken(row, results),
            str(row["before"]),
            format_estimate(row, signed=True, scale=100),
            "–" if row.get("random_effect") is None else format_estimate(row["random_effect"], signed=True, scale=100),
            f"{row['n_tasks']}: {join_words(list(map(str, row['tasks'])))}" if row["tasks"] else "0",
            str(row["n_seeds"]),
            "–" if row.get("at_sqrt_kl") is None else format_number(row["at_sqrt_kl"], 2),
            str(row.get("note") or "–"),
        ]
        for row in rows_of(results, "pooled")
    ]
    head = ["model", "taken", "before", "mean tax (normalised points)", "random effect over tasks", "tasks", "seeds"]
    return HtmlTable(
        "Mean alignment tax by size; positive is a cost",
        [*head, "√KL there", "note"],
        rows,
        empty="No tax.",
        wide=(5, 8),
        numbers=(6, 7),
    )


def tax_rows_table(results: Row) -> HtmlTable:
    """Every tax with its verdict: model, task, place, scores before and after, tax in its own and normalised unit."""
    rows = [_tax_cells(row, taken({**row, "k_shot": 0}, results)) for row in rows_of(results, "tax")]
    head = ["model", "task", "taken", "before RLHF", "after", "tax", "normalised tax (points)"]
    head += ["share of the above-chance score", "p (Holm)", "q (map)"]
    return HtmlTable(
        "Alignment tax by task; positive is a cost",
        [*head, "detectable (80 % power, at Holm's level)", "items, seeds", "verdict", "note"],
        rows,
        empty="No benchmark was taken both before and after RLHF.",
        verdicts=(12,),
        wide=(13,),
    )


def _share(ratio: Row | None) -> str:
    """The share of the above-chance score that was lost; a dash where there is none to lose a share of."""
    if ratio is None or ratio.get("value") is None or ratio.get("kind") != "interval":
        return "–"
    return format_estimate({**ratio, "n": None}, signed=True)


def _tax_cells(row: Row, place: str) -> list[str]:
    scale, unit = tax_scale(row), tax_unit(row)
    normalised = row.get("normalised")
    own = {**row, "n": None}
    shots = f", {row['k_shot']}-shot" if row["k_shot"] else ""
    return [
        str(row["model"]),
        f"{row['task']} ({row['format']}{shots})",
        place if row["before"] == "base" else f"{place}, against {row['before']}",
        format_estimate(row.get("before_score")),
        format_estimate(row.get("after_score")),
        format_estimate(own, signed=True) if normalised is None else format_estimate(own, signed=True, scale=100),
        "–" if normalised is None else format_estimate({**normalised, "n": None}, signed=True, scale=100),
        _share(row.get("lost_share")),
        "–" if row.get("p_adjusted") is None else format_p(row["p_adjusted"]),
        "–" if row.get("q_bh") is None else format_p(row["q_bh"]),
        "–" if row.get("mde") is None else f"{format_number(row['mde'] * scale, 1 if scale > 1 else 3)} {unit}",
        f"{row['n_items']:,}, {row['n_seeds']}",
        str(row["verdict"]) if row.get("informative", True) else "at chance",
        str(row.get("note") or "–"),
    ]
