"""What the check of learning rates says, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.differences import detectable
from reports.formats import format_span, join_words
from reports.rate_figures import KINDS, factor_words, measure_words
from reports.results import has_value, rows_of

Row = Mapping[str, Any]
OPEN = "not established"


def rate_sentences(results: Row) -> list[str]:
    """Whether the rule's learning rate is as good as its multiples, a sentence a kind of stage and measure."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows_of(results, "rate_check"):
        groups.setdefault((row["kind"], row["measure"]), []).append(row)
    return [_rate_sentence(rows) for _, rows in sorted(groups.items(), key=lambda item: list(KINDS).index(item[0][0]))]


def _rate_sentence(rows: list[Row]) -> str:
    first = rows[0]
    others = join_words([factor_words(f) for f in sorted({row["rate_factor"] for row in rows}) if f != 1])
    sizes: dict[str, list[str]] = {}
    for model, verdict in {str(row["model"]): str(row["verdict"]) for row in rows}.items():
        sizes.setdefault(verdict, []).append(model)
    verdicts = "; ".join(f"{verdict} at {join_words(models)}" for verdict, models in sizes.items())
    return (
        f"The rule's learning rate for {KINDS[first['kind']]}, against {others} by {measure_words(first)} "
        f"({first['unit']}; seeds: {format_span([row['n_seeds'] for row in rows], 0)}): {verdicts}."
        f"{_open(rows)}{_diverged(rows)}"
    )


def _open(rows: Sequence[Row]) -> str:
    """How small a difference could have been found where a verdict is open."""
    left = [row["difference"] for row in rows if row["verdict"] == OPEN and has_value(row.get("difference"))]
    found = detectable(left)
    return f" Where it is {OPEN}, {found}." if found else ""


def _diverged(rows: Sequence[Row]) -> str:
    gone = [row for row in rows if row.get("n_diverged")]
    names = join_words([f"{row['n_diverged']} of {row['model']} at {factor_words(row['rate_factor'])}" for row in gone])
    return f" Diverged: {names}." if gone else ""
