"""The best of n from a pool of N: against brute force over subsets, simulation, and exact KLs."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from hh_scaling.order_statistics import best_weights, grid, kl_of_classes, kl_upper_bound, pool_kl, within_lowest

Floats = NDArray[np.float64]
POOLS = {
    "no ties": [0.3, -1.0, 2.0, 0.7, 0.1, 5.0, -0.2],
    "a tie at the top": [1.0, 3.0, 3.0, 2.0, 0.0, 3.0, -1.0],
    "ties throughout": [1.0, 1.0, 0.0, 2.0, 0.0, 2.0, 1.0],
    "all the same": [4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0],
}


def mean_over_subsets(proxy: Floats, values: Floats, n: int) -> float:
    """The mean over all subsets of n of the value at the subset's best, ties by lot."""
    found = []
    for subset in map(list, itertools.combinations(range(len(proxy)), n)):
        best = [i for i in subset if proxy[i] == proxy[subset].max()]
        found.append(values[best].mean())
    return float(np.mean(found))


@pytest.mark.parametrize("pool", POOLS)
def test_weights_are_those_of_all_subsets(pool: str) -> None:
    """Equal up to rounding, at every n: the estimator is the U-statistic."""
    proxy, values = np.array(POOLS[pool]), np.random.default_rng(1).normal(size=7)
    for n in range(1, 8):
        weights = best_weights(proxy, n)
        assert weights.sum() == pytest.approx(1.0, abs=1e-12) and (weights >= 0).all()
        assert weights @ values == pytest.approx(mean_over_subsets(proxy, values, n), abs=1e-12)


@pytest.mark.parametrize(("n_samples", "n"), [(7, 3), (64, 1), (64, 64), (1000, 512)])
def test_weights_without_ties_are_the_published_ones(n_samples: int, n: int) -> None:
    """C(r - 1, n - 1) / C(N, n) in exact integers; 1e-12 for a product of up to a thousand rounded factors."""
    exact = [float(Fraction(math.comb(r, n - 1), math.comb(n_samples, n))) for r in range(n_samples)]
    assert best_weights(np.arange(n_samples, dtype=float), n) == pytest.approx(exact, rel=1e-11, abs=1e-300)
    chance = [float(Fraction(math.comb(r, n), math.comb(n_samples, n))) for r in range(n_samples + 1)]
    assert within_lowest(n_samples, n) == pytest.approx(chance, rel=1e-11, abs=1e-300)


def test_the_order_of_the_pool_does_not_matter() -> None:
    proxy, order = np.array(POOLS["ties throughout"]), np.random.default_rng(2).permutation(7)
    assert best_weights(proxy, 3)[order] == pytest.approx(best_weights(proxy[order], 3))


def test_the_estimate_is_unbiased() -> None:
    """A source of five values with ties in the proxy: the mean of 4,000 pools of 12 against the enumerated truth,
    within 4 standard errors (chance of a false alarm 6e-5 a case)."""
    mass, proxy, gold = np.array([0.3, 0.25, 0.2, 0.15, 0.1]), np.array([0.0, 1, 1, 2, 3]), np.array([1.0, 3, 2, 5, 0])
    rng = np.random.default_rng(3)
    draws = rng.choice(5, size=(4000, 12), p=mass)
    for n in (1, 2, 4):
        truth = 0.0
        for picks in map(list, itertools.product(range(5), repeat=n)):
            best = [i for i in picks if proxy[i] == proxy[picks].max()]
            truth += mass[picks].prod() * gold[best].mean()
        found = np.array([best_weights(proxy[d], n) @ gold[d] for d in draws])
        assert abs(found.mean() - truth) < 4 * found.std() / math.sqrt(len(found)), n


def test_the_grid_doubles_and_ends_at_the_pool() -> None:
    assert grid(64) == [1, 2, 4, 8, 16, 32, 64] and grid(48) == [1, 2, 4, 8, 16, 32, 48] and grid(2) == [1, 2]


# ---------------------------------------------------------------- KL


def enumerated_kl(mass: Floats, n: int) -> float:
    """KL(best of n || source) by going through all n-tuples; scores rise with the index: only copies tie."""
    chance = np.zeros(len(mass))
    for picks in map(list, itertools.product(range(len(mass)), repeat=n)):
        chance[max(picks)] += mass[picks].prod()
    return float((chance * np.log(chance / mass)).sum())


@pytest.mark.parametrize("mass", [[0.2] * 5, [0.5, 0.2, 0.2, 0.05, 0.05], [0.05, 0.05, 0.2, 0.2, 0.5]])
def test_exact_kl_is_enumerated_and_below_both_formulas(mass: list[float]) -> None:
    p = np.array(mass)
    for n in (1, 2, 3, 5):
        exact = kl_of_classes(p, n)
        assert exact == pytest.approx(enumerated_kl(p, n), abs=1e-12)
        assert exact <= kl_upper_bound(n) + 1e-12 <= math.log(n) + 2e-12
    assert kl_of_classes(p, 4) < kl_upper_bound(4)  # strictly: a discrete source repeats itself


def test_the_upper_bound_is_the_limit_of_ever_rarer_draws() -> None:
    """The gap of K equal draws falls like 1 / K; published values at n = 2 … 128 to four digits."""
    gaps = [kl_upper_bound(8) - kl_of_classes(np.full(k, 1 / k), 8) for k in (100, 1000, 10_000)]
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 1e-4
    known = {1: 0.0, 2: 0.1931, 4: 0.6363, 8: 1.2044, 16: 1.8351, 32: 2.4970, 64: 3.1745, 128: 3.8598}
    assert {n: round(kl_upper_bound(n), 4) for n in known} == pytest.approx(known, abs=6e-5)


def test_a_pool_without_ties_has_the_upper_bound_and_one_value_none() -> None:
    for n in (1, 2, 16, 64):
        assert pool_kl(np.arange(64.0), n) == pytest.approx(kl_upper_bound(n), abs=1e-12)
        assert pool_kl(np.zeros(64), n) == pytest.approx(0.0, abs=1e-12)


def test_a_pool_of_repeated_values_has_the_kl_of_its_frequencies() -> None:
    """Every value tied, so no part counts as continuous: the plug-in, exactly."""
    proxy = np.repeat([0.0, 1.0, 2.0, 3.0], [8, 4, 2, 2])
    for n in (2, 5, 16):
        assert pool_kl(proxy, n) == pytest.approx(kl_of_classes(np.array([8, 4, 2, 2]) / 16, n), abs=1e-12)


@pytest.mark.parametrize("n_values", [5, 50, 5000])
def test_the_mean_over_pools_is_near_the_exact_kl(n_values: int) -> None:
    """Pools of 64 of a source with masses drawn evenly from the simplex: the errors that the docstring names."""
    rng = np.random.default_rng(4)
    mass = rng.dirichlet(np.ones(n_values))
    pools = rng.choice(n_values, size=(400, 64), p=mass).astype(float)
    for n, error in ((4, 0.02), (16, 0.1), (64, 0.1)):
        assert np.mean([pool_kl(pool, n) for pool in pools]) == pytest.approx(kl_of_classes(mass, n), abs=error)


def test_an_atom_beside_a_continuous_part() -> None:
    """Half of all draws are one worst value, the rest never tie: q ln(q / p) of the atom and the integral above it,
    by quadrature. A pool of 4,000 has the atom's mass within 1 %."""
    n, pool = 6, np.concatenate([np.full(2000, -1.0), np.arange(2000.0)])
    u = (np.arange(200_000) + 0.5) / 400_000 + 0.5
    ratio = n * u ** (n - 1)
    exact = 0.5**n * math.log(0.5**n / 0.5) + float((ratio * np.log(ratio)).mean() / 2)
    assert pool_kl(pool, n) == pytest.approx(exact, abs=1e-6)
