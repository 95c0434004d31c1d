"""The promised structure, read from the source: imports point one way, analysis needs no torch, help is instant."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "hh_scaling": {"hh_scaling"},
    "sweeps": {"hh_scaling", "sweeps"},
    "analysis": {"hh_scaling", "analysis"},
    "reports": {"hh_scaling", "analysis", "reports"},
}
# The command line composes all four, importing the others inside its commands.
COMPOSES = {ROOT / "hh_scaling" / name for name in ("cli.py", "cli_fit.py", "cli_tables.py")}
HEAVY = {"torch", "transformers", "lm_eval", "datasets", "pandas", "scipy", "matplotlib", "pydantic", "ruamel"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(nodes: list[ast.stmt] | list[ast.AST]) -> set[str]:
    """Full names of what import statements among the nodes import; ``from a import b`` gives ``a`` and ``a.b``."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def all_imports(path: Path) -> set[str]:
    return imports(list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))))


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    assert sources(package)
    for path in sources(package):
        ours = top(all_imports(path)) & MAY_IMPORT.keys()
        if path in COMPOSES:
            continue
        assert ours <= MAY_IMPORT[package], f"{path} imports {ours - MAY_IMPORT[package]}"


def test_the_command_line_imports_the_others_only_inside_its_commands() -> None:
    for path in COMPOSES:
        outside = top(imports(ast.parse(path.read_text(encoding="utf-8")).body))
        assert not outside & (HEAVY | {"sweeps", "analysis", "reports"}), path


@pytest.mark.parametrize("package", ["analysis", "reports"])
def test_analysis_and_reports_read_only_records(package: str) -> None:
    """Of hh_scaling they import the records' module and the version: what makes runs may change without them."""
    allowed = {"hh_scaling", "hh_scaling.records", "hh_scaling.__version__"}
    for path in sources(package):
        ours = {name for name in all_imports(path) if name.split(".")[0] == "hh_scaling"}
        assert all(name in allowed or name.startswith("hh_scaling.records.") for name in ours), f"{path}: {ours}"


@pytest.mark.parametrize("package", ["analysis", "reports", "sweeps"])
def test_no_torch_is_written_outside_the_stages(package: str) -> None:
    for path in sources(package):
        assert not top(all_imports(path)) & {"torch", "transformers", "lm_eval", "datasets"}, path


def loaded_modules(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running ``code``."""
    program = f"{code}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_analysis_and_reports_load_no_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("analysis", "reports")
        for path in sources(package)
        if path.name != "__init__.py"
    ]
    assert not loaded_modules("import " + ", ".join(modules)) & {"torch", "transformers", "pydantic"}


def test_planning_and_launching_load_no_torch() -> None:
    modules = "sweeps.launch, sweeps.plan, sweeps.status, sweeps.tables, sweeps.worker"
    assert not loaded_modules(f"import {modules}") & {"torch", "transformers", "pandas", "lm_eval", "datasets"}


def test_importing_the_command_line_loads_next_to_nothing() -> None:
    assert not loaded_modules("import hh_scaling.cli") & (HEAVY | {"numpy", "sweeps", "analysis", "reports"})


def test_help_answers_at_once() -> None:
    """The goal is 0.5 s; the best of three, since the machine is shared."""
    best = float("inf")
    for _ in range(3):
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "hh_scaling", "--help"], cwd=ROOT, capture_output=True, check=True)
        best = min(best, time.monotonic() - started)
    assert best < 0.5


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_each_package_is_this_checkout_s(package: str) -> None:
    """Another distribution's ``analysis`` would be imported silently."""
    file = importlib.import_module(package).__file__
    assert file is not None and Path(file).resolve().parent == ROOT / package


def calls(path: Path) -> set[str]:
    """Dotted names of what a module calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_nothing_is_unpickled_or_evaluated(package: str) -> None:
    for path in sources(package):
        assert not top(all_imports(path)) & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, path
        assert not calls(path) & {"eval", "exec", "torch.load", "torch.save"}, path
