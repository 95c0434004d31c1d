"""Mixtures, weights and curves of preference models by hand, and the truths put into a fake study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.estimates import paired_difference
from analysis.frames import load_study
from analysis.held_out import HeldOut, pm_scores
from analysis.pm_curve import pm_curve
from analysis.pm_mixing import mixing_by_size, one_sided, pm_shares, pm_weights, weight_by_size
from analysis.pools import PM, preference_models
from tests.fake_pms import empty_study, fake_pm, held_out
from tests.fake_runs import SIZES, Shape, Truth, make_runs

TRANCHES = np.array(["helpful-online", "harmless-base", "helpful-base", "other"], dtype=object)


def scores(seed: int, n: int = 400, lift: float = 0.3) -> HeldOut:
    """Three comparisons in four are helpful or neither; ``lift`` is the mean score difference."""
    rng = np.random.default_rng(seed)
    return held_out(rng.normal(lift, 1, n), tranche=TRANCHES[np.arange(n) // 2 % 4])


def kind(of: HeldOut, name: str) -> np.ndarray:
    return np.array([str(t).startswith(name) for t in of.tranche])


def by_group(of: HeldOut) -> dict[str, float]:
    right = of.difference > 0
    found = {name: float(right[kind(of, name)].mean()) for name in ("helpful", "harmless")}
    return found | {"mean": (found["helpful"] + found["harmless"]) / 2}


def pick(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    return row


# ---------------------------------------------------------------- shares


@pytest.fixture(scope="module")
def mixtures() -> list[PM]:
    """One seed: the main PM and four shares, the last of which is the best on helpful comparisons."""
    shares = [None, 0.0, 0.5, 1.0]
    return [fake_pm(scores(k, lift=0.2 * k), helpful_share=share) for k, share in enumerate(shares)]


def test_share_rows_are_accuracies_by_kind(mixtures: list[PM]) -> None:
    rows = pm_shares(empty_study(), mixtures)
    assert len(rows) == 12 and rows[0]["group"] == "helpful"
    for pm in mixtures:
        for group, wanted in by_group(pm.scores).items():
            row = pick(rows, helpful_share=pm.setting.helpful_share, group=group)
            assert row["accuracy"]["value"] == pytest.approx(wanted), group
    assert pick(rows, helpful_share=None, group="mean")["accuracy"]["n"] == 300  # others count as neither


def test_relative_accuracy_is_to_the_best_share(mixtures: list[PM]) -> None:
    rows = pm_shares(empty_study(), mixtures)
    for group in ("helpful", "harmless", "mean"):
        given = [pm for pm in mixtures if pm.setting.helpful_share is not None]
        best = max(given, key=lambda pm, g=group: by_group(pm.scores)[g])  # type: ignore[misc]
        for pm in mixtures:
            row = pick(rows, helpful_share=pm.setting.helpful_share, group=group)
            wanted = by_group(pm.scores)[group] / by_group(best.scores)[group]
            assert row["best_share"] == best.setting.helpful_share
            assert row["relative"]["value"] == pytest.approx(wanted)
            assert (row["relative"]["se"] == 0) == (pm is best)


def test_studies_without_mixtures_have_no_rows(mixtures: list[PM]) -> None:
    assert pm_shares(empty_study(), mixtures[:1]) == [] and pm_weights(empty_study(), mixtures) == []
    helpful = [replace(pm, scores=pm.scores.select(kind(pm.scores, "helpful"))) for pm in mixtures]
    assert pm_shares(empty_study(), helpful) == [] and one_sided(helpful) == {}
    assert mixing_by_size([]) == (None, []) and weight_by_size(mixtures) == (None, [])


def test_one_thing_changed_at_a_time() -> None:
    """A PM with two things changed, one of the test half and one of fewer comparisons stay out."""
    pms = [fake_pm(scores(0)), fake_pm(scores(1), harmless_weight=3.0)]
    more = [fake_pm(scores(2), harmless_weight=3.0, rate_factor=2.0), fake_pm(scores(3), half="test"),
            fake_pm(scores(4), n=100)]  # fmt: skip
    assert pm_weights(empty_study(), pms + more) == pm_weights(empty_study(), pms) != []


# ---------------------------------------------------------------- weights


def test_the_loss_from_a_weight_is_paired() -> None:
    main, heavy = fake_pm(scores(0)), fake_pm(scores(1), harmless_weight=10.0)
    rows = pm_weights(empty_study(), [main, heavy])
    row = pick(rows, harmless_weight=10.0, group="helpful")
    rows_of = kind(main.scores, "helpful")
    right = [(pm.scores.difference > 0)[rows_of] for pm in (heavy, main)]
    wanted = paired_difference(right[0], right[1], main.scores.conversation[rows_of])
    got = row["minus_one"]
    assert (got["value"], got["se"], got["n"]) == pytest.approx((wanted.value, wanted.se, 200))
    assert got["mde"] == pytest.approx(wanted.detectable())
    assert pick(rows, harmless_weight=1.0, group="helpful")["minus_one"] is None
    mean = pick(rows, harmless_weight=10.0, group="mean")["minus_one"]
    halves = [pick(rows, harmless_weight=10.0, group=g)["minus_one"] for g in ("helpful", "harmless")]
    assert mean["value"] == pytest.approx(sum(half["value"] for half in halves) / 2)
    assert mean["se"] == pytest.approx(np.hypot(halves[0]["se"], halves[1]["se"]) / 2, rel=0.02)  # no common items


def test_a_seed_that_only_one_side_has_is_left_out_of_the_difference() -> None:
    pms = [fake_pm(scores(k), seed=k) for k in range(2)] + [fake_pm(scores(5), seed=0, harmless_weight=2.0)]
    row = pick(pm_weights(empty_study(), pms), harmless_weight=2.0, group="helpful")
    wanted = by_group(scores(5))["helpful"] - by_group(scores(0))["helpful"]
    assert row["minus_one"]["value"] == pytest.approx(wanted) and row["n_runs"] == 1


# ---------------------------------------------------------------- a whole fake study


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(
        comparisons=(500, 2000, 8000), held_out=1200, prompts=8, items=8, steps=(0, 5), at=("end",),
        helpful_share=(0.0, 0.5, 1.0), harmless_weight=(1.0, 10.0), learning_curve=True,
    )  # fmt: skip
    truth = Truth(weight_cost=0.08, weight_cost_per_ln_n_params=-0.015)
    return make_runs(tmp_path_factory.mktemp("mixing"), seeds=(0, 1, 2), truth=truth, shape=shape)


@pytest.fixture(scope="module")
def pms(runs: Path) -> list[PM]:
    study = load_study(runs)
    return preference_models(study, pm_scores(study))


def test_truths_of_mixing_are_found(pms: list[PM]) -> None:
    """Each within 4 standard errors: accuracy lost on the kind not trained on, and to the weight of 10."""
    shares, weights = pm_shares(empty_study(), pms), pm_weights(empty_study(), pms)
    for n_params in SIZES:
        growth = np.log(n_params / SIZES[0])
        lost = Truth.one_sided_loss + Truth.one_sided_per_ln_n_params * growth
        ends = [pick(shares, n_params=n_params, group="helpful", helpful_share=s)["accuracy"] for s in (0.0, 1.0)]
        assert abs(ends[1]["value"] - ends[0]["value"] - lost) < 4 * np.hypot(ends[0]["se"], ends[1]["se"])
        change = pick(weights, n_params=n_params, group="helpful", harmless_weight=10.0)["minus_one"]
        assert abs(change["value"] + (0.08 - 0.015 * growth) * np.log(10)) < 4 * change["se"]


def test_larger_pms_lose_less(pms: list[PM]) -> None:
    """Slopes put in: .015 ln 10 for the weight; the mean of both kinds loses L (1/2 - 1/4), and L falls by .02.
    Both lie within four standard errors."""
    for (slope, sizes), truth in (
        (weight_by_size(pms), 0.015 * np.log(10)),
        (mixing_by_size(pms), -Truth.one_sided_per_ln_n_params / 4),
    ):
        assert slope is not None and slope.se is not None and len(sizes) == 4
        assert abs(slope.value - truth) < 4 * slope.se
        assert all(size["change"]["value"] < 0.02 for size in sizes)


def test_one_sided_training_is_measured_on_the_other_kind(pms: list[PM]) -> None:
    found = one_sided(pms)
    for name, share in (("harmless", 1.0), ("helpful", 0.0)):
        own = [pm for pm in pms if pm.setting.helpful_share == share]
        wanted = np.mean([by_group(pm.scores)[name] for pm in own])
        assert found[name].value == pytest.approx(0.5 - wanted) and found[name].n == 600


# ---------------------------------------------------------------- curves


def test_curves_stand_beside_separate_passes(runs: Path, pms: list[PM]) -> None:
    study = load_study(runs)
    rows = pm_curve(study, pms)
    assert len(rows) == 4 * 3 * 3 and not study.excluded
    row = pick(rows, model="12k", group="all", n_comparisons=2000)
    assert row["pairs"] == 2003 and not row["at_end"] and row["n_runs"] == 3
    passes = [pm for pm in pms if pm.model.name == "12k" and "curve.parquet" in pm.record.files]
    alone = {pm.record.config["seed"]: pm for pm in pms
             if pm.model.name == "12k" and pm.n_comparisons == 2000 and pm.half == "train"}  # fmt: skip
    along, apart = [], []
    for pm in passes:
        frame = pd.read_parquet(study.folder(pm.record) / "curve.parquet")
        then = frame[frame.pairs == 2003].sort_values("comparison_id")
        along.append((then.score_chosen > then.score_rejected).mean())
        apart.append((alone[pm.record.config["seed"]].scores.difference > 0).mean())
    assert row["accuracy"]["value"] == pytest.approx(np.mean(along))
    assert row["separate"]["value"] == pytest.approx(np.mean(apart))
    assert row["difference"]["value"] == pytest.approx(np.mean(along) - np.mean(apart))
    assert abs(row["difference"]["value"] + Truth.curve_lag) < 4 * row["difference"]["se"]


def test_the_end_of_the_pass_is_the_pm_itself(runs: Path, pms: list[PM]) -> None:
    ends = [row for row in pm_curve(load_study(runs), pms) if row["at_end"]]
    assert {row["n_comparisons"] for row in ends} == {8000} == {row["pairs"] for row in ends}
    assert all(row["separate"] is None and row["difference"] is None for row in ends)


def test_evaluations_that_lack_comparisons_are_excluded(tmp_path: Path) -> None:
    shape = Shape(comparisons=(500, 2000), held_out=100, prompts=8, items=8, at=("end",), learning_curve=True)
    runs = make_runs(tmp_path, sizes=(12_000,), seeds=(0,), shape=shape)
    study = load_study(runs)
    own = preference_models(study, pm_scores(study))
    path = next(runs.glob("stages/pm-*/curve.parquet"))
    frame = pd.read_parquet(path)
    frame[frame.comparison_id > 3].to_parquet(path)
    assert [row["at_end"] for row in pm_curve(study, own)] == [True] * 3
    assert "not all scores after 500 pairs" in study.excluded[-1]["reason"]
