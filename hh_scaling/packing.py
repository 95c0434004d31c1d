"""Trees of token sequences that share their beginning, packed into one row without much padding.

A tree is a trunk and branches: every token sees what precedes it in the trunk and in its own branch, and its position
goes on from the trunk's. A pair of responses to one prompt is a tree of two branches whose prompt is computed once.
Trees of similar length lie side by side in blocks; a packed row is a few blocks, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

MULTIPLE = 32  # rows a tree is padded to
TAIL = 128  # rows a packed row is padded to: few different sizes let the processor's kernels be made once
MAX_PADDING = 0.1  # of a block of several trees
UNSEEN = -1e30


@dataclass(frozen=True)
class Tree:
    """Token ids of a trunk and of its branches; every branch has at least one token."""

    trunk: list[int]
    branches: tuple[list[int], ...]

    def __len__(self) -> int:
        return len(self.trunk) + sum(map(len, self.branches))


def tree_of(sequences: Sequence[list[int]]) -> Tree:
    """The sequences as a tree; each keeps at least its last token to itself."""
    longest = min(map(len, sequences)) - 1
    n_shared = next(
        (i for i in range(longest) if any(row[i] != sequences[0][i] for row in sequences[1:])), max(longest, 0)
    )
    return Tree(sequences[0][:n_shared], tuple(row[n_shared:] for row in sequences))


@dataclass(frozen=True)
class Block:
    """``n_trees`` trees of ``length`` rows each, from row ``start`` on; ``first_end`` counts the ends before it."""

    start: int
    n_trees: int
    length: int
    first_end: int
    n_ends: int  # of each tree
    mask: Tensor  # (n, L, L) bool: True where a row (second index) sees another (third)
    end_mask: Tensor  # (n, ends, L) bool, the same for the ends of branches alone
    biases: dict[tuple[bool, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.n_trees * self.length)

    def queries(self, ends: bool) -> slice:
        """Where the block's rows that ask lie among all that ask: all rows, or the branches' ends."""
        if not ends:
            return self.rows
        return slice(self.first_end, self.first_end + self.n_trees * self.n_ends)

    def bias_at(self, ends: bool, dtype: torch.dtype) -> Tensor:
        """(n, 1, Q, L) what attention adds to its scores: 0 where seen, a large negative number where not."""
        if (ends, dtype) not in self.biases:
            mask = self.end_mask if ends else self.mask
            bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, UNSEEN)
            self.biases[ends, dtype] = bias[:, None]
        return self.biases[ends, dtype]


@dataclass(frozen=True)
class Packed:
    """Packed trees; ``ends`` are the rows that ask in the last layer, in blocks' order: the branches' last tokens.

    Where chains ask for more than one of their last tokens, ``lasts`` says where in ``ends`` each chain's last one is.
    """

    tokens: Tensor  # (N,)
    positions: Tensor  # (N,)
    blocks: tuple[Block, ...]
    ends: Tensor  # (trees * branches,), or as many of every chain of a block as the one that asks most
    lasts: Tensor  # (trees,) as they were given
    order: Tensor  # (trees,) index into the given trees
    n_tokens: int  # without padding


def pack(trees: Sequence[Tree], device: str | torch.device = "cpu", n_last: Sequence[int] | None = None) -> Packed:
    """The trees, which all have as many branches, as one packed row.

    ``n_last``: of each tree, which then is a chain, how many of its last tokens ask; a shorter chain's first token asks
    again and again in a block that has others which ask for more.
    """
    if len({len(tree.branches) for tree in trees}) > 1:
        raise ValueError("trees of different numbers of branches cannot be packed together")
    groups = list(grouped([len(tree) for tree in trees]))
    sizes = [len(group) * round_up(len(trees[group[0]]), MULTIPLE) for group in groups]
    tokens, positions = torch.zeros(2, round_up(sum(sizes), TAIL), dtype=torch.long)
    blocks: list[Block] = []
    ends: list[int] = []
    lasts = torch.zeros(len(trees), dtype=torch.long)
    start = 0
    for group, size in zip(groups, sizes, strict=True):
        length, first_end = size // len(group), len(ends)
        asked = 1 if n_last is None else max(n_last[i] for i in group)
        branches = torch.full((len(group), length), -1)
        for row, i in enumerate(group):
            here = start + row * length
            for end in _lay(trees[i], here, tokens, positions, branches[row]):
                ends += [max(end - back, here) for back in reversed(range(asked))]
            lasts[i] = len(ends) - 1
        blocks.append(_block(start, branches, first_end, torch.tensor(ends[first_end:]) - start, device))
        start += size
    order = torch.tensor([i for group in groups for i in group])
    n_tokens = sum(map(len, trees))
    places = torch.tensor(ends, device=device)
    return Packed(tokens.to(device), positions.to(device), tuple(blocks), places, lasts, order, n_tokens)


def _lay(tree: Tree, start: int, tokens: Tensor, positions: Tensor, branches: Tensor) -> list[int]:
    """Write a tree's tokens, positions and branch numbers (0: the trunk); the rows of its branches' ends."""
    n_shared, place, ends = len(tree.trunk), 0, []
    for number, part in enumerate((tree.trunk, *tree.branches)):
        first = 0 if number == 0 else n_shared
        here = slice(start + place, start + place + len(part))
        tokens[here] = torch.tensor(part, dtype=torch.long)
        positions[here] = torch.arange(first, first + len(part))
        branches[place : place + len(part)] = number
        place += len(part)
        ends.append(start + place - 1)
    return ends[1:]


def _block(start: int, branches: Tensor, first_end: int, ends: Tensor, device: str | torch.device) -> Block:
    n, length = branches.shape
    seen = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    mask = seen.tril()
    own = (ends.view(n, -1) - torch.arange(n)[:, None] * length)[:, :, None].expand(-1, -1, length)
    end_mask = mask.gather(1, own)
    return Block(start, n, length, first_end, own.shape[1], mask.to(device), end_mask.to(device))


def grouped(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of similar lengths, longest first, so that padding is at most MAX_PADDING of each group's rows."""
    group: list[int] = []
    used = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[group[0] if group else i]
        rows = round_up(longest, MULTIPLE) * (len(group) + 1)
        if group and rows - used - lengths[i] > MAX_PADDING * rows:
            yield group
            group, used = [], 0
        group.append(i)
        used += lengths[i]
    if group:
        yield group


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple that is at least ``n``."""
    return -(-n // multiple) * multiple
