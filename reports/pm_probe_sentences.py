"""What the probes say of preference models, in words, always with the number of comparisons. No trend with size is
named where its interval holds 0: there the sentence says how large a slope would have been found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.differences import changes
from reports.formats import format_estimate, format_number, join_words, plural
from reports.pm_probe_figures import ALL
from reports.results import has_value, rows_of

Row = Mapping[str, Any]
LONGER = "always taking the longer response"


def probe_sentences(results: Row) -> list[str]:
    """For each probe: level and length at the largest size, the trend with size, and the margins."""
    rows = rows_of(results, "pm_probes")
    lines = []
    for probe in dict.fromkeys(str(row["probe"]) for row in rows):
        lines += [_level(rows, probe), _length(rows, probe), _trend(results, probe), _margins(results, probe)]
    return [line for line in lines if line]


def _at_largest(rows: Sequence[Row], probe: str, key: str) -> list[Row]:
    """The probe's rows of the largest size that measured ``key``."""
    known = [row for row in rows if row["probe"] == probe and has_value(row.get(key))]
    most = max((row["n_params"] for row in known), default=None)
    return [row for row in known if row["n_params"] == most]


def _level(rows: Sequence[Row], probe: str) -> str:
    found = _at_largest(rows, probe, "accuracy")
    if not found:
        return ""
    first = next((row for row in found if row["category"] == ALL), found[0])
    others = [f"{row['category']} {format_estimate(row['accuracy'])}" for row in found if row is not first]
    text = f", by category {join_words(others)}" if others else ""
    return (
        f"On {probe}, comparisons besides the held-out part, the preference models of {first['model']} score the "
        f"chosen response higher on {format_estimate(first['accuracy'])}{text}; chance is one half."
    )


def _length(rows: Sequence[Row], probe: str) -> str:
    found = _at_largest(rows, probe, "accuracy_minus_length")
    if not found:
        return ""
    named = [(_name(row, row["accuracy_minus_length"]["n"]), row["accuracy_minus_length"]) for row in found]
    first = next((row for row in found if row["category"] == ALL), found[0])
    level = format_estimate(first["length_accuracy"])
    return (
        f"On {probe} {LONGER} is right on {level}; accuracy at {first['model']} minus the same choice's is "
        f"{changes(named, 'above 0', 'below 0')}."
    )


def _trend(results: Row, probe: str) -> str:
    found = [row for row in rows_of(results, "pm_probe_slopes") if row["probe"] == probe]
    known = [row for row in found if has_value(row.get("per_doubling"))]
    if not known:
        return ""
    named = [(_name(row, row["n"]), row["per_doubling"]) for row in known]
    sizes = plural(max(row["n_sizes"] for row in known), "size")
    return f"Per doubling of parameters, over {sizes}, accuracy on {probe} is {changes(named, 'higher', 'lower')}."


def _margins(results: Row, probe: str) -> str:
    rows = [row for row in rows_of(results, "pm_margins") if row["probe"] == probe and row["category"] == ALL]
    rows = [row for row in rows if has_value(row["margin"])]
    if not rows:
        return ""
    row = rows[0]
    text = (
        f"At {row['model']} the chosen response of {probe} scores {format_estimate(row['margin'], signed=True)} above "
        f"the rejected one on the mean, with a standard deviation of {format_number(row['sd'], 2)}"
    )
    worst = zip(row["lowest_rows"], row["lowest_margins"], strict=True)
    lowest = [f"{line} ({format_number(margin, 2)})" for line, margin in worst]
    return f"{text}; it errs furthest on the file's lines {join_words(lowest)}." if lowest else f"{text}."


def _name(row: Row, n: int) -> str:
    name = "all comparisons" if row["category"] == ALL else row["category"]
    return f"{name} (n={n:,})"
