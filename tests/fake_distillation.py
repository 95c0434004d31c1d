"""The tables of context distillation in ``results.json``, written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.distillation import CHANGES, MEASURES
from tests.fake_pm_tables import Row, difference, estimate


def distillation_by_hand(
    sizes: Mapping[str, int], change: float = -0.05, teacher: str | None = None
) -> dict[str, list[Row]]:
    """Every measure 1 and every change that given, with a standard error of 0.01; a curve of four points a size."""
    rows, curve = [], []
    for name, n in sizes.items():
        labels: dict[str, Any] = {"model": name, "n_params": n, "teacher": teacher or name}
        for part in ("responses", "dialogues", "text"):
            lacks = ("kl", "nats_prompted", "prompted", "distilled_minus_prompted") if part == "text" else ()
            row = labels | {"prompt": "hhh_prompt.txt", "n_prompt_tokens": 100, "n_runs": 2, "part": part}
            row |= {m: None if m.startswith(lacks) else estimate(1.0, 0.1) for m in MEASURES}
            row |= {m: None if m.startswith(lacks) else difference(change, 0.01) for m in CHANGES}
            rows.append(row | {"note": None})
        for i in range(4):
            at = {"seed": 0, "stage_id": f"reference-{name}-s0", "tokens": 1000 * (i + 1)}
            curve.append(labels | at | {"loss": estimate(0.1 / (i + 1), 0.005)})
    return {"distillation": rows, "distillation_curve": curve}
