"""The interpolation stage: weights on the straight line from the reference to a policy, evaluated as checkpoints are.

theta(alpha) = (1 - alpha) theta_reference + alpha theta_policy, every parameter, in float32. Every point is evaluated
with the random stream of the policy's last evaluation and against the reference's responses that the policy kept:
alpha = 1 repeats it to the bit, and at alpha = 0 every KL is 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hh_scaling.configs import InterpolationConfig, alpha_name
from hh_scaling.models import ModelError, describe, load_causal_lm, set_up
from hh_scaling.policy_eval import Evaluation, Evaluator
from hh_scaling.ppo import Trainer, build
from hh_scaling.pretrain import save_model
from hh_scaling.records import write_json
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training import Stopwatch

Weights = Mapping[str, Tensor]


def run(config: InterpolationConfig, context: StageContext) -> StageResult:
    """Writes evals.parquet, rows as a policy's with their alpha; with ``keep`` also weights and checkpoints.json."""
    set_up(config.compute)
    whole = config.training.model_copy(update={"lora_rank": None})  # adapters are merged in what is mixed
    config = config.model_copy(update={"training": whole})
    ends, policy = context.parents["reference"], context.parents["policy"]
    # PPO's own set-up with the reference as the policy: its policy is the copy that each mixture is written into
    trainer, evaluator = build(config, replace(context, parents={**context.parents, "policy": ends}))
    evaluator.go_by(policy)
    tuned = dict(load_causal_lm(policy, compute=config.compute).named_parameters())
    evaluate_all(trainer, evaluator, tuned, config, end_step(policy))
    evaluations = dict(zip(config.alphas, evaluator.history, strict=True))
    with_alpha(evaluator.table(), config.alphas).to_parquet(context.out.path / "evals.parquet", index=False)
    kept = [save_point(trainer, tuned, alpha, evaluations[alpha], context.out.path) for alpha in config.keep]
    write_json(context.out.path / "checkpoints.json", kept)
    points = [{"alpha": alpha, **e.metrics} for alpha, e in evaluations.items()]
    summary = {"model": describe(trainer.policy, config.size.name), "points": points}
    return StageResult(summary | evaluator.measures.describe())


def end_step(policy: Path) -> int:
    """The update at which the policy's last evaluation was made; its random stream is a function of it."""
    entries = json.loads((policy / "checkpoints.json").read_text(encoding="utf-8"))
    return next(int(entry["step"]) for entry in entries if entry["name"] == "end")


def evaluate_all(
    trainer: Trainer, evaluator: Evaluator, tuned: Weights, config: InterpolationConfig, step: int
) -> None:
    """Evaluate every alpha that a saved state does not have yet."""
    out, stopwatch = trainer.out, Stopwatch(config.training.checkpoint_seconds)
    if (found := out.resume()) is not None:
        evaluator.restore(found[0], found[1]["extra"])
    for done in range(len(evaluator.history), len(config.alphas)):
        alpha = config.alphas[done]
        write_mixture(trainer.policy, trainer.models.reference, tuned, alpha)
        trainer.work.refresh()
        evaluation = evaluator.evaluate(trainer.policy, trainer.work.sampler, step)
        out.log({"type": "interpolation", "alpha": alpha, **evaluation.kl_entry()})
        out.progress(done + 1, len(config.alphas), f"alpha {alpha:g}")
        if stopwatch.due():
            extra = {"kept": [], "history": [e.to_json() for e in evaluator.history]}
            with out.save_state(done + 1, extra) as folder:
                evaluator.save(folder)


@torch.no_grad()
def write_mixture(into: PreTrainedModel, reference: PreTrainedModel, tuned: Weights, alpha: float) -> None:
    """Set every parameter of ``into`` to (1 - alpha) reference + alpha tuned; exact at 0 and at 1.

    ModelError, naming the parameter, where the two are not of one architecture.
    """
    start = dict(reference.named_parameters())
    for name, weight in into.named_parameters():
        if name not in tuned or tuned[name].shape != start[name].shape:
            raise ModelError(f"parameter {name} of the reference is not the policy's; expected one architecture")
        weight.copy_((1 - alpha) * start[name] + alpha * tuned[name])


def with_alpha(table: pd.DataFrame, alphas: tuple[float, ...]) -> pd.DataFrame:
    """The evaluations' rows, as many for every alpha, with their alpha as first column."""
    table.insert(0, "alpha", np.repeat(alphas, len(table) // len(alphas)))
    return table


def save_point(trainer: Trainer, tuned: Weights, alpha: float, evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """Save the weights at ``alpha``; returns their entry of checkpoints.json."""
    write_mixture(trainer.policy, trainer.models.reference, tuned, alpha)
    path = f"checkpoints/{alpha_name(alpha)}"
    save_model(trainer.policy, trainer.models.tokenizer, folder / path)
    return {"name": alpha_name(alpha), "step": evaluation.step, "samples": evaluation.samples, "path": path} | (
        evaluation.kl_entry()
    )
