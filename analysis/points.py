"""Points before a fit: what no fit can use is an error, what leaves a law undecided is a note."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.fit_result import Note
from analysis.laws import SQRT_KL, Floats, Law
from analysis.solver import Space


class FitError(ValueError):
    """Points that no fit can use; the message is one line naming column and row (counted from 1)."""


def check_points(
    of: Law, x: Floats, y: Floats, se: Floats | None, space: Space, names: Sequence[str], y_name: str
) -> None:
    """FitError at the first value that is not finite or outside what the law, space or weights can take."""
    if len(y) == 0:
        raise FitError("no rows")
    rules = [(name, column, column > -math.inf, "a finite number") for name, column in zip(names, x.T, strict=True)]
    rules.append((y_name, y, y > -math.inf, "a finite number"))
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
            raise FitError(f"column {name!r}, row {bad[0] + 1}: {values[bad[0]]:g} is not {wanted}")


def missing_information(of: Law, x: Floats, n: int, names: Sequence[str]) -> list[Note]:
    """Why the parameters cannot be found at all, and how much more would do."""
    notes = []
    if n < len(of.params):
        short = len(of.params) - n
        notes.append(Note("too_few_points", f"{n} points for {len(of.params)} parameters; {short} more are needed"))
    for name, column, levels in zip(names, x.T, of.levels, strict=True):
        found = len(np.unique(column[column != 0] if of.name in SQRT_KL else column))
        if found < levels:
            more = f"{levels - found} more are needed"
            notes.append(
                Note("too_few_levels", f"{name} has {found} distinct values, {of.name} needs {levels}; {more}")
            )
    return notes
