"""The project's tasks as task files of lm-eval's own, for ``lm_eval --include_path DIR`` and whatever reads such files.

Each file names the functions of this module, so lm-eval then asks the same questions in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hh_scaling.inputs import DataError, find_files, input_file, plain_name
from hh_scaling.records import atomic_write
from hh_scaling.task_settings import Documents, bias, exact_match, mc2, no_text, pass_at_1, settings, weighted_mean
from hh_scaling.tasks import OWN_TASKS, OwnTask, own_task, read_documents, unknown_task

FUNCTIONS = ("documents", "bias", "exact_match", "mc2", "no_text", "pass_at_1", "weighted_mean")
MODULE = "hh_scaling_tasks"  # the file that task files name functions of
CODE = f"""# Written by `hh-scaling tasks --write`.
from hh_scaling.task_files import {", ".join(FUNCTIONS)}
"""


def documents(own_task: str, path: str | None = None, **other: Any) -> dict[str, Documents]:
    """The data set of a task as lm-eval's ``custom_dataset`` wants it; ``path`` is the folder of its files."""
    task = OWN_TASKS[own_task]
    found: list[tuple[Path, str]] = []
    if task.source == "olmo" and path is not None:
        found = [(file, file.relative_to(path).as_posix()) for file in sorted(Path(path).glob(task.file))]
    elif task.source == "local" and path is not None:
        files = find_files(Path(path), (Path(task.file).suffix,))
        found = [(file, file.name) for file in files if plain_name(file.name) == task.file]
    known = [input_file(file).model_copy(update={"name": name}) for file, name in found]
    where = {name: str(file) for file, name in found}
    return {"test": Documents(read_documents(task, known, where, Path(path or ".")))}


def write_task_files(folder: Path, names: list[str], path: Path | None = None) -> list[Path]:
    """One file a task, and the module that they name; DataError for a name that is not one of ours."""
    written = []
    for name in names:
        task = own_task(name)
        if task is None:
            raise unknown_task(name, OWN_TASKS)
        if task.source == "data":
            raise DataError(f"task {name}: a study makes its items; expected one of local_*, olmo_* or hub_*")
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder / f"{name}.yaml")
        atomic_write(written[-1], task_file(task, path))
    atomic_write(folder / f"{MODULE}.py", CODE)
    return written


def task_file(task: OwnTask, path: Path | None = None) -> str:
    """The text of lm-eval's task file."""
    metadata: dict[str, Any] = {"version": 1.0, "chance": task.chance}
    metadata |= {} if path is None else {"path": str(path.resolve())}
    fields = settings(task) | {
        "custom_dataset": documents,
        "dataset_kwargs": {"own_task": task.name},
        "test_split": "test",
        "fewshot_split": "test",
        "metadata": metadata,
    }
    fields |= {} if task.few_shot else {"num_fewshot": 0}
    fields |= {"unsafe_code": True} if task.shape == "code" else {}
    return "".join(f"{key}: {flow(value)}\n" for key, value in fields.items())


def flow(value: Any) -> str:
    """A value in YAML's flow style, which is JSON's but for functions."""
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return f"!function {MODULE}.{value.__name__}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


__all__ = [
    "bias",
    "documents",
    "exact_match",
    "mc2",
    "no_text",
    "pass_at_1",
    "task_file",
    "weighted_mean",
    "write_task_files",
]
