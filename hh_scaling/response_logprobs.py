"""Log-probabilities and values of response tokens from one forward pass, and their gradients.

Prompt tokens meet no output head, and no tensor has all positions times the vocabulary: the head is applied to a few
hundred response positions at a time, in the backward pass once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.losses import entropy
from hh_scaling.packed_llama import PackedLlama, can_pack
from hh_scaling.packing import pack
from hh_scaling.tree_scores import chains

ROWS_AT_ONCE = 256  # response positions that meet the output head together


def packs(model: PreTrainedModel, compute: Compute) -> bool:
    """Whether ``packed_hidden`` and ``TokenLogprobs`` compute what this model computes."""
    head: Any = model.get_output_embeddings()
    return packs_trunk(model, compute) and type(head) is torch.nn.Linear and head.bias is None


def packs_trunk(model: PreTrainedModel, compute: Compute) -> bool:
    """Whether ``packed_hidden`` computes what this model's trunk computes."""
    return torch.device(compute.device).type == "cpu" and can_pack(model.base_model)


def packed_hidden(model: PreTrainedModel, sequences: Sequence[list[int]], n_last: Sequence[int], dtype: Any) -> Tensor:
    """(N, d) float32 last hidden states, normed, of the last so many tokens of every sequence, in order."""
    packed = pack(chains(sequences), n_last=n_last)
    rows = torch.cat([torch.arange(last + 1 - n, last + 1) for last, n in zip(packed.lasts, n_last, strict=True)])
    trunk: Any = model.base_model
    normed: Tensor = trunk.norm(PackedLlama(model, dtype)(packed, packed.ends)[rows])
    return normed


class TokenLogprobs(torch.autograd.Function):
    """(N,) log-probability of each target under softmax(hidden @ head.T / temperature); float32.

    hidden (N, d), head (V, d), targets (N,). The products are in ``dtype``, the softmax in float32. Logits are made
    again in the backward pass: d log p_t / d logits = (one-hot of t - softmax) / temperature.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, dtype: torch.dtype
    ) -> Tensor:
        low, weight = hidden.to(dtype), head.to(dtype)
        result, total = torch.empty(2, len(hidden), device=hidden.device)
        for rows in chunks(len(hidden)):
            logits = scaled_logits(low[rows], weight, temperature)
            total[rows] = logits.logsumexp(-1)
            result[rows] = logits.gather(-1, targets[rows, None]).squeeze(-1) - total[rows]
        ctx.save_for_backward(low, weight, targets, total)
        ctx.temperature = temperature
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        low, weight, targets, total = ctx.saved_tensors
        grad_hidden = torch.empty(low.shape, device=low.device)
        wanted = ctx.needs_input_grad[1]  # not of a frozen head
        grad_head = torch.zeros(weight.shape, device=low.device) if wanted else None
        for rows in chunks(len(low)):
            slope = scaled_logits(low[rows], weight, ctx.temperature).sub_(total[rows, None]).exp_()
            slope.mul_(-grad[rows, None]).scatter_add_(-1, targets[rows, None], grad[rows, None])
            cast = slope.div_(ctx.temperature).to(low.dtype)
            grad_hidden[rows] = (cast @ weight).float()
            if grad_head is not None:
                grad_head += cast.T @ low[rows]
        return grad_hidden, grad_head, None, None, None


@torch.no_grad()
def entropies(hidden: Tensor, head: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """(N,) entropy in nats of softmax(hidden @ head.T / temperature)."""
    low, weight = hidden.to(dtype), head.to(dtype)
    parts = [entropy(scaled_logits(low[rows], weight, temperature)) for rows in chunks(len(low))]
    return torch.cat(parts)


def scaled_logits(hidden: Tensor, head: Tensor, temperature: float) -> Tensor:
    """(n, V) float32 logits over the temperature."""
    logits = torch.nn.functional.linear(hidden, head).float()
    return logits if temperature == 1 else logits.div_(temperature)


def chunks(n: int) -> Iterator[slice]:
    """Slices of ROWS_AT_ONCE of n rows, one after another."""
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, n, ROWS_AT_ONCE))
