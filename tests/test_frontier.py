"""Frontier rows and fits, and over-optimisation, on runs whose curves are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.estimates import Estimate
from analysis.frames import Study, load_study, stage_table
from analysis.frontier import Curve, frontier_rows, load_curves
from analysis.frontier_fits import frontier_fits, points_of, run_exponents
from analysis.held_out import pm_scores
from analysis.overoptimisation import gold_verdict, overoptimisation, peak_windows, to_end
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
    kl, se = values["kl_exact"][-1].mean(), stats.sem(values["kl_exact"][-1])
    assert (last["kl"]["value"], last["kl"]["se"]) == pytest.approx((kl, se))
    assert last["sqrt_kl"] == pytest.approx(kl**0.5) and last["sqrt_kl_se"] == pytest.approx(se / (2 * kl**0.5))
    assert last["seconds"] is not None and last["seed_pm"] == last["seed_base"] == 0


def test_every_estimator_stands_in_its_own_column(study: Study, curves: list[Curve]) -> None:
    """Means and errors against scipy; per token, sums over all tokens; from the metrics, value and error as logged."""
    last, values = frontier_rows(study, curves[:1])[-1], curves[0].values
    assert last["kl"]["estimator"] == "exact" and last["kl"]["value"] == last["kl_exact"]["value"]
    for name in ("kl_k1", "kl_k3", "kl_exact", "reverse_kl_k1", "reverse_kl_k3", "reverse_kl_exact"):
        found = (last[name]["value"], last[name]["se"])
        assert found == pytest.approx((values[name][-1].mean(), stats.sem(values[name][-1])))
    tokens = values["sampled_tokens"][-1]
    assert last["kl_per_token"]["value"] == pytest.approx(values["kl_exact"][-1].sum() / tokens.sum())
    assert last["entropy"]["value"] == pytest.approx(np.average(values["entropy"][-1], weights=tokens))
    assert last["truncated"]["value"] == pytest.approx(1 - last["ended"]["value"])
    assert (last["distinct_2"]["value"], last["distinct_2"]["se"]) == (0.2, 0.01)
    wide = stats.t.ppf(0.975, SHAPE.prompts - 1) * last["score_train_controlled"]["se"]
    assert last["score_train_controlled"]["high"] == pytest.approx(last["score_train"]["value"] + wide)
    assert last["score_gold_controlled"] is None


def test_a_run_without_the_exact_kl_is_placed_by_k1(study: Study, curves: list[Curve]) -> None:
    later = [n for n in curves[0].values if n.startswith(("reverse", "kl_exact", "entropy", "sampled"))]
    old = replace(curves[0], values={n: v for n, v in curves[0].values.items() if n not in later})
    row = frontier_rows(study, [old])[-1]
    assert row["kl"]["estimator"] == "k1" and row["kl"]["value"] == row["kl_k1"]["value"]
    assert all(row[n] is None for n in ("kl_exact", "reverse_kl_exact", "kl_per_token", "entropy"))


def test_negative_kl_stays_negative_in_the_table(study: Study, curves: list[Curve]) -> None:
    values = dict(curves[0].values)
    values["kl_exact"] = values["kl_exact"] - values["kl_exact"].mean(axis=1, keepdims=True) - 0.01
    shifted = replace(curves[0], values=values)
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
    kl, score = curve.values["kl_exact"], curve.relative("score_train")
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
    exponents, failed = run_exponents(curves)
    assert len(exponents) == 6 and np.allclose(list(exponents.values()), 1.0, atol=0.08) and not failed


def blurred(curve: Curve, first: int, kl: float = 0.01) -> Curve:
    """The curve with a KL of ``kl`` give or take ten times that at the steps up to ``first``."""
    values = dict(curve.values)
    values["kl_exact"] = values["kl_exact"].copy()
    wide = 10 * kl * np.sqrt(values["kl_exact"].shape[1]) * np.tile([1.0, -1.0], values["kl_exact"].shape[1] // 2)
    values["kl_exact"][1 : first + 1] = kl + wide
    return replace(curve, values=values)


def test_evaluations_that_cannot_be_told_from_the_start_are_not_fitted(curves: list[Curve]) -> None:
    first = blurred(curves[0], 2)
    x, y = points_of(first, "score_train")
    score = curves[0].values["score_train"]
    assert len(x) == len(curves[0].steps) - 3 and y == pytest.approx((score[3:] - score[0]).mean(axis=1))
    fit = next(f for f in frontier_fits([first]) if f.group == "12k seed 0" and f.y == "score_train")
    assert fit.n_points == len(x) and "2 of 7 evaluations" in fit.notes[-1].message
    assert frontier_fits([blurred(curves[0], 7)]) == []
    assert list(run_exponents([blurred(curves[0], 5)]).failed) == [curves[0].record.stage_id]


def test_two_runs_borrow_the_spread_of_other_sizes(curves: list[Curve]) -> None:
    """Sizes of two and three runs: the mean of variances weighted by their degrees of freedom, with t on three; a size
    whose own variance is larger keeps it, and what it has beyond the mean has t on its own degrees of freedom."""
    fits = frontier_fits([c for c in curves if (c.model.name, c.seed) != ("12k", 2)])
    slopes = []
    for name, seeds in (("12k", (0, 1)), ("300k", (0, 1, 2))):
        own = [points_of(c, "score_train") for c in curves if c.model.name == name and c.seed in seeds]
        slopes.append([(d * r).sum() / (d**2).sum() for d, r in own])
    pooled = (np.var(slopes[0], ddof=1) + 2 * np.var(slopes[1], ddof=1)) / 3
    raised = []
    for name, own in zip(("12k", "300k"), slopes, strict=True):
        fit = next(f for f in fits if (f.law, f.group, f.y) == ("sqrt-kl-linear", name, "score_train"))
        c, mine, n = fit.params["c"], max(np.var(own, ddof=1), pooled), len(own)
        assert c.se == pytest.approx(np.sqrt(mine / n)) and "pooled spread" in fit.ci_method
        t = (pooled * stats.t.ppf(0.975, 3) + (mine - pooled) * stats.t.ppf(0.975, n - 1)) / mine
        assert c.high == pytest.approx(np.mean(own) + t * np.sqrt(mine / n))
        raised.append(mine > pooled)
    assert sorted(raised) == [False, True]


def test_gold_falls_and_scores_part_as_put_in(study: Study, curves: list[Curve]) -> None:
    """Truth: gold = d (1 - .3 d); its highest mean of three steps, and the mean of the last two, by the formula."""
    rows = overoptimisation(study, curves, pm_scores(study))
    truth = Truth()
    d = truth.max_sqrt_kl * (np.array(SHAPE.steps) / SHAPE.steps[-1]) ** 0.7
    gold = d * (truth.gold_alpha - truth.gold_beta * d)
    means = np.convolve(gold, np.ones(3) / 3, "valid")
    for row in rows:
        assert row["gold_verdict"] == "falls" and row["gold_rule"]
        for name, value in (("rise", means.max()), ("fall", means.max() - gold[-2:].mean())):
            assert abs(row[f"gold_{name}"]["value"] - value) < 4 * row[f"gold_{name}"]["se"]
        assert row["gold_rise"]["n"] == SHAPE.prompts and row["train_after_peak"]["value"] > 0
        assert row["peak_sqrt_kl"] == pytest.approx(d[int(np.argmax(means)) + 1], abs=np.diff(d).max())  # a step
        assert row["parting"]["low"] > 0


def est(low: float, high: float) -> Estimate:
    half = (high - low) / 2
    return Estimate((low + high) / 2, half / stats.t.ppf(0.975, 9), 10, 9)


@pytest.mark.parametrize(
    "rise, fall, train, left, wanted",
    [
        ((0.9, 1.1), (0.2, 0.4), 0.5, True, "falls"),
        ((0.9, 1.1), (0.05, 0.4), 0.5, True, "inconclusive"),  # the fall may be below a tenth of the rise
        ((-0.1, 2.1), (0.2, 0.4), 0.5, True, "inconclusive"),  # no rise, no peak
        ((0.9, 1.1), (0.2, 0.4), -0.5, True, "inconclusive"),  # the train score falls as well
        ((0.9, 1.1), (-0.1, 0.05), 0.5, True, "none"),
        ((0.9, 1.1), (-0.1, 0.05), 0.5, False, "not reached"),
    ],
)
def test_gold_verdicts(
    rise: tuple[float, float], fall: tuple[float, float], train: float, left: bool, wanted: str
) -> None:
    found = {"gold_rise": est(*rise), "gold_fall": est(*fall), "train_after_peak": est(train - 1, train + 1)}
    assert gold_verdict(found | {"kl_after_peak": est(1.0, 2.0)}, left) == wanted


def test_movement_between_checkpoints_is_seldom_called_a_fall(study: Study, curves: list[Curve]) -> None:
    """A gold score that rises to 1 and stays, three runs whose checkpoints all move by .15 at random: of 100 draws
    no more than the nominal 2.5 % and three Monte Carlo errors may be called falls."""
    rng, falls = np.random.default_rng(1), 0
    rise = np.minimum(np.arange(16) / 5, 1.0)[:, None]
    steps = {"steps": np.arange(16), "samples": np.arange(16)}
    for _ in range(100):
        runs = []
        for curve in curves[:3]:
            prompts = curve.values["gold"].shape[1]
            gold = rise + 0.15 * rng.normal(size=(16, 1)) + 0.3 * rng.normal(size=(16, prompts))
            kl = np.arange(16)[:, None] + 0.1 * rng.normal(size=(16, prompts))
            runs.append(replace(curve, **steps, values={"gold": gold, "kl_k1": kl, "score_train": kl}))
        falls += overoptimisation(study, runs, {})[0]["gold_verdict"] == "falls"
    assert falls <= 7


def test_peak_is_chosen_by_the_other_half(curves: list[Curve]) -> None:
    """Pure noise about a flat gold: the fall from a peak chosen on the same prompts would be positive by selection."""
    rng = np.random.default_rng(0)
    falls = []
    for _ in range(300):
        noise = rng.normal(size=curves[0].values["gold"].shape)
        flat = replace(curves[0], values={"gold": noise})
        change = to_end(flat, "gold")
        assert change is not None and set(peak_windows(flat)) <= set(range(len(SHAPE.steps) - 2))
        falls.append(-change.mean())
    assert abs(np.mean(falls)) < 4 * stats.sem(falls)


def test_a_run_without_gold_has_none(study: Study, curves: list[Curve]) -> None:
    values = {name: v for name, v in curves[0].values.items() if not name.startswith("gold")}
    plain = replace(curves[0], values=values)
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
