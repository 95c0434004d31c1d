"""PM accuracy by the turn of the conversation that a comparison is about (Bai et al. 2022, figure 8)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.crossed import Term, combine, measure
from analysis.frames import Study
from analysis.held_out import Bools
from analysis.pm_baselines import baselines
from analysis.pools import PM, Pool, everything, largest

MIN_CONVERSATIONS = 30  # fewer are no class of their own and enter no difference: their clustered error is no use


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


FIRST, LATER = Turn(1, and_later=False), Turn(2, and_later=True)


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
    """Accuracy and log loss of every size's main PMs at each turn, what length and a perfect reader reach there, and
    the difference of accuracy from the first turn's within tranches."""
    pools = largest(pms)
    rows = []
    for turn in turn_classes(pools):
        cells = [(pool, turn) for pool in pools]
        accuracy = measure(cells, lambda cell: cell[0].term(cell[0].scores.correct, cell[1].rows(cell[0])))
        loss = measure(cells, lambda cell: cell[0].term(cell[0].scores.log_loss, cell[1].rows(cell[0])))
        minus = measure(cells, lambda cell: _minus_first(*cell))
        beside = baselines(pools, lambda pool, values, kept: pool.term(values, turn.rows(pool) & kept))  # noqa: B023
        for i, (pool, one, change) in enumerate(zip(pools, accuracy, minus, strict=True)):
            rows.append(pool.labels | {
                "turn": turn.first, "label": turn.label, "accuracy": one.to_proportion(),
                "log_loss": loss[i].to_dict(), "minus_first": change.to_difference(), **beside[i],
                "n_conversations": len(set(pool.scores.conversation[turn.rows(pool)])),
                "n_runs": len(pool.pms), "note": pool.note(study, one),
            })  # fmt: skip
    return sorted((r for r in rows if r["accuracy"]), key=lambda r: (r["n_params"], r["model"], r["turn"]))


def _minus_first(pool: Pool, turn: Turn) -> Term | None:
    return None if turn.first == 1 else within_tranches(pool, turn.rows(pool), FIRST.rows(pool))


def first_turn_gain(pms: list[PM]) -> Term | None:
    """Accuracy at the first turn minus at all later ones within tranches, all sizes' main PMs as runs."""
    pool = everything(pms)
    return None if pool is None else within_tranches(pool, FIRST.rows(pool), LATER.rows(pool))


def within_tranches(pool: Pool, one: Bools, other: Bools) -> Term | None:
    """Accuracy over ``one`` set of rows minus over the ``other``, tranche by tranche: helpful and harmless ones (and
    each collection) differ in turns and in how easy they are, which is not the turn's doing.

    Tranches with n and m comparisons weigh n m / (n + m) (Mantel and Haenszel 1959). None with fewer than 30
    conversations on either side.
    """
    tranches = [pool.scores.tranche == name for name in sorted(set(pool.scores.tranche))]
    both = [own for own in tranches if (own & one).any() and (own & other).any()]
    for side in (one, other):
        if len({name for own in both for name in pool.scores.conversation[own & side]}) < MIN_CONVERSATIONS:
            return None
    counts = [((own & one).sum(), (own & other).sum()) for own in both]
    weights = np.array([n * m / (n + m) for n, m in counts])
    terms = [combine((1, pool.term(pool.scores.correct, own & one)), (-1, pool.term(pool.scores.correct, own & other)))
             for own in both]  # fmt: skip
    found = combine(*zip(weights / weights.sum(), terms, strict=True))
    n_rows = int(sum(n + m for n, m in counts) / len(pool.pms))
    return None if found is None else replace(found, n=n_rows)
