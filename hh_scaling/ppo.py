"""The PPO stage: a policy trained against the train PM, measured along the way on fixed held-out prompts.

Reward: the PM's score once, at the response's last token, and -kl_coef * (ln policy - ln reference) at every token
(Bai et al. 2022, section 4.1 and appendix B.1). One trunk serves policy and value head.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hh_scaling.configs import BestOfNConfig, PPOConfig, checkpoint_name
from hh_scaling.crew import Crew
from hh_scaling.data import gold_scorer
from hh_scaling.losses import (
    gae,
    kl_k1,
    masked_whiten,
    token_rewards,
)
from hh_scaling.models import (
    check_length,
    describe,
    load_causal_lm,
    load_tokenizer,
    set_up,
)
from hh_scaling.pairs import encode
from hh_scaling.policy_eval import Evaluation, Evaluator, Measures
from hh_scaling.ppo_work import Models, Targets, Work, minibatch_gradient, roll_out, zero_value_head
from hh_scaling.pretrain import save_model
from hh_scaling.records import StageWriter, check_finite, damaged_files, manifest, write_json
from hh_scaling.rollout import (
    Sample,
    StopText,
    end_tokens,
    response_mask,
)
from hh_scaling.scorers import load_pm_scorer, stream_seed
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training import (
    Stopwatch,
    apply_step,
    learning_rate,
    load_training_state,
    make_optimizer,
    save_training_state,
)


@dataclass
class Trainer:
    """Everything a PPO run holds: its models, the work that is done in parts, the prompts."""

    models: Models
    work: Work
    prompts: list[list[int]]
    out: StageWriter

    @property
    def config(self) -> PPOConfig:
        return self.models.config

    @property
    def policy(self) -> PreTrainedModel:
        return self.models.policy


@dataclass(frozen=True)
class Batch:
    """A rollout with its targets; all tensors (B, R), response tokens only."""

    samples: list[Sample]
    mask: Tensor
    logprobs: Tensor  # by the policy that sampled
    values: Tensor
    advantages: Tensor
    returns: Tensor
    stats: dict[str, float]

    def targets(self, rows: list[int]) -> Targets:
        """Of the samples of a minibatch."""
        index = torch.tensor(rows)
        mask = self.mask[index]
        tensors = (self.logprobs, self.values, self.advantages, self.returns)
        return Targets([self.samples[i] for i in rows], *(x[index][mask].numpy() for x in tensors))


def run(config: PPOConfig, context: StageContext) -> StageResult:
    """Train the policy, keep checkpoints on the wanted grid of √KL and at the end, and write every evaluation."""
    set_up(config.compute)
    trainer, evaluator = build(config, context)
    diverged = train_policy(trainer, evaluator)
    out = context.out
    save_model(trainer.policy, trainer.models.tokenizer, out.path / "model")
    last = evaluator.history[-1]
    end = {"name": "end", "step": last.step, "samples": last.samples, "path": "model", **last.kl_entry()}
    write_json(out.path / "checkpoints.json", [*evaluator.kept, end])
    evaluator.save(out.path)
    kept_at = {entry["name"]: entry["step"] for entry in evaluator.kept}
    reached = {str(float(k)): kept_at.get(checkpoint_name(k)) for k in config.training.keep_sqrt_kl}
    summary = {
        "model": describe(trainer.policy, config.size.name),
        "n_updates": last.step,
        "samples": last.samples,
        "final": last.metrics,
        "reached": reached,
        "note": diverged,
        **evaluator.measures.describe(),
    }
    return StageResult(summary, "diverged" if diverged else "done")


def build(config: PPOConfig, context: StageContext) -> tuple[Trainer, Evaluator]:
    """Load the models and tokenise the prompts."""
    parents, compute, training = context.parents, config.compute, config.training
    tokenizer = load_tokenizer(parents["policy"])
    policy = load_causal_lm(parents["policy"], compute=compute)
    reference = load_causal_lm(parents["policy"], compute=compute).requires_grad_(False)
    value_head = zero_value_head(policy, compute.device)
    measures = load_measures(config, context, tokenizer)
    check_length(policy, training.max_prompt_tokens + training.max_response_tokens, "ppo: prompt and response")
    table = pd.read_parquet(parents["data"] / "prompts.parquet").sort_values("order")
    prompts = encode_prompts(tokenizer, list(table[table.split == "train"].prompt), training.max_prompt_tokens)
    stop = StopText(tokenizer, policy.config.vocab_size, end_tokens(tokenizer, policy))
    models = Models(config, policy, value_head, reference, measures.pms["pm_train"], tokenizer, stop)
    trainer = Trainer(models, Work(models, context.out), prompts, context.out)
    held_out = table[table.split == "held_out"].head(training.n_eval_prompts)
    evaluator = Evaluator(
        config, tokenizer, stop, held_out, encode_prompts(tokenizer, list(held_out.prompt), training.max_prompt_tokens),
        reference, measures, context.out,
    )  # fmt: skip
    return trainer, evaluator


def load_measures(config: PPOConfig | BestOfNConfig, context: StageContext, tokenizer: Any) -> Measures:
    """What scores responses: the PMs among the parents, each model loaded once, and the world where it gives gold."""
    stages = {role: stage for role, stage in context.parents.items() if role.startswith("pm_")}
    folders = dict.fromkeys(stages.values())
    loaded = {folder: load_pm_scorer(folder, tokenizer, config.compute, context.out) for folder in folders}
    exact = gold_scorer(context.parents["data"]) if config.world_gold and "pm_gold" not in stages else None
    return Measures({role: loaded[stage] for role, stage in stages.items()}, stages, exact)


def encode_prompts(tokenizer: Any, prompts: list[str], limit: int) -> list[list[int]]:
    """Token ids of the prompts; longer ones lose their beginning."""
    return [row[-limit:] for row in encode(tokenizer, prompts)]


# ---------------------------------------------------------------- the loop


def train_policy(trainer: Trainer, evaluator: Evaluator) -> str | None:
    """PPO (Bai et al. 2022, section 4); returns why the policy is called diverged, or None."""
    optimizer = make_optimizer(trainer.models.parameters(), trainer.config.training.schedule)
    first = resume(trainer, evaluator, optimizer)
    with trainer.work.crew() as crew:
        return run_updates(trainer, evaluator, optimizer, crew, first)


def run_updates(
    trainer: Trainer, evaluator: Evaluator, optimizer: torch.optim.AdamW, crew: Crew, first: int
) -> str | None:
    """The updates from ``first`` on, with evaluations on the way and at the end."""
    training, out = trainer.config.training, trainer.out
    stopwatch = Stopwatch(training.checkpoint_seconds)
    for update in range(first, training.n_updates):
        due = update % training.eval_every == 0 and not evaluator.has(update)
        if due and (reason := evaluate(trainer, evaluator, crew, update)):
            return reason
        stats = update_policy(trainer, optimizer, crew, update)
        samples = (update + 1) * training.batch_size
        out.log({"type": "update", "step": update + 1, "samples": samples, **stats})
        out.progress(update + 1, training.n_updates, f"score {stats['score']:.2f} KL {stats['kl_k1']:.2f}")
        if stopwatch.due():
            save_run_state(trainer, evaluator, optimizer, update)
    return evaluate(trainer, evaluator, crew, training.n_updates)


def evaluate(trainer: Trainer, evaluator: Evaluator, crew: Crew, update: int) -> str | None:
    """Measure the policy on the held-out prompts, keep it where that is wanted; says why it is called diverged."""
    trainer.work.refresh()
    with crew.resting():
        evaluation = evaluator.evaluate(trainer.policy, trainer.work.sampler, update)
    return keep_or_stop(trainer, evaluator, evaluation)


def update_policy(trainer: Trainer, optimizer: torch.optim.AdamW, crew: Crew, update: int) -> dict[str, float]:
    """A rollout and its epochs of minibatch steps; returns the rollout's and the last step's statistics."""
    config, training = trainer.config, trainer.config.training
    batch = collect(trainer, crew, update)
    rate = learning_rate(training.schedule, trainer.policy.config.hidden_size, update, training.n_updates)
    stats: dict[str, float] = {}
    for rows in minibatches(training.batch_size, training.minibatch_size, training.n_epochs, config.seed, update):
        stats = minibatch_gradient(crew, trainer.work, batch.targets(rows), update)
        stats["grad_norm"] = apply_step(optimizer, training.schedule, rate, update)
    return {**batch.stats, **stats, "lr": rate}


def minibatches(batch_size: int, size: int, n_epochs: int, seed: int, update: int) -> list[list[int]]:
    """Sample indices of each minibatch: a fresh permutation every epoch, each sample once an epoch."""
    rng = np.random.default_rng(stream_seed(seed, update, "minibatches"))
    orders = [rng.permutation(batch_size) for _ in range(n_epochs)]
    return [list(part) for order in orders for part in np.array_split(order, max(1, batch_size // size))]


def collect(trainer: Trainer, crew: Crew, update: int) -> Batch:
    """Sample one response a prompt, score it, and compute rewards, advantages and returns."""
    config, training = trainer.config, trainer.config.training
    prompts = update_prompts(trainer.prompts, training.batch_size, config.seed, update)
    rolled = roll_out(crew, prompts, update, trainer.out)
    samples, scores = rolled.samples, torch.from_numpy(rolled.scores)
    mask = response_mask(samples)
    logprobs, values, reference = map(torch.from_numpy, (rolled.logprobs, rolled.values, rolled.reference))
    check_finite("score", float(scores.sum()), update)
    penalised = scores - training.missing_eos_penalty * torch.tensor([not s.ended for s in samples]).to(scores)
    kl = kl_k1(logprobs, reference) * mask
    rewards = token_rewards(penalised, kl, mask, training.kl_coef)
    advantages = gae(rewards, values, mask, training.gamma, training.gae_lambda)
    returns = (advantages + values) * mask
    stats = {
        "score": scores.mean().item(),
        "kl_k1": kl.sum(1).mean().item(),
        "length": float(np.mean([len(s.response) for s in samples])),
        "ended": float(np.mean([s.ended for s in samples])),
    }
    return Batch(samples, mask, logprobs, values, masked_whiten(advantages, mask), returns, stats)


def update_prompts(prompts: list[list[int]], batch_size: int, seed: int, update: int) -> list[list[int]]:
    """The prompts of one update: but for a remainder smaller than a batch, all are used before one comes again."""
    per_pass = max(1, len(prompts) // batch_size)
    rng = np.random.default_rng(stream_seed(seed, update // per_pass, "prompts"))
    order = np.resize(rng.permutation(len(prompts)), per_pass * batch_size)
    start = (update % per_pass) * batch_size
    return [prompts[i] for i in order[start : start + batch_size]]


# ---------------------------------------------------------------- checkpoints and resuming


def keep_or_stop(trainer: Trainer, evaluator: Evaluator, evaluation: Evaluation) -> str | None:
    """Keep a checkpoint at the first evaluation past each wanted √KL; say why if the policy has diverged.

    The √KL reached is recorded beside the one wanted: it overshoots by up to what an interval of evaluations adds.
    """
    training = trainer.config.training
    for wanted in training.keep_sqrt_kl:
        name = checkpoint_name(wanted)
        if evaluation.sqrt_kl >= wanted and all(entry["name"] != name for entry in evaluator.kept):
            folder = trainer.out.path / "checkpoints" / name
            save_model(trainer.policy, trainer.models.tokenizer, folder)
            entry = {"name": name, "step": evaluation.step, "samples": evaluation.samples, **evaluation.kl_entry()}
            entry |= {"wanted": wanted, "path": f"checkpoints/{name}", "files": manifest(folder)}
            evaluator.kept.append(entry)
    return evaluator.why_diverged()


def save_run_state(trainer: Trainer, evaluator: Evaluator, optimizer: torch.optim.AdamW, update: int) -> None:
    """Weights, optimiser and all evaluations so far; random streams are functions of seed and update."""
    extra = {"kept": evaluator.kept, "history": [e.to_json() for e in evaluator.history]}
    with trainer.out.save_state(update + 1, extra) as folder:
        head = {f"value_head.{k}": v for k, v in trainer.models.value_head.state_dict().items()}
        save_training_state(folder, trainer.policy, optimizer, **head)
        evaluator.save(folder)


def resume(trainer: Trainer, evaluator: Evaluator, optimizer: torch.optim.AdamW) -> int:
    """The first update still to be made; restores policy, value head, optimiser, evaluations and checkpoints."""
    if (found := trainer.out.resume(checkpoints_whole)) is None:
        return 0
    folder, meta = found
    extra = load_training_state(folder, trainer.policy, optimizer)
    trainer.models.value_head.load_state_dict({k.removeprefix("value_head."): v for k, v in extra.items()})
    evaluator.restore(folder, meta["extra"])
    attempt = folder.parent.parent
    for entry in evaluator.kept:
        shutil.copytree(attempt / entry["path"], trainer.out.path / entry["path"])
    return int(meta["step"])


def checkpoints_whole(state: Path, meta: Mapping[str, Any]) -> bool:
    """Whether the checkpoints that a saved state counts on are undamaged in its attempt."""
    attempt = state.parent.parent
    return not any(damaged_files(attempt / entry["path"], entry["files"]) for entry in meta["extra"]["kept"])
