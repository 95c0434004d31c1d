"""Behaviours before and after RLHF in words. A change is named only where it is paired and its interval excludes 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.behaviours import shown_layer
from reports.behaviour_figures import in_order, means, scored
from reports.differences import changes
from reports.formats import format_estimate, join_words
from reports.tax_figures import BEFORE, END

SHOWN = {BEFORE: "before RLHF", END: "at its end"}
CHANGES = {
    "mean_loss_chosen": (
        "Loss on chosen responses (nats a token, these runs), end of RLHF minus before, is",
        "higher",
        "lower",
    ),
    "mean_loss_rejected": ("Loss on rejected responses, end minus before, is", "higher", "lower"),
    "difference": (
        "How much likelier chosen responses are than rejected ones, end minus before, is",
        "higher",
        "lower",
    ),
    "accuracy": ("How often the chosen response is the likelier one, end minus before, is", "higher", "lower"),
}
Row = Mapping[str, Any]


def behaviour_sentences(results: Row) -> list[str]:
    """Levels before and at the end of RLHF, and on answers the paired changes; empty where nothing was measured."""
    occupations = [row for row in scored(results, "occupations") if row["measure"] == "mean_abs"]
    sentiment = [row for row in scored(results, "sentiment") if ": " not in str(row["part"])]
    outliers = [
        row for row in scored(results, "outliers") if row.get("layer") and row["measure"] == "relative_mahalanobis"
    ]
    outliers = [row for row in outliers if row["layer"] == shown_layer(row["n_layers"])]
    lines = [_levels("The gender bias of occupations (mean size, nats)", occupations)]
    for kind in dict.fromkeys(row["part"] for row in sentiment):
        here = [row for row in sentiment if row["part"] == kind]
        lines.append(_levels(f"Mean P(positive) of sentences about groups by {kind}", here))
    lines.append(_levels("AUROC of harmful against helpful prompts by the relative distance", outliers))
    return [line for line in [*lines, *_changes(results)] if line]


def _levels(subject: str, rows: Sequence[Row]) -> str:
    """``subject is 0.06 [...] before RLHF and 0.05 [...] at its end at 27k; ...``."""
    by_model: dict[str, list[str]] = {}
    for row, cells in means(sorted(rows, key=in_order)):
        if row["place"] in SHOWN:
            text = f"{format_estimate({**cells, 'value': cells['y']})} {SHOWN[row['place']]}"
            by_model.setdefault(str(row["model"]), []).append(text)
    found = [f"{join_words(parts)} at {model}" for model, parts in by_model.items()]
    return f"{subject} is {'; '.join(found)}." if found else ""


def _changes(results: Row) -> list[str]:
    """One sentence for each measure of answers, of all comparisons."""
    known = [row for row in scored(results, "answers", "behaviour_changes") if row["part"] == "all"]
    ends = [row for row in known if row["place"] == END]
    lines = []
    for measure, (subject, up, down) in CHANGES.items():
        here = means([row for row in ends if row["measure"] == measure], value="change")
        named = [(str(row["model"]), {**cells, "value": cells["y"]}) for row, cells in here]
        lines += [f"{subject} {changes(named, up, down)}."] if named else []
    return lines
