"""What pretraining on votes and votes mixed in change, in words and tables. No change is named whose interval holds 0;
where all do, the sentence says how large one would have been found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reports.differences import changes, detectable, tally
from reports.formats import format_difference, format_estimate
from reports.pm_pretraining_figures import FRESH, PRETRAINED, share_words
from reports.pm_tables import POWER
from reports.results import has_value, rows_of
from reports.sentences import sign
from reports.tables import HtmlTable

Row = Mapping[str, Any]
CHANCE = "About one in twenty would be by chance alone."


def pretraining_sentences(results: Row) -> list[str]:
    """Where pretraining changes accuracy, and where votes mixed in do."""
    lines = [
        _measured(
            rows_of(results, "pm_pretraining"),
            "Pretrained on votes instead of started from a fresh head, accuracy at a size and number of comparisons",
            lambda row: f"{row['model']} on {row['n_comparisons']:,}",
        ),
        _measured(
            rows_of(results, "pm_extra"),
            "With votes mixed into the same comparisons, accuracy at a size and share of votes",
            lambda row: f"{row['model']} ({share_words(row['extra_share'])})",
        ),
    ]
    return [line for line in lines if line]


def _measured(rows: Sequence[Row], subject: str, name: Callable[[Row], str]) -> str:
    """How many differences exclude 0, and which; where none does, how large one would have been found."""
    known = [row for row in rows if has_value(row["difference"]) and row["difference"].get("low") is not None]
    clear = [(name(row), row["difference"]) for row in known if sign(row["difference"]) != 0]
    if not known:
        return ""
    every = [row["difference"] for row in known]
    counts = tally(every, "higher", "lower")
    if clear:
        return f"{subject}: {counts}, {changes(clear, 'higher', 'lower')}. {CHANCE}"
    found = detectable(every)
    return f"{subject}: {counts}" + (f" ({found})." if found else ".")


# ---------------------------------------------------------------- tables


def pretraining_tables(results: Row) -> list[HtmlTable]:
    """Both tables, only those that have rows."""
    return [table for table in (start_table(results), extra_table(results)) if table.rows]


def start_table(results: Row) -> HtmlTable:
    """Accuracy with and without pretraining at every size and number of comparisons."""
    rows = [
        [str(row["model"]), _count(row["n_comparisons"]), PRETRAINED if row["pretrained"] else FRESH, *_measures(row)]
        for row in rows_of(results, "pm_pretraining")
    ]
    head = ["model", "comparisons", "start", "accuracy", f"minus {FRESH}", "note"]
    return HtmlTable(f"Preference models {PRETRAINED} ({POWER})", head, rows, wide=(5,), numbers=(1,))


def _count(n: int) -> str:
    """A number of comparisons; of none there are the votes alone."""
    return f"{n:,}" if n else "0 (votes alone)"


def extra_table(results: Row) -> HtmlTable:
    """Accuracy at every share of votes."""
    rows = [
        [str(row["model"]), f"{row['n_comparisons']:,}", share_words(row["extra_share"]), *_measures(row)]
        for row in rows_of(results, "pm_extra")
    ]
    head = ["model", "comparisons", "mixed in", "accuracy", "minus without votes", "note"]
    return HtmlTable(f"Votes mixed into the comparisons ({POWER})", head, rows, wide=(5,), numbers=(1,))


def _measures(row: Row) -> list[str]:
    change = row["difference"]
    shown = format_difference(change) if has_value(change) else "–"
    return [format_estimate(row["accuracy"]), shown, str(row.get("note") or "–")]
