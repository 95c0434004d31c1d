"""The benchmark stage: one model, or one checkpoint of a policy, on the study's tasks, item by item."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from hh_scaling.configs import BenchmarkConfig
from hh_scaling.estimates import clustered_mean, ratio
from hh_scaling.harness import Item, Question, ask, own_question, registry_question, undisturbed
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
    model = load_causal_lm(stage, config.at, config.compute)
    progress = Progress(model, context.out)
    lm = CausalLM(model, load_tokenizer(stage), config.compute, on_batch=progress.on_batch)
    with undisturbed(), lm.by_processes():
        questions = find_questions(config, context)
        items = ask_all(lm, questions, config.tasks.seed, progress)
    table = pd.DataFrame(items).astype({"chance": float})
    table.to_parquet(context.out.path / "items.parquet", index=False)
    summary = _summary(config, describe(model, config.size.name), checkpoint.get("sqrt_kl"))
    truncated = {question.name: _n_truncated(question, lm) for question in questions}
    return StageResult(summary | {"scores": scores(table), "truncated": truncated, "perplexity": perplexities(table)})


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


def find_questions(config: BenchmarkConfig, context: StageContext) -> list[Question]:
    """The study's tasks, ready to be asked; all unknown names and unusable files are found before the first one is."""
    questions = []
    for name in dict.fromkeys(config.tasks.tasks):
        if task := own_task(name):
            docs = read_documents(task, config.tasks.files, context.where, context.parents["data"])
            questions.append(own_question(task, docs, config.tasks))
        else:
            questions.append(registry_question(name, config.tasks))
    return questions


def ask_all(lm: CausalLM, questions: list[Question], seed: int, progress: Progress) -> list[Item]:
    """Items of all tasks, one task after another; NonFiniteError names the task and item of a NaN."""
    items: list[Item] = []
    total = sum(question.n_items for question in questions)
    for question in questions:
        progress.begin(question.name, len(items), question.n_items, total)
        found = ask(lm, question, seed)
        for item in found:
            if not all(map(math.isfinite, [item["score"], *item["loglikelihoods"]])):
                raise NonFiniteError(f"log-likelihood of task {item['task']}, item {item['doc_id']} is not finite")
        items += found
    return items


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
    for _, part in table.groupby("task", sort=False):
        first = part.iloc[0]
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
