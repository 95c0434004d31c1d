"""Score against the square root of KL along each policy's training, on the same held-out prompts at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimates import Codes, Estimate, codes, mean
from analysis.frames import EVAL_COLUMNS, Model, Study, stage_table
from analysis.held_out import HeldOut
from hh_scaling.records import Record, read_jsonl

Floats = NDArray[np.float64]
SCORES = {"score_train": "score_train", "score_test": "score_test", "score_gold": "gold"}  # row name -> column
PLAIN = ("gold_helpful", "gold_harmless", "length", "ended")


@dataclass(frozen=True, eq=False)
class Curve:
    """One policy's evaluations: each measured quantity is (S steps, P prompts), prompts in one fixed order."""

    record: Record
    model: Model
    seed: int | None
    steps: NDArray[np.int64]  # (S,), ascending, the first is the reference itself
    samples: NDArray[np.int64]  # (S,)
    conversation: NDArray[np.object_]  # (P,) of each prompt, the same names in every run
    prompts: tuple[int, ...]  # (P,) prompt ids
    values: dict[str, Floats] = field(default_factory=dict)  # column of evals.parquet -> (S, P); all-null ones absent

    @property
    def cluster(self) -> Codes:
        """(P,) conversations as integers."""
        return codes(self.conversation)

    @property
    def finished(self) -> bool:
        return self.record.status == "done"

    def kl(self, step: int) -> Estimate:
        """Mean over prompts of the k1 sum at the step of that index, signed, in nats."""
        return mean(self.values["kl_k1"][step], self.cluster)

    def sqrt_kl(self) -> Floats:
        """(S,) sqrt(max(mean k1, 0)): negative estimates stay negative in the table and become 0 here."""
        return np.asarray(np.sqrt(np.maximum(self.values["kl_k1"].mean(axis=1), 0.0)))

    def resolved(self) -> NDArray[np.bool_]:
        """(S,) evaluations after the start whose KL is at least two standard errors: the others are not fitted."""
        if (found := RESOLVED.get(self)) is None:  # asked for by every law of every score
            known = [self.kl(step) for step in range(len(self.steps))]
            clear = [kl.se is None or kl.value >= 2 * kl.se for kl in known]
            found = RESOLVED[self] = np.array([False, *clear[1:]])
        return found

    def relative(self, column: str) -> Floats | None:
        """(S, P) score minus the same prompt's score at the first step, or None where it was not measured."""
        scores = self.values.get(column)
        return None if scores is None else scores - scores[0]


RESOLVED: WeakKeyDictionary[Curve, NDArray[np.bool_]] = WeakKeyDictionary()


def load_curves(study: Study) -> list[Curve]:
    """The evaluations of every policy of whatever setting, by size, seed and stage id; what cannot be paired is
    excluded with its reason."""
    curves = []
    for record in study.of_kind("ppo"):
        frame = stage_table(study, record, "evals.parquet", EVAL_COLUMNS)
        if frame is not None and (curve := _curve(study, record, frame)) is not None:
            curves.append(curve)
    return sorted(curves, key=lambda c: (c.model.n_params, c.model.name, c.seed, c.record.stage_id))


def _curve(study: Study, record: Record, frame: pd.DataFrame) -> Curve | None:
    if frame.empty:
        study.exclude(record.stage_id, "evals.parquet has no rows", record)
        return None
    counts = frame.groupby("prompt_id").step.nunique()
    everywhere = counts.index[counts == frame.step.nunique()]
    if len(everywhere) < len(counts):
        study.exclude(record.stage_id, f"{len(counts) - len(everywhere)} prompts not evaluated at every step", record)
    frame = frame[frame.prompt_id.isin(everywhere)].drop_duplicates(["step", "prompt_id"])
    if frame.empty:
        return None
    frame = frame.sort_values(["step", "prompt_id"])
    first = frame[frame.step == frame.step.min()]
    shape = (frame.step.nunique(), len(first))
    columns = ("kl_k1", "kl_k3", "score_train", "score_test", "gold", *PLAIN)
    values = {name: frame[name].to_numpy(float).reshape(shape) for name in columns}
    return Curve(
        record,
        study.model(record),
        study.seed(record),
        steps=frame.step.unique().astype(np.int64),
        samples=frame.groupby("step").samples.first().to_numpy(np.int64),
        conversation=first.conversation.to_numpy(object),
        prompts=tuple(first.prompt_id),
        values={name: v for name, v in values.items() if np.isfinite(v).all()},
    )


def gold_source(curve: Curve) -> str | None:
    """What a policy's gold score is from: "world", or the id of the stage whose model gave it; None without one."""
    measured = "gold" in curve.values
    source: str | None = curve.record.summary.get("gold_source", "world" if measured else None)
    return source if measured else None


def spread(study: Study, curve: Curve, role: str, scores: Mapping[str, HeldOut]) -> float | None:
    """The standard deviation of the held-out scores of the PM in that role ("train" or "test"); of a foreign one,
    which scored no comparisons, that of its scores of the policy's first responses. None where it is missing."""
    pm = curve.record.parents.get(f"pm_{role}", "")
    if pm in scores:
        return scores[pm].spread
    first = curve.values.get(f"score_{role}")
    return float(first[0].std(ddof=1)) if first is not None and study.kinds.get(pm) == "foreign_pm" else None


def frontier_rows(study: Study, curves: list[Curve]) -> list[dict[str, Any]]:
    """One row per policy and evaluated step; scores relative to the run's own first step, paired by prompt."""
    return [row for curve in curves for row in _rows(study, curve)]


def _rows(study: Study, curve: Curve) -> list[dict[str, Any]]:
    record, model = curve.record, curve.model
    spent = _costs_by_step(study, record)
    labels = {
        "stage_id": record.stage_id, "model": model.name, "n_params": model.n_params,
        "n_params_total": model.n_params_total, "seed": curve.seed,
        "seed_pm": study.seed(study.parent(record, "pm_train")), "seed_base": study.seed(study.base(record)),
        "status": record.status, "gold_source": gold_source(curve),
    }  # fmt: skip
    rows = []
    for index, step in enumerate(curve.steps):
        row = labels | {"step": int(step), "samples": int(curve.samples[index])} | _kl_columns(curve, index)
        for name, column in SCORES.items():
            row[name] = _relative(curve, column, index)
        for name in PLAIN:
            row[name] = mean(curve.values[name][index], curve.cluster).to_dict() if name in curve.values else None
        rows.append(row | spent.get(int(step), {"tokens": None, "flops": None, "seconds": None}))
    return rows


def _kl_columns(curve: Curve, index: int) -> dict[str, Any]:
    kl = curve.kl(index)
    root = math.sqrt(max(kl.value, 0.0))
    # delta method, se(d) = se(KL) / (2 d); at d = 0 it exists only where KL is exactly 0 by construction
    root_se = None if kl.se is None else kl.se / (2 * root) if root > 0 else (0.0 if kl.se == 0 else None)
    k3 = mean(curve.values["kl_k3"][index], curve.cluster).to_dict() if "kl_k3" in curve.values else None
    return {"kl": kl.to_dict() | {"estimator": "k1"}, "kl_k3": k3, "sqrt_kl": root, "sqrt_kl_se": root_se}


def _relative(curve: Curve, column: str, index: int) -> dict[str, Any] | None:
    relative = curve.relative(column)
    if relative is None:
        return None
    return mean(relative[index], curve.cluster).to_dict() | {"raw": float(curve.values[column][index].mean())}


def _costs_by_step(study: Study, record: Record) -> dict[int, dict[str, Any]]:
    """Tokens, FLOPs and seconds spent up to each evaluation, from the stage's metrics."""
    path = study.folder(record) / "metrics.jsonl"
    if not path.is_file():
        return {}
    evals = (row for row in read_jsonl(path) if row.get("type") == "eval")
    return {int(row["step"]): {k: row.get(k) for k in ("tokens", "flops", "seconds")} for row in evals}
