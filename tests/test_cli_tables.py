"""The commands fit, tax, analyze, report and compare: output, JSON alone, exit codes, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from hh_scaling.cli_tables import register
from tests.fake_runs import Shape, make_runs
from tests.test_tax import CHOICE, choice_rows, write_lm_eval

app = typer.Typer()
register(app)
POWER = ("--law", "power", "--x", "Params", "--y", "val_loss")


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody else's CSV: their own column names, more columns than needed."""
    path = tmp_path_factory.mktemp("tables") / "theirs.csv"
    rng = np.random.default_rng(0)
    lines = ["Params, tokens,val_loss,err,run,comment"]
    for i, n in enumerate(np.geomspace(1e6, 1e9, 6)):
        for d in (1e9, 1e10, 1e11):
            y = 1.7 + 400 * n**-0.34 + 400 * d**-0.28 + rng.normal(0, 0.003)
            lines.append(f"{n:.0f},{d:.0f},{y:.5f},0.003,r{i},hello")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fit_prints_one_element_of_fits(table: Path) -> None:
    done = call(
        "fit", table, "--law", "additive", "--x", "Params,tokens", "--y", "val_loss", "--se", "err", "--json", "-"
    )
    assert done.exit_code == 0 and done.stderr == ""
    fit = json.loads(done.stdout)
    assert {"law", "formula", "group", "x", "y", "params", "ci_method", "n_points", "n_clusters", "aicc", "status",
            "notes"} <= set(fit)  # fmt: skip
    assert fit["x"] == ["Params", "tokens"] and fit["status"] == "ok" and fit["n_points"] == 18
    for name, truth in (("E", 1.7), ("a", 0.34), ("b", 0.28)):
        assert fit["params"][name]["low"] < truth < fit["params"][name]["high"]


def test_fit_prints_a_summary_and_draws(table: Path, tmp_path: Path) -> None:
    picture = tmp_path / "fit.svg"
    done = call(
        "fit", table, "--law", "power", "--x", "Params", "--y", "val_loss", "--cluster", "run", "--plot", picture
    )
    assert done.exit_code == 0 and "wild-cluster-bootstrap" in done.stdout and "95 %" in done.stdout
    assert picture.read_text().startswith("<?xml")


def test_fit_exits_0_whatever_the_status(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("n,y\n1,2\n2,3\n")
    done = call("fit", path, "--law", "power", "--x", "n", "--y", "y", "--json", "-")
    assert done.exit_code == 0 and json.loads(done.stdout)["status"] == "not_identified"


@pytest.mark.parametrize(
    "options, message",
    [
        (("--law", "powr", "--x", "Params", "--y", "val_loss"), "--law powr: not known; nearest is 'power'"),
        (("--law", "power", "--x", "params", "--y", "val_loss"), "--x params: no such column; nearest is 'Params'"),
        (("--law", "power", "--x", "Params", "--y", "comment"), "line 2, column 'comment': 'hello' is not a finite"),
        (("--law", "power", "--x", "Params,tokens", "--y", "val_loss"), "takes 1 x column, not 2"),
        ((*POWER, "--space", "cubic"), "--space cubic: not known"),
        ((*POWER, "--json", "x"), "only '-'"),
        (("--law", "pm-accuracy", "--x", "Params", "--y", "val_loss"), "is not within [0, 1]"),
        ((*POWER, "--cluster", "run", "--ci", "profile"), "independent points"),
        ((*POWER, "--plot", "x.docx"), "cannot draw .docx"),
    ],
)  # fmt: skip
def test_bad_fits_are_one_line_and_2(table: Path, options: tuple[str, ...], message: str) -> None:
    done = call("fit", table, *options)
    assert done.exit_code == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "content, message", [(None, "no such file"), (b"", "not readable"), (b"\xff\xfe\x00", "not readable")]
)
def test_bad_tables_are_one_line_and_2(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    done = call("fit", path, "--law", "power", "--x", "a", "--y", "b")
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_cell_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("n,y\n1,2\n2,\n3,nan\n")
    done = call("fit", path, "--law", "log-linear", "--x", "n", "--y", "y")
    assert done.exit_code == 2 and "t.csv: line 3, column 'y': '' is not a finite number" in done.stderr


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
    }
    assert call("compare", *runs).stdout.count("world_facts (cloze)") == 4  # at the end and at equal gold reward
    for args in (("analyze", tmp_path / "none"), ("compare", runs[0]), ("report", tmp_path / "none")):
        failed = call(*args)
        assert failed.exit_code == 2 and failed.stderr.count("\n") == 1
