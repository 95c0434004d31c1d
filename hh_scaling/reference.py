"""The reference stage: supervised fine-tuning on chosen responses, where a study asks for it.

With ``kind: none`` there is no such stage and the base is the reference, as in the paper, whose "finetuning occurs
purely through RL" (Bai et al. 2022, section 1.3) on top of context distillation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from hh_scaling.configs import BaseTraining, ReferenceConfig
from hh_scaling.models import (
    autocast,
    describe,
    forward_flops,
    hidden_states,
    load_causal_lm,
    load_tokenizer,
    micro_batches,
    pad_right,
    set_up,
)
from hh_scaling.pairs import context_ids, encode
from hh_scaling.pretrain import held_out_loss, resume, save_model
from hh_scaling.records import check_finite, read_jsonl, read_record
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training import Stopwatch, apply_step, learning_rate, make_optimizer, save_training_state

Example = tuple[list[int], int]  # token ids of prompt, response and end token; how many of them are prompt


def run(config: ReferenceConfig, context: StageContext) -> StageResult:
    """Fine-tune the base on the train half's chosen responses and save it."""
    set_up(config.compute)
    tokenizer = load_tokenizer(context.parents["base"])
    model = load_causal_lm(context.parents["base"], compute=config.compute)
    rows = pd.read_parquet(context.parents["data"] / "comparisons.parquet")
    rows = rows[rows.split == "train"].sort_values("order").head(config.training.n_examples)
    examples = sft_examples(rows, tokenizer, config.training.max_length)
    train(model, examples, config, context)
    save_model(model, tokenizer, context.out.path / "model")
    summary: dict[str, Any] = {"model": describe(model, config.size.name), "n_examples": len(examples)}
    return StageResult(summary | {"held_out": None if not examples else held_out(model, tokenizer, config, context)})


def held_out(model: PreTrainedModel, tokenizer: Any, config: ReferenceConfig, context: StageContext) -> Any:
    """The fine-tuned model's loss on the same held-out text, in the same windows, as its base's."""
    texts = [row["text"] for row in read_jsonl(context.parents["data"] / "text" / "held_out.jsonl")]
    base = BaseTraining(**read_record(context.parents["base"] / "record.json").config["training"])
    return held_out_loss(model, tokenizer, texts, base, config.compute)


def sft_examples(rows: pd.DataFrame, tokenizer: Any, max_length: int) -> list[Example]:
    """Token ids of prompt + chosen response + end token, with the length of the prompt's part."""
    prompts, responses = encode(tokenizer, list(rows.prompt)), encode(tokenizer, list(rows.chosen))
    examples = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = context_ids(prompt, response, tokenizer.eos_token_id, max_length)
        examples.append((ids, len(ids) - min(len(response), max_length - 1) - 1))
    return examples


def sft_loss(model: PreTrainedModel, batch: list[Example], config: ReferenceConfig) -> tuple[torch.Tensor, int]:
    """Summed next-token cross-entropy over the response tokens (end token included), and their number."""
    tokens, lengths = pad_right([ids for ids, _ in batch], model.config.pad_token_id or 0, config.compute.device)
    starts = torch.tensor([max(1, start) for _, start in batch], device=tokens.device)
    position = torch.arange(tokens.shape[1], device=tokens.device)
    counts = (position >= starts[:, None]) & (position < lengths[:, None])  # (B, T) True on response tokens
    with autocast(config.compute):
        hidden = hidden_states(model, tokens)[:, :-1][counts[:, 1:]]
        logits = model.get_output_embeddings()(hidden)
    return F.cross_entropy(logits.float(), tokens[:, 1:][counts[:, 1:]], reduction="sum"), int(counts.sum())


def train(model: PreTrainedModel, examples: list[Example], config: ReferenceConfig, context: StageContext) -> None:
    """One pass over the examples in a seeded order; the loss is the mean over the batch's response tokens."""
    training, out = config.training, context.out
    order = np.random.default_rng(config.seed).permutation(len(examples))
    batches = np.array_split(order, max(1, len(examples) // training.batch_size))
    optimizer = make_optimizer(model.parameters(), training.schedule)
    first, stopwatch = resume(out, model, optimizer), Stopwatch(120.0)
    for step in range(first, len(batches)):
        batch = [examples[i] for i in batches[step]]
        n_response = sum(len(ids) - max(1, start) for ids, start in batch)
        loss_sum = 0.0
        for group in micro_batches([len(ids) for ids, _ in batch], config.compute.micro_batch_tokens):
            loss, _ = sft_loss(model, [batch[i] for i in group], config)
            (loss / n_response).backward()
            loss_sum += check_finite("fine-tuning loss", loss.item(), step)
        n_tokens = sum(len(ids) for ids, _ in batch)
        out.count(n_tokens, 3 * forward_flops(model, n_tokens, n_tokens / len(batch), logits=n_response))
        rate = learning_rate(training.schedule, model.config.hidden_size, step, len(batches))
        apply_step(optimizer, training.schedule, rate, step)
        out.log({"step": step, "loss": loss_sum / n_response, "lr": rate})
        out.progress(step + 1, len(batches))
        if stopwatch.due():
            with out.save_state(step, {}) as folder:
                save_training_state(folder, model, optimizer)
