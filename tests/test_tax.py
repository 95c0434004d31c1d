"""The paired tax: sign, pairing, verdicts, pooling, trend and crossover, and lm-eval directories."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.crossover import Line, exp_or_none, fieller_root, gls_line, shared_covariance
from analysis.estimates import mean, t_quantile
from analysis.frames import AnalysisError
from analysis.items import Pair, pair_items, split_tasks
from analysis.lm_eval_io import read_lm_eval
from analysis.tax import judge, pooled_taxes, task_rows, verdict
from analysis.tax_files import lm_eval_tax
from analysis.tax_pooled import pooled_rows


def items(scores: Any, task: str = "t", metric: str = "acc", chance: float = 0.25, **columns: Any) -> pd.DataFrame:
    """An item table of one task; documents are numbered."""
    n = len(scores)
    frame = {
        "task": task, "format": "cloze", "k_shot": 0, "metric": metric, "higher_is_better": metric == "acc",
        "chance": chance, "doc_id": range(n), "doc_hash": [f"d{i}" for i in range(n)], "prompt_hash": "p",
        "cluster": [str(i) for i in range(n)], "score": scores, "weight": 1.0,
    }  # fmt: skip
    return pd.DataFrame(frame | columns)


def pair(before: Any, after: Any, run: str = "0", **options: Any) -> Pair:
    sides = (split_tasks(items(scores, **options)) for scores in (before, after))
    pairs, refused = pair_items(*sides, run, "w")
    assert not refused
    return next(iter(pairs.values()))


def test_tax_is_before_minus_after_and_its_paired_error() -> None:
    rng = np.random.default_rng(0)
    before, after = (rng.random(500) < 0.7).astype(float), (rng.random(500) < 0.6).astype(float)
    row = task_rows([[pair(before, after)]])[0]
    judge([row])
    difference = before - after
    assert row["value"] == pytest.approx(difference.mean()) and row["se"] == pytest.approx(stats.sem(difference))
    assert row["normalised"]["value"] == pytest.approx(difference.mean() / 0.75)
    assert row["normalised"]["se"] == pytest.approx(stats.sem(difference) / 0.75)
    assert row["p"] == pytest.approx(stats.ttest_rel(before, after).pvalue, rel=1e-9)
    # 80 % power by the noncentral t, whose quantile is close to the sum of the two central ones
    power = stats.nct.sf(stats.t.ppf(0.975, 499), 499, row["mde"] / (stats.sem(difference) / 0.75))
    assert power == pytest.approx(0.80, abs=2e-3)
    family = [task_rows([[pair(before, after)]])[0] for _ in range(5)]
    judge(family)  # Holm's first step is at .05 / 5
    power = stats.nct.sf(stats.t.ppf(1 - 0.005, 499), 499, family[0]["mde"] / (stats.sem(difference) / 0.75))
    assert power == pytest.approx(0.80, abs=2e-3)
    assert row["n_items"] == row["before_score"]["n"] == row["normalised"]["n"] == 500


def test_lower_is_better_turns_the_sign() -> None:
    before = np.linspace(1.0, 1.2, 50)
    weight = np.linspace(0.5, 1.5, 50)
    after = before + 0.05 * weight
    options = {"metric": "bits_per_byte", "chance": math.nan, "weight": weight, "format": "loss"}
    row = task_rows([[pair(before, after, **options)]])[0]
    assert row["value"] == pytest.approx(0.05 * (weight**2).sum() / weight.sum()) and row["value"] > 0
    assert row["normalised"] is None and row["margin"] == 0.01 and row["informative"]


def test_order_of_items_does_not_matter_and_mismatches_are_named() -> None:
    table = items(np.arange(6) % 2)
    tasks = split_tasks(table)
    joined, _ = pair_items(tasks, split_tasks(table.sample(frac=1, random_state=0)), "0", "w")
    one = next(iter(joined.values()))
    assert (one.before == one.after).all() and len(one.before) == 6
    _, refused = pair_items(tasks, split_tasks(table.iloc[:-1]), "0", "stage-x")
    why = "item sets differ (6 before, 5 after; 1 unpaired, first doc_hash d5)"
    assert refused == [f"stage-x: t (cloze, 0-shot, acc): {why}"]
    _, refused = pair_items(tasks, split_tasks(items([1.0], task="other")), "0", "w")
    assert [r.rsplit(" ", 1)[1] for r in refused] == ["after", "before"]


def test_repeated_documents_are_paired_one_to_one() -> None:
    tasks = split_tasks(items([1.0, 0.0, 1.0], doc_hash=["same", "same", "other"]))
    joined, refused = pair_items(tasks, tasks, "0", "w")
    one = next(iter(joined.values()))
    assert len(one.before) == 3 and not refused and (one.before == one.after).all()


def test_chance_level_models_are_not_informative() -> None:
    rng = np.random.default_rng(1)
    guess = (rng.random(400) < 0.25).astype(float)
    know = (rng.random(400) < 0.6).astype(float)
    weak = np.repeat([1.0, 0.0], [124, 276])  # .31: 2.6 standard errors of .0231 above .25
    for scores, wanted in ((guess, (False, False)), (weak, (True, False)), (know, (True, True))):
        row = task_rows([[pair(scores, scores)]])[0]
        assert (row["informative"], row["enters_means"]) == wanted


def test_equal_answers_give_the_rule_of_three() -> None:
    """No item changed: the 95 % bound on the share of items that would is about 3 / n."""
    right = np.ones(600)
    row = task_rows([[pair(right, right)]])[0]
    assert (row["low"], row["high"]) == pytest.approx((-3 / 600, 3 / 600)) and row["p"] == 1
    judge([row])
    assert row["verdict"] == "equivalent"
    assert row["normalised"]["high"] == pytest.approx(3 / 600 / 0.75)
    few = task_rows([[pair(right[:50], right[:50])]])
    judge(few)
    assert few[0]["verdict"] == "inconclusive"


def test_equal_answers_have_an_error_in_the_mean_too() -> None:
    """One task without flips beside one with: variances of halves add; alone, 3 / n of the normalised scale."""
    right = np.ones(600)
    flips = np.where(np.arange(600) < 60, 0.0, 1.0)
    still = [pair(right, right, task="still", cluster=[f"s{i}" for i in range(600)])]
    moved = [pair(right, flips, task="moved", cluster=[f"m{i}" for i in range(600)])]
    alone, both = pooled_taxes([{"still": still}])[0].estimate, pooled_taxes([{"still": still, "moved": moved}])[0]
    assert alone.se == pytest.approx(3 / 600 / 0.75 / 1.96, rel=1e-3)
    assert both.estimate.se == pytest.approx(math.hypot(alone.se or 0.0, stats.sem(1 - flips) / 0.75) / 2, rel=1e-3)


def test_a_mean_is_over_the_tasks_that_all_sizes_share() -> None:
    rng = np.random.default_rng(9)
    tasks = {name: [pair(rng.random(90) < 0.9, rng.random(90) < 0.8, task=name)] for name in "abc"}
    small, large = {name: tasks[name] for name in "ab"}, tasks
    rows = pooled_rows([small, {}, large])
    assert [row["tasks"] for row in rows] == [["a", "b"], [], ["a", "b"]] and rows[0]["value"] == rows[2]["value"]
    assert [row["suite"] for row in rows] == ["common", None, "common"]
    own = pooled_rows([{"a": tasks["a"]}, large])
    assert [row["suite"] for row in own] == ["own", "own"] and "own tasks" in own[1]["note"]
    assert [row["n_tasks"] for row in own] == [1, 3]


@pytest.mark.parametrize(
    "low90, high90, adjusted, value, wanted",
    [
        (-0.004, 0.009, 0.6, 0.003, "equivalent"),
        (0.001, 0.009, 0.01, 0.005, "equivalent"),  # significant, and within the margin: equivalence comes first
        (0.005, 0.030, 0.01, 0.020, "tax"),
        (-0.030, -0.005, 0.01, -0.020, "bonus"),
        (0.005, 0.030, 0.06, 0.020, "inconclusive"),
        (-0.020, 0.009, 0.6, -0.003, "inconclusive"),
    ],
)
def test_verdicts_in_their_order(low90: float, high90: float, adjusted: float, value: float, wanted: str) -> None:
    assert verdict({"margin": 0.01, "low90": low90, "high90": high90, "p_adjusted": adjusted, "value": value}) == wanted


def test_the_sign_is_that_of_what_was_tested() -> None:
    """Items with other chance levels weigh otherwise once normalised: -0.01 raw may be +0.1."""
    row = {"margin": 0.01, "low90": 0.07, "high90": 0.13, "p_adjusted": 1e-8, "value": -0.01}
    assert verdict(row | {"normalised": {"value": 0.1}}) == "tax" and verdict(row | {"normalised": None}) == "bonus"


def test_tost_is_two_one_sided_tests() -> None:
    """The 90 % interval within the margin is both one-sided 5 % t tests rejecting."""
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.004, 0.008, 0.012):
        d = shift + 0.06 * rng.standard_normal(400)
        low, high = mean(d).interval(0.90)
        assert low is not None and high is not None
        sides = [
            stats.ttest_1samp(d, 0.01, alternative="less").pvalue,
            stats.ttest_1samp(d, -0.01, alternative="greater").pvalue,
        ]
        assert (low >= -0.01 and high <= 0.01) == (max(sides) <= 0.05)


def test_mean_over_tasks_of_independent_tasks() -> None:
    """Equal weights, and independent items: the variance is the mean of variances over the number of tasks."""
    rng = np.random.default_rng(3)
    pairs, variances = {}, []
    for number, n in enumerate((300, 500)):
        before, after = (rng.random(n) < 0.8).astype(float), (rng.random(n) < 0.7).astype(float)
        name = f"task{number}"
        clusters = [f"{name}-{i}" for i in range(n)]
        pairs[name] = [pair(before, after, task=name, cluster=clusters)]
        variances.append(((before - after) / 0.75).var(ddof=1) / n)
    pooled = pooled_taxes([pairs])[0]
    values = [task_rows([p])[0]["normalised"]["value"] for p in pairs.values()]
    assert pooled.estimate.value == pytest.approx(np.mean(values))
    assert pooled.estimate.se == pytest.approx(math.sqrt(sum(variances) / 4), rel=5e-3)  # G/(G-1) differs in 3rd digit


# ---------------------------------------------------------------- trend and crossover


def test_gls_line_is_the_normal_equations() -> None:
    rng = np.random.default_rng(4)
    x, root = np.array([9.0, 10.0, 11.0, 12.0, 13.0]), rng.normal(size=(5, 5))
    covariance = root @ root.T + np.eye(5)
    y = rng.normal(size=5) * 0.01 + 0.1 * x  # far closer to a line than the errors say: tau2 is 0
    line = gls_line(x, y, covariance)
    design, weight = np.column_stack([np.ones(5), x]), np.linalg.inv(covariance)
    wanted = np.linalg.solve(design.T @ weight @ design, design.T @ weight @ y)
    assert line.tau2 == 0 and (line.intercept.value, line.b) == pytest.approx(tuple(wanted))


def test_tau2_makes_q_its_expectation() -> None:
    rng = np.random.default_rng(5)
    x, y = np.arange(6.0), rng.normal(size=6)
    line = gls_line(x, y, 0.01 * np.eye(6))
    residual = y - line.a - line.b * (x - line.centre)
    assert (residual**2).sum() / (0.01 + line.tau2) == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize("a, b, wanted", [(0.6, -0.5, "interval"), (0.6, -0.13, "ray"), (0.1, -0.02, "none")])
def test_fieller_ends_are_where_the_test_changes(a: float, b: float, wanted: str) -> None:
    """By definition: at an end, (a + b z)^2 equals t^2 times its variance; found here by root finding."""
    line = Line(a, b, np.array([[0.04, 0.002], [0.002, 0.01]]), 10.0, 8, 0.0, 10)
    root = fieller_root(line)
    assert root.kind == wanted and root.value == pytest.approx(10 - a / b)
    v = line.covariance

    def excess(x: float) -> float:
        z = x - 10
        return (line.a + b * z) ** 2 - t_quantile(0.975, 8) ** 2 * (v[0, 0] + 2 * z * v[0, 1] + z * z * v[1, 1])

    for end in (root.low, root.high):
        if end is not None:
            assert optimize.brentq(excess, end - 0.01, end + 0.01) == pytest.approx(end, abs=1e-6)
    assert root.value is not None and excess(root.value) < 0
    if wanted == "none":
        assert max(excess(x) for x in np.linspace(-200, 200, 999)) <= 0


def test_crossover_set_covers() -> None:
    """500 draws, four sizes with correlated errors and scatter about the line: at least 95 - 3 points."""
    rng, x = np.random.default_rng(6), np.log(np.geomspace(1e4, 1e6, 4))
    covariance, hits = 2e-4 * (0.7 * np.eye(4) + 0.3), 0
    for _ in range(500):
        y = -0.05 * (x - 12) + rng.multivariate_normal(np.zeros(4), covariance + 1e-4 * np.eye(4))
        line = gls_line(x, y, covariance)
        z, v = 12 - line.centre, line.covariance
        bound = t_quantile(0.975, line.df) ** 2 * (v[0, 0] + 2 * z * v[0, 1] + z * z * v[1, 1])
        hits += (line.a + line.b * z) ** 2 <= bound
    assert hits / 500 >= 0.92


def test_shared_items_correlate_sizes() -> None:
    rng = np.random.default_rng(7)
    common = rng.normal(size=200)
    sizes = [dict(enumerate(common + 0.5 * rng.normal(size=200))) for _ in range(2)]
    variances = [float(np.sum(np.square(list(s.values()))) * 200 / 199) for s in sizes]
    covariance = shared_covariance(sizes, variances)  # type: ignore[arg-type]
    correlation = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    assert correlation == pytest.approx(0.8, abs=0.08)  # 1 / (1 + .25), standard error .026
    assert exp_or_none(1e5) is None and exp_or_none(None) is None


# ---------------------------------------------------------------- lm-eval directories


def write_lm_eval(
    folder: Path, model: str, samples: Mapping[str, list[dict[str, Any]]], configs: Mapping[str, Any], **more: Any
) -> Path:
    """An output directory as lm-eval 0.4 writes it."""
    inner, stamp = folder / model.replace("/", "__"), "2025-03-01T10-20-30.123456"
    inner.mkdir(parents=True)
    report = {
        "results": {}, "configs": configs, "n-shot": {t: 0 for t in configs}, "model_name": model,
        "higher_is_better": {}, "config": {"model": "hf", "model_num_parameters": 1000},
    }  # fmt: skip
    (inner / f"results_{stamp}.json").write_text(json.dumps(report | more))
    for task, rows in samples.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (inner / f"samples_{task}_{stamp}.jsonl").write_text(text)
    return folder


def choice_rows(right: Any, continuations: tuple[str, ...] = (" Paris", " Rome")) -> list[dict[str, Any]]:
    """Sample rows of a multiple-choice task, one per document."""
    arguments = {f"gen_args_{i}": {"arg_0": "Q", "arg_1": text} for i, text in enumerate(continuations)}
    shared = {
        "doc": {}, "target": "0", "arguments": arguments, "resps": [[["-1", "False"]]] * len(continuations),
        "filtered_resps": [], "filter": "none", "metrics": ["acc"], "prompt_hash": "p", "target_hash": "t",
    }  # fmt: skip
    return [shared | {"doc_id": i, "doc_hash": f"h{i}", "acc": float(r)} for i, r in enumerate(right)]


CHOICE = {"output_type": "multiple_choice"}


def test_two_directories(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    before, after = rng.random(400) < 0.8, rng.random(400) < 0.6
    base = write_lm_eval(tmp_path / "a", "me/base", {"arc": choice_rows(before)}, {"arc": CHOICE})
    tuned = write_lm_eval(tmp_path / "b", "me/tuned", {"arc": choice_rows(after)}, {"arc": CHOICE})
    content = lm_eval_tax(base, tuned, 1.0, 0.01)
    row = content["tax"][0]
    difference = before.astype(float) - after
    assert (row["value"], row["se"]) == pytest.approx((difference.mean(), stats.sem(difference)))
    assert (row["chance"], row["format"], row["verdict"], row["n_items"]) == (0.5, "cloze", "tax", 400)
    assert content["pooled"][0]["value"] == pytest.approx(difference.mean() / 0.5) and content["schema"] == 1


def test_formats_and_rolling_likelihoods(tmp_path: Path) -> None:
    letters = choice_rows([1, 0, 1], (" A", " B", " C", " D"))
    metrics = ["word_perplexity", "bits_per_byte"]
    rolling = [
        {"doc_id": i, "filter": "none", "metrics": metrics, "doc_hash": f"d{i}"}
        | {"word_perplexity": [-70.0, 20], "bits_per_byte": [-70.0, 100 + i]}
        for i in range(3)
    ]
    samples = {"mmlu": letters, "wikitext": rolling}
    configs = {"mmlu": CHOICE, "wikitext": {"output_type": "loglikelihood_rolling"}}
    run = read_lm_eval(write_lm_eval(tmp_path / "a", "m", samples, configs))
    assert run.items.groupby("task").format.first().to_dict() == {"mmlu": "choice", "wikitext": "loss"}
    text = run.items[run.items.task == "wikitext"]
    assert text.metric.unique() == ["bits_per_byte"] and not text.higher_is_better.any()
    # over documents weighted by bytes: total nats / total bytes / ln 2
    assert np.average(text.score, weights=text.weight) == pytest.approx(210 / 303 / math.log(2))
    assert run.n_params == 1000


def test_filters_groups_and_newest_files(tmp_path: Path) -> None:
    filters = (("flexible", 1.0), ("strict-match", 0.0))
    twice = [
        row | {"filter": name, "exact_match": score, "metrics": ["exact_match"], "acc": None}
        for row in choice_rows([1, 0, 1], ("only",))
        for name, score in filters
    ]
    parts = {f"sub_{c}": choice_rows([1, 1]) for c in "abcdef"}
    configs = {"gsm8k": {"output_type": "generate_until"}, "absent": CHOICE} | dict.fromkeys(parts, CHOICE)
    groups = {"big": list(parts), "small": ["gsm8k"]}
    folder = write_lm_eval(tmp_path / "a", "m", {"gsm8k": twice} | parts, configs, group_subtasks=groups)
    newer = folder / "m" / "samples_sub_a_2025-04-01T00-00-00.000000.jsonl"
    newer.write_text("".join(json.dumps(row) + "\n" for row in choice_rows([1, 1, 1])))
    run = read_lm_eval(folder)
    strict = run.items[run.items.task == "gsm8k"]
    assert len(strict) == 3 and not strict.score.any() and strict.format.unique() == ["generate"]
    group = run.items[run.items.task == "big"]
    counts = group.cluster.value_counts().to_dict()
    assert counts == {"sub_a": 3} | {f"sub_{c}": 2 for c in "bcdef"} and group.doc_hash.is_unique
    text = " | ".join(run.notes)
    for part in ("2 filters", "newest counts", "6 subtasks as one task", "no sample file of task absent"):
        assert part in text


@pytest.mark.parametrize("chance", [1.0, 25, math.nan, -0.1])
def test_a_chance_that_is_none_is_refused_by_name(tmp_path: Path, chance: float) -> None:
    """In percent it would turn the sign of what is normalised; 1 leaves nothing above it."""
    rows = [row | {"doc": {"chance": chance}} for row in choice_rows([1, 0, 1])]
    folder = write_lm_eval(tmp_path, "m", {"arc": rows}, {"arc": CHOICE})
    with pytest.raises(AnalysisError, match=r"arc: document 0: chance is .*allowed: at least 0, below 1"):
        read_lm_eval(folder)


def test_a_list_of_targets_states_no_chance(tmp_path: Path) -> None:
    rows = [row | {"doc": {"mc2_targets": ["a", "b"]}} for row in choice_rows([1, 0, 1])]
    run = read_lm_eval(write_lm_eval(tmp_path, "m", {"arc": rows}, {"arc": CHOICE}))
    assert (run.items.chance == 0.5).all()


def test_reports_of_others_are_read_or_refused_by_name(tmp_path: Path) -> None:
    """What files in the wild have: parts that are null or lists, counts of -1, no hashes, line separators in texts."""
    rows = [{k: v for k, v in row.items() if k not in ("doc_hash", "filter", "metrics")} | {"doc": {"q": "a\u2028b"}}
            for row in choice_rows([1, 0, 1, 1])]  # fmt: skip
    odd = {"n-shot": None, "group_subtasks": ["x"], "higher_is_better": {"arc": None}, "config": None}
    folder = write_lm_eval(tmp_path / "a", "m", {"arc": rows}, {"arc": CHOICE}, **odd)
    run = read_lm_eval(folder)
    assert len(run.items) == 4 and run.n_params is None and run.items.k_shot.unique() == [0]
    uncounted = write_lm_eval(tmp_path / "b", "m", {"arc": rows}, {"arc": CHOICE}, config={"model_num_parameters": -1})
    assert read_lm_eval(uncounted).n_params is None
    file = next(uncounted.rglob("samples_*"))
    file.write_bytes(b'{"doc_id": 0, "acc": 1.0, "text": "\xff\xfe"}\n')
    with pytest.raises(AnalysisError, match=r"samples_arc.*not readable as text"):
        read_lm_eval(uncounted)
    listed = write_lm_eval(tmp_path / "c", "m", {"arc": rows}, {"arc": CHOICE})
    next(listed.rglob("results_*")).write_text("[]")
    with pytest.raises(AnalysisError, match="not an lm-eval results file"):
        read_lm_eval(listed)


def test_several_result_files_of_one_model_are_one_run(tmp_path: Path) -> None:
    """Two evaluations of one model, a task each and one twice: the newer counts for what both have."""
    folder = write_lm_eval(
        tmp_path / "a", "m", {"arc": choice_rows([1, 1]), "siqa": choice_rows([0, 1])}, {"arc": CHOICE}
    )
    later = {"results": {}, "configs": {"boolq": CHOICE}, "n-shot": {"boolq": 5}, "model_name": "m"}
    (folder / "m" / "results_2025-05-01T00-00-00.000000.json").write_text(json.dumps(later))
    for task, right in (("boolq", [1, 0, 0]), ("arc", [0, 0, 0])):
        text = "".join(json.dumps(row) + "\n" for row in choice_rows(right))
        (folder / "m" / f"samples_{task}_2025-05-01T00-00-00.000000.jsonl").write_text(text)
    run = read_lm_eval(folder)
    assert run.items.groupby("task").score.mean().to_dict() == {"arc": 0.0, "boolq": 1 / 3, "siqa": 0.5}
    assert run.items.groupby("task").k_shot.first()["boolq"] == 5
    rows = choice_rows([1, 0], (" A", " B"))
    named = read_lm_eval(write_lm_eval(tmp_path / "dashed", "m", {"arc_de_easy": rows}, {"arc-de.easy": CHOICE}))
    assert named.items.task.unique() == ["arc-de.easy"] and not any("no sample file" in note for note in named.notes)
    assert any("arc has 2 sample files" in note for note in run.notes)


def test_answers_read_by_other_filters_are_not_compared(tmp_path: Path) -> None:
    def filtered(*names: str) -> dict[str, Any]:
        rows = [row | {"filter": name, "exact_match": 1.0, "metrics": ["exact_match"], "acc": None}
                for row in choice_rows([1, 0, 1], ("only",)) for name in names]  # fmt: skip
        return {"gsm8k": rows, "arc": choice_rows([1, 0, 1])}

    configs = {"gsm8k": {"output_type": "generate_until"}, "arc": CHOICE}
    base = write_lm_eval(tmp_path / "a", "m", filtered("flexible-extract", "strict-match"), configs)
    tuned = write_lm_eval(tmp_path / "b", "m", filtered("flexible-extract"), configs)
    content = lm_eval_tax(base, tuned, 1.0, 0.01)
    assert [row["task"] for row in content["tax"]] == ["arc"]
    assert any("filter 'strict-match' before, 'flexible-extract' after" in note for note in content["notes"])


def test_first_items_of_two_tasks_are_not_drawn_together(tmp_path: Path) -> None:
    """Two tasks of equal answers: were their items clusters, the error of the mean would be that of one task."""
    before, after = np.ones(50), (np.arange(50) % 3 > 0).astype(float)
    configs = {"arc": CHOICE, "siqa": CHOICE}
    one, two = ({task: choice_rows(right) for task in configs} for right in (before, after))
    content = lm_eval_tax(write_lm_eval(tmp_path / "a", "m", one, configs),
                          write_lm_eval(tmp_path / "b", "m", two, configs), 1.0, 0.01)  # fmt: skip
    single = content["tax"][0]["normalised"]["se"]
    assert content["pooled"][0]["se"] == pytest.approx(single / math.sqrt(2), rel=0.02)
    assert content["tax"][0]["mcnemar"]["lost"] == 17 and content["tax"][0]["q_bh"] is not None


def test_directories_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="not a directory"):
        read_lm_eval(tmp_path / "nowhere")
    with pytest.raises(AnalysisError, match=r"no results_\*\.json"):
        read_lm_eval(tmp_path)
    empty = write_lm_eval(tmp_path / "a", "m", {}, {"arc": CHOICE})
    with pytest.raises(AnalysisError, match="--log_samples"):
        read_lm_eval(empty)
    write_lm_eval(empty / "deeper", "other", {}, {})
    with pytest.raises(AnalysisError, match=r"2 models \(m, other\)"):
        read_lm_eval(empty)
    torn = write_lm_eval(tmp_path / "b", "m", {"arc": choice_rows([1])}, {"arc": CHOICE})
    next(torn.rglob("samples_*")).write_text('{"doc_id": 0}\n{"doc')
    with pytest.raises(AnalysisError, match=r"jsonl:2: not JSON"):
        read_lm_eval(torn)
    one = write_lm_eval(tmp_path / "c", "m", {"arc": choice_rows([1, 0])}, {"arc": CHOICE})
    two = write_lm_eval(tmp_path / "d", "m", {"arc": choice_rows([1, 0, 1])}, {"arc": CHOICE})
    with pytest.raises(AnalysisError, match="item sets differ"):
        lm_eval_tax(one, two, 1.0, 0.01)
