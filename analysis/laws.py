"""Scaling laws by name: formula, parameters, bounds, values with derivatives, and where a fit starts.

A law is evaluated at fit coordinates u, one row per candidate: an amplitude A or a place x1 is held as the
logarithm of its size (its sign is kept apart), since raw amplitudes span many decades; everything else is itself.
Batches are along the first axis: (B candidates, n points, p parameters). Candidates share their points x (n, k) and
signs (p,), or have their own: (B, n, k) and (B, p).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LN2 = math.log(2.0)
Evaluate = Callable[[Floats, Floats, Floats], tuple[Floats, Floats]]
Starts = Callable[[Floats, Floats, Floats], Floats]
INF = math.inf
MAX_LOG = 100.0  # of a term: wild candidates stay finite, squares included


@dataclass(frozen=True)
class Law:
    """One law for a given number of x columns.

    ``evaluate(x (n, k), u (B, p), signs (p,))`` gives values (B, n) and their derivatives by u (B, n, p).
    ``starts(x, y, w)`` gives raw starting parameters (S, p), best guesses for given exponents.
    """

    name: str
    formula: str
    params: tuple[str, ...]
    evaluate: Evaluate
    starts: Starts
    lower: tuple[float, ...]  # on raw parameters
    upper: tuple[float, ...]
    log_scale: frozenset[str] = frozenset()  # fitted as ln |value|
    projected: tuple[str, ...] = ()  # parameters it is linear in (on the raw scale): solved for, not searched
    each_run: bool = False  # few enough parameters that every run can be fitted by itself
    levels: tuple[int, ...] = (1,)  # fewest distinct values each x column must have
    x_above: float | None = None  # x must be larger than this (0 where logs are taken)
    y_range: tuple[float, float] = (-INF, INF)
    n_x: int = 1

    @property
    def linear(self) -> bool:
        """Whether the law is linear in all parameters: least squares are then exact."""
        return set(self.projected) == set(self.params)

    @property
    def logs(self) -> NDArray[np.bool_]:
        """(p,) whether each parameter is fitted on the log scale."""
        return np.array([name in self.log_scale for name in self.params])

    def raw(self, u: Floats, signs: Floats) -> Floats:
        """Fit coordinates (..., p) to parameters."""
        with np.errstate(over="ignore"):
            return np.where(self.logs, signs * np.exp(np.where(self.logs, u, 0.0)), u)

    def coordinates(self, raw: Floats) -> Floats:
        """Parameters (..., p) to fit coordinates; zero amplitudes become very small."""
        return np.where(self.logs, np.log(np.maximum(np.abs(raw), 1e-300)), raw)

    def values(self, x: Floats, raw: Floats) -> Floats:
        """(n,) the law at x (n, k) for one set of parameters."""
        signs = np.where(raw < 0, -1.0, 1.0)
        return self.evaluate(x, self.coordinates(raw)[None], signs)[0][0]


def _term(x: Floats, log_amplitude: Floats, exponent: Floats, sign: Floats) -> tuple[Floats, Floats, Floats]:
    """T = sign * e^l * x^-a with dT/dl and dT/da; x (n,) or (B, n), l and a (B,)."""
    log_x = np.log(x)
    term = sign * np.exp(np.minimum(log_amplitude[:, None] - exponent[:, None] * log_x, MAX_LOG))
    return term, term, -term * log_x


def _terms(x: Floats, u: Floats, signs: Floats) -> tuple[Floats, list[Floats]]:
    """The sum of the power terms at u = (_, l, a[, m, b]) and its derivatives by those."""
    total, grads = np.zeros((len(u), x.shape[-2])), []
    for column in range(x.shape[-1]):
        at = 1 + 2 * column
        term, by_log, by_exponent = _term(x[..., column], u[:, at], u[:, at + 1], signs[..., at, None])
        total = total + term
        grads += [by_log, by_exponent]
    return total, grads


def _additive(x: Floats, u: Floats, signs: Floats) -> tuple[Floats, Floats]:
    g, grads = _terms(x, u, signs)
    return u[:, :1] + g, np.stack([np.ones_like(g), *grads], axis=-1)


def _bounded(floor: float) -> Evaluate:
    """(E + floor g) / (1 + g), g a sum of powers: from E at g = 0 to ``floor`` (chance) at g = infinity."""

    def evaluate(x: Floats, u: Floats, signs: Floats) -> tuple[Floats, Floats]:
        g, grads = _terms(x, u, signs)
        limit = u[:, :1]
        share = 1 / (1 + g)
        by_g = (floor - limit) * share**2
        return floor + (limit - floor) * share, np.stack([share, *(by_g * grad for grad in grads)], axis=-1)

    return evaluate


def _broken(x: Floats, u: Floats, signs: Floats) -> tuple[Floats, Floats]:
    """E + A x^-a (1 + (x/x1)^(1/f1))^(-delta1 f1), Caballero et al. 2023 with one break."""
    limit, log_a, a, delta, log_x1, log_f = (u[:, i : i + 1] for i in range(6))
    log_x, f = np.log(x[..., 0]), np.exp(np.minimum(log_f, 50.0))
    s = (log_x - log_x1) / f
    soft, gate = np.logaddexp(0.0, s), 0.5 * (1 + np.tanh(s / 2))
    term = signs[..., 1, None] * np.exp(np.minimum(log_a - a * log_x - delta * f * soft, MAX_LOG))
    by = [
        np.ones_like(term),
        term,
        -term * log_x,
        -term * f * soft,
        term * delta * gate,
        term * f * delta * (s * gate - soft),
    ]
    return limit + term, np.stack(by, axis=-1)


def _sqrt_kl_power(x: Floats, u: Floats, signs: Floats) -> tuple[Floats, Floats]:
    d = np.maximum(x[..., 0], 1e-12)
    term, by_log, by_exponent = _term(d, u[:, 0], -u[:, 1], signs[..., 0, None])
    return term, np.stack([by_log, -by_exponent], axis=-1)


def _linear(columns: Callable[[Floats], Floats]) -> Evaluate:
    def evaluate(x: Floats, u: Floats, signs: Floats) -> tuple[Floats, Floats]:
        design = columns(x)
        value = u @ design.T if design.ndim == 2 else (design @ u[..., None])[..., 0]
        return value, np.broadcast_to(design, (len(u), *design.shape[-2:]))

    return evaluate


def _design_log(x: Floats) -> Floats:
    return np.concatenate([np.ones((*x.shape[:-1], 1)), np.log(x)], axis=-1)


def _design_bon(x: Floats) -> Floats:
    return np.stack([x[..., 0], -(x[..., 0] ** 2)], axis=-1)


def _design_rl(x: Floats) -> Floats:
    d = x[..., 0]
    return np.stack([d, -d * np.log(np.where(d > 0, d, 1.0))], axis=-1)


# ---------------------------------------------------------------- starting values


def solve_linear(design: Floats, y: Floats, w: Floats) -> Floats:
    """(S, k) weighted least-squares coefficients of (S, n, k) designs."""
    root = np.sqrt(w)
    coefficients = np.linalg.pinv(design * root[:, None], rcond=1e-12) @ (y * root)[:, None]
    return np.asarray(coefficients[..., 0])


def _linear_starts(columns: Callable[[Floats], Floats]) -> Starts:
    return lambda x, y, w: solve_linear(columns(x)[None], y, w)


def exponent_grid(n_x: int) -> Floats:
    """(S, n_x) log-spaced exponents from .02 to 3."""
    one = np.geomspace(0.02, 3.0, 40 if n_x == 1 else 12)
    return np.array(list(product(one, repeat=n_x)))


def _power_starts(factor: Callable[[Floats], Floats], low: float, high: float, positive: bool) -> Starts:
    """Starts of y = E + factor(y) * sum(A x^-a): linear in E and the A for given exponents."""

    def starts(x: Floats, y: Floats, w: Floats) -> Floats:
        middle = np.exp(np.log(x).mean(axis=0))
        grid = exponent_grid(x.shape[1])
        powers = (x / middle)[None] ** -grid[:, None, :]
        design = np.concatenate([np.ones((len(grid), len(x), 1)), powers * factor(y)[:, None]], axis=2)
        solved = solve_linear(design, y, w)
        limit = np.clip(solved[:, 0], low, high)
        amplitudes = solved[:, 1:]
        if positive:
            amplitudes = np.maximum(amplitudes, 1e-3 * np.abs(amplitudes) + 1e-6)
        raw = np.empty((len(grid), 1 + 2 * x.shape[1]))
        raw[:, 0], raw[:, 1::2], raw[:, 2::2] = limit, amplitudes * middle**grid, grid
        return raw

    return starts


def _broken_starts(x: Floats, y: Floats, w: Floats) -> Floats:
    places = np.quantile(np.log(x[:, 0]), (0.25, 0.5, 0.75))
    middle = float(np.log(x[:, 0]).mean())
    rows = np.array(list(product((0.05, 0.2, 0.6), (-0.4, 0.3, 1.0), np.exp(places), (0.2, 1.0))))
    a, delta, x1, f = rows.T
    soft = np.logaddexp(0.0, (np.log(x[:, 0])[None] - np.log(x1)[:, None]) / f[:, None])
    shape = np.exp(-a[:, None] * (np.log(x[:, 0])[None] - middle) - (delta * f)[:, None] * soft)
    solved = solve_linear(np.stack([np.ones_like(shape), shape], axis=2), y, w)
    return np.column_stack([solved[:, 0], solved[:, 1] * np.exp(a * middle), a, delta, x1, f])


def _sqrt_kl_power_starts(x: Floats, y: Floats, w: Floats) -> Floats:
    exponents = np.linspace(0.1, 4.0, 40)
    design = np.maximum(x[:, 0], 1e-12)[None] ** exponents[:, None]
    amplitude = (design * w * y).sum(axis=1) / np.maximum((design**2 * w).sum(axis=1), 1e-300)
    return np.column_stack([amplitude, exponents])


# ---------------------------------------------------------------- the registry

EXPONENT = (1e-3, 10.0)


def _powers(
    n_x: int, first: str, limits: tuple[float, float]
) -> tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]:
    names = (first, "A", "a", "B", "b")[: 1 + 2 * n_x]
    lower = (limits[0], *(-INF, EXPONENT[0]) * n_x)
    return names, lower, (limits[1], *(INF, EXPONENT[1]) * n_x)


def _make(name: str, n_x: int) -> Law:
    logs, levels = frozenset({"A", "B"}), (3,) if n_x == 1 else (2, 2)
    if name in ("power", "additive"):
        params, lower, upper = _powers(n_x, "E", (-INF, INF))
        formula = "E + A*x^-a" if n_x == 1 else "E + A*N^-a + B*D^-b"
        begin = _power_starts(np.ones_like, -INF, INF, positive=False)
        return Law(name, formula, params, _additive, begin, lower, upper, logs, params[:1] + params[1::2],
                   levels=levels, x_above=0.0, n_x=n_x)  # fmt: skip
    if name == "pm-loss":
        params, lower, upper = _powers(n_x, "E", (0.0, LN2))
        g = "A*x^-a" if n_x == 1 else "A*N^-a + B*D^-b"
        begin = _power_starts(lambda y: LN2 - y, 0.0, LN2 - 1e-4, positive=True)
        return Law(name, f"(E + ln(2)*g)/(1 + g), g = {g}", params, _bounded(LN2), begin, lower, upper, logs,
                   params[:1], levels=levels, x_above=0.0, y_range=(0.0, INF), n_x=n_x)  # fmt: skip
    if name == "pm-accuracy":
        params, lower, upper = _powers(n_x, "p_inf", (0.5, 1.0))
        g = "A*x^-a" if n_x == 1 else "A*N^-a + B*D^-b"
        begin = _power_starts(lambda y: 0.5 - y, 0.5 + 1e-4, 1.0, positive=True)
        return Law(name, f"1/2 + (p_inf - 1/2)/(1 + g), g = {g}", params, _bounded(0.5), begin, lower, upper, logs,
                   params[:1], levels=levels, x_above=0.0, y_range=(0.0, 1.0), n_x=n_x)  # fmt: skip
    if name == "log-linear":
        params = ("c0", "c1", "c2")[: n_x + 1]
        formula = "c0 + c1*ln(x)" if n_x == 1 else "c0 + c1*ln(N) + c2*ln(D)"
        return _linear_law(name, formula, params, _design_log, levels=(2,) * n_x, x_above=0.0, n_x=n_x)
    return FIXED[name]


def _linear_law(
    name: str, formula: str, params: tuple[str, ...], columns: Callable[[Floats], Floats],
    levels: tuple[int, ...], x_above: float | None, n_x: int = 1,
) -> Law:  # fmt: skip
    free = (INF,) * len(params)
    return Law(name, formula, params, _linear(columns), _linear_starts(columns), tuple(-v for v in free), free,
               projected=params, each_run=True, levels=levels, x_above=x_above, n_x=n_x)  # fmt: skip


FIXED: Mapping[str, Law] = {
    "broken": Law(
        "broken", "E + A*x^-a*(1 + (x/x1)^(1/f1))^(-delta1*f1)", ("E", "A", "a", "delta1", "x1", "f1"),
        _broken, _broken_starts, (-INF, -INF, -10.0, -10.0, 0.0, 0.01), (INF, INF, 10.0, 10.0, INF, 10.0),
        frozenset({"A", "x1", "f1"}), ("E", "A"), levels=(6,), x_above=0.0,
    ),
    "sqrt-kl-linear": _linear_law("sqrt-kl-linear", "c*d", ("c",), lambda x: x[..., :1], (1,), None),
    "bon": _linear_law("bon", "d*(alpha - beta*d)", ("alpha", "beta"), _design_bon, (2,), None),
    "rl": _linear_law("rl", "d*(alpha - beta*ln(d))", ("alpha", "beta"), _design_rl, (2,), None),
    # the frontier's exponent: KL^(k/2); k = 1 is linear in the square root
    "sqrt-kl-power": Law(
        "sqrt-kl-power", "A*d^k", ("A", "k"), _sqrt_kl_power, _sqrt_kl_power_starts, (-INF, 0.01), (INF, 20.0),
        frozenset({"A"}), ("A",), each_run=True, levels=(2,),
    ),
}  # fmt: skip
COLUMNS: Mapping[str, tuple[int, ...]] = {
    "power": (1,), "additive": (2,), "pm-loss": (1, 2), "pm-accuracy": (1, 2), "log-linear": (1, 2), "broken": (1,),
    "sqrt-kl-linear": (1,), "bon": (1,), "rl": (1,), "sqrt-kl-power": (1,),
}  # fmt: skip
SQRT_KL = ("sqrt-kl-linear", "bon", "rl", "sqrt-kl-power")  # x is d = sqrt(KL), which may be 0 but not negative


def law(name: str, n_x: int = 1) -> Law:
    """The law of that name for ``n_x`` columns; KeyError for an unknown name, ValueError for the number of columns."""
    if n_x not in COLUMNS[name]:
        wanted = " or ".join(map(str, COLUMNS[name]))
        raise ValueError(f"law {name!r} takes {wanted} x column{'s' if wanted != '1' else ''}, not {n_x}")
    return _make(name, n_x)
