"""What scored the policies, in words: gold is the truth only where it is the world's exact score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.formats import format_estimate, join_words
from reports.results import has_value, rows_of

Row = Mapping[str, Any]
AGAIN = "decoded and encoded again"


def gold_row(results: Row) -> Row | None:
    """The row of ``scored_by`` that says what the gold score is from; None without one."""
    return next((row for row in rows_of(results, "scored_by") if row["role"] == "gold"), None)


def gold_sentence(results: Row) -> str:
    """What the gold score is; nothing where there is none or its source is not known."""
    row = gold_row(results)
    if row is None:
        return ""
    if row["kind"] == "world":
        return "The gold score is the truth: the synthetic world's exact score of a response."
    return f"The gold score is not the truth but that of {_model(row)}."


def gold_caveat(results: Row) -> str:
    """``gold_sentence`` where the gold score is not the truth, which must stand beside what is said of it."""
    row = gold_row(results)
    return "" if row is None or row["kind"] == "world" else gold_sentence(results)


def _model(row: Row) -> str:
    if row["kind"] == "foreign_pm":
        return f"a model somebody else trained ({row['model']})"
    text = f"a preference model trained on comparisons that no other saw ({row['model']}"
    known = row.get("accuracy")
    return f"{text}, accuracy {format_estimate(known)} on the held-out ones)" if has_value(known) else f"{text})"


def scorer_sentences(results: Row) -> list[str]:
    """Which preference models are somebody else's, and which were given the text instead of the policy's tokens."""
    rows = [row for row in rows_of(results, "scored_by") if row["kind"] != "world"]
    foreign = [f"{row['model']} ({row['role']}; {row['format']})" for row in rows if row["kind"] == "foreign_pm"]
    again = sorted({f"{row['model']} ({row['role']})" for row in rows if row["tokens"] == AGAIN})
    lines = []
    if foreign:
        lines.append(
            f"Somebody else trained {join_words(foreign)}: scored by its own forward pass, in brackets how texts "
            "became its input. Where such a model is the train or test PM, its unit is the standard deviation of its "
            "scores of the policy's first responses, as it scored no comparisons."
        )
    if again:
        lines.append(
            f"Responses were decoded and encoded again for {join_words(again)}, so its tokens may differ from those "
            "sampled; all other preference models were given the sampled tokens."
        )
    return lines
