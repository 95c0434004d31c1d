"""Preference models on the held-out comparisons: accuracy, losses, calibration, and their baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from analysis.calibration import calibration_error, calibration_slope
from analysis.crossed import Term, measure
from analysis.estimates import mean, means
from analysis.frames import MAIN, Study, costs
from analysis.held_out import HeldOut, sigmoid
from analysis.pm_baselines import baselines, same_length
from analysis.pools import PM, Pool, grouped


def pm_rows(study: Study, pms: list[PM]) -> list[dict[str, Any]]:
    """One row per PM of the main setting and tranche ("all" first), every estimate clustered by conversation."""
    rows = []
    for pm in pms:
        if pm.setting != MAIN:
            continue
        tranches = sorted(set(pm.scores.tranche))
        parts = [("all", pm.scores)]
        if len(tranches) > 1:
            parts += [(name, pm.scores.select(pm.scores.tranche == name)) for name in tranches]
        labels = _labels(study, pm)
        rows += [labels | {"tranche": name} | measures(part) | costs(pm.record) for name, part in parts]
    return sorted(rows, key=_place)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("n_params", "model", "seed", "half", "n_comparisons", "stage_id"))


def _labels(study: Study, pm: PM) -> dict[str, Any]:
    record = pm.record
    dropped = record.summary.get("dropped") or {}
    return {
        "stage_id": record.stage_id, "model": pm.model.name, "n_params": pm.model.n_params,
        "n_params_total": pm.model.n_params_total, "seed": study.seed(record),
        "seed_base": study.seed(study.base(record)), "half": pm.half, "n_comparisons": pm.n_comparisons,
        "n_trained": record.summary.get("n_comparisons", record.config.get("n_comparisons")), "split": "held_out",
        "equal_after_truncation": dropped.get("equal_after_truncation"),
        "truncated": record.summary.get("truncated"),  # absent from what earlier versions wrote
        "held_out_truncated": record.summary.get("held_out_truncated"),
    }  # fmt: skip


def measures(of: HeldOut) -> dict[str, Any]:
    """The estimates of one PM on one set of comparisons, as plain dicts (None where they do not exist)."""
    cluster, p = of.cluster, of.p_chosen
    slope = calibration_slope(of.difference, cluster)
    known, bayes = bool(np.isfinite(p).all()), np.maximum(p, 1 - p)
    alike = same_length(of)
    brier = (1 - sigmoid(of.difference)) ** 2
    rows = [of.correct, of.log_loss, brier, of.longer, of.correct - of.longer, bayes, bayes - of.correct]
    accuracy, log_loss, squared, longer, beyond, best, gap = means(np.stack(rows), cluster)
    return {
        "accuracy": accuracy.to_proportion(),
        "log_loss": log_loss.to_dict(),
        "ece": calibration_error(of.difference, of.correct, cluster).to_dict(),
        "brier": squared.to_dict(),
        "calibration_slope": None if slope is None else slope.to_dict(),
        "length_accuracy": longer.to_proportion(),
        "accuracy_minus_length": beyond.to_difference(),
        "length_matched_accuracy": mean(of.correct[alike], cluster[alike]).to_proportion() if alike.any() else None,
        "bayes_accuracy": best.to_proportion() if known else None,
        "bayes_gap": gap.to_difference() if known else None,
    }


def pm_trend(study: Study, pms: list[PM]) -> list[dict[str, Any]]:
    """Accuracy, loss and calibration at each size and number of comparisons, pooled over seeds and halves.

    The same held-out comparisons meet every run, so conversations and chains (base and seed) are crossed; ``n`` is
    the number of distinct comparisons.
    """
    main = [pm for pm in pms if pm.setting == MAIN]
    rows = []
    for n_comparisons in sorted({pm.n_comparisons for pm in main}):  # chains are the same at every number
        chosen = [pm for pm in main if pm.n_comparisons == n_comparisons]
        rows += _trend_rows(study, list(grouped(chosen, lambda pm: pm.place).values()))
    return sorted(rows, key=lambda row: (row["n_params"], row["model"], row["n_comparisons"]))


def _trend_rows(study: Study, pools: list[Pool]) -> list[dict[str, Any]]:
    quantities: dict[str, Callable[[Pool], Term | None]] = {
        "accuracy": lambda pool: pool.term(pool.scores.correct),
        "log_loss": lambda pool: pool.term(pool.scores.log_loss),
        "calibration_slope": slope_term,
    }
    found = {name: measure(pools, quantity) for name, quantity in quantities.items()}
    beside = baselines(pools, lambda pool, values, kept: pool.term(values, kept))
    return [
        pool.labels
        | {name: of[i].to_proportion() if name == "accuracy" else of[i].to_dict() for name, of in found.items()}
        | beside[i]
        | {"n_runs": len(pool.pms), "n_chains": len(pool.chains), "note": pool.note(study, found["accuracy"][i])}
        for i, pool in enumerate(pools)
    ]


def slope_term(pool: Pool) -> Term | None:
    """The mean of the calibration slopes of a pool's PMs; None where one has none.

    One fit over all pairs would be another quantity: it weighs a PM by the square of its scale. A row's influence is
    that on its own PM's slope, and its part of what that slope differs from the mean by.
    """
    found = [pm.slope for pm in pool.pms]
    slopes = [slope for slope in found if slope is not None]
    if len(slopes) < len(found):
        return None
    middle = float(np.mean([value for value, _ in slopes]))
    influence = np.concatenate([rows + (value - middle) / len(rows) for value, rows in slopes]) / len(slopes)
    return pool.influence_term(middle, influence)
