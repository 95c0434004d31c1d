"""Fits against other people's libraries: statsmodels, lmfit, iminuit and scipy on the same points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.bootstrap import _inflate
from analysis.fits import FitResult, fit
from analysis.laws import Floats, law
from analysis.search import make_problem, solve

sm = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
SIZES = np.geomspace(1e4, 1e7, 7)


@pytest.fixture(scope="module")
def line() -> tuple[Floats, Floats, Floats]:
    """x, y and standard errors (21,) around a log-linear law, three seeds at each of seven sizes."""
    rng, x = np.random.default_rng(1), np.repeat(SIZES, 3)
    se = rng.uniform(0.005, 0.03, 21)
    return x, 0.5 + 0.02 * np.log(x) + se * rng.normal(size=21), se


@pytest.fixture(scope="module")
def power() -> tuple[Floats, Floats]:
    x = np.repeat(SIZES, 3)
    return x, 1.5 + 40 * x**-0.3 + np.random.default_rng(2).normal(0, 0.08, 21)


def column(result: FitResult, field: str) -> list[float]:
    return [getattr(p, field) for p in result.params.values()]


# ---------------------------------------------------------------- statsmodels


def test_weighted_lines_are_statsmodels_wls(line: tuple[Floats, Floats, Floats]) -> None:
    x, y, se = line
    ours, theirs = fit("log-linear", x, y, se=se), sm.WLS(y, sm.add_constant(np.log(x)), 1 / se**2).fit()
    assert column(ours, "value") == pytest.approx(theirs.params, rel=1e-9)
    assert column(ours, "se") == pytest.approx(theirs.bse, rel=1e-9)
    ends = np.array([column(ours, "low"), column(ours, "high")]).T
    np.testing.assert_allclose(ends, theirs.conf_int(), rtol=1e-9)


def test_information_criteria_are_statsmodels(line: tuple[Floats, Floats, Floats]) -> None:
    """Theirs have the likelihood's constant n (1 + ln 2 pi) and do not count sigma."""
    x, y, _ = line
    n, k = len(x), 3
    ours, theirs = fit("log-linear", x, y), sm.OLS(y, sm.add_constant(np.log(x))).fit()
    deviance = -2 * theirs.llf - n * (1 + math.log(2 * math.pi))
    assert ours.bic == pytest.approx(deviance + k * math.log(n), rel=1e-9)
    assert ours.bic == pytest.approx(theirs.bic - n * (1 + math.log(2 * math.pi)) + math.log(n), rel=1e-9)
    assert ours.aicc == pytest.approx(deviance + 2 * k + 2 * k * (k + 1) / (n - k - 1), rel=1e-9)


def test_criteria_of_a_log_fit_are_on_the_scale_of_y(line: tuple[Floats, Floats, Floats]) -> None:
    """The density of y is that of ln y times 1 / y: minus twice its logarithm adds 2 sum(ln y)."""
    x, y, _ = line
    ours = fit("log-linear", x, y, space="log")
    sse = float((np.log(y / ours.predict(x)) ** 2).sum())
    assert ours.bic == pytest.approx(21 * math.log(sse / 21) + 2 * np.log(y).sum() + 3 * math.log(21), rel=1e-9)


def test_clusters_are_statsmodels_sandwich(line: tuple[Floats, Floats, Floats]) -> None:
    x, y, _ = line
    ours = fit("log-linear", x, y, cluster=x, ci="wald")
    groups = np.repeat(np.arange(7), 3)
    theirs = sm.OLS(y, sm.add_constant(np.log(x))).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert ours.n_clusters == 7 and column(ours, "se") == pytest.approx(theirs.bse, rel=1e-8)
    np.testing.assert_allclose(np.array([column(ours, "low"), column(ours, "high")]).T, theirs.conf_int(), rtol=1e-7)


def test_wild_draws_spread_as_hc3(line: tuple[Floats, Floats, Floats]) -> None:
    """Residuals divided by one minus their leverage, with signs of variance one, have HC3's covariance by
    construction; 4,000 draws know a standard error to 1.1 %, so 5 % is over four Monte Carlo errors."""
    x, y, _ = line
    ours = fit("log-linear", x, y, ci="bootstrap", draws=4000)
    theirs = sm.OLS(y, sm.add_constant(np.log(x))).fit(cov_type="HC3")
    assert column(ours, "se") == pytest.approx(theirs.bse, rel=0.05)


def test_leverages_of_clusters_are_the_matrix_inverse(power: tuple[Floats, Floats]) -> None:
    """By definition: (I - H_gg)^-1 times a cluster's residuals, H the hat matrix of all points."""
    x, y = power
    best = solve(make_problem(law("power"), x[:, None], y, None, "linear"), "ls").best
    hat = best.jac @ np.linalg.pinv(best.jac)
    for cluster in (np.arange(21), np.repeat(np.arange(7), 3), np.tile(np.arange(3), 7), np.repeat([0, 1], [12, 9])):
        found = _inflate(best, cluster)
        for g in np.unique(cluster):
            own = np.flatnonzero(cluster == g)
            wanted = np.linalg.solve(np.eye(len(own)) - hat[np.ix_(own, own)], best.residual[own])
            # two clusters nearly decide the law each: the matrix of 12 points has a condition of about 1e6
            np.testing.assert_allclose(found[own], wanted, rtol=1e-6, atol=1e-8)


def test_bands_are_statsmodels_predictions(line: tuple[Floats, Floats, Floats]) -> None:
    x, y, _ = line
    ours, places = fit("log-linear", x, y), np.array([1e3, 1e5, 1e9])
    model = sm.OLS(y, sm.add_constant(np.log(x))).fit()
    theirs = model.get_prediction(sm.add_constant(np.log(places))).summary_frame(alpha=0.05)
    np.testing.assert_allclose(ours.band(places), theirs[["mean_ci_lower", "mean_ci_upper"]].T, rtol=1e-9)
    np.testing.assert_allclose(ours.band(places, kind="new_run"), theirs[["obs_ci_lower", "obs_ci_upper"]].T, rtol=1e-9)
    assert [row.decades for row in ours.forecast(places)] == pytest.approx([1, 0, 2])


# ---------------------------------------------------------------- profiles


def test_profiles_are_lmfits(power: tuple[Floats, Floats]) -> None:
    """lmfit's F test with one degree of freedom is the t interval; its ends are located to 1e-3 of their width."""
    lmfit = pytest.importorskip("lmfit", reason="lmfit is not installed")
    x, y = power
    model = lmfit.Model(lambda x, E, logA, a: E + np.exp(logA) * x**-a)
    theirs = model.fit(y, x=x, E=1.4, logA=3.0, a=0.25)
    ends = theirs.conf_interval(sigmas=[0.95])
    ours = fit("power", x, y)
    for name, key, back in (("E", "E", float), ("A", "logA", math.exp), ("a", "a", float)):
        p = ours.params[name]
        low, value, high = (back(pair[1]) for pair in ends[key])
        assert p.low is not None and p.high is not None
        assert p.value == pytest.approx(value, rel=1e-4)
        assert (p.low, p.high) == pytest.approx((low, high), abs=3e-3 * (high - low)), name
    # an amplitude is fitted as its logarithm: its standard error is that of ln A times A
    errors = [
        theirs.params["E"].stderr,
        theirs.params["logA"].stderr * ours.params["A"].value,
        theirs.params["a"].stderr,
    ]
    assert column(ours, "se") == pytest.approx(errors, rel=1e-3)


def minos(points: Floats, values: Floats, start: Floats) -> Floats:
    """(p, 2) ends of E, ln A, a[, ln B, b] by MINOS with the objective SSE / s^2 and an up value of t^2."""
    iminuit = pytest.importorskip("iminuit", reason="iminuit is not installed")

    def sse(v: Floats) -> float:
        terms = (np.exp(v[1 + 2 * i]) * points[:, i] ** -v[2 + 2 * i] for i in range(points.shape[1]))
        return float(((values - v[0] - sum(terms, np.zeros(len(points)))) ** 2).sum())

    df = len(values) - len(start)
    variance = sse(start) / df
    search = iminuit.Minuit(lambda v: sse(v) / variance, start)
    search.errordef, search.strategy, search.tol = stats.t.ppf(0.975, df) ** 2, 2, 1e-4
    search.migrad()
    search.minos()
    assert all(found.is_valid for found in search.merrors.values())
    return np.array(
        [[search.values[m.name] + m.lower, search.values[m.name] + m.upper] for m in search.merrors.values()]
    )


@pytest.mark.parametrize("name", ["power", "additive"])
def test_profiles_are_minos(power: tuple[Floats, Floats], name: str) -> None:
    """The same ends for three and for five parameters; ours are located to 1e-3 of their width."""
    x, y = power[0][:, None], power[1]
    if name == "additive":
        x = np.array([(n, d) for n in SIZES for d in (500.0, 2000.0, 8000.0, 32000.0)])
        y = 1.7 + 480 * x[:, 0] ** -0.35 + 2000 * x[:, 1] ** -0.5 + np.random.default_rng(3).normal(0, 0.1, len(x))
    ours = fit(name, x, y)
    logs = np.array([key in ("A", "B") for key in ours.params])
    values = np.array(column(ours, "value"))
    theirs = minos(x, y, np.where(logs, np.log(values), values))
    theirs[logs] = np.exp(theirs[logs])
    width = theirs[:, 1] - theirs[:, 0]
    found = np.array([column(ours, "low"), column(ours, "high")]).T
    assert (np.abs(found - theirs) < 5e-3 * width[:, None]).all(), (found, theirs)


# ---------------------------------------------------------------- robust losses and cases


@pytest.mark.parametrize("loss, delta", [("huber", None), ("hoffmann", 1e-3)])
def test_robust_lines_are_the_convex_minimum(
    line: tuple[Floats, Floats, Floats], loss: str, delta: float | None
) -> None:
    """Of a line in linear space Huber's objective is convex: any other minimiser must find the same one. In log
    space (the preset) it is convex near the points, whose residuals are small."""
    x, y, _ = line
    result = fit("log-linear", x, y, loss=loss, draws=20)  # type: ignore[arg-type]
    log = loss == "hoffmann"

    def residuals(v: Floats) -> Floats:
        value = v[0] + v[1] * (np.log(x) - 11)
        return np.log(value / y) if log else value - y

    if delta is None:
        plain = fit("log-linear", x, y).predict(x) - y
        delta = 1.345 * float(np.median(np.abs(plain - np.median(plain)))) / 0.6745

    def objective(v: Floats) -> float:
        size = np.abs(residuals(v))
        return float(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum()) * 1e4

    other = optimize.minimize(objective, [0.7, 0.03], method="Nelder-Mead",
                              options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 5000})  # fmt: skip
    c0, c1 = column(result, "value")
    assert objective(np.array([c0 + 11 * c1, c1])) <= other.fun * (1 + 1e-7)
    assert (c0 + 11 * c1, c1) == pytest.approx(other.x, rel=1e-3)


def test_cases_are_scipys_percentiles(line: tuple[Floats, Floats, Floats]) -> None:
    """Ours are widened by t / z (here t with n - 1) about the estimate. Two sets of 3,000 draws differ in an end by
    about 3 % of a half-width; 10 % is three times that."""
    x, y, _ = line
    ours = fit("log-linear", x, y, ci="cases", draws=3000).params["c1"]
    slope = lambda a, b, axis=-1: stats.linregress(a, b).slope  # noqa: E731
    drawn = stats.bootstrap((np.log(x), y), slope, paired=True, vectorized=False, n_resamples=3000, method="percentile",
                            rng=np.random.default_rng(4)).confidence_interval  # fmt: skip
    assert ours.value is not None
    stretch = stats.t.ppf(0.975, 20) / stats.norm.ppf(0.975)
    wanted = [ours.value + stretch * (end - ours.value) for end in drawn]
    assert (ours.low, ours.high) == pytest.approx(wanted, abs=0.1 * (wanted[1] - wanted[0]) / 2)
