"""Findings in words. Every sentence is a function of the results and can come out the other way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from reports.formats import (
    format_count,
    format_estimate,
    format_interval,
    format_number,
    format_span,
    join_words,
    plural,
)
from reports.headlines import largest_pm_cell, pms_of_cell
from reports.results import (
    data_fit,
    has_value,
    joint_fit,
    models_by_size,
    rows_of,
    size_fit,
    slope_fit,
    usable,
)
from reports.tax_figures import against_base, at_label, at_phrase, by_place

Row = Mapping[str, Any]
LN2 = math.log(2.0)
CLAIM_VERDICTS = ("supported", "contradicted", "inconclusive")
TAX_VERDICTS = ("tax", "bonus", "equivalent", "inconclusive")


def sign(estimate: Row) -> int:
    """1 where the whole interval is above 0, -1 where it is below, 0 where it holds 0 or is not known."""
    low, high = estimate.get("low"), estimate.get("high")
    if low is None or high is None:
        return 0
    return int(low > 0) - int(high < 0)


# ---------------------------------------------------------------- all of it


def overview(results: Row) -> list[str]:
    """How the claims came out, and which questions the study is too small to ask."""
    claims = rows_of(results, "claims")
    lines = []
    if claims:
        count = Counter(str(claim["verdict"]) for claim in claims)
        parts = [f"{count[verdict]} {verdict}" for verdict in CLAIM_VERDICTS if count[verdict]]
        lines.append(f"{plural(len(claims), 'claim')} tested: {join_words(parts)}.")
    n_models = len(models_by_size(results))
    if n_models < 2:
        lines.append(f"The study has {plural(n_models, 'size')}, so it cannot say how anything changes with size.")
    return lines


# ---------------------------------------------------------------- preference models


def pm_sentences(results: Row) -> list[str]:
    """What the preference models reached, against length and the ceiling, and how it moves with data and size."""
    cell = largest_pm_cell(results)
    if cell is None:
        return ["No preference model was trained and scored on held-out comparisons, so this section is empty."]
    lines = [_pm_level(cell), _pm_against_length(results, cell), _pm_data_trend(results)]
    lines += [_pm_size_trend(results, cell), _pm_calibration(results, cell)]
    return [line for line in lines if line]


def _pm_level(cell: Row) -> str:
    return (
        f"At the largest size ({cell['model']}) with {cell['n_comparisons']:,} comparisons, preference models agree "
        f"with the label on {format_estimate(cell['accuracy'])} of held-out comparisons, mean of "
        f"{plural(cell['n_runs'], 'preference model')}."
    )


def _pm_against_length(results: Row, cell: Row) -> str:
    key = "accuracy_minus_length"
    gains = sorted(
        (row[key] for row in pms_of_cell(results, cell) if has_value(row.get(key))), key=lambda g: float(g["value"])
    )
    if not gains:
        return ""
    better, worse = (sum(sign(gain) == s for gain in gains) for s in (1, -1))
    span = format_estimate(gains[0], signed=True)
    span += f" to {format_estimate(gains[-1], signed=True)}" if len(gains) > 1 else ""
    return (
        f"Against choosing the longer response, {better} of these {len(gains)} do better and {worse} worse on the same "
        f"comparisons: {span}."
    )


def _pm_data_trend(results: Row) -> str:
    """Whether accuracy rises with data at each size; from the fits, or from the ends where nothing was fitted."""
    slopes = {}
    for model in models_by_size(results):
        fit = data_fit(results, model["name"])
        if fit is not None and usable(fit):
            slopes[str(model["name"])] = fit["params"]["c1"]
    if not slopes:
        return "How accuracy changes with the number of comparisons was not fitted."
    up, down = ([name for name, slope in slopes.items() if sign(slope) == s] for s in (1, -1))
    open_ = [name for name in slopes if name not in up + down]
    parts = [f"rises with data at {join_words(up)}"] if up else []
    parts += [f"falls at {join_words(down)}"] if down else []
    parts += [f"does not measurably change at {join_words(open_)}"] if open_ else []
    return f"Accuracy {', '.join(parts)} (95 % interval of the log-linear slope against 0; slopes in the table below)."


def _pm_size_trend(results: Row, cell: Row) -> str:
    """The slope with size: of the joint fit with data, else of the fit at the most comparisons."""
    for fit, how in (
        (joint_fit(results), "fitted jointly with the number of comparisons"),
        (size_fit(results, cell["n_comparisons"]), f"at {cell['n_comparisons']:,} comparisons"),
    ):
        if fit is not None and usable(fit):
            slope = fit["params"]["c1"]
            verb = {1: "rises", -1: "falls", 0: "does not measurably change"}[sign(slope)]
            text = format_estimate({**slope, "n": fit["n_points"]}, signed=True, scale=100 * LN2)
            return f"With size accuracy {verb}: {text} points per doubling of parameters, {how}."
    return "How accuracy changes with size was not fitted." if len(models_by_size(results)) > 1 else ""


def _pm_calibration(results: Row, cell: Row) -> str:
    key = "calibration_slope"
    slopes = [row[key] for row in pms_of_cell(results, cell) if has_value(row.get(key))]
    if not slopes:
        return ""
    over = sum(s["high"] is not None and s["high"] < 1 for s in slopes)
    under = sum(s["low"] is not None and s["low"] > 1 for s in slopes)
    return (
        f"Of these {len(slopes)}, {over} are over-confident and {under} under-confident (95 % interval of the "
        "calibration slope below or above 1)."
    )


# ---------------------------------------------------------------- frontier


def frontier_sentences(results: Row) -> list[str]:
    """How far policies went, how straight score against √KL was, and whether the truth went along."""
    rows = rows_of(results, "frontier")
    if not rows:
        return ["The study has no policy with evaluations, so this section is empty."]
    lines = [_runs_sentence(rows)]
    lines += [_straightness(results, score, name) for score, name in (("score_train", "train"), ("score_test", "test"))]
    return [line for line in [*lines, _parting_sentence(results), _gold_sentence(results)] if line]


def _runs_sentence(rows: list[dict[str, Any]]) -> str:
    ends = list({row["stage_id"]: row for row in sorted(rows, key=lambda row: row["step"])}.values())
    reach = [row["sqrt_kl"] for row in ends if row["sqrt_kl"] is not None]
    diverged = sum(row["status"] == "diverged" for row in ends)
    prompts = join_words([f"{n:,}" for n in sorted({row["kl"]["n"] for row in ends if row["kl"].get("n")})])
    return (
        f"{plural(len(ends), 'policy', 'policies')}, each evaluated on {prompts} held-out prompts, ended at √KL "
        f"{format_span(reach, 2)} from the reference; {diverged or 'none'} "
        "diverged."
    )


def _straightness(results: Row, score: str, pm: str) -> str:
    names = [model["name"] for model in models_by_size(results)]
    fits = [slope_fit(results, str(name), score) for name in names]
    good = [fit for fit in fits if fit is not None and usable(fit)]
    if not good:
        return f"Score of the {pm} PM against √KL was not fitted."
    rising = sum(sign(fit["params"]["c"]) == 1 for fit in good)
    r2 = [fit["r2"] for fit in good if fit.get("r2") is not None]
    straight = f" R² is {format_span(r2, 3)}." if r2 else ""
    sizes = plural(len(good), "size")
    return f"The {pm} PM's score rises along √KL at {rising} of {sizes} (95 % interval of the slope above 0).{straight}"


def _parting_sentence(results: Row) -> str:
    rows = [row for row in rows_of(results, "overoptimisation") if has_value(row.get("parting"))]
    if not rows:
        return ""
    apart = [str(row["model"]) for row in rows if sign(row["parting"]) == 1]
    where = f"at {join_words(apart)}" if apart else "at no size"
    values = "; ".join(f"{row['model']} {format_estimate(row['parting'], signed=True)}" for row in rows)
    return (
        f"By the end the train PM's score has risen measurably more than the test PM's {where}, in standard deviations "
        f"of each PM's held-out scores: {values}."
    )


def _gold_sentence(results: Row) -> str:
    rows = [row for row in rows_of(results, "overoptimisation") if has_value(row.get("gold_fall"))]
    if not rows:
        return "There is no gold score, so over-optimisation shows only as a gap between train and test PM."
    kinds = {"falls": "falls from its peak", "none": "keeps what it gained", "inconclusive": "may or may not fall"}
    parts = []
    for verdict, words in kinds.items():
        here = [str(row["model"]) for row in rows if row["gold_verdict"] == verdict]
        parts += [f"{words} at {join_words(here)}"] if here else []
    deepest = max(rows, key=lambda row: float(row["gold_fall"]["value"]))
    return (
        f"Trained to the end, the gold score {', '.join(parts)}. The deepest fall is at {deepest['model']}: "
        f"{format_estimate(deepest['gold_fall'])} of {format_estimate(deepest['gold_rise'])} gained."
    )


# ---------------------------------------------------------------- tax


def tax_sentences(results: Row) -> list[str]:
    """What RLHF cost per size, how sure that is, and whether it changes with size."""
    rows = against_base(rows_of(results, "tax"))
    if not rows:
        return ["No benchmark was taken both before and after RLHF, so no tax can be stated."]
    pooled = rows_of(results, "pooled")
    lines = [_pooled_sentence(place, here) for place, here in by_place(pooled).items()]
    lines += [_nothing_informative(pooled)]
    lines += [_verdicts_sentence(place, here) for place, here in by_place(rows).items()]
    lines += [_crossover_sentence(row) for row in rows_of(results, "crossover") if _is_headline_crossover(row)]
    return [line for line in lines if line]


def _pooled_sentence(place: str, rows: list[Row]) -> str:
    costs, gains = ([str(row["model"]) for row in rows if sign(row) == s] for s in (1, -1))
    found = [f"a cost at {join_words(costs)}"] if costs else []
    found += [f"a gain at {join_words(gains)}"] if gains else []
    values = "; ".join(
        f"{row['model']} {format_number(row['value'] * 100, 1, True)} {format_interval(row, 1, True, 100)}"
        for row in rows
    )
    seeds = [int(row["n_seeds"]) for row in rows]
    return (
        f"Mean tax {at_phrase(place)}, in chance-normalised points over the informative tasks (seeds a size: "
        f"{format_span(seeds, 0)}): "
        f"{values}. The 95 % interval shows {' and '.join(found) or 'neither a cost nor a gain at any size'}."
    )


def _nothing_informative(pooled: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(str(row["model"]) for row in pooled if row.get("value") is None))
    if not names:
        return ""
    return f"No task was above chance before RLHF at {join_words(names)}, so there is no mean tax to state there."


def _verdicts_sentence(place: str, rows: list[Row]) -> str:
    informative = [row for row in rows if row.get("informative")]
    count = Counter(str(row["verdict"]) for row in informative)
    counts = join_words([f"{count[v]} {v}" for v in TAX_VERDICTS if count[v]]) if informative else "none informative"
    left = len(rows) - len(informative)
    apart = f"; {left} more were not above chance before RLHF and could not pay" if left else ""
    pairs = plural(len(informative), "pair of task and size", "pairs of task and size")
    return f"Task by task {at_phrase(place)}, {pairs}: {counts}{apart}.{_power(informative)}"


def _power(rows: list[Row]) -> str:
    """How large a tax the inconclusive rows could have found."""
    found = [
        row["mde"] * 100
        for row in rows
        if row["verdict"] == "inconclusive" and row.get("normalised") and row.get("mde")
    ]
    if not found:
        return ""
    least = format_span(found, 1)
    return f" The inconclusive ones would have found, with 80 % power, only a tax of {least} points or more."


def _is_headline_crossover(row: Row) -> bool:
    return row["task"] == "pooled" and row["before"] == "base"


def _crossover_sentence(row: Row) -> str:
    slope, place = row.get("slope"), at_phrase(at_label(row))
    if slope is None or not has_value(slope):
        reason = row.get("note") or "too few sizes"
        return f"Whether the mean tax {place} changes with size was not fitted: {reason}."
    trend = {1: "grows", -1: "shrinks", 0: "does not measurably change"}[sign(slope)]
    text = format_estimate({**slope, "n": None}, signed=True, scale=100 * LN2)
    start = (
        f"With size the mean tax {place} {trend}: {text} points per doubling of parameters over "
        f"{plural(row['n_sizes'], 'size')}"
    )
    if row["kind"] == "interval":
        ends = f"[{format_count(row['low'])}, {format_count(row['high'])}]"
        return f"{start}. It crosses 0 at {format_count(row['n_params'])} parameters {ends}, from {row['direction']}."
    return f"{start}. No finite interval can be given for a size at which it would cross 0."
