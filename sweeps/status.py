"""How far a RUNS directory is: each stage done, diverged, failed (and why), running or waiting."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hh_scaling.records import RecordError, RunStore, damaged_files, read_record
from sweeps.launch import read_study_json
from sweeps.progress import stage_progress
from sweeps.worker import LIVE_FILE, is_alive


@dataclass(frozen=True)
class StageStatus:
    """One stage's state; ``error`` says why it failed, is damaged or cannot run."""

    stage_id: str
    kind: str
    status: str  # done, diverged, failed, running, waiting or damaged
    seconds: float | None = None
    progress: float | None = None
    error: str | None = None
    attempts: int = 0


def study_status(root: Path, verify: bool = False) -> dict[str, Any]:
    """The state of every stage of the study in ``root`` and how many are in each; schema 1.

    Compares files' sizes with their records, and with ``verify`` their sha256. StudyError when there is no study.
    """
    study, store = read_study_json(root), RunStore(root)
    states: dict[str, StageStatus] = {}
    for stage in study["stages"]:
        state = stage_status(store, stage["stage_id"], stage["kind"], verify)
        lost = [p for p in stage["parents"].values() if p in states and states[p].status in ("failed", "damaged")]
        lost += [p for p in stage["parents"].values() if p in states and (states[p].error or "").startswith("needs ")]
        if state.status == "waiting" and lost:
            state = StageStatus(
                state.stage_id, state.kind, "waiting", error=f"needs {lost[0]}", attempts=state.attempts
            )
        states[state.stage_id] = state
    return {
        "schema": 1,
        "study": study.get("name"),
        "runs": str(root),
        "counts": dict(Counter(state.status for state in states.values())),
        "stages": [asdict(state) for state in states.values()],
        "evaluation_shares": evaluation_shares(study["stages"], states),
    }


def evaluation_shares(stages: list[dict[str, Any]], states: dict[str, StageStatus]) -> list[dict[str, Any]]:
    """By policy that has been trained and evaluated: the seconds of its evaluations over those of its PPO run."""
    seconds = {stage_id: state.seconds for stage_id, state in states.items() if state.status in ("done", "diverged")}
    spent: dict[str, list[float]] = {}
    for stage in stages:
        own = seconds.get(stage["stage_id"])
        if stage["kind"] in ("benchmark", "behaviour") and own is not None:
            spent.setdefault(stage["parents"].get("model", ""), []).append(own)
    return [
        {"policy": stage["stage_id"], "n_evaluations": len(spent[stage["stage_id"]]),
         "evaluation_seconds": sum(spent[stage["stage_id"]]), "ppo_seconds": ppo,
         "share": sum(spent[stage["stage_id"]]) / ppo}
        for stage in stages
        if stage["kind"] == "ppo" and stage["stage_id"] in spent and (ppo := seconds.get(stage["stage_id"]))
    ]  # fmt: skip


def stage_status(store: RunStore, stage_id: str, kind: str, verify: bool) -> StageStatus:
    """One stage's state, from its folder or its newest attempt."""
    folder, attempts = store.stage_path(stage_id), store.attempt_paths(stage_id)
    try:
        if folder.is_dir():
            record = read_record(folder / "record.json")
            bad = damaged_files(folder, record.files, hashes=verify)
            if bad:
                return StageStatus(stage_id, kind, "damaged", error=f"missing or changed: {', '.join(bad[:5])}")
            return StageStatus(stage_id, kind, record.status, seconds=record.provenance.get("seconds"))
        if attempts and runs_now(attempts[-1]):
            fraction, _ = stage_progress(store, stage_id)
            return StageStatus(stage_id, kind, "running", progress=fraction, attempts=len(attempts))
        if attempts and (attempts[-1] / "record.json").is_file():
            record = read_record(attempts[-1] / "record.json")
            seconds = record.provenance.get("seconds")
            return StageStatus(stage_id, kind, "failed", seconds, error=record.error, attempts=len(attempts))
    except RecordError as error:
        return StageStatus(stage_id, kind, "damaged", error=str(error), attempts=len(attempts))
    return StageStatus(stage_id, kind, "waiting", attempts=len(attempts))


def runs_now(attempt: Path) -> bool:
    """Whether a process of this machine works in the attempt."""
    if (attempt / "record.json").is_file():
        return False
    try:
        live = json.loads((attempt / LIVE_FILE).read_text(encoding="utf-8"))
        return live["host"] == platform.node() and is_alive(live["pid"], live["create_time"])
    except (OSError, ValueError, KeyError):
        return False
