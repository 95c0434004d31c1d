"""Next-token logits of growing sequences, with what earlier tokens left behind kept: for sampling.

Letters in shapes: B sequences, T new tokens, S tokens so far (padding on the left included), H query heads, K key
heads, D head size, d width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from hh_scaling.packed_attention import rotated
from hh_scaling.packed_llama import PackedLlama, can_pack, cast, normalise, parameters, turn_at
from hh_scaling.packing import UNSEEN


class Decoder(Protocol):
    """Reads left-padded prompts, then one token a sequence at a time; gives (B, V) logits of what comes next."""

    def read(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, V) logits after the last of them."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these sequences only."""


def decoder_of(model: PreTrainedModel, seen: Tensor, max_tokens: int) -> Decoder:
    """The fastest decoder for this model; ``seen`` (B, T) is 1 on the prompts' tokens and 0 on their padding."""
    if model.device.type == "cpu" and can_pack(model.base_model):
        return LlamaDecoder(model, seen, max_tokens)
    return CachedDecoder(model, seen)


class CachedDecoder:
    """Any architecture, through transformers' own cache."""

    def __init__(self, model: PreTrainedModel, seen: Tensor) -> None:
        self.model, self.seen = model, seen
        self.cache = DynamicCache(config=model.config)
        self.positions = (seen.cumsum(1) - 1).clamp(min=0)

    def read(self, tokens: Tensor) -> Tensor:
        if self.cache.get_seq_length() > 0:
            self.positions = self.positions[:, -1:] + 1
            self.seen = torch.cat([self.seen, torch.ones_like(tokens)], dim=1)
        logits: Tensor = self.model(
            input_ids=tokens, attention_mask=self.seen, position_ids=self.positions, past_key_values=self.cache,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        return logits

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.seen, self.positions = self.seen[rows], self.positions[rows]


class LlamaDecoder:
    """A Llama's layers written out: few operations a token, keys and values in room that is made once."""

    def __init__(self, model: PreTrainedModel, seen: Tensor, max_tokens: int) -> None:
        packed = PackedLlama(model, model.dtype)
        self.trunk, self.heads, self.dtype = packed.trunk, packed.heads, packed.dtype
        self.head: Any = model.get_output_embeddings()
        self.weights = [cast(parameters(layer), self.heads, self.dtype) for layer in self.trunk.layers]
        n, width = seen.shape
        room = (len(self.weights), 2, n, self.heads.n_key, width + max_tokens, self.heads.size)
        self.cache = torch.empty(room, dtype=self.dtype)
        self.length = 0
        self.bias = torch.zeros(n, 1, 1, width + max_tokens, dtype=self.dtype)
        self.bias[..., :width].masked_fill_(seen[:, None, None] == 0, UNSEEN)
        self.positions = (seen.cumsum(1) - 1).clamp(min=0)

    def read(self, tokens: Tensor) -> Tensor:
        if self.length:
            self.positions = self.positions[:, -1:] + 1
        n, width = tokens.shape
        start, self.length = self.length, self.length + width
        bias = self.bias[..., : self.length]
        if width > 1:  # a token sees itself and what precedes it
            bias = bias + torch.full((width, self.length), UNSEEN, dtype=self.dtype).triu_(1 + start)
        x = self.trunk.embed_tokens(tokens).float()
        turn = turn_at(self.trunk, x, self.positions)
        x = x.flatten(0, 1)
        for i in range(len(self.weights)):
            x = self.layer(i, x, turn, bias, start)
        last = x.view(n, width, -1)[:, -1]
        logits: Tensor = self.head(self.trunk.norm(last.to(self.dtype)))
        return logits

    def layer(self, index: int, x: Tensor, turn: Tensor, bias: Tensor, start: int) -> Tensor:
        """x (B T, d) after layer ``index``; turn (B, T, D / 2), bias (B, 1, 1 or T, S)."""
        w, heads = self.weights[index], self.heads
        n, width = turn.shape[:2]
        y, _ = normalise(x, heads.eps, self.dtype)
        qkv = F.linear(y * w.norm, w.qkv).view(n, width, -1, heads.size).transpose(1, 2)  # (B, H + 2 K, T, D)
        turned, value = qkv.split([heads.n_query + heads.n_key, heads.n_key], 1)
        query, key = rotated(turned, turn, self.dtype).split([heads.n_query, heads.n_key], 1)
        keys, values = self.cache[index, :, :, :, : self.length]
        keys[:, :, start:] = key
        values[:, :, start:] = value
        query = query.reshape(n, heads.n_key, -1, heads.size)  # scaled by its weights
        repeated = bias if width == 1 else bias.repeat(1, 1, heads.n_query // heads.n_key, 1)
        mixed = F.scaled_dot_product_attention(query, keys, values, repeated.expand(n, 1, -1, -1), scale=1.0)
        mixed = mixed.view(n, heads.n_query, width, heads.size).transpose(1, 2).reshape(n * width, -1)
        x = x + F.linear(mixed, w.out)
        y, _ = normalise(x, heads.eps, self.dtype)
        h = y * w.norm2
        return x + F.linear(F.silu(F.linear(h, w.gate)) * F.linear(h, w.up), w.down)

    def keep(self, rows: Tensor) -> None:
        self.cache, self.bias = self.cache[:, :, rows], self.bias[rows]
        self.positions = self.positions[rows]
