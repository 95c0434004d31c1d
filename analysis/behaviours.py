"""The paper's other evaluations: what each model scored, and the change from before RLHF: on answers, by occupation."""

from __future__ import annotations

import json
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
OCCUPATION_COLUMNS = ("occupation", "pair", "tense", "log_ratio")
SCORE_COLUMNS = ("layer", "method", "harmful", "score")
SIDES = ("chosen", "rejected")
N_BARS = 40  # of a histogram of distances
SHALLOW = 6  # layers up to which the paper looks at the last one, and at the middle one above
Labels = dict[str, Any]


def behaviour_tables(study: Study) -> dict[str, list[dict[str, Any]]]:
    """Of results what models scored (``behaviours``), what RLHF changed (``behaviour_changes``), every occupation's
    bias before and after (``behaviour_occupations``) and the largest size's distances (``behaviour_distances``)."""
    records = measured(study)
    rows = [labels_of(study, record) | row for record in records for row in entries(record.summary)]
    compared = list(before_and_after(study, records))
    return {
        "behaviours": rows,
        "behaviour_changes": [row for pair in compared for row in change_rows(study, *pair)],
        "behaviour_occupations": [row for pair in compared for row in occupation_rows(study, *pair)],
        "behaviour_distances": distance_rows(study, records),
    }


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
        "stage_kind": parent.kind if parent else None, "status": parent.status if parent else None,
        "at": record.config.get("at"), "at_sqrt_kl": record.summary.get("at_sqrt_kl"),
        "samples": samples_of(study, parent, record.config.get("at")) if parent else None,
    }  # fmt: skip


def samples_of(study: Study, model: Record, at: str | None) -> int | None:
    """Responses that RLHF had sampled: 0 before it, None where it is not known or weights lie between two models."""
    if model.kind in ("base", "reference"):
        return 0
    if model.kind != "ppo":
        return None
    try:
        kept = json.loads((study.folder(model) / "checkpoints.json").read_text(encoding="utf-8"))
        return next((int(entry["samples"]) for entry in kept if entry["name"] == at), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def entries(summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Evaluation, measure, part (a layer, a tranche, a group) and score of everything that a stage's summary says; of
    outliers also the layer of how many, and how many harmful prompts were shown (0: a distance, which is shown none).

    Bias of occupations is in nats, losses in nats a token; intervals are normal ones from the stages' standard errors.
    """
    if occupations := summary.get("occupations"):
        for measure in ("mean_abs", "mean"):
            yield entry("occupations", measure, None, occupations[measure])
    for found in (summary.get("answers") or {}).get("entries", ()):
        for measure in ("loss_chosen", "loss_rejected", "difference", "accuracy"):
            yield entry("answers", measure, found["tranche"], found[measure])
    separations = (summary.get("outliers") or {}).get("entries", ())
    depth = max((found["layer"] for found in separations), default=0)
    for found in separations:
        shown = f", {found['n_outliers']} shown" if found["n_outliers"] else ""
        row = entry("outliers", f"{found['method']}{shown}", f"layer {found['layer']}", found["auroc"])
        yield row | {"layer": found["layer"], "n_layers": depth, "n_outliers": found["n_outliers"]}
    for found in (summary.get("sentiment") or {}).get("entries", ()):
        part = found["kind"] + (f": {found['group']}" if found["group"] else "")
        yield entry("sentiment", "positive", part, found["positive"])


def entry(evaluation: str, measure: str, part: str | None, score: dict[str, Any]) -> dict[str, Any]:
    """One row without its labels."""
    estimate = Estimate(score["value"], score["se"], score["n"])
    labels = {"evaluation": evaluation, "measure": measure, "part": part, "score": estimate.to_dict()}
    return labels | dict.fromkeys(("layer", "n_layers", "n_outliers"))


# ---------------------------------------------------------------- before and after


def before_and_after(study: Study, records: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    """Every measured checkpoint of a policy, after what the policy started from; none where that was not measured."""
    by_model = {record.parents.get("model"): record for record in records if record.config.get("at") is None}
    for record in records:
        policy = study.parent(record, "model")
        roles = {"ppo": "policy", "interpolation": "reference"}
        before = by_model.get(policy.parents.get(roles.get(policy.kind, ""))) if policy is not None else None
        if before is not None:
            yield before, record


def change_rows(study: Study, before: Record, after: Record) -> list[dict[str, Any]]:
    """One row per measure and tranche: after less before RLHF on the same comparisons, paired and clustered by
    conversation."""
    tables = [answers(study, one) for one in (before, after)]
    if tables[0] is None or tables[1] is None:
        return []
    return [labels_of(study, after) | row for row in changes(tables[0], tables[1])]


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


def occupation_rows(study: Study, before: Record, after: Record) -> list[dict[str, Any]]:
    """One row per occupation: its mean log ratio before and after over pairs, each pair in both tenses, in nats."""
    if not (before.summary.get("occupations") and after.summary.get("occupations")):
        return []
    tables = [stage_table(study, one, "occupations.parquet", OCCUPATION_COLUMNS) for one in (before, after)]
    known = [table for table in tables if table is not None]
    if len(known) < 2:
        return []
    of = [{str(name): part for name, part in table.groupby("occupation", sort=False)} for table in known]
    found = []
    for name in (name for name in of[0] if name in of[1]):
        bias = [mean(parts[name].log_ratio, parts[name]["pair"]).to_dict() for parts in of]
        found.append(labels_of(study, after) | {"occupation": name, "before": bias[0], "after": bias[1]})
    return found


# ---------------------------------------------------------------- distances


def shown_layer(n_layers: int) -> int:
    """The layer whose distances are shown: the last of few, the middle one of many (Bai et al. 2022, figure 23)."""
    return n_layers if n_layers <= SHALLOW else n_layers // 2


def distance_rows(study: Study, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Where the distances of helpful and harmful prompts lie at the layer shown, of the largest size's first seed; all
    of its models in the same bars. Distances are those of the first split."""
    tables = list(distances_shown(study, records))
    rows = []
    for method in dict.fromkeys(name for _, table in tables for name in table.method):
        here = [(record, table[table.method == method]) for record, table in tables]
        low, high = np.quantile(np.concatenate([table.score.to_numpy(float) for _, table in here]), (0.01, 0.99))
        edges = np.linspace(low, high, N_BARS + 1)
        rows += [
            labels_of(study, record) | {"method": str(method)} | _distances(part, edges)
            for record, table in here
            for _, part in table.groupby("harmful", sort=True)
        ]
    return rows


def distances_shown(study: Study, records: Sequence[Record]) -> Iterator[tuple[Record, pd.DataFrame]]:
    """The largest size's first seed: its models with their distances at the layer shown; earlier versions kept none."""
    known = [r for r in records if (study.folder(r) / "outlier_scores.parquet").is_file()]
    if known:
        first = min(known, key=lambda r: (-study.model(r).n_params, study.seed(r) or 0))
        for record in known:
            if (study.model(record), study.seed(record)) == (study.model(first), study.seed(first)):
                table = stage_table(study, record, "outlier_scores.parquet", SCORE_COLUMNS)
                if table is not None and len(table):
                    yield record, table[table.layer == shown_layer(int(table.layer.max()))]


def _distances(part: pd.DataFrame, edges: np.ndarray) -> dict[str, Any]:
    """One histogram: which prompts, their mean with its error over prompts, and the density in every bar. Distances
    have long tails: the outermost bars hold what lies beyond them."""
    scores = part.score.to_numpy(float)
    density = (
        np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0] / len(scores) / np.maximum(np.diff(edges), 1e-300)
    )
    kind = {"layer": int(part.layer.iloc[0]), "harmful": bool(part.harmful.iloc[0])}
    return kind | {"mean": mean(scores).to_dict(), "edges": edges.tolist(), "density": density.tolist()}
