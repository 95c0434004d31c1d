"""What a PPO run keeps on disk: checkpoints on a grid of √KL, and states to go on from after any end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hh_scaling.configs import checkpoint_name
from hh_scaling.policy_eval import Evaluation, Evaluator
from hh_scaling.ppo_work import Trainer
from hh_scaling.pretrain import save_model
from hh_scaling.records import damaged_files, manifest
from hh_scaling.training import load_training_state, save_training_state


def keep_or_stop(trainer: Trainer, evaluator: Evaluator, evaluation: Evaluation) -> str | None:
    """Keep a checkpoint at the first evaluation past each wanted √KL; say why if the policy has diverged.

    The √KL reached is recorded beside the one wanted: it overshoots by up to what an interval of evaluations adds.
    """
    training = trainer.config.training
    for wanted in training.keep_sqrt_kl:
        name = checkpoint_name(wanted)
        if evaluation.sqrt_kl >= wanted and all(entry["name"] != name for entry in evaluator.kept):
            folder = trainer.out.path / "checkpoints" / name
            save_model(trainer.models.plain_policy(), trainer.models.tokenizer, folder)
            entry = {"name": name, "step": evaluation.step, "samples": evaluation.samples, **evaluation.kl_entry()}
            entry |= {"wanted": wanted, "path": f"checkpoints/{name}", "files": manifest(folder)}
            evaluator.kept.append(entry)
    return evaluator.why_diverged()


def save_run_state(trainer: Trainer, evaluator: Evaluator, optimizer: torch.optim.AdamW, update: int) -> None:
    """What is trained, optimiser, KL coefficient, evaluations so far; random streams follow from seed and update."""
    extra = {
        "kept": evaluator.kept, "history": [e.to_json() for e in evaluator.history],
        "kl_coef": trainer.kl_coef, "out_of_memory": trainer.out_of_memory,
    }  # fmt: skip
    with trainer.out.save_state(update + 1, extra) as folder:
        critic = {f"critic.{name}": value for name, value in trainer.models.critic.state_dict().items()}
        save_training_state(folder, trainer.models.trained, optimizer, **critic)
        evaluator.save(folder)


def resume(trainer: Trainer, evaluator: Evaluator, optimizer: torch.optim.AdamW) -> int:
    """The first update still to be made; restores all that ``save_run_state`` saved, and the checkpoints."""
    kept_here = trainer.out.path / "checkpoints"
    if (found := trainer.out.resume(checkpoints_whole)) is None:
        shutil.rmtree(kept_here, ignore_errors=True)
        return 0
    folder, meta = found
    extra = load_training_state(folder, trainer.models.trained, optimizer)
    trainer.models.critic.load_state_dict({name.removeprefix("critic."): value for name, value in extra.items()})
    evaluator.restore(folder, meta["extra"])
    trainer.kl_coef = meta["extra"]["kl_coef"]
    trainer.out_of_memory = trainer.out_of_memory or meta["extra"]["out_of_memory"]
    attempt = folder.parent.parent
    if attempt != trainer.out.path:
        shutil.rmtree(kept_here, ignore_errors=True)
        for entry in evaluator.kept:
            shutil.copytree(attempt / entry["path"], trainer.out.path / entry["path"])
    return int(meta["step"])


def checkpoints_whole(state: Path, meta: Mapping[str, Any]) -> bool:
    """Whether the checkpoints that a saved state counts on are undamaged in its attempt."""
    attempt = state.parent.parent
    return not any(damaged_files(attempt / entry["path"], entry["files"]) for entry in meta["extra"]["kept"])
