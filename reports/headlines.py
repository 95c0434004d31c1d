"""The few numbers a reader wants first, each with its interval and n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.formats import format_count, format_estimate, format_interval, format_number, join_words, plural
from reports.gold_source import gold_caveat
from reports.results import has_value, rows_of
from reports.tax_figures import by_place, is_mitigation

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Headline:
    """A number with its name, a sentence about it, and what stands beside it line by line."""

    name: str
    value: str
    detail: str
    lines: Sequence[str] = ()


def headlines(results: Row) -> list[Headline]:
    """The headline numbers that this study has, in order: PM accuracy, over-optimisation, tax."""
    found = [pm_headline(results), gold_headline(results), *tax_headlines(results)]
    return [headline for headline in found if headline is not None]


def largest_pm_cell(results: Row) -> dict[str, Any] | None:
    """The pooled accuracy at the largest size and, there, the most comparisons; None without preference models."""
    cells = [row for row in rows_of(results, "pm_trend") if has_value(row["accuracy"])]
    return max(cells, key=lambda row: (row["n_params"], row["n_comparisons"])) if cells else None


def pms_of_cell(results: Row, cell: Row) -> list[dict[str, Any]]:
    """The single preference models pooled in a cell of the trend, on all tranches."""
    keys = ("model", "n_params", "n_comparisons")
    return [
        row for row in rows_of(results, "pm") if row["tranche"] == "all" and all(row[key] == cell[key] for key in keys)
    ]


def pm_headline(results: Row) -> Headline | None:
    """PM accuracy at the largest size beside the length baseline and the Bayes ceiling."""
    cell = largest_pm_cell(results)
    if cell is None:
        return None
    runs, accuracy = pms_of_cell(results, cell), cell["accuracy"]
    detail = (
        f"{cell['model']}, {format_count(cell['n_comparisons'])} comparisons: {format_interval(accuracy)}, mean of "
        f"{plural(cell['n_runs'], 'preference model')} on n={accuracy['n']:,} held-out comparisons"
    )
    lines = []
    for name, key in (("The longer one wins", "length_accuracy"), ("Bayes ceiling", "bayes_accuracy")):
        known = [row[key] for row in runs if has_value(row.get(key))]
        if known:
            lines.append(f"{name}: {format_estimate(known[0])}")
    return Headline("Preference-model accuracy, largest size", format_number(accuracy["value"], 3), detail, lines)


def gold_headline(results: Row) -> Headline | None:
    """At how many sizes the gold score falls again, with rise, peak and fall; None without a gold score."""
    rows = [row for row in rows_of(results, "overoptimisation") if has_value(row.get("gold_fall"))]
    if not rows:
        return None
    falls = [row for row in rows if row["gold_verdict"] == "falls"]
    n = join_words([f"{n:,}" for n in sorted({row["gold_fall"]["n"] for row in rows})])
    detail = f"sizes at which the gold score falls measurably from its peak to the end (n={n} prompts a run)"
    lines = [f"{row['model']} ({plural(row['n_runs'], 'run')}): {gold_words(row)}" for row in rows]
    lines += [caveat] if (caveat := gold_caveat(results)) else []
    return Headline("Over-optimisation against the gold score", f"{len(falls)} of {len(rows)}", detail, lines)


def gold_words(row: Row) -> str:
    """What one size's gold score did: rise and fall where it falls by the rule, else that no peak was measured."""
    change = "" if not has_value(row.get("gold_change")) else f" (change to the end {_short(row['gold_change'], True)})"
    below = float(row["gold_fall"]["value"]) > float(row["gold_rise"]["value"])
    if row["gold_verdict"] == "falls":
        text = f"rises {_short(row['gold_rise'])} to √KL {format_number(row['peak_sqrt_kl'], 2)}, then falls "
        text += _short(row["gold_fall"])
    else:
        other = {"none": "keeps what it gained", "not reached": "its peak was not passed"}
        text = other.get(str(row["gold_verdict"]), "no measurable peak")
    return text + (f"; {_below(row)}{change}" if below else change)


def _below(row: Row) -> str:
    """That a gold score fell below its start, and whether that is measured."""
    high = (row.get("gold_change") or {}).get("high")
    return "fell below its start" if high is not None and high < 0 else "fell below its start, not measurably"


def _short(estimate: Row, signed: bool = False) -> str:
    return f"{format_number(estimate['value'], 2, signed)} {format_interval(estimate, 2, signed)}"


def tax_headlines(results: Row) -> list[Headline]:
    """The mean tax per size, one headline for the end and one for each matched point, with the fewest examples."""
    rows = [row for row in rows_of(results, "pooled") if not is_mitigation(row["recipe"])]
    fewest = min((row["k_shot"] for row in rows), default=0)
    places = by_place(row for row in rows if row["k_shot"] == fewest)
    return [_tax_headline(place, here) for place, here in places.items()]


def reached(row: Row) -> str:
    """Where along √KL a tax was really taken, for what was matched: ", at √KL 1.07"."""
    place = row.get("at_sqrt_kl")
    return "" if row["at"] == "end" or place is None else f", at √KL {format_number(place, 2)}"


def _tax_headline(place: str, rows: list[Row]) -> Headline:
    values = [row["value"] * 100 for row in rows]
    ends = [format_number(value, 1, signed=True) for value in (min(values), max(values))]
    value = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    detail = "chance-normalised points lost, mean of the tasks well above chance before; positive is a cost"
    lines = [
        f"{row['model']}: {format_estimate({**row, 'n': None}, signed=True, scale=100)} "
        f"({plural(row['n_tasks'], 'task')}, {plural(row['n_seeds'], 'seed')}{reached(row)})"
        for row in rows
    ]
    return Headline(f"Alignment tax, {place}", value, detail, lines)
