"""Commands that run models outside a study: score, and bench. Everything heavy is imported inside its command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from hh_scaling.configs import Compute

BAD_INPUT = 2
BENCHMARK_FILES = Path("../shared/data/benchmarks")

bench_app = typer.Typer(help="Throughput of the stages' own code on given models and token ids.", rich_markup_mode=None)

Folder = Annotated[Path, typer.Option(exists=True, file_okay=False)]
File = Annotated[Path, typer.Option(exists=True, dir_okay=False)]
Count = Annotated[int, typer.Option(min=1)]
DtypeOption = Annotated[str, typer.Option(help="bf16 or float32, of the matrix products.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="[default: all cores]")]
JsonOption = Annotated[str | None, typer.Option("--json", metavar="-", help="Print JSON alone to standard output.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command()(score)
    app.add_typer(bench_app, name="bench")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print bad input as one line on standard error and exit with 2."""
    from hh_scaling.inputs import DataError
    from hh_scaling.models import ModelError

    try:
        yield
    except (DataError, ModelError) as error:
        print(f"hh-scaling: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error


def compute_of(threads: int | None, dtype: str, micro_batch_tokens: int, device: str) -> Compute:
    """How the command computes; all cores unless ``threads`` says otherwise."""
    from hh_scaling.configs import Compute

    if dtype not in ("bf16", "float32"):
        raise typer.BadParameter(f"--dtype {dtype}: only bf16 and float32 are allowed")
    return Compute(
        threads=threads or os.cpu_count() or 1,
        dtype="bf16" if dtype == "bf16" else "float32",
        micro_batch_tokens=micro_batch_tokens,
        device=device,
    )


def score(
    pm: Annotated[str, typer.Argument(metavar="PM", help="A PM stage's folder, a model folder, or a hub name.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="JSONL(.gz, .xz).")],
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
    micro_batch_tokens: Count = 4096,
    device: str = "cpu",
    json_to: JsonOption = None,
) -> None:
    """Score transcripts or comparisons with a preference model, ours or a foreign sequence classifier."""
    from hh_scaling.cli_tables import print_json

    as_json, compute = wants_json(json_to), compute_of(threads, dtype, micro_batch_tokens, device)
    with one_line_errors():
        from hh_scaling.score import score_file

        found = score_file(pm, file, compute)
    if as_json:
        print_json(found)
        return
    print_rows(found["rows"])
    show({name: value for name, value in found.items() if name not in ("rows", "schema")}, sys.stderr)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A line of the columns' names, then the rows, tabs between; a column that a row has not is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    print("\t".join(names))
    for row in rows:
        print("\t".join(cell(row.get(name, "")) for name in names))


def cell(value: object) -> str:
    """A number in six digits, a list with commas."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@bench_app.callback()
def bench() -> None:
    """Throughput of the stages' own code on given models and token ids."""


@bench_app.command("pm")
def bench_pm(
    model: Folder,
    pairs: File,
    tokenizer: Folder,
    batch: Count = 16,
    max_length: Count = 512,
    steps: Count = 20,
    learning_rate: Annotated[float, typer.Option(min=0)] = 1e-4,
    dtype: DtypeOption = "bf16",
    threads: ThreadsOption = None,
    micro_batch_tokens: Count = 8192,
    device: str = "cpu",
    json_to: JsonOption = None,
) -> None:
    """Train a preference model on a JSON list of [chosen, rejected] transcripts and print pairs per second."""
    as_json, compute = wants_json(json_to), compute_of(threads, dtype, micro_batch_tokens, device)
    with one_line_errors():
        from hh_scaling import bench_pm as measured

        found = measured.bench_pm(model, pairs, tokenizer, batch, max_length, steps, compute, learning_rate)
    tell(found, as_json)


@bench_app.command()
def ppo(
    model: Folder,
    reward_model: Folder,
    prompts: File,
    batch: Count = 64,
    response_length: Count = 64,
    ppo_epochs: Count = 4,
    updates: Count = 3,
    dtype: DtypeOption = "bf16",
    threads: ThreadsOption = None,
    micro_batch_tokens: Count = 8192,
    device: str = "cpu",
    json_to: JsonOption = None,
) -> None:
    """Make PPO updates on a JSON list of prompts' token ids and print seconds an update."""
    as_json, compute = wants_json(json_to), compute_of(threads, dtype, micro_batch_tokens, device)
    with one_line_errors():
        from hh_scaling import bench_ppo as measured

        found = measured.bench_ppo(model, reward_model, prompts, batch, response_length, ppo_epochs, updates, compute)
    tell(found, as_json)


@bench_app.command("eval")
def bench_eval(
    model: Folder,
    tokenizer: Folder,
    tasks: Annotated[str, typer.Option(help="Names of tasks, with commas between them.")],
    files: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Of local_* tasks [default: ../shared/data/benchmarks]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items a task [default: all]")] = None,
    rounds: Count = 3,
    stock_batches: Annotated[str, typer.Option(help="Batch sizes tried with the stock model.")] = "8,16,32,64",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
    micro_batch_tokens: Count = 8192,
    device: str = "cpu",
    json_to: JsonOption = None,
) -> None:
    """Ask benchmark items of lm-eval's stock model and of ours, in turn, and print items per second of both."""
    as_json, compute = wants_json(json_to), compute_of(threads, dtype, micro_batch_tokens, device)
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("--tasks: no name; allowed: names of tasks with commas between them")
    try:
        sizes = [int(size) for size in stock_batches.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise typer.BadParameter(f"--stock-batches: {stock_batches!r}; allowed: whole numbers with commas between them")
    folder = files or (BENCHMARK_FILES if BENCHMARK_FILES.is_dir() else None)
    with one_line_errors():
        from hh_scaling import bench_eval as measured

        found = measured.bench_eval(model, tokenizer, names, folder, limit, rounds, compute, sizes)
    tell(found, as_json)


def tell(found: dict[str, Any], as_json: bool) -> None:
    """What a bench found, as JSON or as lines."""
    from hh_scaling.cli_tables import print_json

    if as_json:
        print_json(found)
    else:
        show(found, sys.stdout)


def wants_json(value: str | None) -> bool:
    """Whether ``--json -`` was given; another value is bad input."""
    if value not in (None, "-"):
        raise typer.BadParameter(f"--json {value}: only '-' (standard output) is allowed")
    return value == "-"


def show(found: dict[str, Any], stream: TextIO) -> None:
    """Names and values, a line each, without lists."""
    for name, value in found.items():
        if isinstance(value, dict):
            show({f"{name}.{key}": inner for key, inner in value.items()}, stream)
        elif not isinstance(value, list):
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}", file=stream)
