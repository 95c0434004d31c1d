"""The paper's claims (Bai et al. 2022) as rules fixed beforehand, judged on the study at hand.

A rule sees finished tables only. It says supported, contradicted or inconclusive, and gives the numbers it used;
what was not measured is inconclusive and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis import frontier_claims, pm_claims
from analysis.estimates import Estimate
from analysis.frontier_fits import Exponents, mean_exponent
from analysis.judging import Judgement, by_sign, missing
from analysis.overoptimisation import GOLD_RULE

MIN_R2 = 0.9
SMALL = 0.01  # a normalised point
MAX_HALF_WIDTH = 0.25  # of the exponent of sqrt(KL): wider is no evidence for 1


@dataclass(frozen=True)
class Evidence:
    """What rules may look at."""

    fits: list[dict[str, Any]]
    pooled: list[dict[str, Any]]
    crossover: list[dict[str, Any]]
    overoptimisation: list[dict[str, Any]]
    exponents: Exponents
    parting: Estimate | None
    pm_sizes: Sequence[str]  # names of the sizes for which PMs were planned
    policy_sizes: Sequence[str]
    preference: pm_claims.PMEvidence = pm_claims.PMEvidence()
    laws: Sequence[Mapping[str, Any]] = ()  # frontier_laws
    slopes: Sequence[Mapping[str, Any]] = ()  # frontier_slopes
    parting_slope: Estimate | None = None
    chains: Mapping[str, str] = field(default_factory=dict)  # of policies' stages; runs on one base share its error

    def fits_of(self, law: str, group_start: str = "", y: str | None = None) -> list[dict[str, Any]]:
        return [f for f in self.fits if f["law"] == law and f["group"].startswith(group_start) and y in (None, f["y"])]


@dataclass(frozen=True)
class Claim:
    """One claim: where the paper makes it, and the rule in words and in code."""

    id: str
    text: str
    rule: str
    judge: Callable[[Evidence], Judgement]


def _slope(fit: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A fit's parameter as evidence; says so where its interval is given one chain or one base model, or is missing."""
    codes = {note["code"] for note in fit["notes"]}
    found = {"group": fit["group"], **fit["params"][name], "clusters": fit["n_clusters"]}
    if "one_chain" in codes:
        found["interval"] = "given one base model and seed" if found["low"] is not None else "none: one chain"
    if "shared_base" in codes:
        found["interval"] = "given one base model"
    if "too_few_bases" in codes:
        found["interval"] = "none: too few base models"
    return found


def judge_data(evidence: Evidence) -> Judgement:
    fits = [f for f in evidence.fits_of("log-linear", "pm ", "accuracy") if f["x"] == ["n_comparisons"]]
    slopes = [_slope(f, "c1") for f in fits if f["params"]["c1"]["value"] is not None]
    if not slopes:
        return missing("PMs trained on at least two numbers of comparisons")
    known = {slope["group"] for slope in slopes if slope["low"] is not None}
    lacking = [name for name in evidence.pm_sizes if f"pm {name}" not in known]
    numbers = {"slopes_per_ln_comparisons": slopes, "sizes_without_an_interval": lacking}
    verdicts = {by_sign(slope["low"], slope["high"]) for slope in slopes}
    if lacking or not verdicts & {"supported", "contradicted"}:
        return "inconclusive", numbers
    if "contradicted" in verdicts:
        return "contradicted", numbers
    return ("supported" if verdicts == {"supported"} else "inconclusive"), numbers


def judge_size(evidence: Evidence) -> Judgement:
    fits = [f for f in evidence.fits_of("log-linear", "pm ", "accuracy") if f["x"][0] == "n_params"]
    slopes = [_slope(f, "c1") for f in fits if f["params"]["c1"]["value"] is not None]
    if not slopes:
        return missing("PMs of at least two sizes")
    chosen = slopes[0]
    return by_sign(chosen["low"], chosen["high"]), {"slope_per_ln_params": chosen, "others": slopes[1:]}


def judge_sqrt_kl(evidence: Evidence) -> Judgement:
    fits = [f for f in evidence.fits_of("sqrt-kl-linear", y="score_train") if " seed " not in f["group"]]
    n_runs = len(evidence.exponents.found)
    if n_runs < 2 or not fits:
        return missing("at least two finished policies with three evaluations clear of the start each")
    exponent = mean_exponent(evidence.exponents.found, evidence.chains)
    lacking = sorted(set(evidence.policy_sizes) - {f["group"] for f in fits})
    numbers = {
        "exponent_of_sqrt_kl": exponent.to_dict(), "n_runs": n_runs, "r2": {f["group"]: f["r2"] for f in fits},
        "slopes": [_slope(f, "c") for f in fits], "runs_without_exponent": evidence.exponents.failed,
        "sizes_without_fit": lacking,
    }  # fmt: skip
    low, high = exponent.interval()
    if low is None or high is None or lacking or evidence.exponents.failed:
        return "inconclusive", numbers
    if not low <= 1 <= high:
        return "contradicted", numbers
    straight = all((f["r2"] or 0.0) >= MIN_R2 and (f["params"]["c"]["low"] or 0.0) > 0 for f in fits)
    return ("supported" if straight and (high - low) / 2 <= MAX_HALF_WIDTH else "inconclusive"), numbers


def judge_parting(evidence: Evidence) -> Judgement:
    if evidence.parting is None:
        return missing("policies scored by a train and a test PM")
    per_size = [{"model": r["model"], "parting": r["parting"]} for r in evidence.overoptimisation]
    return by_sign(*evidence.parting.interval()), {"parting": evidence.parting.to_dict(), "sizes": per_size}


def judge_gold(evidence: Evidence) -> Judgement:
    rows = [r for r in evidence.overoptimisation if r["gold_verdict"] is not None]
    if not rows:
        return missing("a gold score at four evaluations or more")
    lacking = sorted(set(evidence.policy_sizes) - {r["model"] for r in rows})
    keys = ("model", "gold_verdict", "gold_rise", "gold_fall", "train_after_peak", "peak_sqrt_kl")
    numbers = {"sizes": [{k: r[k] for k in keys} for r in rows], "sizes_not_judged": lacking}
    found = {r["gold_verdict"] for r in rows}
    if len(rows) < 2 or lacking or len(found) > 1:
        return "inconclusive", numbers
    return {"falls": "supported", "none": "contradicted"}.get(found.pop(), "inconclusive"), numbers


def _ends(evidence: Evidence) -> list[dict[str, Any]]:
    rows = [r for r in evidence.pooled if r["at"] == "end" and r["before"] == "base" and r["value"] is not None]
    fewest = min((r["k_shot"] for r in rows), default=0)
    return [r for r in rows if r["k_shot"] == fewest]


def _tax_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("model", "n_params", "value", "se", "low", "high", "tasks", "n_tasks", "n_seeds", "k_shot", "note")
    return {key: row[key] for key in keys}


def judge_small_tax(evidence: Evidence) -> Judgement:
    rows = _ends(evidence)
    if not rows:
        return missing("a size with a benchmark well above chance before RLHF")
    row = min(rows, key=lambda r: r["n_params"])
    return by_sign(row["low"], row["high"]), {"smallest": _tax_numbers(row)}


def judge_large_tax(evidence: Evidence) -> Judgement:
    rows = _ends(evidence)
    if len({r["n_params"] for r in rows}) < 2:
        return missing("two sizes with benchmarks well above chance before RLHF")
    row = max(rows, key=lambda r: r["n_params"])
    numbers = {"largest": _tax_numbers(row), "margin": SMALL}
    if row["high"] is not None and row["high"] < SMALL:
        return "supported", numbers
    return ("contradicted" if row["low"] is not None and row["low"] > 0 else "inconclusive"), numbers


def judge_crossover(evidence: Evidence) -> Judgement:
    rows = [r for r in evidence.crossover if r["task"] == "pooled" and r["at"] == "end" and r["before"] == "base"]
    rows = [r for r in rows if r["slope"] is not None]
    if not rows:
        return missing("a benchmark well above chance before RLHF at three sizes or more")
    row = min(rows, key=lambda r: r["k_shot"])
    keys = ("kind", "n_params", "low", "high", "direction", "slope", "tested", "in_range", "k_shot", "tasks", "note")
    numbers = {k: row[k] for k in keys}
    if row["kind"] == "none":  # then the estimate can be anything, such as 1e200 parameters
        numbers["n_params"] = None
    falling = by_sign(row["slope"]["low"], row["slope"]["high"])
    if falling == "supported":  # the slope is positive: the tax grows
        return "contradicted", numbers
    found = falling == "contradicted" and row["kind"] == "interval" and row["in_range"]
    return ("supported" if found else "inconclusive"), numbers


def _of_pms(claim: pm_claims.PMClaim) -> Claim:
    return Claim(claim.id, claim.text, claim.rule, lambda evidence: claim.judge(evidence.preference))


CLAIMS: tuple[Claim, ...] = (
    Claim("C-data", "PM accuracy rises with the number of comparisons at every size (section 3.2).",
          "supported: accuracy's slope in ln(comparisons) is above 0 at every size (95 %); contradicted: below at one; "
          "inconclusive unless every size with PMs has such an interval.", judge_data),
    Claim("C-size", "PM accuracy rises with the size of the model (section 3.2).",
          "the sign of the slope in ln(parameters), fitted jointly with ln(comparisons); clusters are base models, t "
          "on their number less two (95 %).", judge_size),
    *map(_of_pms, pm_claims.PM_CLAIMS),
    Claim("C-sqrtkl", "The score grows linearly in the square root of KL (section 4.3).",
          f"contradicted: the mean exponent of sqrt(KL) over runs excludes 1 (95 %); supported: it contains 1 within "
          f"{MAX_HALF_WIDTH} either way and every size's linear fit has a slope above 0 (95 %) and an R2 of at least "
          f"{MIN_R2}; inconclusive where a run's exponent or a size's line cannot be fitted.", judge_sqrt_kl),
    Claim("C-line", "A line in the square root of KL describes the score as well as laws that bend (section 4.3).",
          frontier_claims.LINE_RULE, lambda evidence: frontier_claims.judge_line(evidence.laws, evidence.policy_sizes)),
    Claim("C-parallel", "The lines of different sizes are parallel when scored alike (section 4.3).",
          frontier_claims.PARALLEL_RULE,
          lambda evidence: frontier_claims.judge_parallel(evidence.slopes, evidence.policy_sizes)),
    Claim("C-overopt", "The train PM's score parts from the test PM's as training goes on (section 4.2).",
          "the sign of (train rise - test rise) at the end, in each PM's standard deviations, all runs (95 %).",
          judge_parting),
    Claim("C-onset", "With larger models train and test PM part later (section 4.2).",
          frontier_claims.ONSET_RULE, lambda evidence: frontier_claims.judge_onset(evidence.parting_slope)),
    Claim("C-gold", "Trained far enough, the gold score falls while the train PM's still rises, at every size.",
          "supported: falls at every size, two or more; contradicted: none at every size, two or more. " + GOLD_RULE,
          judge_gold),
    Claim("C-tax-small", "The smallest models pay an alignment tax (section 4.6.1).",
          "the sign of the smallest size's mean tax over the tasks well above chance before (95 %).", judge_small_tax),
    Claim("C-tax-large", "The largest models pay none (section 4.6.1).",
          "supported: the largest size's tax is below one normalised point (95 %); contradicted: it is above 0.",
          judge_large_tax),
    Claim("C-tax-crossover", "The tax turns into a bonus at some size (section 7).",
          "supported: the tax falls with ln(parameters) (95 %) and crosses zero, with a finite interval, among the "
          "sizes tested; contradicted: it rises.", judge_crossover),
    Claim("C-few-shot", "Where RLHF makes large models better zero-shot it leaves them the same few-shot (section "
          "4.6.1).", frontier_claims.FEW_SHOT_RULE, lambda evidence: frontier_claims.judge_few_shot(evidence.pooled)),
)  # fmt: skip


def judge_all(evidence: Evidence) -> list[dict[str, Any]]:
    """Every claim with its verdict and evidence."""
    rows = []
    for claim in CLAIMS:
        verdict, numbers = claim.judge(evidence)
        rows.append({"id": claim.id, "text": claim.text, "verdict": verdict, "rule": claim.rule, "evidence": numbers})
    return rows
