"""The command that fits one law to any CSV file, whoever made it. It needs no torch.

Everything heavy is imported inside, so that ``--help`` answers at once.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hh_scaling.cli_plots import BadInput, draw_fit
from hh_scaling.cli_tables import JsonOption, number, one_line_errors, print_json, print_rows, wants_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from analysis.fit_result import FitResult, Forecast
    from analysis.laws import Law

    Floats = np.ndarray[Any, np.dtype[np.float64]]

AT_HELP = "Predict here: a value of each x column; may be given several times."


def fit(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A CSV file.")],
    law: Annotated[str, typer.Option("--law", help="power, additive, pm-loss, pm-accuracy, log-linear, broken, …")],
    x: Annotated[str, typer.Option("--x", metavar="COL[,COL]", help="One or two columns.")],
    y: Annotated[str, typer.Option("--y", metavar="COL", help="The column fitted.")],
    se: Annotated[str | None, typer.Option("--se", metavar="COL", help="Standard errors of y.")] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="COL", help="The run each row belongs to.")
    ] = None,
    loss: Annotated[str, typer.Option("--loss", help="ls, huber, hoffmann or asymmetric.")] = "ls",
    space: Annotated[str, typer.Option("--space", help="linear, log or logit.")] = "linear",
    ci: Annotated[str | None, typer.Option("--ci", help="profile, wald, bootstrap or cases.")] = None,
    at: Annotated[list[str] | None, typer.Option("--at", metavar="X[,X]", help=AT_HELP)] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw points and fit.")] = None,
    json_to: JsonOption = None,
) -> None:
    """Fit one law to the columns of a CSV file; exits 0 whatever the fit's status."""
    with one_line_errors():
        from analysis import fits
        from analysis.laws import COLUMNS

        as_json, names = wants_json(json_to), [name.strip() for name in x.split(",")]
        chosen("--law", law, list(COLUMNS))
        chosen("--loss", loss, fits.LOSSES)
        chosen("--space", space, fits.SPACES)
        if ci is not None:
            chosen("--ci", ci, fits.INTERVALS)
        if seed < 0:
            raise BadInput(f"--seed {seed}: must be at least 0")
        import numpy as np

        frame = read_table(table)
        points = np.column_stack([numbers(frame, table, "--x", name) for name in names])
        values = numbers(frame, table, "--y", y)
        try:
            places = None if not at else predicted_at(at, fits.checked_law(law, len(names)))
            result = fits.fit(
                law, points, values,
                se=None if se is None else standard_errors(frame, table, se),
                cluster=None if cluster is None else labels(frame, table, cluster),
                loss=loss, space=space, ci=ci, group=table.stem, x_names=names, y_name=y, seed=seed,  # type: ignore[arg-type]
            )  # fmt: skip
        except fits.FitError as error:
            line = "" if error.row is None else f" (line {error.row + 1})"
            raise BadInput(f"{table}: {error}{line}") from error
        if plot is not None:
            draw_fit(plot, result, points, values)
        show(result, None if places is None else result.forecast(places), as_json)


def show(result: FitResult, forecasts: Sequence[Forecast] | None, as_json: bool) -> None:
    """The fit, and what it predicts where that was asked for."""
    if as_json:
        print_json(result.to_dict() | ({} if forecasts is None else {"forecast": [vars(row) for row in forecasts]}))
        return
    print(result.summary())
    rows = [
        dict(zip(result.x, (f"{v:.6g}" for v in row.x), strict=True))
        | {result.y: number(row.value, ".5g"), "mean, 95 %": span(row.low, row.high),
           "new run, 95 %": span(row.new_run_low, row.new_run_high), "decades outside": f"{row.decades:.2f}"}
        for row in forecasts or []
    ]  # fmt: skip
    print_rows(rows)


def span(low: float | None, high: float | None) -> str:
    return f"[{number(low, '.5g')}, {number(high, '.5g')}]"


def predicted_at(at: Sequence[str], of: Law) -> Floats:
    """(n, k) the places given with ``--at``; BadInput where the law cannot be there."""
    import numpy as np

    rows = []
    for text in at:
        try:
            row = [float(v) for v in text.split(",")]
        except ValueError as error:
            raise BadInput(f"--at {text}: not a number, or numbers separated by commas") from error
        right = [math.isfinite(v) and (v >= 0 if of.x_above is None else v > of.x_above) for v in row]
        if len(row) != of.n_x or not all(right):
            wanted = f"{of.n_x} finite value{'s' * (of.n_x > 1)}"
            above = "at least 0" if of.x_above is None else f"above {of.x_above:g}"
            raise BadInput(f"--at {text}: {of.name} takes {wanted} {above}")
        rows.append(row)
    return np.array(rows)


# ---------------------------------------------------------------- the table


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the closest known name, or the list of all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"nearest is {close[0]!r}" if close else f"allowed: {', '.join(known)}"


def chosen(option: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise BadInput(f"{option} {value}: not known; {nearest(value, known)} (allowed: {', '.join(known)})")
    return value


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file, all cells as text; BadInput names the file."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more fields would shift all columns
            return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, index_col=False)
    except pd.errors.ParserWarning as error:
        raise BadInput(f"{path}: rows have more fields than the header has names (a trailing comma?)") from error
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # pandas' parser errors and bad encodings are ValueErrors
        raise BadInput(f"{path}: not readable as CSV ({str(error).splitlines()[0]})") from error


def column(table: pd.DataFrame, path: Path, option: str, name: str) -> pd.Series:
    if name not in table.columns:
        raise BadInput(f"{path}: {option} {name}: no such column; {nearest(name, [str(c) for c in table.columns])}")
    found = table[name]
    return found


def numbers(table: pd.DataFrame, path: Path, option: str, name: str) -> Floats:
    """A column as floats; BadInput names the first row that is not a finite number (line 1 is the header)."""
    import numpy as np
    import pandas as pd

    text = column(table, path, option, name)
    values = np.asarray(pd.to_numeric(text, errors="coerce"), dtype=float)
    refuse(table, path, name, ~np.isfinite(values), "is not a finite number")
    return values


def standard_errors(table: pd.DataFrame, path: Path, name: str) -> Floats:
    """A column of standard errors: finite and above 0."""
    values = numbers(table, path, "--se", name)
    refuse(table, path, name, values <= 0, "is not a positive standard error")
    return values


def labels(table: pd.DataFrame, path: Path, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """A column of runs; an empty cell would be a run of its own."""
    found = column(table, path, "--cluster", name).str.strip()
    refuse(table, path, name, (found == "").to_numpy(), "is not the name of a run")
    return found.to_numpy()


def refuse(table: pd.DataFrame, path: Path, name: str, bad: np.ndarray[Any, np.dtype[np.bool_]], why: str) -> None:
    """BadInput at the first bad cell."""
    if bad.any():
        row = int(bad.argmax())
        raise BadInput(f"{path}: line {row + 2}, column {name!r}: {table[name].iloc[row]!r} {why}")
