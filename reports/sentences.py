"""Findings in words. Every sentence is a function of the results and can come out the other way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from reports.formats import (
    format_estimate,
    format_span,
    join_words,
    plural,
)
from reports.gold_source import gold_caveat
from reports.headlines import gold_words, largest_pm_cell, pms_of_cell
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

Row = Mapping[str, Any]
LN2 = math.log(2.0)
CLAIM_VERDICTS = ("supported", "contradicted", "inconclusive")


def sign(estimate: Row) -> int:
    """1 where the whole interval is above 0, -1 where it is below, 0 where it holds 0 or is not known."""
    low, high = estimate.get("low"), estimate.get("high")
    if low is None or high is None:
        return 0
    return int(low > 0) - int(high < 0)


def direction(estimate: Row, up: str, down: str) -> str:
    """``up`` or ``down`` where the interval says so; else that it does not, or that there is no interval."""
    if estimate.get("low") is None or estimate.get("high") is None:
        return "has a slope of unknown interval"
    return {1: up, -1: down, 0: "does not measurably change"}[sign(estimate)]


# ---------------------------------------------------------------- all of it


def overview(results: Row) -> list[str]:
    """How the claims came out, and which questions the study is too small to ask."""
    claims = rows_of(results, "claims")
    lines = []
    if claims:
        tested = [claim for claim in claims if not _not_measured(claim)]
        count = Counter(str(claim["verdict"]) for claim in tested)
        parts = [f"{count[verdict]} {verdict}" for verdict in CLAIM_VERDICTS if count[verdict]]
        left = len(claims) - len(tested)
        lines += [f"{plural(len(tested), 'claim')} tested: {join_words(parts)}."] if tested else []
        untested = f"{left} of {plural(len(claims), 'claim')} not tested, for want of a measurement"
        lines += [f"{untested}; they are listed as inconclusive."] if left else []
    n_models = len(models_by_size(results))
    if n_models < 2:
        lines.append(f"The study has {plural(n_models, 'size')}, so it cannot say how anything changes with size.")
    return lines


def _not_measured(claim: Row) -> bool:
    """Whether the study lacks what a claim is about, which is not the same as an open result."""
    evidence = claim.get("evidence")
    return isinstance(evidence, Mapping) and "missing" in evidence


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
    known = [name for name in open_ if slopes[name].get("low") is not None]
    parts += [f"does not measurably change at {join_words(known)}"] if known else []
    unknown = [name for name in open_ if name not in known]
    parts += [f"has a slope of unknown interval at {join_words(unknown)}"] if unknown else []
    return f"Accuracy {', '.join(parts)} (95 % interval of the log-linear slope against 0; slopes in the table below)."


def _pm_size_trend(results: Row, cell: Row) -> str:
    """The slope with size: of the joint fit with data, else of the fit at the most comparisons."""
    for fit, how in (
        (joint_fit(results), "fitted jointly with the number of comparisons"),
        (size_fit(results, cell["n_comparisons"]), f"at {cell['n_comparisons']:,} comparisons"),
    ):
        if fit is not None and usable(fit):
            slope = fit["params"]["c1"]
            verb = direction(slope, "rises", "falls")
            text = format_estimate({**slope, "n": None}, signed=True, scale=100 * LN2)
            counts = f"{plural(fit['n_points'], 'preference model')} of {plural(fit['n_clusters'] or 0, 'base model')}"
            return f"With size accuracy {verb}: {text} points per doubling of parameters, {how} ({counts})."
    return "How accuracy changes with size was not fitted." if len(models_by_size(results)) > 1 else ""


def _pm_calibration(results: Row, cell: Row) -> str:
    key = "calibration_slope"
    slopes = [row[key] for row in pms_of_cell(results, cell) if has_value(row.get(key))]
    if not slopes:
        return ""
    over = sum(s["high"] is not None and s["high"] < 1 for s in slopes)
    under = sum(s["low"] is not None and s["low"] > 1 for s in slopes)
    return (
        f"Of these {len(slopes)}, {over} {'is' if over == 1 else 'are'} over-confident and {under} under-confident "
        "(95 % interval of the calibration slope below or above 1)."
    )


# ---------------------------------------------------------------- frontier


def frontier_sentences(results: Row) -> list[str]:
    """How far policies went, how straight score against √KL was, and whether the truth went along."""
    rows = rows_of(results, "frontier")
    if not rows:
        return ["The study has no policy with evaluations, so this section is empty."]
    lines = [_runs_sentence(rows)]
    lines += [_straightness(results, score, name) for score, name in (("score_train", "train"), ("score_test", "test"))]
    gold = f"{_gold_sentence(results)} {gold_caveat(results)}".rstrip()
    return [line for line in [*lines, _parting_sentence(results), gold] if line]


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
    bent = [str(fit["group"]) for fit in good if (fit.get("r2") or 0.0) < 0]
    straight += f" At {join_words(bent)} the line is worse than a constant and describes nothing." if bent else ""
    sizes = plural(len(good), "size")
    return (
        f"The {pm} PM's score against √KL has a slope above 0 through the origin at {rising} of {sizes} (95 % "
        f"interval).{straight}"
    )


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
    if not rows and any(row.get("score_gold") for row in rows_of(results, "frontier")):
        return "There were too few evaluations of a policy to say whether its gold score passed a peak."
    if not rows:
        return "There is no gold score, so over-optimisation shows only as a gap between train and test PM."
    kinds = {
        "falls": "falls from its peak", "none": "keeps what it gained", "not reached": "was not taken past its peak",
        "inconclusive": "has no measurable peak",
    }  # fmt: skip
    parts = []
    for verdict, words in kinds.items():
        here = [str(row["model"]) for row in rows if row["gold_verdict"] == verdict]
        parts += [f"{words} at {join_words(here)}"] if here else []
    below = [row for row in rows if has_value(row.get("gold_change")) and sign(row["gold_change"]) == -1]
    ends = "; ".join(f"{row['model']} {format_estimate(row['gold_change'], signed=True)}" for row in below)
    text = f"Trained to the end, the gold score {', '.join(parts)}."
    text += f" It ends measurably below its start at {plural(len(below), 'size')}: {ends}." if below else ""
    falls = [row for row in rows if row["gold_verdict"] == "falls"]
    deepest = max(falls, key=lambda row: float(row["gold_fall"]["value"]), default=None)
    return text if deepest is None else f"{text} The deepest fall is at {deepest['model']}: {gold_words(deepest)}."
