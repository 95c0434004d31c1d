"""The check of the learning-rate rules: pairing by hand, verdicts by rule, coverage, and a fake study."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.estimates import mean, paired_difference
from analysis.frames import Model, Study, load_study
from analysis.frontier import load_curves
from analysis.held_out import pm_scores
from analysis.pools import preference_models
from analysis.rate_check import NOT_ESTABLISHED, WITHIN, _kind_rows, differences_of, judge, rate_check, values_of
from analysis.rate_points import BASE, GOLD, Arm, RateSize, Run
from tests.fake_runs import Shape, Truth, make_runs

SHAPE = Shape(
    comparisons=(500, 2000), held_out=400, prompts=48, items=8, steps=(0, 10, 20, 40), at=("end",),
    rate_factor=(0.5, 2.0), documents=True,
)  # fmt: skip
COST = Truth.rate_cost * math.log(2) ** 2


def checked(runs: Path) -> list[dict[str, Any]]:
    study = load_study(runs)
    scores = pm_scores(study)
    return rate_check(study, preference_models(study, scores), load_curves(study), scores)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("rates"), sizes=(12_000, 300_000), seeds=(0, 1, 2), shape=SHAPE)


@pytest.fixture(scope="module")
def rows(runs: Path) -> list[dict[str, Any]]:
    return checked(runs)


def pick(rows: list[dict[str, Any]], kind: str, model: str, factor: float) -> dict[str, Any]:
    (row,) = [r for r in rows if (r["kind"], r["model"], r["rate_factor"]) == (kind, model, factor)]
    return row


# ---------------------------------------------------------------- a whole fake study


def test_there_is_a_row_for_every_kind_size_and_factor(rows: list[dict[str, Any]]) -> None:
    assert [(r["kind"], r["model"], r["rate_factor"]) for r in rows] == [
        (kind, model, factor) for kind in ("base", "pm", "ppo") for model in ("12k", "300k") for factor in (0.5, 1, 2)
    ]
    assert all(r["n_seeds"] == 3 and (r["difference"] is None) == (r["rate_factor"] == 1) for r in rows)
    assert {r["measure"] for r in rows} == {"held_out_loss", "log_loss", "gold"}
    assert all((r["sqrt_kl"] is None) == (r["kind"] != "ppo") for r in rows)


def test_bases_are_paired_by_document_and_seed(runs: Path, rows: list[dict[str, Any]]) -> None:
    """By hand: every seed's ratio sum(nats) / sum(tokens) at twice the rate minus at once."""
    study, loss = load_study(runs), {}
    for record in study.of_kind("base"):
        if study.model(record).name == "12k":
            frame = pd.read_parquet(study.folder(record) / "held_out.parquet")
            factor = record.config["training"]["schedule"]["rate_factor"]
            loss[factor, record.config["seed"]] = frame.nats.sum() / frame.tokens.sum()
    row = pick(rows, "base", "12k", 2.0)
    assert row["value"]["value"] == pytest.approx(np.mean([loss[2.0, seed] for seed in range(3)]))
    wanted = np.mean([loss[2.0, seed] - loss[1.0, seed] for seed in range(3)])
    assert row["difference"]["value"] == pytest.approx(wanted) and row["difference"]["n"] == 100
    assert abs(row["difference"]["value"] - COST) < 4 * row["difference"]["se"] < 0.1 * row["value"]["se"] * 4
    assert row["verdict"] == WITHIN and row["best_factor"] == 1.0


def test_pms_are_paired_by_comparison_and_seed(runs: Path, rows: list[dict[str, Any]]) -> None:
    study, loss = load_study(runs), {}
    for record in study.of_kind("pm"):
        config = record.config
        if config["size"]["name"] == "300k" and config["half"] == "train" and config["n_comparisons"] == 2000:
            frame = pd.read_parquet(study.folder(record) / "scores.parquet")
            values = np.logaddexp(0, frame.score_rejected - frame.score_chosen)
            loss[config["training"]["schedule"]["rate_factor"], config["seed"]] = values.mean()
    row = pick(rows, "pm", "300k", 0.5)
    assert row["value"]["value"] == pytest.approx(np.mean([loss[0.5, seed] for seed in range(3)]))
    wanted = np.mean([loss[0.5, seed] - loss[1.0, seed] for seed in range(3)])
    assert row["difference"]["value"] == pytest.approx(wanted)


def test_policies_are_judged_by_gold_at_the_end(runs: Path, rows: list[dict[str, Any]]) -> None:
    """Mean of the last two evaluations minus the start, in the start's standard deviations, seed by seed."""
    study, gain = load_study(runs), []
    for record in study.of_kind("ppo"):
        schedule = record.config["training"]["schedule"]
        if record.config["size"]["name"] == "12k" and schedule["rate_factor"] == 2.0:
            frame = pd.read_parquet(study.folder(record) / "evals.parquet")
            gold = frame.pivot(index="step", columns="prompt_id", values="gold").to_numpy()
            gain.append((gold[-2:].mean(axis=0) - gold[0]).mean() / gold[0].std(ddof=1))
    assert len(gain) == 3 and pick(rows, "ppo", "12k", 2.0)["value"]["value"] == pytest.approx(np.mean(gain))


def test_without_documents_the_numbers_alone_are_compared(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, sizes=(12_000,), seeds=(0, 1), shape=replace(SHAPE, documents=False))
    row = pick(checked(runs), "base", "12k", 2.0)
    assert row["difference"]["value"] == pytest.approx(COST) and "not paired" in row["note"]
    assert row["difference"]["se"] == pytest.approx(math.hypot(0.01, 0.01))


def test_one_seed_establishes_nothing(tmp_path: Path) -> None:
    rows = checked(make_runs(tmp_path, sizes=(12_000,), seeds=(0,), shape=SHAPE))
    assert len(rows) == 9 and {row["verdict"] for row in rows} == {NOT_ESTABLISHED}


def test_a_factor_that_did_not_finish_is_said(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, sizes=(12_000,), seeds=(0, 1), shape=SHAPE)
    for stage in json.loads((runs / "study.json").read_text())["stages"]:
        factor = stage["config"].get("training", {}).get("schedule", {}).get("rate_factor")
        if stage["kind"] == "base" and factor == 2.0:
            (runs / "stages" / stage["stage_id"] / "record.json").unlink()
    rows = [row for row in checked(runs) if row["kind"] == "base"]
    assert [row["rate_factor"] for row in rows] == [0.5, 1.0]
    assert all(row["verdict"] == NOT_ESTABLISHED and "not finished: 2 of 2 at x2" in row["note"] for row in rows)


def test_a_run_that_failed_at_the_rule_s_own_rate_is_no_survivor_s_verdict(tmp_path: Path) -> None:
    """One of three bases at the rule's rate has no result: the two that have one establish nothing."""
    runs = make_runs(tmp_path, sizes=(12_000,), seeds=(0, 1, 2), shape=SHAPE)
    for stage in json.loads((runs / "study.json").read_text())["stages"]:
        factor = stage["config"].get("training", {}).get("schedule", {}).get("rate_factor", 1.0)
        if stage["kind"] == "base" and factor == 1.0 and stage["config"]["seed"] == 2:
            (runs / "stages" / stage["stage_id"] / "record.json").unlink()
    rows = [row for row in checked(runs) if row["kind"] == "base"]
    assert rows and all(row["verdict"] == NOT_ESTABLISHED and "1 of 3 at x1" in row["note"] for row in rows)
    assert all(row["n_diverged"] is None for row in rows)


def test_a_study_at_one_rate_has_no_rows(tmp_path: Path) -> None:
    shape = replace(SHAPE, rate_factor=())
    assert checked(make_runs(tmp_path, sizes=(12_000,), seeds=(0,), shape=shape)) == []


# ---------------------------------------------------------------- estimates


def arm(values: np.ndarray, **more: Any) -> Arm:
    """(seeds, items) values; every item its own."""
    item = np.arange(values.shape[1]).astype(object)
    return Arm(tuple(Run(f"s{k}", v, item, np.ones(len(v)), **more) for k, v in enumerate(values)))


def test_one_seed_is_the_paired_difference_over_items() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 1, 50))
    (found,) = differences_of([(arm(a), arm(b))])
    wanted = paired_difference(a[0], b[0])
    assert found.estimate is not None
    assert (found.estimate.value, found.estimate.se) == pytest.approx((wanted.value, wanted.se))
    (value,) = values_of([arm(a)])
    assert value.estimate is not None and value.estimate.se == pytest.approx(mean(a[0]).se)


def test_single_numbers_add_the_items_and_the_seeds_variances() -> None:
    """se^2 = .03^2 + .04^2 + var(differences) / 3."""
    values = np.array([[1.0], [1.2], [1.1]]), np.array([[0.9], [1.2], [0.7]])
    sides = [
        Arm(tuple(replace(run, se=se, n=80) for run in arm(v).runs)) for v, se in zip(values, (0.03, 0.04), strict=True)
    ]
    (found,) = differences_of([(sides[0], sides[1])])
    changes = (values[0] - values[1]).ravel()
    assert found.estimate is not None and found.estimate.value == pytest.approx(changes.mean())
    assert found.estimate.se == pytest.approx(math.sqrt(0.05**2 + changes.var(ddof=1) / 3))
    assert found.estimate.n == 80


def test_differences_cover() -> None:
    """150 draws of three seeds and 60 items, with a seed's own effect: 95 % less three Monte Carlo errors of 1.8."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(150):
        item, seed = rng.normal(size=(1, 60)), rng.normal(size=(3, 1))
        sides = [item + seed + rng.normal(0, 0.3, (3, 1)) + rng.normal(size=(3, 60)) for _ in range(2)]
        (found,) = differences_of([(arm(sides[0]), arm(sides[1]))])
        assert found.estimate is not None
        low, high = found.estimate.interval()
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert hits / 150 >= 0.89


# ---------------------------------------------------------------- verdicts


def row(factor: float, change: float | None, se: float = 0.01, n_seeds: int = 3) -> dict[str, Any]:
    """A row with a normal interval."""
    difference = p = None
    if change is not None:
        difference = {"value": change, "se": se, "low": change - 1.96 * se, "high": change + 1.96 * se}
        p = float(2 * stats.norm.sf(abs(change) / se))
    return {"rate_factor": factor, "value": {"value": 2.0 + (change or 0.0)}, "difference": difference,
            "p_adjusted": p, "margin": 0.05, "n_seeds": n_seeds, "note": None}  # fmt: skip


@pytest.mark.parametrize(
    "changes, yardstick, verdict, best",
    [
        ({0.5: 0.1, 2.0: 0.2}, BASE, WITHIN, 1.0),  # losses: both others are worse
        ({0.5: -0.01, 2.0: 0.2}, BASE, WITHIN, 0.5),  # better, but by chance and by less than the margin
        ({0.5: -0.03, 2.0: -0.031}, BASE, "worse than x2 by 0.031", 2.0),
        ({0.5: -0.021, 2.0: 0.0}, BASE, WITHIN, 0.5),  # p = .036 alone, .071 after Holm
        ({0.5: 0.031, 2.0: -0.2}, GOLD, "worse than x0.5 by 0.031", 0.5),  # a score: higher is better
        ({0.5: None, 2.0: 0.1}, BASE, NOT_ESTABLISHED, 1.0),
    ],
)
def test_verdicts_follow_the_rule(changes: dict[float, Any], yardstick: Any, verdict: str, best: float) -> None:
    rows = [row(1.0, None), *(row(factor, change) for factor, change in changes.items())]
    judge(rows, yardstick, {})
    assert {(r["verdict"], r["best_factor"]) for r in rows} == {(verdict, best)}


def test_the_best_factor_is_the_best_of_paired_differences() -> None:
    """x2's own mean is the lowest because the seed on which all rates do badly failed there; on the seeds that both
    have it is worse. Without a run at the rule's own rate none is best."""
    rows = [row(1.0, None), row(2.0, 0.02), row(0.5, -0.01)]
    rows[1]["value"]["value"] = 1.5
    judge(rows, BASE, {})
    assert {r["best_factor"] for r in rows} == {0.5}
    rows = [row(2.0, None), row(0.5, None)]
    judge(rows, BASE, {})
    assert {r["best_factor"] for r in rows} == {None}


def test_a_difference_is_over_the_items_that_both_rates_have() -> None:
    rng = np.random.default_rng(0)
    values, item = rng.normal(size=(2, 50)), np.arange(50).astype(object)
    whole = Run("s0", values[0], item, np.ones(50))
    part = Run("s0", values[1][:40], item[:40], np.ones(40))
    size = RateSize(Model("a", 1, 1), {1.0: Arm((whole,)), 2.0: Arm((part,))})
    rows = _kind_rows(Study(Path("nowhere"), {"stages": []}), BASE, [size])
    wanted = paired_difference(values[1][:40], values[0][:40])
    change = rows[1]["difference"]
    assert (change["value"], change["se"], change["n"]) == pytest.approx((wanted.value, wanted.se, 40))
    assert change["mde"] == pytest.approx(wanted.detectable(tests=1))


def test_what_is_detectable_knows_how_many_factors_are_tested(rows: list[dict[str, Any]]) -> None:
    """Two other factors: Holm's first rejection needs p < .025; df from the interval's own width over se."""
    change = pick(rows, "base", "12k", 2.0)["difference"]
    t = (change["high"] - change["low"]) / 2 / change["se"]
    df = optimize.brentq(lambda d: stats.t.ppf(0.975, d) - t, 1, 1e4)
    wanted = change["se"] * (stats.t.ppf(1 - 0.0125, df) + stats.t.ppf(0.8, df))
    assert change["mde"] == pytest.approx(wanted, rel=1e-6)


def test_a_wide_interval_establishes_nothing() -> None:
    rows = [row(1.0, None), row(2.0, 0.0, se=0.03)]
    judge(rows, BASE, {})
    assert rows[0]["verdict"] == NOT_ESTABLISHED
    rows = [row(1.0, None), row(2.0, 0.0), row(4.0, -0.2, n_seeds=1)]
    judge(rows, BASE, {})
    assert rows[0]["verdict"] == NOT_ESTABLISHED
    rows = [row(1.0, None), row(2.0, 0.0)]
    judge(rows, BASE, {4.0: (1, 2)})
    assert rows[0]["verdict"] == NOT_ESTABLISHED and "x4" in rows[0]["note"]
