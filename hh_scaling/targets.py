"""A teacher's answers on disk: after every token of a text its most likely next tokens, and all others as one bucket.

Shards are safetensors files in order; reading maps them into memory, so that no more than a batch is ever copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

PARTS = ("train", "held_out")  # the shards of each begin with its name


@dataclass(frozen=True)
class Example:
    """Token ids of one text; the tokens from ``start`` on are a response (none of them where it is their number)."""

    tokens: list[int]
    start: int
    cluster: int = 0  # the number of its conversation, where it is held out

    @property
    def n_predicted(self) -> int:
        """Every token but the first has something before it."""
        return len(self.tokens) - 1


@dataclass(frozen=True)
class Target:
    """An example of T tokens with the teacher's distribution after each of them but the last."""

    example: Example
    ids: NDArray[np.unsignedinteger[Any]]  # (T - 1, k) the most likely next tokens
    logprobs: NDArray[np.float32]  # (T - 1, k + 1) theirs and, last, that of all other tokens together


def write_shard(path: Path, targets: Sequence[Target], vocab_size: int) -> None:
    """The targets as one file; token ids take two bytes where the vocabulary allows."""
    small = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    examples = [target.example for target in targets]
    arrays = {
        "tokens": np.array([token for e in examples for token in e.tokens], dtype=small),
        "lengths": np.array([len(e.tokens) for e in examples], dtype=np.int32),
        "starts": np.array([e.start for e in examples], dtype=np.int32),
        "clusters": np.array([e.cluster for e in examples], dtype=np.int32),
        "ids": np.concatenate([target.ids for target in targets]).astype(small),
        "logprobs": np.concatenate([target.logprobs for target in targets]).astype(np.float32),
    }
    save_file(arrays, path)


class TargetFiles(Sequence[Target]):
    """The targets of several shards, one after the other; distributions are read when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.examples: list[Example] = []
        self._places: list[tuple[Any, int]] = []  # open shard, first row of the distributions
        for path in paths:
            shard = safe_open(path, framework="numpy")
            lengths = shard.get_tensor("lengths").astype(np.int64)
            tokens = np.split(shard.get_tensor("tokens"), np.cumsum(lengths)[:-1])
            known = zip(tokens, shard.get_tensor("starts"), shard.get_tensor("clusters"), strict=True)
            self.examples += [Example(row.tolist(), int(start), int(cluster)) for row, start, cluster in known]
            self._places += [(shard, int(first)) for first in np.cumsum(lengths - 1) - (lengths - 1)]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        example, (shard, first) = self.examples[i], self._places[i]
        rows = slice(first, first + example.n_predicted)
        return Target(example, shard.get_slice("ids")[rows], shard.get_slice("logprobs")[rows])
