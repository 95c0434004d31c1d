"""Calibration of answers and bias scores before and after: closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.answers import answer_calibration, confidences
from analysis.bias import bias_row
from analysis.items import Pair, pair_items, split_tasks
from analysis.tax import task_rows

KEY = ("t", "cloze", 0, "acc")


def test_confidence_is_the_largest_choice_probability() -> None:
    found = confidences([[-1.0, -1.0], [-1000.0, -1001.0], [-2.0], [], None, np.log([0.2, 0.5, 0.3])])
    assert found[[0, 1, 5]] == pytest.approx([0.5, 1 / (1 + np.exp(-1)), 0.5])
    assert np.isnan(found[2:5]).all()


def ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Guo et al. (2017): the mean over bins of |accuracy - confidence|, weighted by their items."""
    total = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence >= low) & ((confidence < low + 0.1) | ((low == 0.9) & (confidence == 1)))
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return float(total)


def test_calibration_error_is_the_mean_over_runs() -> None:
    rng = np.random.default_rng(0)
    n, sides = 500, []
    for shift in (0.0, 0.3):
        confidence = rng.uniform(0.25, 0.99, 2 * n)
        sides.append((confidence, (rng.random(2 * n) < confidence - shift).astype(float)))
    run, item = np.repeat(["a", "b"], n), np.tile(np.arange(n), 2)
    found = answer_calibration(sides[0], sides[1], item, run)
    expected = [np.mean([ece(c[run == r], k[run == r]) for r in "ab"]) for c, k in sides]
    assert [found[side]["value"] for side in ("before", "after")] == pytest.approx(expected)
    assert found["change"]["value"] == pytest.approx(expected[1] - expected[0])
    assert found["change"]["low"] > 0.15 and found["change"]["high"] < 0.4 and found["change"]["n"] == n
    assert found["before"]["value"] < 0.08 < found["after"]["value"]


def test_intervals_of_a_change_cover() -> None:
    """An over-confidence of .2 in one bin, where the error is a plain mean: 300 draws, 95 % to within 3 sd (3.8)."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        confidence = np.full(200, 0.85)
        before, after = ((rng.random(200) < p).astype(float) for p in (0.65, 0.45))
        change = answer_calibration((confidence, before), (confidence, after), np.arange(200), ["r"] * 200)["change"]
        hits += change["low"] <= 0.2 <= change["high"]
    assert 0.95 - 0.038 < hits / 300 < 0.95 + 0.038


def pair(before: np.ndarray, after: np.ndarray, metric: str = "bias", weights: tuple[np.ndarray, ...] = ()) -> Pair:
    n = len(before)
    one, two = weights or (np.ones(n), np.ones(n))
    cluster = np.array([f"c{i}" for i in range(n)], dtype=object)
    key = ("bbq_bias", "cloze", 0, metric)
    return Pair("run", key, cluster, one, np.full(n, np.nan), before, after, False, two)


def test_a_bias_score_leaves_out_the_unknowns_of_its_own_side() -> None:
    rng = np.random.default_rng(2)
    scores = [rng.choice([-1.0, 0.0, 1.0], 400, p=p) for p in ((0.3, 0.3, 0.4), (0.2, 0.1, 0.7))]
    weights = tuple((score != 0).astype(float) for score in scores)
    row = bias_row([pair(*scores, weights=weights)])
    assert row is not None
    expected = [2 * (s == 1).sum() / (s != 0).sum() - 1 for s in scores]
    assert row["before_score"]["value"] == pytest.approx(expected[0])
    assert row["change"]["value"] == pytest.approx(expected[1] - expected[0])
    # the two sides were drawn apart, so variances add up: that of a share of n answers, times 4
    shares = [((s == 1).sum() / (s != 0).sum(), (s != 0).sum()) for s in scores]
    variance = sum(4 * p * (1 - p) / n for p, n in shares)
    assert row["change"]["se"] == pytest.approx(np.sqrt(variance), rel=0.1)  # their chance correlation
    assert bias_row([pair(*scores, weights=(weights[0], np.zeros(400)))]) is None


def test_answers_that_did_not_change_have_an_interval() -> None:
    same = np.tile([1.0, -1.0], 50)
    row = bias_row([pair(same, same)])
    assert row is not None and row["change"]["value"] == 0
    assert row["change"]["high"] == pytest.approx(2 * 3 / 100)  # the rule of three


def items(prompts: str, lls: list[list[float]]) -> pd.DataFrame:
    n = len(lls)
    return pd.DataFrame({
        "task": "t", "format": "cloze", "k_shot": 0, "metric": "acc", "higher_is_better": True, "chance": 0.5,
        "doc_id": range(n), "doc_hash": [f"d{i}" for i in range(n)], "prompt_hash": [prompts] * n,
        "cluster": [f"c{i}" for i in range(n)], "score": [float(np.argmax(x) == 0) for x in lls], "weight": 1.0,
        "loglikelihoods": lls,
    })  # fmt: skip


def test_other_prompts_are_refused_unless_allowed() -> None:
    sides = [split_tasks(items(prompt, [[-1.0, -2.0]] * 5)) for prompt in ("p", "q")]
    pairs, refused = pair_items(*sides, "run", "here")
    assert not pairs and refused[0].startswith("here: t (cloze, 0-shot, acc): prompts differ on 5 of 5 items (a chat")
    pairs, refused = pair_items(*sides, "run", "here", allow_prompts=True)
    assert list(pairs) == [KEY] and not refused


def test_a_tax_row_has_the_calibration_of_its_answers() -> None:
    rng = np.random.default_rng(3)
    tables = [items("p", rng.normal(size=(60, 3)).tolist()) for _ in range(2)]
    pairs, _ = pair_items(*(split_tasks(table) for table in tables), "run", "here")
    (row,) = task_rows([[pairs[KEY]]])
    found = [ece(confidences(table.loglikelihoods), table.score.to_numpy()) for table in tables]
    assert row["calibration"]["before"]["value"] == pytest.approx(found[0])
    assert row["calibration"]["after"]["value"] == pytest.approx(found[1])
    older = [split_tasks(table.drop(columns="loglikelihoods")) for table in tables]
    assert task_rows([[pair_items(*older, "run", "here")[0][KEY]]])[0]["calibration"] is None
