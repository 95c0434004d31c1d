"""A preference model's scores of the held-out comparisons, the same comparisons for every model of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from analysis.estimates import Codes, codes
from analysis.frames import PM_COLUMNS, Study, labels, stage_columns

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Objects = NDArray[np.object_]
KINDS = ("helpful", "harmless")  # how a tranche's name begins
LABELS = ("comparison_id", "conversation", "tranche")


@dataclass(frozen=True)
class HeldOut:
    """Scores of n comparisons; arrays of length n."""

    comparison_id: Objects
    conversation: Objects
    tranche: Objects
    n_turns: Floats
    score_chosen: Floats
    score_rejected: Floats
    length_chosen: Floats
    length_rejected: Floats
    p_chosen: Floats  # nan outside the world

    @classmethod
    def of(cls, table: pd.DataFrame | pa.Table) -> HeldOut:
        """From the columns of ``scores.parquet``."""
        columns: dict[str, Any] = {
            name: labels(table[name]) if name in LABELS else np.asarray(table[name], dtype=float) for name in PM_COLUMNS
        }
        return cls(**columns)

    @cached_property
    def cluster(self) -> Codes:
        """Conversations as integers."""
        return codes(self.conversation)

    @cached_property
    def difference(self) -> Floats:
        return self.score_chosen - self.score_rejected

    @cached_property
    def correct(self) -> Floats:
        """1 where the chosen response has the higher score, 1/2 for ties."""
        return 0.5 + 0.5 * np.sign(self.difference)

    @cached_property
    def log_loss(self) -> Floats:
        """-log sigma(difference), written so that it cannot overflow."""
        return np.logaddexp(0.0, -self.difference)

    @cached_property
    def longer(self) -> Floats:
        """1 where the chosen response is the longer one, 1/2 where equally long."""
        return 0.5 + 0.5 * np.sign(self.length_chosen - self.length_rejected)

    @cached_property
    def both(self) -> Floats:
        """(2 n,) the scores of the chosen responses, then of the rejected ones."""
        return np.concatenate([self.score_chosen, self.score_rejected])

    @cached_property
    def lower(self) -> Floats:
        """The lower of the two scores."""
        return np.minimum(self.score_chosen, self.score_rejected)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the scores of both responses."""
        return float(np.std(self.both, ddof=1))

    @cached_property
    def kind(self) -> Objects:
        """ "helpful", "harmless" or "" by how the tranche's name begins."""
        kinds = {name: next((k for k in KINDS if str(name).startswith(k)), "") for name in set(self.tranche)}
        return np.array([kinds[name] for name in self.tranche], dtype=object)

    def centred(self) -> HeldOut:
        """With the mean over both responses of all comparisons subtracted: scores of two PMs have no common zero."""
        middle = self.both.mean()
        return replace(self, score_chosen=self.score_chosen - middle, score_rejected=self.score_rejected - middle)

    def select(self, rows: Bools | NDArray[np.intp]) -> HeldOut:
        return HeldOut(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def in_order(self, comparison_ids: Sequence[object]) -> HeldOut:
        """These comparisons, in this order."""
        place = {name: i for i, name in enumerate(self.comparison_id)}
        return self.select(np.array([place[name] for name in comparison_ids], dtype=np.intp))

    @classmethod
    def joined(cls, parts: Sequence[HeldOut]) -> HeldOut:
        """The rows of several PMs one after the other."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def pm_scores(study: Study, kind: str = "pm") -> dict[str, HeldOut]:
    """Held-out scores of every finished PM (or of votes: "pmp") of whatever setting, by stage id."""
    found = {}
    for record in study.of_kind(kind):
        table = stage_columns(study, record, "scores.parquet", PM_COLUMNS)
        if table is not None and len(table):
            found[record.stage_id] = HeldOut.of(table)
    return found


def sigmoid(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(x / 2))
