"""What scored the policies: each role's source, whether it is the truth, and how it was given the policy's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.estimates import mean
from analysis.frames import Study
from analysis.frontier import Curve, gold_source
from analysis.held_out import HeldOut

ROLES = ("train", "test", "gold")
WORLD = "world"


def scored_by(study: Study, curves: list[Curve], scores: Mapping[str, HeldOut]) -> list[dict[str, Any]]:
    """One row per role and source. ``kind`` is world (the exact score), pm (a stage of the study) or foreign_pm
    (somebody else's model); ``accuracy`` is that on the held-out comparisons, where the study measured it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for curve in curves:
        for role in ROLES:
            source = gold_source(curve) if role == "gold" else curve.record.parents.get(f"pm_{role}")
            if source is not None:
                row = found.setdefault((role, source), _row(study, curve, role, source, scores))
                row["n_policies"] += 1
    return sorted(found.values(), key=lambda row: (ROLES.index(row["role"]), row["source"]))


def _row(study: Study, curve: Curve, role: str, source: str, scores: Mapping[str, HeldOut]) -> dict[str, Any]:
    size = study.planned.get(source, {}).get("config", {}).get("size") or {}
    fed = (curve.record.summary.get("scored_by") or {}).get(role) or {}
    known = scores.get(source)
    return {
        "role": role,
        "source": source,
        "kind": WORLD if source == WORLD else study.kinds.get(source),
        "model": size.get("name"),
        "format": fed.get("format"),
        "tokens": fed.get("tokens"),
        "accuracy": None if known is None else mean(known.correct, known.cluster).to_dict(),
        "n_policies": 0,
    }
