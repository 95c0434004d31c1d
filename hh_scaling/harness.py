"""Asking tasks through lm-eval, and what comes back as one row an item.

Everything here runs with the random states of Python, numpy and torch put back afterwards: lm-eval draws from them when
it merely names a task. The project's own tasks are handed over in memory, so no data-set cache is written.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lm_eval.api.task
import numpy as np
import torch
from lm_eval.api.model import LM
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from hh_scaling.configs import BenchmarkTasks
from hh_scaling.task_rows import Doc
from hh_scaling.task_settings import WEIGHTED, Documents, settings
from hh_scaling.task_sources import LOAD_ERRORS
from hh_scaling.tasks import OWN_TASKS, OwnTask, TaskError, subset, unknown_task

FEW_SHOT_POOL = 4  # times num_fewshot: as many documents left over are enough to draw examples from
LETTER = re.compile(r"\s*\(?[A-Z][).]?\s*")
BIAS = "bias"  # of answers, a second measure beside their accuracy
RIGHT_OR_WRONG = ("acc", "acc_norm", "exact_match", "pass_at_1")  # measures of an item that is right or wrong
FORMATS = {"loglikelihood": "generate", "generate_until": "generate", "loglikelihood_rolling": "loss"}
Item = dict[str, Any]


@dataclass(frozen=True)
class Leaf:
    """One lm-eval task and which of its documents are asked. ``task`` works only inside ``undisturbed()``."""

    name: str
    task: Task
    ids: list[int]  # of the documents asked, in their file
    first_id: int = 0  # of the leaf's documents within its group
    own: OwnTask | None = None


@dataclass(frozen=True)
class Question:
    """What a study calls a task: one of lm-eval's or ours, or a group of lm-eval's with a cluster for each member."""

    name: str
    leaves: list[Leaf]

    @property
    def n_items(self) -> int:
        return sum(len(leaf.ids) for leaf in self.leaves)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Random states are put back at the end; lm-eval's bars and warnings are kept quiet."""
    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval.api.task.tqdm
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (theirs, to be put back)
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


# ---------------------------------------------------------------- our tasks


class FirstOfSubject(ContextSampler):
    """Examples that a data set has for the purpose: the first of the item's subject, in their order."""

    def sample(self, n: int, eval_doc: Doc | None = None, df: Any = None, **other: Any) -> Sequence[Doc]:
        same = [doc for doc in self.df if eval_doc is None or doc["cluster"] == eval_doc["cluster"]]
        if len(same) < n:
            subject = "all subjects" if eval_doc is None else repr(eval_doc["cluster"])
            raise TaskError(f"{len(same)} examples of {subject}; expected at least num_fewshot, {n}")
        return same[:n]


def own_question(
    task: OwnTask, docs: Sequence[Doc], config: BenchmarkTasks, examples: Sequence[Doc] | None = None
) -> Question:
    """The task over a subset of ``docs``, the same for every model and for both formats of one file.

    Few-shot examples are the first of ``examples`` of the item's subject. Without those they are drawn from the
    documents that are not asked, or, where these are too few, from the other ones that are.
    """
    strata = [str(doc.get("stratum", doc["cluster"])) for doc in docs]
    ids = subset(strata, config.limit, f"{config.seed}/{task.file}")
    asked = set(ids)
    rest = [doc for i, doc in enumerate(docs) if i not in asked]
    splits = {"test": Documents(docs[i] for i in ids), "rest": Documents(rest)}
    n_shots = config.num_fewshot if task.few_shot else 0
    # lm-eval tells a sampler of the item only where the examples' split is the item's
    pool = "rest" if examples is None and len(rest) >= FEW_SHOT_POOL * n_shots and rest else "test"
    if n_shots and examples is None and len(splits[pool]) <= n_shots:
        raise TaskError(f"task {task.name}: {len(docs)} items are too few for {n_shots} examples before each")
    places = {"custom_dataset": lambda **_: splits, "test_split": "test", "fewshot_split": pool}
    built = ConfigurableTask(config=settings(task) | places | {"num_fewshot": n_shots})
    if examples is not None and n_shots:
        built.sampler = FirstOfSubject(list(examples))
    built.set_fewshot_seed(config.seed)
    return Question(task.name, [Leaf(task.name, built, ids, own=task)])


# ---------------------------------------------------------------- lm-eval's own tasks


@functools.cache
def task_manager() -> TaskManager:
    """lm-eval's index of its own tasks; it takes seconds to build and is built once a process."""
    with undisturbed():
        return TaskManager()


def registry_question(name: str, config: BenchmarkTasks) -> Question:
    """A task, group or tag of lm-eval; TaskError in one line when it is unknown or its data cannot be had."""
    manager = task_manager()
    if name not in manager.task_index:
        raise unknown_task(name, [*manager.all_tasks, *OWN_TASKS])
    try:
        tasks = manager.load([name])["tasks"]
        sizes = {leaf: len(task.eval_docs) for leaf, task in tasks.items()}
    except LOAD_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TaskError(
            f"task {name}: its data cannot be had ({reason:.200}); allowed without the hub: world_*, local_*"
        ) from error
    ids = _registry_subset(sizes, config, name)
    leaves, first = [], 0
    for leaf, task in tasks.items():
        if task.config.num_fewshot != 0:  # a task that says 0 is meant to have none
            task.set_config("num_fewshot", config.num_fewshot)
        task.set_fewshot_seed(config.seed)
        if ids[leaf]:
            leaves.append(Leaf(leaf, task, ids[leaf], first))
        first += sizes[leaf]
    return Question(name, leaves)


def _registry_subset(sizes: dict[str, int], config: BenchmarkTasks, name: str) -> dict[str, list[int]]:
    """By leaf, the documents asked; ``limit`` counts those of the whole group."""
    places = [(leaf, i) for leaf, size in sizes.items() for i in range(size)]
    clusters = [leaf if len(sizes) > 1 else f"item {i}" for leaf, i in places]
    chosen: dict[str, list[int]] = {leaf: [] for leaf in sizes}
    for k in subset(clusters, config.limit, f"{config.seed}/{name}"):
        leaf, i = places[k]
        chosen[leaf].append(i)
    return chosen


# ---------------------------------------------------------------- asking


def ask(lm: LM, question: Question, seed: int) -> list[Item]:
    """One row an item (the columns of items.parquet), scored by lm-eval; prompts do not depend on the model."""
    return items_of(question, sample_question(lm, question, seed)["samples"])


def sample_question(lm: LM, question: Question, seed: int) -> dict[str, Any]:
    """What lm-eval gives for a question: its results, and each leaf's samples under ``samples``."""
    for leaf in question.leaves:
        leaf.task.set_fewshot_seed(seed)  # asking draws from it
    samples = {leaf.name: leaf.ids for leaf in question.leaves if leaf.own is None}
    tasks = {"tasks": {leaf.name: leaf.task for leaf in question.leaves}}
    found: dict[str, Any] = evaluate(
        lm=lm, task_dict=tasks, samples=samples or None, bootstrap_iters=0, log_samples=True
    )
    return found


def items_of(question: Question, found: Mapping[str, list[dict[str, Any]]]) -> list[Item]:
    """One row an item and measure, of each leaf's samples."""
    items = []
    for leaf in question.leaves:
        samples = found[leaf.name]
        kept = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
        items += [_item(question, leaf, name, sample) for name in _metrics(leaf, samples[0]) for sample in kept]
    if len(kinds := {(item["format"], item["k_shot"], item["metric"]) for item in items if item["metric"] != BIAS}) > 1:
        raise TaskError(
            f"task {question.name}: its members differ in what they measure ({sorted(kinds)}); name them singly"
        )
    return _of_mean_weight_1(items)


def _of_mean_weight_1(items: list[Item]) -> list[Item]:
    total, count = Counter[str](), Counter(item["metric"] for item in items)
    for item in items:
        total[item["metric"]] += item["weight"]
    means = {metric: total[metric] / n or 1.0 for metric, n in count.items()}
    return [item | {"weight": item["weight"] / means[item["metric"]]} for item in items]


def _metrics(leaf: Leaf, sample: dict[str, Any]) -> list[str]:
    """Accuracy, else bits per byte, else the first measure that is a number for each item; and the bias of answers."""
    more = [BIAS] if leaf.own and BIAS in sample["metrics"] else []
    for name in ("acc", "bits_per_byte", *sample["metrics"]):
        if name in sample["metrics"] and (name == "bits_per_byte" or isinstance(sample[name], (int, float, np.number))):
            return [str(name), *more]
    raise TaskError(
        f"task {leaf.name}: none of its measures is a number for each item ({', '.join(sample['metrics'])})"
    )


def _item(question: Question, leaf: Leaf, metric: str, sample: dict[str, Any]) -> Item:
    score, weight = sample[metric] if metric in WEIGHTED else (sample[metric], 1.0)
    if metric == "bits_per_byte":
        score, weight = -score / weight / math.log(2), float(weight)
    kind, place = leaf.task.OUTPUT_TYPE, sample["doc_id"]
    number = leaf.ids[place] if leaf.own else leaf.first_id + place
    responses = sample["filtered_resps"]
    return {
        "task": f"{question.name}_{BIAS}" if metric == BIAS else question.name,
        "format": leaf.own.format if leaf.own else _format(kind, sample),
        "k_shot": int(leaf.task.config.num_fewshot or 0),
        "metric": metric,
        "higher_is_better": bool(leaf.task.higher_is_better()[metric]),
        "chance": None if metric in WEIGHTED else _chance(kind, metric, sample),
        "doc_id": number,
        "doc_hash": sample["doc_hash"],
        "prompt_hash": sample["prompt_hash"],
        "cluster": _cluster(question, leaf, sample, number),
        "score": float(score),
        "weight": float(weight),
        "loglikelihoods": _loglikelihoods(responses),
        "greedy": [bool(response[1]) for response in responses if isinstance(response, tuple)],
        "correct": bool(score == 1) if metric in RIGHT_OR_WRONG else None,
    }


def _format(kind: str, sample: dict[str, Any]) -> str:
    """The format of a task that is not ours: *choice* where all answers are single letters."""
    letters = (
        all(LETTER.fullmatch(continuation) for _, continuation in sample["arguments"]) if kind not in FORMATS else False
    )
    return FORMATS.get(kind, "choice" if letters else "cloze")


def _chance(kind: str, metric: str, sample: dict[str, Any]) -> float | None:
    """What a model scores that knows nothing; None where that is not known."""
    if "chance" in sample["doc"]:
        return float(sample["doc"]["chance"])
    if metric == "acc" and "mc2_targets" in sample["doc"] and isinstance(sample["target"], int):
        labels = sample["doc"]["mc2_targets"]["labels"]  # lm-eval calls the mass of the true answers acc, too
        if len(labels) == len(sample["arguments"]):
            return sum(labels) / len(labels)
    if kind == "multiple_choice":
        n_right = len(sample["target"]) if isinstance(sample["target"], list) else 1
        return n_right / len(sample["arguments"]) if metric.startswith("acc") else None
    return 0.0 if metric in RIGHT_OR_WRONG else None


def _cluster(question: Question, leaf: Leaf, sample: dict[str, Any], number: int) -> str:
    if leaf.own:
        return str(sample["doc"]["cluster"])
    return leaf.name if len(question.leaves) > 1 else f"item {number}"


def _loglikelihoods(responses: Sequence[Any]) -> list[float]:
    """Of each choice, or of the one continuation or text; none for generated text."""
    values = [response[0] if isinstance(response, tuple) else response for response in responses]
    return [] if any(isinstance(value, str) for value in values) else [float(value) for value in values]
