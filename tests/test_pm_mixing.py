"""Mixtures, weights and curves of preference models by hand, and the truths put into a fake study."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.estimates import paired_difference
from analysis.frames import Setting, load_study
from analysis.held_out import HeldOut, pm_scores
from analysis.pm_claims import judge_weight, pm_evidence
from analysis.pm_curve import pm_curve
from analysis.pm_mixing import BySize, mixing_by_size, one_sided, pm_shares, pm_weights, weight_by_size
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


def halves(of: HeldOut) -> list[np.ndarray]:
    first = np.array([zlib.crc32(str(name).encode()) % 2 == 0 for name in of.conversation])
    return [first, ~first]


def test_relative_accuracy_is_to_the_share_that_the_other_half_chose(mixtures: list[PM]) -> None:
    rows = pm_shares(empty_study(), mixtures)
    for group in ("helpful", "harmless", "mean"):
        own = {pm.setting.helpful_share: [by_group(pm.scores.select(half))[group] for half in halves(pm.scores)]
               for pm in mixtures}  # fmt: skip
        whole = {pm.setting.helpful_share: by_group(pm.scores)[group] for pm in mixtures}
        given = [share for share in own if share is not None]
        best = [max(given, key=lambda share, h=half, own=own: own[share][h]) for half in (0, 1)]  # type: ignore[misc]
        for share in own:
            row = pick(rows, helpful_share=share, group=group)
            wanted = np.mean([own[share][1 - half] / own[best[half]][1 - half] for half in (0, 1)])
            assert row["relative"]["value"] == pytest.approx(wanted)
            assert row["minus_chance"]["value"] == pytest.approx(row["accuracy"]["value"] - 0.5)
            assert row["best_share"] == max(given, key=lambda share, of=whole: of[share])  # type: ignore[misc]


def test_mixtures_that_are_alike_are_not_called_worse_than_the_best() -> None:
    """60 draws of five equally good mixtures of one seed: chosen and compared on the same comparisons, one in five
    others is called measurably lower; on different ones one in forty is (the lower end alone), less than one in ten
    with three Monte Carlo errors."""
    rng, lower = np.random.default_rng(0), []
    kinds = TRANCHES[np.arange(600) // 2 % 2]
    for _ in range(60):
        shared = rng.random(600)
        pms = []
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            own = np.where(rng.random(600) < 0.3, rng.random(600), shared) < 0.65
            pms.append(fake_pm(held_out(np.where(own, 1.0, -1.0), tranche=kinds), helpful_share=share))
        rows = [row for row in pm_shares(empty_study(), pms) if row["group"] == "mean"]
        lower += [row["relative"]["high"] < 1 for row in rows if row["helpful_share"] != row["best_share"]]
    assert np.mean(lower) < 0.1


def test_studies_without_mixtures_have_no_rows(mixtures: list[PM]) -> None:
    assert pm_shares(empty_study(), mixtures[:1]) == [] and pm_weights(empty_study(), mixtures) == []
    helpful = [replace(pm, scores=pm.scores.select(kind(pm.scores, "helpful"))) for pm in mixtures]
    assert pm_shares(empty_study(), helpful) == [] and one_sided(helpful) == {}
    assert mixing_by_size([]) == BySize() == weight_by_size(mixtures)


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
    """Losses put in, as parts of the size's accuracy at its best: c ln 10 for the weight, c falling by .015 per ln N;
    L / 4 in the mean of both kinds, L falling by .02. Every size's loss and the slope lie within four errors."""
    growth = np.log(np.array(SIZES) / SIZES[0])
    accuracy = Truth.accuracy_at + Truth.accuracy_per_ln_n_params * growth
    accuracy += Truth.accuracy_per_ln_n_comparisons * np.log(8000 / 500)
    loss = Truth.one_sided_loss + Truth.one_sided_per_ln_n_params * growth
    for found, cost, best in (
        (weight_by_size(pms), (0.08 - 0.015 * growth) * np.log(10), accuracy),
        (mixing_by_size(pms), loss / 4, accuracy - loss / 4),
    ):
        assert found.slope is not None and found.slope.se is not None and len(found.sizes) == 4
        assert found.loss is not None and found.n_bases == 12
        for size, wanted in zip(found.sizes, -cost / best, strict=True):
            assert abs(size["change"]["value"] - wanted) < 4 * size["change"]["se"]
        assert abs(found.loss.value + np.mean(cost / best)) < 4 * (found.loss.se or 0.0)
        assert abs(found.slope.value - np.polyfit(growth, -cost / best, 1)[0]) < 4 * found.slope.se
        assert found.loss.interval()[1] < 0 < found.slope.value  # type: ignore[operator]


def test_sizes_are_compared_at_the_values_and_numbers_that_all_have(pms: list[PM]) -> None:
    """A share that one size lacks leaves all of them; a size without the ends, or at another number, is no size."""
    without = [pm for pm in pms if (pm.model.n_params, pm.setting.helpful_share) != (SIZES[0], 0.5)]
    assert {size["model"] for size in mixing_by_size(pms).sizes} == {pm.model.name for pm in pms}
    assert mixing_by_size(without) == BySize()  # no mixture is left between the ends
    no_end = [pm for pm in pms if (pm.model.n_params, pm.setting.helpful_share) != (SIZES[0], 1.0)]
    assert len(mixing_by_size(no_end).sizes) == 3
    moved = [replace(pm, n_comparisons=1) if pm.model.n_params == SIZES[0] else pm for pm in pms]
    assert mixing_by_size(moved) == BySize() and one_sided(moved) == {}


def test_a_weight_without_a_loss_supports_nothing() -> None:
    """Helpful accuracy is the same at weight 10, and higher at the larger size: no loss, so none that shrinks."""
    kinds, rng, pms = TRANCHES[np.arange(800) // 2 % 2], np.random.default_rng(7), []
    items = rng.random(800)
    for size, gain in ((1000, 0.0), (4000, 0.06)):
        for seed in range(2):
            for weight, more in ((1.0, 0.0), (10.0, gain)):
                right = items < np.where(kinds == TRANCHES[0], 0.7 + more, 0.6)
                of = held_out(np.where(right, 1.0, -1.0), tranche=kinds)
                pms.append(fake_pm(of, size, seed, harmless_weight=weight))
    verdict, numbers = judge_weight(pm_evidence(pms))
    assert verdict == "inconclusive" and numbers["n_bases"] == 4


def test_one_sided_training_is_measured_on_the_other_kind(pms: list[PM]) -> None:
    found = one_sided(pms)
    for name, share in (("harmless", 1.0), ("helpful", 0.0)):
        own = [pm for pm in pms if pm.setting.helpful_share == share]
        wanted = np.mean([by_group(pm.scores)[name] for pm in own])
        pool, term = found[name]
        assert term.value == pytest.approx(0.5 - wanted) and term.n == 600 and len(pool.bases) == 12


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
    along, apart, both = [], [], []
    for pm in passes:
        frame = pd.read_parquet(study.folder(pm.record) / "curve.parquet")
        then = frame[frame.pairs == 2003].sort_values("comparison_id")
        along.append((then.score_chosen > then.score_rejected).mean())
        apart.append((alone[pm.record.config["seed"]].scores.difference > 0).mean())
    for pm in pms:
        if pm.model.name == "12k" and pm.n_comparisons == 2000 and pm.setting == Setting():
            both.append((pm.scores.difference > 0).mean())
    assert row["accuracy"]["value"] == pytest.approx(np.mean(along))
    assert row["separate"]["value"] == pytest.approx(np.mean(both))  # of both halves where there are both
    assert row["difference"]["value"] == pytest.approx(np.mean(along) - np.mean(apart))
    assert abs(row["difference"]["value"] + Truth.curve_lag) < 4 * row["difference"]["se"]


def test_the_end_of_the_pass_is_the_pm_itself(runs: Path, pms: list[PM]) -> None:
    ends = [row for row in pm_curve(load_study(runs), pms) if row["at_end"]]
    assert {row["n_comparisons"] for row in ends} == {8000} == {row["pairs"] for row in ends}
    assert all(row["difference"] is None for row in ends)
    fitted = [pm for pm in pms if pm.model.name == "12k" and pm.n_comparisons == 8000 and pm.setting == Setting()]
    assert {pm.half for pm in fitted} == {"train", "test"}
    point = pick(ends, model="12k", group="all")["separate"]["value"]
    assert point == pytest.approx(np.mean([(pm.scores.difference > 0).mean() for pm in fitted]))


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
