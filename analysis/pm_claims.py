"""The paper's claims about preference models (Bai et al. 2022), judged by intervals over all sizes' main PMs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from analysis.crossed import one
from analysis.estimates import Estimate
from analysis.frames import base_of
from analysis.judging import Judgement, by_estimate, missing
from analysis.pm_calibration import pooled_slope
from analysis.pm_floor import both_high_gain
from analysis.pm_mixing import mixing_by_size, one_sided, weight_by_size
from analysis.pm_turns import first_turn_gain
from analysis.pools import PM, largest

SLOPE_RANGE = (0.9, 1.5)  # of a calibration slope: below is over-confidence, above more than slight under-confidence
POOLED = "All sizes' PMs of the most comparisons together, conversations crossed with base models (95 %)."


class PMClaim(NamedTuple):
    """One claim: where the paper makes it, and the rule in words and in code."""

    id: str
    text: str
    rule: str
    judge: Callable[[PMEvidence], Judgement]


@dataclass(frozen=True)
class BySize:
    """How a change moves with size: its slope in ln(parameters), and the change at every size."""

    slope: Estimate | None = None
    sizes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class PMEvidence:
    """What the rules about preference models may look at; None or empty: not measured."""

    first_turn: Estimate | None = None  # accuracy at the first turn minus at later ones
    both_high: Estimate | None = None  # accuracy where both scores are high minus elsewhere
    slope: Estimate | None = None  # of calibration
    one_sided: dict[str, Estimate] = field(default_factory=dict)  # 1/2 - accuracy on the kind not trained on
    mixing: BySize = BySize()  # what training on one kind alone changes
    weight: BySize = BySize()  # what a weight on harmless comparisons changes in helpful accuracy
    n_bases: int = 0  # base models of the PMs pooled

    def pooled(self, **numbers: Any) -> dict[str, Any]:
        """Numbers over all sizes' PMs with the base models behind them; says so where there is one alone."""
        one_base = {"interval": "over held-out items only, given one base model"} if self.n_bases == 1 else {}
        return {**numbers, "n_bases": self.n_bases, **one_base}


def pm_evidence(pms: Sequence[PM]) -> PMEvidence:
    """Everything that the rules need, from a study's PMs."""
    return PMEvidence(
        first_turn=one(first_turn_gain(list(pms))),
        both_high=one(both_high_gain(list(pms))),
        slope=one(pooled_slope(list(pms))),
        one_sided=one_sided(pms),
        mixing=BySize(*mixing_by_size(pms)),
        weight=BySize(*weight_by_size(pms)),
        n_bases=len({base_of(pm.chain) for pool in largest(pms) for pm in pool.pms}),
    )


def judge_turns(evidence: PMEvidence) -> Judgement:
    """By the sign of the first turn's gain."""
    if evidence.first_turn is None:
        return missing("held-out comparisons about first and about later turns")
    return by_estimate(evidence.first_turn), evidence.pooled(first_minus_later=evidence.first_turn.to_difference())


def judge_both_high(evidence: PMEvidence) -> Judgement:
    """By the sign of the loss where both scores are high."""
    if evidence.both_high is None:
        return missing("held-out scores of a PM")
    numbers = evidence.pooled(high_minus_others_beyond_expected=evidence.both_high.to_difference())
    return by_estimate(evidence.both_high.scaled(-1)), numbers


def judge_calibration(evidence: PMEvidence) -> Judgement:
    """Supported where the slope's interval lies within ``SLOPE_RANGE``, contradicted where it lies outside."""
    slope = evidence.slope
    if slope is None:
        return missing("held-out scores of a PM that is sometimes right and sometimes wrong")
    low, high = slope.interval()
    numbers = evidence.pooled(calibration_slope=slope.to_dict(), range=list(SLOPE_RANGE))
    if low is None or high is None:
        return "inconclusive", numbers
    if high < SLOPE_RANGE[0] or low > SLOPE_RANGE[1]:
        return "contradicted", numbers
    return ("supported" if SLOPE_RANGE[0] <= low and high <= SLOPE_RANGE[1] else "inconclusive"), numbers


def judge_one_sided(evidence: PMEvidence) -> Judgement:
    """Supported where both kinds are below chance, contradicted where one is above."""
    if len(evidence.one_sided) < 2:
        return missing("PMs trained on helpful comparisons alone and on harmless ones alone")
    numbers = {f"chance_minus_{kind}_accuracy": e.to_difference() for kind, e in evidence.one_sided.items()}
    numbers = evidence.pooled(**numbers)
    verdicts = {by_estimate(estimate) for estimate in evidence.one_sided.values()}
    if "contradicted" in verdicts:
        return "contradicted", numbers
    return ("supported" if verdicts == {"supported"} else "inconclusive"), numbers


def judge_mixing(evidence: PMEvidence) -> Judgement:
    return _by_size(evidence.mixing, "PMs on one kind of comparison alone and on a mixture, at two sizes or more")


def judge_weight(evidence: PMEvidence) -> Judgement:
    return _by_size(evidence.weight, "PMs with a weight on harmless comparisons, at two sizes or more")


def _by_size(found: BySize, wanted: str) -> Judgement:
    """By the sign of the slope; two sizes with one base each have none."""
    if len(found.sizes) < 2:
        return missing(wanted)
    numbers: dict[str, Any] = {"slope_per_ln_params": None, "sizes": found.sizes}
    if found.slope is None:
        return "inconclusive", numbers
    return by_estimate(found.slope), numbers | {"slope_per_ln_params": found.slope.to_difference()}


PM_CLAIMS = (
    PMClaim("C-turns", "The first turn of a conversation is a little easier to judge than later ones (figure 8).",
            "the sign of accuracy at the first turn minus at later ones. " + POOLED, judge_turns),
    PMClaim("C-calibration", "PMs are well calibrated or slightly under-confident (figure 9).",
            f"supported: the calibration slope's interval lies within {SLOPE_RANGE[0]} to {SLOPE_RANGE[1]}; "
            "contradicted: wholly outside. " + POOLED, judge_calibration),
    PMClaim("C-both-high", "PM accuracy falls where both responses score high (figure 25).",
            "the sign of accuracy beyond what the size of the differences leads one to expect (they are smaller where "
            "both scores are high), on the fifth of pairs with the highest lower score minus on the others, the fifth "
            "within each PM and kind of comparison, kinds counting alike. " + POOLED, judge_both_high),
    PMClaim("C-one-sided", "A PM trained on helpful or on harmless comparisons alone is worse than chance on the "
            "others (figure 19).",
            "supported: both accuracies are below 1/2; contradicted: one is above. All sizes together, conversations "
            "crossed with base models (95 %).", judge_one_sided),
    PMClaim("C-mixing-size", "Larger PMs are more robust to the mixture of helpful and harmless comparisons "
            "(figure 26).",
            "the sign of the slope in ln(parameters) of: mean accuracy of the PMs trained on one kind alone minus that "
            "of the most even mixture (95 %).", judge_mixing),
    PMClaim("C-weight-size", "Larger PMs lose less helpful accuracy to a weight on harmless comparisons (figure 27).",
            "the sign of the slope in ln(parameters) of: helpful accuracy at the largest weight minus at weight 1 "
            "(95 %).", judge_weight),
)  # fmt: skip
