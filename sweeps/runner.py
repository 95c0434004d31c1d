"""Runs a graph's missing stages in local processes: longest chain first, within a number of threads, each in a
process of its own that is forked from a server which has imported torch once.

Results never depend on how many run at a time. Finished stages are on disk; whatever happens to this process, the
same command goes on from there.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from hh_scaling.records import Record, RecordError, RunStore, damaged_files, read_record, write_json
from sweeps.plan import chain_seconds
from sweeps.pool import Pool, Running, end_workers
from sweeps.stage import Graph, Stage
from sweeps.worker import EXIT_NO_SPACE

POLL_SECONDS = 0.25


class Display(Protocol):
    """What watches a run."""

    def started(self, stage: Stage) -> None:
        """A stage's process was started."""

    def ended(self, stage: Stage, status: str, seconds: float, error: str | None) -> None:
        """A stage is done, diverged or failed."""

    def tick(self, run: Run) -> None:
        """Called a few times a second."""


@dataclass
class Run:
    """How far a run is; ``failed`` maps a stage to why."""

    graph: Graph
    store: RunStore
    seconds: dict[str, float]  # estimates
    threads: int  # that may be busy at a time
    jobs: int  # processes at a time
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    made: dict[str, float] = field(default_factory=dict)  # seconds of the stages that this run finished
    check: Callable[[Stage, Record], None] = lambda stage, record: None  # of each stage made; what it raises ends all

    def blocked(self) -> list[str]:
        """Stages that can't run because something they need failed, in the graph's order."""
        lost = set(self.failed)
        for stage in self.graph.values():
            if stage.stage_id not in self.done and lost & set(stage.parents.values()):
                lost.add(stage.stage_id)
        return [i for i in self.graph if i in lost and i not in self.failed]

    def ready(self) -> list[Stage]:
        """Stages whose parents are done and that are neither done, failed nor running; longest chain first."""
        settled = self.done | set(self.failed) | set(self.running)
        left = {i: s for i, s in self.seconds.items() if i not in self.done}
        chain = chain_seconds(self.graph, left)
        stages = [s for s in self.graph.values() if s.stage_id not in settled and self.done >= set(s.parents.values())]
        return sorted(stages, key=lambda stage: -chain[stage.stage_id])

    def fits(self, stage: Stage) -> bool:
        """Whether the stage may start now; one that wants more threads than there are runs alone."""
        busy = sum(running.stage.threads for running in self.running.values())
        return not self.running or (len(self.running) < self.jobs and busy + stage.threads <= self.threads)


# ---------------------------------------------------------------- what is finished


def finished_stages(graph: Graph, store: RunStore, hashes: bool = False) -> tuple[set[str], dict[str, str]]:
    """Ids of the graph's finished stages, and for each one that is damaged what is wrong with it.

    Compares the sizes of the stages' files with their records, and with ``hashes`` their content.
    """
    done, damaged = set(), {}
    for stage_id in graph:
        folder = store.stage_path(stage_id)
        if not folder.is_dir():
            continue
        try:
            record = store.record(stage_id) if store.finished(stage_id) else None
        except RecordError as error:
            damaged[stage_id] = str(error)
            continue
        if record is None:
            damaged[stage_id] = f"{folder}: no record of a finished stage"
        elif bad := damaged_files(folder, record.files, hashes):
            damaged[stage_id] = f"{folder}: missing or changed since it was written: {', '.join(bad[:3])}"
        else:
            done.add(stage_id)
    return done, damaged


def set_aside(store: RunStore, stage_id: str) -> None:
    """Move a damaged stage out of ``stages/`` to ``damaged/``, so that it is made again."""
    folder = store.root / "damaged"
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while (target := folder / f"{stage_id}-{number}").exists():
        number += 1
    os.rename(store.stage_path(stage_id), target)


def clear_attempts(store: RunStore, done: Iterable[str]) -> None:
    """Remove attempts of finished stages, which a kill just after a commit leaves."""
    for stage_id in done:
        shutil.rmtree(store.attempts / stage_id, ignore_errors=True)


# ---------------------------------------------------------------- running


def run_graph(run: Run, display: Display) -> None:
    """Run every stage of the graph that is not done and does not depend on a failed one; fills ``run``.

    KeyboardInterrupt (also on SIGTERM) ends the workers and goes on to the caller.
    """
    pool = Pool(stage.kind for stage in run.graph.values() if stage.stage_id not in run.done)
    try:
        with sigterm_as_interrupt():
            while True:
                for stage in run.ready():
                    if run.fits(stage):
                        run.running[stage.stage_id] = pool.start(stage, run.store)
                        display.started(stage)
                if not run.running:
                    return
                wait(run.running.values())
                settle(run, display)
                display.tick(run)
    finally:
        end_workers(run.running.values())


def wait(running: Iterable[Running]) -> None:
    """Return as soon as a process ends, or after a moment."""
    multiprocessing.connection.wait([r.process.sentinel for r in running], timeout=POLL_SECONDS)


def settle(run: Run, display: Display) -> None:
    """Take note of the processes that have ended."""
    for stage_id, running in list(run.running.items()):
        if running.process.is_alive():
            continue
        running.process.join()
        del run.running[stage_id]
        record = outcome(run.store, running)
        seconds = time.monotonic() - running.since
        if record.status == "failed":
            run.failed[stage_id] = record.error or "failed"
        else:
            run.done.add(stage_id)
            run.made[stage_id] = seconds
        display.ended(running.stage, record.status, seconds, record.error)
        if record.status != "failed":
            run.check(running.stage, record)


def outcome(store: RunStore, running: Running) -> Record:
    """The record of a stage whose process has ended: its own, or one written here that says how it died."""
    stage, code = running.stage, running.process.exitcode
    attempts = store.attempt_paths(stage.stage_id)[running.attempts_before :]
    try:
        if store.finished(stage.stage_id):
            return read_record(store.stage_path(stage.stage_id) / "record.json")
        if attempts and (attempts[-1] / "record.json").is_file():
            record = read_record(attempts[-1] / "record.json")
            if record.status == "failed":  # a finished one here was killed before its move: the next attempt adopts it
                return record
        reason = cause_of_death(store, code)
    except RecordError as error:
        reason = str(error)
    config = stage.config.model_dump(mode="json")
    died = Record(stage.stage_id, stage.kind, "failed", config, dict(stage.parents), error=reason)
    with contextlib.suppress(OSError):  # a full disk must not take the launcher down too
        write_json((attempts[-1] if attempts else store.new_attempt(stage.stage_id)) / "record.json", asdict(died))
    return died


def cause_of_death(store: RunStore, code: int | None) -> str:
    """Why a process that left no record ended, from its exit code."""
    if code == EXIT_NO_SPACE:
        return f"no space left on the device of {store.root}; make room and run the same command again"
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else ""
        hint = "; the system ends processes that take too much memory so" if -code == signal.SIGKILL else ""
        return f"killed by signal {-code} ({name}{hint})"
    return f"ended without a record, exit code {code}"


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def new_run(
    graph: Graph, store: RunStore, done: set[str], seconds: Mapping[str, float], threads: int, jobs: int | None
) -> Run:
    """A run with everything still to do; ``jobs`` limits the processes, which may then take as many threads."""
    return Run(
        graph=graph,
        store=store,
        seconds=dict(seconds),
        threads=max(threads, jobs or 0),
        jobs=jobs or threads,
        done=set(done),
    )
