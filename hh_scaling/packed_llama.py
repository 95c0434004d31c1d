"""A Llama's decoder layers over packed rows, forward and backward written out: few passes over memory.

On a processor a small model spends its time not in matrix products but in what lies between them: casts, norms,
rotations, copies of heads. Here each layer is one function with its own derivative. Norm weights are folded into the
matrices that follow them, heads are rotated straight into the layout that attention reads, gate and up projection are
one product, and the last layer is computed only at the rows that are asked for. The residual stream stays float32.

Letters in shapes: N packed rows, d width, H query heads, K key heads, D head size, f inner width; in a block n trees of
L rows, of which Q ask (all of them, or in the last layer the wanted ones).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaModel, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from hh_scaling.packing import Block, Packed

Saved = tuple[Tensor, ...]


def can_pack(trunk: Any) -> bool:
    """Whether ``PackedLlama`` computes what this trunk computes: a Llama as transformers builds it, without biases."""
    if type(trunk) is not LlamaModel or trunk.config.hidden_act != "silu":
        return False
    return all(type(layer) is LlamaDecoderLayer for layer in trunk.layers) and not any(
        name.endswith("bias") for name, _ in trunk.named_parameters()
    )


@dataclass(frozen=True)
class Heads:
    """How the width is divided, and the norms' epsilon."""

    n_query: int
    n_key: int
    size: int
    eps: float


@dataclass(frozen=True)
class Working:
    """A layer's weights as its products take them, norm weights folded in; in the dtype of the products."""

    query: Tensor  # (H D, d), times the scale of attention
    key_value: Tensor  # (2 K D, d)
    out: Tensor  # (d, H D)
    gate_up: Tensor  # (2 f, d)
    down: Tensor  # (d, f)


@dataclass(frozen=True)
class Rows:
    """What a layer is computed on: the blocks of the packed rows, their rotation, and the rows that ask."""

    blocks: Sequence[Block]
    cos: Tensor  # (N, 1, D / 2)
    sin: Tensor
    wanted: Tensor | None  # (M,) rows, as many from every tree, tree after tree; None: all


class PackedLlama:
    """(packed rows, wanted rows) -> hidden states there, before the final norm; with gradients of the weights."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        trunk: Any = model.base_model
        config = trunk.config
        self.trunk, self.dtype = trunk, dtype
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.heads = Heads(config.num_attention_heads, config.num_key_value_heads, size, config.rms_norm_eps)
        self.working: dict[int, Working] | None = None
        _, q, _, _, out, norm2, gate, up, down = parameters(trunk.layers[-1])
        self.n_skipped = sum(p.numel() for p in (q, out, norm2, gate, up, down))  # per row that is not wanted

    def __call__(self, packed: Packed, wanted: Tensor | None = None) -> Tensor:
        """(M, d) float32, M the number of wanted rows (all N where None)."""
        x = self.trunk.embed_tokens(packed.tokens)
        cos, sin = self.trunk.rotary_emb(x[None], packed.positions[None])
        half = self.heads.size // 2
        cos, sin = (side[0, :, None, :half].to(self.dtype) for side in (cos, sin))
        layers = self.trunk.layers
        for i, layer in enumerate(layers):
            rows = Rows(packed.blocks, cos, sin, wanted if i == len(layers) - 1 else None)
            x = _Layer.apply(x, rows, self.heads, self.weights(i, layer), *parameters(layer))
        return x

    @contextlib.contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Within it the model's weights must not change: working weights are made once and not for every call."""
        self.working = {}
        try:
            yield
        finally:
            self.working = None

    @torch.no_grad()
    def weights(self, index: int, layer: Any) -> Working:
        """The layer's working weights."""
        if self.working is None:
            return fold(parameters(layer), self.heads, self.dtype)
        if index not in self.working:
            self.working[index] = fold(parameters(layer), self.heads, self.dtype)
        return self.working[index]


def parameters(layer: Any) -> tuple[Tensor, ...]:
    """A layer's parameters in the order that ``_Layer`` takes them and returns their gradients."""
    attention, mlp = layer.self_attn, layer.mlp
    return (
        layer.input_layernorm.weight,
        attention.q_proj.weight,
        attention.k_proj.weight,
        attention.v_proj.weight,
        attention.o_proj.weight,
        layer.post_attention_layernorm.weight,
        mlp.gate_proj.weight,
        mlp.up_proj.weight,
        mlp.down_proj.weight,
    )


def fold(weights: tuple[Tensor, ...], heads: Heads, dtype: torch.dtype) -> Working:
    """Working weights: W diag(norm) in place of a norm's weight before W, queries times 1 / sqrt(D)."""
    norm, q, k, v, out, norm2, gate, up, down = weights
    return Working(
        query=(q * (norm * heads.size**-0.5)).to(dtype),
        key_value=(torch.cat([k, v]) * norm).to(dtype),
        out=out.to(dtype),
        gate_up=(torch.cat([gate, up]) * norm2).to(dtype),
        down=down.to(dtype),
    )


# ---------------------------------------------------------------- pieces


def normalise(x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x / rms(x) in ``dtype``, and (M, 1) 1 / rms(x); the norm's weight is folded into what follows."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    scale = mean_square.add_(eps).rsqrt_()
    return torch.mul(x, scale, out=torch.empty_like(x, dtype=dtype)), scale


def add_norm_gradient(grad: Tensor, grad_normed: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """grad + the gradient through ``normalise``: scale * (g - y * mean(g y)), y the normalised rows."""
    dot = (grad_normed * normed).sum(-1, keepdim=True, dtype=torch.float32).div_(normed.shape[-1])
    inner = torch.addcmul(grad_normed, normed, dot.to(normed.dtype), value=-1)
    return torch.addcmul(grad, inner.to(grad.dtype), scale)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotary embedding of (..., D) into ``out``, any layout: pairs are (i, i + D / 2)."""
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    torch.mul(low, cos, out=out[..., :half]).addcmul_(high, sin, value=-1)
    torch.mul(high, cos, out=out[..., half:]).addcmul_(low, sin)


def by_tree(x: Tensor, block: Block, n_rows: int) -> Tensor:
    """(n, rows, ...) view of a block's part of (N, ...)."""
    return x.unflatten(0, (block.n_trees, n_rows))


# ---------------------------------------------------------------- a layer


class _Layer(torch.autograd.Function):
    """x + attention + MLP of one decoder layer at the wanted rows; parameters in the order of ``parameters``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows, heads: Heads, w: Working, *params: Tensor) -> Tensor:
        wanted = rows.wanted
        h, scale = normalise(x, heads.eps, w.out.dtype)
        h_query = h if wanted is None else h[wanted]
        q, kv = F.linear(h_query, w.query), F.linear(h, w.key_value)
        mixed, saved = attend(q, kv, rows, heads)
        x = (x if wanted is None else x[wanted]) + F.linear(mixed, w.out)
        h2, scale2 = normalise(x, heads.eps, w.out.dtype)
        gate_up = F.linear(h2, w.gate_up)
        gate, up = gate_up.chunk(2, -1)
        x += F.linear(F.silu(gate).mul_(up), w.down)
        ctx.rows, ctx.heads, ctx.w = rows, heads, w
        ctx.save_for_backward(h, scale, h_query, mixed, h2, scale2, gate_up, *params, *saved)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        h, scale, h_query, mixed, h2, scale2, gate_up, *rest = ctx.saved_tensors
        params, saved = rest[:9], rest[9:]
        rows, heads, w = ctx.rows, ctx.heads, ctx.w
        norm, q, k, v, _, norm2, gate, up, _ = params
        grad, grad_gate_up, grad_down = mlp_backward(grad, h2, scale2, gate_up, w)
        low = grad.to(w.out.dtype)
        grad_out = low.T @ mixed
        grad_q, grad_kv = attend_backward(low @ w.out, saved, rows, heads, len(h))
        grad_wq, grad_wkv = grad_q.T @ h_query, grad_kv.T @ h
        grad_h = grad_kv @ w.key_value
        if rows.wanted is None:
            grad_h.addmm_(grad_q, w.query)
        else:
            grad_h.index_add_(0, rows.wanted, grad_q @ w.query)
            grad = torch.zeros(len(h), grad.shape[1], dtype=grad.dtype, device=grad.device).index_copy_(
                0, rows.wanted, grad
            )
        grad_x = add_norm_gradient(grad, grad_h, h, scale)
        grad_wk, grad_wv = grad_wkv.split([len(k), len(v)])
        scaled = norm * heads.size**-0.5
        grad_norm = unfold((grad_wq.float() * heads.size**-0.5, q), (grad_wk, k), (grad_wv, v))
        grad_gate, grad_up = grad_gate_up.chunk(2)
        return (
            grad_x, None, None, None,
            grad_norm, grad_wq * scaled, grad_wk * norm, grad_wv * norm, grad_out.float(),
            unfold((grad_gate, gate), (grad_up, up)), grad_gate * norm2, grad_up * norm2, grad_down.float(),
        )  # fmt: skip


def unfold(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """(d,) gradient of a norm's weight from those of the folded matrices W diag(norm) that follow it."""
    return torch.stack([(grad * weight).sum(0) for grad, weight in pairs]).sum(0)


def mlp_backward(grad: Tensor, h: Tensor, scale: Tensor, gate_up: Tensor, w: Working) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients at the MLP's input (residual included), of the folded gate and up matrix, and of the down matrix."""
    gate, up = gate_up.chunk(2, -1)
    low = grad.to(h.dtype)
    activated = F.silu(gate)
    grad_down = low.T @ (activated * up)
    grad_inner = low @ w.down
    both = torch.empty_like(gate_up)
    grad_gate, grad_up = both.chunk(2, -1)
    torch.mul(grad_inner, activated, out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad_inner.mul_(up), gate, grad_input=grad_gate)
    return add_norm_gradient(grad, both @ w.gate_up, h, scale), both.T @ h, grad_down


# ---------------------------------------------------------------- attention


def attend(q: Tensor, kv: Tensor, rows: Rows, heads: Heads) -> tuple[Tensor, Saved]:
    """(M, H D) attention of packed rows, each tree by itself; saves rotated queries, keys, values and weights."""
    mixed = torch.zeros_like(q)
    saved: list[Tensor] = []
    for block in rows.blocks:
        query, key, value = heads_of(q, kv, block, rows, heads)
        scores = torch.bmm(query, key.transpose(1, 2))
        seen = scores.view(block.n_trees, heads.n_query, -1, block.length)
        seen.add_(block.bias_at(rows.wanted is not None, scores.dtype))
        weights = torch.softmax(scores, -1)
        out = torch.bmm(weights, value).view(block.n_trees, heads.n_query, -1, heads.size)
        target = by_tree(mixed[block.queries(rows.wanted is not None)], block, out.shape[2])
        target.unflatten(-1, (heads.n_query, heads.size)).copy_(out.transpose(1, 2))
        saved += [query, key, value, weights]
    return mixed, tuple(saved)


def heads_of(q: Tensor, kv: Tensor, block: Block, rows: Rows, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """(n K, H / K * Q, D) rotated queries, (n K, L, D) rotated keys and values of a block."""
    part, asked = block.rows, block.queries(rows.wanted is not None)
    n, n_asked = block.n_trees, (asked.stop - asked.start) // block.n_trees
    cos, sin = (by_tree(side[part], block, block.length) for side in (rows.cos, rows.sin))
    if rows.wanted is None:
        cos_q, sin_q = cos, sin
    else:
        cos_q, sin_q = (by_tree(side[rows.wanted[asked]], block, n_asked) for side in (rows.cos, rows.sin))
    q = by_tree(q[asked], block, n_asked).unflatten(-1, (heads.n_query, heads.size))
    key, value = by_tree(kv[part], block, block.length).unflatten(-1, (2, heads.n_key, heads.size)).unbind(2)
    queries = torch.empty(n, heads.n_query, n_asked, heads.size, dtype=q.dtype, device=q.device)
    keys = torch.empty(n, heads.n_key, block.length, heads.size, dtype=q.dtype, device=q.device)
    rotate(q, cos_q, sin_q, queries.transpose(1, 2))
    rotate(key, cos, sin, keys.transpose(1, 2))
    return (
        queries.view(n * heads.n_key, -1, heads.size),
        keys.view(n * heads.n_key, block.length, heads.size),
        value.transpose(1, 2).reshape(n * heads.n_key, block.length, heads.size),
    )


def attend_backward(grad: Tensor, saved: Sequence[Tensor], rows: Rows, heads: Heads, n_rows: int) -> Saved:
    """Gradients of ``attend``'s queries (M, H D) and keys and values (N, 2 K D), before the rotation."""
    grad_q = torch.zeros_like(grad)
    grad_kv = torch.zeros(n_rows, 2 * heads.n_key * heads.size, dtype=grad.dtype, device=grad.device)
    short = rows.wanted is not None
    for i, block in enumerate(rows.blocks):
        query, key, value, weights = saved[4 * i : 4 * i + 4]
        part, asked = block.rows, block.queries(short)
        n, n_asked = block.n_trees, (asked.stop - asked.start) // block.n_trees
        incoming = by_tree(grad[asked], block, n_asked).unflatten(-1, (heads.n_query, heads.size))
        incoming = incoming.transpose(1, 2).reshape(query.shape)
        grad_weights = torch.bmm(incoming, value.transpose(1, 2))
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        cos, sin = (by_tree(side[part], block, block.length) for side in (rows.cos, rows.sin))
        cos_q, sin_q = (cos, sin)
        if rows.wanted is not None:
            cos_q, sin_q = (by_tree(side[rows.wanted[asked]], block, n_asked) for side in (rows.cos, rows.sin))
        to_q = by_tree(grad_q[asked], block, n_asked).unflatten(-1, (heads.n_query, heads.size))
        to_k, to_v = by_tree(grad_kv[part], block, block.length).unflatten(-1, (2, heads.n_key, heads.size)).unbind(2)
        back = torch.bmm(grad_scores, key).view(n, heads.n_query, n_asked, heads.size)
        rotate(back.transpose(1, 2), cos_q, -sin_q, to_q)
        back = torch.bmm(grad_scores.transpose(1, 2), query).view(n, heads.n_key, block.length, heads.size)
        rotate(back.transpose(1, 2), cos, -sin, to_k)
        back = torch.bmm(weights.transpose(1, 2), incoming).view(n, heads.n_key, block.length, heads.size)
        to_v.copy_(back.transpose(1, 2))
    return grad_q, grad_kv
