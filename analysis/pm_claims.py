"""The paper's claims about preference models (Bai et al. 2022), judged by intervals over all sizes' main PMs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from analysis.crossed import Term, one
from analysis.estimates import Estimate
from analysis.judging import Judgement, by_estimate, missing
from analysis.pm_calibration import pooled_slope
from analysis.pm_floor import both_high_gain
from analysis.pm_mixing import BySize, mixing_by_size, one_sided, weight_by_size
from analysis.pm_turns import first_turn_gain
from analysis.pools import PM, Pool, everything

SLOPE_RANGE = (0.9, 1.5)  # of a calibration slope: below is over-confidence, above more than slight under-confidence
POOLED = (
    "All sizes' PMs of the most comparisons that every size has, together, conversations crossed with base models "
    "(with seeds where there is one base model alone; 95 %)."
)
LOSS_FIRST = (
    "inconclusive unless that change, over all sizes together, is measurably below 0: without a loss there is none to "
    "become smaller (95 %). The best is chosen on one half of the conversations and compared on the other, both ways; "
    "values and numbers of comparisons are those that every size has."
)


class PMClaim(NamedTuple):
    """One claim: where the paper makes it, and the rule in words and in code."""

    id: str
    text: str
    rule: str
    judge: Callable[[PMEvidence], Judgement]


class Found(NamedTuple):
    """An estimate with the PMs that it was pooled over."""

    estimate: Estimate
    n_bases: int = 0
    n_chains: int = 0  # bases and seeds
    n_comparisons: int | None = None  # that every PM was trained on

    def numbers(self) -> dict[str, Any]:
        """What an interval is over besides held-out items; says so where there is one base model alone."""
        known = {"n_bases": self.n_bases, "n_comparisons": self.n_comparisons}
        if self.n_bases != 1:
            return known
        seeds = f"{self.n_chains} seeds" if self.n_chains > 1 else "one seed"
        over = "over seeds and held-out items" if self.n_chains > 1 else "over held-out items only"
        return known | {"interval": f"{over}, given one base model ({seeds})"}


def found(pool: Pool | None, term: Term | None) -> Found | None:
    """A pooled term's estimate; None where there is none."""
    estimate = one(term)
    if pool is None or estimate is None:
        return None
    return Found(estimate, len(pool.bases), len(pool.chains), pool.pms[0].n_comparisons)


@dataclass(frozen=True)
class PMEvidence:
    """What the rules about preference models may look at; None or empty: not measured."""

    first_turn: Found | None = None  # accuracy at the first turn minus at later ones, within tranches
    both_high: Found | None = None  # accuracy where both scores are high minus elsewhere
    slope: Found | None = None  # of calibration, the mean over PMs
    one_sided: dict[str, Found] = field(default_factory=dict)  # 1/2 - accuracy on the kind not trained on
    mixing: BySize = BySize()  # what training on one kind alone changes
    weight: BySize = BySize()  # what a weight on harmless comparisons changes in helpful accuracy


def pm_evidence(pms: Sequence[PM]) -> PMEvidence:
    """Everything that the rules need, from a study's PMs."""
    pool = everything(pms)
    sides = {kind: found(*side) for kind, side in one_sided(pms).items()}
    return PMEvidence(
        first_turn=found(pool, first_turn_gain(list(pms))),
        both_high=found(pool, both_high_gain(list(pms))),
        slope=found(pool, pooled_slope(list(pms))),
        one_sided={kind: side for kind, side in sides.items() if side is not None},
        mixing=mixing_by_size(pms),
        weight=weight_by_size(pms),
    )


def judge_turns(evidence: PMEvidence) -> Judgement:
    """By the sign of the first turn's gain."""
    gain = evidence.first_turn
    if gain is None:
        return missing("held-out comparisons of one tranche about first and later turns, 30 conversations of each")
    return by_estimate(gain.estimate), {"first_minus_later": gain.estimate.to_difference()} | gain.numbers()


def judge_both_high(evidence: PMEvidence) -> Judgement:
    """By the sign of the loss where both scores are high."""
    gain = evidence.both_high
    if gain is None:
        return missing("held-out scores of PMs at a number of comparisons that every size has")
    numbers = {"high_minus_others_beyond_expected": gain.estimate.to_difference()}
    return by_estimate(gain.estimate.scaled(-1)), numbers | gain.numbers()


def judge_calibration(evidence: PMEvidence) -> Judgement:
    """Supported where the slope's interval lies within ``SLOPE_RANGE``, contradicted where it lies outside."""
    slope = evidence.slope
    if slope is None:
        return missing("held-out scores of PMs that are sometimes right and sometimes wrong")
    low, high = slope.estimate.interval()
    numbers = {"calibration_slope": slope.estimate.to_dict(), "range": list(SLOPE_RANGE)} | slope.numbers()
    if low is None or high is None:
        return "inconclusive", numbers
    if high < SLOPE_RANGE[0] or low > SLOPE_RANGE[1]:
        return "contradicted", numbers
    return ("supported" if SLOPE_RANGE[0] <= low and high <= SLOPE_RANGE[1] else "inconclusive"), numbers


def judge_one_sided(evidence: PMEvidence) -> Judgement:
    """Supported where both kinds are below chance, contradicted where one is above."""
    if len(evidence.one_sided) < 2:
        return missing("PMs trained on helpful comparisons alone and on harmless ones alone")
    numbers = {
        f"chance_minus_{kind}_accuracy": side.estimate.to_difference() | side.numbers()
        for kind, side in evidence.one_sided.items()
    }
    verdicts = {by_estimate(side.estimate) for side in evidence.one_sided.values()}
    if "contradicted" in verdicts:
        return "contradicted", numbers
    return ("supported" if verdicts == {"supported"} else "inconclusive"), numbers


def judge_mixing(evidence: PMEvidence) -> Judgement:
    return _by_size(evidence.mixing, "PMs on one kind of comparison alone and on a mixture, at two sizes or more")


def judge_weight(evidence: PMEvidence) -> Judgement:
    return _by_size(evidence.weight, "PMs with a weight on harmless comparisons, at two sizes or more")


def _by_size(by_size: BySize, wanted: str) -> Judgement:
    """By the sign of the slope, once a loss is measured; too few base models have no slope."""
    if len(by_size.sizes) < 2:
        return missing(wanted)
    loss, slope = by_size.loss, by_size.slope
    numbers: dict[str, Any] = {
        "mean_relative_change": None if loss is None else loss.to_difference(),
        "slope_per_ln_params": None if slope is None else slope.to_difference(),
        "sizes": by_size.sizes, "n_bases": by_size.n_bases,
    }  # fmt: skip
    if loss is None or by_estimate(loss) != "contradicted":
        return "inconclusive", numbers | {"note": "no measured loss that could become smaller"}
    return ("inconclusive" if slope is None else by_estimate(slope)), numbers


PM_CLAIMS = (
    PMClaim("C-turns", "The first turn of a conversation is a little easier to judge than later ones (figure 8).",
            "the sign of accuracy at the first turn minus at later ones within tranches, which differ in turns and in "
            "how easy they are (weighted as by Mantel and Haenszel; at least 30 conversations of each). " + POOLED,
            judge_turns),
    PMClaim("C-calibration", "PMs are well calibrated or slightly under-confident (figure 9).",
            "supported: the interval of the mean of the PMs' calibration slopes lies within "
            f"{SLOPE_RANGE[0]} to {SLOPE_RANGE[1]}; contradicted: wholly outside. " + POOLED, judge_calibration),
    PMClaim("C-both-high", "PM accuracy falls where both responses score high (figure 25).",
            "the sign of accuracy beyond what the size of the differences leads one to expect (they are smaller where "
            "both scores are high), on the fifth of pairs with the highest lower score minus on the others, the fifth "
            "within each PM and kind of comparison, kinds counting alike. " + POOLED, judge_both_high),
    PMClaim("C-one-sided", "A PM trained on helpful or on harmless comparisons alone is worse than chance on the "
            "others (figure 19).",
            "supported: both accuracies are below 1/2; contradicted: one is above. All sizes together, at the same "
            "number of comparisons, conversations crossed with base models (95 %).", judge_one_sided),
    PMClaim("C-mixing-size", "Larger PMs are more robust to the mixture of helpful and harmless comparisons "
            "(figure 26).",
            "the sign of the slope in ln(parameters) of: the mean of both kinds' accuracies of PMs trained on one kind "
            "alone, relative to the size's own best share, minus 1; " + LOSS_FIRST, judge_mixing),
    PMClaim("C-weight-size", "Larger PMs lose less helpful accuracy to a weight on harmless comparisons (figure 27).",
            "the sign of the slope in ln(parameters) of: helpful accuracy at the largest weight, relative to the "
            "size's own best weight, minus 1; " + LOSS_FIRST, judge_weight),
)  # fmt: skip
