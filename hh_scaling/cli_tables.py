"""Commands that turn numbers into numbers: analyze, report, fit, tax, compare. None of them needs torch.

Everything heavy is imported inside its command, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hh_scaling.cli_plots import BadInput, draw_comparison

if TYPE_CHECKING:
    import pandas as pd

BAD_INPUT = 2

RunsArgument = Annotated[Path, typer.Argument(metavar="RUNS", help="A directory that hh-scaling run made.")]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where to write.")]
JsonOption = Annotated[str | None, typer.Option("--json", metavar="-", help="Print JSON alone to standard output.")]
MARGIN_HELP = "Equivalence margin in chance-normalised percentage points."
BITS_HELP = "Equivalence margin in bits per byte."
MarginOption = Annotated[float, typer.Option("--margin", help=MARGIN_HELP)]
BitsOption = Annotated[float, typer.Option("--bits-margin", help=BITS_HELP)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    from hh_scaling.cli_fit import fit

    for command in (analyze, report, fit, tax, compare):
        app.command()(command)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print bad input as one line on standard error and exit with 2."""
    from analysis.fits import FitError
    from analysis.frames import AnalysisError
    from hh_scaling.records import RecordError
    from reports.results import ResultsError

    try:
        yield
    except (BadInput, AnalysisError, FitError, RecordError, ResultsError) as error:
        print(f"hh-scaling: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error


def wants_json(value: str | None) -> bool:
    """Whether ``--json -`` was given; anything else after ``--json`` is bad input."""
    if value not in (None, "-"):
        raise BadInput(f"--json {value}: only '-' (standard output) is allowed")
    return value == "-"


def print_json(content: Any) -> None:
    """JSON alone, on standard output."""
    print(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def check_margins(margin: float | None, bits_margin: float | None) -> None:
    for name, value in (("--margin", margin), ("--bits-margin", bits_margin)):
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"{name} {value:g}: must be above 0")


# ---------------------------------------------------------------- analyze, report


def analyze(
    runs: RunsArgument,
    out: OutOption = None,
    margin: Annotated[float | None, typer.Option("--margin", help=f"{MARGIN_HELP} [default: the study's]")] = None,
    bits_margin: Annotated[
        float | None, typer.Option("--bits-margin", help=f"{BITS_HELP} [default: the study's]")
    ] = None,
) -> None:
    """Fit the laws, intervals, tax and claims of a study: results.json and tables/*.csv."""
    with one_line_errors():
        from analysis.results import analyze as analyze_runs

        check_margins(margin, bits_margin)
        results = analyze_runs(runs, out, margin=margin, bits_margin=bits_margin)
        target = out or runs
        print(f"{target / 'results.json'}: {len(results['models'])} sizes, {len(results['fits'])} fits, "
              f"{len(results['tax'])} taxes, {len(results['excluded'])} left out")  # fmt: skip
        for claim in results["claims"]:
            print(f"  {claim['verdict']:<12} {claim['id']:<16} {claim['text']}")


def report(runs: RunsArgument, out: OutOption = None) -> None:
    """Write the report of a study: report.html and figures with their tables; analysed first where needed."""
    with one_line_errors():
        from analysis.results import analyze as analyze_runs
        from reports.report import write_report

        if not (runs / "results.json").is_file():
            analyze_runs(runs)
        print(write_report(runs, out or runs / "report"))


# ---------------------------------------------------------------- tax, compare


def tax(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="lm-eval output of the model before.")],
    tuned: Annotated[Path, typer.Argument(metavar="TUNED", help="lm-eval output of the model after.")],
    margin: MarginOption = 1.0,
    bits_margin: BitsOption = 0.01,
    allow_prompts: Annotated[
        bool, typer.Option("--allow-different-prompts", help="Compare items whose prompts differ between the two.")
    ] = False,
    json_to: JsonOption = None,
) -> None:
    """The paired alignment tax between two lm-eval output directories, whoever made them."""
    with one_line_errors():
        from analysis.tax_files import lm_eval_tax

        as_json = wants_json(json_to)
        check_margins(margin, bits_margin)
        content = lm_eval_tax(base, tuned, margin, bits_margin, allow_prompts)
        if as_json:
            print_json(content)
            return
        print(f"tax = {content['base']} minus {content['tuned']}: positive is a cost, with 95 % intervals; "
              "normalised is divided by 1 - chance; mde: 80 % power, at Holm's level")  # fmt: skip
        print_rows([tax_cells(row) for row in content["tax"] + content["pooled"]])
        for note in content["notes"]:
            print(f"note: {note}")


def tax_cells(row: dict[str, Any]) -> dict[str, str]:
    """One row of the printed table; a mean over tasks has no task."""
    mean = "task" not in row
    name = f"mean of {row['n_tasks']} tasks" if mean else f"{row['task']} ({row['format']})"
    raw, normalised = (None, row) if mean else (row, row["normalised"])
    shown = {"task": name, "k": str(row["k_shot"]), "raw tax": interval(raw), "unit": str(row.get("unit") or "")}
    shown |= {"normalised tax": interval(normalised), "mde": ""}
    for key in ("n_items", "verdict"):
        shown[key] = str(row.get(key) or "")
    if row.get("mde") is not None:
        shown["mde"] = f"{row['mde']:.4f} {'normalised' if normalised else 'raw'}"
    shown["note"] = "; ".join(
        filter(None, ["" if row.get("informative", True) else "at chance before", row.get("note")])
    )
    return shown


def interval(estimate: dict[str, Any] | None) -> str:
    """A tax with its 95 % interval; "-" where it does not exist on this scale."""
    if estimate is None:
        return "-"
    low, high = (number(estimate[end], "+.4f") for end in ("low", "high"))
    return f"{number(estimate['value'], '+.4f')} [{low}, {high}]"


def number(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)


def print_rows(rows: Sequence[dict[str, str]]) -> None:
    """Rows as aligned columns."""
    if not rows:
        return
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    for row in [{name: name for name in widths}, *rows]:
        print("  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip())


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS RUNS…", help="Directories of two or more studies.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write tables, compare.json, figures.")
    ] = None,
    json_to: JsonOption = None,
) -> None:
    """The tax of several studies or recipes side by side, and at equal gold reward."""
    with one_line_errors():
        from analysis.compare import compare as compare_runs
        from analysis.compare import side_by_side

        as_json = wants_json(json_to)
        if len(runs) < 2:
            raise BadInput(f"compare {runs[0]}: needs at least two directories")
        content = compare_runs(runs)
        table = side_by_side(content)
        if out is not None:
            write_comparison(out, content, table)
        if as_json:
            print_json(content)
            return
        print("tax by study: positive is a cost" + ("; synthetic world" if content["synthetic"] else ""))
        rows = content["tax"] + content["pooled"]
        names = {"study": "study", "recipe": "recipe", "size": "model", "at": "at", "before": "before"}
        print_rows([{name: str(row[key]) for name, key in names.items()} | tax_cells(row) for row in rows])
        print("\nat equal gold reward: difference is tax minus other tax, chance-normalised, with 95 % intervals")
        print_rows([equal_reward_cells(row) for row in content["at_equal_reward"]])
        for note in content["notes"]:
            print(f"note: {note}")


def equal_reward_cells(row: dict[str, Any]) -> dict[str, str]:
    """One printed row of two recipes at equal gold reward."""
    sides = {"recipe": ("study", "recipe"), "other": ("other_study", "other")}
    shown = {name: " / ".join(dict.fromkeys(row[key] for key in keys)) for name, keys in sides.items()}
    shown = {"size": row["model"], "before": row["before"], **shown, "reward": number(row["reward"], "g")}
    shown |= {name: interval(row[key]) for name, key in (("tax", "tax"), ("other tax", "other_tax"))}
    shown |= {"difference": interval(row["difference"]), "runs": f"{row['n_seeds']}, {row['other_n_seeds']}"}
    note = "; ".join(filter(None, [*row["refused"], row["note"]]))
    return shown | {"less tax": row["verdict"], "note": note}


def write_comparison(out: Path, content: dict[str, Any], table: pd.DataFrame) -> None:
    """``compare.json``, ``compare.csv`` and the figure of it in ``out``; at equal gold reward ``equal_reward_rows.csv``
    and a figure where something could be compared."""
    from analysis.compare import equal_reward_table
    from hh_scaling.records import atomic_write, write_json
    from reports.compare_figures import write_equal_reward

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "compare.json", content)
    atomic_write(out / "compare.csv", table.to_csv(index=False, lineterminator="\n"))
    draw_comparison(out, content)
    if content["at_equal_reward"]:
        rows = equal_reward_table(content).to_csv(index=False, lineterminator="\n")
        atomic_write(out / "equal_reward_rows.csv", rows)
    write_equal_reward(content, out)
