"""The taxes of a study: benchmark records paired into rows, pooled over tasks, and followed over sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.bias import METRIC as BIAS
from analysis.bias import bias_row
from analysis.estimates import codes, mean
from analysis.frames import ITEM_COLUMNS, ITEM_DETAILS, Study, join_notes, stage_table
from analysis.items import (
    K_SHOT,
    METRIC,
    TASK_KEYS,
    Layout,
    TaskItems,
    TaskKey,
    is_bounded,
    normaliser,
    pair_items,
    split_tasks,
)
from analysis.reward_paths import Path, interpolated
from analysis.tax import judge, judge_map, task_rows
from analysis.tax_groups import Group, Key
from analysis.tax_pooled import Tasks, one_suite, poolable, pooled_rows
from analysis.tax_reward import add_rewards, equal_reward_rows, per_reward_rows
from analysis.tax_trend import trend_over_sizes, trend_suites
from hh_scaling.records import Record, config_hash

Items = dict[TaskKey, TaskItems]
TUNED = ("ppo", "interpolation")  # kinds of stage whose weights a policy's training moved


@dataclass
class TaxTables:
    """Everything the tax gives: rows of tasks, rows pooled over tasks, crossovers, and trends as ``fits``."""

    tax: list[dict[str, Any]] = field(default_factory=list)
    pooled: list[dict[str, Any]] = field(default_factory=list)
    crossover: list[dict[str, Any]] = field(default_factory=list)
    trends: list[dict[str, Any]] = field(default_factory=list)
    per_reward: list[dict[str, Any]] = field(default_factory=list)
    equal_reward: list[dict[str, Any]] = field(default_factory=list)
    bias: list[dict[str, Any]] = field(default_factory=list)


def benchmark_items(study: Study) -> dict[str, Items]:
    """Per-item scores of every finished benchmark stage by task, by its id; checkpoints never reached are excluded."""
    found, layouts = {}, list[Layout]()
    for record in (r for r in study.of_kind("benchmark") if study.is_main(r) or _of_recipe(study, r)):
        if record.summary.get("not_reached"):
            study.exclude(record.stage_id, f"the policy never reached {record.config.get('at')}", record)
        elif (frame := stage_table(study, record, "items.parquet", ITEM_COLUMNS, ITEM_DETAILS)) is not None:
            bad = ~np.isfinite(frame.score.to_numpy(float))
            if bad.any():
                study.exclude(record.stage_id, f"{int(bad.sum())} items have no finite score", record)
                frame = frame[~bad]
            found[record.stage_id] = split_tasks(frame, layouts)
    return found


def _of_recipe(study: Study, record: Record) -> bool:
    policy = study.parent(record, "model")
    return policy is not None and study.is_recipe(policy)


def benchmark_rows(study: Study, items: dict[str, Items]) -> list[dict[str, Any]]:
    """One row per benchmarked model and task: its score clustered by document, raw and chance-normalised."""
    rows, named = [], recipes(study)
    for stage_id, tasks in items.items():
        record = study.records[stage_id]
        model, parent = study.model(record), study.parent(record, "model")
        tuned = policy_of(study, record.parents["model"]) if parent is not None and parent.kind in TUNED else None
        labels = {
            "stage_id": stage_id, "model": model.name, "n_params": model.n_params, "seed": study.seed(record),
            "stage_kind": parent.kind if parent else None, "at": record.config.get("at"),
            "at_sqrt_kl": record.summary.get("at_sqrt_kl"), "recipe": tuned and named.get(tuned.stage_id),
        }  # fmt: skip
        cut = record.summary.get("truncated") or {}
        rows += [
            labels | score_columns(task) | {"n_truncated": cut.get(task.key[0])}
            for task in tasks.values()
            if task.weight.any()
        ]
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


def tax_tables(
    study: Study, items: dict[str, Items], margin: float, bits_margin: float, paths: Sequence[Path] = ()
) -> TaxTables:
    """All tables of the tax for one study; ``margin`` in normalised percentage points. With ``paths`` also the tax at
    equal gold reward."""
    before_items = untuned_items(study, items)

    def befores(policy: Record) -> list[tuple[str, Items]]:
        found = origins(study, policy)
        return [(name, before_items[r.stage_id]) for name, r in found if r.stage_id in before_items]

    tables = TaxTables(equal_reward=equal_reward_rows(paths, befores))
    series: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    collected = collect(study, items)
    add_rewards(study, collected, paths, befores)
    for (recipe, _, before, at), group in sorted(collected.items(), key=_order):
        series[recipe, before, at].append(group)
    for (recipe, before, at), groups in sorted(series.items()):
        tables.bias += _bias_rows({"recipe": recipe, "before": before, "at": at}, groups)
        _add_series(tables, {"recipe": recipe, "before": before, "at": at}, groups, (margin, bits_margin))
    return tables


def _add_series(tables: TaxTables, labels: dict[str, Any], groups: list[Group], margins: tuple[float, float]) -> None:
    """Rows, means over tasks, trends and crossovers of one recipe and checkpoint over its sizes."""
    rows = _task_families(labels, groups, margins)
    for family in rows:
        judge(family)
        tables.tax += family
    judge_map(rows)
    kept = [group.kept(labels["at"]) for group in groups]
    for k_shot in sorted({key[K_SHOT] for group in groups for key in group.pairs}):
        shots = [[row for row in family if row["k_shot"] == k_shot] for family in rows]
        usable = [poolable(pairs, family) for pairs, family in zip(kept, shots, strict=True)]
        _add_means(tables, labels | {"k_shot": k_shot}, groups, usable)
        _add_trends(tables, labels | {"k_shot": k_shot}, groups, usable)


def _task_families(
    labels: dict[str, Any], groups: list[Group], margins: tuple[float, float]
) -> list[list[dict[str, Any]]]:
    """The rows of every task by size, collapsed policies included and noted."""
    rows: list[list[dict[str, Any]]] = [[] for _ in groups]
    for key in sorted(set().union(*(group.pairs for group in groups))):
        holders = [i for i, group in enumerate(groups) if key in group.pairs]
        found = task_rows([groups[i].pairs[key] for i in holders], *margins)
        for i, row in zip(holders, found, strict=True):
            rows[i].append(labels | size_labels(groups[i]) | row)
    for group, family in zip(groups, rows, strict=True):
        if group.collapsed:
            _add_note(family, f"{len(group.collapsed)} collapsed policies included")
        _add_note(family, group.note)
    return rows


def _bias_rows(labels: dict[str, Any], groups: list[Group]) -> list[dict[str, Any]]:
    found = [(group, bias_row(pairs)) for group in groups for _, pairs in sorted(group.bias.items())]
    return [labels | size_labels(group) | row for group, row in found if row is not None]


def _add_means(tables: TaxTables, labels: dict[str, Any], groups: list[Group], usable: list[Tasks]) -> None:
    """The mean over tasks at every size that was benchmarked with this many shots."""
    for group, row in zip(groups, pooled_rows(usable), strict=True):
        if not any(key[K_SHOT] == labels["k_shot"] for key in group.pairs):
            continue
        left_out = group.collapsed if labels["at"] == "end" else set()
        if left_out and not group.kept(labels["at"]):
            row["note"] = "every policy collapsed"
        elif left_out:
            _add_note([row], f"{len(left_out)} collapsed policies left out")
        _add_note([row], group.note)
        tables.pooled.append(labels | size_labels(group, left_out) | row)
    sizes = [(size_labels(group), group, tasks) for group, tasks in zip(groups, one_suite(usable)[0], strict=True)]
    tables.per_reward += [labels | row for row in per_reward_rows(sizes)]


def _add_trends(tables: TaxTables, labels: dict[str, Any], groups: list[Group], usable: list[Tasks]) -> None:
    """Crossovers and trends over the sizes, of the mean and of every task."""
    for task, members in trend_suites([(g.model, tasks) for g, tasks in zip(groups, usable, strict=True)]):
        row, trend = trend_over_sizes(labels | {"task": task}, members)
        shared = join_notes(*(group.note for group in groups))
        _add_note([row], shared)
        tables.crossover.append(row)
        if trend is not None:
            trend["notes"] += [{"code": "shared_base", "message": shared}] if shared else []
            tables.trends.append(trend)


def size_labels(group: Group, left_out: Collection[str] = ()) -> dict[str, Any]:
    """The columns that say which size a row is about, and at what sqrt(KL) on average over its runs."""
    reached = [root for run, root in group.at_sqrt_kl.items() if run not in left_out]
    at, model = float(np.mean(reached)) if reached else None, group.model
    return {"model": model.name, "n_params": model.n_params, "n_params_total": model.n_params_total, "at_sqrt_kl": at}


def _order(entry: tuple[Key, Group]) -> tuple[Any, ...]:
    (recipe, model, before, at), group = entry
    return (recipe, before, at, group.model.n_params, model)


def _add_note(rows: Iterable[dict[str, Any]], text: str | None) -> None:
    for row in rows:
        row["note"] = join_notes(row["note"], text)


# ---------------------------------------------------------------- pairing


def collect(study: Study, items: dict[str, Items]) -> dict[Key, Group]:
    """Paired items by (recipe, model, before, at); refusals and missing befores go to the study's exclusions."""
    before_items = untuned_items(study, items)
    recipe_of = recipes(study)
    groups: dict[Key, Group] = {}
    for stage_id, tasks in items.items():
        record = study.records[stage_id]
        model = record.parents["model"]
        if study.kinds.get(model) not in TUNED:
            continue
        policy = policy_of(study, model)
        if policy is None:
            study.exclude(stage_id, f"its policy {model} has no readable record", record)
            continue
        if study.base(policy) is None:
            study.exclude(stage_id, "the record of its base model is missing", record)
        for before, origin in origins(study, policy):
            if origin.stage_id not in before_items:
                study.exclude(stage_id, f"no finished benchmark of its {before} {origin.stage_id}", record)
                continue
            recipe = recipe_of[policy.stage_id]
            recipe = interpolated(recipe) if study.kinds[model] == "interpolation" else recipe
            key = (recipe, study.model(record).name, before, record.config.get("at") or "end")
            group = groups.setdefault(key, Group(study.model(record)))
            _pair(study, group, before_items[origin.stage_id], tasks, record, policy)
    return groups


def untuned_items(study: Study, items: dict[str, Items]) -> dict[str, Items]:
    """The items of bases and references by the model's stage id; several benchmark stages of one model together."""
    found: dict[str, Items] = defaultdict(dict)
    for stage_id, tasks in items.items():
        model = study.records[stage_id].parents["model"]
        if study.kinds.get(model) not in TUNED:
            found[model].update(tasks)
    return found


def policy_of(study: Study, stage_id: str) -> Record | None:
    """The policy that a stage of tuned weights is, or (an interpolation) ends at; None where a record is missing."""
    record = study.records.get(stage_id)
    return study.parent(record, "policy") if record is not None and record.kind == "interpolation" else record


def _pair(study: Study, group: Group, before: Items, after: Items, record: Record, policy: Record) -> None:
    # a policy may be benchmarked on fewer tasks than its base; only what it was asked must match
    asked = {key: before[key] for key in after if key in before}
    where = f"{record.stage_id} against its {policy.parents['policy']}"
    pairs, refused = pair_items(asked, after, study.chain(policy), where)
    for reason in refused:
        study.exclude(record.stage_id, reason, record)
    if record.summary.get("at_sqrt_kl") is not None:
        group.at_sqrt_kl[study.chain(policy)] = float(record.summary["at_sqrt_kl"])
    if policy.status == "diverged":
        group.collapsed.add(study.chain(policy))
    for key, pair in pairs.items():
        known = (group.bias if key[METRIC] == BIAS else group.pairs)[key]
        if all(pair.run != other.run for other in known):  # a task without examples is the same at every k
            known.append(pair)


def origins(study: Study, policy: Record) -> list[tuple[str, Record]]:
    """What a policy is compared with: its base, and its reference where that is another model."""
    base, start = study.base(policy), study.parent(policy, "policy")
    found = [("base", base)] if base is not None else []
    if start is not None and start.kind == "reference":
        found.append(("reference", start))
    return [(name, record) for name, record in found if record is not None]


def recipes(study: Study) -> dict[str, str]:
    """The recipe's name for every policy: the study's, with a hash where one chain was tuned in several ways, and with
    its coefficient where that of pretraining text is not the main policies'."""
    trainings: dict[tuple[str, str], set[str]] = defaultdict(set)
    policies = study.main_of_kind("ppo")
    others = [r for r in study.of_kind("ppo") if study.is_recipe(r) and not study.is_main(r)]
    for record in policies:
        trainings[study.model(record).name, study.chain(record)].add(_training(record))
    several = any(len(found) > 1 for found in trainings.values())
    named = {r.stage_id: f"{study.name}:ptx{r.config['training'].get('ptx_coef', 0.0):g}" for r in others}
    return named | {r.stage_id: f"{study.name}:{_training(r)}" if several else study.name for r in policies}


def main_recipes(study: Study) -> set[str]:
    """The recipes of the main setting's policies."""
    named = recipes(study)
    return {named[record.stage_id] for record in study.main_of_kind("ppo")}


def _training(record: Record) -> str:
    return config_hash(record.config.get("training", {}), length=6)
