"""What scored the policies, from records to words: gold is called the truth only where it is the world's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from analysis.results import SCHEMA_FILE, analyze
from hh_scaling.configs import ForeignPMConfig, SizeSpec, TokenizerConfig
from hh_scaling.records import RunStore, write_json
from reports.gold_source import gold_sentence, scorer_sentences
from reports.headlines import gold_headline
from reports.method import method_sentences
from reports.sentences import frontier_sentences
from tests.fake_runs import Builder, Shape, Truth

SHAPE = Shape(comparisons=(500,), held_out=100, prompts=48)
PM_TABLES = ("pm", "pm_trend", "pm_turns", "pm_calibration", "pm_floor", "pm_scores", "pm_agreement")


def make_study(root: Path, gold: str | None, foreign_train: bool = False) -> Path:
    """One size with two seeds; ``gold`` is world, pm or foreign_pm. Numbers that all kinds share are the same."""
    builder = Builder(root, (12_000,), np.random.default_rng(0), Truth(), SHAPE)
    data = builder.data()
    tokenizer = builder.stage("tokenizer", "tokenizer", TokenizerConfig(), {"data": data}, lambda folder, writer: {})
    theirs = builder.stage(
        "foreign_pm", "foreign-pm-rm", ForeignPMConfig(size=SizeSpec(name="rm", hub="org/rm")), {},
        lambda folder, writer: {"foreign": {"name": "rm", "n_params": 10, "n_params_total": 20}},
    )  # fmt: skip
    policies = []
    for seed in (0, 1):
        base = builder.base(12_000, seed, data, tokenizer)
        parents = {"data": data, "policy": base}
        parents |= {f"pm_{half}": builder.pm(12_000, seed, half, 500, data, base) for half in ("train", "test")}
        parents |= {"pm_train": theirs} if foreign_train else {}
        policies.append((seed, base, parents))
    extra = {"foreign_pm": theirs}
    state = builder.rng.bit_generator.state
    if gold == "pm":
        extra["pm"] = builder.pm(12_000, 0, "gold", 900, data, policies[0][1])
    builder.rng.bit_generator.state = state
    for seed, _, parents in policies:
        more = {"pm_gold": extra[gold]} if gold in extra else {}
        tell(root, builder.ppo(12_000, seed, parents | more), more.get("pm_gold", gold))
    write_json(root / "study.json", {"name": "fake", "study": {}, "stages": builder.stages, "synthetic": False})
    return root


def tell(root: Path, stage_id: str, source: str | None) -> None:
    """Add to a policy's record what the stage says of its scorers."""
    path = RunStore(root).stage_path(stage_id) / "record.json"
    record = json.loads(path.read_text())
    fed = {role: {"stage_id": "", "format": "transcript", "tokens": "as sampled"} for role in ("train", "test")}
    fed["gold"] = {"stage_id": source, "format": "chat template", "tokens": "decoded and encoded again"}
    record["summary"] |= {"gold_source": source, "scored_by": fed}
    path.write_text(json.dumps(record))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    kinds = ("world", "pm", "foreign_pm")
    return {kind: analyze(make_study(tmp_path_factory.mktemp(kind), kind)) for kind in kinds}


def test_results_say_where_gold_is_from(results: dict[str, dict[str, Any]]) -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    starts = {"world": "world", "pm": "pm-12k-gold-n900-s0-", "foreign_pm": "foreign-pm-rm-"}
    for kind, found in results.items():
        jsonschema.validate(found, schema)
        sources = {row["gold_source"] for row in found["frontier"]}
        assert len(sources) == 1 and sources.pop().startswith(starts[kind])
        gold = [row for row in found["scored_by"] if row["role"] == "gold"]
        assert [(row["kind"], row["n_policies"]) for row in gold] == [(kind, 2)]
        assert [row["role"] for row in found["scored_by"]] == ["train", "train", "test", "test", "gold"]


def test_the_gold_pm_s_accuracy_is_that_of_its_scores(results: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    runs = make_study(tmp_path, "pm")
    gold = next(row for row in results["pm"]["scored_by"] if row["role"] == "gold")
    scores = pd.read_parquet(RunStore(runs).stage_path(gold["source"]) / "scores.parquet")
    assert gold["accuracy"]["value"] == pytest.approx((scores.score_chosen > scores.score_rejected).mean())


def test_the_gold_pm_is_none_of_those_that_are_compared(results: dict[str, dict[str, Any]]) -> None:
    """Every table and fit of preference models is the one without it; only the policies' ids differ."""
    for name in PM_TABLES:
        assert results["pm"][name] == results["world"][name], name
    fits = [[f for f in found["fits"] if f["y"] == "accuracy"] for found in results.values()]
    assert fits[0] == fits[1] == fits[2]


def test_models_of_others_are_no_size_of_the_study(results: dict[str, dict[str, Any]]) -> None:
    assert [model["name"] for model in results["foreign_pm"]["models"]] == ["12k"]
    assert "foreign_pm" in {row["kind"] for row in results["foreign_pm"]["stages"]}


def test_only_the_world_s_score_is_called_the_truth(results: dict[str, dict[str, Any]]) -> None:
    words = {
        "world": "is the truth: the synthetic world's exact score",
        "pm": "that of a preference model trained on comparisons that no other saw (12k, accuracy ",
        "foreign_pm": "is not the truth but that of a model somebody else trained (rm).",
    }
    for kind, found in results.items():
        assert words[kind] in gold_sentence(found) and gold_sentence(found) in method_sentences(found)
        beside = " ".join(frontier_sentences(found))
        headline = gold_headline(found)
        assert headline is not None
        for text in (beside, " ".join(headline.lines)):
            assert (gold_sentence(found) in text) == (kind != "world")
        assert "truth" not in " ".join(claim["text"] for claim in found["claims"])


def test_what_was_encoded_again_is_said(results: dict[str, dict[str, Any]]) -> None:
    lines = scorer_sentences(results["foreign_pm"])
    assert len(lines) == 2 and "Somebody else trained rm (gold; chat template)" in lines[0]
    assert lines[1].startswith("Responses were decoded and encoded again for rm (gold), ")
    assert scorer_sentences(results["world"]) == []


def test_a_run_without_a_gold_score_names_no_source(tmp_path: Path) -> None:
    runs = make_study(tmp_path, None)
    for path in (runs / "stages").glob("ppo-*/evals.parquet"):
        frame = pd.read_parquet(path)
        frame[["gold", "gold_helpful", "gold_harmless"]] = np.nan
        frame.to_parquet(path, index=False)
        record = json.loads((path.parent / "record.json").read_text())
        record["files"]["evals.parquet"]["bytes"] = path.stat().st_size
        (path.parent / "record.json").write_text(json.dumps(record))
    found = analyze(runs)
    assert found["frontier"] and {row["gold_source"] for row in found["frontier"]} == {None}
    assert gold_sentence(found) == "" and {row["role"] for row in found["scored_by"]} == {"train", "test"}


def test_a_foreign_train_pm_s_unit_is_its_spread_at_the_start(tmp_path: Path) -> None:
    """The parting with it: each rise in its own standard deviations, by hand from the files."""
    runs = make_study(tmp_path, "world", foreign_train=True)
    found = analyze(runs)
    expected = []
    for path in sorted((runs / "stages").glob("ppo-*")):
        evals = pd.read_parquet(path / "evals.parquet").sort_values(["step", "prompt_id"])
        first, last = (evals[evals.step == step] for step in (evals.step.min(), evals.step.max()))
        test = pd.read_parquet(
            runs / "stages" / json.loads((path / "record.json").read_text())["parents"]["pm_test"] / "scores.parquet"
        )
        both = np.concatenate([test.score_chosen, test.score_rejected])
        rises = [last[name].to_numpy() - first[name].to_numpy() for name in ("score_train", "score_test")]
        expected.append((rises[0] / first.score_train.std() - rises[1] / both.std(ddof=1)).mean())
    assert found["overoptimisation"][0]["parting"]["value"] == pytest.approx(np.mean(expected))
    assert {row["seed_pm"] for row in found["frontier"]} == {None}
