"""What context distillation did, in words and a table. A change is named only where its interval excludes 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.differences import changes
from reports.formats import format_difference, format_estimate, format_number, join_words, plural
from reports.pm_tables import POWER
from reports.results import has_value, rows_of
from reports.tables import HtmlTable

PARTS = {"responses": "responses", "dialogues": "dialogues with their prompts", "text": "plain text"}
Row = Mapping[str, Any]


def distillation_sentences(results: Row) -> list[str]:
    """Who taught whom with which prompt, what the students took over, and what it cost on plain text."""
    rows = rows_of(results, "distillation")
    responses = [row for row in rows if row["part"] == "responses"]
    if not responses:
        return []
    text = [row for row in rows if row["part"] == "text"]
    lines = [
        _teachers(responses),
        _taken_over(responses),
        _changed(responses, "kl_change", "That KL, distilled minus base, is"),
        _changed(
            responses, "distilled_minus_base", "Loss on held-out responses (nats a token), distilled minus base, is"
        ),
        _changed(responses, "distilled_minus_prompted", "The same loss, distilled minus base with the prompt, is"),
        _changed(text, "distilled_minus_base", "Loss on held-out plain text (nats a token), distilled minus base, is"),
    ]
    return [line for line in lines if line]


def _teachers(rows: Sequence[Row]) -> str:
    """Each size's teacher; the prompt is one for all."""
    own = [row["model"] for row in rows if row["teacher"] == row["model"]]
    others: dict[str, list[str]] = {}
    for row in rows:
        if row["teacher"] != row["model"]:
            others.setdefault(str(row["teacher"]), []).append(row["model"])
    parts = [f"{join_words(own)} from the same base with the prompt"] if own else []
    parts += [f"{join_words(models)} from {teacher} with the prompt" for teacher, models in others.items()]
    known = next((row for row in rows if row.get("n_prompt_tokens") is not None), None)
    prompt = "" if known is None else f" ({known['prompt']}, {plural(known['n_prompt_tokens'], 'token')})"
    return f"Distilled references: {'; '.join(parts)}{prompt}."


def _taken_over(rows: Sequence[Row]) -> str:
    """The divergence from the teacher at each size, before and after."""
    known = [row for row in rows if has_value(row["kl_base"]) and has_value(row["kl_distilled"])]
    found = [
        f"{format_number(row['kl_base']['value'], 4)} before and "
        f"{format_number(row['kl_distilled']['value'], 4)} after at {row['model']}"
        for row in known
    ]
    return f"KL(teacher ‖ model) on held-out responses, nats a token: {'; '.join(found)}." if found else ""


def _changed(rows: Sequence[Row], measure: str, subject: str) -> str:
    known = [(row["model"], row[measure]) for row in rows if has_value(row[measure])]
    return f"{subject} {changes(known, 'higher', 'lower')}." if known else ""


def distillation_tables(results: Row) -> list[HtmlTable]:
    """One table of everything measured, where there is something."""
    rows = [
        [
            str(row["model"]), str(row["teacher"] or "–"), PARTS[row["part"]],
            *(format_estimate(row[name]) for name in ("kl_base", "kl_distilled")),
            *(format_estimate(row[name]) for name in ("nats_base", "nats_prompted", "nats_distilled")),
            *(_minus(row[name]) for name in ("distilled_minus_base", "distilled_minus_prompted")),
            str(row.get("note") or "–"),
        ]
        for row in rows_of(results, "distillation")
    ]  # fmt: skip
    head = [
        "model", "teacher", "held-out", "KL, base", "KL, distilled", "loss, base", "loss, prompted", "loss, distilled",
        "distilled − base", "distilled − prompted", "note",
    ]  # fmt: skip
    return [HtmlTable(f"Context distillation, nats a token ({POWER})", head, rows, wide=(10,))] if rows else []


def _minus(change: Row | None) -> str:
    return format_difference(change) if has_value(change) else "–"
