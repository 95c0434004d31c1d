"""Where a policy's scores by train and test PMs part, and whether a larger train PM serves it better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.cells import Cell, Floats, Key, Row, Scores, pm_model, rises
from analysis.crossed import Measured, Term, mean_term, measure
from analysis.equal_kl import Along, gap
from analysis.frames import Model, Study, join_notes
from analysis.frontier import Curve, test_columns

MIN_STEPS = 3  # evaluations after the start, for a curve of two coefficients
PARTED = 0.2  # standard deviations: a smaller difference between train and test score is not called a parting
PARTING_RULE = (
    f"The train and the test score part where the train PM's has risen {PARTED} standard deviations more than the test "
    "PM's, each in standard deviations of that PM's held-out scores: on the least-squares curve c d + e d², d = √KL, "
    "through a run's differences at its evaluations. The 95 % interval is of prompts crossed with runs and carries the "
    "noise of √KL. not reached: the curve of some run does not get there within the √KL that it went to; reach is the "
    "farthest √KL that all runs of the cell got to."
)
SIZE_RULE = (
    "difference: the score of the policy trained against the largest train PM minus that of the one trained against "
    "the smallest, same size and seed, at the same √KL, over the former's evaluations within the latter's reach. The "
    "verdict names the PM whose policy has more where the 95 % interval leaves out 0, else it is inconclusive."
)
ALL = "all"  # policy sizes pooled


def parting_rows(study: Study, cells: Sequence[Cell], scores: Scores) -> list[Row]:
    """One row per cell and test PM size: how far apart the scores are at the end, and where they parted."""
    entries = [_Parting.of(study, cell, pm, scores) for cell in cells for pm in _test_sizes(study, cell)]
    entries = [entry for entry in entries if entry.ends]
    ends = measure(entries, lambda entry: _term(entry.ends))
    places = measure(entries, lambda entry: _term(entry.places) if entry.reached else None)
    return [entry.row(study, *found) for entry, *found in zip(entries, ends, places, strict=True)]


def _test_sizes(study: Study, cell: Cell) -> list[Model]:
    """The sizes of the test PMs that followed a cell's runs, from small to large."""
    found = {
        pm for c in cell.runs for role in test_columns(c.record) if (pm := pm_model(study, c.record, role)) is not None
    }
    return sorted(found, key=lambda m: (m.n_params, m.name))


@dataclass(frozen=True)
class Part:
    """What one run gives per prompt, with the prompts' conversations."""

    run: str
    conversation: NDArray[np.object_]
    values: Floats


def _term(parts: Sequence[Part]) -> Term | None:
    """The mean over prompts crossed with runs; n counts the prompts of the run that has most."""
    if not parts:
        return None
    runs = np.repeat(np.array([part.run for part in parts], dtype=object), [len(part.values) for part in parts])
    values, items = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "conversation"))
    return mean_term(values, items, runs, n=max(len(part.values) for part in parts))


@dataclass(frozen=True)
class _Parting:
    cell: Cell
    pm: Model
    ends: list[Part]  # train minus test at the end
    places: list[Part]  # pseudo-values of the sqrt(KL) of the parting, of the runs that reached it
    reach: float

    @property
    def reached(self) -> bool:
        """Whether every run parted: a mean over those that did would be too near."""
        return len(self.places) == len(self.ends)

    @classmethod
    def of(cls, study: Study, cell: Cell, pm: Model, scores: Scores) -> _Parting:
        ends, places, reach = [], [], []
        for curve in cell.runs:
            found = rises(study, curve, scores)
            train, test = found.get(("train", cell.train_pm.name)), found.get(("test", pm.name))
            if train is None or test is None:
                continue
            run = study.chain(curve.record)
            ends.append(Part(run, curve.conversation, (train - test)[-1]))
            reach.append(float(curve.sqrt_kl().max()))
            if (place := parting_place(curve.kls, train - test)) is not None:
                places.append(Part(run, curve.conversation, place))
        return cls(cell, pm, ends, places, min(reach, default=0.0))

    def row(self, study: Study, end: Measured, place: Measured) -> Row:
        shared = study.base_note([c.record for c in self.cell.runs])
        return self.cell.labels | {
            "test_pm": self.pm.name, "test_pm_n_params": self.pm.n_params,
            "n_runs": len(self.ends), "n_reached": len(self.places), "reach": self.reach,
            "parting_at_end": end.to_dict(), "parting_sqrt_kl": _above_zero(place.to_dict()),
            "verdict": "parts" if self.reached else "not reached", "rule": PARTING_RULE,
            "note": join_notes(end.note, _of_place(place.note, end.note), shared),
        }  # fmt: skip


def _of_place(note: str | None, of_end: str | None) -> str | None:
    """What is to say of the place's interval alone: it may rest on fewer cells, those whose runs all parted."""
    return None if note is None or note == of_end else f"the place: {note}"


def _above_zero(estimate: Row | None) -> Row | None:
    """The interval of a distance, which ends at 0 at the least."""
    if estimate is None or estimate["low"] is None:
        return estimate
    return estimate | {"low": max(estimate["low"], 0.0)}


def parting_place(kl: Floats, apart: Floats) -> Floats | None:
    """(P,) delete-one pseudo-values, whose mean is the sqrt(KL) where c d + e d^2 first is ``PARTED``: least squares
    through the mean of ``apart`` (S, P) at d = sqrt(mean of ``kl`` (S, P), in nats), from the origin on.

    None with fewer than ``MIN_STEPS`` evaluations after the start, or where the curve gets there beyond the farthest
    one or never. The first evaluation past the mark would be no such place: it is that of the luckiest noise.
    """
    if len(kl) <= MIN_STEPS:
        return None
    along, n = Along(kl, apart), kl.shape[1]
    whole, farthest = _crossing(along, np.full((1, n), 1 / n))
    left_out, _ = _crossing(along, (1 - np.eye(n)) / (n - 1))
    if not whole[0] <= farthest[0] or not np.isfinite(left_out).all():
        return None
    return np.asarray(whole + (n - 1) * (left_out.mean() - left_out))


def _crossing(along: Along, shares: Floats) -> tuple[Floats, Floats]:
    """(W,) where the curve is at ``PARTED`` (infinity: nowhere) and the farthest d, under each row of ``shares``."""
    d, apart = along.at(shares)
    design = np.stack([d, d**2], axis=2)
    c, e = np.moveaxis(np.linalg.pinv(design) @ apart[..., None], 1, 0)[..., 0]
    root = np.sqrt(np.maximum(c**2 + 4 * e * PARTED, 0.0))
    reaches = (c**2 + 4 * e * PARTED >= 0) & (c + root > 0)
    return np.where(reaches, 2 * PARTED / np.where(reaches, c + root, 1.0), np.inf), d.max(axis=1)


# ---------------------------------------------------------------- small against large PM


def size_rows(study: Study, cells: Sequence[Cell], scores: Scores) -> list[Row]:
    """One row per policy size and score, and one pooled over policy sizes: largest against smallest train PM."""
    pms = sorted({cell.train_pm for cell in cells}, key=lambda m: (m.n_params, m.name))
    if len(pms) < 2:
        return []
    small, large = pms[0], pms[-1]
    pairs = [pair for model in dict.fromkeys(c.model for c in cells) for pair in _pairs(cells, model, small, large)]
    keys = dict.fromkeys(key for one, _ in pairs for key in rises(study, one, scores) if key[0] != "train")
    rows = []
    for key in keys:
        found = {
            model: _size_parts(study, pairs, model, key, scores) for model in dict.fromkeys(a.model for a, _ in pairs)
        }
        sizes = list(found.items())
        measured = measure(sizes, lambda item: _term(item[1]))
        rows += [
            _size_row(model, key, large, small, parts, m) for (model, parts), m in zip(sizes, measured, strict=True)
        ]
        pooled = [part for parts in found.values() for part in parts]
        if len(sizes) > 1 and pooled:
            rows.append(_size_row(None, key, large, small, pooled, measure([pooled], _term)[0]))
    return rows


def _pairs(cells: Sequence[Cell], model: Model, small: Model, large: Model) -> list[tuple[Curve, Curve]]:
    """The runs of a size against the large and the small PM that share a seed."""
    by = {
        pm: [c for cell in cells if cell.model == model and cell.train_pm == pm for c in cell.runs]
        for pm in (small, large)
    }
    return [(one, two) for one in by[large] for two in by[small] if one.seed == two.seed]


def _size_parts(
    study: Study, pairs: Sequence[tuple[Curve, Curve]], model: Model, key: Key, scores: Scores
) -> list[Part]:
    """The pseudo-values of each pair's difference at equal sqrt(KL), on the prompts that both have."""
    parts = []
    for one, two in pairs:
        ours, theirs = rises(study, one, scores).get(key), rises(study, two, scores).get(key)
        if one.model != model or ours is None or theirs is None or one.prompts != two.prompts:
            continue
        found = gap(Along(one.kls[1:], ours[1:]), Along(two.kls, theirs))
        if found is not None:
            parts.append(Part(one.record.stage_id, one.conversation, found.values))
    return parts


def _size_row(model: Model | None, key: Key, large: Model, small: Model, parts: list[Part], measured: Measured) -> Row:
    difference, verdict = measured.to_difference(), "no overlap"
    if difference is not None:
        low, high = difference["low"], difference["high"]
        decided = low is not None and (low > 0 or high < 0)
        verdict = ("large" if low > 0 else "small") if decided else "inconclusive"
    return {
        "model": ALL if model is None else model.name, "n_params": None if model is None else model.n_params,
        "small": small.name, "large": large.name, "score": key[0], "pm": key[1], "n_runs": len(parts),
        "difference": difference, "verdict": verdict, "rule": SIZE_RULE, "note": measured.note,
    }  # fmt: skip
