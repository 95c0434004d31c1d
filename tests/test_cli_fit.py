"""The command fit on tables that others made: output, JSON alone, exit codes, one-line errors; no torch anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from analysis.fit_result import FitResult
from hh_scaling.cli_tables import register
from tests.fake_runs import Shape, make_runs
from tests.test_tax import CHOICE, choice_rows, write_lm_eval

ROOT = Path(__file__).resolve().parent.parent
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


def test_fit_predicts_where_asked(table: Path) -> None:
    """The forecast is that of the printed fit itself; 1e11 is two decades beyond the largest size."""
    where = ("--at", "1e8", "--at", "1e11")
    fit = json.loads(call("fit", table, *POWER, *where, "--json", "-").stdout)
    rows = fit.pop("forecast")
    assert [row["decades"] for row in rows] == pytest.approx([0, 2])
    back = FitResult.from_dict(fit)
    assert [row["value"] for row in rows] == list(back.predict([1e8, 1e11]))
    low, high = back.band([1e8, 1e11])
    assert [(row["low"], row["high"]) for row in rows] == list(zip(low, high, strict=True))
    for row in rows:
        assert row["new_run_low"] < row["low"] < row["value"] < row["high"] < row["new_run_high"]
    shown = call("fit", table, *POWER, *where).stdout
    assert "new run, 95 %" in shown and "2.00" in shown


@pytest.mark.parametrize(
    "options, message",
    [
        (("--at", "big"), "--at big: not a number"),
        (("--at", "1e8,1e9"), "--at 1e8,1e9: power takes 1 finite value above 0"),
        (("--at", "0"), "power takes 1 finite value above 0"),
        (("--se", "zero"), "line 3, column 'zero': '0' is not a positive standard error"),
        (("--cluster", "gap"), "line 4, column 'gap': '' is not the name of a run"),
        (("--seed", "-1"), "--seed -1: must be at least 0"),
        (("--loss", "huber", "--ci", "profile"), "needs --loss ls"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_column(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Params,val_loss,zero,gap\n1,4,1,a\n10,3,0,a\n100,2.5,1,\n1000,2.2,1,b\n")
    done = call("fit", path, *POWER, *options)
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_row_that_a_law_cannot_take_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("n,acc\n1,.6\n10,1.2\n")
    done = call("fit", path, "--law", "pm-accuracy", "--x", "n", "--y", "acc")
    assert done.exit_code == 2 and "'acc', row 2: 1.2 is not within [0, 1] for pm-accuracy (line 3)" in done.stderr


# ---------------------------------------------------------------- without torch

BLOCKED = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "lm_eval", "datasets", "tokenizers", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from hh_scaling.__main__ import main
import pathlib, importlib
for path in pathlib.Path("analysis").glob("*.py"):
    importlib.import_module(f"analysis.{path.stem}")
for line in sys.stdin.read().splitlines():
    sys.argv = ["hh-scaling", *line.split("\t")]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    print("exit", code, file=sys.stderr)
"""


def test_the_commands_need_no_torch(table: Path, tmp_path: Path) -> None:
    """One interpreter in which importing torch and what builds on it fails, as where they are not installed."""
    shape = Shape(comparisons=(500,), at=("end",))
    runs = [make_runs(tmp_path / f"r{i}", sizes=(12_000,), seeds=(0,), rng_seed=i, shape=shape) for i in range(2)]
    rng = np.random.default_rng(1)
    sides = [
        write_lm_eval(tmp_path / name, f"me/{name}", {"arc": choice_rows(rng.random(80) < 0.7)}, {"arc": CHOICE})
        for name in ("base", "tuned")
    ]
    picture = tmp_path / "fit.svg"
    commands = [
        ["fit", table, *POWER, "--plot", picture],
        ["tax", *sides],
        ["analyze", runs[0]],
        ["report", runs[0]],
        ["compare", *runs],
    ]
    lines = "\n".join("\t".join(map(str, command)) for command in commands)
    done = subprocess.run([sys.executable, "-c", BLOCKED], cwd=ROOT, input=lines, capture_output=True, text=True)
    codes = [line for line in done.stderr.splitlines() if line.startswith("exit")]
    assert codes == ["exit 0"] * len(commands), done.stderr[-2000:]
    assert picture.is_file() and (runs[0] / "results.json").is_file() and (runs[0] / "report" / "report.html").is_file()


def test_rows_with_more_fields_than_the_header_are_refused(tmp_path: Path) -> None:
    """A trailing comma would shift every column by one, and the fit be that of others."""
    path = tmp_path / "t.csv"
    path.write_text("Params,val_loss,size\n1,4,10,\n10,3,20,\n100,2.5,30,\n1000,2.2,40,\n")
    done = call("fit", path, *POWER)
    assert done.exit_code == 2 and done.stdout == "" and "more fields than the header" in done.stderr


def test_numbers_whose_squares_overflow_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Params,val_loss\n1,4e200\n10,3e200\n100,2.5e200\n1000,2.2e200\n")
    done = call("fit", path, *POWER, "--json", "-")
    assert done.exit_code == 2 and done.stdout == "" and "4e+200 is not within 1e+100 of 0" in done.stderr
