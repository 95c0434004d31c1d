"""Points before a fit: what no fit can use is an error, what leaves a law undecided is a note."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from analysis.estimates import Codes, codes
from analysis.fit_result import Note, as_columns
from analysis.laws import SQRT_KL, Floats, Law
from analysis.solver import Space

MOST = 1e100  # of y


class FitError(ValueError):
    """Points that no fit can use; the message is one line naming column and ``row`` (counted from 1)."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


def check_points(
    of: Law, x: Floats, y: Floats, se: Floats | None, space: Space, names: Sequence[str], y_name: str
) -> None:
    """FitError at the first value that is not finite or outside what the law, space or weights can take."""
    if len(y) == 0:
        raise FitError("no rows")
    rules = [(name, column, column > -math.inf, "a finite number") for name, column in zip(names, x.T, strict=True)]
    rules.append((y_name, y, y > -math.inf, "a finite number"))
    rules.append((y_name, y, np.abs(y) <= MOST, f"within {MOST:g} of 0, beyond which squares overflow: rescale it"))
    if of.x_above is not None:
        rules += [
            (n, c, c > of.x_above, f"above {of.x_above:g}, since logs are taken")
            for n, c in zip(names, x.T, strict=True)
        ]
    if of.name in SQRT_KL:
        rules.append((names[0], x[:, 0], x[:, 0] >= 0, "at least 0: it is the square root of a KL"))
    low, high = of.y_range
    rules.append((y_name, y, (y >= low) & (y <= high), f"within [{low:g}, {high:g}] for {of.name}"))
    if space != "linear":
        inside = (y > 0) & ((y < 1) if space == "logit" else True)
        rules.append(
            (y_name, y, inside, f"{'above 0' if space == 'log' else 'strictly between 0 and 1'} in {space} space")
        )
    if se is not None:
        rules.append(("se", se, se > 0, "a positive standard error"))
    for name, values, good, wanted in rules:
        bad = np.flatnonzero(~(good & np.isfinite(values)))
        if len(bad):
            row = int(bad[0]) + 1
            raise FitError(f"column {name!r}, row {row}: {values[row - 1]:g} is not {wanted}", row)


def check_shapes(
    x: ArrayLike, y: ArrayLike, se: ArrayLike | None, cluster: ArrayLike | None
) -> tuple[Floats, Floats, Floats | None, Codes | None]:
    """x (n, k), y (n,), se (n,) and clusters (n,) as arrays; FitError where they do not fit together."""
    try:
        columns, target = as_columns(x), np.asarray(y, dtype=float)
        errors = None if se is None else np.asarray(se, dtype=float)
    except (TypeError, ValueError) as error:
        raise FitError(f"x, y and se must be numbers ({error})") from error
    labels = None if cluster is None else np.asarray(cluster)
    for name, array in (("x", columns), ("y", target), ("se", errors), ("cluster", labels)):
        if array is not None and (len(array) != len(columns) or array.ndim != (2 if name == "x" else 1)):
            raise FitError(f"{name} has the shape {array.shape}, where x has {len(columns)} rows")
    if labels is None or not len(labels):
        return columns, target, errors, None
    missing = np.flatnonzero(pd.isna(labels) | (labels == ""))
    if len(missing):
        row = int(missing[0]) + 1
        raise FitError(f"column 'cluster', row {row}: empty, where every row needs its run", row)
    return columns, target, errors, codes(labels)


def missing_information(of: Law, x: Floats, n: int, names: Sequence[str]) -> list[Note]:
    """Why the parameters cannot be found at all, and how much more would do."""
    notes = []
    if n < len(of.params):
        short = len(of.params) - n
        notes.append(Note("too_few_points", f"{n} points for {len(of.params)} parameters; {_more(short)}"))
    for name, column, levels in zip(names, x.T, of.levels, strict=True):
        found = len(np.unique(column[column != 0] if of.name in SQRT_KL else column))
        if found < levels:
            message = f"{name} has {found} distinct value{'s' * (found != 1)}, {of.name} needs {levels}"
            notes.append(Note("too_few_levels", f"{message}; {_more(levels - found)}"))
    return notes


def _more(count: int) -> str:
    return f"{count} more {'is' if count == 1 else 'are'} needed"


def cautions(
    of: Law, x: Floats, y: Floats, cluster: Codes | None, names: Sequence[str], repeats: bool = False
) -> list[Note]:
    """What is odd about points that can be fitted: rows that repeat others, unless ``repeats`` are meant, and a form
    that cannot be tested."""
    notes = []
    repeated = [] if repeats else repeated_rows(np.column_stack([x, y if cluster is None else cluster]))
    if repeated:
        what = "x and y" if cluster is None else "run and x"
        first = repeated[0] + 1
        message = f"{len(repeated)} rows repeat the {what} of an earlier one (the first is row {first})"
        notes.append(Note("repeated_rows", f"{message}: each counts as a measurement of its own"))
    for name, found, wanted in levels_wanted(of, x, names):
        if found < wanted:
            message = f"{name} has {found} distinct values, no more than {of.name} has parameters to bend to them"
            notes.append(Note("form_not_tested", f"{message}: whether the form holds is not tested; {wanted} would do"))
    return notes


def repeated_rows(cells: Floats) -> list[int]:
    """The rows of a table (n, k) that are equal to an earlier one."""
    seen: set[tuple[float, ...]] = set()
    repeated = []
    for i, row in enumerate(map(tuple, cells.tolist())):
        if row in seen:
            repeated.append(i)
        seen.add(row)
    return repeated


def levels_wanted(of: Law, x: Floats, names: Sequence[str]) -> list[tuple[str, int, int]]:
    """For each column its name, its distinct values, and how many let the form be tested: one more than the
    parameters that the column decides together with the constant."""
    each = len(of.params) if of.n_x == 1 else len(of.params) // 2 + 1
    counts = [len(np.unique(c[c != 0] if of.name in SQRT_KL else c)) for c in x.T]
    return [(name, found, each + 1) for name, found in zip(names, counts, strict=True)]


def what_would_do(of: Law, x: Floats, names: Sequence[str]) -> str:
    """What to measure where the points leave parameters open."""
    few = [f"{w - f} more value{'s' * (w - f > 1)} of {name}" for name, f, w in levels_wanted(of, x, names) if f < w]
    if few:
        return " and ".join(few) + " would do"
    spans = [
        f"{name} spans a factor of {c.max() / c.min():.3g}" for name, c in zip(names, x.T, strict=True) if c.min() > 0
    ]
    return "; ".join(["more seeds at each x, or a wider range, would do", *spans])


def lack_of_fit(residual: Floats, w: Floats, x: Floats, p: int) -> Note | None:
    """Repeats at one x scatter about their own mean; where points scatter about the law much more (F test, 1 %), the
    form does not hold. ``residual`` (n,) is weighted by the square roots of ``w``, ``p`` parameters were fitted."""
    level = np.unique(x, axis=0, return_inverse=True)[1].ravel()
    groups, root = int(level.max()) + 1, np.sqrt(w)
    df_form, df_pure = groups - p, len(residual) - groups
    if df_form < 1 or df_pure < 1:
        return None
    mean = np.bincount(level, root * residual) / np.bincount(level, w)
    pure = float(((residual - root * mean[level]) ** 2).sum())
    form = float((residual**2).sum()) - pure
    if pure <= 0:
        return None
    p_value = float(special.fdtrc(df_form, df_pure, (form / df_form) / (pure / df_pure)))
    message = f"points scatter about the law more than repeats at one x do (F test, p = {p_value:.2g}): another form?"
    return Note("lack_of_fit", message) if p_value < 0.01 else None
