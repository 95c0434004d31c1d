"""Terms of items crossed with runs against paired differences, two-way clustering, a bootstrap and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.crossed import Term, combine, mean_term, measure, one, ratio, size_mean, size_slope
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


def ladder(
    rng: np.random.Generator, sizes: list[int], slope: float = 0.0, sds: tuple[float, ...] = (), items: int = 100
) -> list[Term]:
    """Sizes of two bases each on shared items of sd .35, as much again per base and item; bases of sd .01 or sds."""
    item, terms = rng.normal(0, 0.35, (1, items)), []
    for k, n in enumerate(sizes):
        base = rng.normal(0, sds[k] if sds else 0.01, (2, 1))
        terms.append(crossing(item + slope * math.log(n) + base + rng.normal(0, 0.35, (2, items)), k))
    return terms


SPAN = [27_000, 100_000, 885_000]


@pytest.mark.parametrize("sizes", [SPAN[::2], SPAN, [*SPAN, 400_000]])
@pytest.mark.parametrize("largest", [1, 3])
def test_slopes_over_sizes_cover(sizes: list[int], largest: int) -> None:
    """400 draws without a slope, also where the largest size scatters three times as much: 95 % (92 with unequal
    scatter, known from two bases) less three Monte Carlo errors of 1.1."""
    rng, hits = np.random.default_rng(1), 0
    sds = tuple(0.05 * (largest if n == max(sizes) else 1) for n in sizes)
    for _ in range(400):
        slope = size_slope(sizes, ladder(rng, sizes, sds=sds))
        assert slope is not None
        low, high = slope.interval()
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert hits / 400 >= (0.917 if largest == 1 else 0.88)


def test_a_third_size_between_two_makes_a_slope_easier_to_find() -> None:
    """A loss that shrinks from 7.4 to 1.5 points over the sizes (Bai et al., figure 26), two bases each, 2,000 items:
    100 draws find it at least twice in three with three sizes, and more often than with two."""
    rng, effect = np.random.default_rng(5), 0.059 / math.log(885 / 27)
    power = {}
    for sizes in (SPAN[::2], SPAN):
        slopes = [size_slope(sizes, ladder(rng, sizes, effect, items=2000)) for _ in range(100)]
        lows = [slope.interval()[0] for slope in slopes if slope is not None]
        power[len(sizes)] = sum(low is not None and low > 0 for low in lows) / 100
    assert power[3] > max(2 / 3, power[2])


def test_the_slope_is_least_squares_over_bases_whatever_their_seeds() -> None:
    """Three bases of one, two and three seeds at a size: a base is a point that weighs as its seeds; numpy's fit."""
    rng, terms, points = np.random.default_rng(6), [], []
    for k, n in enumerate(SPAN):
        values = rng.normal(size=(6, 40))
        base = np.array(["a", "b", "b", "c", "c", "c"])
        run = np.array([f"{k}{base[r]}/{r}" for r in np.repeat(np.arange(6), 40)], dtype=object)
        terms.append(mean_term(values.ravel(), labels("c", np.tile(np.arange(40), 6)), run))
        points += [(math.log(n), values[base == b].mean(), (base == b).mean() * 3) for b in "abc"]
    x, y, w = np.array(points).T
    slope, wanted = size_slope(SPAN, terms), np.polyfit(x, y, 1, w=np.sqrt(w))[0]
    assert slope is not None and slope.value == pytest.approx(wanted)
    left_out = [np.polyfit(np.delete(x, i), np.delete(y, i), 1, w=np.sqrt(np.delete(w, i)))[0] for i in range(9)]
    jackknife = math.sqrt(sum((b - wanted) ** 2 for b in left_out))  # leave one base out
    # Items that judge independently of each other add little to what bases differ by: a few per cent.
    assert slope.se is not None and slope.se == pytest.approx(jackknife, rel=0.05)
    assert slope.se >= jackknife * (1 - 1e-9)


def test_one_base_a_size_is_the_textbook_regression() -> None:
    """Items that judge alike add nothing: slope, error and t on sizes less two are scipy's."""
    y = np.array([0.6, 0.63, 0.61, 0.66])
    sizes = [*SPAN, 4_000_000]
    terms = [crossing(np.full((1, 40), v) + 1e-9 * RNG.normal(size=(1, 40)), k) for k, v in enumerate(y)]
    slope, wanted = size_slope(sizes, terms), stats.linregress(np.log(sizes), y)
    assert slope is not None and slope.value == pytest.approx(wanted.slope, rel=1e-5)
    assert slope.se == pytest.approx(wanted.stderr, rel=1e-4) and slope.df == pytest.approx(2, abs=1e-3)


def test_the_mean_over_sizes_covers() -> None:
    """300 draws of three sizes that differ (sd .05), two bases each: 95 % less three Monte Carlo errors of 1.3."""
    rng, hits = np.random.default_rng(2), 0
    for _ in range(300):
        terms = [combine((1, t)) for t in ladder(rng, SPAN, sds=(0.05,) * 3)]
        mean = size_mean(terms)
        assert mean is not None
        low, high = mean.interval()
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert hits / 300 >= 0.91
    assert size_mean([None]) is None and size_mean([crossing(RNG.normal(size=(1, 40)))]) is None
