"""Policies against train PMs of several sizes: places and differences that were put in, rows, report, the study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from analysis.cells import cells_of, is_shown
from analysis.estimates import mean
from analysis.frames import load_study
from analysis.frontier import load_curves
from analysis.held_out import pm_scores
from analysis.parting import PARTED, parting_place, parting_rows
from analysis.results import SCHEMA_FILE, analyze
from hh_scaling.configs import PPOConfig, PPOTraining
from reports.results import find_fit
from reports.robustness_figures import effect_table, gold_table, parting_table, scores_table
from reports.robustness_sentences import robustness_methods, robustness_sentences, robustness_tables
from sweeps.check import load_study as load_yaml
from sweeps.graph import expand
from sweeps.load import StudyError
from tests.fake_crossed import FARTHEST, GOLD, LACKS, SEEDS, SLOPE, STEPS, crossed_runs
from tests.fake_runs import Shape, make_runs
from tests.test_graph import STUDY, graph_of
from tests.tiny import COMPUTE, SIZE, run_stage

Results = dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crossed_runs(tmp_path_factory.mktemp("crossed"))


@pytest.fixture(scope="module")
def results(runs: Path) -> Results:
    return analyze(runs)


# ---------------------------------------------------------------- where scores part


def test_a_place_by_hand() -> None:
    """Apart by .05 d + .025 d^2, .2 lies at d = 2. Without noise every pseudo-value is the place."""
    ones, d = np.ones((1, 5)), np.array([[0.0], [1.0], [2.5], [3.0]])
    kl, apart = d**2 * ones, (0.05 * d + 0.025 * d**2) * ones
    assert PARTED == 0.2
    assert parting_place(kl, apart) == pytest.approx(np.full(5, 2.0))
    assert parting_place(kl[:3], apart[:3]) is None  # two evaluations leave nothing to tell noise by
    assert parting_place(kl, 0.5 * apart) is None  # past the farthest
    assert parting_place(kl, -apart) is None and parting_place(kl, 0 * apart) is None
    falls = (0.4 * d - 0.2 * d**2) * ones  # its highest is .2, at 1
    assert parting_place(kl, 1.001 * falls) == pytest.approx(np.full(5, 1.0), abs=0.05)
    assert parting_place(kl, 0.999 * falls) is None


@pytest.mark.parametrize(("c", "e"), [(0.16, 0.0), (0.3, -0.06), (0.1, 0.12)])
def test_the_interval_covers_the_place(c: float, e: float) -> None:
    """300 studies of 60 prompts with noise in score and KL (a binomial error of .013): straight, bent, ever steeper."""
    rng, inside, values = np.random.default_rng(2), 0, []
    d = np.linspace(0, 2.5, 9)[:, None]
    place = 0.2 / 0.16 if e == 0 else (-c + np.sqrt(c**2 + 4 * e * 0.2)) / (2 * e)
    for _ in range(300):
        kl = d**2 + 0.8 * d * rng.normal(size=(9, 60))
        found = parting_place(kl, c * d + e * d**2 + np.where(d > 0, 0.3, 0.0) * rng.normal(size=(9, 60)))
        assert found is not None
        low, high = mean(found).interval()
        values.append(found.mean())
        inside += low is not None and high is not None and low < place < high
    assert 0.91 <= inside / 300 <= 0.985 and np.mean(values) == pytest.approx(place, abs=0.03)


def test_scores_part_where_it_was_put(results: Results) -> None:
    """Against 12k at .2 / .16 = 1.25, against 300k not within 2.5; standard errors are about .06 of 120 prompts."""
    rows = {(r["model"], r["train_pm"], r["test_pm"]): r for r in results["robustness"]}
    assert len(rows) == 2 * 2 * 2
    for (model, train_pm, _), row in rows.items():
        assert row["n_runs"] == (3 if model == train_pm else 1)
        assert row["parting_at_end"]["value"] == pytest.approx(LACKS[train_pm] * FARTHEST, abs=0.12)
        if train_pm == "12k":
            place = row["parting_sqrt_kl"]
            assert row["verdict"] == "parts" and place["low"] < PARTED / LACKS["12k"] < place["high"]
            assert place["high"] - place["low"] < 1.0
        else:
            assert row["verdict"] == "not reached" and row["parting_sqrt_kl"] is None
            assert row["n_reached"] == 0 and row["reach"] == pytest.approx(FARTHEST, abs=0.1)


def test_a_run_that_never_parts_leaves_the_cell_without_a_place(runs: Path) -> None:
    """A mean over the runs that did part would be too near."""
    study = load_study(runs)
    curves = [curve for curve in load_curves(study) if is_shown(study, curve.record)]
    cell = next(cell for cell in cells_of(study, curves) if len(cell.runs) == 3)
    assert (cell.model.name, cell.train_pm.name) == ("12k", "12k")
    scores = cell.runs[0].values["score_train"]
    cell.runs[0].values["score_train"] = np.repeat(scores[:1], len(scores), axis=0)
    row = parting_rows(study, [cell], pm_scores(study))[0]
    assert row["n_reached"] == 2 and row["parting_sqrt_kl"] is None and row["verdict"] == "not reached"


def test_the_note_says_what_the_places_interval_rests_on(runs: Path) -> None:
    """Only the cell of one run parts: its end borrows the spread between runs of the other cell, its place cannot."""
    study = load_study(runs)
    curves = [curve for curve in load_curves(study) if is_shown(study, curve.record) and curve.model.name == "300k"]
    cells = cells_of(study, curves)
    assert [(cell.train_pm.name, len(cell.runs)) for cell in cells] == [("12k", 1), ("300k", 3)]
    one, three = (
        next(row for row in parting_rows(study, cells, pm_scores(study)) if row["train_pm"] == pm)
        for pm in ("12k", "300k")
    )
    assert one["verdict"] == "parts" and three["verdict"] == "not reached"
    assert one["note"].startswith("training variance is estimated from 1 run and the average over sizes")
    assert "; the place: one run: the interval is over items alone, conditional on this run" in one["note"]
    assert "the place" not in (three["note"] or "")


def test_slopes_are_what_was_put_in(results: Results) -> None:
    """Runs differ by 2 %, scores have errors of .03: far inside .06."""
    for model in LACKS:
        for train_pm, lacks in LACKS.items():
            group = f"{model} against {train_pm}, "
            expected = {f"train by {train_pm}": SLOPE, "test by 300k": SLOPE - lacks, "gold": GOLD[train_pm]}
            for kind, slope in expected.items():
                fit = find_fit(results, "sqrt-kl-linear", group + kind, ["sqrt_kl"], f"change_{kind.split()[0]}")
                assert fit is not None and fit["params"]["c"]["value"] == pytest.approx(slope, abs=0.06), group + kind
            law = find_fit(results, "rl", f"{group}gold", ["sqrt_kl"], "change_gold")
            assert law is not None and law["params"]["alpha"]["value"] == pytest.approx(GOLD[train_pm], abs=0.1)


def test_points_are_changes_in_standard_deviations(results: Results) -> None:
    points = results["robustness_points"]
    policies, pools = ([r for r in points if r["way"] == way] for way in ("ppo", "best_of_n"))
    assert len(policies) == 8 * len(STEPS) * 4 and {r["seed"] for r in policies} == set(SEEDS)
    ends = [r for r in policies if r["place"] == STEPS[-1] and r["score"] == "train"]
    assert [r["change"]["value"] for r in ends] == pytest.approx([SLOPE * FARTHEST] * 8, abs=4 * 0.03)
    assert max(r["change"]["se"] for r in ends) < 0.035  # of 120 prompts: the .03 above
    starts = [r for r in policies if r["place"] == 0]
    assert all(r["change"]["value"] == 0 == r["sqrt_kl"] for r in starts)
    assert pools and {r["score"] for r in pools} == {"train", "test", "gold"}  # these were not scored by other test PMs


def test_the_large_pm_serves_better_by_what_was_put_in(results: Results) -> None:
    """Gold differs by .4 d at every d up to 2.5; evaluations lie evenly, so the mean d is about half of it, and none
    past the other policy's reach counts."""
    rows = {(r["model"], r["score"], r["pm"]): r for r in results["pm_size_effect"]}
    for model in ("12k", "300k", "all"):
        row = rows[model, "gold", None]
        assert row["verdict"] == "large" and (row["small"], row["large"]) == ("12k", "300k")
        assert row["difference"]["value"] == pytest.approx(0.4 * FARTHEST / 2, abs=4 * 0.014)
        assert row["difference"]["se"] < 0.016
    assert rows["12k", "gold", None]["n_runs"] == 1 and rows["all", "gold", None]["n_runs"] == 2
    assert "conditional on this run" in rows["12k", "gold", None]["note"]


def test_results_follow_the_schema(runs: Path, results: Results) -> None:
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    assert not list(schema.iter_errors(json.loads((runs / "results.json").read_text())))


def test_crossed_policies_stay_out_of_what_follows_the_main_ones(results: Results) -> None:
    assert {(r["model"], r["seed"]) for r in results["frontier"]} == {(m, s) for m in LACKS for s in SEEDS}
    assert len({r["stage_id"] for r in results["frontier"]}) == 6
    assert all(row["n_runs"] == 3 for row in results["overoptimisation"])


def test_a_study_without_crossing_has_empty_tables(tmp_path: Path) -> None:
    shape = Shape(comparisons=(500,), at=("end",))
    found = analyze(make_runs(tmp_path, sizes=(12_000,), seeds=(0,), shape=shape))
    assert found["robustness"] == found["robustness_points"] == found["pm_size_effect"] == []
    assert robustness_sentences(found) == robustness_methods(found) == robustness_tables(found) == []


# ---------------------------------------------------------------- report


def test_figures_hold_what_results_say(results: Results) -> None:
    scores, gold, places, effects = (make(results) for make in (scores_table, gold_table, parting_table, effect_table))
    panels = [f"{model} against {train_pm}" for model in LACKS for train_pm in LACKS]
    assert list(dict.fromkeys(scores["panel"])) == panels
    assert list(dict.fromkeys(scores["series"])) == ["train PM", "test PM 12k", "test PM 300k"]
    assert list(scores.loc[scores["layer"] == "parting", "panel"]) == ["12k against 12k", "300k against 12k"]
    assert list(dict.fromkeys(gold["series"])) == ["12k", "300k"] and set(gold["layer"]) == {"point", "fit", "pool"}
    assert len(places) == 8 and places["hollow"].sum() == 4
    assert (places.loc[places["hollow"], "series"] == "300k").all() and places.loc[places["hollow"], "low"].isna().all()
    assert list(dict.fromkeys(effects["panel"]))[0] == "gold" and effects["model"].notna().all()


def test_sentences_can_come_out_either_way(results: Results) -> None:
    parting, gold, _ = robustness_sentences(results)
    assert "part in 2 of 4 pairs" in parting and "none of the others did within √KL 2.50" in parting
    assert "the large one serves better at 12k (" in gold and "over all sizes +" in gold
    rows = [{**r, "parting_sqrt_kl": None} for r in results["robustness"]]
    (text,) = robustness_sentences({"robustness": rows})
    assert "part in 0 of 4 pairs of policy and train PM size; none did within" in text
    turned = [
        {**r, "verdict": "no overlap", "difference": None} for r in results["pm_size_effect"] if r["model"] == "12k"
    ]
    assert "do not overlap in √KL at 12k." in robustness_sentences({"pm_size_effect": turned})[0]
    assert {t.caption.split(" ")[0] for t in robustness_tables(results)} == {"Train", "Largest"}
    assert any("0.2 standard deviations" in text for text in robustness_methods(results))


# ---------------------------------------------------------------- the stage and the study


def test_further_test_pms_score_the_same_responses(policy_parents: dict[str, Path], tmp_path: Path) -> None:
    """The train PM in the role of a further test PM gives the train scores, to the bit."""
    training = PPOTraining(
        n_updates=1, batch_size=8, minibatch_size=8, max_prompt_tokens=40, max_response_tokens=8, n_eval_prompts=12,
    )  # fmt: skip
    config = PPOConfig(size=SIZE, seed=0, training=training, compute=COMPUTE, train_pm="9k")
    run_stage("ppo", config, {**policy_parents, "pm_test_9k": policy_parents["pm_train"]}, tmp_path)
    rows = pd.read_parquet(tmp_path / "evals.parquet")
    assert (rows.score_test_9k == rows.score_train).all() and not (rows.score_test == rows.score_train).any()


def test_crossing_adds_policies_and_changes_no_other_stage(tmp_path: Path) -> None:
    plain = graph_of(tmp_path)
    crossed = graph_of(tmp_path, STUDY, "ppo.pm_sizes=[27k,100k]", "best_of_n=4")
    added = [crossed[i] for i in crossed.keys() - plain.keys()]
    assert plain.keys() < crossed.keys() and sorted(s.stage_id.rsplit("-", 1)[0] for s in added) == sorted(
        [f"best-of-n-{size}-s{seed}" for size in ("27k", "100k") for seed in (0, 1)]
        + [
            f"{kind}-{size}-s0-by-{by}"
            for kind in ("ppo", "best-of-n")
            for size, by in (("27k", "100k"), ("100k", "27k"))
        ]
    )
    policy = next(s for s in added if s.stage_id.startswith("ppo-27k-s0-by-100k"))
    assert policy.parents["pm_train"].startswith("pm-100k-s0-train") and policy.parents["policy"].startswith("base-27k")


def test_further_tests_follow_every_policy(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, "ppo.test_pm_sizes=[27k,100k]")
    policies = [s for s in graph.values() if s.kind == "ppo"]
    for policy in policies:
        other = {"27k": "100k", "100k": "27k"}[str(policy.size)]
        assert policy.parents[f"pm_test_{other}"].startswith(f"pm-{other}-s{getattr(policy.config, 'seed', None)}-test")
        assert f"pm_test_{policy.size}" not in policy.parents  # that is pm_test


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("ppo.pm_sizes=[26k]", "ppo.pm_sizes.0: is '26k' (allowed: 27k, 100k; did you mean '27k'?)"),
        ("ppo.test_pm_sizes=[27k,27k]", "ppo.test_pm_sizes.1: is '27k' a second time"),
    ],
)
def test_sizes_without_preference_models_are_refused(choice: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=".*") as caught:
        graph_of(tmp_path, STUDY, choice)
    assert message in str(caught.value)


def test_the_shipped_study_is_what_it_says() -> None:
    """At least four policy sizes against three train PM sizes, three seeds where they are the same, all test PMs."""
    graph = expand(load_yaml("robustness"))
    cells: dict[tuple[str, str], int] = {}
    for stage in (s for s in graph.values() if s.kind == "ppo"):
        cell = (str(stage.size), str(graph[stage.parents["pm_train"]].size))
        cells[cell] = cells.get(cell, 0) + 1
        tests = {graph[p].size for role, p in stage.parents.items() if role.startswith("pm_test")}
        assert tests == {"27k", "100k", "400k", "885k"}
    assert all(n == (3 if policy == pm else 1) for (policy, pm), n in cells.items())
    pms = [pm for _, pm in cells]
    assert len({policy for policy, _ in cells}) == 4 and sum(pms.count(pm) == 4 for pm in set(pms)) >= 3
