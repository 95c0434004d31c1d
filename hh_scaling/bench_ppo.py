"""Throughput of PPO: the stage's own updates on given models, prompts as token ids, and lengths."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hh_scaling import ppo
from hh_scaling.bench_pm import product_rate
from hh_scaling.configs import Compute, PPOConfig, PPOTraining, SizeSpec
from hh_scaling.crew import crew_size
from hh_scaling.critic import zero_critic
from hh_scaling.inputs import DataError
from hh_scaling.models import check_length, forward_flops, load_pretrained, set_up
from hh_scaling.ppo_work import Models, Rolled, Targets, Work
from hh_scaling.records import StageWriter
from hh_scaling.rollout import Sample, StopText
from hh_scaling.training import make_optimizer
from hh_scaling.tree_scores import TreeScores, chains, score_trees


class NoStop(StopText):
    """Every response has full length."""

    def __init__(self, vocab_size: int) -> None:
        self.ends, self.may_end = torch.tensor([], dtype=torch.long), torch.zeros(vocab_size, dtype=torch.bool)


class TimedWork(Work):
    """The work with the seconds of its phases, as this process sees them."""

    def __init__(self, models: Models, out: StageWriter) -> None:
        super().__init__(models, out)
        self.seconds: dict[str, float] = defaultdict(float)
        self.gradient_flops = 0.0

    def sample(self, prompts: list[list[int]], seed: int) -> list[Sample]:
        started = time.perf_counter()
        samples = super().sample(prompts, seed)
        self.seconds["sample"] += time.perf_counter() - started
        return samples

    def read(self, samples: list[Sample]) -> Rolled:
        started = time.perf_counter()
        rolled = super().read(samples)
        self.seconds["read"] += time.perf_counter() - started
        return rolled

    def gradient(self, part: tuple[Targets, int, int]) -> list[float]:
        started = time.perf_counter()
        sums = super().gradient(part)
        self.seconds["gradient"] += time.perf_counter() - started
        lengths = [len(s.ids) for s in part[0].samples]
        n_tokens, n_logits = sum(lengths), len(part[0].logprobs)
        self.gradient_flops += 3 * forward_flops(self.models.policy, n_tokens, n_tokens / len(lengths), n_logits)
        return sums


def bench_ppo(
    model: Path, reward_model: Path, prompts: Path, batch: int, response_length: int, epochs: int, updates: int,
    compute: Compute,
) -> dict[str, Any]:  # fmt: skip
    """Make ``updates`` updates, each of one step an epoch on the whole batch, and say how fast; responses never end.

    Seconds of phases are the leading process's own; the rest of an update is optimiser steps and waiting. The share
    of a product that gradients run at is that process's own too, of one thread's part of the product's rate.
    """
    set_up(compute)
    training = PPOTraining(
        n_updates=updates, batch_size=batch, minibatch_size=batch, n_epochs=epochs, sample_rows=batch,
        max_prompt_tokens=1, max_response_tokens=response_length, kl_coef=0.01,
    )  # fmt: skip
    config = PPOConfig(size=SizeSpec(name=model.name), seed=0, training=training, compute=compute)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(config, model, reward_model, read_prompts(prompts), StageWriter(Path(folder)))
        work = trainer.work
        assert isinstance(work, TimedWork)
        optimizer = make_optimizer(trainer.models.parameters(), training.schedule)
        with work.crew() as crew:
            started = time.perf_counter()
            rows = [ppo.update_policy(trainer, optimizer, crew, update) for update in range(updates)]
            seconds = time.perf_counter() - started
    peak = product_rate(compute)
    gradient_rate = work.gradient_flops / work.seconds["gradient"] * crew_size(compute)
    return {
        "model": model.name, "batch": batch, "updates": updates, "sec_per_update": seconds / updates,
        "response_tok_per_s": batch * response_length * updates / seconds,
        "phases": {name: total / updates for name, total in work.seconds.items()},
        "flop_per_s": trainer.out.flops / seconds, "product_flop_per_s": peak,
        "share_of_product": trainer.out.flops / seconds / peak,
        "gradient_share_of_product": gradient_rate / peak, "dtype": compute.dtype, "threads": compute.threads,
        "micro_batch_tokens": compute.micro_batch_tokens, "kl_k1": [row["kl_k1"] for row in rows],
    }  # fmt: skip


def build(
    config: PPOConfig, model: Path, reward_model: Path, prompts: list[list[int]], out: StageWriter
) -> ppo.Trainer:
    """Policy and reference from one folder, a value head that starts at zero, a PM of the same token ids."""
    compute = config.compute
    policy, reference = (load_pretrained(AutoModelForCausalLM, str(model)).to(compute.device) for _ in range(2))
    pm = load_pretrained(AutoModelForSequenceClassification, str(reward_model), num_labels=1).to(compute.device)
    length = max(map(len, prompts)) + config.training.max_response_tokens
    for loaded in (policy, pm):
        check_length(loaded, length, "prompt and response")
    critic = zero_critic(policy.config.hidden_size, compute.device)
    scores = TreeScores(pm.requires_grad_(False), compute)

    def score(samples: Sequence[Sample]) -> np.ndarray:
        found: np.ndarray = score_trees(scores, chains([s.ids for s in samples]), out).squeeze(1).numpy()
        return found

    stop, tokenizer = NoStop(policy.config.vocab_size), SimpleNamespace(pad_token_id=0)
    models = Models(config, policy, critic, reference.requires_grad_(False), score, tokenizer, stop)
    return ppo.Trainer(models, TimedWork(models, out), prompts, out)


def read_prompts(path: Path) -> list[list[int]]:
    """A JSON list of lists of token ids."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        ids = [[int(token) for token in row] for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a JSON list of lists of token ids ({error})") from error
    if not ids or not all(ids):
        raise DataError(f"{path}: {len(ids)} prompts, needed: at least one, and none of them empty")
    return ids
