"""Context distillation: a model without a prompt learns to answer as a teacher does that reads one before every text.

The loss is L(theta) = KL(p_teacher(. | prompt, text) || p_theta(. | text)) after every token of the text (Askell et al.
2021), over the teacher's k most likely next tokens and one bucket for all others (Bai et al. 2022, appendix A.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hh_scaling.configs import BaseTraining, Compute, ReferenceConfig
from hh_scaling.estimates import ratio
from hh_scaling.fine_tuning import train
from hh_scaling.models import ModelError, autocast, hidden_states, micro_batches, pad_right
from hh_scaling.pretrain import document_losses
from hh_scaling.records import config_hash, read_jsonl, read_record
from hh_scaling.stages import StageContext
from hh_scaling.targets import PARTS, Example, Target, TargetFiles

# ---------------------------------------------------------------- the mathematics


def top_k_logprobs(logits: Tensor, k: int, n_tokens: int) -> tuple[Tensor, Tensor]:
    """(N, k) ids of the most likely tokens under (N, V) logits; (N, k + 1) log-probabilities, all others' last.

    Only ids below ``n_tokens`` are named: models may have more rows than their tokenizer has tokens.
    """
    ids = logits[:, :n_tokens].topk(min(k, n_tokens, logits.shape[-1]), dim=-1).indices
    return ids, bucketed_logprobs(logits, ids)


def bucketed_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """(N, k + 1) log-probabilities of the tokens ``ids`` (N, k) and, last, of all others together.

    The last is logsumexp(other logits) - logsumexp(all logits): 1 minus the sum of the first k would lose all digits
    where these hold nearly everything. It is -inf, without a gradient, where there are no others.
    """
    total = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(-1, ids) - total
    if ids.shape[-1] == logits.shape[-1]:
        return F.pad(chosen, (0, 1), value=-torch.inf)
    others = logits.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, others - total], dim=-1)


def bucketed_kl(target: Tensor, logprobs: Tensor) -> Tensor:
    """(N,) KL(target || model) in nats from (N, k + 1) log-probabilities of the same k tokens and of the rest.

    A lower bound on the KL over the whole vocabulary, by the log-sum inequality, and equal to it where k is all of it.
    """
    present = target > -torch.inf  # 0 ln 0 is 0, also in the gradient
    p = torch.where(present, target, 0.0).exp() * present
    difference = torch.where(present, target, 0.0) - torch.where(present, logprobs, 0.0)
    return (p * difference).sum(-1)


# ---------------------------------------------------------------- batches


def predicting(lengths: Tensor, width: int) -> Tensor:
    """(B, width) True at each token that another follows."""
    return torch.arange(width, device=lengths.device) < lengths[:, None] - 1


def next_logits(model: PreTrainedModel, hidden: Tensor, lengths: Tensor, temperature: float) -> Tensor:
    """(N, V) float32 logits over the temperature of what follows each token but the last, sequence by sequence."""
    counted: Tensor = model.get_output_embeddings()(hidden[predicting(lengths, hidden.shape[1])])
    return counted.float() / temperature


def divergences(model: PreTrainedModel, batch: Sequence[Target], temperature: float, compute: Compute) -> Tensor:
    """(N,) KL(teacher || model), bucketed, after each token but the last of every text, one text after the other."""
    rows = [target.example.tokens for target in batch]
    tokens, lengths = pad_right(rows, model.config.pad_token_id or 0, compute.device)
    with autocast(compute):
        logits = next_logits(model, hidden_states(model, tokens), lengths, temperature)
    ids = torch.from_numpy(np.concatenate([t.ids for t in batch]).astype(np.int64)).to(logits.device)
    wanted = torch.from_numpy(np.concatenate([t.logprobs for t in batch])).to(logits.device)
    return bucketed_kl(wanted, bucketed_logprobs(logits, ids))


# ---------------------------------------------------------------- the student


def distill(model: PreTrainedModel, tokenizer: Any, config: ReferenceConfig, context: StageContext) -> dict[str, Any]:
    """Train ``model`` on the teacher's targets; what it learned and what that cost, both on held-out text."""
    folder = context.parents["teacher"]
    teacher = read_record(folder / "record.json")
    if teacher.summary["vocabulary"] != config_hash(tokenizer.get_vocab()):
        name = teacher.config["size"]["name"]
        raise ModelError(
            f"{config.size.name}: its tokens are not those of its teacher {name}; expected the same tokenizer"
        )
    targets, held_out = (TargetFiles(sorted((folder / "targets").glob(f"{part}-*"))) for part in PARTS)
    temperature = float(teacher.config["targets"]["temperature"])
    before = measure(model, held_out, temperature, config.compute)
    text_before = losses(model, tokenizer, config, context)

    def loss_sum(rows: list[int]) -> Tensor:
        return divergences(model, [targets[i] for i in rows], temperature, config.compute).sum()

    lengths = [len(example.tokens) for example in targets.examples]
    train(model, lengths, [example.n_predicted for example in targets.examples], loss_sum, config, context)
    found = before.rename(columns={"all": "all_before", "response": "response_before"}).assign(
        **measure(model, held_out, temperature, config.compute)[["all", "response"]].add_suffix("_after")
    )
    found.to_parquet(context.out.path / "divergence.parquet", index=False)
    text = text_before.rename(columns={"nats": "nats_before"}).assign(
        nats_after=losses(model, tokenizer, config, context).nats
    )
    text.to_parquet(context.out.path / "text_loss.parquet", index=False)
    return {"n_examples": len(targets), "n_predicted": sum(e.n_predicted for e in targets.examples)} | summed(
        found, text
    )


@torch.no_grad()
def measure(model: PreTrainedModel, targets: TargetFiles, temperature: float, compute: Compute) -> pd.DataFrame:
    """Summed KL(teacher || model) of each text over ``all`` its tokens and its ``response``, with their numbers."""
    rows: list[dict[str, Any]] = [{} for _ in targets.examples]
    for group in micro_batches([len(e.tokens) for e in targets.examples], compute.micro_batch_tokens):
        batch = [targets[i] for i in group]
        sizes = [target.example.n_predicted for target in batch]
        parts = divergences(model, batch, temperature, compute).double().cpu().split(sizes)
        for i, part, target in zip(group, parts, batch, strict=True):
            rows[i] = of_text(target.example, part)
    return pd.DataFrame(rows)


def of_text(example: Example, kl: Tensor) -> dict[str, Any]:
    """One text's row: the value at index i is about token i + 1."""
    first = max(0, example.start - 1)
    counts = {"tokens": len(kl), "response_tokens": len(kl) - first}
    return {"conversation": example.cluster, **counts, "all": kl.sum().item(), "response": kl[first:].sum().item()}


def losses(model: PreTrainedModel, tokenizer: Any, config: ReferenceConfig, context: StageContext) -> pd.DataFrame:
    """Held-out text by document, in the windows of the model's base (``pretrain.document_losses``)."""
    texts = [row["text"] for row in read_jsonl(context.parents["data"] / "text" / "held_out.jsonl")]
    base = BaseTraining(**read_record(context.parents["base"] / "record.json").config["training"])
    return document_losses(model, tokenizer, texts, base, config.compute)


def summed(found: pd.DataFrame, text: pd.DataFrame) -> dict[str, Any]:
    """The summary's numbers: KL in nats a token over conversations, the loss on plain text over documents."""
    kl: dict[str, Any] = {}
    for part, tokens in (("all", "tokens"), ("response", "response_tokens")):
        before, after, n = found[f"{part}_before"], found[f"{part}_after"], found[tokens]
        pairs = {"before": before, "after": after, "change": after - before}
        kl[part] = {name: ratio(values, n, found.conversation) for name, values in pairs.items()}
    if text.empty:
        return {"kl": kl, "text_loss": None}
    pairs = {"before": text.nats_before, "after": text.nats_after, "change": text.nats_after - text.nats_before}
    return {"kl": kl, "text_loss": {name: ratio(nats, text.tokens) for name, nats in pairs.items()}}
