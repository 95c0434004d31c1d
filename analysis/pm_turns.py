"""PM accuracy by the turn of the conversation that a comparison is about (Bai et al. 2022, figure 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.crossed import Term, combine, measure
from analysis.frames import Study
from analysis.held_out import Bools
from analysis.pools import PM, Pool, everything, largest

MIN_CONVERSATIONS = 30  # fewer in what follows a turn are counted with it


@dataclass(frozen=True)
class Turn:
    """Comparisons about the turn ``first``, or about it and all later ones."""

    first: int
    and_later: bool

    @property
    def label(self) -> str:
        return f"{self.first}+" if self.and_later else str(self.first)

    def rows(self, pool: Pool) -> Bools:
        turns = pool.scores.n_turns
        return np.asarray(turns >= self.first if self.and_later else turns == self.first)


def turn_classes(pools: list[Pool]) -> list[Turn]:
    """The turns one by one; the last takes in all later ones, once fewer than 30 conversations would be left."""
    parts = [np.stack([p.scores.n_turns.astype(object), p.scores.conversation]) for p in pools]
    turns, conversation = np.concatenate(parts, axis=1) if parts else (np.empty(0), np.empty(0))
    classes = []
    for turn in sorted(set(turns)):
        left = len(set(conversation[turns > turn]))
        classes.append(Turn(int(turn), 0 < left < MIN_CONVERSATIONS))
        if left < MIN_CONVERSATIONS:
            break
    return classes


def pm_turns(study: Study, pms: list[PM]) -> list[dict[str, Any]]:
    """Accuracy of every size's main PMs at each turn, and its difference from the first turn's."""
    pools = largest(pms)
    classes = turn_classes(pools)
    rows = []
    for turn in classes:
        cells = [(pool, turn, classes[0]) for pool in pools]
        accuracy = measure(cells, lambda cell: _accuracy(*cell[:2]))
        minus = measure(cells, lambda cell: _difference(*cell))
        for pool, one, change in zip(pools, accuracy, minus, strict=True):
            rows.append(pool.labels | {
                "turn": turn.first, "label": turn.label, "accuracy": one.to_dict(),
                "minus_first": change.to_difference(),
                "n_conversations": len(set(pool.scores.conversation[turn.rows(pool)])),
                "n_runs": len(pool.pms), "note": pool.note(study, one),
            })  # fmt: skip
    return sorted((r for r in rows if r["accuracy"]), key=lambda r: (r["n_params"], r["model"], r["turn"]))


def _accuracy(pool: Pool, turn: Turn) -> Term | None:
    return pool.term(pool.scores.correct, turn.rows(pool))


def _difference(pool: Pool, turn: Turn, first: Turn) -> Term | None:
    return None if turn == first else combine((1, _accuracy(pool, turn)), (-1, _accuracy(pool, first)))


def first_turn_gain(pms: list[PM]) -> Term | None:
    """Accuracy at the first turn minus at all later ones, all sizes' main PMs as runs."""
    pool = everything(pms)
    classes = turn_classes([pool] if pool else [])
    if pool is None or len(classes) < 2:
        return None
    later = Turn(classes[1].first, and_later=True)
    return combine((1, _accuracy(pool, classes[0])), (-1, _accuracy(pool, later)))
