"""The rules about preference models: every verdict from intervals that force it, and from worlds that have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.estimates import Estimate
from analysis.held_out import HeldOut
from analysis.pm_claims import (
    PM_CLAIMS,
    BySize,
    Found,
    PMEvidence,
    judge_both_high,
    judge_calibration,
    judge_mixing,
    judge_one_sided,
    judge_turns,
    judge_weight,
    pm_evidence,
)
from tests.fake_pms import fake_pm, held_out

SIZES = [{"model": "a", "n_params": 1000}, {"model": "b", "n_params": 2000}]


def estimate(value: float, se: float | None = 0.01) -> Estimate:
    return Estimate(value, se, 100)


def known(value: float, se: float | None = 0.01) -> Found:
    return Found(estimate(value, se), 2, 2, 500)


LOSS = estimate(-0.1)


@pytest.mark.parametrize(
    "judge, field, supported",
    [
        (judge_turns, "first_turn", known(0.05)),
        (judge_both_high, "both_high", known(-0.05)),
        (judge_calibration, "slope", known(1.05)),
        (judge_mixing, "mixing", BySize(estimate(0.05), LOSS, SIZES, 4)),
        (judge_weight, "weight", BySize(estimate(0.05), LOSS, SIZES, 4)),
    ],
)
def test_an_interval_decides(judge: Any, field: str, supported: Any) -> None:
    def verdict(value: float, se: float | None = 0.01) -> str:
        found: Any = known(value, se)
        found = replace(supported, slope=found.estimate) if isinstance(supported, BySize) else found
        return str(judge(replace(PMEvidence(), **{field: found}))[0])

    middle = 0.9 if field == "slope" else 0.0
    sign = -1 if field == "both_high" else 1
    assert judge(replace(PMEvidence(), **{field: supported}))[0] == "supported"
    assert verdict(middle + 0.02 * sign) == "supported" and verdict(middle - 0.02 * sign) == "contradicted"
    assert verdict(middle + 0.019 * sign) == "inconclusive"  # 1.96 * .01 is more
    assert verdict(middle + 5 * sign, None) == "inconclusive"
    assert judge(PMEvidence()) == ("inconclusive", judge(PMEvidence())[1]) and "missing" in judge(PMEvidence())[1]


def test_slightly_under_confident_is_calibrated_enough_and_over_confident_is_not() -> None:
    for slope, verdict in (
        (1.3, "supported"),
        (0.95, "supported"),
        (0.8, "contradicted"),
        (1.6, "contradicted"),
        (1.5, "inconclusive"),
    ):
        assert judge_calibration(PMEvidence(slope=known(slope)))[0] == verdict


def test_both_kinds_must_fall_below_chance() -> None:
    for helpful, harmless, verdict in (
        (0.1, 0.1, "supported"),
        (0.1, 0.0, "inconclusive"),
        (0.1, -0.1, "contradicted"),
    ):
        found = {"helpful": known(helpful), "harmless": known(harmless)}
        assert judge_one_sided(PMEvidence(one_sided=found))[0] == verdict
    assert "missing" in judge_one_sided(PMEvidence(one_sided={"helpful": known(0.1)}))[1]


def test_one_size_has_no_slope() -> None:
    assert judge_weight(PMEvidence(weight=BySize(None, LOSS, SIZES[:1])))[1] == {
        "missing": "PMs with a weight on harmless comparisons, at two sizes or more"
    }
    assert judge_weight(PMEvidence(weight=BySize(None, LOSS, SIZES)))[0] == "inconclusive"


@pytest.mark.parametrize("loss", [None, estimate(-0.1, None), estimate(-0.01), estimate(0.1)])
def test_a_loss_must_be_measured_before_it_can_shrink(loss: Estimate | None) -> None:
    for judge, field in ((judge_weight, "weight"), (judge_mixing, "mixing")):
        for slope in (0.05, -0.05):
            of = replace(PMEvidence(), **{field: BySize(estimate(slope), loss, SIZES, 4)})  # type: ignore[arg-type]
            verdict, numbers = judge(of)
            assert verdict == "inconclusive" and "no measured loss" in numbers["note"]


def test_evidence_of_a_study_without_pms_is_empty() -> None:
    assert pm_evidence([]) == PMEvidence()
    assert {claim.judge(pm_evidence([]))[0] for claim in PM_CLAIMS} == {"inconclusive"}
    assert len({claim.id for claim in PM_CLAIMS}) == len(PM_CLAIMS) == 6


def pooled_gain(rng: np.random.Generator, base: str | None, seed_sd: float = 0.05) -> Found:
    """Five PMs whose gain at the first turn scatters by ``seed_sd`` about 0; of one base, or of five."""
    turns, pms = np.tile([1.0, 1.0, 2.0, 2.0], 400), []
    for seed in range(5):
        gain = rng.normal(0, seed_sd)
        right = rng.random(1600) < np.where(turns == 1, 0.65 + gain / 2, 0.65 - gain / 2)
        of = held_out(np.where(right, 1.0, -1.0), n_turns=turns)
        pms.append(fake_pm(of, seed=seed, **({} if base is None else {"base": base})))
    found = pm_evidence(pms).first_turn
    assert found is not None
    return found


@pytest.mark.parametrize("base", [None, "one"])
def test_what_seeds_differ_by_is_in_the_interval(base: str | None) -> None:
    """150 draws without a true gain, five seeds of one base or of their own: 95 % less three Monte Carlo errors of
    1.8; over items alone the interval of one base's seeds holds 0 three times in five."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(150):
        found = pooled_gain(rng, base)
        low, high = found.estimate.interval()
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert hits / 150 >= 0.89
    assert found.n_bases == (5 if base is None else 1)


def test_seeds_of_a_base_are_one_run_where_there_are_several_bases() -> None:
    """Two bases of three seeds each: the seeds' means in place of the seeds change nothing but the rows."""
    rng = np.random.default_rng(0)
    scores = [held_out(rng.normal(0.3, 1, 400), n_turns=np.tile([1.0, 2.0, 2.0, 2.0], 100)) for _ in range(6)]
    pms = [fake_pm(s, seed=k, base=f"base{k // 3}") for k, s in enumerate(scores)]
    found = pm_evidence(pms).first_turn
    assert found is not None and (found.n_bases, found.n_chains) == (2, 6)
    gain = [[(s.correct[0::4].mean() - np.delete(s.correct.reshape(-1, 4), 0, 1).mean()) for s in scores[3 * b :][:3]]
            for b in (0, 1)]  # fmt: skip
    between = np.var(np.mean(gain, axis=1), ddof=1) / 2
    assert found.estimate.value == pytest.approx(np.mean(gain))
    assert found.estimate.se is not None and found.estimate.se**2 >= between * (1 - 1e-9)
    assert found.estimate.df is not None and found.estimate.df < 199


def test_one_base_model_says_what_its_interval_is_given() -> None:
    for n_bases, n_chains, said in ((1, 5, "over seeds and"), (1, 1, "items only"), (2, 2, None)):
        numbers = judge_turns(PMEvidence(first_turn=Found(estimate(0.1), n_bases, n_chains, 500)))[1]
        assert numbers["n_bases"] == n_bases and numbers["n_comparisons"] == 500
        assert (said is None) == ("interval" not in numbers)
        assert said is None or (said in numbers["interval"] and "given one base model" in numbers["interval"])


KINDS = np.array(["helpful-base", "harmless-base"], dtype=object)


def test_bases_are_those_of_the_pms_pooled() -> None:
    """Six bases have main PMs, one alone has PMs trained on one kind."""
    rng = np.random.default_rng(1)

    def scored(p: float) -> HeldOut:
        return held_out(np.where(rng.random(400) < p, 1.0, -1.0), tranche=KINDS[np.arange(400) // 2 % 2])

    pms = [fake_pm(scored(0.65), s, k) for s in (1000, 2000, 4000) for k in range(2)]
    pms += [fake_pm(scored(0.4), 1000, 0, helpful_share=q) for q in (0.0, 1.0)]
    evidence = pm_evidence(pms)
    assert evidence.slope is not None and evidence.slope.n_bases == 6
    for side in judge_one_sided(evidence)[1].values():
        assert side["n_bases"] == 1 and "given one base model" in side["interval"]


def test_sizes_are_pooled_at_a_number_of_comparisons_that_all_have() -> None:
    rng = np.random.default_rng(2)
    both = [fake_pm(held_out(rng.normal(0.3, 1, 200)), s, k, n=n)
            for s, counts in ((1000, (384, 6144)), (2000, (384, 1536))) for k in range(2) for n in counts]  # fmt: skip
    found = pm_evidence(both).slope
    assert found is not None and found.n_comparisons == 384
    at_384 = [pm for pm in both if pm.n_comparisons == 384]
    alone = pm_evidence(at_384).slope
    assert alone is not None and alone.estimate == found.estimate
    apart = [pm for pm in both if pm.n_comparisons != 384]
    assert pm_evidence(apart).slope is None and "missing" in judge_calibration(pm_evidence(apart))[1]


def test_calibration_is_the_mean_over_pms_not_over_pairs() -> None:
    """Two PMs in three are grossly over-confident at small differences, the third is calibrated at large ones: a fit to
    all pairs is the third's, the mean is (.3 + .4 + 1.05) / 3, and PMs that differ so make its interval wide."""
    rng, pms = np.random.default_rng(0), []
    for size, sd, slope in ((1000, 0.3, 0.3), (2000, 0.4, 0.4), (4000, 2.0, 1.05)):
        for seed in range(2):
            gap = np.abs(rng.normal(0, sd, 8000))
            right = rng.random(8000) < 1 / (1 + np.exp(-slope * gap))
            pms.append(fake_pm(held_out(np.where(right, gap, -gap)), size, seed))
    found = pm_evidence(pms).slope
    assert found is not None and found.estimate.value == pytest.approx(1.75 / 3, abs=0.1)
    low, high = found.estimate.interval()
    assert low is not None and high is not None and high - low > 0.5
