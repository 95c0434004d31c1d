"""A toy kind of stage and a launcher for it: what the runner's tests run, kill and run again.

``python -m tests.toy RUNS STEPS SECONDS`` runs a graph of 3 chains of two stages and one that needs all.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hh_scaling.configs import Compute, Config
from hh_scaling.records import RunStore, read_jsonl
from hh_scaling.stages import StageContext, StageResult
from sweeps.check import load_study
from sweeps.launch import Job, claimed, run_job, say_line
from sweeps.stage import Graph, Stage, make_stage


class ToyConfig(Config):
    """Adds ``value`` to the sum of the parents', in ``steps`` steps of ``seconds`` each, or goes wrong in some way."""

    name: str
    value: int = 1
    steps: int = 1
    seconds: float = 0.0
    wrong: str | None = None
    compute: Compute = Compute()


def run(config: ToyConfig, context: StageContext) -> StageResult:
    """Count up to ``value`` times ``steps``; resumes from its states like a real stage."""
    if config.wrong is not None:
        go_wrong(config.wrong)
    found = context.out.resume()
    first = 0 if found is None else found[1]["step"] + 1
    for step in range(first, config.steps):
        time.sleep(config.seconds)
        context.out.count(config.value, 1.0)
        context.out.log({"step": step, "tokens": context.out.tokens})
        context.out.progress(step + 1, config.steps, f"step {step}")
        with context.out.save_state(step, {}) as folder:
            (folder / "step.txt").write_text(str(step))
    parents = sum(int((path / "total.txt").read_text()) for path in context.parents.values())
    total = parents + context.out.tokens
    (context.out.path / "total.txt").write_text(str(total))
    return StageResult({"total": total})


def go_wrong(how: str) -> None:
    """Fail in the way a real stage might."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(7)
    if how == "space":
        raise OSError(28, "No space left on device", "/somewhere")
    if how == "print":
        print("noise from a library")
        return
    raise ValueError(f"cannot count\nbecause: {how}")


def toy(name: str, parents: Mapping[str, Stage] | None = None, **config: Any) -> Stage:
    """A toy stage."""
    ids = {role: parent.stage_id for role, parent in (parents or {}).items()}
    return make_stage("toy", name, ToyConfig(name=name, **config), ids, "tests.toy:run")


def graph_of(*stages: Stage) -> Graph:
    return {stage.stage_id: stage for stage in stages}


def sweep(steps: int, seconds: float) -> Graph:
    """3 roots with a child each, and a last stage that needs all of those: 7 stages."""
    roots = [toy(f"root{i}", value=i + 1, steps=steps, seconds=seconds) for i in range(3)]
    children = [toy(f"child{i}", {"up": root}, steps=steps, seconds=seconds) for i, root in enumerate(roots)]
    last = toy("last", {stage.stage_id: stage for stage in children}, steps=1)
    return graph_of(*roots, *children, last)


def metric_steps(folder: Path) -> list[int]:
    """The steps that a stage's metrics hold, in order."""
    return [row["step"] for row in read_jsonl(folder / "metrics.jsonl")]


def analyse(root: Path, settings: Any) -> None:
    """A stand-in for analysis and report: counts its calls."""
    (root / "report").mkdir(exist_ok=True)
    (root / "report" / "report.html").write_text("report")
    (root / "results.json").write_text("{}")
    with open(root / "analysed.txt", "a") as stream:
        stream.write("once\n")


def launch(root: Path, graph: Graph, jobs: int | None = None) -> int:
    """Run a toy graph as ``hh-scaling run`` would; returns the exit code."""
    root.mkdir(parents=True, exist_ok=True)
    with claimed(root):
        return run_job(Job(load_study("smoke"), graph, RunStore(root), jobs, analyse, say_line))


if __name__ == "__main__":
    sys.exit(launch(Path(sys.argv[1]), sweep(int(sys.argv[2]), float(sys.argv[3]))))
