"""Fit a law to points: starts on a grid of exponents, a batched solver, intervals, and an honest status."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from analysis import bootstrap, intervals
from analysis.bootstrap import Redraw
from analysis.estimates import Codes
from analysis.fit_result import FitResult, Loss, Note, Param, Starts, Status
from analysis.intervals import Optimum, Uncertainty
from analysis.laws import COLUMNS, Floats, Law, law
from analysis.points import (
    FitError,
    cautions,
    check_points,
    check_shapes,
    lack_of_fit,
    missing_information,
    what_would_do,
)
from analysis.search import Found, make_problem, solve, solve_each
from analysis.solver import Problem, Space, slope_of, transform

Interval = Literal["profile", "wald", "bootstrap", "cases"]
MAX_CONDITION = 1e7
MAX_LOG_WIDTH = 60.0
LOST = 1e-12  # of y: a term as small as that is rounding
ROBUST_DRAWS = 500  # each takes many iterations
LOSSES: tuple[str, ...] = get_args(Loss)
SPACES: tuple[str, ...] = get_args(Space)
INTERVALS: tuple[str, ...] = get_args(Interval)


# ---------------------------------------------------------------- fitting


def fit(
    name: str, x: ArrayLike, y: ArrayLike, *, se: ArrayLike | None = None, cluster: ArrayLike | None = None,
    loss: Loss = "ls", space: Space = "linear", ci: Interval | None = None, group: str = "all",
    x_names: Sequence[str] | None = None, y_name: str = "y", draws: int = 2000, seed: int = 0,
    noise: ArrayLike | None = None, df: float | None = None, repeats: bool = False,
) -> FitResult:  # fmt: skip
    """The law of that name fitted to x (n,) or (n, k) and y (n,), weighted by 1 / se^2 (relative: s^2 is estimated).

    ``ci`` defaults to profile-t; with ``cluster`` to one fit per run with t(G - 1) where the law is linear and every
    run can be fitted, else to the wild-cluster bootstrap (which is also what "bootstrap" gives); "wald" with
    ``cluster`` is the cluster-robust sandwich, and "profile" is refused. Robust losses are bootstrapped by cases.
    ``noise`` (draws, n) holds errors that points share (items redrawn), added in a bootstrap in linear space; ``df``
    replaces the bootstrap's degrees of freedom; with ``repeats`` it is meant that a run has several rows at one x.
    Raises FitError for unusable points; too few of them is a status, not an error.
    """
    if cluster is not None and ci == "profile":
        raise FitError("--ci profile assumes independent points; with --cluster use bootstrap or wald")
    if loss != "ls" and ci in ("profile", "wald"):
        raise FitError(f"--ci {ci} needs --loss ls; {loss} is bootstrapped")
    space, shared = "log" if loss == "hoffmann" else space, None if noise is None else np.asarray(noise, dtype=float)
    if shared is not None and (ci != "bootstrap" or space != "linear" or loss != "ls"):
        raise FitError("noise needs the bootstrap of a least-squares fit in linear space")
    how = Redraw(draws if shared is None else len(shared), seed, shared, df)
    blank, problem, group_codes = _prepared(name, x, y, se, cluster, loss, space, group, x_names, y_name, repeats)
    return blank if problem is None else _result(blank, solve(problem, loss), group_codes, ci, how)


def fit_each(
    name: str, points: Sequence[tuple[ArrayLike, ArrayLike]], *, x_names: Sequence[str] | None = None, y_name: str = "y"
) -> list[FitResult]:
    """``fit`` with ``ci="wald"`` of each of many small sets of points (x, y), as many points at once in one batch."""
    ready = [_prepared(name, x, y, None, None, "ls", "linear", "all", x_names, y_name, False) for x, y in points]
    results, alike = [blank for blank, _, _ in ready], defaultdict[int, list[int]](list)
    problems = {i: problem for i, (_, problem, _) in enumerate(ready) if problem is not None}
    for i, problem in problems.items():
        alike[len(problem.y)].append(i)
    for members in alike.values():
        for i, found in zip(members, solve_each([problems[i] for i in members]), strict=True):
            results[i] = _result(results[i], found, None, "wald", Redraw(0, 0))
    return results


def _prepared(
    name: str, x: ArrayLike, y: ArrayLike, se: ArrayLike | None, cluster: ArrayLike | None, loss: Loss, space: Space,
    group: str, x_names: Sequence[str] | None, y_name: str, repeats: bool,
) -> tuple[FitResult, Problem | None, Codes | None]:  # fmt: skip
    """A result without values, the problem to solve for them (None where the points are too few, which is noted), and
    the points' clusters."""
    columns, target, errors, group_codes = check_shapes(x, y, se, cluster)
    names = tuple(x_names or (["x"] if columns.shape[1] == 1 else ["N", "D"]))
    of = checked_law(name, columns.shape[1])
    check_points(of, columns, target, errors, space, names, y_name)
    blank = FitResult(
        name, of.formula, group, names, y_name, {p: Param(None, None, None, None) for p in of.params}, "none",
        len(target), None if group_codes is None else int(group_codes.max()) + 1, None, "not_identified", (), None,
        loss, space, tuple((float(c.min()), float(c.max())) for c in columns.T),
    )  # fmt: skip
    if notes := missing_information(of, columns, len(target), names):
        return replace(blank, notes=tuple(notes)), None, group_codes
    blank = replace(blank, notes=tuple(cautions(of, columns, target, group_codes, names, repeats)))
    return blank, make_problem(of, columns, target, errors, space), group_codes


def checked_law(name: str, n_x: int) -> Law:
    """The law, or FitError with the nearest name."""
    try:
        return law(name, n_x)
    except KeyError as error:
        raise FitError(f"no law {name!r}; laws are {', '.join(COLUMNS)}") from error
    except ValueError as error:
        raise FitError(str(error)) from error


# ---------------------------------------------------------------- from an optimum to a result


def _result(blank: FitResult, found: Found, cluster: Codes | None, ci: Interval | None, how: Redraw) -> FitResult:
    """Parameters with intervals, status and notes."""
    best, of, notes = found.best, found.best.problem.law, [*blank.notes]
    own = None
    if cluster is not None and ci is None and blank.loss == "ls":
        own = intervals.per_run(best, cluster)
    if _condition(best) > MAX_CONDITION:  # no interval means anything
        uncertain = intervals.unknown(len(best.u))
    elif own is not None:
        u, uncertain = own
        best = replace(best, u=u, residual=_residuals(best.problem, u))
    else:
        uncertain = uncertainty(best, cluster, ci, blank.loss, how)
    notes += _remarks(blank, best, cluster, uncertain)
    params = {name: _param(best, uncertain, i) for i, name in enumerate(of.params)}
    status = _status(best, found.converged, uncertain, notes, blank.x)
    df = float((blank.n_clusters or 0) - 1) if cluster is not None else float(best.df)
    df = df if how.df is None else how.df
    aicc, bic = criteria(best, blank.n_points, blank.n_clusters)
    return replace(
        blank, params=params, ci_method=uncertain.method, aicc=aicc, bic=bic, status=status, notes=tuple(notes),
        r2=r_squared(best), residual_sd=math.sqrt(best.variance) if best.df > 0 else None, df=df if df > 0 else None,
        within_sd=uncertain.within_sd, starts=Starts(found.n_starts, found.n_followed, found.n_at_best),
        covariance=tuple(tuple(_known(v) for v in row) for row in uncertain.covariance),
    )  # fmt: skip


def _remarks(blank: FitResult, best: Optimum, cluster: Codes | None, uncertain: Uncertainty) -> list[Note]:
    """What a reader must know of the points and the draws behind the intervals."""
    notes = []
    if best.df == 0:
        notes.append(Note("no_degrees_of_freedom", "as many points as parameters: one more gives intervals"))
    if cluster is not None and blank.n_clusters == 1:
        more = "a second gives one, a third makes it less than a third as wide"
        notes.append(Note("one_cluster", f"one run: no interval beyond this run; {more}"))
    if cluster is None and blank.loss == "ls":
        unfit = lack_of_fit(best.residual, best.problem.w, best.problem.x, len(best.u))
        notes += [unfit] if unfit else []
    if uncertain.failed > 0.02:
        notes.append(Note("failed_draws", f"{uncertain.failed:.0%} of the bootstrap draws did not converge"))
    return notes


def _residuals(problem: Problem, u: Floats) -> Floats:
    return np.asarray(np.sqrt(problem.w) * (problem.model(u[None])[0][0] - transform(problem.y, problem.space)))


def uncertainty(best: Optimum, cluster: Codes | None, ci: Interval | None, loss: Loss, how: Redraw) -> Uncertainty:
    """Intervals by the method that ``ci``, ``cluster`` and ``loss`` ask for."""
    each = np.arange(len(best.residual)) if cluster is None else cluster
    if loss != "ls":
        return bootstrap.cases(best, each, min(how.draws, ROBUST_DRAWS), how.seed)
    if ci == "cases":
        return bootstrap.cases(best, each, how.draws, how.seed)
    if ci == "bootstrap" or (cluster is not None and ci is None):
        return bootstrap.wild(best, each, cluster is not None, how)
    if ci == "wald":
        return intervals.wald(best) if cluster is None else intervals.cluster_robust(best, cluster)
    return intervals.profile(best)


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _param(best: Optimum, uncertain: Uncertainty, i: int) -> Param:
    of, signs = best.problem.law, best.problem.signs
    value, low, high = (float(of.raw(ends, signs)[i]) for ends in (best.u, uncertain.low, uncertain.high))
    se = float(uncertain.se[i]) * (abs(value) if of.logs[i] else 1.0)
    if low > high:  # a negative amplitude: the logarithm's order is reversed
        low, high = high, low
    return Param(_known(value), _known(se), _known(low), _known(high))


def _status(best: Optimum, converged: bool, uncertain: Uncertainty, notes: list[Note], names: Sequence[str]) -> Status:
    of, more = best.problem.law, what_would_do(best.problem.law, best.problem.x, names)
    if (condition := _condition(best)) > MAX_CONDITION:
        message = f"the points cannot tell the parameters apart (condition {condition:.1e}); {more}"
        notes.append(Note("ill_conditioned", message))
        return "not_identified"
    lower, upper = best.problem.lower, best.problem.upper
    low, high = uncertain.low, uncertain.high
    open_ends = ((low == -math.inf) | (low <= lower)) & ((high == math.inf) | (high >= upper))
    open_ends |= of.logs & ~(high - low < MAX_LOG_WIDTH) & ~np.isnan(low)  # an amplitude unknown by many decades
    loose = [name for name, is_open in zip(of.params, open_ends, strict=True) if is_open]
    if loose:
        notes.append(Note("open_interval", f"any value of {', '.join(loose)} fits; {more}"))
        return "not_identified"
    if not converged:
        notes.append(Note("not_converged", "the search stopped before the objective was flat"))
        return "not_converged"
    at = [name for name, inside in zip(of.params, best.inside, strict=True) if not inside]
    if at:
        notes.append(Note("at_bound", f"{', '.join(at)} at the edge of what is allowed; its standard error is unknown"))
        return "at_bound"
    return "ok"


def _condition(best: Optimum) -> float:
    """How badly the points tell the free parameters apart; infinite where an amplitude's term is lost in rounding."""
    inside = best.inside
    jac, logs = best.jac[:, inside], best.problem.law.logs[inside]
    scale = np.linalg.norm(jac, axis=0)
    if not len(scale):
        return 1.0
    size = float(np.linalg.norm(np.sqrt(best.problem.w) * transform(best.problem.y, best.problem.space)))
    if (scale == 0).any() or (scale[logs] <= LOST * size).any():
        return math.inf
    return float(np.linalg.cond(jac / scale))


def r_squared(best: Optimum) -> float | None:
    """1 - SSE / SST about the weighted mean, on the scale of the residuals; None where y does not vary."""
    goal, w = transform(best.problem.y, best.problem.space), best.problem.w
    spread = float((w * (goal - np.average(goal, weights=w)) ** 2).sum())
    return _known(1 - float((best.residual**2).sum()) / spread) if spread > 0 else None


def criteria(best: Optimum, n_points: int, n_clusters: int | None) -> tuple[float | None, float | None]:
    """AICc and BIC: n ln(SSE/n) + 2k + 2k(k+1)/(n-k-1) and n ln(SSE/n) + k ln n, k counting sigma, on the scale of y
    whatever the space.

    n is the number of clusters where there are any: points of one run are not new evidence. None where undefined:
    robust losses, an exact fit, too few clusters.
    """
    n, k = n_clusters or n_points, len(best.u) + 1
    sse = float((best.residual**2).sum())
    if best.problem.delta is not None or n <= k or not 0 < sse < math.inf:
        return None, None
    jacobian = float(np.log(slope_of(best.problem.y, best.problem.space)).mean())
    deviance = n * (math.log(sse / n_points) - 2 * jacobian)
    aicc = deviance + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else None
    return aicc, deviance + k * math.log(n)
