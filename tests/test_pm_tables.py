"""Tables about preference models against plain numpy, closed forms and a simulated Bradley-Terry world."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.calibration import calibration_slope
from analysis.crossed import one
from analysis.estimates import mean
from analysis.held_out import HeldOut, sigmoid
from analysis.pm import measures, pm_rows, pm_trend
from analysis.pm_agreement import pm_agreement
from analysis.pm_calibration import pm_calibration, pooled_slope
from analysis.pm_floor import both_high_gain, pm_floor, pm_score_rows
from analysis.pm_turns import first_turn_gain, pm_turns, turn_classes
from analysis.pools import Pool, on_common_comparisons
from tests.fake_pms import empty_study, fake_pm, held_out

KINDS = np.array(["helpful-base", "harmless-base"], dtype=object)


def world(rng: np.random.Generator, n: int = 600, scale: float = 1.0, **columns: Any) -> HeldOut:
    """Scores of which ``scale`` times the difference is the log-odds of the label (Bradley and Terry)."""
    gap = rng.normal(0, 1.5, n) + np.repeat(rng.normal(0, 1, n // 2), 2)
    right = rng.random(n) < sigmoid(scale * np.abs(gap))
    level = rng.normal(0, 1, n)
    difference = np.where(right, np.abs(gap), -np.abs(gap))
    tranche = np.tile(np.repeat(KINDS, 2), n // 4)
    return held_out(difference, score_chosen=level + difference, score_rejected=level, tranche=tranche, **columns)


# ---------------------------------------------------------------- baselines


def test_baselines_are_of_the_row_s_comparisons() -> None:
    """Length and ceiling as the mean over one PM's comparisons, clustered by conversation; accuracy at like length as
    the mean over all PMs, whose comparisons are the same."""
    rng = np.random.default_rng(5)
    turns, p = np.tile([1.0, 2.0, 2.0, 1.0], 60), rng.uniform(0.2, 0.9, 240)
    lengths = {"length_chosen": rng.integers(90, 130, 240).astype(float), "length_rejected": np.full(240, 110.0)}
    pms = [fake_pm(world(np.random.default_rng(k), 240, n_turns=turns, p_chosen=p, **lengths), seed=k) for k in (0, 1)]
    of, correct = pms[0].scores, np.mean([pm.scores.correct for pm in pms], axis=0)
    longer = 0.5 + 0.5 * np.sign(lengths["length_chosen"] - 110)
    alike = np.abs(lengths["length_chosen"] - 110) <= 0.1 * np.maximum(lengths["length_chosen"], 110)
    for row in pm_turns(empty_study(), pms):
        kept = turns == row["turn"]
        cluster = of.conversation[kept]
        assert row["length_accuracy"] == pytest.approx(mean(longer[kept], cluster).to_proportion())
        assert row["bayes_accuracy"] == pytest.approx(mean(np.maximum(p, 1 - p)[kept], cluster).to_proportion())
        assert row["length_matched_accuracy"]["value"] == pytest.approx(correct[kept & alike].mean())
    (row,) = pm_trend(empty_study(), pms)
    assert row["length_accuracy"] == pytest.approx(mean(longer, of.conversation).to_proportion())
    unlike = [fake_pm(world(rng, 240, length_chosen=np.full(240, 300.0)))]
    (row,) = pm_trend(empty_study(), unlike)
    assert row["length_matched_accuracy"] is None and row["bayes_accuracy"] is None
    assert row["length_accuracy"]["value"] == 1


# ---------------------------------------------------------------- turns


def test_classes_of_turns_keep_thirty_conversations() -> None:
    """100 conversations with a second turn, 40 with a third, 25 with a fourth: three and four become "3+"."""
    turns = np.concatenate([np.full(n, t) for t, n in ((1, 200), (2, 100), (3, 40), (4, 25))]).astype(float)
    own = np.concatenate([[f"c{i}" for i in range(n)] for n in (200, 100, 40, 25)]).astype(object)
    scores = held_out(np.ones(len(turns)), n_turns=turns, conversation=own)
    assert [turn.label for turn in turn_classes([Pool((fake_pm(scores),))])] == ["1", "2", "3+"]
    few = scores.select(turns <= 2)
    assert [turn.label for turn in turn_classes([Pool((fake_pm(few),))])] == ["1", "2"]
    assert turn_classes([]) == [] and pm_turns(empty_study(), []) == []


def test_turn_rows_are_means_over_their_comparisons() -> None:
    turns = np.tile([1.0, 2.0, 2.0, 3.0], 60)
    pms = [fake_pm(world(np.random.default_rng(k), 240, n_turns=turns), seed=k) for k in range(3)]
    rows = pm_turns(empty_study(), pms)
    assert [row["label"] for row in rows] == ["1", "2", "3"] and rows[0]["minus_first"] is None
    correct = np.stack([pm.scores.correct for pm in pms])
    means = [correct[:, turns == t].mean() for t in (1, 2, 3)]
    assert [row["accuracy"]["value"] for row in rows] == pytest.approx(means)
    loss = np.stack([-np.log(sigmoid(pm.scores.difference)) for pm in pms])
    assert [row["log_loss"]["value"] for row in rows] == pytest.approx([loss[:, turns == t].mean() for t in (1, 2, 3)])
    helpful = pms[0].scores.tranche == KINDS[0]  # a first turn is never about a harmless one, a third always
    assert rows[2]["minus_first"] is None and not helpful[turns == 3].any()
    assert rows[1]["minus_first"]["value"] == pytest.approx(correct[:, helpful & (turns == 2)].mean() - means[0])
    assert [row["accuracy"]["n"] for row in rows] == [60, 120, 60]
    assert [row["n_conversations"] for row in rows] == [60, 120, 60] and rows[0]["n_runs"] == 3


def test_an_easier_first_turn_is_found() -> None:
    """Accuracy .75 at the first turn, .6 later: the pooled gain's interval holds .15 and leaves out 0."""
    turns = np.tile([1.0, 1.0, 2.0, 3.0], 500)
    pms = []
    for seed in range(4):
        right = np.random.default_rng(seed).random(2000) < np.where(turns == 1, 0.75, 0.6)
        pms.append(fake_pm(held_out(np.where(right, 1.0, -1.0), n_turns=turns), seed=seed))
    gain = one(first_turn_gain(pms))
    assert gain is not None
    low, high = gain.interval()
    assert low is not None and high is not None and 0 < low < 0.15 < high


def test_kinds_that_differ_in_turns_and_ease_make_no_first_turn_easier() -> None:
    """Harmless ones are easier (.75 against .62) and more often about the first turn; no turn matters within a kind.
    The marginal difference is .13 (.7 - .3) = .052; within kinds the interval holds 0."""
    rng = np.random.default_rng(1)
    harmless = np.repeat(rng.random(1000) < 0.5, 2)
    turns = np.where(np.repeat(rng.random(1000), 2) < np.where(harmless, 0.7, 0.3), 1.0, 2.0)
    pms = []
    for k in range(6):
        right = rng.random(2000) < np.where(harmless, 0.75, 0.62)
        of = held_out(np.where(right, 1.0, -1.0), n_turns=turns, tranche=KINDS[harmless.astype(int)])
        pms.append(fake_pm(of, 1000 * (1 + k // 2), k % 2))
    pooled = np.concatenate([pm.scores.correct for pm in pms])
    first = np.tile(turns == 1, 6)
    assert pooled[first].mean() - pooled[~first].mean() > 0.03
    gain = one(first_turn_gain(pms))
    assert gain is not None
    low, high = gain.interval()
    assert low is not None and high is not None and low < 0 < high and high - low < 0.06
    by_hand = [(pooled[own & first].mean() - pooled[own & ~first].mean(), (own & first).sum(), (own & ~first).sum())
               for own in (np.tile(harmless, 6), np.tile(~harmless, 6))]  # fmt: skip
    weights = [n * m / (n + m) for _, n, m in by_hand]
    assert gain.value == pytest.approx(np.average([d for d, _, _ in by_hand], weights=weights))


@pytest.mark.parametrize("n_first, known", [(29, False), (30, True)])
def test_a_first_turn_needs_thirty_conversations(n_first: int, known: bool) -> None:
    turns = np.where(np.arange(400) // 2 < n_first, 1.0, 2.0)
    of = world(np.random.default_rng(0), 400, n_turns=turns)
    same = held_out(of.difference, n_turns=turns)
    pms = [fake_pm(same, seed=k) for k in range(2)]
    assert (first_turn_gain(pms) is not None) == known
    assert (pm_turns(empty_study(), pms)[-1]["minus_first"] is not None) == known


def test_without_first_turns_nothing_is_compared_with_them() -> None:
    of = held_out(np.random.default_rng(0).normal(0.3, 1, 400), n_turns=np.tile([2.0, 3.0], 200))
    assert first_turn_gain([fake_pm(of)]) is None
    assert {row["minus_first"] is None for row in pm_turns(empty_study(), [fake_pm(of)])} == {True}


# ---------------------------------------------------------------- calibration


def test_calibration_bins_are_tenths() -> None:
    pm = fake_pm(world(np.random.default_rng(3), 400))
    rows = pm_calibration(empty_study(), [pm])
    order = np.argsort(np.abs(pm.scores.difference))
    size = np.abs(pm.scores.difference)[order].reshape(10, 40)
    assert [row["difference"] for row in rows] == pytest.approx(size.mean(axis=1))
    assert [row["expected"] for row in rows] == pytest.approx((1 / (1 + np.exp(-size))).mean(axis=1))
    right = (pm.scores.difference > 0)[order].reshape(10, 40).mean(axis=1)
    assert [row["accuracy"]["value"] for row in rows] == pytest.approx(right)
    gap = right - (1 / (1 + np.exp(-size))).mean(axis=1)
    assert [row["gap"]["value"] for row in rows] == pytest.approx(gap)
    assert [row["left"] for row in rows[1:]] == [row["right"] for row in rows[:-1]]


def test_scores_that_are_log_odds_have_slope_one() -> None:
    """150 worlds: the 95 % interval of the slope holds 1, less three Monte Carlo errors of 1.8; twice as steep, 1/2."""
    hits = {1.0: 0, 2.0: 0}
    for seed in range(150):
        for scale in hits:
            of = world(np.random.default_rng(seed), 400, scale=scale)
            slope = calibration_slope(of.difference, of.conversation)
            assert slope is not None
            low, high = slope.interval()
            assert low is not None and high is not None
            hits[scale] += low <= scale <= high
    assert min(hits.values()) / 150 >= 0.89


def test_the_pooled_slope_is_the_mean_of_the_pms_slopes() -> None:
    pms = [fake_pm(world(np.random.default_rng(k)), n_params=n) for k, n in enumerate((1000, 2000, 4000))]
    own = [calibration_slope(pm.scores.difference, np.arange(600)) for pm in pms]
    found = one(pooled_slope(pms))
    slopes = [slope.value for slope in own if slope is not None]
    assert found is not None and found.value == pytest.approx(np.mean(slopes))
    assert found.se is not None and found.se >= np.std(slopes, ddof=1) / math.sqrt(3) * (1 - 1e-9)
    assert one(pooled_slope([])) is None
    always = fake_pm(held_out(np.ones(600)), n_params=8000)
    assert one(pooled_slope([*pms, always])) is None  # its slope is infinite
    trend = pm_trend(empty_study(), pms[:1])
    assert trend[0]["calibration_slope"]["value"] == pytest.approx(likeliest_slope(pms[0].scores), abs=2e-4)


def test_the_mean_slope_covers_where_pms_differ() -> None:
    """150 draws of four PMs of slopes about 1 (sd .2): 95 % less three Monte Carlo errors of 1.8."""
    rng, hits = np.random.default_rng(4), 0
    for _ in range(150):
        pms = [fake_pm(world(rng, 400, scale=float(rng.normal(1, 0.2))), seed=k) for k in range(4)]
        found = one(pooled_slope(pms))
        assert found is not None
        low, high = found.interval()
        assert low is not None and high is not None
        hits += low <= 1 <= high
    assert hits / 150 >= 0.89


def test_a_slope_whose_fit_does_not_converge_is_none() -> None:
    """All but one right, and that one wrong by a hair: the best slope is beyond what 60 damped steps reach."""
    difference = np.append(np.ones(50), -1e-9)
    assert calibration_slope(difference, np.arange(51)) is None
    assert calibration_slope(np.append(np.ones(50), -1.0), np.arange(51)) is not None


def likeliest_slope(of: HeldOut) -> float:
    """By brute force: the best of 20,001 slopes, 2e-4 apart."""
    b = np.linspace(0, 4, 20_001)
    return float(b[np.argmin([np.logaddexp(0, -k * of.difference).sum() for k in b])])


# ---------------------------------------------------------------- both high


def test_floor_rows_are_the_pairs_above() -> None:
    pm = fake_pm(world(np.random.default_rng(4), 400))
    rows = pm_floor(empty_study(), [pm])
    assert len(rows) == 30 and {row["group"] for row in rows} == {"all", "helpful", "harmless"}
    of = pm.scores
    lower = np.minimum(of.score_chosen, of.score_rejected) - np.concatenate([of.score_chosen, of.score_rejected]).mean()
    for row in rows:
        kind = np.array([row["group"] in ("all", name.split("-")[0]) for name in of.tranche])
        threshold = np.quantile(lower[kind], row["share"])
        above = kind & (lower >= threshold)
        assert row["threshold"] == pytest.approx(threshold) and row["accuracy"]["n"] == above.sum()
        assert row["accuracy"]["value"] == pytest.approx((of.difference[above] > 0).mean())
        change = row["accuracy"]["value"] - (of.difference[kind] > 0).mean()
        assert (row["minus_all"] is None) == (row["share"] == 0)
        assert row["minus_all"] is None or row["minus_all"]["value"] == pytest.approx(change)


def test_a_pms_own_level_makes_no_difference() -> None:
    scores = [world(np.random.default_rng(k), 400) for k in range(2)]
    moved = held_out(scores[1].difference, score_chosen=scores[1].score_chosen + 7,
                     score_rejected=scores[1].score_rejected + 7, tranche=scores[1].tranche)  # fmt: skip
    plain = pm_floor(empty_study(), [fake_pm(s, seed=k) for k, s in enumerate(scores)])
    other = pm_floor(empty_study(), [fake_pm(s, seed=k) for k, s in enumerate((scores[0], moved))])
    for a, b in zip(plain, other, strict=True):
        assert a["threshold"] == pytest.approx(b["threshold"])
        assert a["accuracy"]["value"] == pytest.approx(b["accuracy"]["value"])


def test_pairs_judged_badly_where_both_score_high_are_found() -> None:
    """Kinds differ in level (harmless high) and accuracy, which must not matter; within each, high pairs are coin
    flips and others right four times in five: the gain is -.3."""
    pms = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        level = rng.normal(size=2000)
        tranche = np.tile(np.repeat(KINDS, 2), 500)
        offset = np.where(tranche == KINDS[1], 5.0, 0.0)
        high = np.zeros(2000, dtype=bool)
        for name in KINDS:
            high |= (tranche == name) & (level > np.quantile(level[tranche == name], 0.8))
        right = rng.random(2000) < np.where(high, 0.5, 0.8)
        gap = np.where(right, 1e-3, -1e-3)
        chosen, rejected = level + offset + np.maximum(gap, 0), level + offset + np.maximum(-gap, 0)
        pms.append(fake_pm(held_out(gap, score_chosen=chosen, score_rejected=rejected, tranche=tranche), seed=seed))
    gain = one(both_high_gain(pms))
    assert gain is not None
    low, high_end = gain.interval()
    assert low is not None and high_end is not None and low < -0.3 < high_end < -0.2
    assert both_high_gain([]) is None


def test_a_perfect_reader_loses_nothing_where_both_score_high() -> None:
    """Labels drawn from the scores themselves (Bradley-Terry): accuracy falls where both score high, as it must since
    differences are small there, but not below what they lead one to expect."""
    pms = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        sides = rng.normal(size=(4000, 2)) * 2
        first = rng.random(4000) < 1 / (1 + np.exp(sides[:, 1] - sides[:, 0]))
        chosen, rejected = np.where(first, sides.T, sides.T[::-1])
        scores = held_out(chosen - rejected, score_chosen=chosen, score_rejected=rejected)
        pms.append(fake_pm(scores, seed=seed))
    rows = pm_floor(empty_study(), pms)
    assert rows[8]["minus_all"]["high"] < -0.02
    gain = one(both_high_gain(pms))
    assert gain is not None
    low, high = gain.interval()
    assert low is not None and high is not None and low < 0 < high


def test_score_distributions_are_histograms_of_the_largest_size() -> None:
    small, large = fake_pm(world(np.random.default_rng(5)), 100), fake_pm(world(np.random.default_rng(6)), 900)
    rows = pm_score_rows(empty_study(), [large, small])
    assert {row["model"] for row in rows} == {"900"} and len(rows) == 6
    of = large.scores
    centred = of.score_chosen - np.concatenate([of.score_chosen, of.score_rejected]).mean()
    row = next(row for row in rows if (row["group"], row["side"]) == ("all", "chosen"))
    assert row["mean"]["value"] == pytest.approx(centred.mean()) and row["sd"] == pytest.approx(centred.std(ddof=1))
    assert row["q25"] == pytest.approx(np.quantile(centred, 0.25))
    inside = (centred >= row["edges"][0]) & (centred <= row["edges"][-1])
    assert np.dot(row["density"], np.diff(row["edges"])) == pytest.approx(inside.mean())
    assert len({tuple(row["edges"]) for row in rows}) == 1


def test_the_error_of_a_centred_mean_is_that_of_repeated_draws() -> None:
    """Both sides share what their conversation gives (sd 3), and so does the mean that is subtracted: over 200 draws
    the means' own spread is within 15 % (three Monte Carlo errors of 5) of the reported error, of .15 uncentred. Their
    mean is the truth put in, .25, within four Monte Carlo errors."""
    rng, means, errors = np.random.default_rng(7), [], []
    for _ in range(200):
        level = np.repeat(rng.normal(0, 3, 400), 2)
        noise = rng.normal(0, 0.5, (2, 800))
        of = held_out(np.zeros(800), score_chosen=level + 0.5 + noise[0], score_rejected=level + noise[1])
        rows = pm_score_rows(empty_study(), [fake_pm(of)])
        row = next(row for row in rows if (row["group"], row["side"]) == ("all", "chosen"))
        means.append(row["mean"]["value"])
        errors.append(row["mean"]["se"])
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.15)
    assert np.mean(means) == pytest.approx(0.25, abs=4 * np.std(means) / math.sqrt(200))  # standard errors


# ---------------------------------------------------------------- agreement


def two_halves(rho: float, n: int, seed: int) -> list[Any]:
    """PMs of two halves whose score differences are normal with correlation ``rho``, each pair a conversation."""
    drawn = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=n)
    own = np.array([f"c{i}" for i in range(n)], dtype=object)
    halves = zip(("train", "test"), drawn.T, strict=True)
    return [fake_pm(held_out(values, conversation=own), half=half) for half, values in halves]


def test_agreement_of_normal_scores_is_the_arcsine_law() -> None:
    """P(same sign) = 1/2 + asin(rho)/pi (Sheppard 1899); four standard errors."""
    (row,) = pm_agreement(empty_study(), two_halves(0.6, 20_000, 0))
    truth = 0.5 + math.asin(0.6) / math.pi
    assert abs(row["agreement"]["value"] - truth) < 4 * row["agreement"]["se"]
    assert row["correlation"]["low"] < 0.6 < row["correlation"]["high"] and row["seed"] == 0


def test_the_correlations_interval_is_fishers_where_scores_are_normal() -> None:
    """tanh(artanh(r) -+ 1.96 / sqrt(n - 3)) of independent normal pairs, to 3 % of its width at n = 20,000."""
    pms = two_halves(-0.4, 20_000, 1)
    (row,) = pm_agreement(empty_study(), pms)
    r = stats.pearsonr(pms[0].scores.difference, pms[1].scores.difference)
    wanted = r.confidence_interval(0.95)
    assert row["correlation"]["value"] == pytest.approx(r.statistic)
    ends = (row["correlation"]["low"], row["correlation"]["high"])
    assert ends == pytest.approx((wanted.low, wanted.high), abs=0.03 * (wanted.high - wanted.low))


def test_agreement_matches_comparisons_by_their_ids() -> None:
    train, test = two_halves(0.5, 400, 2)
    shuffled = np.random.default_rng(0).permutation(400)[:390]
    other = fake_pm(test.scores.select(shuffled), half="test")
    (row,) = pm_agreement(empty_study(), [train, other])
    kept = np.sort(shuffled)
    wanted = np.corrcoef(train.scores.difference[kept], test.scores.difference[kept])[0, 1]
    assert row["correlation"]["value"] == pytest.approx(wanted) and "10 comparisons" in row["note"]


def test_agreement_is_at_the_most_comparisons_both_halves_have() -> None:
    pms = [fake_pm(world(np.random.default_rng(k), 40), half=h, n=n)
           for k, (h, n) in enumerate((("train", 100), ("train", 900), ("test", 100)))]  # fmt: skip
    (row,) = pm_agreement(empty_study(), pms)
    assert row["n_comparisons"] == 100
    assert pm_agreement(empty_study(), pms[:2]) == []


# ---------------------------------------------------------------- rows of single PMs


def test_pairs_of_matched_length_and_the_gap_to_bayes() -> None:
    rng = np.random.default_rng(8)
    chosen, rejected = rng.integers(50, 150, (2, 400)).astype(float)
    p = rng.uniform(0.2, 1.0, 400)
    of = world(rng, 400, length_chosen=chosen, length_rejected=rejected, p_chosen=p)
    found = measures(of)
    alike = np.abs(chosen - rejected) <= 0.1 * np.maximum(chosen, rejected)
    assert 20 < alike.sum() < 380 and found["length_matched_accuracy"]["n"] == alike.sum()
    assert found["length_matched_accuracy"]["value"] == pytest.approx((of.difference[alike] > 0).mean())
    by_hand = mean(np.maximum(p, 1 - p) - (of.difference > 0), of.conversation)
    assert (found["bayes_gap"]["value"], found["bayes_gap"]["se"]) == pytest.approx((by_hand.value, by_hand.se))
    assert found["bayes_gap"]["mde"] == pytest.approx(2.8 * by_hand.se, rel=0.01)  # type: ignore[operator]


def test_outside_the_world_and_without_such_pairs_there_is_none() -> None:
    found = measures(world(np.random.default_rng(9), 40, length_chosen=np.full(40, 500.0)))
    assert found["bayes_gap"] is None and found["bayes_accuracy"] is None and found["length_matched_accuracy"] is None


def test_pms_of_other_settings_enter_no_main_row() -> None:
    scores = [world(np.random.default_rng(k), 200) for k in range(4)]
    main, others = fake_pm(scores[0]), [
        fake_pm(scores[1], rate_factor=2.0), fake_pm(scores[2], helpful_share=0.5),
        fake_pm(scores[3], harmless_weight=3.0),
    ]  # fmt: skip
    for table in (pm_rows, pm_trend, pm_turns, pm_calibration, pm_floor, pm_score_rows, pm_agreement):
        assert table(empty_study(), [main, *others]) == table(empty_study(), [main]), table
        assert table(empty_study(), others) == [], table


def test_pms_are_compared_on_the_comparisons_that_all_scored() -> None:
    """One PM lacks two comparisons and has the others in another order, one scored other comparisons altogether."""
    of = world(np.random.default_rng(0), 40)
    order = np.random.default_rng(1).permutation(40)[:38]
    strange = held_out(np.ones(40), comparison_id=np.array([f"x{i}" for i in range(40)], dtype=object))
    pms = [fake_pm(of), fake_pm(of, seed=1), fake_pm(of.select(order), seed=2), fake_pm(strange, seed=3)]
    study = empty_study()
    kept = on_common_comparisons(study, pms)
    assert len(kept) == 3
    for pm in kept:
        assert list(pm.scores.comparison_id) == sorted(order)
        np.testing.assert_array_equal(pm.scores.difference, of.difference[np.sort(order)])
    reasons = [row["reason"] for row in study.excluded]
    assert "other comparisons" in reasons[0] and reasons[1].startswith("2 of 40")
    assert on_common_comparisons(empty_study(), pms[:2]) == pms[:2] and on_common_comparisons(empty_study(), []) == []
