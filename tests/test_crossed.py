"""Terms of items crossed with runs against paired differences, two-way clustering, a bootstrap and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.crossed import Term, combine, mean_term, measure, one, ratio, size_slope
from analysis.estimates import crossed_mean, paired_difference

RNG = np.random.default_rng(0)


def labels(prefix: str, numbers: np.ndarray) -> np.ndarray:
    return np.array([f"{prefix}{i}" for i in numbers], dtype=object)


def crossing(values: np.ndarray, seed: int = 0) -> Term:
    """(runs, items) values; two items a cluster; runs named by seed as chains are."""
    runs, items = values.shape
    item, run = labels("c", np.tile(np.arange(items) // 2, runs)), np.repeat(np.arange(runs), items)
    names = np.array([f"base{seed}{r}/{r}" for r in run], dtype=object)
    term = mean_term(values.ravel(), item, names, n=items)
    assert term is not None
    return term


def test_a_difference_of_terms_is_the_paired_one() -> None:
    a, b = RNG.normal(size=(1, 80)), RNG.normal(size=(1, 80))
    got = one(combine((1, crossing(a)), (-1, crossing(b))))
    wanted = paired_difference(a[0], b[0], np.arange(80) // 2)
    assert got is not None and (got.value, got.se, got.n) == pytest.approx((wanted.value, wanted.se, 80), rel=1e-12)


def test_it_is_paired_by_run_too() -> None:
    """What a run adds to both sides cancels: the difference is that of the runs' differences, crossed with items."""
    common = RNG.normal(0, 5, size=(4, 1))
    a, b = common + RNG.normal(size=(4, 60)), common + RNG.normal(size=(4, 60))
    got = one(combine((1, crossing(a)), (-1, crossing(b))))
    item, run = np.tile(np.arange(60) // 2, 4), np.repeat(np.arange(4), 60)
    wanted, _ = crossed_mean((a - b).ravel(), item, run)
    assert got is not None and (got.value, got.se, got.df) == pytest.approx((wanted.value, wanted.se, wanted.df))


def test_a_ratio_has_the_bootstraps_error() -> None:
    """sd of 2,000 redraws of 300 item clusters; its own error is 1.6 %, the bound is five of those."""
    a = RNG.normal(2, 1, size=600) + np.repeat(RNG.normal(size=300), 2)
    b = 0.5 * a + RNG.normal(3, 1, size=600)
    got = one(ratio(crossing(a[None]), crossing(b[None])))
    draws = []
    for _ in range(2000):
        rows = (2 * RNG.integers(0, 300, 300)[:, None] + np.arange(2)).ravel()
        draws.append(a[rows].mean() / b[rows].mean())
    assert got is not None and got.value == pytest.approx(a.mean() / b.mean())
    assert got.se == pytest.approx(np.std(draws), rel=0.08)


def test_what_is_missing_stays_missing() -> None:
    term = crossing(RNG.normal(size=(1, 10)))
    assert combine((1, term), (-1, None)) is None and ratio(term, None) is None and one(None) is None
    nothing = np.array([], dtype=object)
    assert mean_term([], nothing, nothing) is None
    assert measure([term, term], lambda same: None)[0].to_dict() is None


def test_a_slope_over_sizes_is_that_of_the_line() -> None:
    """Without noise every size's mean lies on 0.1 + 0.03 ln N."""
    sizes = [1000, 10_000, 100_000]
    terms = [crossing(np.full((2, 40), 0.1 + 0.03 * math.log(n)) + 1e-9 * RNG.normal(size=(2, 40))) for n in sizes]
    slope = size_slope(sizes, terms)
    assert slope is not None and slope.value == pytest.approx(0.03, abs=1e-8) and slope.n == 3


def test_what_items_share_between_sizes_cancels_in_the_slope() -> None:
    """Two sizes of three runs each with the same item effects of sd 1: the difference varies by the rest alone."""
    item, small, large = RNG.normal(size=(1, 400)), RNG.normal(0, 0.1, (3, 400)), RNG.normal(0, 0.1, (3, 400))
    slope = size_slope([1000, 10_000], [crossing(item + small, 1), crossing(item + large, 2)])
    alone = one(crossing(item + small, 1))
    assert slope is not None and alone is not None and slope.se is not None and alone.se is not None
    assert slope.value == pytest.approx((large.mean() - small.mean()) / math.log(10))
    assert slope.se * math.log(10) < 0.4 * alone.se


def test_two_sizes_need_two_bases_each() -> None:
    terms = [crossing(RNG.normal(size=(2, 40)), 1), crossing(RNG.normal(size=(1, 40)), 2)]
    assert size_slope([1000, 2000], terms) is None
    assert size_slope([1000], terms[:1]) is None and size_slope([], []) is None
    assert size_slope([1000, 2000], [terms[0], None]) is None


def test_slopes_over_sizes_cover() -> None:
    """150 draws of three sizes, two runs each, shared items, no slope: 95 % less three Monte Carlo errors of 1.8."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(150):
        item = rng.normal(0, 1, (1, 100))
        terms = [crossing(item + rng.normal(0, 0.1, (2, 1)) + rng.normal(size=(2, 100)), k) for k in range(3)]
        slope = size_slope([1000, 10_000, 100_000], terms)
        assert slope is not None
        low, high = slope.interval()
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert hits / 150 >= 0.89
