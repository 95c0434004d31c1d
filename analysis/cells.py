"""Policies of one size trained against preference models of one size, and everything that scored them.

Scores of PMs are changes from a run's start in standard deviations of that PM's held-out scores (two PMs share no
scale); gold scores are changes in their own unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.frames import Model, Study
from analysis.frontier import Curve, test_columns
from analysis.held_out import HeldOut
from analysis.overoptimisation import usable
from hh_scaling.records import Record

Floats = NDArray[np.float64]
Scores = dict[str, HeldOut]
Row = dict[str, Any]
Key = tuple[str, str | None]  # train, test or gold, and the size of the PM


@dataclass(frozen=True)
class Judge:
    """One score of a policy: by the train PM, by a test PM, or gold."""

    score: str  # train, test or gold
    column: str  # of the evaluations
    pm: Model | None  # None: gold
    unit: float  # what scores are divided by


@dataclass(frozen=True)
class Cell:
    """All usable runs of one policy size against one train PM's size, with the judges of each run."""

    model: Model
    train_pm: Model
    runs: tuple[Curve, ...]

    @property
    def labels(self) -> Row:
        return labels_of(self.model, self.train_pm)


def labels_of(model: Model, train_pm: Model) -> Row:
    """The columns that name a policy's size and its train PM's."""
    pm = {"train_pm": train_pm.name, "train_pm_n_params": train_pm.n_params}
    return {"model": model.name, "n_params": model.n_params, **pm}


def is_shown(study: Study, record: Record) -> bool:
    """Whether a stage is of the main setting but for the size of its train PM, a PM of the study's own."""
    setting = study.setting(record)
    return setting is not None and setting.varies_only("train_pm") and pm_model(study, record, "pm_train") is not None


def pm_model(study: Study, record: Record, role: str) -> Model | None:
    """The size of the PM in that role; None for a foreign one and one that is missing."""
    pm = study.parent(record, role)
    return study.model(pm) if pm is not None and pm.kind == "pm" else None


def cells_of(study: Study, curves: Sequence[Curve]) -> list[Cell]:
    """The cells with a usable run, by policy size and then train PM size."""
    found: dict[tuple[Model, Model], list[Curve]] = {}
    for curve in filter(usable, curves):
        train_pm = pm_model(study, curve.record, "pm_train")
        assert train_pm is not None
        found.setdefault((curve.model, train_pm), []).append(curve)
    ordered = sorted(found, key=lambda key: [(m.n_params, m.name) for m in key])
    return [Cell(*key, tuple(found[key])) for key in ordered]


def judges(study: Study, record: Record, measured: Sequence[str], scores: Scores) -> Iterator[Judge]:
    """The scores that a policy or a pool has: the train PM's, those of test PMs by size, gold."""
    roles = sorted(
        test_columns(record).items(), key=lambda item: m.n_params if (m := pm_model(study, record, item[0])) else 0
    )
    for score, role, column in [("train", "pm_train", "score_train"), *(("test", *item) for item in roles)]:
        pm, held_out = pm_model(study, record, role), scores.get(record.parents[role])
        if pm is not None and held_out is not None and held_out.spread > 0 and column in measured:
            yield Judge(score, column, pm, held_out.spread)
    if "gold" in measured:
        yield Judge("gold", "gold", None, 1.0)


def rises(study: Study, curve: Curve, scores: Scores) -> dict[Key, Floats]:
    """(S, P) changes from the start, in units of the judge, by score and PM size."""
    found = {}
    for judge in judges(study, curve.record, list(curve.values), scores):
        relative = curve.relative(judge.column)
        assert relative is not None
        found[judge.score, judge.pm.name if judge.pm else None] = relative / judge.unit
    return found
