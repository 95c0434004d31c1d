"""Packed trees through transformers' own layers: an attention function that keeps to the blocks.

For every architecture whose attention goes through transformers' ``AttentionInterface``, on any device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from hh_scaling.packing import Block, Packed

NAME = "hh_packed_trees"
OTHER_KINDS = ("sliding_window", "softcap", "s_aux")  # as transformers' models call them


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    blocks: Sequence[Block] = (),
    **options: Any,
) -> tuple[Tensor, None]:
    """(1, N, H, D) attention of a packed row's (1, H, N, D) queries, each tree by itself; padding gives 0.

    ValueError for attention of another kind (a window, a cap on scores, sinks): it would silently be left out.
    """
    if other := [name for name in OTHER_KINDS if options.get(name) is not None]:
        raise ValueError(f"attention with {other[0]} cannot be packed")
    mixed = torch.zeros_like(query.transpose(1, 2))
    for block in blocks:
        parts = [x[0, :, block.rows].unflatten(1, (block.n_trees, -1)).transpose(0, 1) for x in (query, key, value)]
        q, k, v = (part.to(parts[2].dtype) for part in parts)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=block.mask[:, None], scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        mixed[0, block.rows] = out.transpose(1, 2).flatten(0, 1).to(mixed.dtype)
    return mixed, None


AttentionInterface.register(NAME, attend)


@contextlib.contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model's attention keeps to the blocks that it is given."""
    config = model.base_model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def hidden_at_ends(model: PreTrainedModel, packed: Packed) -> Tensor:
    """(ends, d) last hidden states, final norm included, at the ends of the branches."""
    with packed_attention(model):
        hidden: Tensor = model.base_model(
            input_ids=packed.tokens[None],
            position_ids=packed.positions[None],
            blocks=packed.blocks,
            use_cache=False,
        ).last_hidden_state
    return hidden[0, packed.ends]
