"""Which part a comparison belongs to, and its fixed random rank there: both functions of its content and a seed.

Comparisons are seen twice. On the way in, ``SplitIndex`` keeps a few numbers of each (no text); once all are known,
``SplitIndex.plan`` says which rows are kept, their rank within their part, and which prompts are new.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hh_scaling.comparisons import Comparison, first_human_turn
from hh_scaling.inputs import DataError

SPLITS = ("train", "test", "held_out", "gold")
TRAIN, TEST, HELD_OUT, GOLD = range(4)
DUPLICATE = "duplicate"
OVER_LIMIT = "over_max_held_out"
Codes = np.ndarray  # one unsigned 64-bit number a row


def conversation_id(prompt: str) -> str:
    """16 hex digits of the sha256 of the first Human turn, case and spacing aside.

    Questions that differ only so must not lie on both sides of a split.
    """
    turn = unicodedata.normalize("NFKC", first_human_turn(prompt)).casefold()
    return hashlib.sha256(" ".join(turn.split()).encode()).hexdigest()[:16]


def seeded_code(seed: int, *parts: str) -> int:
    """A 64-bit number that is uniform over contents, and independent between seeds."""
    digest = hashlib.blake2b(digest_size=8, key=seed.to_bytes(16, "big", signed=True))
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)  # lengths, so that the parts' borders count
    return int.from_bytes(digest.digest(), "big")


def split_of(conversation: str, held_out_fraction: float, seed: int, gold_fraction: float = 0.0) -> int:
    """TRAIN, TEST, HELD_OUT or GOLD: a function of the conversation and the seed, whatever other rows there are."""
    place = seeded_code(seed, "split", conversation) / 2**64
    if place < held_out_fraction:
        return HELD_OUT
    taken = held_out_fraction + gold_fraction
    if place < taken:
        return GOLD
    return TRAIN if place < taken + (1 - taken) / 2 else TEST


@dataclass(frozen=True)
class SplitPlan:
    """What becomes of each row that came in; all arrays have one element a row."""

    split: np.ndarray  # TRAIN, TEST, HELD_OUT or GOLD
    kept: np.ndarray  # bool
    order: np.ndarray  # rank within the split among the kept rows, from 0; -1 where not kept
    new_prompt: np.ndarray  # bool: the first kept row of its split with this prompt
    prompt_order: np.ndarray  # rank of the prompt within its split, from 0; -1 where not new_prompt
    new_transcript: np.ndarray  # bool: the first kept row of the train half with this chosen transcript
    dropped: dict[str, int]  # reason -> rows


class SplitIndex:
    """The numbers that the split needs of every comparison, 56 bytes a row."""

    def __init__(self, seed: int, held_out_fraction: float, gold_fraction: float = 0.0) -> None:
        self.seed, self.held_out_fraction, self.gold_fraction = seed, held_out_fraction, gold_fraction
        self.tranches: list[str] = []
        self._content, self._order, self._conversation = array("Q"), array("Q"), array("Q")
        self._prompt, self._transcript = array("Q"), array("Q")
        self._split, self._tranche, self._longer, self._p_chosen = array("b"), array("i"), array("f"), array("d")

    def __len__(self) -> int:
        return len(self._content)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts, each at the place of its number."""
        return SPLITS if self.gold_fraction else SPLITS[:GOLD]

    def add(self, row: Comparison, conversation: str) -> None:
        """Take note of the next row."""
        content = seeded_code(self.seed, row.prompt, row.chosen, row.rejected)
        self._content.append(content)
        # The row's number is part of its rank, so that equal rows do not stand side by side in every subset.
        self._order.append(
            seeded_code(self.seed, "order", str(content), str(len(self)) if row.source == "world" else "")
        )
        self._conversation.append(int(conversation, 16))
        self._prompt.append(seeded_code(self.seed, "prompt", row.prompt))
        self._transcript.append(seeded_code(self.seed, "transcript", row.prompt, row.chosen))
        self._split.append(split_of(conversation, self.held_out_fraction, self.seed, self.gold_fraction))
        self._tranche.append(self._tranche_code(row.tranche))
        self._longer.append(_half_if_equal(len(row.chosen), len(row.rejected)))
        self._p_chosen.append(float("nan") if row.p_chosen is None else row.p_chosen)

    def _tranche_code(self, name: str) -> int:
        if name not in self.tranches:
            self.tranches.append(name)
        return self.tranches.index(name)

    def plan(self, max_held_out: int | None, drop_duplicates: bool) -> SplitPlan:
        """What is kept, and in which order; DataError when one of the parts is left without a comparison."""
        split = np.asarray(self._split)
        new = first_of_each(np.asarray(self._content))
        kept = new.copy() if drop_duplicates else np.ones(len(self), dtype=bool)
        fitting = kept & ((split != HELD_OUT) | self._within(kept & (split == HELD_OUT), max_held_out))
        dropped = {DUPLICATE: int((~kept).sum()), OVER_LIMIT: int((kept & ~fitting).sum())}
        self._require_all_parts(split[fitting])
        new_prompt = _first_within(np.asarray(self._prompt), split, fitting)
        return SplitPlan(
            split=split,
            kept=fitting,
            order=_ranks(np.asarray(self._order), split, fitting),
            new_prompt=new_prompt,
            prompt_order=_ranks(np.asarray(self._prompt), split, new_prompt),
            new_transcript=_first_within(np.asarray(self._transcript), split, fitting & (split == TRAIN)),
            dropped={reason: n for reason, n in dropped.items() if n},
        )

    def column(self, name: str) -> np.ndarray:
        """One number a row: "conversation", "tranche" (index into ``tranches``), "longer" (1 where the chosen response
        has more characters, ½ where as many, else 0) or "p_chosen" (NaN where unknown)."""
        return np.asarray(getattr(self, f"_{name}"))

    def _within(self, held_out: np.ndarray, limit: int | None) -> np.ndarray:
        """Of the rows of ``held_out``, those of a seeded choice of whole conversations, at most ``limit`` rows."""
        if limit is None:
            return held_out
        conversations = np.asarray(self._conversation)
        names, counts = np.unique(conversations[held_out], return_counts=True)
        shuffled = sorted(zip(names, counts, strict=True), key=lambda c: seeded_code(self.seed, "limit", str(c[0])))
        chosen, total = [], 0
        for name, count in shuffled:
            if total + count <= limit:
                chosen.append(name)
                total += count
        return held_out & np.isin(conversations, np.array(chosen, dtype=np.uint64))

    def _require_all_parts(self, split: np.ndarray) -> None:
        counts = np.bincount(split, minlength=len(self.parts))
        if not counts.all():
            n_conversations = len(np.unique(np.asarray(self._conversation)))
            found = ", ".join(f"{name} {n}" for name, n in zip(self.parts, counts, strict=True))
            fractions = f"held_out_fraction {self.held_out_fraction}"
            fractions += f", gold_fraction {self.gold_fraction}" if self.gold_fraction else ""
            raise DataError(
                f"comparisons: a part is empty ({found}, from {n_conversations} conversations, {fractions}); "
                "expected at least one comparison in each"
            )


def first_of_each(codes: Codes) -> np.ndarray:
    """True at the first occurrence of each code."""
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return first


def _first_within(codes: Codes, split: np.ndarray, among: np.ndarray) -> np.ndarray:
    """True at each split's first occurrence of a code among the rows of ``among``."""
    first = np.zeros(len(codes), dtype=bool)
    for part in range(len(SPLITS)):
        rows = np.flatnonzero(among & (split == part))
        first[rows[first_of_each(codes[rows])]] = True
    return first


def _ranks(codes: Codes, split: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Rank of each code within its split among the rows of ``among``; -1 elsewhere."""
    ranks = np.full(len(codes), -1, dtype=np.int64)
    for part in range(len(SPLITS)):
        rows = np.flatnonzero(among & (split == part))
        ranks[rows[np.argsort(codes[rows], kind="stable")]] = np.arange(len(rows))
    return ranks


def _half_if_equal(left: int, right: int) -> float:
    return 0.5 if left == right else float(left > right)


def tranche_counts(codes: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """How many rows each tranche has, sorted by name; tranches without a row are left out."""
    counts = dict(zip(names, np.bincount(codes, minlength=len(names)), strict=True))
    return {name: int(counts[name]) for name in sorted(counts) if counts[name]}
