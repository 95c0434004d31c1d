"""Whether lm-eval knows a task, without importing it: its task files are searched for the name.

A misspelt benchmark is then found before hours of training instead of after them.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from hh_scaling.tasks import OWN_TASKS
from sweeps.check import LoadedStudy
from sweeps.load import nearest

DECLARED = re.compile(rb"^(?:task|group|tag):\s*['\"]?([\w.-]+)", re.MULTILINE)


def task_folder() -> Path | None:
    """The folder of lm-eval's task files; None where lm-eval is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "tasks"


def unknown_tasks(names: Iterable[str], folder: Path) -> dict[str, str]:
    """The names that no task file under ``folder`` mentions as a whole word, each with a hint at the nearest."""
    patterns = {name: re.compile(rb"(?<![\w-])" + re.escape(name.encode()) + rb"(?![\w-])") for name in names}
    declared: set[str] = set()
    for path in folder.rglob("*.y*ml") if patterns else ():
        content = path.read_bytes()
        patterns = {name: pattern for name, pattern in patterns.items() if not pattern.search(content)}
        declared |= {name.decode() for name in DECLARED.findall(content)}
        if not patterns:
            break
    return {name: nearest(name, declared) for name in patterns}


def check_tasks(loaded: LoadedStudy) -> None:
    """Add a problem to the study for every benchmark task that neither we nor lm-eval know."""
    section, folder = loaded.study.benchmarks, task_folder()
    if section is None or folder is None:
        return
    unknown = unknown_tasks((name for name in section.tasks if name not in OWN_TASKS), folder)
    for name, hint in unknown.items():
        key = ("benchmarks", "tasks", section.tasks.index(name))
        allowed = f"what hh-scaling tasks lists, or a task of lm-eval{hint}"
        loaded.document.complain(key, f"is '{name}', which is not known (allowed: {allowed})")
