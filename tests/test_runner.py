"""Running graphs of toy stages: order, failures, damage, interruption, and real kills of the launcher."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hh_scaling.records import RunStore
from sweeps.load import StudyError
from sweeps.progress import eta_seconds, printable, stage_progress
from sweeps.runner import Run, finished_stages, new_run, run_graph
from sweeps.stage import Graph, Stage
from sweeps.status import study_status
from tests.toy import graph_of, launch, metric_steps, sweep, toy

ROOT = Path(__file__).resolve().parent.parent


class Seen:
    """A display that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.most_threads = 0
        self.busy: dict[str, int] = {}

    def started(self, stage: Stage) -> None:
        self.events.append(("started", stage.stage_id))
        self.busy[stage.stage_id] = stage.threads
        self.most_threads = max(self.most_threads, sum(self.busy.values()))

    def ended(self, stage: Stage, status: str, seconds: float, error: str | None) -> None:
        self.events.append((status, stage.stage_id))
        del self.busy[stage.stage_id]

    def tick(self, run: Run) -> None:
        assert eta_seconds(run) >= 0


def run_toys(root: Path, graph: Graph, threads: int = 2, jobs: int | None = None, **seconds: float) -> tuple[Run, Seen]:
    """Run a graph with estimates by the stages' names."""
    store, seen = RunStore(root), Seen()
    estimates = {stage.stage_id: seconds.get(stage.config.name, 1.0) for stage in graph.values()}  # type: ignore[attr-defined]
    run = new_run(graph, store, finished_stages(graph, store)[0], estimates, threads, jobs)
    run_graph(run, seen)
    return run, seen


def total(root: Path, stage: Stage) -> int:
    return int((RunStore(root).stage_path(stage.stage_id) / "total.txt").read_text())


def record(root: Path, stage: Stage) -> Any:
    found = RunStore(root).record(stage.stage_id)
    assert found is not None
    return found


# ---------------------------------------------------------------- order and limits


def test_children_see_their_parents_results(tmp_path: Path) -> None:
    a, b = toy("a", value=2), toy("b", value=3)
    c = toy("c", {"left": a, "right": b}, value=10)
    run, seen = run_toys(tmp_path, graph_of(a, b, c))
    assert run.done == {a.stage_id, b.stage_id, c.stage_id} and not run.failed
    assert total(tmp_path, c) == 15
    assert seen.events.index(("started", c.stage_id)) > seen.events.index(("done", b.stage_id))


def test_the_longest_chain_starts_first(tmp_path: Path) -> None:
    short, long = toy("short"), toy("long")
    after = toy("after", {"up": long})
    _, seen = run_toys(tmp_path, graph_of(short, long, after), threads=1, short=2.0, long=1.0, after=5.0)
    assert [i for what, i in seen.events if what == "started"] == [long.stage_id, after.stage_id, short.stage_id]


def test_threads_are_shared_out_and_a_wide_stage_runs_alone(tmp_path: Path) -> None:
    stages = [toy(f"s{i}", seconds=0.05) for i in range(3)]
    wide = toy("wide", compute={"threads": 4})
    run, seen = run_toys(tmp_path, graph_of(*stages, wide), threads=2)
    assert len(run.done) == 4
    started = seen.events.index(("started", wide.stage_id))
    assert seen.events[started + 1] == ("done", wide.stage_id)
    running = 0
    for what, stage_id in seen.events:
        running += 1 if what == "started" else -1
        assert running <= 2 or stage_id == wide.stage_id


def test_jobs_limit_how_many_run_but_not_what_comes_out(tmp_path: Path) -> None:
    graph = graph_of(*(toy(f"s{i}", value=i, seconds=0.05) for i in range(4)))
    _, one = run_toys(tmp_path / "one", graph, threads=2, jobs=1)
    _, three = run_toys(tmp_path / "three", graph, threads=2, jobs=3)
    assert one.most_threads == 1 and three.most_threads == 3
    for stage in graph.values():
        assert record(tmp_path / "one", stage).files == record(tmp_path / "three", stage).files


# ---------------------------------------------------------------- failures


def test_a_failed_stage_stops_only_what_needs_it(tmp_path: Path) -> None:
    good, bad = toy("good"), toy("bad", wrong="reasons")
    child, grandchild = toy("child", {"up": bad}), toy("grandchild", {"up": toy("child", {"up": bad}), "also": good})
    other = toy("other", {"up": good})
    run, _ = run_toys(tmp_path, graph_of(good, bad, child, grandchild, other))
    assert run.done == {good.stage_id, other.stage_id}
    assert run.failed == {bad.stage_id: "ValueError: cannot count because: reasons"}
    assert run.blocked() == [child.stage_id, grandchild.stage_id]
    attempt = RunStore(tmp_path).attempt_paths(bad.stage_id)[0]
    assert "go_wrong" in (attempt / "traceback.txt").read_text()
    assert record(tmp_path, bad).status == "failed" and not (tmp_path / "stages" / bad.stage_id).exists()


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ("kill", "killed by signal 9 (SIGKILL; the system ends processes that take too much memory so)"),
        ("exit", "ended without a record, exit code 7"),
        ("space", "no space left on the device at /somewhere; make room and run the same command again"),
    ],
)
def test_every_death_is_recorded_in_one_line(tmp_path: Path, wrong: str, part: str) -> None:
    stage = toy("a", wrong=wrong)
    run, _ = run_toys(tmp_path, graph_of(stage))
    assert run.failed == {stage.stage_id: part}
    assert record(tmp_path, stage).error == part


def test_an_entry_that_cannot_be_imported_fails_its_stage(tmp_path: Path) -> None:
    stage = toy("a")
    missing = Stage(stage.stage_id, stage.kind, stage.config, {}, "tests.no_such_module:run")
    run, _ = run_toys(tmp_path, graph_of(missing))
    assert run.failed == {stage.stage_id: "ModuleNotFoundError: No module named 'tests.no_such_module'"}


def test_a_failed_stage_is_tried_again_in_a_new_attempt(tmp_path: Path) -> None:
    stage = toy("a", wrong="reasons")
    run_toys(tmp_path, graph_of(stage))
    first = RunStore(tmp_path).attempt_paths(stage.stage_id)[0]
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    run_toys(tmp_path, graph_of(stage))
    assert [path.name for path in RunStore(tmp_path).attempt_paths(stage.stage_id)] == ["1", "2"]
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before


def test_what_libraries_print_is_not_part_of_the_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage = toy("a", wrong="print")
    run_toys(tmp_path, graph_of(stage))
    assert "noise" not in "".join(capfd.readouterr())
    assert set(record(tmp_path, stage).files) == {"metrics.jsonl", "total.txt"}
    assert {path.name for path in RunStore(tmp_path).stage_path(stage.stage_id).iterdir()} == {
        "metrics.jsonl", "record.json", "total.txt"
    }  # fmt: skip


# ---------------------------------------------------------------- damage


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-2])
    else:
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


@pytest.mark.parametrize("name", ["total.txt", "metrics.jsonl", "record.json"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_a_damaged_stage_is_found_set_aside_and_made_again(
    tmp_path: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = toy("a", value=4)
    assert launch(tmp_path, graph_of(stage)) == 0
    damage(RunStore(tmp_path).stage_path(stage.stage_id) / name, how)
    assert study_status(tmp_path)["counts"] == {"damaged": 1}
    assert launch(tmp_path, graph_of(stage)) == 0
    assert "damaged, will be made again" in capsys.readouterr().err
    assert total(tmp_path, stage) == 4
    assert study_status(tmp_path, verify=True)["counts"] == {"done": 1}
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_changed_bytes_of_the_same_number_are_found_by_verify(tmp_path: Path) -> None:
    stage = toy("a")
    launch(tmp_path, graph_of(stage))
    damage(RunStore(tmp_path).stage_path(stage.stage_id) / "metrics.jsonl", "flipped")
    assert study_status(tmp_path)["counts"] == {"done": 1}
    assert study_status(tmp_path, verify=True)["counts"] == {"damaged": 1}


def test_what_a_kill_just_after_the_commit_leaves_is_cleared_away(tmp_path: Path) -> None:
    stage = toy("a")
    launch(tmp_path, graph_of(stage))
    left = tmp_path / "attempts" / stage.stage_id / "1"
    left.mkdir(parents=True)
    launch(tmp_path, graph_of(stage))
    assert not left.parent.exists() and study_status(tmp_path)["counts"] == {"done": 1}


# ---------------------------------------------------------------- the launcher


def test_a_second_run_does_nothing_and_says_so_quickly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = graph_of(toy("a"), toy("b"))
    assert launch(tmp_path, graph) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    capsys.readouterr()
    started = time.monotonic()
    assert launch(tmp_path, graph) == 0
    assert time.monotonic() - started < 3
    assert "nothing to do: all of 2 stages" in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_the_analysis_is_made_again_only_when_something_changed(tmp_path: Path) -> None:
    a, b = toy("a"), toy("b")
    launch(tmp_path, graph_of(a))
    launch(tmp_path, graph_of(a))
    launch(tmp_path, graph_of(a, b))
    (tmp_path / "report" / "report.html").unlink()
    launch(tmp_path, graph_of(a, b))
    assert (tmp_path / "analysed.txt").read_text().splitlines() == ["once"] * 3


def test_exit_code_and_lines_of_a_run_with_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = toy("bad", wrong="reasons")
    child = toy("child", {"up": bad})
    assert launch(tmp_path, graph_of(toy("good"), bad, child)) == 1
    err = capsys.readouterr().err
    assert f"failed: {bad.stage_id}: ValueError: cannot count because: reasons\n" in err
    assert f"not run, since what they need failed: {child.stage_id}\n" in err
    status = study_status(tmp_path)
    assert status["counts"] == {"done": 1, "failed": 1, "waiting": 1}
    assert status["stages"][2]["error"] == f"needs {bad.stage_id}"


def test_study_json_has_the_study_and_its_stages(tmp_path: Path) -> None:
    graph = sweep(1, 0.0)
    launch(tmp_path, graph)
    content = json.loads((tmp_path / "study.json").read_text())
    assert [stage["stage_id"] for stage in content["stages"]] == list(graph)
    assert content["name"] == "smoke" and content["synthetic"] is True and content["study"]["seeds"] == [0]


def launcher(root: Path, steps: int, seconds: float) -> subprocess.Popen[str]:
    """A launcher in a process of its own (and its own process group, as in a terminal)."""
    command = [sys.executable, "-m", "tests.toy", str(root), str(steps), str(seconds)]
    # A shell starts background jobs with Ctrl-C ignored, which children inherit: the tests may run in one.
    restore = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=restore
    )


@contextlib.contextmanager
def started(root: Path, steps: int, seconds: float, committed: int) -> Iterator[subprocess.Popen[str]]:
    """A launcher that has committed some stages and is in the middle of others."""
    process = launcher(root, steps, seconds)
    try:
        wait_until(lambda: len(list((root / "stages").glob("*"))) >= committed and in_progress(root))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def in_progress(root: Path) -> bool:
    """Whether some stage has saved a state and is far from its end (the newest two states are kept)."""
    return any((root / "attempts").glob("*/*/states/0000000[01]/state.json"))


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def workers(root: Path) -> list[psutil.Process]:
    """Live processes that work in an attempt under ``root``."""
    found = []
    for path in (root / "attempts").glob("*/*/.worker.json"):
        with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError):
            found.append(psutil.Process(json.loads(path.read_text())["pid"]))
    return found


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Return once none of the processes runs; they look for their launcher twice a second."""
    wait_until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes), 5)


def undisturbed(root: Path, graph: Graph) -> dict[str, Any]:
    """What the records of a run hold, timings and versions aside."""
    return {i: (r.status, r.files, r.summary, r.parents) for i in graph if (r := RunStore(root).record(i)) is not None}


def test_kill_of_the_launcher_loses_nothing_and_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL in the middle, twice; the same command goes on, and the result is that of an undisturbed run."""
    graph, root = sweep(6, 0.15), tmp_path / "killed"
    kept: dict[str, int] = {}
    for committed in (1, 3):
        with started(root, 6, 0.15, committed) as process:
            alive = workers(root)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            wait_until_gone(alive)
        for path in (root / "stages").iterdir():
            inode = (path / "record.json").stat().st_ino
            assert kept.setdefault(path.name, inode) == inode  # what was committed is never written again
    assert 3 <= len(kept) < len(graph)
    last = launcher(root, 6, 0.15)
    _, err = last.communicate(timeout=60)
    assert last.returncode == 0, err
    for name, inode in kept.items():
        assert (root / "stages" / name / "record.json").stat().st_ino == inode
    assert launch(tmp_path / "calm", graph) == 0
    assert undisturbed(root, graph) == undisturbed(tmp_path / "calm", graph)
    assert all(metric_steps(root / "stages" / i) == metric_steps(tmp_path / "calm" / "stages" / i) for i in graph)
    assert not list((root / "attempts").iterdir())
    resumed = [record(root, stage).provenance["resumed_from_step"] for stage in graph.values()]
    assert any(step is not None for step in resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_exits_130_and_can_go_on(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, 10, 0.1, 0) as process:
        alive = workers(tmp_path)
        # Ctrl-C reaches every process of the terminal's group.
        os.killpg(process.pid, number) if number == signal.SIGINT else os.kill(process.pid, number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "the same command goes on from here" in err and "Traceback" not in err
        wait_until_gone(alive)
    counts = study_status(tmp_path)["counts"]
    assert counts.get("waiting", 0) > 0 and "running" not in counts and "failed" not in counts


def test_two_launchers_do_not_share_a_directory(tmp_path: Path) -> None:
    with (
        started(tmp_path, 5, 0.1, 0) as process,
        pytest.raises(StudyError, match=rf"another hh-scaling run \(pid {process.pid}\) works here"),
    ):
        launch(tmp_path, sweep(5, 0.1))


def test_status_sees_what_runs(tmp_path: Path) -> None:
    with started(tmp_path, 5, 0.2, 1):
        status = study_status(tmp_path)
        running = [stage for stage in status["stages"] if stage["status"] == "running"]
        assert running and all(0 <= stage["progress"] <= 1 for stage in running)
        assert status["counts"]["waiting"] > 0 and status["counts"]["done"] >= 1


# ---------------------------------------------------------------- progress


def test_progress_that_is_torn_or_absent_is_none(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert stage_progress(store, "a") == (0.0, "")
    attempt = store.new_attempt("a")
    for text in ("", "{", "[]", '{"done": 1, "total": 0, "note": ""}', '{"done": "x", "total": 1, "note": ""}'):
        (attempt / ".progress.json").write_text(text)
        assert stage_progress(store, "a") == (0.0, "")
    (attempt / ".progress.json").write_text('{"done": 3, "total": 4, "note": "\\u001b[31mred"}')
    assert stage_progress(store, "a") == (0.75, " [31mred")


def test_lines_hold_nothing_that_steers_a_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\u202ec\nd") == "a [2Jb  c d"


def test_the_estimate_is_corrected_by_what_was_seen() -> None:
    """Two equal stages estimated at 10 s; the first took 20, so the other is expected to."""
    a, b = toy("a"), toy("b")
    run = new_run(graph_of(a, b), RunStore(Path("nowhere")), {a.stage_id}, {a.stage_id: 10, b.stage_id: 10}, 1, 1)
    assert eta_seconds(run) == pytest.approx(10)
    run.made[a.stage_id] = 20.0
    assert eta_seconds(run) == pytest.approx(20)
