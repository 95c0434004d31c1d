"""The tax at equal gold reward, per unit of it, and recipes beside each other: closed forms and truths put in."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.crossed import mean_term
from analysis.estimates import Estimate
from analysis.frames import load_study
from analysis.frontier import Curve, load_curves
from analysis.items import TaskItems, split_tasks
from analysis.ratios import fieller_ratio, ratios
from analysis.results import SCHEMA_FILE, analyze, tax_paths
from analysis.reward_paths import Path as RewardPath
from analysis.reward_paths import Place, common_reward, one_scale
from analysis.tax_reward import equal_reward_rows
from analysis.tax_sizes import benchmark_items
from hh_scaling.records import Record
from tests.fake_runs import Shape, Truth, make_runs
from tests.test_tax import items

SHAPE = Shape(comparisons=(500,), at=("sqrt_kl=1.0", "end"), prompts=200)
TRUTH = Truth(gold_beta=0.1, seed_sd_tax=0.0)  # gold = d (1 - .1 d): rises over all of the path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    return make_runs(folder, sizes=(12_000, 60_000, 300_000), seeds=(0, 1, 2), shape=SHAPE, truth=TRUTH)


@pytest.fixture(scope="module")
def results(runs: Path) -> dict[str, Any]:
    return analyze(runs)


def score_items(score: Any) -> dict[Any, TaskItems]:
    return split_tasks(items(np.asarray(score, dtype=float)))


@lru_cache
def first_curve(runs: Path) -> Curve:
    return load_curves(load_study(runs))[0]


def path_of(runs: Path, recipe: str, *places: tuple[float, float, Any], start: Any) -> RewardPath:
    """A path whose checkpoints have (sqrt(KL), rise, items), the rise the same for every prompt."""
    curve = first_curve(runs)
    found = tuple(Place(f"{root}", root, np.full(4, rise), score_items(s)) for root, rise, s in places)
    names = np.array(list("abcd"), dtype=object)
    return RewardPath(curve.record, curve.model, "base/0", recipe, names, score_items(start), found)


def test_items_between_checkpoints_by_hand(runs: Path) -> None:
    """Rises 1 at sqrt(KL) 1 and 3 at 2: half is half way to the first, 2.5 three quarters from the first to the second;
    the fall to 0 behind them is never reached. What was not reached has no place."""
    path = path_of(runs, "r", (1.0, 1.0, [1, 0]), (2.0, 3.0, [0, 0]), (4.0, 0.0, [1, 1]), start=[1, 1])
    for reward, score, root in ((0.5, [1, 0.5], 0.5), (2.5, [0.25, 0], 1.75), (1.0, [1, 0], 1.0)):
        place = path.at_reward(reward)
        assert place is not None and place.at == f"gold={reward:g}"
        (task,) = place.items.values()
        assert task.score == pytest.approx(score) and place.sqrt_kl == pytest.approx(root)
        assert place.rise == pytest.approx(np.full(4, reward))
    assert path.at_reward(3.5) is None and path.at_reward(0.0) is None


def test_a_common_reward_is_reached_by_all_and_measurably(runs: Path) -> None:
    one = path_of(runs, "r", (1.0, 0.0567, [1, 0]), start=[1, 1])
    two = path_of(runs, "r", (1.0, 2.0, [1, 0]), start=[1, 1])
    assert common_reward([one, two]) == 0.056 and common_reward([two]) == 2.0 and common_reward([]) is None
    noisy = replace(one, places=(replace(one.places[0], rise=np.array([2.0, -1.9, 1.5, -1.4])),))
    assert common_reward([two, noisy]) is None


def test_the_tax_at_equal_reward_is_that_of_the_truth(results: dict[str, Any]) -> None:
    """The fakes pay half their tax at the first evaluation past sqrt(KL) 1 and all at the end; the gold score is d (1 -
    .1 d). The share paid where all have risen by r is read off these two points, by hand."""
    rows = [row for row in results["pooled"] if row["at"].startswith("gold=")]
    assert len(rows) == 3 and len({row["at"] for row in rows}) == 1
    reward = float(rows[0]["at"].removeprefix("gold="))
    d = TRUTH.max_sqrt_kl * (np.array(SHAPE.steps) / SHAPE.steps[-1]) ** 0.7
    first = d[d >= 1.0][0]
    gold = lambda x: x * (1 - TRUTH.gold_beta * x)  # noqa: E731
    paid = 0.5 + 0.5 * (reward - gold(first)) / (gold(d[-1]) - gold(first))
    assert gold(first) < reward < gold(d[-1]) + 0.1
    for row in rows:
        growth = math.log(row["n_params"] / 12_000)
        tax = paid * (TRUTH.tax_at_smallest + TRUTH.tax_per_ln_n_params * growth)
        assert row["low"] < tax < row["high"] and row["n_seeds"] == 3
        assert first < row["at_sqrt_kl"] < d[-1] + 0.1
    assert [r for r in results["crossover"] if r["at"] == rows[0]["at"] and r["task"] == "pooled"][0]["slope"]


def test_tax_per_reward_is_both_of_the_same_runs(results: dict[str, Any]) -> None:
    pooled = {(row["model"], row["at"]): row for row in results["pooled"]}
    for row in results["tax_per_reward"]:
        beside = pooled[row["model"], row["at"]]
        assert row["tax"]["value"] == pytest.approx(beside["value"]) and row["tasks"] == beside["tasks"]
        assert row["per_reward"]["value"] == pytest.approx(row["tax"]["value"] / row["reward"]["value"])
        if row["at"] == "end":  # gold 2.1 at sqrt(KL) 3
            tax = TRUTH.tax_at_smallest + TRUTH.tax_per_ln_n_params * math.log(row["n_params"] / 12_000)
            assert row["per_reward"]["low"] < tax / 2.1 < row["per_reward"]["high"]
            ends = [
                r["score_gold"]["value"] for r in results["frontier"] if r["model"] == row["model"] and r["step"] == 50
            ]
            assert row["reward"]["value"] == pytest.approx(np.mean(ends)) and row["reward"]["n"] == 200


def test_without_a_gold_score_or_on_several_scales_there_is_none(runs: Path) -> None:
    study = load_study(runs)
    curves, found = load_curves(study), benchmark_items(study)
    blind = [replace(c, values={k: v for k, v in c.values.items() if k != "gold"}) for c in curves]
    assert tax_paths(study, blind, found) == []
    judged = [
        replace(c, record=replace(c.record, summary=c.record.summary | {"gold_source": c.model.name})) for c in curves
    ]
    paths = tax_paths(study, curves, found)
    assert len(paths) == 9 and one_scale(paths, curves) and not one_scale(paths, judged)
    assert tax_paths(study, judged, found) == [] and "scales differ" in study.excluded[-1]["reason"]


def test_a_reward_that_some_run_never_had_is_said(tmp_path: Path) -> None:
    falling = replace(TRUTH, gold_alpha=-0.5)
    found = analyze(make_runs(tmp_path, sizes=(12_000,), seeds=(0, 1), shape=SHAPE, truth=falling))
    assert not [row for row in found["tax"] if row["at"].startswith("gold")]
    assert any("did not rise measurably" in row["reason"] for row in found["excluded"])


# ---------------------------------------------------------------- recipes


def recipe_paths(runs: Path, ptx_loss: float, seed: int = 0) -> tuple[list[RewardPath], Any]:
    """Plain RLHF loses 30 % of right answers at reward 2, another recipe ``ptx_loss``, over four chains."""
    rng = np.random.default_rng(seed)
    before = np.ones(400)
    paths, befores = [], [("base", score_items(before))]
    for chain in range(4):
        for recipe, lost in (("plain", 0.3), ("with ptx", ptx_loss)):
            after = (rng.random(400) >= lost).astype(float)
            path = path_of(runs, recipe, (1.0, 2.0, after), start=before)
            rise = np.full(4, 2.0) + 1e-3 * rng.normal(size=4)
            paths.append(replace(path, chain=f"b/{chain}", places=(replace(path.places[0], rise=rise),)))
    return paths, lambda policy: befores


def test_recipes_at_equal_reward(runs: Path) -> None:
    paths, befores = recipe_paths(runs, 0.1)
    (row,) = equal_reward_rows(paths, befores)
    assert row["verdict"] == "with ptx" and row["n_seeds"] == 4 and row["reward"] == pytest.approx(2.0, abs=0.11)
    share = row["reward"] / 2  # of the way, since nothing was lost at the start; chance is a quarter
    assert row["difference"]["value"] == pytest.approx(share * 0.2 / 0.75, abs=0.04)
    assert row["tax"]["value"] - row["other_tax"]["value"] == pytest.approx(row["difference"]["value"])
    assert equal_reward_rows(*recipe_paths(runs, 0.3))[0]["verdict"] == "inconclusive"
    assert equal_reward_rows(*recipe_paths(runs, 0.6))[0]["verdict"] == "plain"
    assert equal_reward_rows(paths[::2], befores) == []  # one recipe alone


def test_recipes_without_a_common_chain_or_reward(runs: Path) -> None:
    paths, befores = recipe_paths(runs, 0.1)
    apart = [p if p.recipe == "plain" else replace(p, chain=f"other {p.chain}") for p in paths]
    assert equal_reward_rows(apart, befores)[0]["note"] == "no chain has both recipes"
    low = [p if p.recipe == "plain" else replace(p, places=(replace(p.places[0], rise=np.zeros(4)),)) for p in paths]
    row = equal_reward_rows(low, befores)[0]
    assert row["verdict"] == "inconclusive" and row["difference"] is None and "measurably" in row["note"]


def test_an_interpolation_is_a_recipe_that_ends_where_training_did(runs: Path) -> None:
    """Half way between the weights: half the gold score's rise at the end, and a tenth of the answers lost."""
    study, curves = load_study(runs), load_curves(load_study(runs))
    found: dict[str, Any] = dict(benchmark_items(study))
    curve = curves[0]
    line = Record("line", "interpolation", "done", {}, {"policy": curve.record.stage_id, **curve.record.parents} | {
        "policy": curve.record.stage_id}, summary=curve.record.summary)  # fmt: skip
    bench = Record("line-bench", "benchmark", "done", {"at": "alpha=0.5"}, {"model": "line"})
    plain = tax_paths(study, curves, found)
    path = next(p for p in plain if p.record.stage_id == curve.record.stage_id)
    found["line-bench"] = {k: replace(v, score=np.where(np.arange(len(v.score)) % 10 == 0, 0.0, v.score))
                           for k, v in path.start.items()}  # fmt: skip
    study.records |= {"line": line, "line-bench": bench}
    folder = study.folder(line)
    folder.mkdir(parents=True)
    half = curve.values["gold"][0] + 0.5 * curve.relative("gold")[-1]  # type: ignore[index]
    table = {"alpha": 0.5, "prompt_id": curve.prompts, "kl_exact": 2.25, "gold": half}
    pd.DataFrame(table).sample(frac=1, random_state=0).to_parquet(folder / "evals.parquet", index=False)
    paths = tax_paths(study, curves, found)
    (between,) = [p for p in paths if p.recipe.endswith("interpolated")]
    assert [place.at for place in between.places] == ["alpha=0.5", "end"] and len(paths) == len(plain) + 1
    assert between.places[0].reward == pytest.approx(path.places[-1].reward / 2)
    assert between.places[0].sqrt_kl == 1.5 and between.chain == path.chain
    rows = equal_reward_rows([path, between], lambda policy: [("base", path.start)])
    assert rows[0]["other"].endswith("interpolated") and rows[0]["difference"] is not None


# ---------------------------------------------------------------- ratios


def test_a_ratio_of_independent_means_is_fiellers_textbook_interval() -> None:
    """Fieller for independent normals: (ab +- sqrt(a2b2 - (a2 - t2 va)(b2 - t2 vb))) / (b2 - t2 vb)."""
    a, b, va, vb, df = 0.3, 2.0, 0.01, 0.16, 20
    found = fieller_ratio(Estimate(a, math.sqrt(va), 50, df), Estimate(b, math.sqrt(vb), 9, df),
                          Estimate(a - b, math.sqrt(va + vb), 50, df))  # fmt: skip
    t2 = stats.t.ppf(0.975, df) ** 2
    bottom, root = b * b - t2 * vb, math.sqrt((a * b) ** 2 - (a * a - t2 * va) * (b * b - t2 * vb))
    assert (found.low, found.high) == pytest.approx(((a * b - root) / bottom, (a * b + root) / bottom))
    assert found.kind == "interval" and found.value == pytest.approx(a / b) and found.to_dict()["se"] is None
    unclear = fieller_ratio(Estimate(a, 0.1, 50, df), Estimate(0.1, 1.0, 9, df), Estimate(a - 0.1, 1.005, 50, df))
    assert (
        unclear.kind != "interval"
        and fieller_ratio(Estimate(a, 0.1, 9), Estimate(0.0, 1.0, 9), Estimate(a, 1.0, 9)).kind == "none"
    )


def crossing_draw(rng: np.random.Generator, runs: int, items_: int) -> tuple[Any, Any]:
    """Tax .1 and reward 2 with run effects that go together, on 150 items and 100 prompts."""
    effect = rng.normal(size=runs)
    item = np.tile(np.array([f"i{k}" for k in range(items_)], dtype=object), runs)
    prompt = np.tile(np.array([f"prompt {k}" for k in range(100)], dtype=object), runs)
    run = [np.repeat(np.array([f"r{k}" for k in range(runs)], dtype=object), n) for n in (items_, 100)]
    tax = (
        0.1
        + 0.02 * np.repeat(effect, items_)
        + np.tile(rng.normal(0, 0.2, items_), runs)
        + rng.normal(0, 0.2, runs * items_)
    )
    rise = 2.0 + 0.3 * np.repeat(effect, 100) + np.tile(rng.normal(0, 1, 100), runs) + rng.normal(0, 1, runs * 100)
    return mean_term(tax, item, run[0]), mean_term(rise, prompt, run[1])


def test_tax_per_reward_covers_with_runs_that_pay_and_gain_together() -> None:
    """300 draws of four runs: 95 % less three Monte Carlo errors of 1.3."""
    rng, inside = np.random.default_rng(8), 0
    for _ in range(300):
        top, bottom = crossing_draw(rng, 4, 150)
        (ratio,) = ratios([0], lambda _, t=top: t, lambda _, b=bottom: b)
        assert ratio is not None
        inside += (ratio.low is None or ratio.low <= 0.05) and (ratio.high is None or ratio.high >= 0.05)
    assert inside / 300 >= 0.91


def test_results_follow_the_schema(runs: Path, results: dict[str, Any]) -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.validate(json.loads((runs / "results.json").read_text()), schema)
    assert results["tax_per_reward"] and results["at_equal_reward"] == []
    assert {"tax_per_reward", "at_equal_reward"} <= set(schema["required"])
