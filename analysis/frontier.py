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
from analysis.frames import EVAL_COLUMNS, LATER_EVAL_COLUMNS, Model, Study, stage_table
from analysis.held_out import HeldOut
from hh_scaling.records import Record, read_jsonl

Floats = NDArray[np.float64]
SCORES = {"score_train": "score_train", "score_test": "score_test", "score_gold": "gold"}  # row name -> column
PLAIN = ("gold_helpful", "gold_harmless", "length", "ended")
KLS = ("kl_k1", "kl_k3", "kl_exact", "reverse_kl_k1", "reverse_kl_k3", "reverse_kl_exact")
PER_TOKEN = {  # row name -> what is averaged over sampled tokens, as (column, tokens, whether it is a sum over them)
    "kl_per_token": ("kl_exact", "sampled_tokens", True),
    "reverse_kl_per_token": ("reverse_kl_exact", "reverse_sampled_tokens", True),
    "entropy": ("entropy", "sampled_tokens", False),
}
LOGGED = {  # row name -> that of the stage's metrics
    **{f"{name}_controlled": f"{column}_controlled" for name, column in SCORES.items()},
    "distinct_1": "distinct_1",
    "distinct_2": "distinct_2",
}


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
    chain: str = ""  # base and seed; empty where a run counts alone

    @property
    def cluster(self) -> Codes:
        """(P,) conversations as integers."""
        return codes(self.conversation)

    @property
    def finished(self) -> bool:
        return self.record.status == "done"

    @property
    def estimator(self) -> str:
        """Of the KL that says how far the policy is: exact over the vocabulary, or k1 where that was not measured."""
        return "exact" if "kl_exact" in self.values else "k1"

    @property
    def kls(self) -> Floats:
        """(S, P) that estimate of each response's KL from the reference, in nats, signed."""
        return self.values[f"kl_{self.estimator}"]

    def kl(self, step: int) -> Estimate:
        """Its mean over prompts at the step of that index."""
        return mean(self.kls[step], self.cluster)

    def sqrt_kl(self) -> Floats:
        """(S,) sqrt(max(mean KL, 0)): negative estimates stay negative in the table and become 0 here."""
        return np.asarray(np.sqrt(np.maximum(self.kls.mean(axis=1), 0.0)))

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
        later = (*LATER_EVAL_COLUMNS, *test_columns(record).values())
        frame = stage_table(study, record, "evals.parquet", EVAL_COLUMNS, later)
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
    columns = [name for name in frame.columns if name not in EVAL_COLUMNS[:4]]
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
        chain=study.chain(record),
    )


def test_columns(record: Record) -> dict[str, str]:
    """Role -> column of the scores, for every test PM that a policy or a pool of samples was scored by."""
    return {role: role.replace("pm_", "score_", 1) for role in record.parents if role.startswith("pm_test")}


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
    logged = _metrics_by_step(study, record)
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
            row[name] = _mean(curve, name, index)
        known = logged.get(int(step), {})
        row |= _along_training(curve, index) | {n: _logged(curve, known.get(m)) for n, m in LOGGED.items()}
        rows.append(row | {name: known.get(name) for name in ("tokens", "flops", "seconds")})
    return rows


def square_root(kl: Estimate) -> tuple[float, float | None]:
    """sqrt(max(KL, 0)) with its standard error se / (2 sqrt(KL)) by the delta method; at 0 that is unknown, but 0 where
    the KL is exactly 0 by construction."""
    root = math.sqrt(max(kl.value, 0.0))
    if kl.se is None:
        return root, None
    return root, kl.se / (2 * root) if root > 0 else (0.0 if kl.se == 0 else None)


def _mean(curve: Curve, column: str, index: int) -> dict[str, Any] | None:
    return mean(curve.values[column][index], curve.cluster).to_dict() if column in curve.values else None


def _kl_columns(curve: Curve, index: int) -> dict[str, Any]:
    kl = curve.kl(index)
    root, root_se = square_root(kl)
    row: dict[str, Any] = {"kl": kl.to_dict() | {"estimator": curve.estimator}}
    row |= {name: _mean(curve, name, index) for name in KLS}
    return row | {"sqrt_kl": root, "sqrt_kl_se": root_se}


def _along_training(curve: Curve, index: int) -> dict[str, Any]:
    """KL and entropy a sampled token, and the share of responses cut off by the limit."""
    row: dict[str, Any] = {}
    for name, (column, tokens, summed) in PER_TOKEN.items():
        row[name] = None
        if column in curve.values and tokens in curve.values:
            weights, values = curve.values[tokens][index], curve.values[column][index]
            row[name] = mean(values / weights if summed else values, curve.cluster, weights).to_dict()
    ended = curve.values.get("ended")
    row["truncated"] = None if ended is None else mean(1 - ended[index], curve.cluster).to_dict()
    return row


def _logged(curve: Curve, known: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An estimate from the stage's metrics with its interval, on t with the prompts' conversations less one."""
    if known is None:
        return None
    return Estimate(known["value"], known["se"], known["n"], int(curve.cluster.max())).to_dict()


def _relative(curve: Curve, column: str, index: int) -> dict[str, Any] | None:
    relative = curve.relative(column)
    if relative is None:
        return None
    return mean(relative[index], curve.cluster).to_dict() | {"raw": float(curve.values[column][index].mean())}


def _metrics_by_step(study: Study, record: Record) -> dict[int, dict[str, Any]]:
    """The stage's row of metrics at each evaluation."""
    path = study.folder(record) / "metrics.jsonl"
    if not path.is_file():
        return {}
    return {int(row["step"]): row for row in read_jsonl(path) if row.get("type") == "eval"}
