"""Estimates that stages write: length-controlled scores and distinct-n against formulas and brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from hh_scaling.estimates import clustered_mean, distinct, length_controlled_change, square_root

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def controlled(arrays: Arrays, clusters: Any = None) -> dict[str, Any]:
    found = length_controlled_change(*arrays, clusters)
    assert found is not None
    return found


def grown(n: int, seed: int) -> Arrays:
    """Scores of 0.2 a word and 0.5 besides, on responses six words longer than at the start."""
    rng = np.random.default_rng(seed)
    level, first_length = rng.normal(size=n), rng.integers(5, 25, n).astype(float)
    length = first_length + rng.integers(-3, 16, n)
    first = 0.2 * first_length + level
    return 0.2 * length + 0.5 + level + 0.3 * rng.normal(size=n), length, first, first_length


def test_what_came_with_length_is_taken_out() -> None:
    """Without noise the rest is exact: 0.5, while the plain change is 0.5 and 0.2 a word."""
    length, first_length = np.array([8.0, 12.0, 16.0]), np.array([4.0, 6.0, 8.0])
    arrays = (0.2 * length + 0.5, length, 0.2 * first_length, first_length)
    assert controlled(arrays)["value"] == pytest.approx(0.5)
    assert clustered_mean(arrays[0] - arrays[2])["value"] == pytest.approx(0.5 + 0.2 * 6)


def test_its_error_is_the_jackknifes_over_clusters() -> None:
    """Both are consistent: 5 % with 150 clusters of two."""
    arrays, clusters = grown(300, 0), np.repeat(np.arange(150), 2)
    found = controlled(arrays, clusters)
    left = [controlled(tuple(x[clusters != c] for x in arrays))["value"] for c in range(150)]  # type: ignore[arg-type]
    jackknife = np.sqrt(149 / 150 * np.sum((np.array(left) - np.mean(left)) ** 2))
    assert found["se"] == pytest.approx(jackknife, rel=0.05) and found["n"] == 300


def test_its_error_is_the_spread_over_new_prompts() -> None:
    """400 evaluations of 100 prompts: mean error against the spread of the estimates, 10 % (Monte Carlo 3.5 %)."""
    found = [controlled(grown(100, seed)) for seed in range(400)]
    values = [one["value"] for one in found]
    assert np.mean([one["se"] for one in found]) == pytest.approx(np.std(values, ddof=1), rel=0.1)
    assert abs(np.mean(values) - 0.5) < 4 * stats.sem(values)


def test_lengths_that_are_all_the_same_cannot_be_controlled_for() -> None:
    s, x = np.array([1.0, 2.0, 3.0]), np.full(3, 7.0)
    assert length_controlled_change(s, x, s, np.array([5.0, 6.0, 7.0]), None) is None
    assert controlled((s, x, np.zeros(3), x)) == clustered_mean(s)  # as long as at the start: the plain change


def brute_distinct(texts: list[list[str]], n: int) -> float:
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams)


def test_distinct_counts_n_grams_over_all_texts() -> None:
    """By hand: 3 of 6 words and 3 of 4 pairs differ; pairs do not run from one text into the next."""
    texts = [["a", "b", "c"], ["a", "b", "a"]]
    assert distinct(texts, 1) == {"value": 3 / 6, "se": pytest.approx(abs(1 - 2 / 3) / 2), "n": 2}
    found = distinct(texts, 2)
    assert found is not None and found["value"] == 3 / 4
    assert distinct([["a"], []], 2) is None


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_error_of_distinct_is_the_brute_force_jackknife(n: int) -> None:
    rng = np.random.default_rng(0)
    texts = [[str(w) for w in rng.zipf(1.5, rng.integers(0, 12)) if w < 300] for _ in range(60)]
    clusters = [i // 3 for i in range(60)]
    found = distinct(texts, n, clusters)
    assert found is not None and found["value"] == brute_distinct(texts, n)
    left = [brute_distinct([t for t, c in zip(texts, clusters, strict=True) if c != out], n) for out in range(20)]
    assert found["se"] == pytest.approx(np.sqrt(19 / 20 * np.sum((np.array(left) - np.mean(left)) ** 2)))


def test_square_roots_keep_their_errors_honest() -> None:
    assert square_root({"value": 4.0, "se": 0.4, "n": 9}) == {"value": 2.0, "se": pytest.approx(0.1), "n": 9}
    assert square_root({"value": -0.1, "se": 0.4, "n": 9}) == {"value": 0.0, "se": None, "n": 9}
    assert square_root({"value": 0.0, "se": 0.0, "n": 9})["se"] == 0.0
    assert square_root({"value": 4.0, "se": None, "n": 1})["se"] is None
