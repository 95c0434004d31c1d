"""What the tax tables say, in words."""

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
from reports.headlines import reached
from reports.results import has_value, rows_of
from reports.sentences import direction, sign
from reports.tax_figures import against_base, at_label, at_phrase, by_place, is_mitigation

Row = Mapping[str, Any]
LN2 = math.log(2.0)
TAX_VERDICTS = ("tax", "bonus", "equivalent", "inconclusive")


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
        f"{reached(row)}{_own_suite(row)}"
        for row in rows
    )
    seeds = [int(row["n_seeds"]) for row in rows]
    return (
        f"Mean tax {at_phrase(place)}, in chance-normalised points over {_suite(rows)} (seeds a size: "
        f"{format_span(seeds, 0)}): "
        f"{values}. The 95 % interval shows {' and '.join(found) or 'neither a cost nor a gain at any size'}."
    )


def _suite(rows: list[Row]) -> str:
    """Which tasks a mean is over, the same for all sizes or each size's own."""
    if any(row.get("suite") == "own" for row in rows):
        return "each size's own tasks, so that sizes do not compare"
    tasks = sorted({str(task) for row in rows for task in row["tasks"]})
    return f"{plural(len(tasks), 'task')} well above chance before RLHF, {join_words(tasks)}"


def _own_suite(row: Row) -> str:
    tasks = join_words(list(map(str, row["tasks"])))
    return f" ({plural(row['n_tasks'], 'task')}: {tasks})" if row.get("suite") == "own" else ""


def _nothing_informative(pooled: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(str(row["model"]) for row in pooled if row.get("value") is None))
    if not names:
        return ""
    return (
        f"There is no mean tax to state at {join_words(names)}: no task was far enough above chance before RLHF, or "
        "every policy collapsed."
    )


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
    return (
        f" The inconclusive ones would have found, with 80 % power at Holm's level, only a tax of {least} "
        "points or more."
    )


def _is_headline_crossover(row: Row) -> bool:
    return row["task"] == "pooled" and row["before"] == "base" and not is_mitigation(row["recipe"])


def _crossover_sentence(row: Row) -> str:
    slope, place = row.get("slope"), at_phrase(at_label(row))
    place += f", {row['k_shot']}-shot" if row["k_shot"] else ""
    if slope is None or not has_value(slope):
        reason = row.get("note") or "too few sizes"
        return f"Whether the mean tax {place} changes with size was not fitted: {reason}."
    trend = direction(slope, "grows", "shrinks")
    text = format_estimate({**slope, "n": None}, signed=True, scale=100 * LN2)
    start = (
        f"With size the mean tax {place} {trend}: {text} points per doubling of parameters over "
        f"{plural(row['n_sizes'], 'size')}"
    )
    if row["kind"] == "interval":
        ends = f"[{format_count(row['low'])}, {format_count(row['high'])}]"
        where = "" if row.get("in_range", True) or not row.get("tested") else _outside(row["tested"])
        crosses = f"It crosses 0 at {format_count(row['n_params'])} parameters {ends}, from {row['direction']}{where}."
        return f"{start}. {crosses}"
    return f"{start}. No finite interval can be given for a size at which it would cross 0."


def _outside(tested: list[int]) -> str:
    ends = " to ".join(map(format_count, tested))
    return f", which is outside the sizes tested ({ends}) and so an extrapolation"
