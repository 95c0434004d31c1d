"""The paper's other evaluations: what each model scored, and on answers the change from before RLHF, paired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimates import Estimate, mean
from analysis.frames import Study, stage_table
from hh_scaling.records import Record

ANSWER_COLUMNS = (
    "comparison_id", "conversation", "tranche", "loglikelihood_chosen", "loglikelihood_rejected", "n_tokens_chosen",
    "n_tokens_rejected",
)  # fmt: skip
SIDES = ("chosen", "rejected")
Labels = dict[str, Any]


def behaviour_tables(study: Study) -> dict[str, list[dict[str, Any]]]:
    """Of results what models scored (``behaviours``) and what RLHF changed (``behaviour_changes``)."""
    records = measured(study)
    rows = [labels_of(study, record) | row for record in records for row in entries(record.summary)]
    return {"behaviours": rows, "behaviour_changes": change_rows(study, records)}


def measured(study: Study) -> list[Record]:
    """The finished behaviour stages of the main setting; checkpoints never reached are excluded."""
    found = []
    for record in study.main_of_kind("behaviour"):
        if record.summary.get("not_reached"):
            study.exclude(record.stage_id, f"the policy never reached {record.config.get('at')}", record)
        else:
            found.append(record)
    return found


def labels_of(study: Study, record: Record) -> Labels:
    """What the record was measured on."""
    model, parent = study.model(record), study.parent(record, "model")
    return {
        "stage_id": record.stage_id, "model": model.name, "n_params": model.n_params, "seed": study.seed(record),
        "stage_kind": parent.kind if parent else None, "at": record.config.get("at"),
        "at_sqrt_kl": record.summary.get("at_sqrt_kl"),
    }  # fmt: skip


def entries(summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Evaluation, measure, part (a layer, a tranche, a group) and score of everything that a stage's summary says.

    Bias of occupations is in nats, losses in nats a token; intervals are normal ones from the stages' standard errors.
    """
    if occupations := summary.get("occupations"):
        for measure in ("mean_abs", "mean"):
            yield entry("occupations", measure, None, occupations[measure])
    for found in (summary.get("answers") or {}).get("entries", ()):
        for measure in ("loss_chosen", "loss_rejected", "difference", "accuracy"):
            yield entry("answers", measure, found["tranche"], found[measure])
    for found in (summary.get("outliers") or {}).get("entries", ()):
        shown = f", {found['n_outliers']} shown" if found["n_outliers"] else ""
        yield entry("outliers", f"{found['method']}{shown}", f"layer {found['layer']}", found["auroc"])
    for found in (summary.get("sentiment") or {}).get("entries", ()):
        part = found["kind"] + (f": {found['group']}" if found["group"] else "")
        yield entry("sentiment", "positive", part, found["positive"])


def entry(evaluation: str, measure: str, part: str | None, score: dict[str, Any]) -> dict[str, Any]:
    """One row without its labels."""
    estimate = Estimate(score["value"], score["se"], score["n"])
    return {"evaluation": evaluation, "measure": measure, "part": part, "score": estimate.to_dict()}


# ---------------------------------------------------------------- before and after


def change_rows(study: Study, records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row per policy's checkpoint, measure and tranche: after less before RLHF on the same comparisons, paired and
    clustered by conversation. ``before`` is what the policy started from."""
    by_model = {record.parents.get("model"): record for record in records if record.config.get("at") is None}
    rows = []
    for record in records:
        policy = study.parent(record, "model")
        roles = {"ppo": "policy", "interpolation": "reference"}
        before = by_model.get(policy.parents.get(roles.get(policy.kind, ""))) if policy is not None else None
        tables = [answers(study, one) for one in (before, record) if one is not None]
        if len(tables) == 2 and tables[0] is not None and tables[1] is not None:
            rows += [labels_of(study, record) | row for row in changes(tables[0], tables[1])]
    return rows


def answers(study: Study, record: Record) -> pd.DataFrame | None:
    """The stage's table of answers, or None where it has none."""
    if not (record.summary.get("answers") or {}).get("entries"):
        return None
    return stage_table(study, record, "answers.parquet", ANSWER_COLUMNS)


def changes(before: pd.DataFrame, after: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Measure, tranche, change and number of comparisons of the two tables' common ones."""
    keys = ["comparison_id", "conversation", "tranche"]
    both = before.merge(after, on=keys, suffixes=("_before", "_after"))
    for part in ("all", *sorted(both.tranche.unique())):
        rows = both if part == "all" else both[both.tranche == part]
        per_item = [item_measures(rows, time) for time in ("before", "after")]
        for measure in per_item[0]:
            change = mean(per_item[1][measure] - per_item[0][measure], rows.conversation)
            yield {"evaluation": "answers", "measure": measure, "part": str(part), "change": change.to_dict()}


def item_measures(rows: pd.DataFrame, time: str) -> dict[str, np.ndarray]:
    """By measure, (n,) of each comparison: nats a token on either side, their difference, which is likelier."""
    losses = {
        side: -(rows[f"loglikelihood_{side}_{time}"] / rows[f"n_tokens_{side}_{time}"]).to_numpy(float)
        for side in SIDES
    }
    difference = losses["rejected"] - losses["chosen"]
    return {
        "mean_loss_chosen": losses["chosen"],
        "mean_loss_rejected": losses["rejected"],
        "difference": difference,
        "accuracy": (np.sign(difference) + 1) / 2,
    }
