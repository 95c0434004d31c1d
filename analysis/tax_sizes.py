"""The taxes of a study: benchmark records paired into rows, pooled over tasks, and followed over sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.estimates import codes, mean
from analysis.frames import ITEM_COLUMNS, Model, Study, stage_table
from analysis.items import TASK_KEYS, Pair, TaskItems, TaskKey, is_bounded, normaliser, pair_items, split_tasks
from analysis.pm import chain_of
from analysis.tax import Pooled, judge, pooled_taxes, task_rows
from analysis.tax_trend import trend_over_sizes, trend_suites
from hh_scaling.records import Record, config_hash

Items = dict[TaskKey, TaskItems]
Key = tuple[str, str, str, str]  # recipe, model name, before, at


@dataclass
class TaxTables:
    """Everything the tax gives: rows of tasks, rows pooled over tasks, crossovers, and trends as ``fits``."""

    tax: list[dict[str, Any]] = field(default_factory=list)
    pooled: list[dict[str, Any]] = field(default_factory=list)
    crossover: list[dict[str, Any]] = field(default_factory=list)
    trends: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Group:
    """One size's paired items at one checkpoint, by task key, one Pair per run."""

    model: Model
    pairs: dict[TaskKey, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    at_sqrt_kl: list[float] = field(default_factory=list)
    collapsed: int = 0
    bases: set[str] = field(default_factory=set)  # stage ids of the base models the runs descend from


def benchmark_items(study: Study) -> dict[str, Items]:
    """Per-item scores of every finished benchmark stage by task, by its id; checkpoints never reached are excluded."""
    found = {}
    for record in study.of_kind("benchmark"):
        if record.summary.get("not_reached"):
            study.exclude(record.stage_id, f"the policy never reached {record.config.get('at')}", record)
        elif (frame := stage_table(study, record, "items.parquet", ITEM_COLUMNS)) is not None:
            bad = ~np.isfinite(frame.score.to_numpy(float))
            if bad.any():
                study.exclude(record.stage_id, f"{int(bad.sum())} items have no finite score", record)
                frame = frame[~bad]
            found[record.stage_id] = split_tasks(frame)
    return found


def benchmark_rows(study: Study, items: dict[str, Items]) -> list[dict[str, Any]]:
    """One row per benchmarked model and task: its score clustered by document, raw and chance-normalised."""
    rows = []
    for stage_id, tasks in items.items():
        record = study.records[stage_id]
        model, parent = study.model(record), study.parent(record, "model")
        labels = {
            "stage_id": stage_id, "model": model.name, "n_params": model.n_params, "seed": study.seed(record),
            "stage_kind": parent.kind if parent else None, "at": record.config.get("at"),
            "at_sqrt_kl": record.summary.get("at_sqrt_kl"),
        }  # fmt: skip
        rows += [labels | score_columns(task) for task in tasks.values()]
    return sorted(rows, key=_place)


def score_columns(task: TaskItems) -> dict[str, Any]:
    """A task's score and, where it is bounded, its share of the range above chance."""
    bounded, cluster = is_bounded(task.key[3], task.score), codes(task.cluster)
    excess = (task.score - np.nan_to_num(task.chance)) * normaliser(task.chance, bounded)
    return {
        **dict(zip(TASK_KEYS, task.key, strict=True)),
        "score": mean(task.score, cluster, task.weight).to_dict(),
        "chance": None if np.isnan(task.chance).all() else float(np.nanmean(task.chance)),
        "normalised": mean(excess, cluster, task.weight).to_dict() if bounded else None,
    }


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("n_params", "model", "stage_kind", "at", "seed", "task", "format", "k_shot", "stage_id")
    return tuple(row[name] if isinstance(row[name], int) else str(row[name]) for name in names)


def tax_tables(study: Study, items: dict[str, Items], margin: float, bits_margin: float) -> TaxTables:
    """All tables of the tax for one study; ``margin`` in normalised percentage points."""
    tables = TaxTables()
    series: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for (recipe, _, before, at), group in sorted(collect(study, items).items(), key=_order):
        series[recipe, before, at].append(group)
    for (recipe, before, at), groups in sorted(series.items()):
        _add_series(tables, {"recipe": recipe, "before": before, "at": at}, groups, (margin, bits_margin))
    return tables


def _add_series(tables: TaxTables, labels: dict[str, Any], groups: list[Group], margins: tuple[float, float]) -> None:
    """Rows, means over tasks, trends and crossovers of one recipe and checkpoint over its sizes."""
    rows: list[list[dict[str, Any]]] = [[] for _ in groups]
    for key in sorted(set().union(*(group.pairs for group in groups))):
        holders = [i for i, group in enumerate(groups) if key in group.pairs]
        found = task_rows([groups[i].pairs[key] for i in holders], *margins)
        for i, row in zip(holders, found, strict=True):
            rows[i].append(labels | size_labels(groups[i]) | row)
    for group, family in zip(groups, rows, strict=True):
        if group.collapsed:
            _add_note(family, f"{group.collapsed} collapsed policies included")
        if len(group.bases) < max((row["n_seeds"] for row in family), default=1):
            _add_note(family, "runs share a base model: the variance of pretraining is not included")
        judge(family)
        tables.tax += family
    for k_shot in sorted({key[TASK_KEYS.index("k_shot")] for group in groups for key in group.pairs}):
        shots = [[row for row in family if row["k_shot"] == k_shot] for family in rows]
        usable = [poolable(group.pairs, family) for group, family in zip(groups, shots, strict=True)]
        shared = labels | {"k_shot": k_shot}
        tables.pooled += [
            shared | size_labels(group) | row
            for group, row in zip(groups, pooled_rows(usable), strict=True)
            if any(key[TASK_KEYS.index("k_shot")] == k_shot for key in group.pairs)
        ]
        for task, members in trend_suites([(g.model, tasks) for g, tasks in zip(groups, usable, strict=True)]):
            row, trend = trend_over_sizes(shared | {"task": task}, members)
            tables.crossover.append(row)
            tables.trends += [] if trend is None else [trend]


def size_labels(group: Group) -> dict[str, Any]:
    """The columns that say which size a row is about, and at what sqrt(KL) on average."""
    at = float(np.mean(group.at_sqrt_kl)) if group.at_sqrt_kl else None
    model = group.model
    return {"model": model.name, "n_params": model.n_params, "n_params_total": model.n_params_total, "at_sqrt_kl": at}


def _order(entry: tuple[Key, Group]) -> tuple[Any, ...]:
    (recipe, model, before, at), group = entry
    return (recipe, before, at, group.model.n_params, model)


def _add_note(rows: Iterable[dict[str, Any]], text: str) -> None:
    for row in rows:
        row["note"] = f"{row['note']}; {text}" if row["note"] else text


# ---------------------------------------------------------------- pairing


def collect(study: Study, items: dict[str, Items]) -> dict[Key, Group]:
    """Paired items by (recipe, model, before, at); refusals and missing befores go to the study's exclusions."""
    before_items = untuned_items(study, items)
    recipe_of = recipes(study)
    groups: dict[Key, Group] = {}
    for stage_id, tasks in items.items():
        record = study.records[stage_id]
        policy = study.records.get(record.parents["model"])
        if policy is None or policy.kind != "ppo":
            if study.kinds.get(record.parents["model"]) == "ppo":
                study.exclude(stage_id, f"its policy {record.parents['model']} has no readable record", record)
            continue
        if study.base(policy) is None:
            study.exclude(stage_id, "the record of its base model is missing", record)
        for before, origin in origins(study, policy):
            if origin.stage_id not in before_items:
                study.exclude(stage_id, f"no finished benchmark of its {before} {origin.stage_id}", record)
                continue
            key = (recipe_of[policy.stage_id], study.model(record).name, before, record.config.get("at") or "end")
            group = groups.setdefault(key, Group(study.model(record)))
            _pair(study, group, before_items[origin.stage_id], tasks, record, policy)
    return groups


def untuned_items(study: Study, items: dict[str, Items]) -> dict[str, Items]:
    """The items of bases and references by the model's stage id; several benchmark stages of one model together."""
    found: dict[str, Items] = defaultdict(dict)
    for stage_id, tasks in items.items():
        model = study.records[stage_id].parents["model"]
        if study.kinds.get(model) != "ppo":
            found[model].update(tasks)
    return found


def _pair(study: Study, group: Group, before: Items, after: Items, record: Record, policy: Record) -> None:
    # a policy may be benchmarked on fewer tasks than its base; only what it was asked must match
    asked = {key: before[key] for key in after if key in before}
    where = f"{record.stage_id} against its {policy.parents['policy']}"
    pairs, refused = pair_items(asked, after, chain_of(study, policy), where)
    for reason in refused:
        study.exclude(record.stage_id, reason, record)
    if record.summary.get("at_sqrt_kl") is not None:
        group.at_sqrt_kl.append(float(record.summary["at_sqrt_kl"]))
    group.collapsed += policy.status == "diverged"
    group.bases.add(base.stage_id if (base := study.base(policy)) else "")
    for key, pair in pairs.items():
        group.pairs[key].append(pair)


def origins(study: Study, policy: Record) -> list[tuple[str, Record]]:
    """What a policy is compared with: its base, and its reference where that is another model."""
    base, start = study.base(policy), study.parent(policy, "policy")
    found = [("base", base)] if base is not None else []
    if start is not None and start.kind == "reference":
        found.append(("reference", start))
    return [(name, record) for name, record in found if record is not None]


def recipes(study: Study) -> dict[str, str]:
    """The recipe's name for every policy: the study's, with a hash where one chain was tuned in several ways."""
    trainings: dict[tuple[str, str], set[str]] = defaultdict(set)
    policies = study.of_kind("ppo")
    for record in policies:
        trainings[study.model(record).name, chain_of(study, record)].add(_training(record))
    several = any(len(found) > 1 for found in trainings.values())
    return {r.stage_id: f"{study.name}:{_training(r)}" if several else study.name for r in policies}


def _training(record: Record) -> str:
    return config_hash(record.config.get("training", {}), length=6)


# ---------------------------------------------------------------- over tasks and sizes


def poolable(pairs: dict[TaskKey, list[Pair]], rows: list[dict[str, Any]]) -> dict[str, list[Pair]]:
    """The informative tasks with a chance-normalised scale, by "task (format)"."""
    usable = [row for row in rows if row["informative"] and row["normalised"] is not None]
    return {f"{r['task']} ({r['format']})": pairs[r["task"], r["format"], r["k_shot"], r["metric"]] for r in usable}


def pooled_rows(sizes: list[dict[str, list[Pair]]]) -> list[dict[str, Any]]:
    """At every size the equal-weight mean over informative tasks of the normalised tax; nulls where there is none."""
    found = iter(pooled_taxes([by_task for by_task in sizes if by_task]))
    return [_pooled_row(next(found)) if by_task else NO_TASKS for by_task in sizes]


NO_TASKS: dict[str, Any] = {
    **dict.fromkeys(("value", "se", "low", "high", "p")), "n_tasks": 0, "tasks": [], "n_seeds": 0,
    "note": "no informative task at this size",
}  # fmt: skip


def _pooled_row(pooled: Pooled) -> dict[str, Any]:
    plain = {k: v for k, v in pooled.estimate.to_dict().items() if k != "n"}
    counts = {"n_tasks": len(pooled.tasks), "tasks": list(pooled.tasks), "n_seeds": pooled.n_runs}
    return plain | {"p": pooled.estimate.p_value()} | counts | {"note": pooled.note}
