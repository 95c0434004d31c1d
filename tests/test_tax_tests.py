"""Tests and pooling around the tax against statsmodels, scipy and simulations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.estimates import holm
from analysis.meta import combine_effects, paule_mandel
from analysis.paired_tests import benjamini_hochberg, mcnemar
from analysis.tax import judge, judge_map, task_rows
from analysis.tax_pooled import pooled_rows
from tests.test_tax import pair

contingency = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is not installed")
meta_analysis = pytest.importorskip("statsmodels.stats.meta_analysis")
multitest = pytest.importorskip("statsmodels.stats.multitest")
weightstats = pytest.importorskip("statsmodels.stats.weightstats")


def binary(rng: np.random.Generator, n: int, lost: float, gained: float) -> tuple[Any, Any]:
    """Right or wrong before and after: of those right a share is lost, of those wrong a share gained."""
    before = rng.random(n) < 0.7
    moved = rng.random(n)
    return before.astype(float), np.where(before, moved >= lost, moved < gained).astype(float)


@pytest.mark.parametrize("n, lost, gained", [(60, 0.05, 0.10), (400, 0.10, 0.10), (400, 0.0, 0.3), (50, 0.0, 0.0)])
def test_mcnemar_is_statsmodels_and_mid_p_its_definition(n: int, lost: float, gained: float) -> None:
    before, after = binary(np.random.default_rng(n), n, lost, gained)
    found = mcnemar(before, after)
    table = np.array([[np.sum((before == i) & (after == j)) for j in (1, 0)] for i in (1, 0)])
    assert found is not None and (found["lost"], found["gained"]) == (table[0, 1], table[1, 0])
    assert found["p_exact"] == pytest.approx(contingency.mcnemar(table, exact=True).pvalue)
    b, c = found["lost"], found["gained"]
    term = math.comb(b + c, min(b, c)) / 2 ** (b + c)
    assert found["p_mid"] == pytest.approx(min(1.0, found["p_exact"] - term) if b != c else 1 - term if b else 1.0)


def test_mid_p_keeps_its_level_and_is_less_cautious() -> None:
    """Fifteen flips in 40,000 draws under the null: the exact level is 3.5 %, mid-p's 4 to 6 (Fagerland 2013)."""
    lost = np.random.default_rng(0).binomial(15, 0.5, 40_000)
    p = {b: mcnemar(np.r_[np.ones(b), np.zeros(15 - b)], np.r_[np.zeros(b), np.ones(15 - b)]) for b in range(16)}
    exact, mid = (np.mean([(p[b] or {})[key] <= 0.05 for b in lost]) for key in ("p_exact", "p_mid"))
    assert exact <= mid <= 0.055 and exact < 0.05


def test_mcnemar_is_given_only_for_independent_items_of_one_run() -> None:
    before, after = binary(np.random.default_rng(1), 90, 0.2, 0.1)
    one = task_rows([[pair(before, after)]])[0]
    assert one["mcnemar"] == mcnemar(before, after)
    shared = task_rows([[pair(before, after, cluster=[str(i // 3) for i in range(90)])]])[0]
    twice = task_rows([[pair(before, after, run=r) for r in "ab"]])[0]
    partial = task_rows([[pair(before, 0.5 * after)]])[0]
    assert shared["mcnemar"] is None and twice["mcnemar"] is None and partial["mcnemar"] is None


@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_adjusted_p_values_are_those_of_statsmodels(k: int) -> None:
    p = np.random.default_rng(k).random(k) ** 3
    assert benjamini_hochberg(list(p)) == pytest.approx(multitest.multipletests(p, method="fdr_bh")[1])
    assert holm(list(p)) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert benjamini_hochberg([]) == []


def test_the_map_is_adjusted_over_all_sizes() -> None:
    rng = np.random.default_rng(2)
    sizes = []
    for lost in (0.3, 0.1, 0.05):
        family = [task_rows([[pair(*binary(rng, 200, lost, 0.1), task=name)]])[0] for name in "abc"]
        judge(family)
        sizes.append(family)
    judge_map(sizes)
    rows = [row for family in sizes for row in family]
    assert [r["q_bh"] for r in rows] == pytest.approx(
        multitest.multipletests([r["p"] for r in rows], method="fdr_bh")[1]
    )


@pytest.mark.parametrize("shift", [0.0, 0.004, 0.009])
def test_equivalence_p_is_statsmodels_tost(shift: float) -> None:
    rng = np.random.default_rng(3)
    before = 0.5 + 0.05 * rng.random(300)
    after = before - shift + 0.06 * rng.standard_normal(300) * 0.3
    row = task_rows([[pair(before, after, chance=0.0)]])[0]
    judge([row])
    wanted = weightstats.ttost_paired(before, after, -0.01, 0.01)[0]
    assert row["p_equivalence"] == pytest.approx(wanted, rel=1e-6)
    assert (row["p_equivalence"] < 0.05) == (row["verdict"] == "equivalent")


# ---------------------------------------------------------------- over tasks


@pytest.mark.parametrize("seed", range(5))
def test_random_effects_are_those_of_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    v = rng.uniform(0.01, 0.05, 6)
    y = rng.normal(0.2, 0.3, 6) + rng.normal(0, np.sqrt(v))
    found, theirs = combine_effects(y, v), meta_analysis.combine_effects(y, v, method_re="iterated", atol=1e-14)
    assert found is not None and paule_mandel(y, v) == pytest.approx(theirs.tau2, abs=1e-6)
    assert (found.fixed.value, found.fixed.se) == pytest.approx((theirs.mean_effect_fe, theirs.sd_eff_w_fe))
    assert found.random.value == pytest.approx(theirs.mean_effect_re, abs=1e-6)
    factor = max(1.0, theirs.scale_hksj_re)  # never below 1, unlike theirs
    assert found.random.se == pytest.approx(theirs.sd_eff_w_re * math.sqrt(factor), abs=1e-6)
    assert found.random.df == 5 and found.q == pytest.approx(theirs.q)
    low, high = found.random.interval()
    assert low is not None and high is not None and found.prediction is not None
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 5) * (found.random.se or 0.0))
    half = stats.t.ppf(0.975, 4) * math.hypot(math.sqrt(found.tau2), found.random.se or 0.0)
    assert found.prediction == pytest.approx((found.random.value - half, found.random.value + half))


def test_what_cannot_be_combined_is_said() -> None:
    assert combine_effects([0.1], [0.01]) is None and combine_effects([0.1, 0.2], [0.01, 0.0]) is None
    two = combine_effects([0.1, 0.2], [0.01, 0.01])
    assert two is not None and two.prediction is None and two.random.df == 1


def test_random_effects_cover() -> None:
    """1,000 draws of five tasks whose true taxes scatter (sd .1): 95 % less three Monte Carlo errors of .7."""
    rng, inside, fixed = np.random.default_rng(4), 0, 0
    for _ in range(1000):
        v = rng.uniform(0.001, 0.01, 5)
        found = combine_effects(rng.normal(0, 0.1, 5) + rng.normal(0, np.sqrt(v)), v)
        assert found is not None
        hits = [e.interval() for e in (found.random, found.fixed)]
        inside += hits[0][0] <= 0 <= hits[0][1]  # type: ignore[operator]
        fixed += hits[1][0] <= 0 <= hits[1][1]  # type: ignore[operator]
    assert 0.93 <= inside / 1000 <= 0.98 and fixed / 1000 < 0.85  # a common effect is another question


def test_pooled_rows_have_both_effects_of_their_tasks() -> None:
    rng = np.random.default_rng(5)
    tasks = {n: [pair(*binary(rng, 300, 0.2, 0.1), task=n, cluster=[f"{n}{i}" for i in range(300)])] for n in "abc"}
    row, empty = pooled_rows([tasks, {}])
    taxes = [task_rows([pairs])[0]["normalised"] for pairs in tasks.values()]
    z = [(t["high"] - t["low"]) / (2 * stats.norm.ppf(0.975)) for t in taxes]  # t with 299 as a normal interval
    wanted = combine_effects([t["value"] for t in taxes], np.square(z))
    assert wanted is not None and row["random_effect"] == pytest.approx(wanted.random.to_dict())
    assert row["fixed_effect"]["value"] == pytest.approx(wanted.fixed.value) and row["tau2"] == pytest.approx(
        wanted.tau2
    )
    assert empty["random_effect"] is None
    assert pooled_rows([{"a": tasks["a"]}])[0]["fixed_effect"] is None


# ---------------------------------------------------------------- the share that was lost


def test_the_lost_share_and_when_there_is_none() -> None:
    """Fieller's interval of two correlated means, found by hand: the r at which the t test of L - r E accepts."""
    rng = np.random.default_rng(6)
    before, after = binary(rng, 400, 0.2, 0.05)
    row = task_rows([[pair(before, after)]])[0]
    loss, excess = before - after, before - 0.25
    share = row["lost_share"]
    assert share["value"] == pytest.approx(loss.mean() / excess.mean()) and share["kind"] == "interval"
    for end in (share["low"], share["high"]):
        t = stats.ttest_1samp(loss - end * excess, 0.0).statistic
        assert abs(t) == pytest.approx(stats.t.ppf(0.975, 399), rel=1e-6)
    guess = (rng.random(400) < 0.28).astype(float)
    assert task_rows([[pair(guess, after)]])[0]["lost_share"] is None  # nothing above chance to lose
    assert task_rows([[pair(before, before)]])[0]["lost_share"] is None


def test_the_lost_share_covers_with_runs_and_items_crossed() -> None:
    """300 draws of three runs on the same 200 items, true share a fifth: 95 % less three Monte Carlo errors of 1.3."""
    rng, inside = np.random.default_rng(7), 0
    for _ in range(300):
        ease = rng.random(200)
        before = (ease < 0.8).astype(float)
        pairs = [
            pair(before, np.where(rng.random(200) < 0.1375 + rng.normal(0, 0.02), 0, before), run=r) for r in "abc"
        ]
        share = task_rows([pairs])[0]["lost_share"]  # lost .8 x .1375 of .55 above chance: a fifth
        inside += share["low"] <= 0.2 <= share["high"]
    assert inside / 300 >= 0.91
