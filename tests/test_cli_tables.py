"""The commands tax, analyze, report and compare: output, JSON alone, exit codes, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import typer
from typer.testing import CliRunner

from hh_scaling.cli_tables import register
from tests.fake_runs import Shape, make_runs
from tests.test_tax import CHOICE, choice_rows, write_lm_eval

app = typer.Typer()
register(app)


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_tax_of_two_directories(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base = write_lm_eval(tmp_path / "base", "me/base", {"arc": choice_rows(rng.random(300) < 0.8)}, {"arc": CHOICE})
    tuned = write_lm_eval(tmp_path / "tuned", "me/rl", {"arc": choice_rows(rng.random(300) < 0.5)}, {"arc": CHOICE})
    done = call("tax", base, tuned, "--json", "-")
    content = json.loads(done.stdout)
    assert done.exit_code == 0 and {"schema", "tax", "pooled"} <= set(content)
    assert content["tax"][0]["verdict"] == "tax" and content["tax"][0]["value"] > 0
    shown = call("tax", base, tuned).stdout
    assert "me/base minus me/rl" in shown and "arc (cloze)" in shown and "mean of 1 tasks" in shown
    assert "raw tax" in shown and "normalised tax" in shown
    raw, normalised = (f"{content[key][0]['value']:+.4f} [" for key in ("tax", "pooled"))
    assert shown.count(raw) == 1 and shown.count(normalised) == 2  # the task's own and the mean of it alone


def test_bad_tax_input_is_one_line_and_2(tmp_path: Path) -> None:
    for args in ((tmp_path / "x", tmp_path), (tmp_path, tmp_path), (tmp_path, tmp_path, "--margin", "-1")):
        done = call("tax", *args)
        assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_analyze_and_compare(tmp_path: Path) -> None:
    shape = Shape(comparisons=(500,), at=("end",))
    runs = [make_runs(tmp_path / f"r{i}", sizes=(12_000,), seeds=(0,), rng_seed=i, shape=shape) for i in range(2)]
    done = call("analyze", runs[0], "--out", tmp_path / "out")
    assert done.exit_code == 0 and (tmp_path / "out" / "results.json").is_file() and "C-data" in done.stdout
    assert not (runs[0] / "results.json").exists()
    compared = call("compare", *runs, "--json", "-", "--out", tmp_path / "cmp")
    content = json.loads(compared.stdout)
    assert compared.exit_code == 0 and len(content["studies"]) == 2
    assert {p.name for p in (tmp_path / "cmp").iterdir()} == {
        "compare.csv",
        "compare.json",
        "compare.svg",
        "compare.png",
        "equal_reward_rows.csv",
        "equal_reward.csv",
        "equal_reward.svg",
        "equal_reward.png",
    }
    shown = call("compare", *runs).stdout
    assert shown.count("world_facts (cloze)") == 4  # at the end and at equal gold reward
    (row,) = content["at_equal_reward"]
    assert f"{row['difference']['value']:+.4f} [" in shown.split("at equal gold reward:")[1]
    for args in (("analyze", tmp_path / "none"), ("compare", runs[0]), ("report", tmp_path / "none")):
        failed = call(*args)
        assert failed.exit_code == 2 and failed.stderr.count("\n") == 1
