"""Preference models as the analysis holds them, without files: scores from arrays, lineage from names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from analysis.frames import Model, Setting, Study
from analysis.held_out import HeldOut
from analysis.pools import PM
from hh_scaling.records import Record


def held_out(difference: Any, **columns: Any) -> HeldOut:
    """Comparisons with these score differences, two to a conversation, all helpful and about the first turn."""
    difference = np.asarray(difference, dtype=float)
    n = len(difference)
    known = {
        "comparison_id": np.arange(n).astype(object),
        "conversation": np.array([f"c{i // 2}" for i in range(n)], dtype=object),
        "tranche": np.full(n, "helpful-base", dtype=object),
        "n_turns": np.ones(n),
        "score_chosen": difference,
        "score_rejected": np.zeros(n),
        "length_chosen": np.full(n, 100.0),
        "length_rejected": np.full(n, 100.0),
        "p_chosen": np.full(n, np.nan),
    }
    return HeldOut(**known | columns)


def fake_pm(scores: HeldOut, n_params: int = 1000, seed: int = 0, half: str = "train", n: int = 500, **more: Any) -> PM:
    """A PM of a base of its own for every size and seed; ``more`` is its setting, or ``base`` to share one."""
    base = more.pop("base", f"base-{n_params}-s{seed}")
    summary = {"model": {"name": str(n_params), "n_params": n_params, "n_params_total": n_params}}
    setting = Setting(**more)
    config = {"size": {"name": str(n_params)}, "seed": seed, "half": half, "n_comparisons": n, "training": {}}
    name = f"pm-{n_params}-{half}-{n}-s{seed}-{setting}"
    record = Record(name, "pm", "done", config, {"base": base}, summary=summary)
    return PM(record, Model(str(n_params), n_params, n_params), f"{base}/{seed}", setting, n, scores)


def empty_study() -> Study:
    """A study that knows nothing, for tables of PMs that bring their own lineage."""
    return Study(Path("nowhere"), {"stages": []})
