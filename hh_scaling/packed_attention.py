"""Attention over packed rows, each tree by itself, forward and backward written out, and what a layer is made of.

Queries and keys are rotated block by block while they are copied into the layout that the products read; as many heads
as possible in one operation, since of short blocks the operations' own cost is what counts. Letters in shapes as in
``packed_llama``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hh_scaling.packing import Block


@dataclass(frozen=True)
class Heads:
    """How the width is divided, and the norms' epsilon."""

    n_query: int
    n_key: int
    size: int
    eps: float

    @property
    def scale(self) -> float:
        """Of attention's scores."""
        return self.size**-0.5


@dataclass(frozen=True)
class Working:
    """A layer's weights as its products take them, in their dtype."""

    norm: Tensor  # (d,)
    qkv: Tensor  # (H D + 2 K D, d), queries and keys in ``pairwise`` order, queries times attention's scale
    out: Tensor  # (d, H D)
    norm2: Tensor  # (d,)
    gate: Tensor  # (f, d)
    up: Tensor  # (f, d)
    down: Tensor  # (d, f)


@dataclass(frozen=True)
class Rows:
    """What a layer is computed on: the blocks of the packed rows, their rotation, and the rows that ask."""

    blocks: Sequence[Block]
    turn: Tensor  # (N, D / 2) complex: cos + i sin
    turn_back: Tensor  # its conjugate
    wanted: Tensor | None  # (M,) rows, as many from every tree, tree after tree; None: all


# ---------------------------------------------------------------- pieces


def rotated(x: Tensor, turn: Tensor, dtype: torch.dtype) -> Tensor:
    """Rotary embedding of (n, heads, rows, D), pairs being neighbours, in ``dtype``; its derivative with the conjugate.

    turn (n, rows, D / 2) complex; computed in float32.
    """
    wide = torch.empty(x.shape, device=x.device).copy_(x)
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2))).mul_(turn[:, None])
    return torch.view_as_real(pairs).flatten(-2).to(dtype)


def product_sum(left: Tensor, right: Tensor) -> Tensor:
    """left.T @ right over the rows: a weight's gradient."""
    return left.T @ right


# ---------------------------------------------------------------- attention


def projected(h: Tensor, w: Working, wanted: Tensor | None, heads: Heads) -> tuple[Tensor | None, Tensor]:
    """None and (N, H + 2 K, D) queries, keys and values, not rotated; where few rows ask, (M, H, D) and the rest."""
    if wanted is None:
        return None, F.linear(h, w.qkv).unflatten(-1, (-1, heads.size))
    cut = heads.n_query * heads.size
    query, key_value = F.linear(h[wanted], w.qkv[:cut]), F.linear(h, w.qkv[cut:])
    return query.unflatten(-1, (-1, heads.size)), key_value.unflatten(-1, (-1, heads.size))


def by_tree(x: Tensor, n_trees: int) -> Tensor:
    """(n, heads, rows of a tree, D) view of a block's (rows, heads, D)."""
    return x.unflatten(0, (n_trees, -1)).transpose(1, 2)


def by_head(x: Tensor, n_key: int) -> Tensor:
    """(n, heads, rows, D) as (n K, heads / K * rows, D), copied where it is a view: products of views are slow."""
    return x.contiguous().view(len(x) * n_key, -1, x.shape[-1])


def turns(turn: Tensor, rows: Rows, block: Block) -> tuple[Tensor, Tensor]:
    """(n, Q, D / 2) and (n, L, D / 2) rotations of a block's queries and keys, of (N, D / 2) those of all rows."""
    keys = by_block = turn[block.rows]
    if rows.wanted is not None:
        by_block = turn[rows.wanted[block.queries(True)]]
    return by_block.unflatten(0, (block.n_trees, -1)), keys.unflatten(0, (block.n_trees, -1))


def queries_and_keys(query: Tensor | None, x: Tensor, rows: Rows, block: Block, heads: Heads) -> tuple[Tensor, Tensor]:
    """(n, H, Q, D) and (n, K, L, D) of a block, rotated; as one where all rows ask: operations cost more than rows."""
    n, dtype = block.n_trees, x.dtype
    turn_query, turn_key = turns(rows.turn, rows, block)
    if query is None:
        both = rotated(by_tree(x[block.rows, : -heads.n_key], n), turn_key, dtype)
        return both[:, : heads.n_query], both[:, heads.n_query :]
    asking = by_tree(query[block.queries(True)], n)
    return rotated(asking, turn_query, dtype), rotated(by_tree(x[block.rows, : heads.n_key], n), turn_key, dtype)


def blank(like: Tensor, rows: Rows, n_rows: int, n_heads: int) -> Tensor:
    """(n_rows, n_heads, D) to be filled block by block; zeros in the rows after the last block."""
    room = like.new_empty(n_rows, n_heads, like.shape[-1])
    if n_rows > (used := rows.blocks[-1].rows.stop):
        room[used:] = 0
    return room


def attend(query: Tensor | None, x: Tensor, rows: Rows, heads: Heads) -> tuple[Tensor, list[Tensor]]:
    """(M, H D) attention of packed rows, each tree by itself, and every block's queries, keys, values and weights.

    What comes from ``projected``; queries are scaled already.
    """
    n_rows = len(x) if query is None else len(query)
    mixed = blank(x, rows, n_rows, heads.n_query)
    kept: list[Tensor] = []
    ends, n_key = rows.wanted is not None, heads.n_key
    for block in rows.blocks:
        n = block.n_trees
        q, k = (by_head(side, n_key) for side in queries_and_keys(query, x, rows, block, heads))
        v = by_head(by_tree(x[block.rows, -n_key:], n), n_key)
        bias = block.bias_at(ends, x.dtype).expand(-1, heads.n_query, -1, -1).reshape(n * n_key, -1, block.length)
        weight = torch.softmax(torch.baddbmm(bias, q, k.transpose(1, 2)), -1)
        kept += [q, k, v, weight]
        into = by_tree(mixed[block.queries(ends)], n)
        into.copy_(torch.bmm(weight, v).view(into.shape))
    return mixed.flatten(1), kept


def attend_backward(
    grad: Tensor, kept: Sequence[Tensor], h: Tensor, w: Working, rows: Rows, heads: Heads
) -> tuple[Tensor, Tensor]:
    """Gradients at the attention's normalised input (N, d) and of the matrix of queries, keys and values."""
    n_query, n_key, size = heads.n_query, heads.n_key, heads.size
    grad = grad.unflatten(-1, (n_query, size))
    ends = rows.wanted is not None
    grad_x = blank(grad, rows, len(h), (0 if ends else n_query) + 2 * n_key)
    grad_query = torch.zeros_like(grad) if ends else None
    for i, block in enumerate(rows.blocks):
        n = block.n_trees
        q, k, v, weight = kept[4 * i : 4 * i + 4]
        incoming = by_head(by_tree(grad[block.queries(ends)], n), n_key)
        grad_weight = torch.bmm(incoming, v.transpose(1, 2))
        grad_score = torch.ops.aten._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
        grad_q = torch.bmm(grad_score, k).view(n, n_query, -1, size)
        grad_k = torch.bmm(grad_score.transpose(1, 2), q).view(n, n_key, -1, size)
        turn_query, turn_key = turns(rows.turn_back, rows, block)
        if grad_query is not None:
            by_tree(grad_query[block.queries(ends)], n).copy_(rotated(grad_q, turn_query, torch.float32))
        else:
            grad_k = torch.cat([grad_q, grad_k], 1)
        into = by_tree(grad_x[block.rows], n)
        into[:, :-n_key].copy_(rotated(grad_k, turn_key, torch.float32))
        into[:, -n_key:].copy_(torch.bmm(weight.transpose(1, 2), incoming).view(n, n_key, -1, size))
    flat = grad_x.flatten(1)
    if grad_query is None:
        return flat @ w.qkv, product_sum(flat, h)
    assert rows.wanted is not None
    cut, flat_query = n_query * size, grad_query.flatten(1)
    grad_h = (flat @ w.qkv[cut:]).index_add_(0, rows.wanted, flat_query @ w.qkv[:cut])
    return grad_h, torch.cat([product_sum(flat_query, h[rows.wanted]), product_sum(flat, h)])
