"""The benchmark stage: one model, or one checkpoint of a policy, on the study's tasks, item by item."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from hh_scaling.configs import BenchmarkConfig, BenchmarkTasks, Compute
from hh_scaling.estimates import clustered_mean, ratio
from hh_scaling.harness import (
    Item,
    Question,
    items_of,
    own_question,
    registry_question,
    sample_question,
    undisturbed,
)
from hh_scaling.lm import CausalLM
from hh_scaling.models import describe, forward_flops, load_causal_lm, load_tokenizer, set_up
from hh_scaling.records import NonFiniteError, StageWriter, read_record
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.tasks import TaskError, own_task, read_documents
from hh_scaling.tree_logprobs import Batch


def run(config: BenchmarkConfig, context: StageContext) -> StageResult:
    """Writes items.parquet; the summary has the scores with standard errors clustered as the tasks say.

    A policy that never reached the wanted distance gives ``not_reached`` and no items.
    """
    set_up(config.compute)
    stage = context.parents["model"]
    checkpoint = find_checkpoint(stage, config.at)
    if checkpoint is None:
        return StageResult(
            _summary(config, read_record(stage / "record.json").summary["model"], None, not_reached=True)
        )
    limits = pilot_limits(context, config.tasks.limit)
    with undisturbed():
        questions, sizes = find_questions(config.tasks, context, limits)
        asked = Asked(stage, config.at, config.size.name, config.tasks, config.compute)
        table = model_items(asked, questions, context)
    table.to_parquet(context.out.path / "items.parquet", index=False)
    summary = _summary(config, asked.model, checkpoint.get("sqrt_kl"))
    counts = {question.name: {"n": question.n_items, "n_file": sizes[question.name]} for question in questions}
    summary |= {"scores": scores(table), "truncated": asked.truncated, "perplexity": perplexities(table)}
    return StageResult(summary | {"items": counts})


def pilot_limits(context: StageContext, limit: int | None) -> dict[str, int | None]:
    """How many items of each task the pilots among the parents ask for; empty without pilots."""
    from hh_scaling.pilot import chosen_limits

    pilots = [path for role, path in sorted(context.parents.items()) if role.startswith("pilot")]
    return chosen_limits([read_record(path / "record.json").summary for path in pilots], limit)


@dataclass
class Asked:
    """A model (or a policy's checkpoint) to be asked, and afterwards what it is and which documents it cut."""

    stage: Path
    at: str | None
    name: str
    tasks: BenchmarkTasks
    compute: Compute
    model: dict[str, Any] = field(default_factory=dict)
    truncated: dict[str, int] = field(default_factory=dict)


def model_items(asked: Asked, questions: list[Question], context: StageContext) -> pd.DataFrame:
    """The model's items of all questions; with ``lm_eval_files`` also the folder ``lm_eval`` in lm-eval's format."""
    model = load_causal_lm(asked.stage, asked.at, asked.compute)
    progress = Progress(model, context.out)
    lm = CausalLM(model, load_tokenizer(asked.stage, asked.at), asked.compute, on_batch=progress.on_batch)
    with lm.by_processes():
        items, found = ask_all(lm, questions, asked.tasks.seed, progress)
    asked.model = describe(model, asked.name)
    asked.truncated |= {question.name: _n_truncated(question, lm) for question in questions}
    if asked.tasks.lm_eval_files:
        from hh_scaling.lm_eval_files import write_lm_eval

        write_lm_eval(context.out.path / "lm_eval", asked.name, asked.model["n_params_total"], found)
    return pd.DataFrame(items).astype({"chance": float, "correct": "boolean"})


def find_checkpoint(stage: Path, at: str | None) -> dict[str, Any] | None:
    """The entry of the policy's checkpoints.json named ``at``, or None where the policy never got there.

    {} for the model itself (``at`` None) and for an end that is not listed.
    """
    listing = stage / "checkpoints.json"
    if at is None:
        return {}
    if not listing.is_file():
        raise TaskError(f"{stage.name}: at={at!r} names a policy's checkpoint; this stage has none (allowed: null)")
    for entry in json.loads(listing.read_text(encoding="utf-8")):
        if entry["name"] == at:
            return dict(entry)
    return {} if at == "end" else None


def find_questions(
    tasks: BenchmarkTasks, context: StageContext, limits: Mapping[str, int | None] | None = None
) -> tuple[list[Question], dict[str, int]]:
    """The study's tasks, ready to be asked, and how many documents each has in all; all unknown names and unusable
    files are found before the first one is asked. ``limits`` says of some tasks how many are asked (None: all)."""
    questions, sizes = [], {}
    for name in dict.fromkeys(tasks.tasks):
        own = tasks.model_copy(update={"limit": limits[name]}) if limits and name in limits else tasks
        if task := own_task(name):
            if task.shape == "code" and not tasks.run_code:
                raise TaskError(f"task {name}: runs code that models write; --set benchmarks.run_code=true allows it")
            read = partial(read_documents, files=tasks.files, where=context.where, data_stage=context.parents["data"])
            docs = read(task)
            examples = read(task.shots) if task.shots is not None and own.num_fewshot else None
            questions.append(own_question(task, docs, own, examples))
            sizes[name] = len(docs)
        else:
            questions.append(registry_question(name, own))
            sizes[name] = sum(len(leaf.task.eval_docs) for leaf in questions[-1].leaves)
    return questions, sizes


def ask_all(
    lm: CausalLM, questions: list[Question], seed: int, progress: Progress
) -> tuple[list[Item], list[dict[str, Any]]]:
    """Items of all tasks, one task after another, and what lm-eval gave for each; NonFiniteError names the task and
    item of a NaN."""
    items: list[Item] = []
    given: list[dict[str, Any]] = []
    total = sum(question.n_items for question in questions)
    before = 0
    for question in questions:
        progress.begin(question.name, before, question.n_items, total)
        before += question.n_items
        given.append(sample_question(lm, question, seed))
        found = items_of(question, given[-1]["samples"])
        for item in found:
            if not all(map(math.isfinite, [item["score"], *item["loglikelihoods"]])):
                raise NonFiniteError(f"log-likelihood of task {item['task']}, item {item['doc_id']} is not finite")
        items += found
    return items, given


def _n_truncated(question: Question, lm: CausalLM) -> int:
    return sum(len(lm.truncated[leaf.name]) for leaf in question.leaves)


class Progress:
    """Counts tokens and operations of each forward pass and tells the launcher how far the stage is."""

    def __init__(self, model: PreTrainedModel, out: StageWriter) -> None:
        self.model = model
        self.out = out
        self.begin("", 0, 0, 1)

    def begin(self, task: str, n_before: int, n_items: int, total: int) -> None:
        self.task, self.n_before, self.n_items, self.total = task, n_before, n_items, total
        self.done = 0.0

    def on_batch(self, batch: Batch) -> None:
        flops = forward_flops(self.model, batch.n_tokens, batch.mean_length, batch.n_logits)
        self.out.count(batch.n_tokens, flops)
        self.done += batch.share
        self.out.progress(self.n_before + self.done * self.n_items, self.total, self.task)


# ---------------------------------------------------------------- summary


def _summary(
    config: BenchmarkConfig, model: dict[str, Any], sqrt_kl: float | None, not_reached: bool = False
) -> dict[str, Any]:
    place = {"at": config.at, "at_sqrt_kl": sqrt_kl, "not_reached": not_reached}
    return {"model": model, **place, "scores": [], "truncated": {}}


def scores(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry a task: the mean score, weighted as the items are, with its standard error over clusters."""
    entries = []
    for _, part in table.groupby(["task", "metric"], sort=False):
        first = part.iloc[0]
        if not part.weight.any():  # a bias of answers that all say unknown
            continue
        chance = None if part.chance.isna().all() else float(part.chance.mean())
        score = ratio(part.score * part.weight, part.weight, part.cluster)
        entries.append({"task": first.task, "format": first.format, "k_shot": int(first.k_shot), "metric": first.metric,
                        "score": score, "chance": chance})  # fmt: skip
    return entries


def perplexities(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By task whose items have one continuation each: exp of the mean negative log-likelihood, lm-eval's perplexity."""
    found = {}
    for task, part in table[(table.format == "generate") & (table.loglikelihoods.str.len() == 1)].groupby("task"):
        loss = clustered_mean([-values[0] for values in part.loglikelihoods], part.cluster)
        value = float(np.exp(min(loss["value"], 700.0)))  # beyond it a float64 overflows
        found[str(task)] = {"value": value, "se": None if loss["se"] is None else value * loss["se"], "n": loss["n"]}
    return found
