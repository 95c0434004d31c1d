"""The command that lists the benchmark tasks and writes lm-eval's task files; allowing prompts that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hh_scaling import cli_tables
from hh_scaling.cli_tasks import register
from hh_scaling.tasks import OWN_TASKS
from tests.test_tax import CHOICE, choice_rows, write_lm_eval

app = typer.Typer()
register(app)
cli_tables.register(app)


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_every_task_is_listed_with_its_chance_level() -> None:
    lines = call("tasks").stdout.splitlines()
    assert len(lines) == 1 + len(OWN_TASKS) and lines[0].split() == ["task", "format", "chance", "examples", "reads"]
    found = {line.split()[0]: line for line in lines[1:]}
    assert set(found) == set(OWN_TASKS)
    assert (
        "1/3" in found["local_bbq_ambig"]
        and "none" in found["bits_per_byte"]
        and "arc_easy.jsonl" in found["local_arc_easy"]
    )
    assert len(call("tasks", "local_hhh", "olmo_piqa").stdout.splitlines()) == 3


def test_task_files_are_written_for_all_but_a_study_s_own(tmp_path: Path) -> None:
    done = call("tasks", "--write", tmp_path / "all")
    names = {path.stem for path in (tmp_path / "all").glob("*.yaml")}
    assert done.exit_code == 0 and names == {name for name, task in OWN_TASKS.items() if task.source != "data"}
    done = call("tasks", "local_hhh", "--write", tmp_path / "one", "--path", tmp_path)
    assert f'"path": "{tmp_path.resolve()}"' in (tmp_path / "one" / "local_hhh.yaml").read_text()
    assert f"lm_eval --include_path {tmp_path / 'one'} --tasks local_hhh" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["local_arc_esy"], "unknown task 'local_arc_esy'; nearest: local_arc_easy "),
        (["piqa"], "unknown task 'piqa'; nearest: "),
        (["world_facts", "--write", "nowhere"], "task world_facts: a study makes its items"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    done = call("tasks", *arguments)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
    assert not Path("nowhere").exists()


def test_prompts_that_differ_are_compared_only_when_allowed(tmp_path: Path) -> None:
    base = write_lm_eval(tmp_path / "a", "me/base", {"arc": choice_rows([1, 1, 0])}, {"arc": CHOICE})
    chat = [row | {"prompt_hash": "with a chat template"} for row in choice_rows([1, 0, 0])]
    tuned = write_lm_eval(tmp_path / "b", "me/tuned", {"arc": chat}, {"arc": CHOICE})
    refused = call("tax", base, tuned)
    assert refused.exit_code == 2 and "arc (cloze, 0-shot, acc): prompts differ on 3 of 3 items" in refused.stderr
    allowed = call("tax", base, tuned, "--allow-different-prompts", "--json", "-")
    content = json.loads(allowed.stdout)
    assert content["tax"][0]["value"] == pytest.approx(1 / 3)
    assert "task arc: 3 prompts differ between the two" in content["notes"]
