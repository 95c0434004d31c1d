"""What the further tables of preference models say, in words. No change is named where its interval holds 0: there
the sentence says how large a change would have been found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reports.differences import changes, tally
from reports.formats import format_count, format_estimate, format_number, join_words, plural
from reports.headlines import largest_pm_cell, pms_of_cell
from reports.pm_tables import less_one
from reports.results import has_value, rows_of
from reports.sentences import sign

Row = Mapping[str, Any]
HIGHEST_FIFTH = 0.8  # part left out: the comparisons that remain have the highest lower score


def _known(rows: Sequence[Row], key: str) -> list[Row]:
    return [row for row in rows if has_value(row.get(key))]


def _largest(rows: Sequence[Row]) -> list[Row]:
    """The rows of the largest size; of several models as large, of the last by name."""
    most = max(((row["n_params"], row["model"]) for row in rows), default=None)
    return [row for row in rows if (row["n_params"], row["model"]) == most]


# ---------------------------------------------------------------- levels and data


def data_sentences(results: Row) -> list[str]:
    """Accuracy without length, below the ceiling, and along the long pass."""
    cell = largest_pm_cell(results)
    lines = [] if cell is None else [_matched(results, cell), _below_ceiling(results, cell)]
    return [line for line in [*lines, _long_pass(results)] if line]


def _ends(estimates: Sequence[Row], signed: bool = False) -> str:
    """The least and the greatest estimate with their intervals, once where there is one."""
    ordered = sorted(estimates, key=lambda e: float(e["value"]))
    ends = [format_estimate(e, signed) for e in (ordered[0], ordered[-1])]
    return ends[0] if len(ordered) == 1 else f"{ends[0]} to {ends[1]}"


def _matched(results: Row, cell: Row) -> str:
    rows = _known(pms_of_cell(results, cell), "length_matched_accuracy")
    if not rows:
        return ""
    return (
        f"Where the two responses differ by at most a tenth in length, the preference models of {cell['model']} agree "
        f"with the label on {_ends([row['length_matched_accuracy'] for row in rows])}."
    )


def _below_ceiling(results: Row, cell: Row) -> str:
    gaps = [row["bayes_gap"] for row in _known(pms_of_cell(results, cell), "bayes_gap")]
    if not gaps:
        return ""
    known = [gap for gap in gaps if gap.get("low") is not None]
    below = sum(sign(gap) == 1 for gap in known)
    return (
        f"Over all comparisons, {below} of {plural(len(known), 'preference model')} "
        f"{'stays' if below == 1 else 'stay'} measurably below the Bayes ceiling: {_ends(gaps, signed=True)}."
    )


def _long_pass(results: Row) -> str:
    rows = [row for row in _known(rows_of(results, "pm_curve"), "difference") if row["group"] == "all"]
    if not rows:
        return ""
    last = _largest(rows)
    named = [(f"{row['n_comparisons']:,}", row["difference"]) for row in last]
    every = tally([row["difference"] for row in rows], "higher", "lower")
    return (
        "Along the one pass over the most comparisons, accuracy against a pass of its own over as many is at "
        f"{last[0]['model']} {changes(named, 'higher', 'lower')}. Over all sizes and numbers {every}."
    )


# ---------------------------------------------------------------- scores


def score_sentences(results: Row) -> list[str]:
    """Turns, calibration, both scores high, the scores themselves, and the agreement of the halves."""
    lines = [_turns(results), _calibration(results), *_floor(results), _scores(results), _agreement(results)]
    return [line for line in lines if line]


def _turns(results: Row) -> str:
    rows = _known(rows_of(results, "pm_turns"), "minus_first")
    if not rows:
        return ""
    last = _largest(rows)
    named = [(f"turn {row['label']}", row["minus_first"]) for row in last]
    every = tally([row["minus_first"] for row in rows], "higher", "lower")
    return (
        f"Against the first turn, within tranches, accuracy at {last[0]['model']} is "
        f"{changes(named, 'higher', 'lower')}. Over all sizes and later turns {every}."
    )


def _calibration(results: Row) -> str:
    rows = _known(rows_of(results, "pm_calibration"), "gap")
    if not rows:
        return ""
    last = _largest(rows)
    texts = [tally([row["gap"] for row in part], "above", "below") for part in (last, rows)]
    return (
        f"Of the bins of score differences at {last[0]['model']}, {texts[0]} the accuracy that the scores promise "
        f"(above: under-confident); over all sizes {texts[1]}. About one in twenty would be by chance alone."
        f"{_slopes(results)}"
    )


def _slopes(results: Row) -> str:
    """The calibration slope of every size at its most comparisons, and on which side of 1 it lies."""
    rows = _known(rows_of(results, "pm_trend"), "calibration_slope")
    most = {row["model"]: row for row in sorted(rows, key=lambda row: (row["n_params"], row["n_comparisons"]))}
    if not most:
        return ""
    parts = [
        f"{row['model']} {format_estimate({**row['calibration_slope'], 'n': None})} "
        f"({_confidence(less_one(row['calibration_slope']) or {})})"
        for row in most.values()
    ]
    return f" Calibration slopes: {join_words(parts)}."


def _confidence(slope_less_one: Row) -> str:
    if slope_less_one.get("low") is None:
        return "of unknown interval"
    return {1: "under-confident", -1: "over-confident", 0: "not measurably either"}[sign(slope_less_one)]


def _floor(results: Row) -> list[str]:
    """The fifth of the comparisons where both responses score high, by size and by kind."""
    known = _known(rows_of(results, "pm_floor"), "minus_all")
    rows = [row for row in known if math.isclose(row["share"], HIGHEST_FIFTH)]
    every = [(str(row["model"]), row["minus_all"]) for row in rows if row["group"] == "all"]
    kinds = [(f"{row['group']} ones", row["minus_all"]) for row in _largest(rows) if row["group"] != "all"]
    lines = []
    if every:
        lines.append(
            "On the fifth of the comparisons whose lower score is highest, accuracy against all comparisons is "
            f"{changes(every, 'higher', 'lower')}."
        )
    if kinds:
        where = _largest(rows)[0]["model"]
        lines.append(f"Kind by kind, that difference at {where} is {changes(kinds, 'above 0', 'below 0')}.")
    return lines


def _scores(results: Row) -> str:
    rows = {row["side"]: row for row in _known(rows_of(results, "pm_scores"), "mean") if row["group"] == "all"}
    if set(rows) != {"chosen", "rejected"}:
        return ""
    means = {side: format_estimate(row["mean"], signed=True) for side, row in rows.items()}
    return (
        f"At {rows['chosen']['model']} chosen responses score {means['chosen']} and rejected ones {means['rejected']} "
        f"about the mean of each preference model; a response's score has a standard deviation of "
        f"{format_number(rows['chosen']['sd'], 2)} and {format_number(rows['rejected']['sd'], 2)}."
    )


def _agreement(results: Row) -> str:
    rows = _largest(_known(rows_of(results, "pm_agreement"), "agreement"))
    if not rows:
        return ""
    correlations = [row["correlation"] for row in _known(rows, "correlation")]
    text = f"; their score differences correlate {_ends(correlations)}" if correlations else ""
    return (
        f"At {rows[0]['model']} the preference models of the two halves prefer the same response on "
        f"{_ends([row['agreement'] for row in rows])} of held-out comparisons ({plural(len(rows), 'seed')}){text}."
    )


# ---------------------------------------------------------------- mixtures and weights


def mixing_sentences(results: Row) -> list[str]:
    """One kind alone against chance, the best mixture, and what weights change."""
    lines = [_one_sided(results, *sides) for sides in (("harmless", "helpful", 0.0), ("helpful", "harmless", 1.0))]
    return [line for line in [*lines, _best_mixture(results), *_weights(results)] if line]


def _one_sided(results: Row, trained: str, tested: str, share: float) -> str:
    """How preference models trained on one kind alone do on the other, against chance."""
    rows = [row for row in _known(rows_of(results, "pm_shares"), "accuracy") if row["group"] == tested]
    named = [(str(row["model"]), row.get("minus_chance") or {}) for row in rows if row["helpful_share"] == share]
    if not named:
        return ""
    return (
        f"Trained on {trained} comparisons alone, accuracy on {tested} ones minus one half (chance) is "
        f"{changes(named, 'above 0', 'below 0')}."
    )


def _best_mixture(results: Row) -> str:
    rows = [row for row in _known(rows_of(results, "pm_shares"), "relative") if row["group"] == "mean"]
    rows = [row for row in rows if row["helpful_share"] is not None]
    if not rows:
        return ""
    best = {str(row["model"]): f"{row['model']} {_percent(row['best_share'])}" for row in rows}
    last = _largest(rows)
    others = [
        (_percent(row["helpful_share"]), less_one(row["relative"]) or {})
        for row in sorted(last, key=lambda row: -row["helpful_share"])
        if row["helpful_share"] != row["best_share"]
    ]  # chosen and compared on different conversations, both ways
    text = f" Relative to the best at {last[0]['model']}, the mean is {changes(others, 'higher', 'lower')}."
    text += " There the best is chosen on one half of the conversations and compared on the other, both ways: where "
    text += "the halves choose different ones, the best of all is itself not at ratio 1."
    return (
        "The mean accuracy over both kinds is highest with this part of harmless comparisons: "
        f"{join_words(list(best.values()))} (the best of several is partly luck).{text if others else ''}"
    )


def _percent(share: float) -> str:
    return f"{format_number(100 * (1 - share), 0)} %"


def _weights(results: Row) -> list[str]:
    rows = _known(rows_of(results, "pm_weights"), "minus_one")
    most = max((row["harmless_weight"] for row in rows), default=None)
    lines = []
    for group in ("helpful", "harmless", "mean"):
        named = [
            (str(row["model"]), row["minus_one"])
            for row in rows
            if row["group"] == group and row["harmless_weight"] == most
        ]
        what = "the mean of both accuracies" if group == "mean" else f"{group} accuracy"
        if named:
            weight = f"With weight {format_count(most)} on harmless comparisons instead of 1"
            lines.append(f"{weight}, {what} is {changes(named, 'higher', 'lower')}.")
    return lines
