"""Frontier rows and fits, and over-optimisation, on runs whose curves are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.frames import Study, load_study, stage_table
from analysis.frontier import Curve, frontier_rows, load_curves
from analysis.frontier_fits import frontier_fits, points_of, run_exponents
from analysis.overoptimisation import overoptimisation, peak_steps
from analysis.pm import pm_scores
from tests.fake_runs import Shape, Truth, make_runs

SHAPE = Shape(comparisons=(500,), at=("end",))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("runs")
    return load_study(make_runs(path, sizes=(12_000, 300_000), seeds=(0, 1, 2), shape=SHAPE))


@pytest.fixture(scope="module")
def curves(study: Study) -> list[Curve]:
    return load_curves(study)


def test_rows_are_paired_means(study: Study, curves: list[Curve]) -> None:
    """Against scipy on the raw values: the score's change per prompt, and KL's mean with its error."""
    rows = frontier_rows(study, curves[:1])
    values = curves[0].values
    last = rows[-1]
    change = values["score_train"][-1] - values["score_train"][0]
    assert last["score_train"]["value"] == pytest.approx(change.mean())
    assert last["score_train"]["se"] == pytest.approx(stats.sem(change))
    assert last["score_train"]["raw"] == pytest.approx(values["score_train"][-1].mean())
    kl, se = values["kl_k1"][-1].mean(), stats.sem(values["kl_k1"][-1])
    assert (last["kl"]["value"], last["kl"]["se"]) == pytest.approx((kl, se))
    assert last["sqrt_kl"] == pytest.approx(kl**0.5) and last["sqrt_kl_se"] == pytest.approx(se / (2 * kl**0.5))
    assert last["seconds"] is not None and last["seed_pm"] == last["seed_base"] == 0


def test_negative_kl_stays_negative_in_the_table(study: Study, curves: list[Curve]) -> None:
    values = dict(curves[0].values)
    values["kl_k1"] = values["kl_k1"] - values["kl_k1"].mean(axis=1, keepdims=True) - 0.01
    shifted = Curve(**{**vars(curves[0]), "values": values})
    row = frontier_rows(study, [shifted])[-1]
    assert row["kl"]["value"] == pytest.approx(-0.01) and row["sqrt_kl"] == 0 and row["sqrt_kl_se"] is None


def test_pooled_slope_is_the_mean_of_the_runs(curves: list[Curve]) -> None:
    """Closed form: c = sum(d R) / sum(d^2) per run, then the mean and t on two degrees of freedom."""
    fits = [f for f in frontier_fits(curves) if f.law == "sqrt-kl-linear" and f.y == "score_train"]
    pooled = next(f for f in fits if f.group == "12k")
    slopes = []
    for curve in curves[:3]:
        d, r = points_of(curve, "score_train")
        slopes.append((d * r).sum() / (d**2).sum())
    c = pooled.params["c"]
    assert c.value == pytest.approx(np.mean(slopes)) and c.se == pytest.approx(stats.sem(slopes))
    assert c.high == pytest.approx(np.mean(slopes) + stats.t.ppf(0.975, 2) * stats.sem(slopes))
    assert pooled.n_clusters == 3 and [f.group for f in fits][:4] == ["12k", "12k seed 0", "12k seed 1", "12k seed 2"]
    alone = next(f for f in fits if f.group == "12k seed 0")
    assert alone.params["c"].value == pytest.approx(slopes[0]) and alone.ci_method == "prompt-bootstrap"
    assert "conditional on this run" in alone.notes[0].message


def test_one_runs_interval_is_over_prompts(curves: list[Curve]) -> None:
    """The prompt bootstrap's error against a jackknife over prompts (both are consistent; 15 % for 400 draws)."""
    curve = curves[0]
    fit = next(f for f in frontier_fits([curve]) if f.group == "12k seed 0" and f.y == "score_train")
    kl, score = curve.values["kl_k1"], curve.relative("score_train")
    assert score is not None
    left_out = []
    for prompt in range(kl.shape[1]):
        d = np.sqrt(np.maximum(np.delete(kl, prompt, 1).mean(axis=1), 0))
        r = np.delete(score, prompt, 1).mean(axis=1)
        left_out.append((d * r).sum() / (d**2).sum())
    n = len(left_out)
    jackknife = np.sqrt((n - 1) / n * ((left_out - np.mean(left_out)) ** 2).sum())
    assert fit.params["c"].se == pytest.approx(jackknife, rel=0.15)


def test_exponents_are_about_one(curves: list[Curve]) -> None:
    """The train score is linear in sqrt(KL) by construction; a run's exponent scatters by about .02."""
    exponents = run_exponents(curves)
    assert len(exponents) == 6 and np.allclose(list(exponents.values()), 1.0, atol=0.08)


def test_gold_falls_and_scores_part_as_put_in(study: Study, curves: list[Curve]) -> None:
    """Truth: gold = d (1 - .25 d) peaks at d = 2 with 1.0 and has fallen to .75 at the end, d = 3."""
    rows = overoptimisation(study, curves, pm_scores(study))
    truth = Truth()
    for row in rows:
        assert row["gold_verdict"] == "falls"
        assert row["gold_fall"]["low"] < 0.25 < row["gold_fall"]["high"] + 0.05
        assert row["peak_sqrt_kl"] == pytest.approx(truth.gold_alpha / (2 * truth.gold_beta), abs=0.45)
        assert row["parting"]["low"] > 0


def test_peak_is_chosen_by_the_other_half(curves: list[Curve]) -> None:
    """Pure noise about a flat gold: the fall from a peak chosen on the same prompts would be positive by selection."""
    rng = np.random.default_rng(0)
    falls = []
    for _ in range(300):
        noise = rng.normal(size=curves[0].values["gold"].shape)
        flat = Curve(**{**vars(curves[0]), "values": {"gold": noise}})
        falls.append((noise[peak_steps(flat), np.arange(noise.shape[1])] - noise[-1]).mean())
    assert abs(np.mean(falls)) < 4 * stats.sem(falls)


def test_a_run_without_gold_has_none(study: Study, curves: list[Curve]) -> None:
    values = {name: v for name, v in curves[0].values.items() if not name.startswith("gold")}
    plain = Curve(**{**vars(curves[0]), "values": values})
    assert frontier_rows(study, [plain])[0]["score_gold"] is None
    assert {f.y for f in frontier_fits([plain])} == {"score_train", "score_test"}
    assert overoptimisation(study, [plain], pm_scores(study))[0]["gold_verdict"] is None


def test_prompts_missing_at_a_step_are_left_out_and_counted(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_one(*args: object) -> pd.DataFrame:
        frame = stage_table(*args)  # type: ignore[arg-type]
        assert frame is not None
        return frame[~((frame.step == 50) & (frame.prompt_id == 3))]

    monkeypatch.setattr("analysis.frontier.stage_table", without_one)
    before = len(study.excluded)
    assert load_curves(study)[0].values["kl_k1"].shape == (len(SHAPE.steps), SHAPE.prompts - 1)
    assert "1 prompts not evaluated at every step" in study.excluded[before]["reason"]
