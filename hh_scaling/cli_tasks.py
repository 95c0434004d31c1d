"""The command that lists the benchmark tasks, and writes them as lm-eval's task files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

BAD_INPUT = 2


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command()(tasks)


def tasks(
    names: Annotated[list[str] | None, typer.Argument(metavar="[TASK…]", help="Only these [default: all].")] = None,
    write: Annotated[Path | None, typer.Option("--write", metavar="DIR", help="Write lm-eval's task files.")] = None,
    path: Annotated[
        Path | None, typer.Option("--path", metavar="FOLDER", help="Where the files that local or olmo tasks read are.")
    ] = None,
) -> None:
    """List the benchmark tasks with their chance levels; --write makes task files for lm_eval --include_path."""
    from hh_scaling.cli_tables import print_rows
    from hh_scaling.inputs import DataError
    from hh_scaling.tasks import OWN_TASKS, own_task, unknown_task

    try:
        chosen = []
        for name in names or OWN_TASKS:
            task = own_task(name)
            if task is None:
                raise unknown_task(name, OWN_TASKS)
            chosen.append(task)
        if write is not None:
            from hh_scaling.task_files import write_task_files

            own = [task.name for task in chosen if names or task.source != "data"]
            written = write_task_files(write, own, path)
            print(f"{write}: {len(written)} task files; lm_eval --include_path {write} --tasks {written[0].stem}")
            return
    except DataError as error:
        print(f"hh-scaling: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error
    print_rows(
        [
            {
                "task": task.name,
                "format": task.format,
                "chance": task.chance,
                "examples": "k" if task.few_shot else "none",
                "reads": task.file,
            }
            for task in chosen
        ]  # fmt: skip
    )
