"""Comparisons as token ids on disk: chosen from the table, cut to length, read back one by one through a memory map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hh_scaling.inputs import DataError
from hh_scaling.packing import Tree, tree_of

COLUMNS = ("prompt", "chosen", "rejected")
KEYS = ("split", "order", "tranche")
Part = tuple[Path, np.ndarray]  # a table and numbers of its rows


def is_helpful(tranche: pd.Series) -> pd.Series:
    """Whether a tranche is of helpful comparisons, by the start of its name (helpful, helpful-base, …)."""
    return tranche.str.startswith("helpful")


def is_harmless(tranche: pd.Series) -> pd.Series:
    """Whether a tranche is of harmless comparisons."""
    return tranche.str.startswith("harmless")


# ---------------------------------------------------------------- which rows


def choose_rows(table: Path, split: str, n: int | None, helpful_share: float | None = None) -> pd.DataFrame:
    """Rows of a part of comparisons.parquet as ``row`` (its number there) and ``tranche``, in their fixed order.

    The first ``n`` (None: all), or with a share the first round(share * n) helpful and the first harmless ones beside
    them, so that subsets are nested. DataError when there are too few. The one part of votes.parquet is "votes".
    """
    keys = pq.read_table(table, columns=list(KEYS), read_dictionary=["split", "tranche"]).to_pandas()
    part = keys[keys.split == split].sort_values("order").rename_axis("row").reset_index()[["row", "tranche"]]
    where = {"held_out": "held out", "votes": "among the votes"}.get(split, f"in the {split} half")
    if helpful_share is None:
        if n is not None and len(part) < n:
            raise DataError(f"{len(part)} comparisons {where}, wanted: {n} (n_comparisons; allowed: at most that many)")
        return part if n is None else part.head(n)
    if n is None:
        raise DataError("pm.helpful_share needs a number of comparisons, found: all")
    n_helpful = round(helpful_share * n)
    chosen = []
    classes = (("helpful", is_helpful(part.tranche), n_helpful), ("harmless", is_harmless(part.tranche), n - n_helpful))
    for name, belongs, wanted in classes:
        if belongs.sum() < wanted:
            raise DataError(f"{belongs.sum()} {name} comparisons {where}, wanted: {wanted} of {n} (pm.helpful_share)")
        chosen.append(part[belongs].head(wanted))
    return pd.concat(chosen).sort_index()


def read_rows(table: Path, rows: np.ndarray, columns: tuple[str, ...]) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """(places in ``rows``, their ``columns``) of one row group after the other: no more than one is in memory."""
    place_of = pd.Series(np.arange(len(rows)), index=rows)
    file, start = pq.ParquetFile(table), 0
    for group in range(file.num_row_groups):
        n = file.metadata.row_group(group).num_rows
        here = rows[(rows >= start) & (rows < start + n)]
        if len(here):
            frame = file.read_row_group(group, columns=list(columns)).to_pandas().iloc[here - start]
            yield place_of[here].to_numpy(), frame.reset_index(drop=True)
        start += n


def read_parts(parts: Sequence[Part]) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """``read_rows`` of COLUMNS for one table after the other, with places counted over all of them."""
    before = 0
    for table, rows in parts:
        for places, frame in read_rows(table, rows, COLUMNS):
            yield before + places, frame
        before += len(rows)


# ---------------------------------------------------------------- token ids


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of plain texts: no special tokens added, none recognised."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def context_ids(prompt: list[int], response: list[int], end: int, max_length: int) -> list[int]:
    """prompt + response + end token, at most ``max_length``: the prompt loses its start, then the response its end."""
    response = response[: max_length - 1]
    room = max_length - 1 - len(response)
    return (prompt[-room:] if room else []) + response + [end]


def pair_tree(prompt: list[int], chosen: list[int], rejected: list[int], end: int, max_length: int) -> Tree:
    """Both sides of a comparison after the same prompt, which loses as much of its start as the longer side needs."""
    chosen, rejected = chosen[: max_length - 1], rejected[: max_length - 1]
    room = max_length - 1 - max(len(chosen), len(rejected))
    prompt = prompt[-room:] if room else []
    return tree_of([prompt + chosen + [end], prompt + rejected + [end]])


def is_cut(prompt: list[int], chosen: list[int], rejected: list[int], max_length: int) -> bool:
    """Whether ``pair_tree`` leaves out tokens of the comparison."""
    return len(prompt) + max(len(chosen), len(rejected)) + 1 > max_length


def encode_pairs(rows: pd.DataFrame, tokenizer: Any) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Token ids of each comparison's prompt, chosen and rejected response.

    They are encoded apart, so that the tokens are those a policy would emit after the prompt.
    """
    return zip(*(encode(tokenizer, list(rows[c])) for c in COLUMNS), strict=True)


def pair_trees(rows: pd.DataFrame, tokenizer: Any, max_length: int) -> list[Tree]:
    """The comparisons' trees, chosen side first."""
    return [pair_tree(*pair, tokenizer.eos_token_id, max_length) for pair in encode_pairs(rows, tokenizer)]


@dataclass(frozen=True)
class PairFile:
    """Trees of two branches in a file of token ids: where each begins, and the (n, 3) lengths of its parts."""

    tokens: np.ndarray  # memory-mapped
    starts: np.ndarray
    lengths: np.ndarray
    equal: np.ndarray  # bool: truncation left both sides the same
    cut: np.ndarray  # bool: truncation left out tokens

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> Tree:
        ends = self.starts[i] + np.cumsum(self.lengths[i])
        trunk, chosen, rejected = np.split(self.tokens[self.starts[i] : ends[-1]], ends[:2] - self.starts[i])
        return Tree(trunk.tolist(), (chosen.tolist(), rejected.tolist()))

    def select(self, keep: np.ndarray) -> PairFile:
        """Some of the pairs, by index or by a mask."""
        return PairFile(self.tokens, self.starts[keep], self.lengths[keep], self.equal[keep], self.cut[keep])


def write_pairs(table: Path, rows: np.ndarray, tokenizer: Any, max_length: int, path: Path) -> PairFile:
    """The rows' trees, in the given order; their token ids go to ``path``, 22 bytes a pair stay in memory."""
    return write_all_pairs([(table, rows)], tokenizer, max_length, path)


def write_all_pairs(tables: Sequence[Part], tokenizer: Any, max_length: int, path: Path) -> PairFile:
    """The same of rows of several tables, one table's after the other's."""
    n = sum(len(rows) for _, rows in tables)
    starts, lengths = np.zeros(n, dtype=np.int64), np.zeros((n, 3), dtype=np.int32)
    equal, cut = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    at = 0
    with open(path, "wb") as stream:
        for places, frame in read_parts(tables):
            for place, pair in zip(places, encode_pairs(frame, tokenizer), strict=True):
                tree = pair_tree(*pair, tokenizer.eos_token_id, max_length)
                cut[place] = is_cut(*pair, max_length)
                parts = (tree.trunk, *tree.branches)
                starts[place], lengths[place] = at, [len(part) for part in parts]
                equal[place] = tree.branches[0] == tree.branches[1]
                stream.write(np.array([t for part in parts for t in part], dtype=np.uint32).tobytes())
                at += int(lengths[place].sum())
    tokens = np.memmap(path, dtype=np.uint32, mode="r") if at else np.zeros(0, dtype=np.uint32)
    return PairFile(tokens, starts, lengths, equal, cut)
