"""Robustness in words and tables: where train and test scores part, and whether a larger train PM serves better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.formats import format_estimate, format_number, format_span, join_words, plural
from reports.results import find_fit, has_value, rows_of, usable
from reports.robustness_figures import group_name, score_series
from reports.tables import HtmlTable

Row = Mapping[str, Any]
VERDICTS = {
    "large": "the large one serves better",
    "small": "the small one serves better",
    "inconclusive": "inconclusive",
    "no overlap": "not comparable, since they do not overlap in √KL",
}
ALL = "all"


def robustness_sentences(results: Row) -> list[str]:
    """Where scores part by the largest test PM, and small against large train PMs; nothing where neither was asked."""
    return [*_parting_sentences(results), *_effect_sentences(results)]


def _parting_sentences(results: Row) -> list[str]:
    rows = rows_of(results, "robustness")
    if not rows:
        return []
    largest = max(rows, key=lambda row: row["test_pm_n_params"])["test_pm"]
    here = [row for row in rows if row["test_pm"] == largest]
    parted = [row for row in here if has_value(row["parting_sqrt_kl"])]
    text = f"Train and test score, the latter by the {largest} test PM, part in {len(parted)} of "
    text += f"{plural(len(here), 'pair')} of policy and train PM size"
    if parted:
        text += f", at √KL {format_span([float(row['parting_sqrt_kl']['value']) for row in parted], 2)}"
        ends = sorted(parted, key=lambda row: float(row["parting_sqrt_kl"]["value"]))
        chosen = [ends[0]] if len(ends) == 1 else [ends[0], ends[-1]]
        text += f" ({'; '.join(_cell(row) for row in chosen)})"
    left = [row for row in here if row not in parted]
    if left:
        text += f"; {'none of the others' if parted else 'none'} did within √KL "
        text += format_span([float(row["reach"]) for row in left], 2)
    return [f"{text}."]


def _cell(row: Row) -> str:
    return f"{row['model']} against {row['train_pm']} {format_estimate(row['parting_sqrt_kl'])}"


def _effect_sentences(results: Row) -> list[str]:
    """One sentence for gold and one for the largest test PM: pooled over policy sizes, else size by size."""
    rows = rows_of(results, "pm_size_effect")
    tests = [row["pm"] for row in rows if row["score"] == "test"]
    texts = []
    for score, pm in (("gold", None), ("test", tests[-1] if tests else None)):
        here = [row for row in rows if row["score"] == score and row["pm"] == pm]
        if here:
            texts.append(_effect(here))
    return texts


def _effect(rows: Sequence[Row]) -> str:
    first = rows[0]
    name = "gold score" if first["score"] == "gold" else f"score by the {score_series(first)}"
    pooled = [row for row in rows if row["model"] == ALL]
    parts = []
    for verdict, words in VERDICTS.items():
        found = [row for row in rows if row["verdict"] == verdict and row["model"] != ALL]
        parts += [f"{words} at {join_words([_size(row) for row in found])}"] if found else []
    text = f"Trained against a {first['large']} rather than a {first['small']} PM, at equal √KL, by the {name}: "
    text += "; ".join(parts)
    whole = f"; over all sizes {format_estimate(pooled[0]['difference'], signed=True)}" if pooled else ""
    return f"{text}{whole} ({VERDICTS[pooled[0]['verdict']]})." if pooled else f"{text}."


def _size(row: Row) -> str:
    if not has_value(row["difference"]):
        return str(row["model"])
    return f"{row['model']} ({format_estimate(row['difference'], signed=True)})"


def robustness_methods(results: Row) -> list[str]:
    """The two rules, where the study has rows of them."""
    found = [
        next((str(row["rule"]) for row in rows_of(results, key)), None) for key in ("robustness", "pm_size_effect")
    ]
    names = ("Robustness.", "Small against large train PMs.")
    texts = [f"{name} {rule[0].upper()}{rule[1:]}" for name, rule in zip(names, found, strict=True) if rule]
    if texts:
        texts.append(
            "Each test PM's score is of the same responses. Policies against another size's PM are of the first seed "
            "alone, so what another seed would give is only as well known as the sizes with several runs say."
        )
    return texts


# ---------------------------------------------------------------- tables


def robustness_tables(results: Row) -> list[HtmlTable]:
    """Slopes and partings by cell, and the comparison of PM sizes; those that the study has."""
    found = [parting_table(results), effect_table(results)]
    return [table for table in found if table.rows]


def parting_table(results: Row) -> HtmlTable:
    """Per policy, train PM and test PM size: both slopes, the difference at the end, and where they part."""
    rows = []
    for row in rows_of(results, "robustness"):
        parted = has_value(row["parting_sqrt_kl"])
        place = format_estimate(row["parting_sqrt_kl"]) if parted else f"not by {format_number(row['reach'], 2)}"
        slopes = [_slope(results, row, "train", row["train_pm"]), _slope(results, row, "test", row["test_pm"])]
        end = format_estimate(row["parting_at_end"], signed=True) if has_value(row["parting_at_end"]) else "–"
        rows.append([*(str(row[k]) for k in ("model", "train_pm", "test_pm")), str(row["n_runs"]), *slopes, end, place])
    head = ["policy", "train PM", "test PM", "runs", "train slope", "test slope", "train − test at the end (sd)"]
    title = "Train against test score (sd a √nat, and √KL where they part)"
    return HtmlTable(title, [*head, "they part at √KL"], rows, empty="No test PM followed.", numbers=(3,))


def _slope(results: Row, row: Row, score: str, pm: str) -> str:
    """The slope of the cell's line through the origin."""
    group = group_name({**row, "score": score, "pm": pm})
    fit = find_fit(results, "sqrt-kl-linear", group, ["sqrt_kl"], f"change_{score}")
    return format_estimate({**fit["params"]["c"], "n": None}, signed=True) if fit is not None and usable(fit) else "–"


def effect_table(results: Row) -> HtmlTable:
    """Per policy size and score: the large PM's policy minus the small one's at equal √KL."""
    rows = [
        [
            str(row["model"]),
            score_series(row),
            str(row["n_runs"]),
            format_estimate(row["difference"], signed=True) if has_value(row["difference"]) else "–",
            str(row["verdict"]),
            str(row["note"] or ""),
        ]
        for row in rows_of(results, "pm_size_effect")
    ]
    head = ["policy", "judged by", "pairs of runs", "large − small", "verdict", "note"]
    return HtmlTable("Largest against smallest train PM at equal √KL", head, rows, empty="One train PM.", wide=(5,))
