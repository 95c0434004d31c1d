"""Sampling responses, and the log-probabilities and values of what was sampled.

A sample is a prompt and a response as token ids. Log-probabilities always come from a forward pass over the whole
sequence, never from the sampler, and at the sampling temperature.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.decoding import decoder_of
from hh_scaling.lora import plain_weights
from hh_scaling.losses import entropy, token_logprobs
from hh_scaling.models import autocast, forward_flops, hidden_states, micro_batches, pad_right, round_up
from hh_scaling.records import StageWriter
from hh_scaling.response_logprobs import TokenLogprobs, entropies, packed_hidden, packs, packs_trunk

STOP_TEXT = "\n\nHuman:"


@dataclass(frozen=True)
class Sample:
    """One sampled response: at least one token; an end token, when emitted, is its last."""

    prompt: list[int]
    response: list[int]
    ended: bool  # by an end token or by starting a new human turn, not by the length limit
    end_emitted: bool = False  # whether the last token is an end token
    cut: list[int] = field(default_factory=list)  # tokens sampled after the response: the stop text that ended it

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.response

    @property
    def uncut(self) -> Sample:
        """The sample with every token that was drawn as its response."""
        return replace(self, response=self.response + self.cut, cut=[])

    @property
    def text_ids(self) -> list[int]:
        """The response without its end token: what people and preference models read."""
        return self.response[:-1] if self.end_emitted else self.response


@dataclass(frozen=True)
class Scored:
    """Per response token; R is the longest response. All but the mask are float32 and 0 outside it."""

    mask: Tensor  # (B, R) bool, True on response tokens, the end token included
    logprobs: Tensor  # (B, R)
    values: Tensor  # (B, R), zeros without a critic
    entropy: Tensor  # (B, R)


class Values(Protocol):
    """What gives values of response tokens."""

    def __call__(self, hidden: Tensor, samples: Sequence[Sample], compute: Compute) -> Tensor:
        """(N,) float32 values before every response token; ``hidden`` (N, d) are the policy's states there."""

    def count(self, n_tokens: int, n_samples: int, out: StageWriter, passes: float = 1) -> None:
        """Add what reading the samples takes besides the policy's own pass."""


def sampling_copy(model: PreTrainedModel, plain: PreTrainedModel, compute: Compute) -> PreTrainedModel:
    """A copy to sample with: in bf16 where the stage computes in bf16, which saves casting weights at every token.

    ``plain`` is the model without adapters, which the copy has none of; ``refresh`` gives it the model's weights.
    """
    if compute.dtype != "bf16":
        return model
    sampler = copy.deepcopy(plain).to(torch.bfloat16)
    for name, buffer in plain.named_buffers():  # rotary frequencies lose too much in bf16
        owner, _, leaf = name.rpartition(".")
        setattr(sampler.get_submodule(owner), leaf, buffer.clone())
    return sampler


@torch.no_grad()
def refresh(sampler: PreTrainedModel, model: PreTrainedModel) -> None:
    """Copy the model's present (effective) weights into its sampling copy."""
    if sampler is not model:
        for ours, theirs in zip(sampler.parameters(), plain_weights(model), strict=True):
            ours.copy_(theirs)


def end_tokens(tokenizer: Any, model: PreTrainedModel) -> list[int]:
    """Ids that end a response: the tokenizer's, those of the model's generation settings, and the end of a document."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    ids.add(tokenizer.get_added_vocab().get("<|endoftext|>"))
    return sorted(i for i in ids if i is not None)


class StopText:
    """Finds a new human turn in a growing response; only tokens that could end it cause a look."""

    def __init__(self, tokenizer: Any, vocab_size: int = 0, ends: Sequence[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.ends = torch.tensor([tokenizer.eos_token_id] if ends is None else list(ends))
        self.may_end = torch.zeros(max(len(tokenizer), vocab_size), dtype=torch.bool)  # models pad their vocabulary
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        self.may_end[: len(pieces)] = torch.tensor([":" in piece for piece in pieces])

    def kept(self, response: list[int]) -> int | None:
        """How many tokens come wholly before the stop text (at least one), or None when it is not there."""
        at = self.tokenizer.decode(response).find(STOP_TEXT)
        if at < 0:
            return None
        before = (n for n in range(len(response), 0, -1) if len(self.tokenizer.decode(response[:n])) <= at)
        return next(before, 1)


def generate(model: PreTrainedModel, prompts: Sequence[list[int]], *, rows: int = 1024, **options: Any) -> list[Sample]:
    """One sampled response a prompt, in order, at most ``rows`` at once (the cache of keys and values grows with them).

    Options: max_tokens, temperature, tokenizer, stop, generator.
    """
    parts = [prompts[start : start + rows] for start in range(0, len(prompts), rows)]
    return [sample for part in parts for sample in generate_together(model, part, **options)]


@torch.no_grad()
def generate_together(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_tokens: int,
    temperature: float,
    tokenizer: Any,
    stop: StopText,
    generator: torch.Generator,
) -> list[Sample]:
    """One sampled response a prompt, from the full softmax at a temperature; finished rows leave the batch."""
    device = model.device
    width = round_up(max(map(len, prompts)))
    tokens = torch.full((len(prompts), width), tokenizer.pad_token_id, dtype=torch.long)
    attention = torch.zeros((len(prompts), width), dtype=torch.long)
    for i, prompt in enumerate(prompts):  # padding on the left, so that every response starts at the same column
        tokens[i, width - len(prompt) :] = torch.tensor(prompt)
        attention[i, width - len(prompt) :] = 1
    inputs, attention = tokens.to(device), attention.to(device)
    rows = torch.arange(len(prompts))  # which prompt each row of the batch belongs to
    alive = torch.ones(len(prompts), dtype=torch.bool)
    responses: list[list[int]] = [[] for _ in prompts]
    cuts: list[list[int]] = [[] for _ in prompts]
    ended, emitted = [False] * len(prompts), [False] * len(prompts)
    decoder = decoder_of(model, attention, max_tokens)
    for step in range(max_tokens):
        logits = decoder.read(inputs)
        sampled = sample_tokens(logits, temperature, generator)
        at_end = torch.isin(sampled.cpu(), stop.ends)
        finished = at_end.clone()
        look = stop.may_end[sampled.cpu()] & alive
        for j, token in enumerate(sampled.tolist()):
            if alive[j]:
                i = int(rows[j])
                responses[i].append(token)
                if look[j] and (n := stop.kept(responses[i])) is not None:
                    responses[i], cuts[i], finished[j] = responses[i][:n], responses[i][n:], True
                ended[i], emitted[i] = bool(finished[j]), bool(at_end[j])
        alive &= ~finished
        if not alive.any() or step == max_tokens - 1:
            break
        inputs = sampled[:, None]
        if alive.sum() <= 0.75 * len(alive):
            keep = alive.nonzero()[:, 0]
            decoder.keep(keep.to(device))
            inputs, rows, alive = inputs[keep], rows[keep], alive[keep]
    return [Sample(*fields) for fields in zip(prompts, responses, ended, emitted, cuts, strict=True)]


def sample_tokens(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """(B,) one token a row from the softmax of (B, V) logits at a temperature, by one uniform number a row.

    The sums of probabilities are in float64, so that rare tokens are as frequent as they should be.
    """
    sums = torch.softmax(logits.float() / temperature, dim=-1).cumsum(-1, dtype=torch.float64)
    uniform = torch.rand(len(sums), 1, dtype=torch.float64, device=sums.device, generator=generator)
    sampled = torch.searchsorted(sums, uniform * sums[:, -1:], right=True)[:, 0]
    return sampled.clamp(max=sums.shape[1] - 1)


def count_generation(model: PreTrainedModel, samples: Sequence[Sample], out: StageWriter) -> None:
    """Add a generation's tokens and operations to the stage's counters."""
    n_prompt, n_response = (sum(len(getattr(s, side)) for s in samples) for side in ("prompt", "response"))
    mean_context = (n_prompt + n_response / 2) / len(samples)
    out.count(n_prompt + n_response, forward_flops(model, n_prompt + n_response, mean_context, logits=n_response))


# ---------------------------------------------------------------- log-probabilities and values


def response_positions(samples: Sequence[Sample], n_tokens: int, device: Any) -> Tensor:
    """(B, T - 1) bool: True at the positions whose next token is a response token."""
    starts = torch.tensor([len(s.prompt) for s in samples], device=device)[:, None]
    ends = torch.tensor([len(s.ids) for s in samples], device=device)[:, None]
    target = torch.arange(1, n_tokens, device=device)[None]
    return (target >= starts) & (target < ends)


def response_hidden(model: PreTrainedModel, samples: Sequence[Sample], compute: Compute) -> Tensor:
    """(N, d) last hidden states before each response token, sample by sample; one forward pass, packed if it can be."""
    if packs_trunk(model, compute):
        dtype = torch.bfloat16 if compute.dtype == "bf16" else torch.float32
        return packed_hidden(model, [s.ids[:-1] for s in samples], [len(s.response) for s in samples], dtype)
    tokens, _ = pad_right([s.ids for s in samples], 0, compute.device)
    positions = response_positions(samples, tokens.shape[1], tokens.device)
    with autocast(compute):
        return hidden_states(model, tokens)[:, :-1][positions]


def response_forward(
    model: PreTrainedModel,
    critic: Values | None,
    samples: Sequence[Sample],
    temperature: float,
    compute: Compute,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) log-probabilities, values and entropies of all response tokens, row after row; one forward pass.

    Only response positions meet the output head: no tensor has all positions times the vocabulary.
    """
    hidden = response_hidden(model, samples, compute)
    targets = torch.tensor([token for s in samples for token in s.response], device=hidden.device)
    values = critic(hidden, samples, compute) if critic is not None else torch.zeros(len(targets), device=hidden.device)
    if packs(model, compute):
        dtype = torch.bfloat16 if compute.dtype == "bf16" else torch.float32
        head = model.get_output_embeddings().weight
        logprobs: Tensor = TokenLogprobs.apply(hidden, head, targets, temperature, dtype)
        spread = entropies(hidden, head, temperature, dtype) if with_entropy else torch.zeros_like(logprobs)
        return logprobs, values, spread
    with autocast(compute):
        n = len(hidden)
        padded = F.pad(hidden, (0, 0, 0, round_up(n, 64) - n))  # few different heights, as with widths
        logits = model.get_output_embeddings()(padded)[:n]
    logprobs = token_logprobs(logits, targets, temperature)
    spread = entropy(logits, temperature) if with_entropy else torch.zeros_like(logprobs)
    return logprobs, values, spread


def response_mask(samples: Sequence[Sample], device: Any = "cpu") -> Tensor:
    """(B, R) bool, True on each sample's response tokens."""
    lengths = torch.tensor([len(s.response) for s in samples], device=device)
    return torch.arange(int(lengths.max()), device=device)[None] < lengths[:, None]


@torch.no_grad()
def score_responses(
    model: PreTrainedModel,
    critic: Values | None,
    samples: Sequence[Sample],
    temperature: float,
    compute: Compute,
    out: StageWriter | None = None,
    with_entropy: bool = False,
) -> Scored:
    """Log-probabilities, values and entropies as (B, R) tensors, computed in micro-batches of similar length."""
    mask = response_mask(samples, compute.device)
    logprobs, values, spread = (torch.zeros(mask.shape, device=mask.device) for _ in range(3))
    for group in micro_batches([len(s.ids) for s in samples], compute.micro_batch_tokens):
        part = [samples[i] for i in group]
        result = response_forward(model, critic, part, temperature, compute, with_entropy)
        index = torch.tensor(group, device=mask.device)
        for target, packed in zip((logprobs, values, spread), result, strict=True):
            block = torch.zeros((len(group), mask.shape[1]), device=mask.device)
            block[mask[index]] = packed
            target[index] = block
        if out is not None:
            n_tokens, n_response = sum(len(s.ids) for s in part), sum(len(s.response) for s in part)
            out.count(n_tokens, forward_flops(model, n_tokens, n_tokens / len(part), logits=n_response))
            if critic is not None:
                critic.count(n_tokens, len(part), out)
    return Scored(mask, logprobs, values, spread)
