"""The rules about preference models: every verdict from intervals that force it, and from worlds that have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.estimates import Estimate
from analysis.pm_claims import (
    PM_CLAIMS,
    BySize,
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


def known(value: float, se: float | None = 0.01) -> Estimate:
    return Estimate(value, se, 100)


@pytest.mark.parametrize(
    "judge, field, supported",
    [
        (judge_turns, "first_turn", known(0.05)),
        (judge_both_high, "both_high", known(-0.05)),
        (judge_calibration, "slope", known(1.05)),
        (judge_mixing, "mixing", BySize(known(0.05), SIZES)),
        (judge_weight, "weight", BySize(known(0.05), SIZES)),
    ],
)
def test_an_interval_decides(judge: Any, field: str, supported: Any) -> None:
    def verdict(value: float, se: float | None = 0.01) -> str:
        found: Any = known(value, se)
        found = replace(supported, slope=found) if isinstance(supported, BySize) else found
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
    assert judge_weight(PMEvidence(weight=BySize(None, SIZES[:1])))[1] == {
        "missing": "PMs with a weight on harmless comparisons, at two sizes or more"
    }
    assert judge_weight(PMEvidence(weight=BySize(None, SIZES)))[0] == "inconclusive"


def test_evidence_of_a_study_without_pms_is_empty() -> None:
    assert pm_evidence([]) == PMEvidence()
    assert {claim.judge(pm_evidence([]))[0] for claim in PM_CLAIMS} == {"inconclusive"}
    assert len({claim.id for claim in PM_CLAIMS}) == len(PM_CLAIMS) == 6


def test_seeds_of_one_base_are_one_run_where_sizes_are_pooled() -> None:
    """Four seeds of one base and four bases: the same scores, but the first has no spread between bases."""
    rng = np.random.default_rng(0)
    turns = np.tile([1.0, 2.0, 2.0, 2.0], 100)
    scores = [held_out(rng.normal(0.3, 1, 400), n_turns=turns) for _ in range(4)]
    shared = pm_evidence([fake_pm(s, seed=k, base="one") for k, s in enumerate(scores)]).first_turn
    apart = pm_evidence([fake_pm(s, seed=k) for k, s in enumerate(scores)]).first_turn
    assert shared is not None and apart is not None and shared.value == pytest.approx(apart.value)
    assert shared.df == 199 and apart.df is not None and apart.df < 199


def test_one_base_model_says_what_its_interval_leaves_out() -> None:
    for n_bases, said in ((1, True), (2, False)):
        numbers = judge_turns(PMEvidence(first_turn=known(0.1), n_bases=n_bases))[1]
        assert numbers["n_bases"] == n_bases and ("interval" in numbers) == said
