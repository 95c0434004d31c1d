"""Log-likelihoods of token sequences, with what several of them begin with computed once.

The choices of one question share a context, the sentences of a minimal pair their first words. A *tree* is their
common beginning (the trunk) and what is left of each (the branches) in one row: a 4-D attention mask lets a branch see
the trunk and itself only, and its positions go on from the trunk's. Four choices of 5 tokens after 30 tokens of
context are then one row of 50 tokens and not four of 35, and the numbers are the same up to rounding.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

MAX_LOGITS = 1 << 26  # output rows times vocabulary in one forward pass: 256 MiB in float32
LOGITS_AT_ONCE = 1 << 21  # of them that are normalised together: what stays in a processor's cache
CPU_TOKENS = (256, 1024)  # least and most in one forward pass on a processor, where a fuller batch is no gain
CPU_ACTIVATIONS = 196_608  # tokens times width, between those: activations that stay in the cache are one
MIN_SHARED = 0.05  # of a group's tokens; below it the wider attention costs more than the shared tokens save
MASK_TOLERANCE = 1e-3  # nats a sequence in float32; a forward pass that does not heed the mask is off by more


class Score(NamedTuple):
    """Log-likelihood of a sequence's scored tokens (nats), and whether each was the likeliest one."""

    loglikelihood: float
    greedy: bool


@dataclass(frozen=True)
class Scorable:
    """Token ids of which the last ``n_scored`` are to be predicted; at least one token comes before them."""

    tokens: list[int]
    n_scored: int


@dataclass(frozen=True)
class Batch:
    """What one forward pass did, for counting and progress."""

    share: float  # of all that was asked for at once
    n_tokens: int  # without padding
    n_logits: int  # rows of the output
    mean_length: float  # of its trees, in tokens


@dataclass(frozen=True)
class Target:
    """Where in a tree a sequence's scored tokens are predicted."""

    index: int  # of the sequence
    places: list[int]
    tokens: list[int]


@dataclass(frozen=True)
class Tree:
    """One row of a forward pass: tokens with their positions and branches (0: the trunk), and what it predicts."""

    tokens: list[int]
    positions: list[int]
    branches: list[int]
    targets: list[Target]

    @property
    def n_logits(self) -> int:
        return len(set(itertools.chain.from_iterable(target.places for target in self.targets)))

    @property
    def is_chain(self) -> bool:
        return self.branches[-1] == 0


def grow(group: Sequence[int], sequences: Sequence[Scorable]) -> list[Tree]:
    """The sequences with indices ``group`` as one tree, or each as its own where they have little in common."""
    inputs = [sequences[i].tokens[:-1] for i in group]  # the last token is predicted and never read
    n_shared = 0
    for column in zip(*inputs, strict=False):
        if any(token != column[0] for token in column):
            break
        n_shared += 1
    if n_shared * (len(group) - 1) < MIN_SHARED * sum(map(len, inputs)):
        return [_tree([i], [row], len(row), sequences) for i, row in zip(group, inputs, strict=True)]
    return [_tree(group, inputs, n_shared, sequences)]


def _tree(group: Sequence[int], inputs: list[list[int]], n_shared: int, sequences: Sequence[Scorable]) -> Tree:
    tokens, positions, branches = inputs[0][:n_shared], list(range(n_shared)), [0] * n_shared
    targets = []
    for branch, (i, row) in enumerate(zip(group, inputs, strict=True), start=1):
        shift = len(tokens) - n_shared  # from a place in the sequence to the same place in the tree
        n_scored = sequences[i].n_scored
        read = range(len(row) - n_scored, len(row))
        places = [place if place < n_shared else place + shift for place in read]
        targets.append(Target(i, places, sequences[i].tokens[-n_scored:]))
        tokens += row[n_shared:]
        positions += range(n_shared, len(row))
        branches += [branch] * (len(row) - n_shared)
    return Tree(tokens, positions, branches, targets)


def batches(trees: Sequence[Tree], batch_tokens: int, vocab_size: int) -> Iterator[list[Tree]]:
    """Trees of similar length, at most ``batch_tokens`` tokens with padding and MAX_LOGITS logits at a time."""
    group: list[Tree] = []
    n_logits = 0
    for tree in sorted(trees, key=lambda tree: (tree.is_chain, -len(tree.tokens))):
        wide = group and max(len(group[0].tokens), len(tree.tokens)) * (len(group) + 1) > batch_tokens
        if wide or (group and (n_logits + tree.n_logits) * vocab_size > MAX_LOGITS):
            yield group
            group, n_logits = [], 0
        group.append(tree)
        n_logits += tree.n_logits
    if group:
        yield group


def most_tokens(model: PreTrainedModel) -> int:
    """How many tokens a forward pass of this model should have at most where it runs, whatever memory allows."""
    if model.device.type != "cpu":
        return sys.maxsize
    least, most = CPU_TOKENS
    return min(most, max(least, CPU_ACTIVATIONS // model.get_input_embeddings().weight.shape[1]))


class TreeScorer:
    """Scores sequences with one causal LM, which it leaves as it is (its caller sees to evaluation mode)."""

    def __init__(
        self,
        model: PreTrainedModel,
        batch_tokens: int,
        precision: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.model = model
        self.batch_tokens = min(batch_tokens, most_tokens(model))
        self.precision = precision
        attention = getattr(model.config, "_attn_implementation", None)
        self.bool_mask = attention == "sdpa"
        self.may_share = None if attention in ("sdpa", "eager") else False  # None: not tried yet
        self.longest_shared = getattr(model.config, "sliding_window", None) or float("inf")
        own = type(model).__module__.startswith("transformers.")  # others may know integers only
        self.keeps_logits = own and "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.no_grad()
    def score(
        self,
        sequences: Sequence[Scorable],
        groups: Sequence[Sequence[int]],
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> list[Score]:
        """Log-likelihood and greediness of each sequence; ``groups`` are indices of those that may share a beginning.

        Every index is in exactly one group. Logits are normalised in float32 and summed in float64.
        """
        trees = self._grow_all(sequences, groups)
        scores = [Score(0.0, True)] * len(sequences)
        for batch in batches(trees, self.batch_tokens, self.model.config.vocab_size):
            with self.precision():
                found = self._forward(batch)
            for index, score in found.items():
                scores[index] = score
            n_tokens = sum(len(tree.tokens) for tree in batch)
            n_logits = sum(tree.n_logits for tree in batch)
            on_batch(Batch(len(found) / len(sequences), n_tokens, n_logits, n_tokens / len(batch)))
        return scores

    def _grow_all(self, sequences: Sequence[Scorable], groups: Sequence[Sequence[int]]) -> list[Tree]:
        """Trees, or chains alone where this model cannot take trees or they would be too long for it."""
        trees: list[Tree] = []
        scored = ([i for i in group if sequences[i].n_scored] for group in groups)
        for group in filter(None, scored):
            for tree in grow(group, sequences):
                if tree.is_chain or (self._shares(tree, sequences) and len(tree.tokens) <= self.longest_shared):
                    trees.append(tree)
                else:
                    trees += (grow([target.index], sequences)[0] for target in tree.targets)
        return trees

    def _shares(self, tree: Tree, sequences: Sequence[Scorable]) -> bool:
        """Whether this model scores a tree as it scores its sequences alone; tried on the first tree, in float32.

        Models whose forward pass makes its own mask or positions would silently give other numbers.
        """
        if self.may_share is None:
            alone = self._forward([grow([target.index], sequences)[0] for target in tree.targets])
            try:
                together = self._forward([tree])
            except (TypeError, ValueError, IndexError, RuntimeError):  # a 4-D mask or positions are not taken
                self.may_share = False
            else:
                off = max(abs(together[i].loglikelihood - alone[i].loglikelihood) for i in alone)
                self.may_share = off <= MASK_TOLERANCE
        return self.may_share

    @torch.no_grad()
    def _forward(self, trees: Sequence[Tree]) -> dict[int, Score]:
        """Scores by sequence index. Padding is on the right, where a causal mask keeps it out of sight."""
        width = max(len(tree.tokens) for tree in trees)
        device = self.model.device
        keep = torch.zeros(len(trees) * width, dtype=torch.bool)
        targets = [(row * width, target) for row, tree in enumerate(trees) for target in tree.targets]
        places = torch.tensor([start + place for start, target in targets for place in target.places])
        keep[places] = True
        inputs = {"input_ids": _padded([tree.tokens for tree in trees], width, 0).to(device)}
        if not all(tree.is_chain for tree in trees):
            inputs["position_ids"] = _padded([tree.positions for tree in trees], width, 0).to(device)
            inputs["attention_mask"] = self._mask(_padded([tree.branches for tree in trees], width, -1)).to(device)
        if self.keeps_logits:
            inputs["logits_to_keep"] = keep.view(len(trees), width).to(device)
        logits = self.model(**inputs, use_cache=False).logits
        if not self.keeps_logits:
            logits = logits.flatten(0, 1)[keep.to(device)]
        rows = (keep.cumsum(0) - 1)[places]
        return _read(logits, rows, [target for _, target in targets])

    def _mask(self, branches: Tensor) -> Tensor:
        """(B, 1, T, T) from (B, T) branch numbers: a token sees what precedes it in the trunk and in its own branch."""
        seen = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
        mask = seen.tril()[:, None]
        if self.bool_mask:
            return mask
        dtype = self.model.dtype
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _padded(rows: Sequence[list[int]], width: int, fill: int) -> Tensor:
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def _read(logits: Tensor, rows: Tensor, targets: Sequence[Target]) -> dict[int, Score]:
    """Scores from the (N, V) logits: target token k is predicted by row ``rows[k]``, all targets one after another."""
    ids = torch.tensor(list(itertools.chain.from_iterable(target.tokens for target in targets))).to(logits.device)
    rows = rows.to(logits.device)
    most, normaliser = (torch.cat(parts) for parts in zip(*_normalised(logits), strict=True))
    given = logits[rows, ids].float()
    logprobs = (given - normaliser[rows]).double().cpu()
    hits = given == most[rows]
    hits[hits.clone()] = logits[rows[hits]].argmax(-1) == ids[hits]  # of equal logits the first is the greedy one
    sizes = [len(target.tokens) for target in targets]
    sums = [float(part.sum()) for part in logprobs.split(sizes)]
    greedy = [bool(part.all()) for part in hits.cpu().split(sizes)]
    return {t.index: Score(*pair) for t, pair in zip(targets, zip(sums, greedy, strict=True), strict=True)}


def _normalised(logits: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Largest logit and log of the sum of exponentials of each row, in float32, some rows at a time."""
    for part in logits.split(max(1, LOGITS_AT_ONCE // logits.shape[-1])):
        part = part.float()
        most = part.amax(-1)
        yield most, most + (part - most[:, None]).exp_().sum(-1).log()
