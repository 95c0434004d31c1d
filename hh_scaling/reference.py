"""The reference stage, where a study asks for one: fine-tuning on chosen responses, or context distillation.

With ``kind: none`` there is no such stage and the base is the reference. The paper's "finetuning occurs purely through
RL" (Bai et al. 2022, section 1.3) on top of context distillation.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from hh_scaling.configs import BaseTraining, ReferenceConfig
from hh_scaling.distillation import distill
from hh_scaling.fine_tuning import train
from hh_scaling.models import autocast, describe, hidden_states, load_causal_lm, load_tokenizer, pad_right, set_up
from hh_scaling.pairs import context_ids, encode
from hh_scaling.pretrain import held_out_loss, save_model
from hh_scaling.records import read_jsonl, read_record
from hh_scaling.stages import StageContext, StageResult

Example = tuple[list[int], int]  # token ids of prompt, response and end token; how many of them are prompt


def run(config: ReferenceConfig, context: StageContext) -> StageResult:
    """Train the base as the configuration says and save it, with what is measured of it on held-out text."""
    set_up(config.compute)
    tokenizer = load_tokenizer(context.parents["base"])
    model = load_causal_lm(context.parents["base"], compute=config.compute)
    make = distill if config.training.kind == "context_distillation" else fine_tune
    summary = {"model": describe(model, config.size.name)} | make(model, tokenizer, config, context)
    save_model(model, tokenizer, context.out.path / "model")
    return StageResult(summary)


def fine_tune(model: PreTrainedModel, tokenizer: Any, config: ReferenceConfig, context: StageContext) -> dict[str, Any]:
    """Train ``model`` on the train half's chosen responses; its summary."""
    rows = pd.read_parquet(context.parents["data"] / "comparisons.parquet")
    rows = rows[rows.split == "train"].sort_values("order").head(config.training.n_examples)
    examples = sft_examples(rows, tokenizer, config.training.max_length)

    def loss_sum(chosen: list[int]) -> torch.Tensor:
        return sft_loss(model, [examples[i] for i in chosen], config)[0]

    n_response = [len(ids) - max(1, start) for ids, start in examples]
    train(model, [len(ids) for ids, _ in examples], n_response, loss_sum, config, context)
    measured = held_out(model, tokenizer, config, context) if examples else None
    return {"n_examples": len(examples), "held_out": measured}


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
