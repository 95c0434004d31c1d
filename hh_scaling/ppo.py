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
from torch import Tensor, nn
from transformers import PreTrainedModel

from hh_scaling.configs import PPOConfig, checkpoint_name
from hh_scaling.data import gold_scorer
from hh_scaling.losses import (
    gae,
    kl_k1,
    kl_k3,
    masked_whiten,
    policy_loss,
    token_rewards,
    value_loss,
)
from hh_scaling.models import (
    check_length,
    describe,
    forward_flops,
    load_causal_lm,
    load_tokenizer,
    micro_batches,
    set_up,
)
from hh_scaling.pairs import encode
from hh_scaling.policy_eval import Evaluation, Evaluator, Measures
from hh_scaling.pretrain import save_model
from hh_scaling.records import StageWriter, check_finite, damaged_files, manifest, write_json
from hh_scaling.rollout import (
    Sample,
    Scored,
    StopText,
    count_generation,
    end_tokens,
    generate,
    refresh,
    response_forward,
    sampling_copy,
    score_responses,
)
from hh_scaling.scorers import ForeignPMScorer, PMScorer, load_pm_scorer, stream_seed
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
    """Everything a PPO run holds: the trained policy with its value head, and the frozen models."""

    config: PPOConfig
    policy: PreTrainedModel
    value_head: nn.Linear
    reference: PreTrainedModel
    train_pm: PMScorer | ForeignPMScorer
    tokenizer: Any
    stop: StopText
    prompts: list[list[int]]
    out: StageWriter

    def parameters(self) -> list[nn.Parameter]:
        return [*self.policy.parameters(), *self.value_head.parameters()]


@dataclass(frozen=True)
class Batch:
    """A rollout with its targets; all tensors (B, R), response tokens only."""

    samples: list[Sample]
    old: Scored
    advantages: Tensor
    returns: Tensor
    stats: dict[str, float]


def run(config: PPOConfig, context: StageContext) -> StageResult:
    """Train the policy, keep checkpoints on the wanted grid of √KL and at the end, and write every evaluation."""
    set_up(config.compute)
    trainer, evaluator = build(config, context)
    diverged = train_policy(trainer, evaluator)
    out = context.out
    save_model(trainer.policy, trainer.tokenizer, out.path / "model")
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
    value_head = nn.Linear(policy.config.hidden_size, 1).to(compute.device)
    nn.init.zeros_(value_head.weight)
    nn.init.zeros_(value_head.bias)
    measures = load_measures(config, context, tokenizer)
    check_length(policy, training.max_prompt_tokens + training.max_response_tokens, "ppo: prompt and response")
    table = pd.read_parquet(parents["data"] / "prompts.parquet").sort_values("order")
    prompts = encode_prompts(tokenizer, list(table[table.split == "train"].prompt), training.max_prompt_tokens)
    stop = StopText(tokenizer, policy.config.vocab_size, end_tokens(tokenizer, policy))
    train_pm = measures.pms["pm_train"]
    trainer = Trainer(config, policy, value_head, reference, train_pm, tokenizer, stop, prompts, context.out)
    held_out = table[table.split == "held_out"].head(training.n_eval_prompts)
    evaluator = Evaluator(
        config, tokenizer, stop, held_out, encode_prompts(tokenizer, list(held_out.prompt), training.max_prompt_tokens),
        reference, measures, context.out,
    )  # fmt: skip
    return trainer, evaluator


def load_measures(config: PPOConfig, context: StageContext, tokenizer: Any) -> Measures:
    """What scores responses: the PMs among the parents, each model loaded once, and the world where it gives gold."""
    stages = {role: context.parents[role] for role in ("pm_train", "pm_test", "pm_gold") if role in context.parents}
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
    config, training, out = trainer.config, trainer.config.training, trainer.out
    optimizer = make_optimizer(trainer.parameters(), training.schedule)
    sampler = sampling_copy(trainer.policy, config.compute)
    first, stopwatch = resume(trainer, evaluator, optimizer), Stopwatch(training.checkpoint_seconds)
    for update in range(first, training.n_updates):
        refresh(sampler, trainer.policy)
        if update % training.eval_every == 0 and not evaluator.has(update):
            evaluation = evaluator.evaluate(trainer.policy, sampler, update)
            if reason := keep_or_stop(trainer, evaluator, evaluation):
                return reason
        batch = collect(trainer, sampler, update)
        rate = learning_rate(training.schedule, trainer.policy.config.hidden_size, update, training.n_updates)
        stats = {}
        for minibatch in minibatches(
            training.batch_size, training.minibatch_size, training.n_epochs, config.seed, update
        ):
            stats = ppo_step(trainer, batch, minibatch, update)
            stats["grad_norm"] = apply_step(optimizer, training.schedule, rate, update)
        samples = (update + 1) * training.batch_size
        out.log({"type": "update", "step": update + 1, "samples": samples, **batch.stats, **stats, "lr": rate})
        out.progress(update + 1, training.n_updates, f"score {batch.stats['score']:.2f} KL {batch.stats['kl_k1']:.2f}")
        if stopwatch.due():
            save_run_state(trainer, evaluator, optimizer, update)
    refresh(sampler, trainer.policy)
    return keep_or_stop(trainer, evaluator, evaluator.evaluate(trainer.policy, sampler, training.n_updates))


def minibatches(batch_size: int, size: int, n_epochs: int, seed: int, update: int) -> list[list[int]]:
    """Sample indices of each minibatch: a fresh permutation every epoch, each sample once an epoch."""
    rng = np.random.default_rng(stream_seed(seed, update, "minibatches"))
    orders = [rng.permutation(batch_size) for _ in range(n_epochs)]
    return [list(part) for order in orders for part in np.array_split(order, max(1, batch_size // size))]


def collect(trainer: Trainer, sampler: PreTrainedModel, update: int) -> Batch:
    """Sample one response a prompt, score it, and compute rewards, advantages and returns."""
    config, training = trainer.config, trainer.config.training
    generator = torch.Generator(config.compute.device).manual_seed(stream_seed(config.seed, update, "rollout"))
    samples = generate(
        sampler, update_prompts(trainer.prompts, training.batch_size, config.seed, update),
        rows=training.sample_rows, max_tokens=training.max_response_tokens, temperature=training.temperature,
        tokenizer=trainer.tokenizer, stop=trainer.stop, generator=generator,
    )  # fmt: skip
    count_generation(trainer.policy, samples, trainer.out)
    score = lambda model, head: score_responses(model, head, samples, training.temperature, config.compute, trainer.out)  # noqa: E731
    old, ref = score(trainer.policy, trainer.value_head), score(trainer.reference, None)
    scores = torch.from_numpy(trainer.train_pm(samples)).to(old.mask.device)
    check_finite("score", float(scores.sum()), update)
    penalised = scores - training.missing_eos_penalty * torch.tensor([not s.ended for s in samples]).to(scores)
    kl = kl_k1(old.logprobs, ref.logprobs) * old.mask
    rewards = token_rewards(penalised, kl, old.mask, training.kl_coef)
    advantages = gae(rewards, old.values, old.mask, training.gamma, training.gae_lambda)
    returns = (advantages + old.values) * old.mask
    stats = {
        "score": scores.mean().item(),
        "kl_k1": kl.sum(1).mean().item(),
        "length": float(np.mean([len(s.response) for s in samples])),
        "ended": float(np.mean([s.ended for s in samples])),
    }
    return Batch(samples, old, masked_whiten(advantages, old.mask), returns, stats)


def update_prompts(prompts: list[list[int]], batch_size: int, seed: int, update: int) -> list[list[int]]:
    """The prompts of one update: but for a remainder smaller than a batch, all are used before one comes again."""
    per_pass = max(1, len(prompts) // batch_size)
    rng = np.random.default_rng(stream_seed(seed, update // per_pass, "prompts"))
    order = np.resize(rng.permutation(len(prompts)), per_pass * batch_size)
    start = (update % per_pass) * batch_size
    return [prompts[i] for i in order[start : start + batch_size]]


def ppo_step(trainer: Trainer, batch: Batch, indices: list[int], update: int) -> dict[str, float]:
    """Gradient of one minibatch's loss, a mean over its response tokens, in micro-batches; returns its statistics."""
    training, compute = trainer.config.training, trainer.config.compute
    n_tokens = int(batch.old.mask[torch.tensor(indices)].sum())
    totals = {"policy_loss": 0.0, "value_loss": 0.0, "clip_fraction": 0.0, "kl_old_new": 0.0}
    for group in micro_batches([len(batch.samples[i].ids) for i in indices], compute.micro_batch_tokens):
        rows = torch.tensor([indices[i] for i in group])
        mask = batch.old.mask[rows]
        old_logprobs, old_values, advantages, returns = (
            x[rows][mask] for x in (batch.old.logprobs, batch.old.values, batch.advantages, batch.returns)
        )
        samples = [batch.samples[i] for i in rows]
        logprobs, values, _ = response_forward(
            trainer.policy, trainer.value_head, samples, training.temperature, compute, with_entropy=False
        )
        surrogate = policy_loss(logprobs, old_logprobs, advantages, training.clip_range)
        error = value_loss(values, old_values, returns, training.value_clip_range)
        loss = (surrogate.sum() + training.value_coef * error.sum()) / n_tokens
        check_finite("PPO loss", loss.item(), update)
        loss.backward()
        with torch.no_grad():
            ratio = (logprobs - old_logprobs).exp()
            totals["policy_loss"] += surrogate.sum().item()
            totals["value_loss"] += error.sum().item()
            totals["clip_fraction"] += ((ratio - 1).abs() > training.clip_range).sum().item()
            totals["kl_old_new"] += (
                kl_k3(old_logprobs, logprobs).sum().item()
            )  # sampled by the old policy: it comes first
        n_all = sum(len(s.ids) for s in samples)
        flops = 3 * forward_flops(trainer.policy, n_all, n_all / len(samples), logits=len(logprobs))
        trainer.out.count(n_all, flops)
    return {name: total / n_tokens for name, total in totals.items()}


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
            save_model(trainer.policy, trainer.tokenizer, folder)
            entry = {"name": name, "step": evaluation.step, "samples": evaluation.samples, **evaluation.kl_entry()}
            entry |= {"wanted": wanted, "path": f"checkpoints/{name}", "files": manifest(folder)}
            evaluator.kept.append(entry)
    return evaluator.why_diverged()


def save_run_state(trainer: Trainer, evaluator: Evaluator, optimizer: torch.optim.AdamW, update: int) -> None:
    """Weights, optimiser and all evaluations so far; random streams are functions of seed and update."""
    extra = {"kept": evaluator.kept, "history": [e.to_json() for e in evaluator.history]}
    with trainer.out.save_state(update + 1, extra) as folder:
        head = {f"value_head.{k}": v for k, v in trainer.value_head.state_dict().items()}
        save_training_state(folder, trainer.policy, optimizer, **head)
        evaluator.save(folder)


def resume(trainer: Trainer, evaluator: Evaluator, optimizer: torch.optim.AdamW) -> int:
    """The first update still to be made; restores policy, value head, optimiser, evaluations and checkpoints."""
    if (found := trainer.out.resume(checkpoints_whole)) is None:
        return 0
    folder, meta = found
    extra = load_training_state(folder, trainer.policy, optimizer)
    trainer.value_head.load_state_dict({k.removeprefix("value_head."): v for k, v in extra.items()})
    evaluator.restore(folder, meta["extra"])
    attempt = folder.parent.parent
    for entry in evaluator.kept:
        shutil.copytree(attempt / entry["path"], trainer.out.path / entry["path"])
    return int(meta["step"])


def checkpoints_whole(state: Path, meta: Mapping[str, Any]) -> bool:
    """Whether the checkpoints that a saved state counts on are undamaged in its attempt."""
    attempt = state.parent.parent
    return not any(damaged_files(attempt / entry["path"], entry["files"]) for entry in meta["extra"]["kept"])
