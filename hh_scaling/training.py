"""What every training loop shares: AdamW on float32 weights, the learning-rate rule, resumable states."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hh_scaling.configs import Schedule
from hh_scaling.records import check_finite

REFERENCE_WIDTH = 128


def peak_learning_rate(schedule: Schedule, d_model: int) -> float:
    """rate_factor * learning_rate * (128 / d_model) ** width_exponent."""
    return schedule.rate_factor * schedule.learning_rate * (REFERENCE_WIDTH / d_model) ** schedule.width_exponent


def learning_rate(schedule: Schedule, d_model: int, step: int, n_steps: int) -> float:
    """The rate of step ``step`` (from 0) of ``n_steps``: linear warm-up, then constant or a linear decay.

    A linear decay goes from the peak to ``final_fraction`` of it over the last 80 % of the steps.
    """
    rate = peak_learning_rate(schedule, d_model)
    warmup = max(1, round(schedule.warmup_fraction * n_steps))
    if step < warmup:
        return rate * (step + 1) / warmup
    if schedule.decay == "constant":
        return rate
    done = max(0.0, (step - 0.2 * n_steps) / max(1.0, 0.8 * n_steps))
    return rate * (1 - (1 - schedule.final_fraction) * min(1.0, done))


def make_optimizer(parameters: Iterable[nn.Parameter], schedule: Schedule) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], betas=(0.9, schedule.beta2), eps=schedule.eps, fused=True
    )


def apply_step(optimizer: torch.optim.AdamW, schedule: Schedule, rate: float, step: int) -> float:
    """Clip, step and clear the gradients; returns the gradient norm before clipping, NonFiniteError if it is none."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, schedule.max_grad_norm)
    check_finite("gradient norm", float(norm), step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)


class Stopwatch:
    """Says when the next resumable state is due."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = time.monotonic()

    def due(self) -> bool:
        """True once every ``seconds``."""
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


def save_training_state(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW, **tensors: Tensor) -> None:
    """Weights, AdamW's moments and further tensors as one safetensors file."""
    state: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
    state |= {f"extra.{name}": value for name, value in tensors.items()}
    save_file(
        {name: value.detach().clone().contiguous() for name, value in state.items()}, folder / "training.safetensors"
    )


def load_training_state(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Restore what ``save_training_state`` wrote; returns its further tensors."""
    state = load_file(folder / "training.safetensors")
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    entries: dict[int, dict[str, Any]] = {}
    for key, value in state.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return {k.removeprefix("extra."): v for k, v in state.items() if k.startswith("extra.")}
