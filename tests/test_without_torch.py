"""Analysis, reports and their commands in a virtual environment that has requirements-analysis.txt and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fake_runs import Shape, make_runs
from tests.test_tax import CHOICE, choice_rows, write_lm_eval

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "lm_eval",
    "accelerate",
    "peft",
)
SHAPE = Shape(comparisons=(500,), at=("end",), held_out=40, items=60)


def listed() -> list[Requirement]:
    """The lines of requirements-analysis.txt."""
    lines = (ROOT / "requirements-analysis.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def with_dependencies(names: Iterator[str]) -> set[str]:
    """The distributions of these names and all that they need here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(needed.name))
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment whose site-packages link to the installed files of what is listed."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in sorted(with_dependencies(requirement.name for requirement in listed())):
        distribution = metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    (site / "checkout.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    return folder / "bin" / "python"


COMMANDS = """
import contextlib, io, json, sys
from hh_scaling.cli import main
said = []
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as end:
            assert not end.code, (words, end.code)
    said.append(out.getvalue())
assert "torch" not in sys.modules
print(json.dumps(said))
"""


def call(python: Path, *args: object) -> str:
    """Standard output of that interpreter, outside the checkout's folder; fails with its standard error."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [str(python), *map(str, args)]
    done = subprocess.run(words, cwd=python.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_listed_is_what_the_package_asks_for() -> None:
    """Each with the bounds of pyproject.toml, so that the two lists cannot part."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {r.name: str(r.specifier) for r in map(Requirement, project["dependencies"])}
    assert {r.name: asked.get(r.name) for r in listed()} == {r.name: str(r.specifier) for r in listed()}
    assert "requirements-analysis.txt" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_module_is_imported_without_torch(python: Path) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("analysis", "reports")
        for path in sorted((ROOT / package).glob("**/*.py"))
    ]
    code = f"""
import importlib.util
found = [name for name in {LEFT_OUT!r} if importlib.util.find_spec(name) is not None]
assert not found, found
import {", ".join(modules)}
print(analysis.__file__)
"""
    assert Path(call(python, "-c", code).strip()).parent == ROOT / "analysis"


def test_every_command_works_without_torch(python: Path, tmp_path: Path) -> None:
    """One after the other in one interpreter, which is quicker."""
    runs = [make_runs(tmp_path / f"r{i}", sizes=(12_000,), seeds=(0,), rng_seed=i, shape=SHAPE) for i in range(2)]
    table, picture = tmp_path / "points.csv", tmp_path / "fit.png"
    table.write_text("n,loss\n" + "".join(f"{n},{1 + 5 * n**-0.3!r}\n" for n in (1e3, 1e4, 1e5, 1e6, 1e7)))
    right = np.random.default_rng(1).random((2, 200)) < [[0.8], [0.5]]
    sides = [
        write_lm_eval(tmp_path / f"m{i}", f"me/{i}", {"arc": choice_rows(of)}, {"arc": CHOICE})
        for i, of in enumerate(right)
    ]
    commands = [
        ("fit", table, "--law", "power", "--x", "n", "--y", "loss", "--json", "-", "--plot", picture),
        ("tax", *sides, "--json", "-"),
        ("analyze", runs[0]),
        ("report", runs[0]),
        ("compare", *runs, "--json", "-", "--out", tmp_path / "compared"),
    ]
    words = json.dumps([list(map(str, command)) for command in commands])
    fitted, taxed, analysed, reported, compared = json.loads(call(python, "-c", COMMANDS, words))
    assert abs(json.loads(fitted)["params"]["a"]["value"] - 0.3) < 1e-6 and picture.is_file()
    assert json.loads(taxed)["tax"][0]["verdict"] == "tax"
    assert "results.json" in analysed and Path(reported.strip()).is_file()
    assert len(json.loads(compared)["studies"]) == 2 and (tmp_path / "compared" / "compare.png").is_file()
