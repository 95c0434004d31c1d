"""KL between two language models on sampled responses, in nats, with nothing clamped.

For responses y drawn from p, three sums over the sampled tokens have the mean KL(p || q) = E_p[ln p(y) - ln q(y)]:

k1     ln p(y_t | y_<t) - ln q(y_t | y_<t), signed.
k3     r - 1 - ln r with r = q / p, never negative (Schulman 2020). Less spread than k1 while KL is small; heavy-tailed
       once it is large, where a sample's mean and its standard error are often both too low.
exact  sum_v p(v | y_<t) ln(p(v | y_<t) / q(v | y_<t)) over the whole vocabulary: the mean of k1 given what came
       before, so only the spread over prefixes is left (Rao-Blackwellised token by token). In practice the least
       spread of the three; no theorem, since k1's deviations at one token may offset means at later ones.

Each counts every token drawn, those of a stop text included although the response is cut before them: whether another
token is drawn then depends on the tokens drawn so far and on nothing else (an end token, the stop text, the limit), so
stopping has no KL of its own and the sums are unbiased. Over the kept tokens alone they are not: which are kept
depends on what was drawn after them, and choosing to stop by that text would cost nothing.

Both models are read in float32, also where a stage computes in bf16: a bf16 logit of size 8 is off by up to 0.03, and
as soon as weights differ at all two models round differently, which counts as KL that the weights do not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.losses import kl_exact_and_entropy, kl_k1, kl_k3
from hh_scaling.models import forward_flops, micro_batches, round_up
from hh_scaling.records import StageWriter
from hh_scaling.rollout import Sample, response_hidden

Floats = NDArray[np.float64]
CHUNK = 2**21  # logits of one model held at once, positions times vocabulary: 8 MiB in float32


@dataclass(frozen=True)
class ResponseKL:
    """Sums over each response's sampled tokens, (B,) float64; all but ``tokens`` in nats."""

    k1: Floats
    k3: Floats
    exact: Floats
    entropy: Floats  # of the sampler's next-token distributions
    tokens: Floats  # how many were sampled


class Reading(NamedTuple):
    """A model's output head, and its last hidden state (N, d_model) before each response token, sample by sample."""

    head: Any
    states: Tensor


def token_terms(logits: Tensor, other: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """(4, N) k1, k3, exact KL and entropy of each token, from the (N, V) logits of its sampler and the other model."""
    ours, theirs = (F.log_softmax(x.float() / temperature, dim=-1) for x in (logits, other))
    own, others = (x.gather(-1, tokens[:, None])[:, 0] for x in (ours, theirs))
    return torch.stack([kl_k1(own, others), kl_k3(own, others), *kl_exact_and_entropy(ours, theirs)])


@torch.no_grad()
def read(
    model: PreTrainedModel, samples: Sequence[Sample], compute: Compute, out: StageWriter | None = None
) -> Reading:
    """One forward pass over every sample, in micro-batches of similar length that depend on the samples alone."""
    drawn = [sample.uncut for sample in samples]
    lengths = [len(s.response) for s in drawn]
    precise = compute.model_copy(update={"dtype": "float32"})
    states: list[Tensor] = [torch.empty(0)] * len(drawn)
    for group in micro_batches([len(s.ids) for s in drawn], compute.micro_batch_tokens):
        part = [drawn[i] for i in group]
        hidden = response_hidden(model, part, precise)
        for i, own in zip(group, hidden.split([lengths[i] for i in group]), strict=True):
            states[i] = own
        if out is not None:
            n_tokens, n_response = sum(len(s.ids) for s in part), len(hidden)
            out.count(n_tokens, forward_flops(model, n_tokens, n_tokens / len(part), logits=n_response))
    return Reading(model.get_output_embeddings(), torch.cat(states))


@torch.no_grad()
def response_kl(
    sampler: Reading, other: Reading, samples: Sequence[Sample], temperature: float, compute: Compute
) -> ResponseKL:
    """KL(sampler || other) on responses that the sampler drew at that temperature, as two models read them.

    Models with equal weights give exactly 0. At most ``CHUNK`` logits of a model are held at a time.
    """
    drawn = [sample.uncut.response for sample in samples]
    lengths = np.array([len(response) for response in drawn])
    tokens = torch.tensor([token for response in drawn for token in response], device=compute.device)
    rows = max(64, CHUNK // sampler.head.weight.shape[0] // 64 * 64)
    terms = []
    for start in range(0, len(tokens), rows):
        wanted = tokens[start : start + rows]
        padding = round_up(len(wanted), 64) - len(wanted)  # few different heights, as with widths
        ours, theirs = (
            reading.head(F.pad(reading.states[start : start + rows], (0, 0, 0, padding)))[: len(wanted)]
            for reading in (sampler, other)
        )
        terms.append(token_terms(ours, theirs, wanted, temperature))
    every = torch.cat(terms, dim=1).double().cpu().numpy()
    k1, k3, exact, entropy = np.add.reduceat(every, np.cumsum(lengths) - lengths, axis=1)
    return ResponseKL(k1, k3, exact, entropy, lengths.astype(float))
