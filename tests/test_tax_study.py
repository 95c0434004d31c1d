"""Five chains on three bases, with mitigations beside them: what is counted, what is compared, and what is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from analysis.crossed import replicates
from analysis.frames import SHARED_BASE, base_note
from analysis.items import Pair
from analysis.results import SCHEMA_FILE, analyze
from analysis.tax import pooled_taxes, task_rows
from reports.figures import FIGURES
from reports.headlines import tax_headlines
from reports.result_tables import pooled_table, tax_rows_table
from reports.reward_sentences import equal_reward_table as compared_table
from reports.reward_sentences import reward_sentences
from reports.save import render
from reports.tax_along import equal_reward_table, reward_table, sqrt_kl_table
from reports.tax_figures import is_mitigation, recipe_label, tasks_table, tax_table
from reports.tax_sentences import tax_sentences
from tests.fake_runs import Shape, Truth, make_runs

SHAPE = Shape(
    comparisons=(500,), held_out=60, items=400, steps=(0, 5, 20, 50), at=("end", "sqrt_kl=1.0"), n_bases=3,
    ptx_coef=(1.0,), ptx_at=("end", "sqrt_kl=1.0"), ways=True, line_at=(0.5,),
)  # fmt: skip
SIZES = (12_000, 300_000)
PLAIN, TEXT, LINE = "fake", "fake:ptx1", "fake interpolated"
Results = dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No size effect and little noise: 20 points lost at the end, half of it with text, a quarter half way."""
    truth = Truth(tax_per_ln_n_params=0.0, seed_sd_tax=0.005, gold_beta=0.1)
    return make_runs(tmp_path_factory.mktemp("runs"), sizes=SIZES, seeds=(0, 1, 2, 3, 4), shape=SHAPE, truth=truth)


@pytest.fixture(scope="module")
def results(runs: Path) -> Results:
    return analyze(runs)


# ---------------------------------------------------------------- chains on shared bases


def test_what_replicates_is_the_base_where_there_are_several() -> None:
    runs = np.array(["a/0", "a/3", "b/1", "a/0", "c/2"], dtype=object)
    assert replicates(runs).tolist() == [0, 0, 1, 0, 2]
    assert replicates(np.array(["a/0", "a/3", "a/0"], dtype=object)).tolist() == [0, 1, 0]
    assert replicates(np.array(["a/0", "b/0"], dtype=object)).tolist() == [0, 1]
    assert base_note({"a/0", "b/1"}) is None and base_note({"a/0", "a/1"}) == SHARED_BASE
    assert base_note({"a/0", "a/3", "b/1"}) == "3 runs on 2 bases: the interval is over bases"


def crossed_pairs(rng: np.random.Generator, bases: list[int], base_sd: float) -> list[Pair]:
    """One task's items by run with a true tax of 0: a base moves all its runs, a run has a little of its own."""
    n, of_base = 200, base_sd * rng.normal(size=max(bases) + 1)
    item, ones = np.array([f"i{k}" for k in range(n)], dtype=object), np.ones(n)
    found = []
    for seed, base in enumerate(bases):
        loss = of_base[base] + 0.002 * rng.normal() + 0.02 * rng.normal(size=n)
        key = ("t", "cloze", 0, "acc")
        found.append(Pair(f"base{base}/{seed}", key, item, ones, 0 * ones, 0.5 + 0 * ones, 0.5 - loss, True))
    return found


def test_intervals_over_bases_cover_and_over_runs_would_not() -> None:
    """300 draws where bases differ: five runs on three bases cover 95 % less three Monte Carlo errors of 1.3 (and one
    for clusters of unequal size); as if on bases of their own they would not."""
    rng, hits, naive = np.random.default_rng(4), 0, 0
    for _ in range(300):
        pairs = crossed_pairs(rng, [0, 1, 2, 0, 1], 0.02)
        apart = [replace(pair, run=f"own{i}/0") for i, pair in enumerate(pairs)]
        for name, of in (("bases", pairs), ("runs", apart)):
            low, high = pooled_taxes([{"t": of}])[0].estimate.interval()
            assert low is not None and high is not None
            hits += name == "bases" and low <= 0 <= high
            naive += name == "runs" and low <= 0 <= high
    assert hits / 300 >= 0.90 and naive / 300 < 0.90, (hits, naive)


def test_a_row_counts_all_runs_and_rests_on_bases() -> None:
    """By hand: without noise of items the error is that of three base sums, weighted as their runs, on t(2)."""
    item, ones = np.array([f"i{k}" for k in range(50)], dtype=object), np.ones(50)
    loss = {"base0/0": 0.1, "base1/1": 0.2, "base2/2": 0.4, "base0/3": 0.12, "base1/4": 0.22}
    key = ("t", "cloze", 0, "acc")
    pairs = [Pair(run, key, item, ones, 0 * ones, 0.9 * ones, (0.9 - x) * ones, True) for run, x in loss.items()]
    (row,) = task_rows([pairs])
    mean = np.mean(list(loss.values()))
    sums = [(0.1 + 0.12 - 2 * mean) / 5, (0.2 + 0.22 - 2 * mean) / 5, (0.4 - mean) / 5]
    assert row["n_seeds"] == 5 and row["value"] == pytest.approx(mean)
    assert row["se"] == pytest.approx(np.sqrt(1.5 * np.sum(np.square(sums))))
    assert (row["high"] - row["low"]) / 2 / row["se"] == pytest.approx(4.3027, abs=1e-3)


# ---------------------------------------------------------------- the study's results


def test_plain_has_five_runs_on_three_bases_and_mitigations_three(results: Results) -> None:
    for name in ("tax", "pooled"):
        for row in results[name]:
            shared = "5 runs on 3 bases: the interval is over bases"
            assert (row["n_seeds"] == 5) is (row["recipe"] == PLAIN)
            assert ((row["note"] or "").find(shared) >= 0) is (row["recipe"] == PLAIN)
            assert row["n_seeds"] in (3, 5)
    places = {(row["recipe"], row["at"]) for row in results["pooled"] if not row["at"].startswith("gold=")}
    assert places == {
        (PLAIN, "end"), (PLAIN, "sqrt_kl=1.0"), (TEXT, "end"), (TEXT, "sqrt_kl=1.0"), (LINE, "alpha=0.5"),
    }  # fmt: skip
    value = {(r["model"], r["recipe"], r["at"]): r["value"] for r in results["pooled"]}
    for model in ("12k", "300k"):  # 400 items of which a tenth is drawn anew: an error of .01 a mean of two tasks
        assert value[model, PLAIN, "end"] == pytest.approx(0.20, abs=0.04)
        assert value[model, TEXT, "end"] == pytest.approx(0.10, abs=0.04)
        assert value[model, LINE, "alpha=0.5"] == pytest.approx(0.05, abs=0.04)


def test_every_recipe_has_its_tax_per_reward(results: Results) -> None:
    found = {(r["recipe"], r["at"]) for r in results["tax_per_reward"] if not r["at"].startswith("gold=")}
    assert found == {(r["recipe"], r["at"]) for r in results["pooled"] if not r["at"].startswith("gold=")}


def test_mitigations_are_compared_at_equal_reward_on_common_chains(results: Results) -> None:
    """Text pays half at every reward; a line has less to pay for .4 more gold. Both are cheaper by more than noise."""
    rows = results["at_equal_reward"]
    assert [(r["model"], r["other"]) for r in rows] == [(m, o) for m in ("12k", "300k") for o in (TEXT, LINE)]
    for row in rows:
        assert (row["recipe"], row["before"], row["k_shot"], row["n_seeds"]) == (PLAIN, "base", 0, 3)
        assert row["reward"] > 0 and row["note"] is None and row["difference"]["value"] > 0
        between = row["tax"]["value"] - row["other_tax"]["value"]
        assert row["difference"]["value"] == pytest.approx(between)


def test_claims_and_fits_are_of_the_main_recipe(results: Results) -> None:
    assert not any("ptx" in json.dumps(claim) or "interpolated" in json.dumps(claim) for claim in results["claims"])
    fits = [f for f in results["fits"] if f["y"] == "score_gold" and f["group"] == "12k"]
    assert len(fits) == 4 and all(f["n_clusters"] == 3 for f in fits)
    assert all("shared_base" in [note["code"] for note in f["notes"]] for f in fits)


def test_results_follow_the_schema(runs: Path, results: Results) -> None:
    jsonschema.validate(json.loads((runs / "results.json").read_text()), json.loads(SCHEMA_FILE.read_text()))
    assert {row["recipe"] for row in results["benchmarks"]} == {None, PLAIN, TEXT, PLAIN}


# ---------------------------------------------------------------- report


@pytest.mark.parametrize(
    ("recipe", "label", "mitigation"),
    [(PLAIN, "PPO", False), (TEXT, "PPO-ptx 1", True), (LINE, "interpolated", True), ("x:3f2a1b", "x:3f2a1b", False),
     ("x:ptx0.5 interpolated", "PPO-ptx 0.5, interpolated", True)],
)  # fmt: skip
def test_recipes_have_short_names(recipe: str, label: str, mitigation: bool) -> None:
    assert recipe_label(recipe) == label and is_mitigation(recipe) is mitigation


def test_figures_have_the_mitigations_on_the_same_axes(results: Results) -> None:
    along, reward, equal = (make(results) for make in (sqrt_kl_table, reward_table, equal_reward_table))
    for table in (along, reward):
        assert list(dict.fromkeys(table["panel"])) == ["12k", "300k"]
        for _, panel in table.groupby("panel"):
            assert set(panel["series"]) == {"PPO", "PPO-ptx 1", "interpolated"} and len(panel) == 5
    assert along[["x", "y", "low", "high"]].notna().all(axis=None)
    taxes = {(r["model"], recipe_label(r["recipe"]), r["at_sqrt_kl"]): r["value"] * 100 for r in results["pooled"]}
    assert all(taxes[row.model, row.series, row.x] == pytest.approx(row.y) for row in along.itertuples())
    rewards = {round(r["reward"]["value"], 9): r["tax"]["low"] * 100 for r in results["tax_per_reward"]}
    assert all(rewards[round(row.x, 9)] == pytest.approx(row.low) for row in reward.itertuples())
    assert list(dict.fromkeys(equal["panel"])) == ["PPO-ptx 1", "interpolated"] and len(equal) == 8
    by_size = tax_table(results)
    series = set(by_size.loc[by_size["layer"] == "point", "series"])
    assert any(TEXT in name for name in series) and any("alpha 0.5" in name for name in series)
    assert not any("1.0" in name and TEXT in name for name in series)


def test_before_and_after_are_of_the_main_recipe(results: Results) -> None:
    """The mean at the end is over the five plain policies: policies with text would lift it."""
    table = tasks_table(results)
    rows = [
        r["score"]["value"] for r in results["benchmarks"]
        if (r["model"], r["task"], r["at"], r["recipe"]) == ("12k", "world_facts", "end", PLAIN)
    ]  # fmt: skip
    shown = table[(table["model"] == "12k") & (table["series"] == "end of RLHF")]
    shown = shown[shown["panel"].str.startswith("world_facts (")]
    assert len(rows) == 5 and shown["y"].tolist() == [pytest.approx(np.mean(rows))]


def test_the_figures_can_be_drawn(results: Results) -> None:
    for spec in FIGURES:
        if spec.name.startswith("tax-"):
            table = spec.table(results)
            assert render(spec.draw, table, spec.size(table), synthetic=True)


def test_words_and_tables_tell_recipes_apart(results: Results) -> None:
    text = " ".join(tax_sentences(results))
    assert "at the end of RLHF (fake:ptx1)" in text and "alpha" not in text
    (with_text, line) = [s for s in reward_sentences(results) if s.startswith("At equal gold reward")]
    assert "mean tax of PPO minus that of PPO-ptx 1" in with_text and "that of interpolated" in line
    assert "(2 tasks, 3 seeds)" in with_text and "where both had gained" in line
    assert not any("ptx" in headline.name for headline in tax_headlines(results))
    for table in (pooled_table(results), tax_rows_table(results)):
        assert {"end of RLHF (PPO)", "end of RLHF (PPO-ptx 1)"} <= {
            row[2 if "task" in table.head else 1] for row in table.rows
        }
    assert len(compared_table(results).rows) == len(results["at_equal_reward"])
    unknown = [{**row, "difference": None, "note": "no common task"} for row in results["at_equal_reward"]]
    assert "cannot be compared at equal gold reward: 12k: no common task" in " ".join(
        reward_sentences({"at_equal_reward": unknown})
    )
