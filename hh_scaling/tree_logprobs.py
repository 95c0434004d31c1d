"""Log-likelihoods of token sequences by a causal LM: trees in batches, by one process or by several.

A Llama on processors is computed by ``PackedLlama``; every other model by its own forward pass with a 4-D mask, tried
once against sequences alone, or, where it does not heed the mask, sequence by sequence.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.crew import Crew, balanced
from hh_scaling.models import autocast
from hh_scaling.packed_rows import PackedLogits, can_pack_lm
from hh_scaling.token_trees import Rule, Scorable, Target, Tree, batches, chain, grow, padded, seen

LOGITS_AT_ONCE = 1 << 18  # of them that are normalised together: what stays in a processor's cache
CPU_TOKENS = (256, 1024)  # least and most in one forward pass on a processor, where a fuller batch is no gain
CPU_ACTIVATIONS = 196_608  # tokens times width, between those: activations that stay in the cache are one
MIN_SHARED = 0.1  # of a sequence's tokens; below it a padded row's wider attention costs more than sharing saves
MASK_TOLERANCE = 1e-3  # nats a sequence in float32; a forward pass that does not heed the mask is off by more


class Score(NamedTuple):
    """Log-likelihood of a sequence's scored tokens (nats), and whether each was the likeliest one."""

    loglikelihood: float
    greedy: bool


@dataclass(frozen=True)
class Batch:
    """What one forward pass did, for counting and progress."""

    share: float  # of all that was asked for at once
    n_tokens: int  # without padding
    n_logits: int  # rows of the output
    mean_length: float  # of its trees, in tokens


Scored = tuple[dict[int, Score], Batch]


def ignore(batch: Batch) -> None:
    """Nobody hears of the batch."""


class TreeScorer:
    """Scores sequences with one causal LM, which it leaves as it is, apart from the mode that it was in."""

    def __init__(self, model: PreTrainedModel, compute: Compute) -> None:
        self.model, self.compute = model, compute
        self.batch_tokens = min(compute.micro_batch_tokens, most_tokens(model))
        dtype = torch.bfloat16 if compute.dtype == "bf16" else torch.float32
        self.packed = PackedLogits(model, dtype) if can_pack_lm(model) else None
        self.crew: Crew | None = None
        self.on_batch: Callable[[Batch], None] = ignore
        attention = getattr(model.config, "_attn_implementation", None)
        self.bool_mask = attention == "sdpa"
        self.may_share = None if attention in ("sdpa", "eager") else False  # None: not tried yet
        self.deepest_shared = getattr(model.config, "sliding_window", None) or float("inf")
        own = type(model).__module__.startswith("transformers.")  # others may know integers only
        self.keeps_logits = own and "logits_to_keep" in inspect.signature(model.forward).parameters

    @contextlib.contextmanager
    def by_processes(self, n: int) -> Iterator[None]:
        """Within it ``n`` processes do the scoring; the model must not change."""
        with self.fixed_weights(), Crew(n, (), score=self.score_part) as crew:
            self.crew = crew
            try:
                yield
            finally:
                self.crew = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within it this process computes with all its threads."""
        with self.crew.resting() if self.crew else contextlib.nullcontext():
            yield

    def fixed_weights(self) -> contextlib.AbstractContextManager[None]:
        """Within it the model must not change, which saves time."""
        return contextlib.nullcontext() if self.packed is None else self.packed.fixed_weights()

    @torch.no_grad()
    def score(self, sequences: Sequence[Scorable], on_batch: Callable[[Batch], None] = ignore) -> list[Score]:
        """Log-likelihood and greediness of each sequence; logits are normalised in float32 and summed in float64."""
        scores = [Score(0.0, True)] * len(sequences)
        with evaluating(self.model):
            trees = self.trees(sequences)
        work = list(batches(trees, self.batch_tokens, self.model.config.vocab_size))
        self.on_batch = on_batch
        try:
            for found, _ in self.score_all(work):
                for index, score in found.items():
                    scores[index] = score
        finally:
            self.on_batch = ignore
        return scores

    def score_all(self, work: Sequence[list[Tree]]) -> list[Scored]:
        """The batches' scores; this process tells of its own as they are done, of the others' at the end."""
        n_sequences = sum(len(tree.targets) for trees in work for tree in trees)
        if self.crew is None:
            with self.fixed_weights():
                return self.score_part((work, n_sequences))
        shares = balanced([sum(map(len, trees)) for trees in work], self.crew.n)
        own, *others = (([work[i] for i in share], n_sequences) for share in shares) if shares else [([], 0)]
        n_own = sum(len(tree.targets) for trees in own[0] for tree in trees)
        first, *rest = self.crew.do("score", [(own[0], n_own), *others])
        found = list(itertools.chain.from_iterable(rest))
        for _, batch in found:
            self.on_batch(replace(batch, share=0.0))  # progress was this process's own
        return [*first, *found]

    @torch.no_grad()
    def score_part(self, part: tuple[Sequence[list[Tree]], int]) -> list[Scored]:
        """Scores of some batches; a batch's share is that of so many sequences."""
        work, n_sequences = part
        done: list[Scored] = []
        with evaluating(self.model):
            for trees in work:
                found = self.forward(trees)
                n_tokens, n_logits = sum(map(len, trees)), sum(len(tree.places) for tree in trees)
                done.append((found, Batch(len(found) / n_sequences, n_tokens, n_logits, n_tokens / len(trees))))
                self.on_batch(done[-1][1])
        return done

    def trees(self, sequences: Sequence[Scorable]) -> list[Tree]:
        """Trees, or chains alone where this model cannot take trees."""
        least = 0.0 if self.packed is not None else MIN_SHARED
        trees = grow(sequences, Rule(self.batch_tokens, self.deepest_shared, least))
        first = next((tree for tree in trees if not tree.is_chain), None)
        if first is None or self.shares(first, sequences):
            return trees
        return [chain(target.index, sequences[target.index]) for tree in trees for target in tree.targets]

    def shares(self, tree: Tree, sequences: Sequence[Scorable]) -> bool:
        """Whether this model scores a tree as it scores its sequences alone; tried on the first tree, in float32.

        Models whose forward pass makes its own mask or positions would silently give other numbers.
        """
        if self.packed is not None:
            return True
        if self.may_share is None:
            alone = self.own_forward([chain(target.index, sequences[target.index]) for target in tree.targets])
            try:
                together = self.own_forward([tree])
            except (TypeError, ValueError, IndexError, RuntimeError):  # a 4-D mask or positions are not taken
                self.may_share = False
            else:
                off = max(abs(together[i].loglikelihood - alone[i].loglikelihood) for i in alone)
                self.may_share = off <= MASK_TOLERANCE
        return self.may_share

    def forward(self, trees: Sequence[Tree]) -> dict[int, Score]:
        """Scores by sequence index."""
        if self.packed is not None:
            return read(*self.packed(trees), [target for tree in trees for target in tree.targets])
        with autocast(self.compute):
            return self.own_forward(trees)

    def own_forward(self, trees: Sequence[Tree]) -> dict[int, Score]:
        """The same by the model's own forward pass, padded on the right, where a causal mask keeps padding unseen."""
        width, device = max(map(len, trees)), self.model.device
        keep = torch.zeros(len(trees) * width, dtype=torch.bool)
        targets = [(row * width, target) for row, tree in enumerate(trees) for target in tree.targets]
        places = torch.tensor([start + place for start, target in targets for place in target.places])
        keep[places] = True
        inputs = {"input_ids": padded([tree.tokens for tree in trees], width, 0).to(device)}
        if not all(tree.is_chain for tree in trees):
            inputs["position_ids"] = padded([tree.positions for tree in trees], width, 0).to(device)
            inputs["attention_mask"] = self.mask(padded([tree.ends for tree in trees], width, width)).to(device)
        if self.keeps_logits:
            inputs["logits_to_keep"] = keep.view(len(trees), width).to(device)
        logits = self.model(**inputs, use_cache=False).logits
        if not self.keeps_logits:
            logits = logits.flatten(0, 1)[keep.to(device)]
        rows = (keep.cumsum(0) - 1)[places]
        return read(logits, rows, [target for _, target in targets])

    def mask(self, ends: Tensor) -> Tensor:
        """(B, 1, T, T) as the model's attention takes it, from (B, T) ends of descendants."""
        mask = seen(ends)[:, None]
        if self.bool_mask:
            return mask
        dtype = self.model.dtype
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode; every module's own mode is back afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def most_tokens(model: PreTrainedModel) -> int:
    """How many tokens a forward pass of this model should have at most where it runs, whatever memory allows."""
    if model.device.type != "cpu":
        return sys.maxsize
    least, most = CPU_TOKENS
    return min(most, max(least, CPU_ACTIVATIONS // model.get_input_embeddings().weight.shape[1]))


def read(logits: Tensor, rows: Tensor, targets: Sequence[Target]) -> dict[int, Score]:
    """Scores from the (N, V) logits: target token k is predicted by row ``rows[k]``, all targets one after another."""
    ids = torch.tensor(list(itertools.chain.from_iterable(target.tokens for target in targets))).to(logits.device)
    rows = rows.to(logits.device)
    most, normaliser = (torch.cat(parts) for parts in zip(*normalised(logits), strict=True))
    given = logits[rows, ids].float()
    logprobs = (given - normaliser[rows]).double().cpu()
    hits = given == most[rows]
    hits[hits.clone()] = logits[rows[hits]].argmax(-1) == ids[hits]  # of equal logits the first is the greedy one
    starts = torch.tensor([0, *itertools.accumulate(len(target.tokens) for target in targets)])
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), logprobs.cumsum(0)])[starts].diff().tolist()
    n_hits = torch.cat([torch.zeros(1, dtype=torch.long), hits.cpu().cumsum(0)])[starts].diff().tolist()
    return {
        target.index: Score(total, n == len(target.tokens))
        for target, total, n in zip(targets, sums, n_hits, strict=True)
    }


def normalised(logits: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Largest logit and log of the sum of exponentials of each row, in float32, some rows at a time."""
    for part in logits.split(max(1, LOGITS_AT_ONCE // logits.shape[-1])):
        part = part.float()
        most = part.amax(-1)
        yield most, most + (part - most[:, None]).exp_().sum(-1).log()
