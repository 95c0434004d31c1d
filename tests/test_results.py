"""A whole study from its records to results.json: contract, truths put in, exclusions, determinism, bad input."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from analysis import fits
from analysis.claims import Evidence, judge_all
from analysis.compare import compare, side_by_side
from analysis.frames import AnalysisError, Setting, Study, load_study
from analysis.frontier_fits import Exponents
from analysis.held_out import HeldOut
from analysis.pm_fits import PointSet, between_bases, with_item_variance
from analysis.results import SCHEMA_FILE, analyze, clean, flatten
from tests.conftest import ROOT
from tests.fake_runs import SIZES, Shape, Truth, make_runs

SMALL = Shape(comparisons=(500,), at=("end",))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("runs"), shape=Shape(failed=True, diverged=True))


@pytest.fixture(scope="module")
def results(runs: Path) -> dict[str, Any]:
    return analyze(runs)


def test_results_follow_the_schema(runs: Path, results: dict[str, Any]) -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads((runs / "results.json").read_text()), schema)
    for key in ("pm", "frontier", "tax", "fits", "claims", "excluded", "crossover", "pooled", "overoptimisation"):
        assert results[key], key


def test_the_same_records_give_the_same_bytes(runs: Path, results: dict[str, Any], tmp_path: Path) -> None:
    analyze(runs, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == (runs / "results.json").read_bytes()
    for table in (runs / "tables").glob("*.csv"):
        assert (tmp_path / "tables" / table.name).read_bytes() == table.read_bytes()


def test_what_was_left_out_is_said(results: dict[str, Any]) -> None:
    reasons = {row["what"].split("-")[0]: row["reason"] for row in results["excluded"]}
    assert "no disk space" in reasons["benchmark"]
    assert "diverged" in reasons["ppo"]
    assert not any("/data" in row["reason"] for row in results["excluded"])
    collapsed = [row for row in results["frontier"] if row["status"] == "diverged"]
    assert collapsed  # kept in the table ...
    assert not [f for f in results["fits"] if f["group"] == f"{collapsed[0]['model']} seed {collapsed[0]['seed']}"]


def test_collapsed_policies_enter_no_mean_and_no_trend_at_the_end(results: dict[str, Any]) -> None:
    """One of the smallest size's two policies diverged: its tax rows keep it, the mean is the other run's alone."""
    rows = {(row["model"], row["at"]): row for row in results["pooled"]}
    assert rows["12k", "end"]["n_seeds"] == 1 and "1 collapsed policies left out" in rows["12k", "end"]["note"]
    assert rows["12k", "sqrt_kl=1.0"]["n_seeds"] == rows["60k", "end"]["n_seeds"] == 2
    tax = [row for row in results["tax"] if row["model"] == "12k" and row["at"] == "end"]
    assert all(row["n_seeds"] == 2 and "collapsed policies included" in row["note"] for row in tax)
    scores = pd.DataFrame(results["benchmarks"])
    own = scores[(scores.model == "12k") & (scores.seed == 0) & scores.task.isin(["world_facts", "world_agreement"])]
    value = {kind: [e["value"] for e in own[own.stage_kind == kind].normalised] for kind in ("base", "ppo")}
    value["ppo"] = [e["value"] for e in own[own["at"] == "end"].normalised]
    assert rows["12k", "end"]["value"] == pytest.approx(np.mean(value["base"]) - np.mean(value["ppo"]))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four sizes with two seeds that share a base model."""
    shape = Shape(comparisons=(500, 2000), held_out=200, prompts=48, at=("end",), shared_base=True)
    return analyze(make_runs(tmp_path_factory.mktemp("shared"), shape=shape))


def test_seeds_that_share_a_base_are_not_independent_sizes(shared: dict[str, Any]) -> None:
    for fit in shared["fits"]:
        codes = [note["code"] for note in fit["notes"]]
        if fit["y"] == "accuracy" and fit["x"][0] == "n_params":
            fewest = 2 if fit["law"] == "log-linear" else 1  # four bases less two or three parameters
            assert fit["n_clusters"] == 4 and fewest <= fit["df"] < 12 and "clusters" in codes
        elif fit["y"] in ("accuracy", "tax"):
            assert "shared_base" in codes
    for name in ("pm_trend", "pm_turns", "pm_floor", "pooled", "tax", "crossover", "overoptimisation"):
        assert all("shared base" in row["note"] for row in shared[name]), name


def test_two_sizes_of_one_base_each_have_no_slope_with_size(tmp_path: Path) -> None:
    shape = Shape(comparisons=(500, 2000), held_out=100, prompts=24, items=60, at=("end",), shared_base=True)
    results = analyze(make_runs(tmp_path, sizes=(12_000, 300_000), shape=shape))
    for fit in results["fits"]:
        if fit["y"] == "accuracy" and fit["x"][0] == "n_params":
            assert fit["params"]["c1"]["value"] is not None and fit["params"]["c1"]["low"] is None
            assert "too_few_bases" in [note["code"] for note in fit["notes"]]
    claims = {claim["id"]: claim for claim in results["claims"]}
    assert claims["C-size"]["verdict"] == "inconclusive"


def test_slopes_with_size_cover_with_one_base_a_size() -> None:
    """150 draws of four bases with three PMs each and no true slope: 95 % less three Monte Carlo errors of 1.8."""
    rng, hits, size = np.random.default_rng(11), 0, np.repeat([1e4, 6e4, 3e5, 1.5e6], 3)
    base = np.repeat(list("abcd"), 3)
    for _ in range(150):
        y = 0.6 + np.repeat(rng.normal(0, 0.02, 4), 3) + rng.normal(0, 0.01, 12)
        one = PointSet("pm n=1", pd.DataFrame({"n_params": size, "y": y, "base": base}), ("n_params",), "base")
        fitted = fits.fit("log-linear", one.columns, y, cluster=base, draws=500)
        result = with_item_variance(between_bases(fitted, one), one.columns, [exact()] * 12)
        low, high = result.params["c1"].low, result.params["c1"].high
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert hits / 150 >= 0.89


def exact() -> HeldOut:
    """Held-out items that every PM gets right, so that they add no variance."""
    names, ones = np.array(["x", "y"], dtype=object), np.ones(2)
    return HeldOut(names, names, names, ones, ones, 0 * ones, ones, ones, ones)


def test_pm_slopes_are_those_put_in(results: dict[str, Any]) -> None:
    """One draw: each true slope lies within 3.5 standard errors (p = 5e-4 were the errors normal)."""
    fit = next(f for f in results["fits"] if f["group"] == "pm all")
    truth = {"c1": Truth.accuracy_per_ln_n_params, "c2": Truth.accuracy_per_ln_n_comparisons}
    for name, value in truth.items():
        assert abs(fit["params"][name]["value"] - value) < 3.5 * fit["params"][name]["se"]
    assert fit["x"] == ["n_params", "n_comparisons"] and fit["n_clusters"] == len(SIZES) * 2


def test_one_chain_gives_an_interval_that_says_so(tmp_path: Path) -> None:
    results = analyze(make_runs(tmp_path, sizes=(12_000,), seeds=(0,), shape=Shape(at=("end",))))
    fit = next(f for f in results["fits"] if f["group"] == "pm 12k")
    assert fit["params"]["c1"]["se"] > 0 and [note["code"] for note in fit["notes"]] == ["one_chain"]
    data = next(claim for claim in results["claims"] if claim["id"] == "C-data")
    assert data["evidence"]["slopes_per_ln_comparisons"][0]["interval"] == "given one base model and seed"


def test_every_policy_starts_at_the_origin(results: dict[str, Any]) -> None:
    for row in results["frontier"]:
        if row["step"] == 0:
            assert (
                row["kl"]["value"] == row["sqrt_kl"] == row["score_train"]["value"] == row["score_gold"]["value"] == 0
            )


def test_frontier_slopes_are_those_put_in(results: dict[str, Any]) -> None:
    """Run slopes scatter by 4 %: the mean of two lies within 4 * 4 % / sqrt(2) of the truth."""
    for n_params, name in zip(SIZES, ("12k", "60k", "300k", "1.5m"), strict=True):
        fit = next(
            f
            for f in results["fits"]
            if f["law"] == "sqrt-kl-linear" and f["group"] == name and f["y"] == "score_train"
        )
        truth = Truth.slope + Truth.slope_per_ln_n_params * math.log(n_params / SIZES[0])
        assert fit["params"]["c"]["value"] == pytest.approx(truth, rel=0.17 if name == "12k" else 0.12)
        assert fit["r2"] > 0.99


def test_tax_falls_and_crosses_where_it_was_put(results: dict[str, Any]) -> None:
    row = next(r for r in results["crossover"] if r["task"] == "pooled" and r["at"] == "end")
    truth = SIZES[0] * math.exp(-Truth.tax_at_smallest / Truth.tax_per_ln_n_params)
    assert row["kind"] == "interval" and row["low"] < truth < row["high"]
    assert row["slope"]["low"] < Truth.tax_per_ln_n_params < row["slope"]["high"]


def test_a_task_at_chance_enters_no_mean(results: dict[str, Any]) -> None:
    at_chance = [row for row in results["tax"] if row["task"] == "world_facts_choice"]
    assert at_chance and not any(row["informative"] for row in at_chance)
    assert all("world_facts_choice (choice)" not in row["tasks"] for row in results["pooled"])


def test_bits_per_byte_is_positive_where_it_costs(results: dict[str, Any]) -> None:
    rows = [r for r in results["tax"] if r["metric"] == "bits_per_byte" and r["at"] == "end"]
    for row in rows:
        assert row["normalised"] is None and row["unit"] == "bits_per_byte" and row["verdict"] == "tax"
        assert row["value"] == pytest.approx(Truth.bits_tax, abs=0.004)  # 4 se of 240 items with sd 0.011


def test_claims_follow_the_truth_put_in(results: dict[str, Any]) -> None:
    verdicts = {claim["id"]: claim["verdict"] for claim in results["claims"]}
    assert verdicts["C-size"] == verdicts["C-sqrtkl"] == verdicts["C-gold"] == "supported"
    assert verdicts["C-data"] != "contradicted"  # two seeds: a size that happens to scatter more may leave it open
    assert verdicts["C-tax-small"] == verdicts["C-tax-crossover"] == "supported"


def evidence(results: dict[str, Any], **changes: Any) -> Evidence:
    """What the claims' rules see of these results, with parts replaced; exponents of four runs about 1."""
    found = {f"run{i}": k for i, k in enumerate((0.96, 0.98, 1.02, 1.04))}
    results = results | {"fits": [resolved(f) if f["x"] == ["n_comparisons"] else f for f in results["fits"]]}
    names = [model["name"] for model in results["models"]]
    parts = {key: results[key] for key in ("fits", "pooled", "crossover", "overoptimisation")}
    parts |= {"exponents": Exponents(found, {}), "parting": None, "pm_sizes": names, "policy_sizes": names}
    return Evidence(**(parts | changes))


def resolved(fit: dict[str, Any]) -> dict[str, Any]:
    """A fit whose slope is known to .01 either way."""
    slope = fit["params"].get("c1")
    known = slope and slope | {"low": slope["value"] - 0.01, "high": slope["value"] + 0.01}
    return fit if slope is None else fit | {"params": fit["params"] | {"c1": known}}


def verdicts(of: Evidence) -> dict[str, str]:
    return {row["id"]: row["verdict"] for row in judge_all(of)}


def test_claims_about_every_size_need_every_size(results: dict[str, Any]) -> None:
    assert {verdicts(evidence(results))[name] for name in ("C-data", "C-sqrtkl", "C-gold")} == {"supported"}
    more = evidence(results, pm_sizes=[*SIZES, "5m"], policy_sizes=["12k", "60k", "300k", "1.5m", "5m"])
    assert {verdicts(more)[name] for name in ("C-data", "C-sqrtkl", "C-gold")} == {"inconclusive"}
    one = results["overoptimisation"][:1]
    assert verdicts(evidence(results, overoptimisation=one, policy_sizes=["12k"]))["C-gold"] == "inconclusive"
    for found, wanted in (("falls", "supported"), ("none", "contradicted"), ("not reached", "inconclusive")):
        rows = [row | {"gold_verdict": found} for row in results["overoptimisation"]]
        assert verdicts(evidence(results, overoptimisation=rows))["C-gold"] == wanted


def test_runs_on_one_base_are_one_witness_against_the_line(results: dict[str, Any]) -> None:
    """Six exponents in two groups of three: as independent runs they exclude 1, as two bases they cannot."""
    values = (0.90, 0.91, 0.92, 0.80, 0.81, 0.82)
    of = evidence(results, exponents=Exponents({f"run{i}": k for i, k in enumerate(values)}, {}))
    assert verdicts(of)["C-sqrtkl"] == "contradicted"
    shared = replace(of, chains={f"run{i}": f"base{i // 3}/{i}" for i in range(6)})
    row = next(row for row in judge_all(shared) if row["id"] == "C-sqrtkl")
    means = np.array([0.91, 0.81])  # of equally many runs: a t interval on one degree of freedom
    half = 12.7062 * means.std(ddof=1) / np.sqrt(2)
    found = row["evidence"]["exponent_of_sqrt_kl"]
    assert row["verdict"] == "inconclusive" and row["evidence"]["n_runs"] == 6
    assert (found["low"], found["high"]) == pytest.approx((0.86 - half, 0.86 + half), rel=1e-4)


def test_a_line_in_sqrt_kl_must_rise_and_every_run_be_fitted(results: dict[str, Any]) -> None:
    failed = Exponents({"a": 0.5, "b": 0.51, "c": 0.49}, {"d": "at bound"})
    of = evidence(results, exponents=failed)
    row = next(row for row in judge_all(of) if row["id"] == "C-sqrtkl")
    assert row["verdict"] == "inconclusive" and row["evidence"]["runs_without_exponent"] == {"d": "at bound"}
    assert verdicts(evidence(results, exponents=failed._replace(failed={})))["C-sqrtkl"] == "contradicted"
    flat = [f | {"params": {"c": f["params"]["c"] | {"low": -0.1}}} if f["law"] == "sqrt-kl-linear" else f
            for f in results["fits"]]  # fmt: skip
    assert verdicts(evidence(results, fits=flat))["C-sqrtkl"] == "inconclusive"


def test_reasons_hold_no_absolute_paths(tmp_path: Path) -> None:
    study = Study(tmp_path, {"stages": []})
    for reason, wanted in (
        (f"{tmp_path}/stages/pm-1/scores.parquet: not readable", "stages/pm-1/scores.parquet: not readable"),
        ("OSError: no space on '/data/x/y.bin'", "OSError: no space on 'y.bin'"),
        ("3 of 4 and/or https://x.test/a", "3 of 4 and/or https://x.test/a"),
    ):
        study.exclude("x", reason)
        assert study.excluded[-1]["reason"] == wanted


# ---------------------------------------------------------------- settings beside the main one


VARIED = Shape(
    comparisons=(500, 2000), held_out=200, prompts=24, items=60, steps=(0, 10, 20, 40), at=("end",),
    helpful_share=(0.0, 0.5, 1.0), harmless_weight=(1.0, 10.0), rate_factor=(0.5, 2.0), learning_curve=True,
)  # fmt: skip
NEW_TABLES = ("pm_shares", "pm_weights", "pm_curve", "rate_check")


@pytest.fixture(scope="module")
def varied_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("varied"), sizes=SIZES[:3], shape=VARIED)


@pytest.fixture(scope="module")
def varied(varied_runs: Path) -> dict[str, Any]:
    return analyze(varied_runs)


def test_everything_varied_follows_the_schema(varied: dict[str, Any], varied_runs: Path) -> None:
    jsonschema.validate(json.loads((varied_runs / "results.json").read_text()), json.loads(SCHEMA_FILE.read_text()))
    for name in NEW_TABLES:
        assert varied[name] and len(pd.read_csv(varied_runs / "tables" / f"{name}.csv")) == len(varied[name])
    assert "difference_mde" in pd.read_csv(varied_runs / "tables" / "pm_curve.csv")
    assert not varied["excluded"]


def test_other_settings_enter_no_main_row(varied: dict[str, Any], varied_runs: Path, tmp_path: Path) -> None:
    """The same study without the stages of other settings gives the same main tables, to the bit."""
    described = json.loads((varied_runs / "study.json").read_text())
    (tmp_path / "stages").symlink_to(varied_runs / "stages")
    main = []
    for stage in described["stages"]:
        config, schedule = stage["config"], (stage["config"].get("training") or {}).get("schedule") or {}
        changed = (schedule.get("rate_factor", 1), config.get("helpful_share"), config.get("harmless_weight", 1))
        main += [stage] if changed == (1, None, 1) else []
    (tmp_path / "study.json").write_text(json.dumps(described | {"stages": main}))
    alone = analyze(tmp_path, tmp_path / "out")
    assert len(main) < len(described["stages"])
    for name in varied:
        if name not in (*NEW_TABLES, "study", "stages", "claims"):
            assert alone[name] == varied[name], name
    assert alone["pm_curve"] == varied["pm_curve"] and not any(alone[name] for name in NEW_TABLES if name != "pm_curve")
    judged = {claim["id"]: claim for claim in varied["claims"]}
    for claim in alone["claims"]:
        if claim["id"] not in ("C-one-sided", "C-mixing-size", "C-weight-size"):
            assert claim == judged[claim["id"]]
        else:
            assert "missing" in claim["evidence"] and "missing" not in judged[claim["id"]]["evidence"]


def test_older_records_without_the_new_keys_are_of_the_main_setting(varied_runs: Path, tmp_path: Path) -> None:
    study = load_study(make_runs(tmp_path, sizes=SIZES[:1], seeds=(0,), shape=SMALL))
    for record in study.records.values():
        schedule = (record.config.get("training") or {}).get("schedule") or {}
        for keys, names in ((schedule, ("rate_factor",)), (record.config, ("helpful_share", "harmless_weight"))):
            for name in names:
                keys.pop(name, None)
    assert all(study.is_main(record) for record in study.records.values())
    varied = load_study(varied_runs)
    others = [record for record in varied.records.values() if not varied.is_main(record)]
    assert {record.kind for record in others} == {"base", "pm", "ppo"} and len(others) == 6 * (3 + 1 + 2 + 2 + 2)


def test_what_descends_from_another_setting_is_not_main(varied_runs: Path) -> None:
    study = load_study(varied_runs)
    other = next(record for record in study.of_kind("ppo") if not study.is_main(record))
    bench = replace(study.of_kind("benchmark")[0], parents={"data": other.parents["data"], "model": other.stage_id})
    assert not study.is_main(bench) and study.setting(bench) is None
    assert study.setting(other) != Setting() and study.setting(other) is not None


def test_a_study_without_them_has_empty_tables(results: dict[str, Any]) -> None:
    assert all(results[name] == [] for name in NEW_TABLES)
    for name in ("pm_turns", "pm_calibration", "pm_floor", "pm_scores", "pm_agreement"):
        assert results[name], name


def test_tables_hold_the_rows(runs: Path, results: dict[str, Any]) -> None:
    tax = pd.read_csv(runs / "tables" / "tax.csv")
    assert len(tax) == len(results["tax"])
    assert {"value", "low", "high", "normalised", "normalised_low", "before_score_se", "verdict"} <= set(tax)
    fits = pd.read_csv(runs / "tables" / "fits.csv")
    assert {"law", "group", "param", "value", "low", "high", "status"} <= set(fits)


@pytest.mark.parametrize(
    "seeds, shape", [((0,), Shape(comparisons=(500,), at=("end",))), ((0, 1, 2), Shape(reference=True))]
)
def test_small_and_larger_studies_follow_the_schema(tmp_path: Path, seeds: tuple[int, ...], shape: Shape) -> None:
    results = analyze(make_runs(tmp_path, sizes=(12_000, 300_000), seeds=seeds, shape=shape))
    jsonschema.validate(results, json.loads(SCHEMA_FILE.read_text()))
    assert {row["before"] for row in results["tax"]} == ({"base", "reference"} if shape.reference else {"base"})
    assert results["crossover"][0]["kind"] == "none" and "3 sizes" in results["crossover"][0]["note"]


def test_margins_are_the_studys_unless_given(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, sizes=(12_000,), seeds=(0,), shape=SMALL)
    described = json.loads((runs / "study.json").read_text())
    described["study"]["analysis"] = {"margin": 2.5, "bits_margin": 0.02}
    (runs / "study.json").write_text(json.dumps(described))
    for given, wanted in (({}, {0.025, 0.02}), ({"margin": 3.0}, {0.03, 0.02})):
        assert {row["margin"] for row in analyze(runs, tmp_path / "out", **given)["tax"]} == wanted


def test_a_study_with_nothing_finished_still_gives_results(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, sizes=(12_000,), seeds=(0,), shape=Shape(comparisons=(500,)))
    for folder in (runs / "stages").iterdir():
        (folder / "record.json").unlink()
    results = analyze(runs)
    jsonschema.validate(results, json.loads(SCHEMA_FILE.read_text()))
    assert len(results["excluded"]) == results["study"]["n_stages"]
    assert {claim["verdict"] for claim in results["claims"]} == {"inconclusive"}


def test_damaged_and_unreadable_stages_are_named(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, sizes=(12_000,), seeds=(0,), shape=Shape(comparisons=(500,), at=("end",)))
    pm = next((runs / "stages").glob("pm-12k-train*"))
    (pm / "scores.parquet").write_bytes(b"short")
    (next((runs / "stages").glob("base-*")) / "record.json").write_text("{")
    reasons = [row["reason"] for row in analyze(runs)["excluded"]]
    assert any("damaged files: scores.parquet" in reason for reason in reasons)
    assert any("record.json: not a readable record" in reason for reason in reasons)


def test_no_study_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"study\.json: no such file"):
        load_study(tmp_path)


def test_clean_and_flatten() -> None:
    assert clean({"a": np.float64("nan"), "b": (np.int64(1), math.inf)}) == {"a": None, "b": [1, None]}
    estimate = {"value": 1.0, "se": 0.1, "low": 0.8, "high": 1.2, "n": 5}
    assert flatten({"x": estimate, "tags": ["a", "b"]}) == {
        "x": 1.0, "x_se": 0.1, "x_low": 0.8, "x_high": 1.2, "x_n": 5, "tags": "a; b",
    }  # fmt: skip


def test_compare_puts_studies_side_by_side(runs: Path, results: dict[str, Any], tmp_path: Path) -> None:
    other = make_runs(tmp_path, sizes=SIZES[:2], rng_seed=5, shape=Shape(comparisons=(500,), at=("end",)))
    compared = compare([runs, other])
    assert len(compared["studies"]) == 2 and compared["synthetic"]
    table = side_by_side(compared)
    for study in compared["studies"]:
        assert {study, f"{study}_low", f"{study}_verdict"} <= set(table)
    both = table[table["n_params"].isin(SIZES[:2]) & (table["at"] == "end")]
    assert both[compared["studies"]].notna().all().all()


def test_analysis_needs_no_torch() -> None:
    modules = "analysis.results, analysis.compare, analysis.tax_files, analysis.fits, hh_scaling.cli_tables"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
