"""The PPO stage: a policy trained against the train PM, measured along the way on fixed held-out prompts.

Reward: the PM's score once, at the response's last token, less the reference's mean score, and -kl_coef * (ln policy -
ln reference) at every token (Bai et al. 2022, section 4.1 and appendix B.1). One trunk serves policy and value head
unless the critic is separate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hh_scaling.configs import BestOfNConfig, PPOConfig, PPOTraining, checkpoint_name
from hh_scaling.crew import Crew
from hh_scaling.critic import make_critic
from hh_scaling.data import gold_scorer
from hh_scaling.lora import add_adapters, shared_copy
from hh_scaling.losses import (
    adapted_kl_coef,
    gae,
    kl_k1,
    masked_whiten,
    token_rewards,
)
from hh_scaling.memory import in_smaller_pieces
from hh_scaling.models import (
    check_length,
    describe,
    load_causal_lm,
    load_tokenizer,
    set_up,
)
from hh_scaling.pairs import encode
from hh_scaling.policy_eval import Evaluator, Measures
from hh_scaling.ppo_state import keep_or_stop, resume, save_run_state
from hh_scaling.ppo_work import Models, Targets, Trainer, Work, minibatch_gradient, pretraining_gradient, roll_out
from hh_scaling.pretrain import save_model
from hh_scaling.ptx import load_text
from hh_scaling.records import check_finite, write_json
from hh_scaling.rollout import (
    Sample,
    StopText,
    end_tokens,
    response_mask,
)
from hh_scaling.scorers import load_pm_scorer, stream_seed
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training import Stopwatch, apply_step, learning_rate, make_optimizer


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
    trainer, evaluator, diverged = in_smaller_pieces(partial(train, context), config)
    out = context.out
    save_model(trainer.models.plain_policy(), trainer.models.tokenizer, out.path / "model")
    last = evaluator.history[-1]
    end = {"name": "end", "step": last.step, "samples": last.samples, "path": "model", **last.kl_entry()}
    write_json(out.path / "checkpoints.json", [*evaluator.kept, end])
    evaluator.save(out.path)
    kept_at = {entry["name"]: entry["step"] for entry in evaluator.kept}
    reached = {str(float(k)): kept_at.get(checkpoint_name(k)) for k in config.training.keep_sqrt_kl}
    summary = {
        "model": describe(trainer.models.reference, config.size.name),
        "n_updates": last.step,
        "samples": last.samples,
        "final": last.metrics,
        "reached": reached,
        "note": diverged,
        **evaluator.measures.describe(),
    }
    if trainer.out_of_memory:
        summary["out_of_memory"] = trainer.out_of_memory
    return StageResult(summary, "diverged" if diverged else "done")


def train(
    context: StageContext, config: PPOConfig, out_of_memory: dict[str, Any] | None
) -> tuple[Trainer, Evaluator, str | None]:
    """The trained policy with its evaluations, and why it is called diverged, if it is.

    ``out_of_memory``: a note that it ended this attempt before, which is then gone on with.
    """
    if out_of_memory:
        context.out.again()
    trainer, evaluator = build(config, context)
    trainer.out_of_memory = out_of_memory
    return trainer, evaluator, train_policy(trainer, evaluator)


def build(config: PPOConfig, context: StageContext) -> tuple[Trainer, Evaluator]:
    """Load the models and tokenise the prompts."""
    parents, compute, training = context.parents, config.compute, config.training
    tokenizer = load_tokenizer(parents["policy"])
    policy = load_causal_lm(parents["policy"], compute=compute)
    measures = load_measures(config, context, tokenizer)
    train_pm = measures.pms["pm_train"]
    if training.lora_rank is None:
        reference = load_causal_lm(parents["policy"], compute=compute).requires_grad_(False)
    else:
        reference = shared_copy(policy).requires_grad_(False)
        policy = add_adapters(policy, training.lora_rank, training.lora_alpha, config.seed)
    critic = make_critic(training, reference, train_pm, compute.device)
    text = load_text(config, parents["data"], tokenizer)
    check_length(policy, training.max_prompt_tokens + training.max_response_tokens, "ppo: prompt and response")
    table = pd.read_parquet(parents["data"] / "prompts.parquet").sort_values("order")
    prompts = encode_prompts(tokenizer, list(table[table.split == "train"].prompt), training.max_prompt_tokens)
    stop = StopText(tokenizer, policy.config.vocab_size, end_tokens(tokenizer, policy))
    models = Models(config, policy, critic, reference, train_pm, tokenizer, stop, text)
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
        trainer.score_baseline = score_baseline(training, evaluator)
        stats = update_policy(trainer, optimizer, crew, update)
        samples = (update + 1) * training.batch_size
        out.log({"type": "update", "step": update + 1, "samples": samples, **stats})
        out.progress(update + 1, training.n_updates, f"score {stats['score']:.2f} KL {stats['kl_k1']:.2f}")
        if stopwatch.due():
            save_run_state(trainer, evaluator, optimizer, update)
    return evaluate(trainer, evaluator, crew, training.n_updates)


def score_baseline(training: PPOTraining, evaluator: Evaluator) -> float:
    """What is taken off every score: the reference's mean at the first evaluation, or 0.

    A constant changes no optimum, but while values start from 0 and gae_lambda is below 1, a positive mean rewards
    every token, the last ones most: the policy would learn to end early, whatever the preference model says.
    """
    if not training.center_scores or training.value_init == "pm":
        return 0.0
    return float(evaluator.first().score_train.mean())


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
    parts = minibatches(training.batch_size, training.minibatch_size, training.n_epochs, config.seed, update)
    for step, rows in enumerate(parts, start=update * len(parts)):
        stats = minibatch_gradient(crew, trainer.work, batch.targets(rows), update)
        if trainer.models.text is not None:
            stats |= pretraining_gradient(crew, trainer.work, trainer.models.text, step)
        with crew.resting():  # the others wait for the new weights
            stats["grad_norm"] = apply_step(optimizer, training.schedule, rate, update)
    stats |= {"lr": rate, "kl_coef": trainer.kl_coef}
    if training.kl_target is not None:
        kl, n = batch.stats["kl_k1"], training.batch_size
        trainer.kl_coef = adapted_kl_coef(trainer.kl_coef, kl, training.kl_target, n, training.kl_horizon)
    return {**batch.stats, **stats}


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
    cut = torch.tensor([not s.ended for s in samples]).to(scores)
    penalised = scores - trainer.score_baseline - training.missing_eos_penalty * cut
    kl = kl_k1(logprobs, reference) * mask
    rewards = token_rewards(penalised, kl, mask, trainer.kl_coef)
    advantages = gae(rewards, values, mask, training.gamma, training.gae_lambda)
    returns = (advantages + values) * mask
    stats = {
        "score": scores.mean().item(),
        "kl_k1": kl.sum(1).mean().item(),
        "length": float(np.mean([len(s.response) for s in samples])),
        "ended": float(np.mean([s.ended for s in samples])),
    }
    if training.whiten_advantages:
        advantages = masked_whiten(advantages, mask)
    return Batch(samples, mask, logprobs, values, advantages, returns, stats)


def update_prompts(prompts: list[list[int]], batch_size: int, seed: int, update: int) -> list[list[int]]:
    """The prompts of one update: but for a remainder smaller than a batch, all are used before one comes again."""
    per_pass = max(1, len(prompts) // batch_size)
    rng = np.random.default_rng(stream_seed(seed, update // per_pass, "prompts"))
    order = np.resize(rng.permutation(len(prompts)), per_pass * batch_size)
    start = (update % per_pass) * batch_size
    return [prompts[i] for i in order[start : start + batch_size]]
