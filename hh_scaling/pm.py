"""The preference-model stage: train on one half's comparisons, score the held-out ones.

The score is read on top of the end-of-context token that follows the response (Bai et al. 2022, appendix A.2); the
loss is the Bradley-Terry negative log-likelihood; one pass at a fixed rate unless configured otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hh_scaling.configs import Compute, PMConfig
from hh_scaling.estimates import clustered_mean
from hh_scaling.losses import preference_loss
from hh_scaling.models import (
    ModelError,
    autocast,
    check_length,
    describe,
    forward_flops,
    load_from_stage,
    load_tokenizer,
    micro_batches,
    pad_right,
    set_up,
)
from hh_scaling.pretrain import resume, save_model
from hh_scaling.records import StageWriter, check_finite
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training import Stopwatch, apply_step, learning_rate, make_optimizer, save_training_state


@dataclass(frozen=True)
class Pair:
    """Token ids of one comparison: prompt, response and end token of either side."""

    chosen: list[int]
    rejected: list[int]


def run(config: PMConfig, context: StageContext) -> StageResult:
    """Train the preference model, save it, and write its scores of the held-out comparisons."""
    set_up(config.compute)
    tokenizer = load_tokenizer(context.parents["base"])
    rows = pd.read_parquet(context.parents["data"] / "comparisons.parquet")
    half = rows[rows.split == config.half].sort_values("order")
    if config.n_comparisons is not None:
        if len(half) < config.n_comparisons:
            raise ValueError(f"{len(half)} comparisons in the {config.half} half, wanted: {config.n_comparisons}")
        half = half.head(config.n_comparisons)
    pairs, dropped = tokenize_pairs(half, tokenizer, config.training.max_length)
    if not pairs:
        raise ValueError(f"no comparison is left in the {config.half} half ({dropped}), needed: at least 1")
    model = initial_pm(context.parents["base"], tokenizer, config)
    check_length(model, config.training.max_length, "pm.max_length")
    train(model, pairs, config, context.out)
    save_model(model, tokenizer, context.out.path / "model")
    held_out = rows[rows.split == "held_out"].sort_values("order")
    scores = score_comparisons(model, tokenizer, held_out, config, context.out)
    scores.to_parquet(context.out.path / "scores.parquet", index=False)
    summary = {"model": describe(model, config.size.name), "half": config.half, "n_comparisons": len(pairs)}
    return StageResult(summary | {"dropped": dropped} | summarise(scores))


# ---------------------------------------------------------------- tokens


def context_ids(prompt: list[int], response: list[int], end: int, max_length: int) -> list[int]:
    """prompt + response + end token, at most ``max_length``: the prompt loses its start, then the response its end."""
    response = response[: max_length - 1]
    room = max_length - 1 - len(response)
    return (prompt[-room:] if room else []) + response + [end]


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of plain texts: no special tokens added, none recognised."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def tokenize_pairs(rows: pd.DataFrame, tokenizer: Any, max_length: int) -> tuple[list[Pair], dict[str, int]]:
    """The comparisons as token ids, and how many were dropped because truncation made both sides equal.

    Prompt and response are encoded apart, so that the tokens are those a policy would emit after the prompt.
    """
    prompts, chosen, rejected = (encode(tokenizer, list(rows[c])) for c in ("prompt", "chosen", "rejected"))
    end = tokenizer.eos_token_id
    pairs = [
        Pair(context_ids(p, c, end, max_length), context_ids(p, r, end, max_length))
        for p, c, r in zip(prompts, chosen, rejected, strict=True)
    ]
    kept = [pair for pair in pairs if pair.chosen != pair.rejected]
    return kept, {"equal_after_truncation": len(pairs) - len(kept)}


# ---------------------------------------------------------------- model


def initial_pm(base: Path, tokenizer: Any, config: PMConfig) -> PreTrainedModel:
    """The base with a fresh score head, N(0, 1 / (d_model + 1)) under the stage's seed; low layers frozen if asked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = load_from_stage(AutoModelForSequenceClassification, base, compute=config.compute, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    generator = torch.Generator().manual_seed(config.seed)
    head = score_head(model)
    with torch.no_grad():
        width = head.weight.shape[1]
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) / (width + 1) ** 0.5)
    if config.training.trainable_layers is not None:
        freeze_below(model, config.training.trainable_layers)
    return model


def score_head(model: PreTrainedModel) -> nn.Linear:
    """The linear layer on the trunk that gives the score."""
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise ModelError(f"{type(model).__name__}: no scalar score layer, needed: a sequence classifier with one label")
    return head


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


def scores_of(model: PreTrainedModel, sequences: list[list[int]], compute: Compute) -> Tensor:
    """(B,) float32 scores at each sequence's last token, in the given order, one padded forward pass."""
    tokens, lengths = pad_right(sequences, model.config.pad_token_id or 0, compute.device)
    with autocast(compute):
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(sequences), device=hidden.device), lengths - 1]
    return score_head(model)(last.float()).squeeze(-1)


@torch.no_grad()
def score_sequences(
    model: PreTrainedModel, sequences: list[list[int]], compute: Compute, out: StageWriter | None = None
) -> np.ndarray:
    """(n,) scores of token sequences that end with the end token, in micro-batches of similar length."""
    scores = np.zeros(len(sequences), dtype=np.float32)
    for group in micro_batches([len(s) for s in sequences], compute.micro_batch_tokens):
        batch = [sequences[i] for i in group]
        scores[group] = scores_of(model, batch, compute).cpu().numpy()
        if out is not None:
            n_tokens = sum(map(len, batch))
            out.count(n_tokens, forward_flops(model, n_tokens, n_tokens / len(batch), logits=0))
    return scores


# ---------------------------------------------------------------- training


def train(model: PreTrainedModel, pairs: list[Pair], config: PMConfig, out: StageWriter) -> None:
    """One pass (or ``n_epochs``) over the pairs in a seeded order; resumes from an earlier attempt's state."""
    training = config.training
    n_batches = max(1, len(pairs) // training.batch_size)
    rng = np.random.default_rng(config.seed)
    order = np.concatenate([rng.permutation(len(pairs)) for _ in range(training.n_epochs)])
    batches = np.array_split(order, n_batches * training.n_epochs)
    optimizer = make_optimizer(model.parameters(), training.schedule)
    first, stopwatch = resume(out, model, optimizer), Stopwatch(training.checkpoint_seconds)
    for step in range(first, len(batches)):
        batch = [pairs[i] for i in batches[step]]
        stats = accumulate_gradient(model, batch, config.compute, out, step)
        rate = learning_rate(training.schedule, model.config.hidden_size, step, len(batches))
        norm = apply_step(optimizer, training.schedule, rate, step)
        done = int(sum(len(b) for b in batches[: step + 1]))
        out.log({"step": step, "pairs": done, **stats, "lr": rate, "grad_norm": norm})
        out.progress(step + 1, len(batches), f"loss {stats['loss']:.3f}")
        if stopwatch.due():
            with out.save_state(step, {}) as folder:
                save_training_state(folder, model, optimizer)


def accumulate_gradient(
    model: PreTrainedModel, batch: list[Pair], compute: Compute, out: StageWriter, step: int
) -> dict[str, float]:
    """Gradient of the batch's mean loss, in micro-batches of whole pairs; returns mean loss and accuracy."""
    loss_sum = correct = 0.0
    lengths = [2 * max(len(pair.chosen), len(pair.rejected)) for pair in batch]
    for group in micro_batches(lengths, compute.micro_batch_tokens):
        part = [batch[i] for i in group]
        scores = scores_of(model, [p.chosen for p in part] + [p.rejected for p in part], compute)
        chosen, rejected = scores.chunk(2)
        losses = preference_loss(chosen, rejected)
        (losses.sum() / len(batch)).backward()
        loss_sum += check_finite("preference loss", losses.sum().item(), step)
        correct += (chosen > rejected).sum().item()
        n_tokens = sum(len(p.chosen) + len(p.rejected) for p in part)
        out.count(n_tokens, 3 * forward_flops(model, n_tokens, n_tokens / (2 * len(part)), logits=0))
    return {"loss": loss_sum / len(batch), "accuracy": correct / len(batch)}


# ---------------------------------------------------------------- held-out scores


def score_comparisons(
    model: PreTrainedModel, tokenizer: Any, rows: pd.DataFrame, config: PMConfig, out: StageWriter
) -> pd.DataFrame:
    """One row a comparison: ids, tranche, both scores, both lengths in characters. None is dropped."""
    prompts, chosen, rejected = (encode(tokenizer, list(rows[c])) for c in ("prompt", "chosen", "rejected"))
    end, limit = tokenizer.eos_token_id, config.training.max_length
    sides = [context_ids(p, c, end, limit) for p, c in zip(prompts, chosen, strict=True)]
    sides += [context_ids(p, r, end, limit) for p, r in zip(prompts, rejected, strict=True)]
    scores = score_sequences(model, sides, config.compute, out)
    kept = rows[["comparison_id", "conversation", "tranche", "n_turns"]].reset_index(drop=True)
    return kept.assign(
        score_chosen=scores[: len(rows)],
        score_rejected=scores[len(rows) :],
        length_chosen=rows.chosen.str.len().to_numpy(),
        length_rejected=rows.rejected.str.len().to_numpy(),
        p_chosen=rows.p_chosen.to_numpy(dtype=float),
    )


def summarise(scores: pd.DataFrame) -> dict[str, Any]:
    """Accuracy (ties count one half) and log loss, clustered by conversation; mean and spread of the scores."""
    difference = scores.score_chosen.to_numpy(float) - scores.score_rejected.to_numpy(float)
    correct = (difference > 0) + 0.5 * (difference == 0)
    both = np.concatenate([scores.score_chosen, scores.score_rejected]).astype(float)
    return {
        "accuracy": clustered_mean(correct, scores.conversation),
        "log_loss": clustered_mean(np.logaddexp(0, -difference), scores.conversation),
        "mean_score": clustered_mean(both, pd.concat([scores.conversation] * 2)),
        "sd_score": float(both.std()),
    }
