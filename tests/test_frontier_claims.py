"""Rules on policies over sizes: every verdict reached by some evidence, and by the truths of fake studies."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.claims import CLAIMS
from analysis.estimates import Estimate
from analysis.frames import load_study
from analysis.frontier import load_curves
from analysis.frontier_claims import judge_few_shot, judge_line, judge_onset, judge_parallel
from analysis.held_out import pm_scores
from analysis.overoptimisation import cut_at, parting, parting_slope
from analysis.results import analyze
from tests.fake_runs import Shape, Truth, make_runs

ALONG = tuple(range(0, 52, 3))


def laws(*deltas: float | None, model: str = "all", lines: float = 9.0) -> list[dict[str, Any]]:
    names = ("sqrt-kl-linear", "sqrt-kl-power", "bon", "rl")
    return [
        {"model": model, "score": "score_train", "law": law, "delta_aicc": delta, "n_effective": lines}
        for law, delta in zip(names, deltas, strict=True)
    ]


@pytest.mark.parametrize(
    "deltas, wanted",
    [((0.0, 3.0, 3.0, 3.0), "supported"), ((1.9, 0.0, 5.0, 5.0), "supported"), ((5.0, 0.0, 5.0, 5.0), "inconclusive"),
     ((30.0, 0.0, 5.0, 5.0), "contradicted"), ((None,) * 4, "inconclusive")],
)  # fmt: skip
def test_a_line_against_laws_that_bend(deltas: Any, wanted: str) -> None:
    sizes = [*laws(*deltas, model="a"), *laws(*deltas, model="b")]
    verdict, numbers = judge_line([*laws(*deltas), *sizes], ["a", "b"])
    assert verdict == wanted
    assert judge_line([*laws(*deltas), *sizes], ["a", "b", "c"])[0] == "inconclusive"  # a size could not be compared
    assert numbers.get("missing") or numbers["delta_aicc"]["sqrt-kl-linear"] == deltas[0]


def slopes(p: float | None, low: float, high: float, score: str = "score_gold") -> dict[str, Any]:
    sizes = [{"model": m, "value": 1.0, "se": 0.1, "low": 0.9, "high": 1.1, "n": 3} for m in ("a", "b")]
    change = {"value": (low + high) / 2, "se": 0.01, "low": low, "high": high, "n": 6}
    common = {"value": 1.0, "se": 0.1, "low": 0.9, "high": 1.1, "n": 6}
    return {"score": score, "p_equal": p, "per_ln_params": change, "common": common, "slopes": sizes,
            "span_ln_params": math.log(10.0)}  # fmt: skip


@pytest.mark.parametrize(
    "row, wanted",
    [(slopes(0.5, -0.05, 0.05), "supported"), (slopes(0.5, -0.05, 0.2), "inconclusive"),
     (slopes(0.01, -0.05, 0.05), "contradicted"), (slopes(None, -0.05, 0.05), "inconclusive")],
)  # fmt: skip
def test_parallel_lines(row: dict[str, Any], wanted: str) -> None:
    assert judge_parallel([slopes(0.5, 9, 9, "score_train"), row], ["a", "b"])[0] == wanted
    assert judge_parallel([row], ["a", "b", "c"])[0] == "inconclusive"
    assert "missing" in judge_parallel([slopes(0.5, 0, 0, "score_train")], ["a"])[1]


def test_onset_is_the_sign_turned_round() -> None:
    assert judge_onset(Estimate(-1.0, 0.1, 9, 9))[0] == "supported"
    assert judge_onset(Estimate(1.0, 0.1, 9, 9))[0] == "contradicted"
    assert judge_onset(Estimate(0.1, 0.1, 9, 9))[0] == "inconclusive" and "missing" in judge_onset(None)[1]


def pooled(k_shot: int, low: float, high: float, n_params: int = 10, **more: Any) -> dict[str, Any]:
    row = {"at": "end", "before": "base", "k_shot": k_shot, "n_params": n_params, "model": f"m{n_params}", "se": 0.01}
    return row | {"value": (low + high) / 2, "low": low, "high": high, "tasks": ["t"], "n_seeds": 3} | more


@pytest.mark.parametrize(
    "zero, few, wanted",
    [((-0.2, -0.1), (-0.005, 0.005), "supported"), ((-0.2, -0.1), (0.02, 0.1), "contradicted"),
     ((-0.2, -0.1), (-0.2, -0.1), "contradicted"), ((-0.2, -0.1), (-0.1, 0.1), "inconclusive"),
     ((-0.2, 0.1), (-0.005, 0.005), "inconclusive"), ((0.1, 0.2), (-0.005, 0.005), "inconclusive")],
)  # fmt: skip
def test_few_shot_where_zero_shot_gains(zero: Any, few: Any, wanted: str) -> None:
    smaller = pooled(5, 0.3, 0.4, n_params=1)
    assert judge_few_shot([smaller, pooled(0, *zero), pooled(5, *few)])[0] == wanted
    assert "missing" in judge_few_shot([pooled(0, *zero)])[1] and "missing" in judge_few_shot([])[1]


def test_every_rule_has_its_own_id_and_words() -> None:
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert {"C-line", "C-parallel", "C-onset", "C-few-shot"} <= {claim.id for claim in CLAIMS}
    assert all(claim.rule and claim.text.endswith(".") for claim in CLAIMS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(comparisons=(500,), held_out=100, at=(), steps=ALONG)
    truth = Truth(slope_per_ln_n_params=0.0, seed_sd=0.01)
    return make_runs(tmp_path_factory.mktemp("claims"), seeds=(0, 1, 2), shape=shape, truth=truth)


def test_claims_on_a_study_whose_lines_are_straight_and_parallel(runs: Path) -> None:
    """Truth: train score 1.2 d at every size, gold d (1 - .3 d) at every size, test score bends off alike."""
    claims = {claim["id"]: claim for claim in analyze(runs)["claims"]}
    assert claims["C-line"]["verdict"] == "supported" and claims["C-parallel"]["verdict"] == "supported"
    assert claims["C-onset"]["verdict"] == "inconclusive"
    assert claims["C-onset"]["evidence"]["slope_per_ln_params"]["value"] == pytest.approx(0.0, abs=0.1)


def test_parting_is_compared_at_one_distance(runs: Path) -> None:
    """The smaller sizes stop half way; where all compare, their parting must be that of the larger ones there."""
    study = load_study(runs)
    curves, scores = load_curves(study), pm_scores(study)
    short = [
        replace(c, steps=c.steps[:9], values={k: v[:9] for k, v in c.values.items()}) if c.model.n_params < 1e5 else c
        for c in curves
    ]
    at_end = [parting(study, c, scores) for c in short]
    means = [float(values.mean()) for values in at_end if values is not None]
    assert np.mean(means[6:]) > 2 * np.mean(means[:6])  # at their ends they would differ, by length alone
    slope = parting_slope(study, short, scores)
    assert slope is not None and slope.se is not None and abs(slope.value) < 4 * slope.se
    cut = cut_at(curves[0], 1.5)
    assert cut.sqrt_kl()[-1] == pytest.approx(1.5, abs=0.05)
    assert parting_slope(study, curves[:3], scores) is None  # one size


def test_a_parting_that_shrinks_with_size_is_found(runs: Path) -> None:
    study = load_study(runs)
    scores = pm_scores(study)
    grown = []
    for c in load_curves(study):
        change = c.values["score_test"] - c.values["score_test"][0]
        share = 0.2 * math.log(c.model.n_params / 12_000)
        train = c.values["score_train"] - c.values["score_train"][0]
        values = c.values | {"score_test": c.values["score_test"][0] + change + share * (train - change)}
        grown.append(replace(c, values=values))
    slope = parting_slope(study, grown, scores)
    assert slope is not None and judge_onset(slope)[0] == "supported"
