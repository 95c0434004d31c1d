"""Standard errors against closed forms, brute force and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis.estimates import Cell, Estimate, cochran_df, crossed_mean, crossed_means, holm, mean, paired_difference


def test_mean_of_independent_rows_is_the_textbook_one() -> None:
    x = np.array([1.0, 2.0, 4.0, 8.0])
    estimate = mean(x)
    assert estimate.value == 3.75
    assert estimate.se == pytest.approx(stats.sem(x), rel=1e-12)
    wanted = stats.t.interval(0.95, 3, 3.75, stats.sem(x))
    assert estimate.interval() == pytest.approx(wanted, rel=1e-12)


def test_cluster_means_of_equal_size_are_the_observations() -> None:
    """With equal clusters the clustered error of the mean is that of the cluster means."""
    x = np.random.default_rng(0).normal(size=(30, 4)) + np.random.default_rng(1).normal(size=(30, 1))
    estimate = mean(x.ravel(), np.repeat(np.arange(30), 4))
    assert estimate.se == pytest.approx(stats.sem(x.mean(axis=1)), rel=1e-12)
    assert estimate.df == 29 and estimate.n == 120


def test_labels_may_be_anything_and_in_any_order() -> None:
    x, labels = np.arange(6.0), np.array(["b", "a", "b", "c", "a", "c"])
    order = np.array([3, 5, 0, 2, 1, 4])
    one, other = mean(x, labels), mean(x[order], labels[order])
    assert (one.value, one.se, one.df) == pytest.approx((other.value, other.se, other.df), rel=1e-14)


def test_ratio_mean_is_the_linearised_one() -> None:
    """sum(w x) / sum(w) with se from the residuals w (x - r), computed here from its definition."""
    rng = np.random.default_rng(2)
    x, w = rng.normal(2, 1, 50), rng.uniform(1, 5, 50)
    r = (w * x).sum() / w.sum()
    se = math.sqrt(50 / 49 * ((w * (x - r)) ** 2).sum()) / w.sum()
    estimate = mean(x, weights=w)
    assert (estimate.value, estimate.se) == pytest.approx((r, se), rel=1e-12)


def test_one_cluster_has_no_error() -> None:
    assert mean([1.0, 2.0], [0, 0]).to_dict() == {"value": 1.5, "se": None, "low": None, "high": None, "n": 2}


def test_pairing_is_exact_where_the_items_decide() -> None:
    before = np.random.default_rng(3).normal(size=100)
    estimate = paired_difference(before, before - 0.25)
    assert estimate.value == pytest.approx(0.25) and estimate.se == pytest.approx(0, abs=1e-12)


def test_paired_p_value_is_scipys() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 40), rng.normal(0.3, 1, 40)
    assert paired_difference(a, b).p_value() == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-10)


def test_holm_is_the_closed_test_of_bonferroni_tests() -> None:
    """Brute force: the adjusted p of i is the largest, over all sets with i, of |set| times the set's smallest p."""
    p = [0.01, 0.04, 0.03, 0.005, 0.5]
    subsets = [s for k in range(1, 6) for s in itertools.combinations(range(5), k)]
    wanted = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s) for i in range(5)]
    assert holm(p) == pytest.approx(wanted)
    assert holm([]) == []


def test_cochrans_quantile_is_the_weighted_one() -> None:
    df = cochran_df((3.0, 1.0), (200, 1))
    assert stats.t.ppf(0.975, df) == pytest.approx(0.75 * stats.t.ppf(0.975, 200) + 0.25 * stats.t.ppf(0.975, 1))
    assert cochran_df((1.0, 0.0), (50, 1)) == pytest.approx(50, abs=1e-4)


def test_two_way_variance_is_its_definition() -> None:
    """Three runs: V_items + V_runs - V_cells, each with its own G / (G - 1), by loops over the definition."""
    rng = np.random.default_rng(5)
    d = rng.normal(size=(3, 40)) + rng.normal(size=(3, 1)) + rng.normal(size=(1, 40))
    estimate, note = crossed_mean(d.ravel(), np.tile(np.arange(40), 3), np.repeat(np.arange(3), 40))
    psi = (d - d.mean()) / d.size
    items = (psi.sum(axis=0) ** 2).sum() * 40 / 39
    runs = (psi.sum(axis=1) ** 2).sum() * 3 / 2
    cells = (psi**2).sum() * 120 / 119
    assert estimate.se == pytest.approx(math.sqrt(items + runs - cells), rel=1e-10) and note is None


def test_few_runs_say_so() -> None:
    x = np.random.default_rng(6).normal(size=80)
    items = np.tile(np.arange(40), 2)
    one, note = crossed_mean(x[:40], items[:40], np.zeros(40))
    assert one.se == pytest.approx(stats.sem(x[:40])) and "conditional on this run" in str(note)
    _, note = crossed_mean(x, items, np.repeat([0, 1], 40))
    assert "2 runs" in str(note)


def draw(rng: np.random.Generator, runs: int, run_sd: float, items: int = 120) -> Cell:
    """Items crossed with runs, true mean zero: item sd .3, item-by-run sd .3."""
    d = rng.normal(0, 0.3, items) + rng.normal(0, run_sd, (runs, 1)) + rng.normal(0, 0.3, (runs, items))
    return Cell(d.ravel(), np.tile(np.arange(items), runs), np.repeat(np.arange(runs), items))


@pytest.mark.parametrize("runs, run_sd", [(2, 0.0), (2, 0.1), (3, 0.0), (3, 0.1), (5, 0.1)])
def test_crossed_interval_covers(runs: int, run_sd: float) -> None:
    """400 draws at a nominal 95 %: at least 95 - 3 * 1.1 points (Monte Carlo error); more is allowed with few runs."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        cell = draw(rng, runs, run_sd)
        low, high = crossed_mean(cell.values, cell.items, cell.runs)[0].interval()
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert hits / 400 >= 0.917


def test_a_size_that_scatters_more_than_those_it_borrows_from() -> None:
    """Two runs, the largest size four times the others' spread: the others' average alone (t on 4) covers 83 %; what
    its own has beyond that is known with one degree of freedom. At least 90 % less three Monte Carlo errors of 1.3."""
    rng, hits = np.random.default_rng(3), 0
    for _ in range(500):
        cells = [draw(rng, 2, sd) for sd in (0.05, 0.05, 0.05, 0.2)]
        low, high = crossed_means(cells)[-1][0].interval()
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert hits / 500 >= 0.86


def test_what_is_detectable_at_holms_level_is_found_four_times_in_five() -> None:
    """Power by the noncentral t at p < .05 / m; the sum of two central quantiles is close to its 80 % with 40 df."""
    estimate = Estimate(0.0, 1.0, 41, 40)
    for tests in (1, 2, 5):
        mde = estimate.detectable(tests=tests)
        power = stats.nct.sf(stats.t.ppf(1 - 0.025 / tests, 40), 40, mde)
        assert power == pytest.approx(0.80, abs=0.01)
    assert estimate.to_difference(5)["mde"] == estimate.detectable(tests=5)
    assert Estimate(0.0, None, 1).detectable(tests=3) is None


def test_a_proportions_interval_stays_between_0_and_1() -> None:
    found = Estimate(0.98, 0.02, 50, 49).to_proportion()
    assert found["high"] == 1.0 and found["low"] == pytest.approx(0.98 - 0.02 * stats.t.ppf(0.975, 49))
    assert Estimate(0.02, 0.02, 50, 49).to_proportion()["low"] == 0.0
    assert Estimate(1.0, None, 1).to_proportion()["high"] is None


@pytest.mark.parametrize("sds", [(0.0,) * 4, (0.05,) * 4, (0.03, 0.03, 0.06, 0.09)])
def test_borrowed_spread_covers_at_every_size(sds: tuple[float, ...]) -> None:
    """Four sizes with two runs each, also where larger models scatter three times as much as small ones."""
    rng = np.random.default_rng(8)
    hits = np.zeros(4)
    for _ in range(200):
        for i, (estimate, _) in enumerate(crossed_means([draw(rng, 2, sd) for sd in sds])):
            low, high = estimate.interval()
            assert low is not None and high is not None
            hits[i] += low <= 0 <= high
    assert (hits / 200).min() >= 0.904  # 95 % minus 3 Monte Carlo errors of 1.54 points
