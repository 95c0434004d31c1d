"""The search against the certified values of NIST's nonlinear regression problems (StRD, public domain)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from analysis.fits import fit
from analysis.intervals import wald
from analysis.laws import Floats, Law
from analysis.search import make_problem, solve

Model = Callable[[Floats, Floats], Floats]


class Certified(NamedTuple):
    """Data, both starts and the certified parameters with their standard deviations (p,) of one problem."""

    x: Floats
    y: Floats
    starts: tuple[Floats, Floats]
    values: Floats
    errors: Floats


def read_strd(path: Path) -> Certified:
    lines = path.read_text(encoding="latin-1").splitlines()
    rows = [re.match(r"\s*b\d\s*=\s*(.+)", line) for line in lines]
    table = np.array([[float(v) for v in m.group(1).split()] for m in rows if m])
    first = next(i for i, line in enumerate(lines) if re.match(r"Data:\s+y", line)) + 1
    data = np.array([[float(v) for v in line.split()] for line in lines[first:] if line.strip()])
    return Certified(data[:, 1:], data[:, 0], (table[:, 0], table[:, 1]), table[:, 2], table[:, 3])


def waves(x: Floats, b: Floats) -> Floats:
    turns = [(2 * np.pi * x / period, i) for period, i in ((12.0, 1), (b[3], 4), (b[6], 7))]
    return b[0] + sum((b[i] * np.cos(t) + b[i + 1] * np.sin(t) for t, i in turns), np.zeros(len(x)))


def gauss(x: Floats, b: Floats) -> Floats:
    bells = (b[i] * np.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5))
    return b[0] * np.exp(-b[1] * x) + sum(bells, np.zeros(len(x)))


def exponentials(x: Floats, b: Floats) -> Floats:
    return sum((b[i] * np.exp(-b[i + 1] * x) for i in (0, 2, 4)), np.zeros(len(x)))


def cubic(x: Floats, b: Floats) -> Floats:
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


# name: the function, and which parameters (from 1) it is linear in
STRD: dict[str, tuple[Model, tuple[int, ...]]] = {
    "Bennett5": (lambda x, b: b[0] * (b[1] + x) ** (-1 / b[2]), (1,)),
    "BoxBOD": (lambda x, b: b[0] * (1 - np.exp(-b[1] * x)), (1,)),
    "Chwirut1": (lambda x, b: np.exp(-b[0] * x) / (b[1] + b[2] * x), ()),
    "Chwirut2": (lambda x, b: np.exp(-b[0] * x) / (b[1] + b[2] * x), ()),
    "DanWood": (lambda x, b: b[0] * x ** b[1], (1,)),
    "ENSO": (waves, (1, 2, 3, 5, 6, 8, 9)),
    "Eckerle4": (lambda x, b: b[0] / b[1] * np.exp(-0.5 * ((x - b[2]) / b[1]) ** 2), (1,)),
    "Gauss1": (gauss, (1, 3, 6)),
    "Gauss2": (gauss, (1, 3, 6)),
    "Gauss3": (gauss, (1, 3, 6)),
    "Hahn1": (cubic, (1, 2, 3, 4)),
    "Kirby2": (lambda x, b: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2), (1, 2, 3)),
    "Lanczos1": (exponentials, (1, 3, 5)),
    "Lanczos2": (exponentials, (1, 3, 5)),
    "Lanczos3": (exponentials, (1, 3, 5)),
    "MGH09": (lambda x, b: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]), (1,)),
    "MGH10": (lambda x, b: b[0] * np.exp(b[1] / (x + b[2])), (1,)),
    "MGH17": (lambda x, b: b[0] + b[1] * np.exp(-x * b[3]) + b[2] * np.exp(-x * b[4]), (1, 2, 3)),
    "Misra1a": (lambda x, b: b[0] * (1 - np.exp(-b[1] * x)), (1,)),
    "Misra1b": (lambda x, b: b[0] * (1 - (1 + b[1] * x / 2) ** -2), (1,)),
    "Misra1c": (lambda x, b: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5), (1,)),
    "Misra1d": (lambda x, b: b[0] * b[1] * x / (1 + b[1] * x), (1,)),
    "Nelson": (lambda x, b: b[0] - b[1] * x[:, 0] * np.exp(-b[2] * x[:, 1]), (1, 2)),  # of ln y
    "Rat42": (lambda x, b: b[0] / (1 + np.exp(b[1] - b[2] * x)), (1,)),
    "Rat43": (lambda x, b: b[0] / (1 + np.exp(b[1] - b[2] * x)) ** (1 / b[3]), (1,)),
    "Roszman1": (lambda x, b: b[0] - b[1] * x - np.arctan(b[2] / (x - b[3])) / np.pi, (1, 2)),
    "Thurber": (cubic, (1, 2, 3, 4)),
}


def strd_law(function: Model, linear: tuple[int, ...], start: Floats) -> Law:
    """A law of any function, with complex-step derivatives and one given start, for the search alone."""
    count = len(start)

    def evaluate(x: Floats, u: Floats, signs: Floats) -> tuple[Floats, Floats]:
        at = x[:, 0] if x.shape[1] == 1 else x
        value = np.array([function(at, row) for row in u])
        grad = np.empty((*value.shape, count))
        for j in range(count):
            step = np.zeros(count, dtype=complex)
            step[j] = 1e-30j
            grad[..., j] = np.array([function(at, row + step) for row in u]).imag / 1e-30
        return value, grad

    infinite = (math.inf,) * count
    names = tuple(f"b{i + 1}" for i in range(count))
    projected = tuple(f"b{i}" for i in linear)
    below = tuple(-v for v in infinite)
    return Law("strd", "", names, evaluate, lambda x, y, w: start[None], below, infinite, projected=projected)


@pytest.mark.filterwarnings("ignore:overflow|invalid|divide:RuntimeWarning")
@pytest.mark.parametrize("start", [0, 1], ids=["start1", "start2"])
@pytest.mark.parametrize("name", STRD)
def test_certified_values_from_both_starts(real_data: Path, name: str, start: int) -> None:
    """At least five certified digits of the values and of the standard deviations from one start alone, which is
    harder than a law's grid of starts."""
    problem = read_strd(real_data / "reference" / "nist_strd" / f"{name}.dat")
    y = np.log(problem.y) if name == "Nelson" else problem.y
    law = strd_law(*STRD[name], problem.starts[start])
    found = solve(make_problem(law, problem.x, y, None, "linear"), "ls")
    assert found.converged
    assert found.best.u == pytest.approx(problem.values, rel=1e-5)
    if name != "Lanczos1":  # exact to 13 digits: its residuals are the rounding of the data
        assert wald(found.best).se == pytest.approx(problem.errors, rel=1e-5)


def test_a_law_of_ours_is_certified(real_data: Path) -> None:
    """DanWood, y = b1 x^b2, is ``sqrt-kl-power``."""
    problem = read_strd(real_data / "reference" / "nist_strd" / "DanWood.dat")
    result = fit("sqrt-kl-power", problem.x, problem.y, ci="wald")
    assert [p.value for p in result.params.values()] == pytest.approx(problem.values, rel=1e-7)
    assert [p.se for p in result.params.values()] == pytest.approx(problem.errors, rel=1e-5)
