"""Rules on what the paper says of score against sqrt(KL) over sizes, and of few-shot benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.estimates import Estimate
from analysis.frontier_laws import ALL
from analysis.judging import Judgement, by_estimate, missing

Rows = Sequence[Mapping[str, Any]]
TIED = 2.0  # of AICc: laws closer than that are both supported by the points
BEATEN = 10.0  # of AICc: essentially no support (Burnham and Anderson 2002)
PARALLEL = 0.25  # of the common slope, over all sizes tested
POINT = 0.01  # a normalised point
LINE_RULE = (
    f"over all sizes' AICc for the train PM's score: supported: the line is within {TIED:g} of the best of line, power "
    f"of sqrt(KL), d (a - b d) and d (a - b ln d); contradicted: {BEATEN:g} or more above it. Points count as many as "
    "their autocorrelation leaves; inconclusive unless every size could be compared."
)
PARALLEL_RULE = (
    "on the gold score where all sizes have one, else on the test PM's in its standard deviations: contradicted: the F "
    "test of equal slopes has p < .05 (a base model is one observation); supported: it has not, and from the smallest "
    f"to the largest size the slope changes by less than {PARALLEL:.0%} of the common one (95 %)."
)
ONSET_RULE = (
    "the sign of the slope in ln(parameters), turned round, of (train rise - test rise) in each PM's standard "
    "deviations at the farthest sqrt(KL) that every run reached; prompts crossed with base models, t on their number "
    "less two (95 %)."
)
FEW_SHOT_RULE = (
    "at the largest size, where the zero-shot mean tax is a gain (95 %): supported: the few-shot one lies within one "
    "normalised point of 0; contradicted: wholly outside; inconclusive without a gain."
)


def judge_line(laws: Rows, sizes: Sequence[str]) -> Judgement:
    train = [row for row in laws if row["score"] == "score_train"]
    compared = sorted({row["model"] for row in train if row["delta_aicc"] is not None} - {ALL})
    whole = [row for row in train if row["model"] == (ALL if len(compared) > 1 else next(iter(compared), None))]
    line = next((row for row in whole if row["law"] == "sqrt-kl-linear"), None)
    if line is None or line["delta_aicc"] is None:
        return missing("policies whose evaluations are worth enough independent points to compare laws")
    deltas = {row["law"]: row["delta_aicc"] for row in whole}
    lacking = sorted(set(sizes) - set(compared))
    numbers = {"delta_aicc": deltas, "points_worth": line["n_effective"], "sizes_not_compared": lacking}
    if lacking:
        return "inconclusive", numbers
    found = line["delta_aicc"]
    return ("supported" if found <= TIED else "contradicted" if found >= BEATEN else "inconclusive"), numbers


def judge_parallel(slopes: Rows, sizes: Sequence[str]) -> Judgement:
    by_score = {row["score"]: row for row in slopes}
    row = by_score.get("score_gold") or by_score.get("score_test")
    if row is None:
        return missing("policies of two sizes with a gold or a test PM's score")
    change, common = row["per_ln_params"], row["common"]["value"]
    span = row["span_ln_params"]
    numbers: dict[str, Any] = {
        "score": row["score"], "slopes": row["slopes"], "p_equal": row["p_equal"], "common_slope": row["common"],
        "change_over_sizes": {k: None if v is None or k == "n" else v * span for k, v in change.items()},
        "sizes_without_slope": sorted(set(sizes) - {size["model"] for size in row["slopes"]}),
    }  # fmt: skip
    if row["p_equal"] is None or numbers["sizes_without_slope"]:
        return "inconclusive", numbers
    if row["p_equal"] < 0.05:
        return "contradicted", numbers
    ends = [change[end] for end in ("low", "high")]
    small = all(end is not None and abs(end * span) <= PARALLEL * abs(common) for end in ends)
    return ("supported" if small else "inconclusive"), numbers


def judge_onset(slope: Estimate | None) -> Judgement:
    if slope is None:
        return missing("policies scored by a train and a test PM, at three base models of two sizes or more")
    numbers = {"slope_per_ln_params": slope.to_difference()}
    return {"supported": "contradicted", "contradicted": "supported"}.get(by_estimate(slope), "inconclusive"), numbers


def judge_few_shot(pooled: Rows) -> Judgement:
    rows = [r for r in pooled if r["at"] == "end" and r["before"] == "base" and r["value"] is not None]
    largest = max((r["n_params"] for r in rows), default=0)
    here = {r["k_shot"]: r for r in rows if r["n_params"] == largest}
    if 0 not in here or len(here) < 2:
        return missing("benchmarks of the largest size both zero-shot and few-shot")
    zero, few = here[0], here[max(here)]
    keys = ("model", "k_shot", "value", "se", "low", "high", "tasks", "n_seeds")
    numbers = {name: {key: row[key] for key in keys} for name, row in (("zero_shot", zero), ("few_shot", few))}
    if zero["high"] is None or zero["high"] >= 0 or few["low"] is None or few["high"] is None:
        return "inconclusive", numbers
    if few["low"] > POINT or few["high"] < -POINT:
        return "contradicted", numbers
    return ("supported" if few["low"] >= -POINT and few["high"] <= POINT else "inconclusive"), numbers
