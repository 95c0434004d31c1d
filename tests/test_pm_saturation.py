"""Saturating laws of preference models: what they recover, when they are fitted, and how often their intervals hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis import pm_saturation
from analysis.fit_result import FitResult
from analysis.fits import FitError, fit
from analysis.frames import Model
from analysis.pm_fits import item_covariance, pm_fits, pm_points, point_sets
from analysis.pm_saturation import item_noise, per_base, saturation_fits
from analysis.pools import PM
from tests.fake_pms import fake_pm, held_out

SIZES = tuple(int(v) for v in np.geomspace(1e4, 1e7, 7))
COUNTS = (300, 1000, 3000, 10_000, 30_000)
A, A_EXPONENT, B, B_EXPONENT = 8.0, 0.3, 40.0, 0.5


def truth(n_params: float, n: float, p_inf: float = 0.75) -> float:
    """P4 in two columns."""
    return 0.5 + (p_inf - 0.5) / (1 + A * n_params**-A_EXPONENT + B * n**-B_EXPONENT)


def drawn(rng: np.random.Generator, n_params: int, n: int, seed: int, items: np.ndarray, shift: float = 0.0) -> PM:
    """A PM that is right where an item's uniform number, shared by all PMs, is below its accuracy."""
    own = np.where(rng.random(len(items)) < 0.3, rng.random(len(items)), items)
    right = own < truth(n_params, n) + shift
    return fake_pm(held_out(np.where(right, 1.0, -1.0)), n_params, seed, n=n)


def ladder(seed: int, sizes: tuple[int, ...] = SIZES, counts: tuple[int, ...] = COUNTS, items: int = 4000) -> list[PM]:
    rng = np.random.default_rng(seed)
    shared = rng.random(items)
    shifts = {n: rng.normal(0, 0.003) for n in sizes}  # of a base
    return [drawn(rng, n_params, n, 0, shared, shifts[n_params]) for n_params in sizes for n in counts]


def test_the_laws_are_fitted_where_the_points_suffice() -> None:
    found = saturation_fits(ladder(0))
    wanted = ["pm all", *(f"pm {n}" for n in SIZES), f"pm n={COUNTS[-1]}"]
    assert [f.group for f in found if f.law == "pm-accuracy"] == wanted
    assert [f.group for f in found if f.law == "pm-loss"] == wanted
    assert {(f.law, f.y) for f in found} == {("pm-accuracy", "accuracy"), ("pm-loss", "log_loss")}
    few = saturation_fits(ladder(0, SIZES[:3], COUNTS[:3], 200))
    assert [f.group for f in few] == ["pm all"] * 2 and all(f.params["A"].low is None for f in few)
    assert "too_few_bases" in [note.code for note in few[0].notes]
    assert saturation_fits(ladder(0, SIZES[:2], COUNTS[:3], 200)) == [] and saturation_fits([]) == []


def test_the_limit_and_exponents_put_in_are_found() -> None:
    joint = next(f for f in saturation_fits(ladder(1)) if f.group == "pm all" and f.law == "pm-accuracy")
    for name, value in (("p_inf", 0.75), ("a", A_EXPONENT), ("b", B_EXPONENT), ("A", A), ("B", B)):
        low, high = joint.params[name].low, joint.params[name].high
        assert low is not None and high is not None and low < value < high, name
    assert joint.n_clusters == 7 and joint.df == 4.0
    assert joint.params["p_inf"].value == pytest.approx(0.75, abs=0.03)


def test_intervals_hold_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 draws of the law of data at one size: 95 % less three Monte Carlo errors of 2.8 is .866."""
    monkeypatch.setattr(pm_saturation, "DRAWS", 300)
    limit = 0.5 + 0.25 / (1 + A * SIZES[-1] ** -A_EXPONENT)
    hits = 0
    for seed in range(60):
        pms = ladder(seed, SIZES[-1:], (*COUNTS, 100_000, 300_000), items=2000)
        found = next(f for f in saturation_fits(pms) if f.law == "pm-accuracy")
        low, high = found.params["p_inf"].low, found.params["p_inf"].high
        hits += low is not None and high is not None and low <= limit <= high
    assert hits / 60 >= 0.866


def test_redrawn_conversations_vary_as_the_delta_method_says() -> None:
    """The bootstrap's covariance of log-linear coefficients is that of their influences; its own error with 1,000
    draws is 4.5 %."""
    pms = ladder(2, SIZES[:1], COUNTS, 1000)
    x, scores = np.array(COUNTS, dtype=float)[:, None], [pm.scores for pm in pms]
    noise = item_noise(scores, "accuracy")
    coefficients = noise @ np.linalg.pinv(np.column_stack([np.ones(len(x)), np.log(x)])).T
    wanted, n_conversations = item_covariance(x, scores)
    assert n_conversations == 500
    np.testing.assert_allclose(np.cov(coefficients.T), wanted, rtol=0.135)  # three of its errors


def test_several_pms_of_a_base_are_one_point_of_size() -> None:
    rng = np.random.default_rng(3)
    scores = [held_out(rng.normal(0.5, 1, 100)) for _ in range(6)]
    pms = [fake_pm(s, 1000 * (1 + k // 2), 0, half=("train", "test")[k % 2]) for k, s in enumerate(scores)]
    one = point_sets(pm_points(pms, "accuracy"))[-1]
    noise = rng.normal(size=(5, 6))
    merged, shared = per_base(one, noise)
    accuracy = [s.correct.mean() for s in scores]
    assert merged.points.y.tolist() == pytest.approx([np.mean(accuracy[i : i + 2]) for i in (0, 2, 4)])
    np.testing.assert_allclose(shared, noise.reshape(5, 3, 2).mean(axis=2))


def test_log_loss_has_its_own_log_linear_fits() -> None:
    """Every difference is 2 ln(n) - 10: the loss is ln(1 + e^-d) exactly, and so is its slope's sign."""
    pms = [fake_pm(held_out(np.full(40, 2 * math.log(n) - 10)), n=n, seed=s) for n in COUNTS for s in range(2)]
    found = {(f.y, f.group): f for f in pm_fits(pms)}
    loss = np.log1p(np.exp(10 - 2 * np.log(COUNTS)))
    slope = found["log_loss", "pm 1000"].params["c1"].value
    assert slope == pytest.approx(np.polyfit(np.log(COUNTS), loss, 1)[0], abs=1e-8)
    assert ("accuracy", "pm 1000") in found


def test_noise_is_refused_where_it_would_not_be_used() -> None:
    x, y = np.arange(1.0, 9.0), np.linspace(0.6, 0.7, 8)
    with pytest.raises(FitError, match="noise needs the bootstrap"):
        fit("log-linear", x, y, noise=np.zeros((10, 8)))


def test_shared_noise_widens_and_fixed_degrees_of_freedom_stretch() -> None:
    rng = np.random.default_rng(5)
    x = np.arange(1.0, 13.0)
    y = 0.6 + 0.02 * np.log(x) + rng.normal(0, 1e-3, 12)
    plain = fit("log-linear", x, y, ci="bootstrap").params["c0"]
    common = rng.normal(0, 0.05, (2000, 1)) * np.ones(12)
    noisy = fit("log-linear", x, y, ci="bootstrap", noise=common).params["c0"]
    assert noisy.se == pytest.approx(math.hypot(plain.se or 0.0, 0.05), rel=0.1)
    few = fit("log-linear", x, y, ci="bootstrap", df=1.0).params["c0"]
    assert few.high is not None and few.low is not None and plain.high is not None and plain.low is not None
    assert (few.high - few.low) / (plain.high - plain.low) == pytest.approx(12.706 / 2.228, rel=1e-3)


# ---------------------------------------------------------------- slopes with data


FEW = (1024, 4096, 16_384)


def chains(
    rng: np.random.Generator, seeds: int, run_sd: float, slope: float = 0.0, base: str | None = None
) -> list[PM]:
    """PMs of three numbers of comparisons and one size, whose accuracy scatters by ``run_sd`` from run to run."""
    shared, pms = rng.random(2000), []
    for seed in range(seeds):
        for n in FEW:
            own = np.where(rng.random(2000) < 0.15, rng.random(2000), shared)
            right = own < 0.66 + slope * math.log(n / FEW[0]) + rng.normal(0, run_sd)
            of = held_out(np.where(right, 1.0, -1.0))
            pms.append(fake_pm(of, 1000, seed, n=n, **({} if base is None else {"base": base})))
    return pms


@pytest.mark.parametrize("run_sd", [0.003, 0.01])
@pytest.mark.parametrize("seeds, base", [(1, None), (2, None), (3, "one")])
def test_slopes_with_data_cover(seeds: int, base: str | None, run_sd: float) -> None:
    """200 draws without a slope: at most 5 % and three Monte Carlo errors of 1.5 % are called one. Over items alone the
    interval of one chain calls 9 and 42 %."""
    called = 0
    for seed in range(200):
        pms = chains(np.random.default_rng(seed), seeds, run_sd, base=base)
        c1 = next(f for f in pm_fits(pms) if f.y == "accuracy" and f.group == "pm 1000").params["c1"]
        assert c1.low is not None and c1.high is not None
        called += c1.low > 0 or c1.high < 0
    assert called / 200 <= 0.096


def test_one_chain_has_t_on_its_numbers_less_two() -> None:
    """se^2 = items' variance + s^2 (X'X)^-1, s from numpy's residuals; the interval is Cochran's mixture of t's."""
    pms = chains(np.random.default_rng(0), 1, 0.01, slope=0.02)
    fitted = next(f for f in pm_fits(pms) if f.y == "accuracy" and f.group == "pm 1000")
    x = np.log(FEW)
    y = [pm.scores.correct.mean() for pm in pms]
    design = np.column_stack([np.ones(3), x])
    beta, (sse,), *_ = np.linalg.lstsq(design, y, rcond=None)
    items, n_conversations = item_covariance(np.array(FEW, dtype=float)[:, None], [pm.scores for pm in pms])
    scatter = sse * np.linalg.inv(design.T @ design)[1, 1]
    c1 = fitted.params["c1"]
    assert c1.value == pytest.approx(beta[1]) and c1.se == pytest.approx(math.sqrt(items[1, 1] + scatter))
    t = (items[1, 1] * stats.t.ppf(0.975, n_conversations - 1) + scatter * stats.t.ppf(0.975, 1)) / c1.se**2
    assert c1.high == pytest.approx(beta[1] + t * c1.se)
    assert [note.code for note in fitted.notes] == ["one_chain"]
    two = next(f for f in pm_fits(pms[:2]) if f.y == "accuracy" and f.group == "pm 1000")
    assert two.params["c1"].value is not None and two.params["c1"].low is None


def test_seeds_of_a_base_are_one_cluster_and_models_as_large_two_sizes() -> None:
    rng = np.random.default_rng(0)
    pms = [fake_pm(held_out(rng.normal(0.5, 1, 100)), 1000, k, n=n, base=f"b{k // 2}") for k in range(4) for n in FEW]
    own = next(f for f in pm_fits(pms) if f.group == "pm 1000")
    assert own.n_clusters == 2 and "shared_base" not in [note.code for note in own.notes]
    one = next(f for f in pm_fits([pm for pm in pms if pm.chain.startswith("b0")]) if f.group == "pm 1000")
    assert one.n_clusters == 2 and "shared_base" in [note.code for note in one.notes]
    twin = [replace(pm, model=Model("twin", 1000, 1000)) for pm in pms]
    assert {"pm 1000", "pm twin"} <= {f.group for f in pm_fits(pms + twin)}


# ---------------------------------------------------------------- against the log-linear law


def aicc_of(x: np.ndarray, y: np.ndarray, fitted: np.ndarray, n_params: int) -> float:
    """n ln(SSE / n) + 2k + 2k(k + 1)/(n - k - 1) with k = parameters and sigma."""
    n, k = len(x), n_params + 1
    return float(n * np.log(((y - fitted) ** 2).sum() / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def test_a_law_that_levels_off_is_compared_with_the_log_linear_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same points: where accuracy really levels off AICc prefers it clearly, where it is log-linear it does
    not, and says so."""
    monkeypatch.setattr(pm_saturation, "DRAWS", 50)
    counts = tuple(int(n) for n in np.geomspace(100, 100_000, 10))
    for levels, better in ((True, True), (False, False)):
        rng = np.random.default_rng(0)
        pms = []
        for n in counts:
            p = 0.5 + 0.25 / (1 + 150 * n**-1.0) if levels else 0.5 + 0.025 * math.log(n / 60)
            right = (np.arange(4000) + 0.5) / 4000 < p + rng.normal(0, 0.004)
            pms.append(fake_pm(held_out(np.where(right, 1.0, -1.0)), 1000, 0, n=n))
        found = next(f for f in saturation_fits(pms) if f.law == "pm-accuracy" and f.group == "pm 1000")
        x = np.array(counts, dtype=float)
        y = np.array([pm.scores.correct.mean() for pm in pms])
        line = np.polyval(np.polyfit(np.log(x), y, 1), np.log(x))
        wanted = aicc_of(x, y, found.predict(x), 3) - aicc_of(x, y, line, 2)
        assert found.delta_aicc == pytest.approx(wanted, abs=1e-6)
        assert (found.delta_aicc <= -pm_saturation.BETTER) == better
        assert ("not_better" in [note.code for note in found.notes]) == (not better)
        assert FitResult.from_dict(found.to_dict()).delta_aicc == found.delta_aicc


def test_each_kind_of_comparison_has_laws_of_its_own() -> None:
    """Least squares of the kind's own accuracies on ln n and ln N; none where there is one kind."""
    rng = np.random.default_rng(4)
    tranche = np.array(["helpful-base"] * 60 + ["harmless-base"] * 40, dtype=object)
    places = [(size, n, seed) for size in (1000, 4000, 16000) for n in COUNTS for seed in range(2)]
    pms = [fake_pm(held_out(rng.normal(0.3, 1, 100), tranche=tranche), size, seed, n=n) for size, n, seed in places]
    found = {(f.y, f.group): f for f in pm_fits(pms)}
    design = np.column_stack([np.ones(len(places)), *np.log([[size, n] for size, n, _ in places]).T])
    for kind, rows in (("helpful", slice(0, 60)), ("harmless", slice(60, 100))):
        accuracy = [(pm.scores.difference[rows] > 0).mean() for pm in pms]
        wanted = np.linalg.lstsq(design, np.array(accuracy), rcond=None)[0]
        params = found["accuracy", f"pm {kind} all"].params
        assert [params[c].value for c in ("c0", "c1", "c2")] == pytest.approx(wanted, abs=1e-9)
        assert {f"pm {kind} 4000", f"pm {kind} n={COUNTS[-1]}"} <= {group for _, group in found}
    alone = [replace(pm, scores=pm.scores.select(tranche == "helpful-base")) for pm in pms]
    assert {group.split()[1] for group in (f.group for f in pm_fits(alone))} & {"helpful", "harmless"} == set()
