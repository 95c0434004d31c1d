"""What a causal model says next, with or without a prompt before the text: logits, and the loss of held-out texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.models import autocast, hidden_states, micro_batches, pad_right
from hh_scaling.targets import Example

CACHED = 8  # keys and values of a prompt's token take about an eighth of the memory that a new token does


def predicting(lengths: Tensor, width: int) -> Tensor:
    """(B, width) True at each token that another follows."""
    return torch.arange(width, device=lengths.device) < lengths[:, None] - 1


def next_logits(model: PreTrainedModel, hidden: Tensor, lengths: Tensor, temperature: float) -> Tensor:
    """(N, V) float32 logits over the temperature of what follows each token but the last, sequence by sequence."""
    counted: Tensor = model.get_output_embeddings()(hidden[predicting(lengths, hidden.shape[1])])
    return counted.float() / temperature


class Prefix:
    """What every text of a batch follows: its keys and values are computed once."""

    def __init__(self, model: PreTrainedModel, ids: list[int], compute: Compute) -> None:
        self.model, self.length, self.compute = model, len(ids), compute
        self.cache = DynamicCache(config=model.config)
        if ids:
            with torch.no_grad(), autocast(compute):
                tokens = torch.tensor([ids], device=compute.device)
                model.base_model(input_ids=tokens, past_key_values=self.cache, use_cache=True)

    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, T, d_model) last hidden states of right-padded tokens (B, T), the prefix before each row."""
        if self.length == 0:
            return hidden_states(self.model, tokens)
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(len(tokens))
        positions = torch.arange(self.length, self.length + tokens.shape[1], device=tokens.device)
        out = self.model.base_model(
            input_ids=tokens, position_ids=positions[None], past_key_values=cache, use_cache=True
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def weights(self, lengths: Sequence[int]) -> list[int]:
        """What texts of these lengths take of a micro-batch, in new tokens."""
        return [n + self.length // CACHED for n in lengths]


@torch.no_grad()
def losses_after(prefix: Prefix, examples: Sequence[Example]) -> list[Tensor]:
    """Of each example the (T - 1,) cross-entropy in nats of every token but the first, on the CPU in float64."""
    model, compute = prefix.model, prefix.compute
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    for group in micro_batches(prefix.weights([len(e.tokens) for e in examples]), compute.micro_batch_tokens):
        tokens, lengths = pad_right([examples[i].tokens for i in group], model.config.pad_token_id or 0, compute.device)
        with autocast(compute):
            logits = next_logits(model, prefix.hidden(tokens), lengths, 1.0)
        followed = tokens[:, 1:][predicting(lengths, tokens.shape[1])[:, :-1]]
        nats = F.cross_entropy(logits, followed, reduction="none").double().cpu()
        for i, part in zip(group, nats.split([examples[i].n_predicted for i in group]), strict=True):
            found[i] = part
    return found
