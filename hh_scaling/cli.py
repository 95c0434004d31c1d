"""The command line. It composes the four packages and is the one place that may; each is imported inside its command.

Importing this loads typer only, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from hh_scaling import __version__, cli_models, cli_tables, cli_tasks

if TYPE_CHECKING:
    from sweeps.study import AnalysisSection

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
BACKENDS = ("local",)

app = typer.Typer(
    name="hh-scaling",
    help="RLHF over model sizes: sweeps, scaling laws, and the alignment tax with its uncertainty.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A study's YAML file or a shipped study's name.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the study; may be repeated."),
]
JsonOption = Annotated[str | None, typer.Option("--json", metavar="-", help="Print JSON alone to standard output.")]
RunsOption = Annotated[
    Path | None, typer.Option("--runs", metavar="DIR", help="The directory of the runs [default: runs/STUDY].")
]


def main() -> NoReturn:
    """Run the command line and exit with the contract's code; what is wrong with the call is one line."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except TyperException as error:
        text = " ".join(error.format_message().split())
        print(f"hh-scaling: {text} (hh-scaling --help shows what is allowed)", file=sys.stderr)
        code = EXIT_BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns bad input into its lines and exit code 2, and a full disk into one line and 1."""
    from sweeps.launch import no_space, say_line
    from sweeps.load import StudyError

    try:
        yield
    except StudyError as error:
        for problem in error.problems:
            say_line(problem)
        raise typer.Exit(EXIT_BAD_INPUT) from error
    except OSError as error:
        if not no_space(error):
            raise
        say_line(f"no space left on the device ({error.filename or 'RUNS'}); make room and run the same command again")
        raise typer.Exit(1) from error


def wants_json(value: str | None) -> bool:
    """Whether ``--json -`` was given; another value is bad input."""
    if value not in (None, "-"):
        raise typer.BadParameter(f"--json {value}: only '-' (standard output) is allowed")
    return value == "-"


def show_version(value: bool) -> None:
    """Print the version and exit, where asked to."""
    if value:
        print(f"hh-scaling {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of no command."""


@app.command()
def studies() -> None:
    """List the shipped studies, with their sizes, stages and estimated cost on this machine."""
    with user_errors():
        from sweeps.tables import show, studies_table

        show(studies_table())


@app.command()
def plan(
    study: StudyArgument,
    assignments: SetOption = None,
    runs: RunsOption = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="Plan for this accelerator, such as H100.")
    ] = None,
    json_to: JsonOption = None,
) -> None:
    """Show what a study would run and cost: stages, FLOPs, time, memory, disk. Runs nothing."""
    as_json = wants_json(json_to)
    with user_errors():
        from hh_scaling.records import RunStore
        from sweeps.check import load_study
        from sweeps.graph import expand
        from sweeps.launch import say_line
        from sweeps.machines import find_gpu
        from sweeps.plan import machine_for, make_plan, plan_json
        from sweeps.tables import plan_lines, plan_table, show

        loaded = load_study(study, assignments or [])
        graph = expand(loaded)
        machine = machine_for(graph) if gpu is None else find_gpu(gpu)
        store = RunStore(runs or Path("runs") / loaded.name)
        content = plan_json(make_plan(graph, machine, store), loaded.name, loaded.warnings)
        if as_json:
            cli_tables.print_json(content)
            return
        for warning in loaded.warnings:
            say_line(f"warning: {warning}")
        show(plan_table(content), plan_lines(content))


@app.command()
def run(
    study: StudyArgument,
    runs: RunsOption = None,
    assignments: SetOption = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Stages at a time [default: as many as the cores have threads for]."),
    ] = None,
    backend: Annotated[str, typer.Option("--backend", help="Where stages run: local.")] = "local",
) -> None:
    """Run or resume a study; ends with its analysis and report."""
    with user_errors():
        from sweeps.launch import run_study, say_line
        from sweeps.load import StudyError

        if backend not in BACKENDS:
            known = "not available in this version" if backend in ("ray", "slurm") else "not known"
            raise StudyError([f"--backend {backend}: {known} (allowed: {', '.join(BACKENDS)})"])
        raise typer.Exit(run_study(study, assignments or [], runs, jobs, analyse_and_report, say_line))


def analyse_and_report(root: Path, settings: AnalysisSection) -> None:
    """Write ``results.json``, ``tables/`` and ``report/`` of a RUNS directory."""
    from analysis.results import analyze
    from reports.report import write_report

    analyze(root, margin=settings.margin, bits_margin=settings.bits_margin)
    write_report(root, root / "report")


@app.command()
def status(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="A directory that hh-scaling run made.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its sha256.")] = False,
    json_to: JsonOption = None,
) -> None:
    """Show the stages that are done, running, failed (and why) and waiting."""
    as_json = wants_json(json_to)
    with user_errors():
        from sweeps.status import study_status

        content = study_status(runs, verify)
        if as_json:
            cli_tables.print_json(content)
            return
        from sweeps.tables import share_lines, show, status_line, status_table

        show(status_table(content), [status_line(content), *share_lines(content)])


cli_tables.register(app)
cli_models.register(app)
cli_tasks.register(app)
