"""A preference model before training: its base with a fresh score head, or one pretrained on votes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hh_scaling.configs import PMConfig, PMPConfig
from hh_scaling.models import load_from_stage
from hh_scaling.tree_scores import score_head

MAX_LENGTH = "hh_max_length"  # in config.json of this project's PMs: the most tokens that one was trained on


def initial_pm(base: Path, tokenizer: Any, config: PMConfig | PMPConfig) -> PreTrainedModel:
    """The base with a fresh score head, N(0, 1 / (d_model + 1)) under the stage's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = load_from_stage(AutoModelForSequenceClassification, base, compute=config.compute, num_labels=1)
    generator = torch.Generator().manual_seed(config.seed)
    head = score_head(model)
    with torch.no_grad():
        width = head.weight.shape[1]
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) / (width + 1) ** 0.5)
    return made_ready(model, tokenizer, config)


def pretrained_pm(pmp: Path, tokenizer: Any, config: PMConfig) -> PreTrainedModel:
    """The model that a stage of preference-model pretraining has made, its head included."""
    kind = AutoModelForSequenceClassification
    model = load_from_stage(kind, pmp, compute=config.compute, num_labels=1, new_head=False)
    return made_ready(model, tokenizer, config)


def made_ready(model: PreTrainedModel, tokenizer: Any, config: PMConfig | PMPConfig) -> PreTrainedModel:
    """The model with the tokenizer's padding, and low layers frozen if asked."""
    model.config.pad_token_id = tokenizer.pad_token_id
    setattr(model.config, MAX_LENGTH, config.training.max_length)
    if config.training.trainable_layers is not None:
        freeze_below(model, config.training.trainable_layers)
    return model


def freeze_below(model: PreTrainedModel, trainable_layers: int) -> None:
    """Leave gradients only to the top ``trainable_layers`` decoder layers, the final norm and the score head."""
    for parameter in model.base_model.parameters():
        parameter.requires_grad_(False)
    layers = model.base_model.layers
    final_norm = getattr(model.base_model, "norm", None) or getattr(model.base_model, "final_layer_norm", None)
    for module in (*layers[-trainable_layers:], final_norm):
        if module is not None:
            for parameter in module.parameters():
                parameter.requires_grad_(True)


def longest_text(model: PreTrainedModel) -> int:
    """The most tokens that a PM is given: as many as in its training, or as it has positions where that is unknown."""
    trained_on = getattr(model.config, MAX_LENGTH, None)
    return int(trained_on or getattr(model.config, "max_position_embeddings", None) or 1 << 20)
