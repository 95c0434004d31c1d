"""Behaviours as ``results.json`` holds them, written by hand from formulas that a test can repeat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Place = tuple[str, str | None, float, int]
PLACES: tuple[Place, ...] = (("base", None, 0.0, 0), ("ppo", "sqrt_kl=1.0", 1.0, 256), ("ppo", "end", 2.0, 1024))
SEEDS = (0, 1)
GROUPS = {"religion": ("Buddhist", "Hindu"), "race": ("Asian", "Black")}
OCCUPATIONS = {"nurse": 0.4, "doctor": -0.2, "clerk": 0.1}
LAYERS, SHOWN = 8, (1, 10)


def estimate(value: float, se: float, n: int) -> Row:
    """An estimate with a normal interval."""
    return {"value": value, "se": se, "low": value - 1.96 * se, "high": value + 1.96 * se, "n": n}


def behaviour_rows(sizes: Mapping[str, int], places: Sequence[Place] = PLACES) -> dict[str, list[Row]]:
    """The tables of behaviours for these models (name to parameters, small to large), two seeds each."""
    found: dict[str, list[Row]] = {f"behaviour{name}": [] for name in ("s", "_changes", "_occupations", "_distances")}
    for size, (name, n_params) in enumerate(sizes.items()):
        for seed in SEEDS:
            for kind, at, d, samples in places:
                labels = {"stage_id": f"{kind}-{name}-{seed}-{at}", "model": name, "n_params": n_params, "seed": seed}
                labels |= {"stage_kind": kind, "status": "done", "at": at, "at_sqrt_kl": d or None, "samples": samples}
                found["behaviours"] += [labels | row for row in levels(size, seed, d)]
                if d:
                    found["behaviour_changes"] += [labels | row for row in changed(d)]
                    found["behaviour_occupations"] += [labels | row for row in by_occupation(d)]
                if size == len(sizes) - 1 and seed == 0:
                    found["behaviour_distances"] += [labels | row for row in distances()]
    return found


def level(evaluation: str, measure: str, part: str | None, score: Row, **more: Any) -> Row:
    row = {"evaluation": evaluation, "measure": measure, "part": part, "score": score}
    return row | {"layer": None, "n_layers": None, "n_outliers": None} | more


def levels(size: int, seed: int, d: float) -> list[Row]:
    """Bias halves by sqrt(KL) = 2, losses rise by d / 10, seeds differ by 0.02, AUROC grows with size and layer."""
    more = 0.02 * seed
    rows = [level("occupations", "mean_abs", None, estimate(0.4 * (1 - d / 4) + more, 0.02, 60))]
    rows.append(level("occupations", "mean", None, estimate(0.1 + more, 0.02, 60)))
    for tranche, n in (("all", 300), ("harmless", 100), ("helpful", 200)):
        values = {"loss_chosen": 3 - 0.2 * size + d / 10, "loss_rejected": 3.1 - 0.2 * size + d / 10}
        values |= {"difference": 0.1, "accuracy": 0.55 + 0.02 * size}
        rows += [level("answers", name, tranche, estimate(v + more, 0.03, n)) for name, v in values.items()]
    for kind, groups in GROUPS.items():
        rows.append(level("sentiment", "positive", kind, estimate(0.5 + 0.1 * d + more, 0.05, 16)))
        for i, group in enumerate(groups):
            score = estimate(0.45 + 0.1 * i + 0.1 * d + more, 0.1, 8)
            rows.append(level("sentiment", "positive", f"{kind}: {group}", score))
    for layer in range(LAYERS + 1):
        part = {"layer": layer, "n_layers": LAYERS}
        for method, shown in (("mahalanobis", 0), ("relative_mahalanobis", 0), *(("exposure", n) for n in SHOWN)):
            value = 0.5 + 0.02 * layer + 0.03 * size + 0.05 * math.log10(shown or 1) + more
            name = f"outlier_exposure, {shown} shown" if shown else method
            score = estimate(value, 0.02, 200)
            rows.append(level("outliers", name, f"layer {layer}", score, **part, n_outliers=shown))
    return rows


def changed(d: float) -> list[Row]:
    """Losses rise by d / 10 on either side, resolved; nothing else changes."""
    values = {"mean_loss_chosen": d / 10, "mean_loss_rejected": d / 10, "difference": 0.0, "accuracy": 0.0}
    return [
        {"evaluation": "answers", "measure": name, "part": part, "change": estimate(value, 0.01, 300)}
        for name, value in values.items()
        for part in ("all", "helpful")
    ]


def by_occupation(d: float) -> list[Row]:
    """Every occupation's bias shrinks by a quarter for each unit of sqrt(KL)."""
    return [
        {"occupation": name, "before": estimate(bias, 0.05, 24), "after": estimate(bias * (1 - d / 4), 0.05, 24)}
        for name, bias in OCCUPATIONS.items()
    ]


def distances() -> list[Row]:
    """Uniform over half of ten bars: helpful prompts over the lower half, harmful ones over the upper."""
    rows = []
    for method in ("mahalanobis", "relative_mahalanobis"):
        for harmful in (False, True):
            row = {
                "method": method,
                "layer": 4,
                "harmful": harmful,
                "mean": estimate(7.5 if harmful else 2.5, 0.2, 100),
            }
            density = [0.2 if (k >= 5) == harmful else 0.0 for k in range(10)]
            rows.append(row | {"edges": [float(k) for k in range(11)], "density": density})
    return rows
