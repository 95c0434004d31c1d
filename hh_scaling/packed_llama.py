"""A Llama's decoder layers over packed rows, forward and backward written out: few passes over memory.

On a processor a small model spends its time not in matrix products but in what lies between them: casts, norms,
rotations, copies of heads. Here each layer is one function with its own derivative: heads are rotated block by block
while they are copied into the layout that attention reads, few tensors are kept, and the last layer is computed only
at the rows that are asked for. The residual stream stays float32.

Letters in shapes: N packed rows, d width, H query heads, K key heads, D head size, f inner width; in a block n trees of
L rows, of which Q ask (all of them, or in the last layer the wanted ones).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import LlamaModel, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from hh_scaling.lora import weight
from hh_scaling.packed_attention import Heads, Rows, Working, attend, attend_backward, product_sum, projected
from hh_scaling.packing import Packed

Saved = tuple[Tensor, ...]
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # others depend on the longest sequence of a batch


def can_pack(trunk: Any) -> bool:
    """Whether ``PackedLlama`` computes what this trunk computes: a Llama as transformers builds it, without biases."""
    if type(trunk) is not LlamaModel or trunk.config.hidden_act != "silu":
        return False
    if (getattr(trunk.config, "rope_parameters", None) or {}).get("rope_type", "default") not in ROPE_TYPES:
        return False
    return all(type(layer) is LlamaDecoderLayer for layer in trunk.layers) and not any(
        name.endswith("bias") for name, _ in trunk.named_parameters()
    )


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
        turn = turn_at(self.trunk, x[None], packed.positions[None])[0]
        back = torch.conj_physical(turn)
        layers = self.trunk.layers
        for i, layer in enumerate(layers):
            rows = Rows(packed.blocks, turn, back, wanted if i == len(layers) - 1 else None)
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
            return cast(parameters(layer), self.heads, self.dtype)
        if index not in self.working:
            self.working[index] = cast(parameters(layer), self.heads, self.dtype)
        return self.working[index]


def parameters(layer: Any) -> tuple[Tensor, ...]:
    """A layer's (effective) weights in the order that ``_Layer`` takes them and returns their gradients."""
    attention, mlp = layer.self_attn, layer.mlp
    return (
        layer.input_layernorm.weight,
        weight(attention.q_proj),
        weight(attention.k_proj),
        weight(attention.v_proj),
        weight(attention.o_proj),
        layer.post_attention_layernorm.weight,
        weight(mlp.gate_proj),
        weight(mlp.up_proj),
        weight(mlp.down_proj),
    )


def cast(weights: tuple[Tensor, ...], heads: Heads, dtype: torch.dtype) -> Working:
    """Working weights from a layer's parameters."""
    scaled = (weights[0], weights[1] * heads.scale, *weights[2:])
    norm, q, k, v, out, norm2, gate, up, down = (weight.to(dtype) for weight in scaled)
    qkv = torch.cat([pairwise(q, heads.size), pairwise(k, heads.size), v])
    return Working(norm, qkv, out, norm2, gate, up, down)


def pairwise(weight: Tensor, size: int) -> Tensor:
    """Rows of a (heads D, d) matrix with each head's two halves interleaved: what is rotated together is neighbours."""
    return weight.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).reshape(weight.shape)


def halves(grad: Tensor, size: int) -> Tensor:
    """The inverse of ``pairwise``."""
    return grad.unflatten(0, (-1, size // 2, 2)).transpose(1, 2).reshape(grad.shape)


# ---------------------------------------------------------------- pieces


def normalise(x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x / rms(x) in ``dtype``, and (M, 1) 1 / rms(x); without the norm's weight."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    scale = mean_square.add_(eps).rsqrt_()
    return torch.mul(x, scale, out=torch.empty_like(x, dtype=dtype)), scale


def norm_backward(grad: Tensor, grad_out: Tensor, y: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Through y * weight, y the normalised rows: ``grad`` + the gradient at the norm's input, and the weight's.

    The first is scale * (g - y * mean(g y)) with g = grad_out * weight.
    """
    product = grad_out * y
    mean = (product @ weight).div_(y.shape[-1])[:, None]
    inner = torch.addcmul(grad_out * weight, y, mean, value=-1)
    return torch.addcmul(grad, inner.to(grad.dtype), scale), product.sum(0, dtype=torch.float32)


def turn_at(trunk: Any, x: Tensor, positions: Tensor) -> Tensor:
    """(B, T, D / 2) complex cos + i sin of the rotary embedding at (B, T) positions; x is any tensor of its device."""
    cos, sin = (side.float().chunk(2, -1)[0].contiguous() for side in trunk.rotary_emb(x, positions))
    return torch.complex(cos, sin)


# ---------------------------------------------------------------- a layer


class _Layer(torch.autograd.Function):
    """x + attention + MLP of one decoder layer at the wanted rows; parameters in the order of ``parameters``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows, heads: Heads, w: Working, *params: Tensor) -> Tensor:
        wanted = rows.wanted
        y, scale = normalise(x, heads.eps, w.out.dtype)
        read = y * w.norm
        mixed, kept = attend(*projected(read, w, wanted, heads), rows, heads)
        x = (x if wanted is None else x[wanted]) + F.linear(mixed, w.out)
        y2, scale2 = normalise(x, heads.eps, w.out.dtype)
        h = y2 * w.norm2
        gate, up = F.linear(h, w.gate), F.linear(h, w.up)
        activated = F.silu(gate)
        inner = activated * up
        x += F.linear(inner, w.down)
        ctx.rows, ctx.heads, ctx.w = rows, heads, w
        ctx.save_for_backward(y, scale, read, mixed, y2, scale2, h, gate, up, activated, inner, *kept)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        y, scale, read, mixed, y2, scale2, *rest = ctx.saved_tensors
        mlp, kept = rest[:5], rest[5:]
        rows, heads, w = ctx.rows, ctx.heads, ctx.w
        grad_h, *grads_mlp = mlp_backward(grad.to(y.dtype), mlp, w)
        grad, grad_norm2 = norm_backward(grad, grad_h, y2, scale2, w.norm2)
        low = grad.to(y.dtype)
        grad_h, grad_qkv = attend_backward(low @ w.out, kept, read, w, rows, heads)
        if rows.wanted is not None:
            whole = torch.zeros(len(y), grad.shape[1], dtype=grad.dtype, device=grad.device)
            grad = whole.index_add_(0, rows.wanted, grad)
        grad_x, grad_norm = norm_backward(grad, grad_h, y, scale, w.norm)
        query, key, value = grad_qkv.split([n * heads.size for n in (heads.n_query, heads.n_key, heads.n_key)])
        return (
            grad_x, None, None, None,
            grad_norm, halves(query, heads.size).float() * heads.scale, halves(key, heads.size).float(),
            value.float(), product_sum(low, mixed).float(), grad_norm2, *(g.float() for g in grads_mlp),
        )  # fmt: skip


def mlp_backward(grad: Tensor, saved: Saved, w: Working) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients at the MLP's input, without the residual, and of the gate, the up and the down matrix."""
    h, gate, up, activated, inner = saved
    grad_down = product_sum(grad, inner)
    grad_inner = grad @ w.down
    grad_up = activated * grad_inner
    grad_gate = torch.ops.aten.silu_backward(grad_inner * up, gate)
    grad_h = torch.addmm(grad_gate @ w.gate, grad_up, w.up)
    return grad_h, product_sum(grad_gate, h), product_sum(grad_up, h), grad_down
