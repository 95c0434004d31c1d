"""Preference models on the held-out comparisons: accuracy, losses, calibration, and their baselines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimates import Cell, Estimate, clustered_variance, codes, crossed_means, mean, paired_difference
from analysis.frames import PM_COLUMNS, Study, costs, stage_table
from hh_scaling.records import Record

Floats = NDArray[np.float64]
N_BINS = 10
N_DRAWS = 200


def pm_frames(study: Study) -> dict[str, pd.DataFrame]:
    """Held-out scores of every finished PM, by stage id."""
    frames = {r.stage_id: stage_table(study, r, "scores.parquet", PM_COLUMNS) for r in study.of_kind("pm")}
    return {stage_id: frame for stage_id, frame in frames.items() if frame is not None and len(frame)}


def pm_rows(study: Study, frames: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """One row per PM and tranche ("all" first), every estimate clustered by conversation."""
    rows = []
    for stage_id, frame in frames.items():
        labels = _labels(study, study.records[stage_id])
        tranches = sorted(frame.tranche.unique())
        parts = [("all", frame)] + ([(t, frame[frame.tranche == t]) for t in tranches] if len(tranches) > 1 else [])
        rows += [labels | {"tranche": name} | measures(part) | costs(study.records[stage_id]) for name, part in parts]
    return sorted(
        rows, key=lambda r: (r["n_params"], r["model"], r["seed"], r["half"], r["n_comparisons"], r["stage_id"])
    )


def _labels(study: Study, record: Record) -> dict[str, Any]:
    model = study.model(record)
    trained = record.summary.get("n_comparisons", record.config.get("n_comparisons"))
    return {
        "stage_id": record.stage_id, "model": model.name, "n_params": model.n_params,
        "n_params_total": model.n_params_total, "seed": study.seed(record), "seed_base": study.seed(study.base(record)),
        "half": record.config["half"], "n_comparisons": trained, "split": "held_out",
    }  # fmt: skip


def wins(first: pd.Series, second: pd.Series) -> Floats:
    """1 where ``first`` is larger, 0 where smaller, 1/2 for ties."""
    return np.asarray(0.5 + 0.5 * np.sign(first.to_numpy(float) - second.to_numpy(float)))


def measures(frame: pd.DataFrame) -> dict[str, Any]:
    """The estimates of one PM on one set of comparisons, as plain dicts (None where they do not exist)."""
    difference = (frame.score_chosen - frame.score_rejected).to_numpy(float)
    cluster = frame.conversation.to_numpy()
    correct = wins(frame.score_chosen, frame.score_rejected)
    longer = wins(frame.length_chosen, frame.length_rejected)
    p = frame.p_chosen.to_numpy(float)
    known = bool(np.isfinite(p).all())
    slope = calibration_slope(difference, cluster)
    return {
        "accuracy": mean(correct, cluster).to_dict(),
        # -log sigma(difference), written so that it cannot overflow
        "log_loss": mean(np.logaddexp(0.0, -difference), cluster).to_dict(),
        "ece": calibration_error(difference, correct, cluster).to_dict(),
        "brier": mean((1 - sigmoid(difference)) ** 2, cluster).to_dict(),
        "calibration_slope": None if slope is None else slope.to_dict(),
        "length_accuracy": mean(longer, cluster).to_dict(),
        "accuracy_minus_length": paired_difference(correct, longer, cluster).to_dict(),
        "bayes_accuracy": mean(np.maximum(p, 1 - p), cluster).to_dict() if known else None,
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
    draws = np.random.default_rng(0).poisson(1.0, size=(N_DRAWS, len(sizes))).astype(float)
    value = float(np.abs(sums.sum(axis=0)).sum() / len(correct))
    drawn = np.abs(draws @ sums).sum(axis=1) / np.maximum(draws @ sizes, 1.0)
    return Estimate(value, float(drawn.std(ddof=1)) if len(sizes) > 1 else None, len(correct))


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


def pm_trend(study: Study, frames: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Accuracy at each size and number of comparisons, pooled over seeds and halves.

    The same held-out comparisons meet every run, so conversations and chains (base models) are crossed.
    """
    cells: dict[tuple[int, str, int], list[str]] = {}
    for stage_id in frames:
        record = study.records[stage_id]
        labels = _labels(study, record)
        cells.setdefault((labels["n_params"], labels["model"], labels["n_comparisons"]), []).append(stage_id)
    rows = []
    for n_comparisons in sorted({key[2] for key in cells}):  # chains are the same at every number: pool sizes only
        chosen = [(key, ids) for key, ids in sorted(cells.items()) if key[2] == n_comparisons]
        found = crossed_means([_correct(study, frames, ids) for _, ids in chosen])
        for ((n_params, model, _), ids), (accuracy, note) in zip(chosen, found, strict=True):
            labels = {"model": model, "n_params": n_params, "n_comparisons": n_comparisons}
            chains = {chain_of(study, study.records[stage_id]) for stage_id in ids}
            counts = {"n_runs": len(ids), "n_chains": len(chains), "note": note}
            rows.append(labels | {"accuracy": accuracy.to_dict()} | counts)
    return sorted(rows, key=lambda row: (row["n_params"], row["model"], row["n_comparisons"]))


def _correct(study: Study, frames: dict[str, pd.DataFrame], stage_ids: list[str]) -> Cell:
    """Whether each held-out comparison was judged right, by every run of one size and number of comparisons."""
    parts = [frames[s] for s in stage_ids]
    return Cell(
        np.concatenate([wins(part.score_chosen, part.score_rejected) for part in parts]),
        np.concatenate([part.conversation.to_numpy() for part in parts]),
        np.concatenate([np.repeat(chain_of(study, study.records[s]), len(frames[s])) for s in stage_ids]),
    )


def chain_of(study: Study, record: Record) -> str:
    """What replicates: the base model and the seed that a run descends from."""
    base = study.base(record)
    return f"{base.stage_id if base else study.model(record).name}/{study.seed(record)}"
