"""``run``: from a study to finished stages, results and report; one launcher a RUNS directory at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

import hh_scaling
from hh_scaling.records import Record, RunStore, config_hash, file_sha256, read_record, write_json
from sweeps.check import LoadedStudy, load_study
from sweeps.enough import data_problems
from sweeps.graph import expand, resolved_study
from sweeps.load import StudyError
from sweeps.machines import cores, this_cpu
from sweeps.numbers import format_seconds
from sweeps.plan import make_plan
from sweeps.progress import Shown, printable, wrap_ids
from sweeps.registry import check_tasks
from sweeps.runner import Run, clear_attempts, finished_stages, new_run, run_graph, set_aside
from sweeps.stage import Graph, Stage
from sweeps.study import AnalysisSection

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A study to run; ``analyse`` writes results and report of a RUNS directory (other packages do that)."""

    loaded: LoadedStudy
    graph: Graph
    store: RunStore
    jobs: int | None
    analyse: Callable[[Path, AnalysisSection], None]
    say: Say


def run_study(
    word: str,
    assignments: Sequence[str],
    runs: Path | None,
    jobs: int | None,
    analyse: Callable[[Path, AnalysisSection], None],
    say: Say,
) -> int:
    """Run or resume a study, then analyse it; returns the command's exit code.

    StudyError (bad input) when the study cannot be used or its directory is taken.
    """
    loaded = load_study(word, assignments)
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    check_tasks(loaded)
    graph = expand(loaded)
    root = runs or Path("runs") / loaded.name
    make_folder(root)
    with claimed(root):
        return run_job(Job(loaded, graph, RunStore(root), jobs, analyse, say))


def run_job(job: Job) -> int:
    """``run_study`` once the directory is this launcher's."""
    loaded, graph, store, say = job.loaded, job.graph, job.store, job.say
    write_study(store.root, loaded, graph)
    done, damaged = finished_stages(graph, store)
    for stage_id, why in damaged.items():
        say(f"damaged, will be made again: {why}")
        set_aside(store, stage_id)
    clear_attempts(store, done)
    plan = make_plan(graph, this_cpu(), store)
    run = new_run(graph, store, done, {i: cost.seconds for i, cost in plan.costs.items()}, cores(), job.jobs)
    run.check = lambda stage, record: require_enough(graph, stage, record)
    for stage_id in (i for i in done if graph[i].kind == "data"):
        require_enough(graph, graph[stage_id], read_record(store.stage_path(stage_id) / "record.json"))
    try:
        if len(done) < len(graph):
            to_go = format_seconds(plan.wall_seconds())
            say(f"{loaded.name}: {len(done)} of {len(graph)} stages done, about {to_go} to go")
            with Shown() as display:
                run_graph(run, display)
        say_failures(run, say)
        finished = finish(job, run)
    except KeyboardInterrupt:
        say(f"interrupted: {len(run.done)} of {len(graph)} stages done; the same command goes on from here")
        return EXIT_INTERRUPTED
    return EXIT_FAILED if run.failed or not finished else EXIT_DONE


def require_enough(graph: Graph, stage: Stage, record: Record) -> None:
    """StudyError where the finished data stage has fewer comparisons than the graph's preference models want."""
    if stage.kind == "data" and (problems := data_problems(graph, record.summary)):
        raise StudyError(problems)


def say_failures(run: Run, say: Say) -> None:
    """Which stages failed, why, and what could not run because of them."""
    for stage_id, error in run.failed.items():
        say(f"failed: {stage_id}: {error}")
    if blocked := run.blocked():
        say(f"not run, since what they need failed: {', '.join(wrap_ids(blocked))}")


# ---------------------------------------------------------------- the directory


def make_folder(root: Path) -> None:
    """Make the RUNS directory; StudyError when that is impossible."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError([f"--runs {root}: cannot be made ({error.strerror})"]) from error
    if not os.access(root, os.W_OK):
        raise StudyError([f"--runs {root}: cannot be written to"])


@contextlib.contextmanager
def claimed(root: Path) -> Iterator[None]:
    """Hold RUNS for this launcher; StudyError names the one that already has it. A dead launcher's hold is gone."""
    holder = root / ".launcher.json"
    try:
        lock = FileLock(root / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        try:
            pid = json.loads(holder.read_text())["pid"]
        except (OSError, ValueError, KeyError):
            pid = "unknown"
        message = f"{root}: another hh-scaling run (pid {pid}) works here; wait for it, or give another --runs"
        raise StudyError([message]) from error
    try:
        me = psutil.Process()
        write_json(holder, {"pid": me.pid, "create_time": me.create_time()})
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def write_study(root: Path, loaded: LoadedStudy, graph: Graph) -> None:
    """``study.json``: the resolved study and its stages; left alone when it already says just that."""
    content = {
        "schema": 1,
        "name": loaded.name,
        "description": loaded.study.description,
        "synthetic": loaded.study.world is not None,
        "study": resolved_study(loaded),
        "stages": [stage.to_json() for stage in graph.values()],
    }
    path = root / "study.json"
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text(encoding="utf-8")) == content:
            return
    write_json(path, content)


# ---------------------------------------------------------------- analysis and report


def finish(job: Job, run: Run) -> bool:
    """Analyse what is finished, unless that was done for just these records; whether it succeeded."""
    root, say, of_all = job.store.root, job.say, f"of {len(job.graph)} stages of {job.loaded.name} are done"
    page, mark, digest = root / "report" / "report.html", root / ".analysed", analysis_digest(job, run)
    written = page.is_file() and (root / "results.json").is_file()
    if written and mark.is_file() and mark.read_text() == digest:
        if not run.made and not run.failed:
            say(f"nothing to do: all {of_all}; report: {page}")
        return True
    if not run.done:
        return True
    try:
        job.analyse(root, job.loaded.study.analysis)
        mark.write_text(digest)
    except Exception as error:  # whatever the analysis meets, the finished stages and the exit code must stand
        say(f"analysis or report failed: {type(error).__name__}: {' '.join(str(error).split())}")
        say(f"the stages are kept; try again with: hh-scaling analyze {root}")
        return False
    say(f"{len(run.done)} {of_all}; report: {page}")
    return True


def analysis_digest(job: Job, run: Run) -> str:
    """A hash of what the analysis would read: the study, its finished records, and this version of the package."""
    study = file_sha256(job.store.root / "study.json")
    records = {i: file_sha256(job.store.stage_path(i) / "record.json") for i in job.graph if i in run.done}
    failed = sorted(run.failed.items())
    content = {"version": hh_scaling.__version__, "study": study, "records": records, "failed": failed}
    return config_hash(content, length=64)


def say_line(text: str) -> None:
    """Print one line for people, to standard error, so that standard output stays for JSON."""
    print(printable(text), file=sys.stderr, flush=True)


def no_space(error: OSError) -> bool:
    """Whether the error is that of a full disk or quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def read_study_json(root: Path) -> dict[str, Any]:
    """``study.json`` of a RUNS directory; StudyError in one line when there is none."""
    path = root / "study.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError([f"{root}: no study.json, so not a RUNS directory of hh-scaling run"]) from error
    except (OSError, ValueError) as error:
        raise StudyError([f"{path}: not readable ({error})"]) from error
    if not isinstance(content, dict) or content.get("schema", 1) != 1 or "stages" not in content:
        raise StudyError([f"{path}: not a study of schema 1"])
    return content
