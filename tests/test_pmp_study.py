"""Votes, pretraining and a second set in study files: wiring, what depends on what, costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hh_scaling.configs import BaseConfig, DataConfig, HHFiles, PMConfig, PMPConfig, WorldConfig
from hh_scaling.records import config_hash
from hh_scaling.stages import KINDS
from hh_scaling.training import peak_learning_rate
from sweeps.check import load_study
from sweeps.costs import data_cost
from sweeps.graph import expand
from sweeps.load import StudyError
from sweeps.machines import this_cpu
from sweeps.plan import make_plan
from sweeps.stage import Graph, Stage
from tests.test_graph import STUDY, differences, graph_of, hh_files, kinds
from tests.test_study import NEEDED
from tests.test_votes import ranked, write_jsonl

VOTES = STUDY.replace("n_comparisons: 4k", "n_comparisons: 4k, n_votes: 2k")
BOTH = ["pmp={}", "pm.pretrained=[false, true]"]


def pms(graph: Graph, size: str = "27k", seed: int = 0) -> dict[str, Stage]:
    """The preference models of a size and seed by what tells them apart."""
    start = f"pm-{size}-s{seed}-"
    return {i.removeprefix(start).rpartition("-")[0]: stage for i, stage in graph.items() if i.startswith(start)}


def pretraining(graph: Graph) -> list[Stage]:
    return [stage for stage in graph.values() if stage.kind == "pmp"]


def config_of(stage: Stage) -> Any:
    return stage.config


# ---------------------------------------------------------------- wiring


def test_without_these_keys_nothing_is_added_and_their_defaults_change_no_id(tmp_path: Path) -> None:
    plain = graph_of(tmp_path)
    told = ["world.n_votes=0", "pmp=null", "data.votes=null", "pm.pretrained=false", "pm.extra_share=[0]"]
    assert list(graph_of(tmp_path, STUDY, *told)) == list(plain) and not pretraining(plain)


IDS = {  # digests of the ids of the shipped studies, without versions, from before there were votes
    "demo": "e01f66907d2f",
    "hh-local": "1b3d724f2840",
    "lr-check": "fa79115f5c5c",
    "pm-mixing": "1b981e155fa6",
    "pm-mixing-hh": "0b1d45576232",
    "pm-scaling": "16d967127523",
    "pm-scaling-hh": "619d14262e07",
    "pythia": "6e20d56149d1",
    "smoke": "a08a8d31fdde",
}  # not smollm2: its ids hold a model's number of parameters, known only where its package is installed
HASHED = {"data", "tokenizer", "base", "reference", "pm"}
NEW_KEYS = {"votes", "n_votes", "votes_temperature", "pretrained", "extra_share"}


def keys_in(value: Any) -> set[str]:
    """The keys of nested objects, at every depth."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_in, value.values()))
    return set().union(*map(keys_in, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("name", sorted(IDS))
def test_ids_of_the_shipped_studies_are_what_they_were_before_there_were_votes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest moves where a study or a default does (versions are left aside). If that is meant, put in the new one;
    if it is not, finished stages would be made again."""
    monkeypatch.setattr("sweeps.compute.native_dtype", lambda: "float32")  # ids hold it, and machines differ
    for kind, known in KINDS.items():
        monkeypatch.setitem(KINDS, kind, replace(known, version=1))
    told = [f"{key}=somewhere" for key in NEEDED.get(name, ())]
    stages = [s for s in expand(load_study(name, told), may_lack_files=True).values() if s.kind in HASHED]
    assert not NEW_KEYS & keys_in([s.config.model_dump(mode="json") for s in stages])
    assert config_hash(sorted(s.stage_id for s in stages)) == IDS[name]


def test_other_values_than_the_defaults_are_written() -> None:
    world = WorldConfig(n_votes=5, votes_temperature=2.0).model_dump(mode="json")
    assert (world["n_votes"], world["votes_temperature"]) == (5, 2.0)
    for config in (WorldConfig(n_votes=5, votes_temperature=2.0), WorldConfig()):
        assert WorldConfig.model_validate(config.model_dump(mode="json")) == config
    known = {"size": {"name": "x"}, "seed": 0, "half": "train", "n_comparisons": None, "training": {}, "compute": {}}
    given = PMConfig.model_validate(known | {"pretrained": True, "extra_share": 0.5}).model_dump(mode="json")
    assert (given["pretrained"], given["extra_share"]) == (True, 0.5)
    with pytest.raises(ValueError, match="extra_share"):
        PMConfig.model_validate(known | {"extra_share": 1.5})


def test_a_pretrained_pm_stands_beside_each_of_the_train_half(tmp_path: Path) -> None:
    """2 sizes x 2 seeds: a pretraining, and its PMs at both numbers; the rest is what it was."""
    plain, graph = graph_of(tmp_path, VOTES), graph_of(tmp_path, VOTES, *BOTH)
    assert set(plain) < set(graph)
    assert kinds(graph) == {**kinds(plain), "pmp": 4, "pm": 12 + 8}
    found = pms(graph)
    assert set(found) == {"train-256", "train-1024", "test-1024", "train-256-pmp", "train-1024-pmp"}
    (pmp,) = [s for s in pretraining(graph) if s.stage_id.startswith("pmp-27k-s0")]
    for number in (256, 1024):
        main, other = found[f"train-{number}"], found[f"train-{number}-pmp"]
        assert differences(other, main) == {"pretrained": True}
        assert other.parents == {**main.parents, "pmp": pmp.stage_id}
    assert pmp.parents == found["train-256"].parents
    assert not {s.stage_id for i, s in found.items() if i.endswith("-pmp")} & {
        parent for stage in graph.values() for parent in stage.parents.values()
    }
    order = list(graph)
    assert order.index(pmp.stage_id) < order.index(found["train-256-pmp"].stage_id)


def test_what_pretraining_is_reaches_the_hash_of_what_starts_from_it(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, VOTES, *BOTH)
    for change in ("pmp.binarised=true", "pmp.n_comparisons=500", "pmp.schedule.learning_rate=1e-3"):
        other = graph_of(tmp_path, VOTES, *BOTH, change)
        assert pms(other)["train-256"].stage_id == pms(graph)["train-256"].stage_id
        assert pms(other)["train-256-pmp"].stage_id != pms(graph)["train-256-pmp"].stage_id
    section = config_of(pretraining(graph_of(tmp_path, VOTES, *BOTH, "pmp={n_comparisons: 500, max_length: 99}"))[0])
    assert (section.n_comparisons, section.training.max_length, section.binarised) == (500, 99, False)


def test_pretrained_alone_is_the_main_setting(tmp_path: Path) -> None:
    """Both halves, what is varied around it, and PPO's scorers start from the pretraining; the gold model does not."""
    varied = ["pm.pretrained=true", "pm.helpful_share=0.5", "data.gold_fraction=0.2", "ppo.gold=largest"]
    graph = graph_of(tmp_path, VOTES, "pmp={}", *varied)
    assert set(pms(graph)) == {"train-256-pmp", "train-1024-pmp", "test-1024-pmp", "train-1024-pmp-help0.5"}
    models = [s for s in graph.values() if s.kind == "pm"]
    assert all(config_of(s).pretrained == ("pmp" in s.parents) == (config_of(s).half != "gold") for s in models)
    for policy in (stage for stage in graph.values() if stage.kind == "ppo"):
        starts = [graph[policy.parents[role]].parents.get("pmp") for role in ("pm_train", "pm_test", "pm_gold")]
        assert starts[0] in graph and starts[1] in graph and starts[2] is None
    swapped = graph_of(tmp_path, VOTES, "pmp={}", "pm.pretrained=[true, false]")
    assert set(pms(swapped)) == {"train-256-pmp", "train-1024-pmp", "test-1024-pmp", "train-256", "train-1024"}


def test_by_default_the_rate_is_that_of_preference_models_a_tenth_of_the_base_s(tmp_path: Path) -> None:
    """The paper pretrains preference models at 0.1 of the pretraining rate (appendix A.2); here at width 128."""
    graph = graph_of(tmp_path, VOTES, *BOTH)
    pmp, pm = pretraining(graph)[0].config, pms(graph)["train-1024"].config
    assert isinstance(pmp, PMPConfig) and isinstance(pm, PMConfig) and pmp.training == pm.training
    base = next(s.config for s in graph.values() if isinstance(s.config, BaseConfig))
    ratio = peak_learning_rate(pmp.training.schedule, 128) / peak_learning_rate(base.training.schedule, 128)
    assert ratio == pytest.approx(0.1, rel=0.1)


def test_shared_preference_models_share_their_pretraining(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, VOTES, *BOTH, "share=[base, pm]")
    assert (kinds(graph)["pmp"], kinds(graph)["pm"]) == (2, 2 * 5)
    assert len(pretraining(graph_of(tmp_path, VOTES, *BOTH, "pm.sizes=27k", "ppo.sizes=27k"))) == 2


def test_a_second_set_changes_one_field_at_the_largest_number(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, VOTES, "pm.extra_share=[0, 0.5, 1]")
    found = pms(graph)
    assert set(found) == {"train-256", "train-1024", "test-1024", "train-1024-extra0.5", "train-1024-extra1"}
    for share in (0.5, 1.0):
        other = found[f"train-1024-extra{share:g}"]
        assert differences(other, found["train-1024"]) == {"extra_share": share}
        assert other.parents == found["train-1024"].parents
    assert set(graph_of(tmp_path, VOTES)) < set(graph)


# ---------------------------------------------------------------- files


def test_votes_from_files_are_known_by_content_apart_from_the_comparisons(tmp_path: Path) -> None:
    hh_files(tmp_path / "hh")
    (tmp_path / "votes").mkdir()
    write_jsonl(tmp_path / "votes" / "helpful-base.jsonl", [ranked("q", 1, 2)])
    study = (
        "data: {path: hh, votes: votes}\nsizes: [27k]\nppo: null\npmp: {}\npm: {n_comparisons: 8, pretrained: true}\n"
    )
    graph = graph_of(tmp_path, study)
    (data,) = [stage for stage in graph.values() if stage.kind == "data"]
    assert isinstance(data.config, DataConfig) and data.config.votes is not None
    assert [file.name for file in data.config.votes.files] == ["votes/helpful-base.jsonl"]
    assert data.where["votes/helpful-base.jsonl"] == str(tmp_path / "votes" / "helpful-base.jsonl")
    (tmp_path / "other").mkdir()
    write_jsonl(tmp_path / "other" / "helpful-base.jsonl", [ranked("q", 2, 1, 3)])
    assert not set(graph) & set(graph_of(tmp_path, study.replace("votes: votes", "votes: other")))
    hub = study.replace("votes: votes", "votes: {hub: org/stack}")
    with_hub = next(iter(graph_of(tmp_path, hub).values())).config
    assert isinstance(with_hub, DataConfig) and with_hub.votes is not None and with_hub.votes.hub == "org/stack"
    with pytest.raises(StudyError, match=r"data\.votes\.path: .*nowhere: no such file or folder"):
        graph_of(tmp_path, study.replace("votes: votes", "votes: nowhere"))


# ---------------------------------------------------------------- costs


def test_the_plan_counts_votes() -> None:
    """Pretraining on all of 600 votes costs what a PM of 600 comparisons does; a share of a half more is 1.5 times the
    pairs. Of each, the held-out comparisons (240 in smoke) are scored besides."""
    told = ["sizes=100k", "ppo=null", "benchmarks=null", "world.n_votes=600", *BOTH, "pm.extra_share=0.5"]
    graph = expand(load_study("smoke", told))
    costs = make_plan(graph, this_cpu()).costs
    tokens = {i.rpartition("-")[0]: cost.tokens for i, cost in costs.items() if i.startswith("pm")}
    a_pair = tokens["pm-100k-s0-train-384"] / (384 + 240)
    assert tokens["pmp-100k-s0"] == pytest.approx(a_pair * (600 + 240))
    assert tokens["pm-100k-s0-train-384-pmp"] == pytest.approx(a_pair * (384 + 240))
    on_the_hub = DataConfig(comparisons=HHFiles(hub="a/b"))
    votes_too = on_the_hub.model_copy(update={"votes": HHFiles(hub="a/c")})
    assert data_cost(votes_too, None).disk_bytes == 2 * data_cost(on_the_hub, None).disk_bytes
    assert tokens["pm-100k-s0-train-384-extra0.5"] == pytest.approx(a_pair * (1.5 * 384 + 240))


def test_kinds_of_configuration_are_those_of_the_registry() -> None:
    assert KINDS["pmp"].config is PMPConfig and KINDS["pm"].config is PMConfig


# ---------------------------------------------------------------- what is odd


@pytest.mark.parametrize(
    ("assignments", "start"),
    [
        (["pmp={}"], "pmp: no preference model starts from it"),
        (["world.n_votes=9"], "votes: nothing is trained on them"),
    ],
)
def test_what_is_made_for_nothing_is_said(assignments: list[str], start: str) -> None:
    (warning,) = load_study("smoke", assignments).warnings
    assert warning.startswith(start)
    assert not load_study("smoke", ["world.n_votes=500", *BOTH]).warnings
