"""What evaluating policies takes of their training time, from the stages' own seconds."""

from __future__ import annotations

from typing import Any

from sweeps.status import StageStatus, evaluation_shares
from sweeps.tables import share_lines


def stage(stage_id: str, kind: str, **parents: str) -> dict[str, Any]:
    return {"stage_id": stage_id, "kind": kind, "parents": parents}


STAGES = [
    stage("base", "base"),
    stage("ppo-a", "ppo", policy="base"),
    stage("ppo-b", "ppo", policy="base"),
    stage("ppo-c", "ppo", policy="base"),
    stage("benchmark-base", "benchmark", model="base"),
    *(stage(f"benchmark-{name}", "benchmark", model=f"ppo-{name[0]}") for name in ("a1", "b1", "b2", "c1")),
    stage("behaviour-a2", "behaviour", model="ppo-a"),
]
SECONDS = {"base": 50.0, "ppo-a": 20.0, "ppo-b": 40.0, "ppo-c": 10.0,
           "benchmark-base": 7.0, "benchmark-a1": 1.0, "behaviour-a2": 3.0,
           "benchmark-b1": 2.0, "benchmark-b2": 90.0, "benchmark-c1": 5.0}  # fmt: skip


def test_a_policys_finished_evaluations_over_its_training() -> None:
    """b's second evaluation failed and c's training is not done: neither counts; a base's evaluation is no policy's."""
    states = {
        s["stage_id"]: StageStatus(s["stage_id"], s["kind"], "done", seconds=SECONDS[s["stage_id"]]) for s in STAGES
    }
    states["ppo-b"] = StageStatus("ppo-b", "ppo", "diverged", seconds=40.0)
    states["benchmark-b2"] = StageStatus("benchmark-b2", "benchmark", "failed", seconds=90.0)
    states["ppo-c"] = StageStatus("ppo-c", "ppo", "running")
    rows = evaluation_shares(STAGES, states)
    assert [(row["policy"], row["n_evaluations"], row["share"]) for row in rows] == [
        ("ppo-a", 2, 0.2),
        ("ppo-b", 1, 0.05),
    ]
    (line,) = share_lines({"evaluation_shares": rows})
    assert line == "evaluations of policies took 10% of their PPO runs' time (2 policies; most 20%)"


def test_nothing_is_said_before_there_is_anything() -> None:
    assert evaluation_shares(STAGES, {}) == []
    assert share_lines({"evaluation_shares": []}) == []
