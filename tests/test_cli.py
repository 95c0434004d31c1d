"""The command line as its users meet it: exit codes, one line for bad input, JSON alone on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sweeps.check import shipped_studies
from tests.toy import graph_of, launch, toy

ROOT = Path(__file__).resolve().parent.parent


def cli(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``hh-scaling`` with these arguments, as a program."""
    return subprocess.run(
        [sys.executable, "-m", "hh_scaling", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def bad(*arguments: str) -> str:
    """The one line of a call that is bad input."""
    done = cli(*arguments)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def sets(*assignments: str) -> tuple[str, ...]:
    """The assignments as options."""
    return tuple(part for assignment in assignments for part in ("--set", assignment))


def from_json(*arguments: str) -> Any:
    done = cli(*arguments, "--json", "-")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---------------------------------------------------------------- help and version


def test_help_lists_every_command_of_the_contract() -> None:
    done = cli("--help")
    assert done.returncode == 0
    for command in ("studies", "plan", "run", "status", "analyze", "report", "compare", "fit", "tax"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", ["studies", "plan", "run", "status", "analyze", "report", "compare", "fit", "tax"])
def test_every_command_explains_itself(command: str) -> None:
    done = cli(command, "--help")
    assert done.returncode == 0 and f"hh-scaling {command}" in done.stdout.replace("python -m hh_scaling", "hh-scaling")


def test_no_arguments_show_the_help_and_version_the_version() -> None:
    assert cli().stdout == cli("--help").stdout
    assert cli("--version").stdout.startswith("hh-scaling 0.")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("pln", "demo"), "No such command 'pln'"),
        (("plan",), "Missing argument 'STUDY'"),
        (("plan", "demo", "--sett", "a=1"), "No such option: --sett"),
        (("plan", "demo", "--json", "file"), "only '-'"),
        (("plan", "dmeo"), "did you mean 'demo'"),
        (("plan", "nowhere/study.yaml"), "no such file"),
        (("plan", "pythia", "--gpu", "H1000"), "did you mean 'H100'"),
        (("plan", "smoke", "--set", "ppo.n_update=3"), "ppo.n_update: unknown key (did you mean 'n_updates'?)"),
        (("run", "smoke", "--backend", "slurm"), "not available in this version (allowed: local)"),
        (("run", "smoke", "--backend", "lokal"), "not known (allowed: local)"),
        (("run", "smoke", "--jobs", "0"), "--jobs"),
        (("run", "smoke", "--set", "sizes=[3]"), "no shape has about 3 non-embedding parameters"),
        (("run", "smoke", *sets("world=null", "benchmarks=null", "data.path=nowhere")), "data.path: "),
        (("run", "smoke", "--runs", "/proc/nowhere"), "--runs /proc/nowhere: cannot be made"),
        (("status", "nowhere"), "nowhere: no study.json"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...], part: str) -> None:
    assert part in bad(*arguments)


def test_several_errors_are_a_line_each(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("world: {}\nsizes: [27k]\nppo: {n_update: 1, batch_size: many}\n")
    done = cli("run", str(study))
    assert done.returncode == 2 and done.stdout == ""
    assert [line.rsplit("study.yaml:", 1)[1][:4] for line in done.stderr.splitlines()] == ["3:7:", "3:32"]


def test_bad_input_makes_no_directory(tmp_path: Path) -> None:
    assert cli("run", "smoke", "--set", "sizes=[3]", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- studies and plan


def test_studies_lists_all_that_are_shipped_with_their_cost() -> None:
    done = cli("studies")
    assert done.returncode == 0
    lines = done.stdout.splitlines()[1:]
    assert {line.split()[0] for line in lines} == set(shipped_studies())
    assert all(" GiB" in line or " MiB" in line for line in lines)


def test_plan_prints_sums_and_runs_nothing(tmp_path: Path) -> None:
    done = cli("plan", "demo", cwd=tmp_path)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []
    assert "stages to run" in done.stdout and "this machine" in done.stdout


def test_plan_in_json_has_every_stage_complete(tmp_path: Path) -> None:
    content = from_json("plan", "smoke", "--runs", str(tmp_path))
    assert content["schema"] == 1 and content["study"] == "smoke"
    assert {stage["kind"] for stage in content["stages"]} == {"data", "tokenizer", "base", "pm", "ppo", "benchmark"}
    for stage in content["stages"]:
        assert {"stage_id", "config", "parents", "flops", "seconds", "memory_bytes", "disk_bytes"} <= stage.keys()


def test_plan_pythia_needs_no_network_and_names_its_gpu() -> None:
    """Run under HF_HUB_OFFLINE; at most 2 s is the goal, here with a margin for a shared machine."""
    started = time.monotonic()
    content = from_json("plan", "pythia", "--gpu", "h100")
    assert time.monotonic() - started < 4
    assert content["machine"]["name"] == "H100"
    for stage in content["stages"]:
        if stage["kind"] in ("base", "reference", "pm", "ppo", "benchmark"):
            assert stage["n_params"] > 1e7 and stage["flops"] > 1e10 and stage["seconds"] > 0


# ---------------------------------------------------------------- status


def test_status_in_words_and_json(tmp_path: Path) -> None:
    broken = toy("broken", wrong="a [red]reason[/red]")
    assert launch(tmp_path, graph_of(toy("fine"), broken, toy("after", {"up": broken}))) == 1
    content = from_json("status", str(tmp_path))
    assert content["schema"] == 1 and content["counts"] == {"done": 1, "failed": 1, "waiting": 1}
    assert content["stages"][1]["error"] == "ValueError: cannot count because: a [red]reason[/red]"
    shown = cli("status", str(tmp_path), "--verify")
    assert shown.returncode == 0
    assert "a [red]reason[/red]" in shown.stdout and "1 done, 1 failed, 1 waiting" in shown.stdout


def test_status_of_what_is_no_study_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    assert "not readable" in bad("status", str(tmp_path))
    (tmp_path / "study.json").write_text('{"schema": 9, "stages": []}')
    assert "not a study of schema 1" in bad("status", str(tmp_path))
