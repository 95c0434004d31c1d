"""Tables and sentences beside the tax: calibration of answers, bias scores, the precision reached, prompts cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from reports.formats import format_estimate, format_number, join_words, plural
from reports.results import rows_of
from reports.tables import HtmlTable
from reports.tax_figures import at_label, task_label

Row = Mapping[str, Any]
NAMED = 5  # of the differences that missed the precision, in a sentence


def more_tables(results: Row) -> list[HtmlTable]:
    """The tables that the study has something for."""
    every = (calibration_table(results), bias_table(results), precision_table(results))
    return [table for table in every if table.rows]


def calibration_table(results: Row) -> HtmlTable:
    """Expected calibration error of the chosen answer's probability, before and after."""
    rows = [
        [
            str(row["model"]),
            task_label(row["task"], row["format"], row["k_shot"]),
            _against(row),
            *(format_estimate({**row["calibration"][key], "n": None}) for key in ("before", "after")),
            format_estimate(row["calibration"]["change"], signed=True),
        ]
        for row in rows_of(results, "tax")
        if row.get("calibration")
    ]
    head = ["model", "task", "taken", "before RLHF", "after", "change (n counts items)"]
    return HtmlTable(
        "Calibration error of answers: how far a model's probability for its answer is from how often it is right",
        head,
        rows,
        empty="No task has choices.",
    )


def bias_table(results: Row) -> HtmlTable:
    """BBQ's bias scores: 0 is no bias, 1 always the biased answer, -1 always the opposite one."""
    rows = [
        [
            str(row["model"]),
            task_label(row["task"], row["format"], row["k_shot"]),
            _against(row),
            *(format_estimate({**row[key], "n": None}, signed=True) for key in ("before_score", "after_score")),
            format_estimate(row["change"], signed=True),
            f"{row['n_items']:,}, {row['n_seeds']}",
            str(row.get("note") or "–"),
        ]
        for row in rows_of(results, "bias")
    ]
    head = ["model", "task", "taken", "before RLHF", "after", "change", "items, seeds", "note"]
    return HtmlTable(
        "Bias scores: 0 is none, 1 always the biased answer, −1 always the opposite one",
        head,
        rows,
        empty="No task has a bias score.",
        wide=(7,),
    )


def precision_table(results: Row) -> HtmlTable:
    """How many items pilots asked for, and how precise the difference on them is."""
    rows = [
        [
            str(row["model"]),
            _with_shots(row["task"], row["k_shot"]),
            f"{row['n_changed']} of {row['n_pilot']}",
            "–" if row["needed"] is None else f"{row['needed']:,}",
            "–" if row["n_items"] is None else f"{row['n_items']:,} of {row['n_file']:,}",
            f"± {format_number(row['wanted'], 4)}",
            "–" if row["reached"] is None else f"± {format_number(row['reached'], 4)}",
            {True: "yes", False: "no", None: "–"}[row["met"]],
        ]
        for row in rows_of(results, "precision")
    ]
    head = ["model", "task", "changed in the pilot", "items needed", "items asked", "wanted", "reached", "met"]
    return HtmlTable(
        "Precision of the paired difference (half-width of its 95 % interval; with several seeds also between runs)",
        head,
        rows,
        empty="No precision was asked for.",
        numbers=(3,),
    )


def more_sentences(results: Row) -> list[str]:
    """What the tables say of precision, and which prompts were longer than a model's context."""
    return [line for line in (_precision_sentence(results), _truncated_sentence(results)) if line]


def _precision_sentence(results: Row) -> str:
    rows = [row for row in rows_of(results, "precision") if row["reached"] is not None]
    if not rows:
        return ""
    missed = [row for row in rows if not row["met"]]
    named = [f"{_with_shots(row['task'], row['k_shot'])} at {row['model']}" for row in missed[:NAMED]]
    named += [f"{len(missed) - NAMED} more"] if len(missed) > NAMED else []
    wanted = join_words(sorted({f"± {format_number(row['wanted'], 3)}" for row in rows}))
    n_met = len(rows) - len(missed)
    met = f"{n_met} {'has' if n_met == 1 else 'have'} the precision wanted ({wanted})"
    others = f"; not {join_words(named)}" if missed else ""
    return f"Of {plural(len(rows), 'paired difference')}, {met}{others}."


def _truncated_sentence(results: Row) -> str:
    most: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for row in rows_of(results, "benchmarks"):
        if row.get("n_truncated"):
            found = most[str(row["task"]), int(row["k_shot"])]
            found[str(row["model"])] = max(found.get(str(row["model"]), 0), int(row["n_truncated"]))
    if not most:
        return ""
    parts = [
        f"{_with_shots(task, k)} {join_words([f'{n:,} at {model}' for model, n in sizes.items()])}"
        for (task, k), sizes in most.items()
    ]
    return f"Items longer than a model's context lost their beginning: {'; '.join(parts)}."


def _with_shots(task: str, k_shot: int) -> str:
    return f"{task}, {k_shot}-shot" if k_shot else task


def _against(row: Row) -> str:
    return at_label(row) if row["before"] == "base" else f"{at_label(row)}, against {row['before']}"
