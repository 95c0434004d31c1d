"""Context distillation: a model without a prompt learns to answer as a teacher does that reads one before every text.

The loss is L(theta) = KL(p_teacher(. | prompt, text) || p_theta(. | text)) after every token of the text (Askell et al.
2021), over the teacher's k most likely next tokens and one bucket for all others (Bai et al. 2022, appendix A.1).
"""

from __future__ import annotations

import math
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
from hh_scaling.pairs import encode
from hh_scaling.prefix import Prefix, losses_after, next_logits
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
    (prompt,) = encode(tokenizer, [(folder / "prompt.txt").read_text(encoding="utf-8")])
    compute = config.compute
    dialogues = [counts(held_out.examples), measure(model, held_out, temperature, compute, "base")]
    dialogues.append(prompted(model, prompt, held_out.examples, compute))
    text = losses(model, tokenizer, config, context).rename(columns={"nats": "nats_base"})

    def loss_sum(rows: list[int]) -> Tensor:
        return divergences(model, [targets[i] for i in rows], temperature, compute).sum()

    lengths = [len(example.tokens) for example in targets.examples]
    train(model, lengths, [example.n_predicted for example in targets.examples], loss_sum, config, context)
    dialogues.append(measure(model, held_out, temperature, compute, "distilled"))
    found = pd.concat(dialogues, axis=1)
    text["nats_distilled"] = losses(model, tokenizer, config, context).nats
    found.to_parquet(context.out.path / "dialogues.parquet", index=False)
    text.to_parquet(context.out.path / "text_loss.parquet", index=False)
    known = {"teacher": teacher.config["size"]["name"], "n_examples": len(targets)}
    return known | {"n_predicted": sum(e.n_predicted for e in targets.examples)} | summed(found, text)


# ---------------------------------------------------------------- held-out text


def counts(examples: Sequence[Example]) -> pd.DataFrame:
    """The conversation of each held-out dialogue, and how many tokens are predicted in it and in its response."""
    rows = [(e.cluster, e.n_predicted, e.n_predicted - first_of_response(e)) for e in examples]
    return pd.DataFrame(rows, columns=["conversation", "tokens", "response_tokens"])


def first_of_response(example: Example) -> int:
    """Where its response begins among the predicted tokens, of which the value at index i is about token i + 1."""
    return max(0, example.start - 1)


@torch.no_grad()
def measure(
    model: PreTrainedModel, targets: TargetFiles, temperature: float, compute: Compute, name: str
) -> pd.DataFrame:
    """Per dialogue, over all its tokens and its response: summed KL(teacher || model), and the model's own loss."""
    kl: list[Tensor] = [torch.empty(0)] * len(targets)
    for group in micro_batches([len(e.tokens) for e in targets.examples], compute.micro_batch_tokens):
        batch = [targets[i] for i in group]
        parts = divergences(model, batch, temperature, compute).double().cpu()
        for i, part in zip(group, parts.split([t.example.n_predicted for t in batch]), strict=True):
            kl[i] = part
    nats = losses_after(Prefix(model, [], compute), targets.examples)
    return sums(targets.examples, kl, f"kl_{name}").join(sums(targets.examples, nats, f"nats_{name}"))


def prompted(model: PreTrainedModel, prompt: list[int], examples: Sequence[Example], compute: Compute) -> pd.DataFrame:
    """The loss of ``model`` itself where it reads the prompt before each dialogue; missing where they do not fit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = len(prompt) + max((len(e.tokens) for e in examples), default=0)
    if limit is not None and longest > limit:
        return pd.DataFrame({f"nats_prompted_{part}": [math.nan] * len(examples) for part in ("all", "response")})
    return sums(examples, losses_after(Prefix(model, prompt, compute), examples), "nats_prompted")


def sums(examples: Sequence[Example], values: Sequence[Tensor], name: str) -> pd.DataFrame:
    """Per dialogue the sum over ``all`` predicted tokens and over those of the ``response``."""
    response = [part[first_of_response(e) :].sum().item() for e, part in zip(examples, values, strict=True)]
    return pd.DataFrame({f"{name}_all": [part.sum().item() for part in values], f"{name}_response": response})


def losses(model: PreTrainedModel, tokenizer: Any, config: ReferenceConfig, context: StageContext) -> pd.DataFrame:
    """Held-out text by document, in the windows of the model's base (``pretrain.document_losses``)."""
    texts = [row["text"] for row in read_jsonl(context.parents["data"] / "text" / "held_out.jsonl")]
    base = BaseTraining(**read_record(context.parents["base"] / "record.json").config["training"])
    return document_losses(model, tokenizer, texts, base, config.compute)


def summed(found: pd.DataFrame, text: pd.DataFrame) -> dict[str, Any]:
    """The summary's numbers in nats a token: KL and loss on dialogues over conversations, on plain text over documents.

    None where there is nothing to measure on, and of the prompted model where the prompt did not fit.
    """
    if found.empty:
        return {"kl": None, "dialogue_loss": None, "text_loss": over(text, text.tokens)}
    parts = (("all", found.tokens), ("response", found.response_tokens))
    kl = {part: over(found, n, f"kl_{{}}_{part}", found.conversation) for part, n in parts}
    loss = {part: over(found, n, f"nats_{{}}_{part}", found.conversation) for part, n in parts}
    return {"kl": kl, "dialogue_loss": loss, "text_loss": over(text, text.tokens)}


def over(rows: pd.DataFrame, tokens: pd.Series, column: str = "nats_{}", clusters: Any = None) -> dict[str, Any] | None:
    """Means a token of what was measured of the base, the prompted and the distilled model, and what distilling
    changed."""
    if rows.empty:
        return None
    named = {name: column.format(name) for name in ("base", "prompted", "distilled")}
    values = {name: rows[key] for name, key in named.items() if key in rows and rows[key].notna().all()}
    values["change"] = values["distilled"] - values["base"]
    return {name: ratio(value, tokens, clusters) for name, value in values.items()}
