"""Preference models on the held-out comparisons: accuracy, losses, calibration, and their baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimates import Cell, Estimate, clustered_variance, codes, crossed_means, mean, paired_difference
from analysis.frames import PM_COLUMNS, SHARED_BASE, Study, costs, join_notes, stage_table
from hh_scaling.records import Record

Floats = NDArray[np.float64]
N_BINS = 10
N_DRAWS = 200


@dataclass(frozen=True)
class HeldOut:
    """One PM's scores of the held-out comparisons; arrays of length n."""

    conversation: NDArray[np.object_]
    tranche: NDArray[np.object_]
    score_chosen: Floats
    score_rejected: Floats
    longer: Floats  # 1 where the chosen response is the longer one, 1/2 where equally long
    p_chosen: Floats  # nan outside the world

    @cached_property
    def difference(self) -> Floats:
        return self.score_chosen - self.score_rejected

    @cached_property
    def correct(self) -> Floats:
        """1 where the chosen response has the higher score, 1/2 for ties."""
        return 0.5 + 0.5 * np.sign(self.difference)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the scores of both responses."""
        return float(np.std(np.concatenate([self.score_chosen, self.score_rejected]), ddof=1))

    def select(self, rows: NDArray[np.bool_]) -> HeldOut:
        return HeldOut(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def pm_scores(study: Study) -> dict[str, HeldOut]:
    """Held-out scores of every finished PM, by stage id."""
    found = {}
    for record in study.of_kind("pm"):
        frame = stage_table(study, record, "scores.parquet", PM_COLUMNS)
        if frame is not None and len(frame):
            found[record.stage_id] = _held_out(frame)
    return found


def _held_out(frame: pd.DataFrame) -> HeldOut:
    numbers = {name: frame[name].to_numpy(float) for name in PM_COLUMNS if name not in ("conversation", "tranche")}
    return HeldOut(
        conversation=frame.conversation.to_numpy(object),
        tranche=frame.tranche.to_numpy(object),
        score_chosen=numbers["score_chosen"],
        score_rejected=numbers["score_rejected"],
        longer=0.5 + 0.5 * np.sign(numbers["length_chosen"] - numbers["length_rejected"]),
        p_chosen=numbers["p_chosen"],
    )


def pm_rows(study: Study, scores: dict[str, HeldOut]) -> list[dict[str, Any]]:
    """One row per PM and tranche ("all" first), every estimate clustered by conversation."""
    rows, whole = [], largest_half(study)
    for stage_id, held_out in scores.items():
        record = study.records[stage_id]
        labels = _labels(study, record, whole)
        tranches = sorted(set(held_out.tranche))
        parts = [("all", held_out)]
        if len(tranches) > 1:
            parts += [(name, held_out.select(held_out.tranche == name)) for name in tranches]
        rows += [labels | {"tranche": name} | measures(part) | costs(record) for name, part in parts]
    return sorted(rows, key=_place)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("n_params", "model", "seed", "half", "n_comparisons", "stage_id"))


def _labels(study: Study, record: Record, whole_half: int) -> dict[str, Any]:
    model = study.model(record)
    wanted = record.config.get("n_comparisons")
    return {
        "stage_id": record.stage_id, "model": model.name, "n_params": model.n_params,
        "n_params_total": model.n_params_total, "seed": study.seed(record), "seed_base": study.seed(study.base(record)),
        "half": record.config["half"], "n_comparisons": whole_half if wanted is None else wanted,
        "n_trained": record.summary.get("n_comparisons", wanted), "split": "held_out",
    }  # fmt: skip


def largest_half(study: Study) -> int:
    """What "all comparisons of the half" is called: the most that any such PM was trained on, the same for all, so
    that halves which differ by a few dropped pairs stay one point of a curve."""
    everything = [r for r in study.of_kind("pm") if r.config.get("n_comparisons") is None]
    return max((int(r.summary.get("n_comparisons") or 0) for r in everything), default=0)


def measures(of: HeldOut) -> dict[str, Any]:
    """The estimates of one PM on one set of comparisons, as plain dicts (None where they do not exist)."""
    cluster, p = codes(of.conversation), of.p_chosen
    slope = calibration_slope(of.difference, cluster)
    return {
        "accuracy": mean(of.correct, cluster).to_dict(),
        # -log sigma(difference), written so that it cannot overflow
        "log_loss": mean(np.logaddexp(0.0, -of.difference), cluster).to_dict(),
        "ece": calibration_error(of.difference, of.correct, cluster).to_dict(),
        "brier": mean((1 - sigmoid(of.difference)) ** 2, cluster).to_dict(),
        "calibration_slope": None if slope is None else slope.to_dict(),
        "length_accuracy": mean(of.longer, cluster).to_dict(),
        "accuracy_minus_length": paired_difference(of.correct, of.longer, cluster).to_dict(),
        "bayes_accuracy": mean(np.maximum(p, 1 - p), cluster).to_dict() if np.isfinite(p).all() else None,
    }


def sigmoid(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(x / 2))


def calibration_error(difference: Floats, correct: Floats, cluster: Any) -> Estimate:
    """Expected calibration error over ten equal bins of the confidence in [1/2, 1].

    Its standard error is from 200 draws of Poisson weights on conversations (fixed seed). The error is biased
    upwards in small samples: a perfectly calibrated model has about sqrt(bins / (4 n)).
    """
    confidence = sigmoid(np.abs(difference))
    bins = np.minimum(((confidence - 0.5) * 2 * N_BINS).astype(int), N_BINS - 1)
    group = codes(cluster)
    sums = np.zeros((group.max() + 1, N_BINS))  # of (correct - confidence), by conversation and bin
    np.add.at(sums, (group, bins), correct - confidence)
    sizes = np.bincount(group).astype(float)
    draws = poisson_draws(len(sizes))
    value = float(np.abs(sums.sum(axis=0)).sum() / len(correct))
    drawn = np.abs(draws @ sums).sum(axis=1) / np.maximum(draws @ sizes, 1.0)
    return Estimate(value, float(drawn.std(ddof=1)) if len(sizes) > 1 else None, len(correct))


@lru_cache(maxsize=64)
def poisson_draws(groups: int) -> Floats:
    """(N_DRAWS, groups) weights of a Poisson bootstrap, always the same."""
    return np.random.default_rng(0).poisson(1.0, size=(N_DRAWS, groups)).astype(float)


def calibration_slope(difference: Floats, cluster: Any) -> Estimate | None:
    """b that maximises sum(log sigma(b * difference)): 1 is calibrated, above 1 under-confident.

    None where the maximum is at infinity: every comparison right, or every one wrong.
    """
    scale = float(np.abs(difference).mean())
    if scale == 0 or (difference >= 0).all() or (difference <= 0).all():
        return None
    x = difference / scale
    b = 0.0
    for _ in range(60):  # Newton on a concave function of one variable, damped by at most one unit a step
        q = sigmoid(-b * x)
        step = float((x * q).sum() / (x**2 * q * (1 - q)).sum())
        b += float(np.clip(step, -1.0, 1.0))
        if abs(step) < 1e-12:
            break
    q = sigmoid(-b * x)
    influence = x * q / (x**2 * q * (1 - q)).sum()
    group = codes(cluster)
    groups = int(group.max()) + 1
    if groups < 2:
        return Estimate(b / scale, None, len(x))
    return Estimate(b / scale, math.sqrt(clustered_variance(influence, group)) / scale, len(x), groups - 1)


def pm_trend(study: Study, scores: dict[str, HeldOut]) -> list[dict[str, Any]]:
    """Accuracy at each size and number of comparisons, pooled over seeds and halves.

    The same held-out comparisons meet every run, so conversations and chains (base and seed) are crossed; ``n`` is
    the number of distinct comparisons.
    """
    cells: dict[tuple[int, str, int], list[str]] = {}
    whole = largest_half(study)
    for stage_id in scores:
        labels = _labels(study, study.records[stage_id], whole)
        cells.setdefault((labels["n_params"], labels["model"], labels["n_comparisons"]), []).append(stage_id)
    rows = []
    for n_comparisons in sorted({key[2] for key in cells}):  # chains are the same at every number: pool sizes only
        chosen = [(key, ids) for key, ids in sorted(cells.items()) if key[2] == n_comparisons]
        found = crossed_means([_correct(study, scores, ids) for _, ids in chosen])
        for ((n_params, model, _), ids), (accuracy, note) in zip(chosen, found, strict=True):
            labels = {"model": model, "n_params": n_params, "n_comparisons": n_comparisons}
            records = [study.records[stage_id] for stage_id in ids]
            distinct = {"n": max(len(scores[stage_id].correct) for stage_id in ids)}  # the same for every run
            shared = SHARED_BASE if study.shares_base(records) else None
            counts = {"n_runs": len(ids), "n_chains": len(set(map(study.chain, records)))}
            rows.append(
                labels | {"accuracy": accuracy.to_dict() | distinct} | counts | {"note": join_notes(note, shared)}
            )
    return sorted(rows, key=lambda row: (row["n_params"], row["model"], row["n_comparisons"]))


def _correct(study: Study, scores: dict[str, HeldOut], stage_ids: list[str]) -> Cell:
    """Whether each held-out comparison was judged right, by every run of one size and number of comparisons."""
    parts = [scores[s] for s in stage_ids]
    chains = np.array([study.chain(study.records[s]) for s in stage_ids], dtype=object)
    return Cell(
        np.concatenate([part.correct for part in parts]),
        np.concatenate([part.conversation for part in parts]),
        np.repeat(chains, [len(part.correct) for part in parts]),
    )
