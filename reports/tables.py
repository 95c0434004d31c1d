"""Tables of the report as rows of finished strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from reports.formats import format_count, format_estimate, format_flops, format_number, format_seconds, join_words
from reports.results import has_value, models_by_size, rows_of

MOST_ROWS = 120  # of a figure's numbers shown in the page; the CSV always has all
Row = Mapping[str, Any]
Cell = str | list[str]  # a list is shown line by line


@dataclass(frozen=True)
class HtmlTable:
    """A captioned table of strings or lines of strings; the first cell of each row is its header."""

    caption: str
    head: list[str]
    rows: Sequence[Sequence[Cell]]
    empty: str = "Nothing to show."
    more: str = ""  # said below the table
    wide: Sequence[int] = ()  # columns of prose, which wrap
    verdicts: Sequence[int] = ()  # columns shown as coloured words
    numbers: Sequence[int] = ()  # columns aligned to the right
    classes: list[str] = field(init=False)

    def __post_init__(self) -> None:
        kinds = ["wide" if i in self.wide else "number" if i in self.numbers else "" for i in range(len(self.head))]
        object.__setattr__(self, "classes", kinds)


def figure_numbers(title: str, table: pd.DataFrame) -> HtmlTable:
    """The rows behind a figure as text, at most MOST_ROWS of them."""
    used = [column for column in table.columns if table[column].notna().any() and column != "run"]
    shown = table[used].head(MOST_ROWS)
    rows = [[_cell(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    left = len(table) - len(shown)
    more = f"{left:,} more rows are in the CSV file." if left else ""
    numbers = [i for i, column in enumerate(used) if column in ("n_params", "x", "y", "low", "high", "n")]
    return HtmlTable(f"Numbers behind: {title}", used, rows, more=more, numbers=numbers)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or pd.isna(value):
        return "–"
    whole = float(value).is_integer() and abs(value) >= 10
    return f"{value:,.0f}" if whole else format_number(float(value), 4)


def claims_table(results: Row) -> HtmlTable:
    """Every claim with the rule that was fixed beforehand, its verdict, and the numbers it rests on."""
    rows: list[list[Cell]] = [
        [
            [str(claim["text"]), *([f"Rule: {claim['rule']}"] if claim.get("rule") else [])],
            str(claim["verdict"]),
            evidence_lines(claim.get("evidence")),
        ]
        for claim in rows_of(results, "claims")
    ]
    return HtmlTable(
        "Claims of the paper, judged on this study by rules fixed beforehand",
        ["claim", "verdict", "evidence"],
        rows,
        empty="No claim could be tested.",
        wide=(0, 2),
        verdicts=(1,),
    )


def evidence_lines(evidence: Any) -> list[str]:
    """A claim's evidence, a line for every number; a list of sizes or fits is named once and then has a line each."""
    if not isinstance(evidence, Mapping):
        return [_plain(evidence)]
    lines = []
    for key, value in evidence.items():
        name = key.replace("_", " ")
        if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            lines += [f"{name}:", *map(_plain, value)]
        elif value not in (None, [], {}):
            lines.append(f"{name}: {_plain(value)}")
    return lines or ["–"]


def _plain(value: Any) -> str:
    """One piece of evidence in words: an estimate with its interval and whose it is, a mapping as a list of pairs."""
    if isinstance(value, Mapping):
        label = value.get("group") or value.get("model")
        rest = {k: v for k, v in value.items() if k not in ("group", "model") and v not in (None, [], {})}
        text = (
            _estimate_words(value)
            if "value" in value
            else ", ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in rest.items())
        )
        return f"{label}: {text}" if label else text
    if isinstance(value, (list, tuple)):
        return join_words([_plain(item) for item in value])
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else format_number(value, 3)
    return "–" if value is None else str(value)


def _estimate_words(value: Row) -> str:
    """An estimate in a claim's evidence with what it says about its interval, tasks and note."""
    said = [
        str(value[key]) if isinstance(value[key], str) else _plain(value[key])
        for key in ("interval", "tasks", "note")
        if value.get(key)
    ]
    return "; ".join([format_estimate(value), *said])


def fits_table(results: Row) -> HtmlTable:
    """Every fitted law with its parameters, their intervals and how sure the fit is of itself."""
    rows = []
    for fit in rows_of(results, "fits"):
        params = fit.get("params") or {}
        values = "; ".join(f"{name} = {_parameter(value)}" for name, value in params.items())
        points = f"{fit.get('n_points', '–')} / {fit.get('n_clusters', '–')}"
        r2 = fit.get("r2")
        rows.append(
            [
                f"{fit['y']} on {fit['x'] if isinstance(fit['x'], str) else ', '.join(fit['x'])}",
                str(fit.get("group") or "all"),
                str(fit["formula"]),
                values or "–",
                points,
                "–" if r2 is None else format_number(r2, 3),
                str(fit["status"]).replace("_", " "),
                "; ".join(map(_note_text, fit.get("notes") or [])) or "–",
            ]
        )
    head = ["fit", "of", "formula", "parameters", "points / clusters", "R²", "status", "notes"]
    return HtmlTable("Fitted laws", head, rows, empty="Nothing was fitted.", wide=(3, 7))


def _parameter(value: Row) -> str:
    return format_estimate({**value, "n": None}) if has_value(value) else "not identified"


def _note_text(note: Any) -> str:
    return str(note.get("message") or note.get("code")) if isinstance(note, Mapping) else str(note)


def excluded_table(results: Row) -> HtmlTable:
    """What was left out and why; one line a thing."""
    rows = [
        [str(row["what"]), str(row.get("kind") or "–"), str(row.get("model") or "–"), str(row["reason"])]
        for row in rows_of(results, "excluded")
    ]
    return HtmlTable(
        "Left out, and why",
        ["what", "kind", "model", "reason"],
        rows,
        empty="No stage and no file was left out.",
        wide=(0, 3),
    )


def models_table(results: Row) -> HtmlTable:
    """The models of the study from small to large."""
    rows = [
        [
            str(row["name"]),
            f"{row['n_params']:,}" if row.get("n_params") else "–",
            f"{row['n_params_total']:,}" if row.get("n_params_total") else "–",
            str(row.get("note") or "–"),
        ]
        for row in models_by_size(results)
    ]
    head = ["model", "parameters (non-embedding)", "parameters in all", "note"]
    return HtmlTable("Models", head, rows, empty="The study has no models.", wide=(3,), numbers=(1, 2))


def stages_table(results: Row) -> HtmlTable:
    """Every stage with what it cost: tokens, floating-point operations, seconds."""
    rows = [
        [
            str(row["stage_id"]),
            str(row["kind"]),
            str(row.get("model") or "–"),
            "–" if row.get("seed") is None else str(row["seed"]),
            str(row.get("status") or "–"),
            "–" if row.get("tokens") is None else format_count(row["tokens"]),
            "–" if row.get("flops") is None else format_flops(row["flops"]),
            "–" if row.get("seconds") is None else format_seconds(row["seconds"]),
        ]
        for row in stage_rows(results)
    ]
    head = ["stage", "kind", "model", "seed", "status", "tokens", "FLOPs (counted)", "time"]
    return HtmlTable("Stages and what they cost", head, rows, empty="No stage has finished.", numbers=(5, 6, 7))


def stage_rows(results: Row) -> list[dict[str, Any]]:
    """The stages that results list; where they list none, those whose cost stands in their rows (PMs and policies)."""
    if listed := rows_of(results, "stages"):
        return listed
    pms = [{**row, "kind": "pm", "status": "done"} for row in rows_of(results, "pm") if row["tranche"] == "all"]
    evaluated = sorted(rows_of(results, "frontier"), key=lambda row: (row["n_params"], row["stage_id"], row["step"]))
    policies = {row["stage_id"]: {**row, "kind": "ppo"} for row in evaluated}  # the last evaluation's counters stand
    return [*pms, *policies.values()]
