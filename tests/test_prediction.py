"""Predicting the largest sizes from the others, beside forecasts that need no law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.prediction import Series, prediction_rows, tax_series
from analysis.results import analyze
from tests.fake_runs import Shape, Truth, make_runs

SIZES = np.geomspace(1e4, 1e7, 6)


def series(y: Any, laws: tuple[str, ...] = ("log-linear",), x: Any = SIZES) -> Series:
    return Series("q", "g", "n_params", np.asarray(x, dtype=float), np.asarray(y, dtype=float), laws)


def test_a_true_line_is_predicted_and_beats_the_last_value() -> None:
    for row in prediction_rows([series(1.0 + 0.1 * np.log(SIZES))]):
        assert row["error"] == pytest.approx(0, abs=1e-9) and row["verdict"] == "beats last value"
        gap = 0.1 * np.log(SIZES[-1] / SIZES[-row["left_out"] - 1])
        assert row["last_value_error"] == pytest.approx(-gap)
        assert row["decades"] == pytest.approx(np.log10(SIZES[-1] / SIZES[-row["left_out"] - 1]))


def test_a_law_that_loses_to_the_last_value_is_marked() -> None:
    level = [0.5, 0.6, 0.7, 0.8, 0.8, 0.8]  # rises, then stays
    rows = prediction_rows([series(level)])
    assert [row["verdict"] for row in rows] == ["loses to last value"] * 2
    assert rows[0]["fitted_to"] == pytest.approx(SIZES[:5]) and len(rows[1]["fitted_to"]) == 4


def test_the_band_is_least_squares_prediction_interval() -> None:
    """scipy's line on the first five; the textbook interval of one new observation with t on 3."""
    rng = np.random.default_rng(0)
    y = 1.0 + 0.1 * np.log(SIZES) + 0.05 * rng.normal(size=6)
    row = prediction_rows([series(y)])[0]
    x, new = np.log(SIZES[:5]), np.log(SIZES[5])
    line = stats.linregress(x, y[:5])
    residual = y[:5] - line.intercept - line.slope * x
    s = np.sqrt(residual @ residual / 3)
    half = stats.t.ppf(0.975, 3) * s * np.sqrt(1 + 1 / 5 + (new - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    assert row["predicted"] == pytest.approx(line.intercept + line.slope * new)
    assert (row["low"], row["high"]) == pytest.approx((row["predicted"] - half, row["predicted"] + half), rel=1e-6)


def test_bands_cover_what_was_left_out() -> None:
    """1,000 draws of a line with two base models a size: 95 % less three Monte Carlo errors of .7."""
    rng, x, inside = np.random.default_rng(1), np.repeat(SIZES, 2), 0
    for _ in range(1000):
        y = 0.5 + 0.02 * np.log(x) + 0.03 * rng.normal(size=12)
        inside += bool(prediction_rows([series(y, x=x)])[0]["in_band"])
    assert 0.93 <= inside / 1000 <= 0.97


def test_a_saturating_law_wins_where_it_is_true() -> None:
    x = np.geomspace(1e3, 1e8, 8)
    y = 0.5 + 0.4 / (1 + 30 * x**-0.4)
    rows = {(r["law"], r["left_out"]): r for r in prediction_rows([series(y, ("log-linear", "pm-accuracy"), x)])}
    assert abs(rows["pm-accuracy", 1]["error"]) < 1e-4 < abs(rows["log-linear", 1]["error"])


def test_too_few_sizes_have_no_row_or_say_what_is_missing() -> None:
    assert prediction_rows([series([1.0, 2.0], x=[1e4, 1e5])]) == []
    short = prediction_rows([series([0.6, 0.7, 0.8], ("log-linear", "pm-accuracy"), [1e4, 1e5, 1e6])])
    assert [row["left_out"] for row in short] == [1, 1]
    assert short[0]["predicted"] == pytest.approx(0.8) and short[0]["low"] is None  # a line through two points
    assert short[1]["predicted"] is None and "needed" in short[1]["note"] and short[1]["verdict"] is None
    bad = prediction_rows([series([0.6, 1.7, 0.8, 0.9], ("pm-accuracy",), [1e4, 1e5, 1e6, 1e7])])
    assert "within" in bad[0]["note"] and bad[0]["predicted"] is None


def test_means_over_other_suites_are_no_series() -> None:
    row = {"at": "end", "before": "base", "suite": "own", "recipe": "r", "k_shot": 0, "n_params": 1, "value": 0.1}
    assert tax_series([row]) == [] and len(tax_series([row | {"suite": "common"}])) == 1


def test_a_study_is_asked_for_its_largest_sizes(tmp_path: Path) -> None:
    shape = Shape(comparisons=(500, 2000), held_out=200, at=("end",), items=120)
    steep = Truth(accuracy_per_ln_n_params=0.03, tax_per_ln_n_params=-0.05)
    rows = analyze(make_runs(tmp_path, seeds=(0, 1, 2), shape=shape, truth=steep))["predictions"]
    assert {row["quantity"] for row in rows} == {"pm accuracy", "pm log_loss", "score per sqrt(KL)", "mean tax"}
    found = {(r["quantity"], r["group"], r["law"], r["left_out"]): r for r in rows}
    accuracy = found["pm accuracy", "pm n=2000", "log-linear", 1]
    assert accuracy["in_band"] and accuracy["verdict"] == "beats last value"  # .05 higher at the largest size
    assert found["mean tax", "fake 0-shot", "log-linear", 1]["verdict"] == "beats last value"
