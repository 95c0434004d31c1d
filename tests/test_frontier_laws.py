"""Score against sqrt(KL): which law fits, what it predicts, whether sizes are alike, where it peaks, and a bound."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.fit_result import FitResult
from analysis.fits import fit
from analysis.frames import Model, Study, load_study
from analysis.frontier import Curve, load_curves
from analysis.frontier_fits import frontier_fits
from analysis.frontier_laws import SHAPES, Points, aicc_of, beyond, effective_number, fit_shape, law_rows, size_rows
from analysis.frontier_slopes import RunSlope, anova, bound_rows, slope_rows, trend
from analysis.frontier_slopes import compared as compared_slopes
from analysis.held_out import pm_scores
from analysis.peaks import peak, peak_rows
from tests.fake_runs import Shape, Truth, make_runs

SIZE = Model("12k", 12_000, 20_000)
LAWS = {
    "sqrt-kl-linear": lambda d: 0.8 * d,
    "sqrt-kl-power": lambda d: 0.8 * d**0.6,
    "bon": lambda d: d * (1.0 - 0.25 * d),
    "rl": lambda d: d * (0.8 - 0.5 * np.log(d)),
}


def points(rng: np.random.Generator, law: str, sd: float = 0.02, runs: int = 3, rho: float = 0.0) -> Points:
    """Runs of 24 evaluations up to sqrt(KL) 3, heights that differ by a tenth, AR(1) residuals of that sd."""
    x = np.tile(np.linspace(0.125, 3.0, 24), runs)
    noise = rng.normal(size=(runs, 24))
    for i in range(1, 24):
        noise[:, i] = rho * noise[:, i - 1] + math.sqrt(1 - rho**2) * noise[:, i]
    heights = np.repeat(1 + 0.1 * rng.normal(size=runs), 24)
    return Points(SIZE, x, heights * LAWS[law](x) + sd * noise.ravel(), np.repeat(np.arange(runs), 24))


@pytest.mark.parametrize("law", list(LAWS))
def test_the_true_law_is_found_by_aicc_and_predicts_best(law: str) -> None:
    own = points(np.random.default_rng(0), law)
    rows = {row["law"]: row for row in size_rows(own, "score_train")}
    assert rows[law]["delta_aicc"] < 2  # a law that holds the true one may come out a little lower by chance
    assert sum(row["weight"] for row in rows.values()) == pytest.approx(1)
    assert rows[law]["held_out_rmse"] < 0.12 and rows[law]["n_held_out"] == 24
    if law != "sqrt-kl-linear":
        assert rows["sqrt-kl-linear"]["delta_aicc"] > 10


@pytest.mark.parametrize("law", list(LAWS))
def test_a_shape_is_the_least_squares_one(law: str) -> None:
    """scipy over all parameters at once, every run's height among them; the grid's step costs less than 1 in 1,000."""
    own = points(np.random.default_rng(1), law, sd=0.1)
    found = fit_shape(law, own)
    sse = float(((own.y - found.at(own.x, own.run)) ** 2).sum())
    shape, scale = SHAPES[law][0], own.x.max()

    def residual(p: Any) -> Any:
        return own.y - shape(own.x / scale, p[:1])[0] * p[1:][own.run]

    start = np.r_[found.theta, list(found.heights.values())] * 1.05
    least = optimize.least_squares(residual, start).cost * 2
    assert least * (1 - 1e-9) <= sse <= 1.001 * least
    assert found.n_parameters == (3 if law == "sqrt-kl-linear" else 4)


def test_aicc_is_its_formula() -> None:
    """n ln(SSE/n) + 2k + 2k(k+1)/(n-k-1), here against the Gaussian likelihood up to the constant n (1 + ln 2 pi)."""
    rng = np.random.default_rng(2)
    y = rng.normal(size=30)
    sse = float(y @ y)
    log_likelihood = stats.norm.logpdf(y, 0, math.sqrt(sse / 30)).sum()
    k = 3
    wanted = -2 * log_likelihood + 2 * k + 2 * k * (k + 1) / (30 - k - 1) - 30 * (1 + math.log(2 * math.pi))
    assert aicc_of(sse, 30, 30, 2) == pytest.approx(wanted)
    assert aicc_of(sse, 30, 4.0, 2) is None


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_effective_number_is_that_of_ar1(rho: float) -> None:
    """Long series: K (1 - rho) / (1 + rho), within 15 % over 200 draws of five runs of 200."""
    rng, found = np.random.default_rng(3), []
    for _ in range(200):
        noise = rng.normal(size=(5, 200))
        for i in range(1, 200):
            noise[:, i] = rho * noise[:, i - 1] + math.sqrt(1 - rho**2) * noise[:, i]
        found.append(effective_number(noise.ravel(), np.repeat(np.arange(5), 200)))
    assert np.mean(found) == pytest.approx(1000 * (1 - rho) / (1 + rho), rel=0.15)
    assert effective_number(np.array([0.1, 0.1, 0.1, 0.2]), np.array([0, 0, 1, 1])) >= 2


def test_correlated_noise_is_seldom_called_a_bend() -> None:
    """A true line with AR(1) residuals (.9): counting all 72 points calls it bent in most of 100 draws."""
    rng, honest, naive = np.random.default_rng(4), 0, 0
    for _ in range(100):
        own = points(rng, "sqrt-kl-linear", sd=0.15, rho=0.9)
        rows = {row["law"]: row for row in size_rows(own, "s")}
        line = rows["sqrt-kl-linear"]["delta_aicc"]
        honest += line is not None and line > 2
        sse = [
            float(((own.y - fit_shape(law, own).at(own.x, own.run)) ** 2).sum()) for law in ("sqrt-kl-linear", "bon")
        ]
        naive += aicc_of(sse[0], 72, 72, 3) - aicc_of(sse[1], 72, 72, 4) > 2  # type: ignore[operator]
    assert honest <= 15 and naive >= 40


def test_a_law_that_loses_to_the_last_value_says_so() -> None:
    rng = np.random.default_rng(5)
    x = np.tile(np.linspace(0.1, 3.0, 24), 2)
    level = np.minimum(x, 1.0) + 0.01 * rng.normal(size=48)  # rises, then stays
    found = beyond(Points(SIZE, x, level, np.repeat([0, 1], 24)))
    assert found["sqrt-kl-linear"]["beats_last_value"] is False
    assert found["sqrt-kl-linear"]["last_value_rmse"] < 0.05
    few = Points(SIZE, x[:4], level[:4], np.zeros(4, dtype=np.intp))
    assert beyond(few)["bon"] == {
        "held_out_rmse": None,
        "last_value_rmse": None,
        "beats_last_value": None,
        "n_held_out": 0,
    }


# ---------------------------------------------------------------- sizes


def test_equal_slopes_are_tested_as_scipy_does() -> None:
    rng = np.random.default_rng(6)
    values = [rng.normal(m, 0.1, n) for m, n in ((1.0, 3), (1.2, 2), (1.1, 4))]
    wanted = stats.f_oneway(*values)
    found = anova(values)
    assert (found["f"], found["p_equal"]) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert (found["df1"], found["df2"]) == (2, 6)
    assert anova([v[:1] for v in values])["p_equal"] is None
    n = np.repeat([1e4, 1e5, 1e6], [3, 2, 4])
    line, slopes = trend(n, np.concatenate(values)), np.concatenate(values)
    least = stats.linregress(np.log(n), slopes)
    assert (line.value, line.se, line.df) == pytest.approx((least.slope, least.stderr, 7))


def test_seeds_of_one_base_are_one_observation_where_sizes_have_several() -> None:
    runs = [RunSlope(m, n, f"{m}-{b}", v + 0.1 * k) for m, n in (("a", 10_000), ("b", 99_000))
            for b in "xyz" for k, v in enumerate((1.0, 1.2))]  # fmt: skip
    row = compared_slopes(runs)
    assert row["df2"] == 4 and [s["n"] for s in row["slopes"]] == [3, 3]
    assert row["common"]["value"] == pytest.approx(1.15) and row["span_ln_params"] == pytest.approx(math.log(9.9))
    once = [RunSlope(m, n, m, 1.0) for m, n in (("a", 10_000), ("b", 99_000), ("c", 10**6))]
    lone = compared_slopes(once)
    assert lone["p_equal"] is None and "cannot be tested" in lone["note"] and lone["common"]["se"] is None


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    shape = Shape(comparisons=(500,), held_out=200, at=(), steps=tuple(range(0, 52, 3)))
    return load_study(
        make_runs(tmp_path_factory.mktemp("laws"), sizes=(12_000, 60_000, 300_000), seeds=(0, 1, 2), shape=shape)
    )


@pytest.fixture(scope="module")
def curves(study: Study) -> list[Curve]:
    return load_curves(study)


def test_the_frontier_of_the_fakes(study: Study, curves: list[Curve]) -> None:
    """Truth: gold d (1 - .3 d) at every size; train slopes grow by .1 per ln N, KL's exponent is 1/2."""
    rows = {(row["model"], row["score"], row["law"]): row for row in law_rows(curves)}
    assert rows["all", "score_gold", "sqrt-kl-linear"]["delta_aicc"] > 10
    assert rows["all", "score_gold", "bon"]["delta_aicc"] < rows["all", "score_gold", "sqrt-kl-power"]["delta_aicc"]
    assert rows["all", "score_train", "sqrt-kl-linear"]["delta_aicc"] < 4
    slopes = {row["score"]: row for row in slope_rows(study, curves, pm_scores(study))}
    gold = slopes["score_gold"]
    assert gold["p_equal"] > 0.001 and gold["unit"] == "gold"
    assert slopes["score_train"]["holds_half"] is True
    assert slopes["score_train"]["kl_exponent"]["value"] == pytest.approx(0.5, abs=0.03)


def test_gold_scores_of_several_models_have_no_common_slope(study: Study, curves: list[Curve]) -> None:
    judged = [
        replace(c, record=replace(c.record, summary=c.record.summary | {"gold_source": c.model.name})) for c in curves
    ]
    assert "score_gold" not in {row["score"] for row in slope_rows(study, judged, pm_scores(study))}


# ---------------------------------------------------------------- peaks


def two_runs(law: str, alpha: float, beta: float, sd: float = 0.01, seed: int = 0, runs: int = 5) -> FitResult:
    rng = np.random.default_rng(seed)
    x = np.tile(np.linspace(0.1, 3.0, 30), runs)
    run = np.repeat(np.arange(runs), 30)
    own = [(alpha + sd * rng.normal(), beta + sd * rng.normal()) for _ in range(runs)]
    a, b = (np.repeat([pair[i] for pair in own], 30) for i in (0, 1))
    return fit(law, x, x * (a - b * (x if law == "bon" else np.log(x))), cluster=run, x_names=("sqrt_kl",))


@pytest.mark.parametrize("law, alpha, beta, place, top", [
    ("bon", 1.0, 0.25, 2.0, 1.0), ("rl", 0.8, 0.6, math.exp(1 / 3), 0.6 * math.exp(1 / 3)),
])  # fmt: skip
def test_a_peak_inside_the_range(law: str, alpha: float, beta: float, place: float, top: float) -> None:
    found = peak(two_runs(law, alpha, beta), 3.0)
    assert found["verdict"] == "in range" and found["kind"] == "interval"
    assert found["sqrt_kl_peak"]["low"] < place < found["sqrt_kl_peak"]["high"]
    assert found["sqrt_kl_peak"]["value"] == pytest.approx(place, rel=0.1)
    assert found["reward_peak"]["low"] < top < found["reward_peak"]["high"]


def test_a_peak_beyond_the_range_none_and_unknown() -> None:
    far = peak(two_runs("bon", 1.0, 0.1, sd=0.001), 3.0)
    assert far["verdict"] == "beyond the range" and far["sqrt_kl_peak"]["low"] > 3
    assert peak(two_runs("bon", 1.0, -0.2), 3.0)["verdict"] == "no peak"
    unclear = peak(two_runs("bon", 0.05, 0.02, sd=0.2, seed=1), 3.0)
    assert unclear["verdict"] == "not identified" and unclear["kind"] != "interval"
    assert peak(two_runs("bon", 1.0, 0.2, runs=1), 3.0)["sqrt_kl_peak"] is None  # one run: no interval at all


@pytest.mark.parametrize("law, truth", [("bon", 2.0), ("rl", math.exp(1 / 3))])
def test_peaks_cover(law: str, truth: float) -> None:
    """300 draws of four runs: 95 % less three Monte Carlo errors of 1.3. A ray or no set is a set that holds it."""
    alpha, beta = (1.0, 0.25) if law == "bon" else (0.8, 0.6)
    inside = 0
    for seed in range(300):
        found = peak(two_runs(law, alpha, beta, sd=0.1, seed=seed, runs=4), 3.0)["sqrt_kl_peak"]
        low, high = (None, None) if found is None else (found["low"], found["high"])
        inside += (low is None or low <= truth) and (high is None or truth <= high)
    assert inside / 300 >= 0.91


def test_peaks_of_the_fakes(curves: list[Curve]) -> None:
    rows = {(r["model"], r["score"], r["law"]): r for r in peak_rows(frontier_fits(curves), curves)}
    truth = Truth.gold_alpha / (2 * Truth.gold_beta)
    for model in ("12k", "60k", "300k"):
        gold = rows[model, "score_gold", "bon"]
        assert gold["verdict"] == "in range" and gold["sqrt_kl_peak"]["value"] == pytest.approx(truth, rel=0.05)
        assert rows[model, "score_train", "bon"]["verdict"] != "in range"


def test_one_run_has_a_peak_with_an_interval_over_prompts(curves: list[Curve]) -> None:
    fits = {(f.law, f.y): f for f in frontier_fits(curves[:1]) if f.group == "12k"}
    found = peak(fits["bon", "score_gold"], 3.0)
    assert fits["bon", "score_gold"].ci_method == "prompt-bootstrap" and found["verdict"] == "in range"
    assert fits["rl", "score_gold"].params["beta"].low is not None


# ---------------------------------------------------------------- the bound


def test_the_bound_is_reached_by_a_tilted_gaussian(study: Study, curves: list[Curve]) -> None:
    """Scores N(0, sigma^2) under the reference and N(mu, sigma^2) under the policy: KL = mu^2 / (2 sigma^2), so that
    the rise is exactly the bound; half the KL is impossible for such a score, and above it."""
    rng, sigma, n = np.random.default_rng(7), 2.0, curves[0].values["gold"].shape[1]
    runs = []
    for curve in curves[:3]:
        start = sigma * rng.normal(size=n)
        start = (start - start.mean()) / start.std(ddof=1) * sigma
        rise = np.array([0.0, 1.0, 2.0, 3.0])[:, None] + 1e-3 * rng.normal(size=(4, n))
        rise[0] = 0
        kl = np.array([0.0, 1.0, 4.0, 9.0])[:, None] / (2 * sigma**2) * np.ones((1, n))
        kl[1:] += 1e-3 * rng.normal(size=(3, n))
        values = {"gold": start + rise, "kl_k1": kl}
        runs.append(replace(curve, steps=np.arange(4), samples=np.arange(4), values=values))
    (row,) = bound_rows(study, runs)
    assert row["share_at_end"]["value"] == pytest.approx(1, abs=2e-3) and row["sigma"] == pytest.approx(sigma)
    halved = [replace(c, values=c.values | {"kl_k1": c.values["kl_k1"] / 2}) for c in runs]
    assert bound_rows(study, halved)[0]["verdict"] == "above"
    doubled = [replace(c, values=c.values | {"kl_k1": c.values["kl_k1"] * 2}) for c in runs]
    assert bound_rows(study, doubled)[0]["verdict"] == "within"


def test_rows_of_a_study_with_one_size(curves: list[Curve], study: Study, tmp_path: Path) -> None:
    own = [c for c in curves if c.model.name == "12k"]
    assert slope_rows(study, own, pm_scores(study)) == [] and "all" not in {r["model"] for r in law_rows(own)}
    assert law_rows([]) == bound_rows(study, []) == peak_rows([], []) == []
