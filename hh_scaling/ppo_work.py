"""What a PPO run computes in parts, by one process or by several: rollouts, and gradients of minibatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from hh_scaling.configs import PPOConfig
from hh_scaling.crew import Crew, balanced, crew_size
from hh_scaling.critic import Critic
from hh_scaling.lora import adapters, merged
from hh_scaling.losses import kl_k3, policy_loss, value_loss
from hh_scaling.models import forward_flops, micro_batches
from hh_scaling.ptx import PretrainingText, text_gradient
from hh_scaling.records import StageWriter, check_finite
from hh_scaling.rollout import (
    Sample,
    StopText,
    count_generation,
    generate,
    refresh,
    response_forward,
    sampling_copy,
    score_responses,
)
from hh_scaling.scorers import stream_seed

SUMS = ("policy_loss", "value_loss", "clip_fraction", "kl_old_new")  # over response tokens


@dataclass
class Models:
    """The trained policy with its critic, the frozen models, and text to mix in."""

    config: PPOConfig
    policy: PreTrainedModel
    critic: Critic
    reference: PreTrainedModel
    train_pm: Callable[[Sequence[Sample]], np.ndarray]
    tokenizer: Any
    stop: StopText
    text: PretrainingText | None = None

    def parameters(self) -> list[nn.Parameter]:
        return [*self.policy.parameters(), *self.critic.parameters()]

    @property
    def trained(self) -> nn.Module:
        """What of the policy is trained: all of it, or its adapters."""
        return self.policy if self.config.training.lora_rank is None else adapters(self.policy)

    def plain_policy(self) -> PreTrainedModel:
        """The policy as a model that needs no adapters."""
        return self.policy if self.config.training.lora_rank is None else merged(self.policy, self.reference)


@dataclass(frozen=True)
class Rolled:
    """Sampled responses with what was read of them; (B, R) arrays, response tokens only, 0 elsewhere."""

    samples: list[Sample]
    logprobs: np.ndarray
    values: np.ndarray
    reference: np.ndarray  # log-probabilities by the reference
    scores: np.ndarray  # (B,) of the train PM


@dataclass(frozen=True)
class Targets:
    """What a minibatch's loss is computed from: samples, and (N,) arrays over all their response tokens in order."""

    samples: list[Sample]
    logprobs: np.ndarray
    values: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.logprobs, self.values, self.advantages, self.returns

    def some(self, rows: Sequence[int]) -> Targets:
        """Of some of the samples."""
        ends = np.cumsum([len(s.response) for s in self.samples])
        parts = [np.split(x, ends[:-1]) for x in self.arrays()]
        return Targets([self.samples[i] for i in rows], *(np.concatenate([x[i] for i in rows]) for x in parts))


class Work:
    """The parts' work; every process of the crew has one, with a sampling copy of the policy of its own."""

    def __init__(self, models: Models, out: StageWriter) -> None:
        self.models, self.out = models, out
        plain = models.policy if models.config.training.lora_rank is None else models.reference
        self.sampler = sampling_copy(models.policy, plain, models.config.compute)

    def crew(self) -> Crew:
        """The processes that share the policy's weights and do this work."""
        n = crew_size(self.models.config.compute)
        return Crew(n, self.models.parameters(), rollout=self.rollout, gradient=self.gradient, text=self.text_gradient)

    def refresh(self) -> None:
        """Give the sampling copy the policy's present weights."""
        refresh(self.sampler, self.models.policy)

    def rollout(self, part: tuple[int, int, list[list[int]]]) -> tuple[Rolled, int, float]:
        """(number of the part, update, prompts) -> one scored response a prompt; tokens and operations it took."""
        number, update, prompts = part
        before = self.out.tokens, self.out.flops
        stream = "rollout" if number == 0 else f"rollout/{number}"
        samples = self.sample(prompts, stream_seed(self.models.config.seed, update, stream))
        rolled = self.read(samples)
        return rolled, self.out.tokens - before[0], self.out.flops - before[1]

    def sample(self, prompts: list[list[int]], seed: int) -> list[Sample]:
        """One response a prompt by the policy as it is now."""
        models, training = self.models, self.models.config.training
        self.refresh()
        samples = generate(
            self.sampler, prompts, rows=training.sample_rows, max_tokens=training.max_response_tokens,
            temperature=training.temperature, tokenizer=models.tokenizer, stop=models.stop,
            generator=torch.Generator(models.config.compute.device).manual_seed(seed),
        )  # fmt: skip
        count_generation(models.policy, samples, self.out)
        return samples

    def read(self, samples: list[Sample]) -> Rolled:
        """Log-probabilities by policy and reference, values, and the train PM's scores."""
        models, temperature = self.models, self.models.config.training.temperature
        old, reference = (
            score_responses(model, critic, samples, temperature, models.config.compute, self.out)
            for model, critic in ((models.policy, models.critic), (models.reference, None))
        )
        logprobs, values, references = (x.cpu().numpy() for x in (old.logprobs, old.values, reference.logprobs))
        return Rolled(samples, logprobs, values, references, models.train_pm(samples))

    def gradient(self, part: tuple[Targets, int, int]) -> list[float]:
        """Gradient of some samples' share of a loss that is a mean over ``n_tokens``; sums of its statistics."""
        targets, n_tokens, budget = part
        training, models = self.models.config.training, self.models
        totals = torch.zeros(len(SUMS))
        for group in micro_batches([len(s.ids) for s in targets.samples], budget):
            some = targets.some(group)
            logprobs, values, _ = response_forward(
                models.policy, models.critic, some.samples, training.temperature, models.config.compute, False
            )
            old, old_values, advantages, returns = (torch.from_numpy(x).to(logprobs.device) for x in some.arrays())
            surrogate = policy_loss(logprobs, old, advantages, training.clip_range)
            error = value_loss(values, old_values, returns, training.value_clip_range)
            ((surrogate.sum() + training.value_coef * error.sum()) / n_tokens).backward()
            with torch.no_grad():
                clipped = ((logprobs - old).exp() - 1).abs() > training.clip_range
                apart = kl_k3(old, logprobs)  # sampled by the old policy: it comes first
                totals += torch.stack([x.sum().cpu() for x in (surrogate, error, clipped, apart)])
        return totals.tolist()

    def text_gradient(self, part: tuple[list[list[int]], float, int]) -> float:
        """Gradient of rows of pretraining text, each token weighted alike; their summed loss."""
        rows, weight, budget = part
        return text_gradient(self.models.policy, rows, weight, budget, self.models.config.compute)


@dataclass
class Trainer:
    """Everything a PPO run holds: its models, the work that is done in parts, the prompts."""

    models: Models
    work: Work
    prompts: list[list[int]]
    out: StageWriter
    out_of_memory: dict[str, Any] | None = None  # a note of it, where micro-batches were halved

    def __post_init__(self) -> None:
        self.kl_coef = self.config.training.kl_coef  # moves where there is a target
        self.score_baseline = 0.0  # off every score that is rewarded

    @property
    def config(self) -> PPOConfig:
        return self.models.config

    @property
    def policy(self) -> PreTrainedModel:
        return self.models.policy


def roll_out(crew: Crew, prompts: Sequence[list[int]], update: int, out: StageWriter) -> Rolled:
    """One scored response a prompt, in order."""
    bounds = torch.linspace(0, len(prompts), crew.n + 1).round().int().tolist()
    spans = [list(prompts[a:b]) for a, b in zip(bounds, bounds[1:], strict=False) if b > a]
    results = crew.do("rollout", [(number, update, span) for number, span in enumerate(spans)])
    for _, tokens, flops in results[1:]:  # the first part was counted where it was done: here
        out.count(tokens, flops)
    return joined([rolled for rolled, _, _ in results])


def joined(parts: Sequence[Rolled]) -> Rolled:
    """Parts as one, one after another."""
    samples = [sample for part in parts for sample in part.samples]
    width = max(len(s.response) for s in samples)

    def rows(name: str) -> np.ndarray:
        arrays = [getattr(part, name) for part in parts]
        return np.concatenate([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in arrays])

    scores = np.concatenate([part.scores for part in parts])
    return Rolled(samples, rows("logprobs"), rows("values"), rows("reference"), scores)


def minibatch_gradient(crew: Crew, work: Work, targets: Targets, update: int) -> dict[str, float]:
    """Gradient of a minibatch's loss, a mean over its response tokens; returns its statistics, means too."""
    compute = work.models.config.compute
    lengths = [len(s.response) for s in targets.samples]
    n_tokens = sum(lengths)
    budget = max(1, compute.micro_batch_tokens // crew.n)
    groups = balanced([float(len(s.ids)) for s in targets.samples], crew.n)
    parts = [(targets.some(rows), n_tokens, budget) for rows in groups]
    results = crew.gradient("gradient", parts)
    means = {name: sum(column) / n_tokens for name, column in zip(SUMS, zip(*results, strict=True), strict=True)}
    check_finite("PPO loss", means["policy_loss"] + means["value_loss"], update)
    n_all = sum(len(s.ids) for s in targets.samples)
    flops = 3 * forward_flops(work.models.policy, n_all, n_all / len(lengths), logits=n_tokens)
    work.out.count(n_all, flops)
    work.models.critic.count(n_all, len(lengths), work.out, passes=3)
    return means


def pretraining_gradient(crew: Crew, work: Work, text: PretrainingText, step: int) -> dict[str, float]:
    """Adds ptx_coef times the gradient of the mean loss a token on the step's rows of text; that loss in nats."""
    config, rows = work.models.config, text(step)
    n_tokens = sum(len(row) - 1 for row in rows)
    weight = config.training.ptx_coef / n_tokens
    budget = max(1, config.compute.micro_batch_tokens // crew.n)
    groups = balanced([float(len(row)) for row in rows], crew.n)
    nats = crew.gradient("text", [([rows[i] for i in group], weight, budget) for group in groups])
    work.out.count(n_tokens, 3 * forward_flops(work.models.policy, n_tokens, n_tokens / len(rows)))
    return {"ptx_loss": check_finite("loss on pretraining text", sum(nats) / n_tokens, step)}
