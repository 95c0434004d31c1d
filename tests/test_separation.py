"""Telling outliers apart: distances, ranks and the linear head against scipy, brute force and what is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.spatial import distance

from hh_scaling.outliers import separations, summarise
from hh_scaling.separation import (
    Gaussian,
    auroc,
    fit_gaussian,
    fit_head,
    mahalanobis,
    outlier_exposure,
    outlier_weights,
    relative_mahalanobis,
)


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Correlated normal rows."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d))


def test_mahalanobis_equals_scipys() -> None:
    known = fit_gaussian(rows(50, 4), shrinkage=0.0)
    inverse = np.linalg.inv(np.cov(rows(50, 4), rowvar=False, bias=True))
    expected = [distance.mahalanobis(x, known.mean, inverse) ** 2 for x in rows(7, 4, seed=1)]
    assert mahalanobis(rows(7, 4, seed=1), known) == pytest.approx(expected, rel=1e-9)


def test_the_mean_distance_of_the_known_rows_is_their_dimension() -> None:
    """tr(S^-1 S) = d, exactly, where nothing is shrunk."""
    known = rows(30, 5)
    assert mahalanobis(known, fit_gaussian(known, shrinkage=0.0)).mean() == pytest.approx(5, rel=1e-9)


def test_the_relative_distance_is_zero_without_correlations() -> None:
    gaussian = Gaussian(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    x = np.array([[3.0, 5.0], [1.0, -1.0]])
    assert mahalanobis(x, gaussian) == pytest.approx([2.0, 1.0])
    assert relative_mahalanobis(x, gaussian) == pytest.approx([0.0, 0.0], abs=1e-12)
    tilted = Gaussian(np.zeros(2), np.array([[1.0, 0.6], [0.6, 1.0]]))  # inverse (1, -.6; -.6, 1) / .64
    expected = [(2 - 1.2) / 0.64 - 2, (2 + 1.2) / 0.64 - 2]
    assert relative_mahalanobis(np.array([[1.0, 1.0], [1.0, -1.0]]), tilted) == pytest.approx(expected)


def test_fewer_rows_than_directions_can_be_used() -> None:
    known = rows(5, 20)
    assert np.isfinite(mahalanobis(rows(3, 20, seed=2), fit_gaussian(known))).all()
    same = np.ones((5, 3))
    assert mahalanobis(same, fit_gaussian(same)) == pytest.approx(np.zeros(5), abs=1e-9)
    with pytest.raises(ValueError, match="1 rows, needed: at least two"):
        fit_gaussian(known[:1])


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)  # with ties
    by_pairs = np.mean([(x > y) + (x == y) / 2 for x in a for y in b])
    value, se = auroc(a, b)
    assert value == pytest.approx(by_pairs, abs=1e-12)
    assert value == pytest.approx(stats.mannwhitneyu(a, b).statistic / (40 * 30), abs=1e-12)
    assert auroc(b, a) == pytest.approx((1 - value, se), abs=1e-12)
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (1.0, 0.0)
    assert np.isnan(auroc(a[:1], b)[1])
    with pytest.raises(ValueError, match="no scores"):
        auroc(a, b[:0])


def test_aurocs_error_is_its_spread() -> None:
    """Two normals a distance 1 apart, whose AUROC is Phi(1 / sqrt 2), drawn 400 times.

    The mean error is the draws' spread within 15 % (a standard deviation of 400 values is known to 3.5 %), and
    intervals of 1.96 errors hold the truth about as often as they ought.
    """
    rng = np.random.default_rng(5)
    found = np.array([auroc(rng.normal(1, 1, 40), rng.normal(0, 1, 60)) for _ in range(400)])
    truth = stats.norm.cdf(1 / np.sqrt(2))
    assert found[:, 0].mean() == pytest.approx(truth, abs=4 * found[:, 0].std() / 20)  # standard errors of 400 draws
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(ddof=1), rel=0.15)
    assert 0.91 < np.mean(np.abs(found[:, 0] - truth) < 1.96 * found[:, 1]) < 0.98


def test_the_head_is_at_the_minimum() -> None:
    """Against scipy's minimiser on the same loss, and with weights that replicate rows."""
    x, labels = rows(60, 3), (np.arange(60) % 3 == 0).astype(float)
    weights = np.where(labels == 1, 2.0, 1.0)

    def loss(theta: np.ndarray) -> float:
        margins = (2 * labels - 1) * (x @ theta[:3] + theta[3])
        return float(weights @ np.log1p(np.exp(-margins)) + 0.5 * 2.0 * theta[:3] @ theta[:3])

    expected = optimize.minimize(loss, np.zeros(4), tol=1e-12)
    head = fit_head(x, labels, weights, ridge=2.0)
    assert loss(head) <= expected.fun + 1e-9
    assert head == pytest.approx(expected.x, abs=1e-4)  # what the minimiser's differences resolve
    twice = np.concatenate([x, x[labels == 1]]), np.concatenate([labels, labels[labels == 1]])
    assert fit_head(*twice, np.ones(len(twice[0])), ridge=2.0) == pytest.approx(head, abs=1e-7)


def test_outliers_count_as_often_as_they_would_be_replicated() -> None:
    assert outlier_weights(100, 10).tolist() == [1.0] * 100 + [10.0] * 10
    assert outlier_weights(5, 10)[-1] == 1.0


def test_few_outliers_find_a_direction_that_distance_does_not_know() -> None:
    """Outside differs in one of 20 directions by a standard deviation and a half: ten examples find it."""
    rng = np.random.default_rng(7)
    known, inside, outside = (rng.normal(size=(200, 20)) for _ in range(3))
    outside[:, 0] += 1.5
    distances = auroc(mahalanobis(outside, fit_gaussian(known)), mahalanobis(inside, fit_gaussian(known)))[0]
    scores = outlier_exposure(known, outside[:10], np.concatenate([inside, outside[10:]]))
    exposed = auroc(scores[200:], scores[:200])[0]
    best = stats.norm.cdf(1.5 / np.sqrt(2))  # of any score
    assert distances < exposed < best + 0.03 and exposed > 0.7
    constant = np.column_stack([known, np.ones(200)])  # a direction without spread is no division by zero
    assert np.isfinite(outlier_exposure(constant, constant[:5] + 1, constant)).all()


def test_separations_of_layers_and_splits() -> None:
    rng = np.random.default_rng(8)
    helpful, harmful = rng.normal(size=(2, 60, 6)), rng.normal(size=(2, 40, 6))
    harmful[1] *= 3  # the second layer tells them apart, the first nothing
    table = separations(helpful, harmful, n_outliers=(1, 10, 35), n_splits=3, seed=0)
    assert set(table.n_outliers) == {0, 1, 10}  # 35 would leave 5
    assert (table.n_known == 30).all() and (table.n_inside == 30).all()
    assert (table.n_outside == 40 - table.n_outliers).all()
    entries = {(e["layer"], e["method"], e["n_outliers"]): e for e in summarise(table)}
    assert len(entries) == 2 * 4 and all(e["n_splits"] == 3 for e in entries.values())
    assert entries[1, "mahalanobis", 0]["auroc"]["value"] > 0.9
    nothing = entries[0, "mahalanobis", 0]["auroc"]
    assert abs(nothing["value"] - 0.5) < 4 * nothing["se"]
    part = table[(table.layer == 1) & (table.method == "mahalanobis")]
    assert entries[1, "mahalanobis", 0]["sd_splits"] == pytest.approx(part.auroc.std())
    again = separations(helpful, harmful, n_outliers=(1, 10), n_splits=3, seed=0)
    assert again.equals(table)
