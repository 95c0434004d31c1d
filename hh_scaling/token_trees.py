"""Token sequences as trees: what several of them begin with stands in a row once.

The choices of one question share a context, the sentences of a minimal pair their first words, the items of a task
worked examples. Sequences in the order of their tokens are laid into rows; what a sequence has in common with the one
before it is not laid again. A row so is a forest in which children follow their parents: a token sees those before it
whose descendants it is among, and its position is its depth. Four choices of 5 tokens after 30 tokens of context are
50 tokens and not four times 35, and the numbers are the same up to rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

ROW = 192  # tokens a row is filled up to: few are wasted as padding, and attention over it is cheap
MAX_LOGITS = 1 << 26  # output rows times vocabulary in one forward pass: 256 MiB in float32


@dataclass(frozen=True)
class Scorable:
    """Token ids of which the last ``n_scored`` are to be predicted; at least one token comes before them."""

    tokens: list[int]
    n_scored: int


@dataclass(frozen=True)
class Target:
    """Where in a tree a sequence's scored tokens are predicted."""

    index: int  # of the sequence
    places: list[int]
    tokens: list[int]


@dataclass(frozen=True)
class Tree:
    """One row: tokens, their positions, the place where each one's descendants end, and what the row predicts."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def places(self) -> list[int]:
        """Where something is predicted, ascending."""
        return sorted(set(itertools.chain.from_iterable(target.places for target in self.targets)))

    @property
    def is_chain(self) -> bool:
        return self.positions[-1] == len(self) - 1

    def lay(self, index: int, sequence: Scorable, path: list[int], n_shared: int) -> None:
        """Add a sequence after the first ``n_shared`` tokens of the last one, whose places are ``path``, renewed."""
        row = sequence.tokens[n_shared:-1]  # the last token is predicted and never read
        start, end = len(self), len(self) + len(row)
        for place in path[:n_shared]:
            self.ends[place] = end
        path[n_shared:] = range(start, end)
        self.tokens.extend(row)
        self.positions.extend(range(n_shared, n_shared + len(row)))
        self.ends.extend([end] * len(row))
        self.targets.append(Target(index, path[-sequence.n_scored :], sequence.tokens[-sequence.n_scored :]))


@dataclass(frozen=True)
class Rule:
    """Which sequences may lie in one row."""

    most: float = float("inf")  # tokens of a row, unless one sequence alone has more
    deepest: float = float("inf")  # tokens of a sequence that shares a row, as where attention has a window
    least_shared: float = 0.0  # of a sequence's tokens, with the one before it

    def allows(self, tree: Tree, last: int, length: int, n_shared: int) -> bool:
        """Whether a sequence of ``length`` tokens joins a row whose last one has ``last``.

        Beyond ROW it must have most of its tokens there already: attention costs more in longer rows.
        """
        total, longest = len(tree) + length - n_shared, max(last, length)
        if total > self.most or longest > self.deepest or n_shared < self.least_shared * length:
            return False
        return total <= ROW or (2 * n_shared >= length and total <= 2 * longest)


def grow(sequences: Sequence[Scorable], rule: Rule) -> list[Tree]:
    """Rows that hold all sequences of which anything is scored; ``rule`` says which may lie together."""
    inputs = [sequence.tokens[:-1] for sequence in sequences]
    trees: list[Tree] = []
    path: list[int] = []
    last: list[int] = []
    for i in sorted((i for i in range(len(inputs)) if sequences[i].n_scored), key=inputs.__getitem__):
        n_shared = n_common(last, inputs[i])
        if not trees or not rule.allows(trees[-1], len(last), len(inputs[i]), n_shared):
            trees.append(Tree())
            path, n_shared = [], 0
        trees[-1].lay(i, sequences[i], path, n_shared)
        last = inputs[i]
    return trees


def chain(index: int, sequence: Scorable) -> Tree:
    """One sequence in a row of its own."""
    tree = Tree()
    tree.lay(index, sequence, [], 0)
    return tree


def n_common(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences begin with in common; by bisection, since comparing lists is quick."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def batches(trees: Sequence[Tree], batch_tokens: int, vocab_size: int) -> Iterator[list[Tree]]:
    """Trees of similar length, at most ``batch_tokens`` tokens with padding and MAX_LOGITS logits at a time."""
    group: list[Tree] = []
    n_logits = 0
    for tree in sorted(trees, key=lambda tree: (tree.is_chain, -len(tree))):
        more = len(tree.places)
        wide = group and max(len(group[0]), len(tree)) * (len(group) + 1) > batch_tokens
        if wide or (group and (n_logits + more) * vocab_size > MAX_LOGITS):
            yield group
            group, n_logits = [], 0
        group.append(tree)
        n_logits += more
    if group:
        yield group


def seen(ends: Tensor) -> Tensor:
    """(B, T, T) from (B, T) ends of descendants: whether a place (second index) sees another (third)."""
    place = torch.arange(ends.shape[1])
    return (place[:, None] < ends[:, None, :]).tril()


def padded(rows: Sequence[list[int]], width: int, fill: int) -> Tensor:
    """(B, width) of rows filled up on the right."""
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])
