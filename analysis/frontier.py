"""Score against the square root of KL along each policy's training, on the same held-out prompts at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimates import Codes, Estimate, codes, means
from analysis.frames import EVAL_COLUMNS, LATER_EVAL_COLUMNS, Model, Study, labels, stage_table
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

    @cached_property
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

    @cached_property
    def kl(self) -> list[Estimate]:
        """Its mean over prompts at each step."""
        return means(self.kls, self.cluster)

    def sqrt_kl(self) -> Floats:
        """(S,) sqrt(max(mean KL, 0)): negative estimates stay negative in the table and become 0 here."""
        return np.asarray(np.sqrt(np.maximum(self.kls.mean(axis=1), 0.0)))

    def resolved(self) -> NDArray[np.bool_]:
        """(S,) evaluations after the start whose KL is at least two standard errors: the others are not fitted."""
        clear = [kl.se is None or kl.value >= 2 * kl.se for kl in self.kl]
        return np.array([False, *clear[1:]])

    def relative(self, column: str) -> Floats | None:
        """(S, P) score minus the same prompt's score at the first step, or None where it was not measured."""
        scores = self.values.get(column)
        return None if scores is None else scores - scores[0]


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
    steps, step = np.unique(frame.step.to_numpy(), return_inverse=True)
    prompts, prompt = np.unique(frame.prompt_id.to_numpy(), return_inverse=True)
    rows = np.full((len(steps), len(prompts)), -1)
    rows[step[::-1], prompt[::-1]] = np.arange(len(frame))[::-1]  # of a repeated row the first
    everywhere = (rows >= 0).all(axis=0)
    if not everywhere.all():
        study.exclude(record.stage_id, f"{(~everywhere).sum()} prompts not evaluated at every step", record)
    rows = np.ascontiguousarray(rows[:, everywhere])  # sums of a row then add in the order of its prompts
    if not rows.size:
        return None
    columns = [name for name in frame.columns if name not in EVAL_COLUMNS[:4]]
    values = {name: frame[name].to_numpy(float)[rows] for name in columns}
    return Curve(
        record,
        study.model(record),
        study.seed(record),
        steps=steps.astype(np.int64),
        samples=frame.samples.to_numpy(np.int64)[rows[:, 0]],
        conversation=labels(frame.conversation)[rows[0]],
        prompts=tuple(prompts[everywhere].tolist()),
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
    logged, measured = _metrics_by_step(study, record), _measured(curve)
    known_of_run = {
        "stage_id": record.stage_id, "model": model.name, "n_params": model.n_params,
        "n_params_total": model.n_params_total, "seed": curve.seed,
        "seed_pm": study.seed(study.parent(record, "pm_train")), "seed_base": study.seed(study.base(record)),
        "status": record.status, "gold_source": gold_source(curve),
    }  # fmt: skip
    rows = []
    for index, step in enumerate(curve.steps):
        row = known_of_run | {"step": int(step), "samples": int(curve.samples[index])}
        row |= {name: None if column is None else column[index] for name, column in measured.items()}
        known = logged.get(int(step), {})
        row |= {n: _logged(curve, known.get(m)) for n, m in LOGGED.items()}
        rows.append(row | {name: known.get(name) for name in ("tokens", "flops", "seconds")})
    return rows


def square_root(kl: Estimate) -> tuple[float, float | None]:
    """sqrt(max(KL, 0)) with its standard error se / (2 sqrt(KL)) by the delta method; at 0 that is unknown, but 0 where
    the KL is exactly 0 by construction."""
    root = math.sqrt(max(kl.value, 0.0))
    if kl.se is None:
        return root, None
    return root, kl.se / (2 * root) if root > 0 else (0.0 if kl.se == 0 else None)


def _measured(curve: Curve) -> dict[str, list[Any] | None]:
    """What the rows of a curve hold, by column and step; None for a column that was not measured."""
    roots = [square_root(kl) for kl in curve.kl]
    found: dict[str, list[Any] | None] = {"kl": [kl.to_dict() | {"estimator": curve.estimator} for kl in curve.kl]}
    found |= {name: _mean(curve, curve.values.get(name)) for name in KLS}
    found |= {"sqrt_kl": [root for root, _ in roots], "sqrt_kl_se": [se for _, se in roots]}
    found |= {name: _relative(curve, column) for name, column in SCORES.items()}
    found |= {name: _mean(curve, curve.values.get(name)) for name in PLAIN}
    return found | _along_training(curve)


def _mean(curve: Curve, values: Floats | None, weights: Floats | None = None) -> list[Any] | None:
    return None if values is None else [one.to_dict() for one in means(values, curve.cluster, weights)]


def _along_training(curve: Curve) -> dict[str, list[Any] | None]:
    """KL and entropy a sampled token, and the share of responses cut off by the limit."""
    found: dict[str, list[Any] | None] = {}
    for name, (column, tokens, summed) in PER_TOKEN.items():
        found[name] = None
        if column in curve.values and tokens in curve.values:
            values, weights = curve.values[column], curve.values[tokens]
            found[name] = _mean(curve, values / weights if summed else values, weights)
    ended = curve.values.get("ended")
    return found | {"truncated": None if ended is None else _mean(curve, 1 - ended)}


def _logged(curve: Curve, known: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An estimate from the stage's metrics with its interval, on t with the prompts' conversations less one."""
    if known is None:
        return None
    return Estimate(known["value"], known["se"], known["n"], int(curve.cluster.max())).to_dict()


def _relative(curve: Curve, column: str) -> list[Any] | None:
    found = _mean(curve, curve.relative(column))
    if found is None:
        return None
    return [one | {"raw": float(raw)} for one, raw in zip(found, curve.values[column].mean(axis=1), strict=True)]


def _metrics_by_step(study: Study, record: Record) -> dict[int, dict[str, Any]]:
    """The stage's row of metrics at each evaluation."""
    path = study.folder(record) / "metrics.jsonl"
    if not path.is_file():
        return {}
    return {int(row["step"]): row for row in read_jsonl(path) if row.get("type") == "eval"}
