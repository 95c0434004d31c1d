"""What the report says of laws, peaks, rewards, recipes and predictions; every sentence can come out otherwise."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.results import analyze
from reports.law_figures import COMMON, slopes_table
from reports.law_sentences import law_sentences, law_tables
from reports.result_tables import pooled_table, tax_rows_table
from reports.reward_sentences import prediction_sentences, prediction_table, reward_sentences, reward_tables
from reports.tax_along import reward_table
from tests.fake_runs import Shape, make_runs

Results = dict[str, Any]
SHAPE = Shape(comparisons=(500,), held_out=200, steps=tuple(range(0, 52, 4)))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    runs = make_runs(tmp_path_factory.mktemp("laws"), seeds=(0, 1, 2), shape=SHAPE)
    analyze(runs)
    found: Results = json.loads((runs / "results.json").read_text())
    return found


def changed(results: Results, key: str, **cells: Any) -> Results:
    """The results with those cells in every row of a table."""
    other = copy.deepcopy(results)
    for row in other[key]:
        row |= cells
    return other


def test_laws_peaks_and_the_bound_of_the_fakes(results: Results) -> None:
    """Truth: gold d (1 - .3 d), peak at 1.67, passed; train 1.2 d and more at larger sizes; KL's exponent 1/2."""
    text = " ".join(law_sentences(results))
    assert "The gold score against √KL, by AICc" in text and "d (α − β d) is best" in text
    assert "The law d (α − β d) puts the gold score's peak at √KL 1.6" in text
    assert "the interval holds one half" in text and "of √(2σ²·KL)" in text
    assert "They grow with size" in text  # the train PM's slopes, by .1 per ln N


def test_nothing_is_said_of_a_trend_whose_interval_holds_zero(results: Results) -> None:
    open_ = {"value": 0.1, "se": 0.2, "low": -0.5, "high": 0.7, "n": 12}
    flat = changed(results, "frontier_slopes", per_ln_params=open_, p_equal=0.4, f=1.0, holds_half=False)
    text = " ".join(law_sentences(flat))
    assert "with size" not in text and "do not measurably differ" in text and "excludes one half" in text
    differ = " ".join(law_sentences(changed(results, "frontier_slopes", p_equal=0.0001, per_ln_params=open_)))
    assert "differ between sizes" in differ and "p < 0.001" in differ
    untested = changed(results, "frontier_slopes", p_equal=None, note="no size has two runs", kl_exponent=None)
    assert "cannot be tested: no size has two runs" in " ".join(law_sentences(untested))


def test_what_cannot_be_compared_is_said(results: Results) -> None:
    text = " ".join(law_sentences(changed(results, "frontier_laws", delta_aicc=None, held_out_rmse=None)))
    assert "too few independent points" in text and "two thirds" not in text
    for verdict, words in (("beyond the range", "beyond what was trained"), ("no peak", "nowhere"),
                           ("not identified", "cannot be told")):  # fmt: skip
        assert words in " ".join(law_sentences(changed(results, "frontier_peaks", verdict=verdict)))
    assert "heavier" in " ".join(law_sentences(changed(results, "reward_bound", verdict="above")))
    empty = {key: [] for key in ("frontier_laws", "frontier_slopes", "frontier_peaks", "reward_bound")}
    assert law_sentences(empty) == [] and law_tables(empty) == []


def test_tables_have_a_row_for_every_row(results: Results) -> None:
    laws, peaks = law_tables(results)
    assert len(laws.rows) == len(results["frontier_laws"]) and len(peaks.rows) == len(results["frontier_peaks"])
    (rewards,) = reward_tables(results)
    assert len(rewards.rows) == len(results["tax_per_reward"])
    assert len(prediction_table(results).rows) == len(results["predictions"])
    for table in (laws, peaks, rewards, prediction_table(results), tax_rows_table(results), pooled_table(results)):
        assert {len(row) for row in table.rows} == {len(table.head)}


def test_tax_per_reward_in_words(results: Results) -> None:
    text = " ".join(reward_sentences(results))
    assert "Per unit of gold reward the mean tax at √KL 1.0, in chance-normalised points, is 12k +" in text
    open_ = {"value": 0.1, "se": None, "low": None, "high": None, "n": 9, "kind": "none"}
    assert "not to be told at any size" in " ".join(
        reward_sentences(changed(results, "tax_per_reward", per_reward=open_))
    )
    assert reward_sentences({"tax_per_reward": []}) == [] == reward_tables({})


@pytest.mark.parametrize(
    "verdict, words",
    [("s", "PPO costs less at 12k"), ("s:ptx1", "PPO-ptx 1 costs less at 12k"), ("inconclusive", "neither measurably")],
)
def test_recipes_in_words(verdict: str, words: str) -> None:
    difference = {"value": 0.02, "se": 0.01, "low": 0.001, "high": 0.04, "n": 300, "mde": 0.03}
    row = {"model": "12k", "recipe": "s", "other": "s:ptx1", "reward": 0.7, "verdict": verdict, "tasks": ["t"],
           "difference": difference, "n_seeds": 3, "note": None, "before": "base", "k_shot": 2}  # fmt: skip
    (text,) = reward_sentences({"at_equal_reward": [row, row | {"before": "reference"}]})
    assert words in text and text.startswith("At equal gold reward, 2-shot, ")
    assert "12k +2.0 [+0.1, +4.0] where both had gained 0.70 (1 task, 3 seeds)" in text
    missing = row | {"model": "60k", "difference": None, "note": "no chain has both recipes"}
    (both,) = reward_sentences({"at_equal_reward": [row, missing]})
    assert both.endswith("Not compared: 60k: no chain has both recipes.")
    (neither,) = reward_sentences({"at_equal_reward": [missing]})
    assert neither.endswith("cannot be compared at equal gold reward, 2-shot: 60k: no chain has both recipes.")


def test_predictions_in_words(results: Results) -> None:
    text = " ".join(prediction_sentences(results))
    assert (
        "Without the largest size, the mean tax predicted there, against the last value: log-linear closer in" in text
    )
    lost = " ".join(prediction_sentences(changed(results, "predictions", verdict="loses to last value")))
    assert "log-linear closer in 0 of 1" in lost
    assert prediction_sentences(changed(results, "predictions", verdict=None)) == []


def test_figures_show_what_results_have(results: Results) -> None:
    slopes = slopes_table(results)
    points = slopes[slopes["layer"] == "point"]
    assert len(points) == sum(len(row["slopes"]) for row in results["frontier_slopes"]) == 12
    common = slopes[slopes["series"] == COMMON]
    assert common["y"].tolist() == [row["common"]["value"] for row in results["frontier_slopes"]]
    rewards = reward_table(results)
    measured = [row for row in results["tax_per_reward"] if not row["at"].startswith("gold=")]
    assert len(rewards) == len(measured) > 0
    taxes = {(r["model"], round(r["reward"]["value"], 9)): r["tax"]["value"] * 100 for r in results["tax_per_reward"]}
    assert all(taxes[row.model, round(row.x, 9)] == pytest.approx(row.y) for row in rewards.itertuples())


def test_one_size_has_no_slopes_to_compare(tmp_path: Path) -> None:
    found = analyze(make_runs(tmp_path, sizes=(12_000,), seeds=(0,), shape=SHAPE))
    assert slopes_table(found).empty and not found["predictions"]
    text = " ".join(law_sentences(found))
    assert "against √KL" in text and "differ" not in text
