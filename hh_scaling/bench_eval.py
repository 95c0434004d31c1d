"""Throughput of benchmark items: the stage's own way of asking against lm-eval's stock Hugging Face model, in turn."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from hh_scaling.configs import BenchmarkTasks, Compute, WorldConfig
from hh_scaling.estimates import clustered_mean
from hh_scaling.harness import Item, Question, ask, own_question, registry_question, undisturbed
from hh_scaling.inputs import find_files, input_file, plain_name
from hh_scaling.lm import CausalLM
from hh_scaling.models import load_pretrained, set_up, with_pad_token
from hh_scaling.tasks import needed_files, own_task, read_documents
from hh_scaling.world import World

STOCK_BATCHES = (8, 16, 32, 64)
WARM_ITEMS = 32  # asked before the clock runs: kernels are made at the first use of a shape


@dataclass
class Sides:
    """The same weights behind both interfaces."""

    model: Any
    stock_model: Any  # the same object in float32
    tokenizer: Any
    compute: Compute

    def ours(self, question: Question, seed: int) -> list[Item]:
        """Items as the benchmark stage asks for them."""
        lm = CausalLM(self.model, self.tokenizer, self.compute)
        with lm.by_processes():
            return ask(lm, question, seed)

    def stock(self, question: Question, seed: int, batch: int) -> list[Item]:
        """Items by lm-eval's own Hugging Face model, its progress bars unseen."""
        with contextlib.redirect_stderr(io.StringIO()):
            lm = HFLM(pretrained=self.stock_model, tokenizer=copy.deepcopy(self.tokenizer), batch_size=batch)
            return ask(lm, question, seed)


@dataclass
class Race:
    """One task's seconds of both sides, and how far their log-likelihoods are apart."""

    n_items: int
    ours: list[float] = field(default_factory=list)
    stock: dict[int, list[float]] = field(default_factory=dict)  # by batch size
    max_difference: float = 0.0  # nats a sequence
    n_scores_differ: int = 0
    scores: dict[str, list[float]] = field(default_factory=dict)  # of each side's items

    @property
    def batch(self) -> int:
        """The stock side's fastest batch size."""
        return min(self.stock, key=lambda batch: min(self.stock[batch]))

    def describe(self) -> dict[str, Any]:
        """Items a second of both sides in their best rounds, the ratio of these, and the ratios round by round.

        Best rounds, since what disturbs a busy machine hits several threads in step harder than single ones.
        """
        ours, stock = min(self.ours), min(self.stock[self.batch])
        ratios = [theirs / mine for mine, theirs in zip(self.ours, self.stock[self.batch], strict=False)]
        return {
            "n_items": self.n_items, "items_per_s": {"ours": self.n_items / ours, "stock": self.n_items / stock},
            "ratio": stock / ours, "ratio_low": min(ratios), "ratio_high": max(ratios),
            "n_rounds": len(ratios), "stock_batch": self.batch, "max_difference": self.max_difference,
            "n_scores_differ": self.n_scores_differ,
            "score": {side: clustered_mean(scores) for side, scores in self.scores.items()},
            "stock_seconds": {str(batch): min(seconds) for batch, seconds in self.stock.items()},
        }  # fmt: skip


def bench_eval(
    model: Path, tokenizer: Path, tasks: Sequence[str], files: Path | None, limit: int | None, rounds: int,
    compute: Compute, batches: Sequence[int] = STOCK_BATCHES,
) -> dict[str, Any]:  # fmt: skip
    """Ask the tasks' items of the stock model and of ours and say how many items a second each answers, and how well.

    The first round tries every one of ``batches`` of the stock model, the others its fastest alone. Time is
    that of the whole call of lm-eval's evaluator: prompts, tokens, scores and metrics. TaskError for tasks that cannot
    be asked.
    """
    set_up(compute)
    loaded = load_pretrained(AutoModelForCausalLM, str(model), attn_implementation=compute.attention)
    loaded = loaded.to(compute.device)
    stock = copy.deepcopy(loaded).to(torch.bfloat16) if compute.dtype == "bf16" else loaded
    sides = Sides(loaded, stock, with_pad_token(AutoTokenizer.from_pretrained(str(tokenizer))), compute)
    with undisturbed(), tempfile.TemporaryDirectory() as folder:
        pairs = [(find_questions(tasks, files, n, Path(folder))) for n in (limit, min(limit or WARM_ITEMS, WARM_ITEMS))]
        races = {
            question.name: race(sides, question, warm, rounds, batches) for question, warm in zip(*pairs, strict=True)
        }
    found = {name: run.describe() for name, run in races.items()}
    n_items = sum(run.n_items for run in races.values())
    seconds = {side: sum(entry["n_items"] / entry["items_per_s"][side] for entry in found.values())
               for side in ("ours", "stock")}  # fmt: skip
    return {
        "model": model.name, "n_items": n_items,
        "items_per_s": {side: n_items / total for side, total in seconds.items()},
        "ratio": seconds["stock"] / seconds["ours"],
        "max_difference": max(run.max_difference for run in races.values()),
        "dtype": compute.dtype, "threads": compute.threads, "tasks": found,
    }  # fmt: skip


def find_questions(tasks: Sequence[str], files: Path | None, limit: int | None, folder: Path) -> list[Question]:
    """The tasks as a study has them, ``local_*`` over ``files``, the world's over its default, made in ``folder``."""
    needed = needed_files(tasks)
    found = [] if files is None else [path for path in find_files(files) if plain_name(path.name) in needed]
    inputs = {input_file(path): path for path in found}
    config = BenchmarkTasks(tasks=tuple(tasks), files=tuple(inputs), limit=limit)
    where = {file.name: str(path) for file, path in inputs.items()}
    write_world(tasks, folder)
    questions = []
    for name in dict.fromkeys(tasks):
        task = own_task(name)
        if task is None:
            questions.append(registry_question(name, config))
        else:
            questions.append(own_question(task, read_documents(task, config.files, where, folder), config))
    return questions


def write_world(tasks: Sequence[str], folder: Path) -> None:
    """The world's items as the data stage writes them, where a task asks for them."""
    if any(name.startswith("world_") for name in tasks):
        (folder / "tasks").mkdir(exist_ok=True)
        for task, items in World(WorldConfig()).tasks().items():
            lines = [json.dumps(item) + "\n" for item in items]
            (folder / "tasks" / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")


def race(sides: Sides, question: Question, warm: Question, rounds: int, batches: Sequence[int], seed: int = 0) -> Race:
    """The task asked of both sides in turn, after a few items that are not counted."""
    run = Race(question.n_items)
    for batch in batches:
        sides.stock(warm, seed, batch)
    sides.ours(warm, seed)
    for turn in range(rounds):
        started = time.perf_counter()
        mine = sides.ours(question, seed)
        run.ours.append(time.perf_counter() - started)
        for batch in batches if turn == 0 else (run.batch,):
            started = time.perf_counter()
            theirs = sides.stock(question, seed, batch)
            run.stock.setdefault(batch, []).append(time.perf_counter() - started)
            compare(run, mine, theirs)
    return run


def compare(run: Race, mine: list[Item], theirs: list[Item]) -> None:
    """Note the largest difference of log-likelihoods and how many scores differ."""
    for one, other in zip(mine, theirs, strict=True):
        pairs = zip(one["loglikelihoods"], other["loglikelihoods"], strict=True)
        run.max_difference = max(run.max_difference, *(abs(a - b) for a, b in pairs), 0.0)
    run.scores = {"ours": [item["score"] for item in mine], "stock": [item["score"] for item in theirs]}
    differ = sum(one["score"] != other["score"] for one, other in zip(mine, theirs, strict=True))
    run.n_scores_differ = max(run.n_scores_differ, differ)
