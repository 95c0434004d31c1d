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

    qkv: Tensor  # (H D + 2 K D, d), queries times the scale of attention
    out: Tensor  # (d, H D)
    gate: Tensor  # (f, d)
    up: Tensor  # (f, d)
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
        qkv=(torch.cat([q * heads.size**-0.5, k, v]) * norm).to(dtype),
        out=out.to(dtype),
        gate=(gate * norm2).to(dtype),
        up=(up * norm2).to(dtype),
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


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> Tensor:
    """Rotary embedding of (..., D) in ``out``: pairs are (i, i + D / 2)."""
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    torch.mul(low, cos, out=out[..., :half]).addcmul_(high, sin, value=-1)
    torch.mul(high, cos, out=out[..., half:]).addcmul_(low, sin)
    return out


# ---------------------------------------------------------------- a layer


class _Layer(torch.autograd.Function):
    """x + attention + MLP of one decoder layer at the wanted rows; parameters in the order of ``parameters``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows, heads: Heads, w: Working, *params: Tensor) -> Tensor:
        wanted = rows.wanted
        h, scale = normalise(x, heads.eps, w.out.dtype)
        q, k, v = projected(h, w, rows, heads)
        mixed, weights = attend(q, k, v, rows, heads)
        x = (x if wanted is None else x[wanted]) + F.linear(mixed, w.out)
        h2, scale2 = normalise(x, heads.eps, w.out.dtype)
        gate, up = F.linear(h2, w.gate), F.linear(h2, w.up)
        x += F.linear(F.silu(gate).mul_(up), w.down)
        ctx.rows, ctx.heads, ctx.w = rows, heads, w
        ctx.save_for_backward(h, scale, q, k, v, mixed, h2, scale2, gate, up, *params, *weights)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        h, scale, q, k, v, mixed, h2, scale2, gate, up, *rest = ctx.saved_tensors
        params, weights = rest[:9], rest[9:]
        rows, heads, w = ctx.rows, ctx.heads, ctx.w
        norm, w_query, w_key, w_value, _, norm2, w_gate, w_up, _ = params
        grad, grad_gate, grad_up, grad_down = mlp_backward(grad, h2, scale2, gate, up, w)
        low = grad.to(w.out.dtype)
        grad_h, grad_qkv = attend_backward(low @ w.out, (q, k, v), weights, h, w, rows, heads)
        if rows.wanted is not None:
            whole = torch.zeros(len(h), grad.shape[1], dtype=grad.dtype, device=grad.device)
            grad = whole.index_copy_(0, rows.wanted, grad)
        grad_query, grad_key, grad_value = grad_qkv.split([len(w_query), len(w_key), len(w_value)])
        grad_query = grad_query * heads.size**-0.5
        return (
            add_norm_gradient(grad, grad_h, h, scale), None, None, None,
            unfold((grad_query, w_query), (grad_key, w_key), (grad_value, w_value)),
            grad_query * norm, grad_key * norm, grad_value * norm, product_sum(low, mixed),
            unfold((grad_gate, w_gate), (grad_up, w_up)), grad_gate * norm2, grad_up * norm2, grad_down,
        )  # fmt: skip


def unfold(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """(d,) gradient of a norm's weight from those of the folded matrices W diag(norm) that follow it."""
    return torch.stack([(grad * weight).sum(0) for grad, weight in pairs]).sum(0)


def product_sum(left: Tensor, right: Tensor) -> Tensor:
    """left.T @ right over the rows, in float32: a weight's gradient."""
    return (left.T @ right).float()


def mlp_backward(
    grad: Tensor, h: Tensor, scale: Tensor, gate: Tensor, up: Tensor, w: Working
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients at the MLP's input (residual included), and of the folded gate, the folded up and the down matrix."""
    low = grad.to(h.dtype)
    activated = F.silu(gate)
    grad_down = product_sum(low, activated * up)
    grad_inner = low @ w.down
    grad_up = activated.mul_(grad_inner)
    grad_gate = torch.ops.aten.silu_backward(grad_inner.mul_(up), gate)
    grad_h = torch.addmm(grad_gate @ w.gate, grad_up, w.up)
    return add_norm_gradient(grad, grad_h, h, scale), product_sum(grad_gate, h), product_sum(grad_up, h), grad_down


# ---------------------------------------------------------------- attention


def projected(h: Tensor, w: Working, rows: Rows, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """(M, H, D) rotated queries, (N, K, D) rotated keys, (N, K, D) values."""
    n_query, n_both = heads.n_query, heads.n_query + heads.n_key
    if rows.wanted is None:
        qkv = F.linear(h, w.qkv).unflatten(-1, (-1, heads.size))
        qk = qkv[:, :n_both]
        rotated = rotate(qk, rows.cos, rows.sin, torch.empty(qk.shape, dtype=qk.dtype, device=qk.device))
        return rotated[:, :n_query], rotated[:, n_query:], qkv[:, n_both:]
    cut = n_query * heads.size
    query = F.linear(h[rows.wanted], w.qkv[:cut]).unflatten(-1, (-1, heads.size))
    key, value = F.linear(h, w.qkv[cut:]).unflatten(-1, (-1, heads.size)).split([heads.n_key] * 2, 1)
    cos, sin = rows.cos[rows.wanted], rows.sin[rows.wanted]
    key = rotate(key, rows.cos, rows.sin, torch.empty(key.shape, dtype=key.dtype, device=key.device))
    return rotate(query, cos, sin, torch.empty_like(query)), key, value


def by_head(x: Tensor, n_trees: int, n_key: int) -> Tensor:
    """(rows, heads, D) of a block as (n K, heads / K * rows of a tree, D), copied: products of views are slow."""
    per_tree = x.unflatten(0, (n_trees, -1)).transpose(1, 2).contiguous()  # (n, heads, rows, D)
    return per_tree.view(n_trees * n_key, -1, x.shape[-1])


def put_by_head(x: Tensor, into: Tensor, n_trees: int) -> None:
    """Write (n K, heads / K * rows of a tree, D) back into a block's (rows, heads, D)."""
    target = into.unflatten(0, (n_trees, -1)).transpose(1, 2)
    target.copy_(x.view(target.shape))


def attend(q: Tensor, k: Tensor, v: Tensor, rows: Rows, heads: Heads) -> tuple[Tensor, list[Tensor]]:
    """(M, H D) attention of packed rows, each tree by itself, and every block's attention weights."""
    mixed = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    kept: list[Tensor] = []
    ends = rows.wanted is not None
    for block in rows.blocks:
        asked, n = block.queries(ends), block.n_trees
        query, key, value = (by_head(x, n, heads.n_key) for x in (q[asked], k[block.rows], v[block.rows]))
        scores = torch.bmm(query, key.transpose(1, 2))
        scores.view(n, heads.n_query, -1, block.length).add_(block.bias_at(ends, scores.dtype))
        kept.append(torch.softmax(scores, -1))
        put_by_head(torch.bmm(kept[-1], value), mixed[asked], n)
    return mixed.flatten(1), kept


def attend_backward(
    grad: Tensor, saved: Saved, weights: Sequence[Tensor], h: Tensor, w: Working, rows: Rows, heads: Heads
) -> tuple[Tensor, Tensor]:
    """Gradients at the attention's normalised input (N, d) and of the folded matrix of queries, keys and values."""
    q, k, v = saved
    n_query, n_key, size = heads.n_query, heads.n_key, heads.size
    grad = grad.unflatten(-1, (n_query, size))
    ends = rows.wanted is not None
    grad_q = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    grad_kv = torch.zeros(len(h), 2 * n_key, size, dtype=q.dtype, device=q.device)
    for block, weight in zip(rows.blocks, weights, strict=True):
        asked, n = block.queries(ends), block.n_trees
        query, key, value = (by_head(x, n, n_key) for x in (q[asked], k[block.rows], v[block.rows]))
        incoming = by_head(grad[asked], n, n_key)
        grad_weight = torch.bmm(incoming, value.transpose(1, 2))
        grad_score = torch.ops.aten._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
        put_by_head(torch.bmm(grad_score, key), grad_q[asked], n)
        put_by_head(torch.bmm(grad_score.transpose(1, 2), query), grad_kv[block.rows, :n_key], n)
        put_by_head(torch.bmm(weight.transpose(1, 2), incoming), grad_kv[block.rows, n_key:], n)
    back = -rows.sin
    if rows.wanted is None:
        whole = torch.empty(len(h), n_query + 2 * n_key, size, dtype=q.dtype, device=q.device)
        rotate(grad_q, rows.cos, back, whole[:, :n_query])
        rotate(grad_kv[:, :n_key], rows.cos, back, whole[:, n_query : n_query + n_key])
        whole[:, n_query + n_key :] = grad_kv[:, n_key:]
        flat = whole.flatten(1)
        return flat @ w.qkv, product_sum(flat, h)
    cut = n_query * size
    grad_q = rotate(grad_q, rows.cos[rows.wanted], back[rows.wanted], torch.empty_like(grad_q)).flatten(1)
    keys = rotate(grad_kv[:, :n_key], rows.cos, back, torch.empty_like(grad_kv[:, :n_key]))
    flat = torch.cat([keys, grad_kv[:, n_key:]], 1).flatten(1)
    grad_h = (flat @ w.qkv[cut:]).index_add_(0, rows.wanted, grad_q @ w.qkv[:cut])
    return grad_h, torch.cat([product_sum(grad_q, h[rows.wanted]), product_sum(flat, h)])
