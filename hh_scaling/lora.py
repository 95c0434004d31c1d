"""Low-rank adapters (Hu et al. 2022) in a policy, by peft: W + s B A with W frozen, s = alpha / rank, and B 0 at first.

The frozen weights are those of the reference too, in the same memory: the reference is the policy with its adapter
switched off, without switching anything. Whatever PPO starts from, a base or a model fine-tuned before, is W.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hh_scaling.models import ModelError

ADAPTER = "default"  # what peft calls the only one


def shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The model once more, with the same parameters in the same memory."""
    twin: PreTrainedModel = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    return twin


def add_adapters(model: PreTrainedModel, rank: int, alpha: float, seed: int) -> PreTrainedModel:
    """The model with an adapter in every linear layer of its trunk, trained alone; A is drawn under the seed."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ModelError("ppo.lora_rank: needs peft, which is not installed; pip install 'hh-scaling[lora]'") from error
    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=linear_layers(model))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: PreTrainedModel = inject_adapter_in_model(settings, model)
    return adapted.to(model.device).eval()


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Full names of the trunk's linear layers."""
    prefix = model.base_model_prefix
    found = [f"{prefix}.{name}" for name, module in model.base_model.named_modules() if type(module) is nn.Linear]
    if not found:
        raise ModelError(f"ppo.lora_rank: {type(model).__name__} has no linear layers that an adapter fits")
    return found


def has_adapter(module: nn.Module) -> bool:
    """Whether it is a linear layer with an adapter."""
    return hasattr(module, "lora_A")


def weight(linear: nn.Module) -> Tensor:
    """The layer's effective weight: W, or W + s B A with an adapter; gradients flow to A and B."""
    own: Tensor = linear.weight  # type: ignore[assignment]
    if not has_adapter(linear):
        return own
    a, b = (getattr(linear, side)[ADAPTER].weight for side in ("lora_A", "lora_B"))
    scale: float = linear.scaling[ADAPTER]  # type: ignore[index, assignment]
    return own + scale * (b @ a)


def adapters(model: PreTrainedModel) -> nn.ModuleDict:
    """The adapters' own matrices, by the layer's name: what is trained, saved and restored."""
    parts = {
        f"{name}.{side}".replace(".", "/"): getattr(module, side)
        for name, module in model.named_modules()
        if has_adapter(module)
        for side in ("lora_A", "lora_B")
    }
    return nn.ModuleDict(parts)


def plain_weights(model: PreTrainedModel) -> Iterator[Tensor]:
    """Effective weights in the order of the parameters of the same model without adapters."""
    merged = {id(module.base_layer.weight): module for module in model.modules() if has_adapter(module)}
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            yield weight(merged[id(parameter)]) if id(parameter) in merged else parameter


@torch.no_grad()
def merged(model: PreTrainedModel, plain: PreTrainedModel) -> PreTrainedModel:
    """A copy of ``plain``, which is the same model without adapters, with the effective weights."""
    whole = copy.deepcopy(plain)
    for ours, theirs in zip(whole.parameters(), plain_weights(model), strict=True):
        ours.copy_(theirs)
    return whole
