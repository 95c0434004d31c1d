"""What a study may name as train, test and gold PM: the graph it gives, and what is wrong in one line."""

# ruff: noqa: E501  (a message on one line is easier to compare with what is printed than its pieces)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hh_scaling.configs import DataConfig, ForeignPMConfig, HHFiles, PMConfig, PPOConfig
from hh_scaling.records import config_hash
from sweeps.check import load_study
from sweeps.costs import PROCESS_BYTES
from sweeps.graph import expand, resolved_study
from sweeps.load import StudyError
from sweeps.machines import this_cpu
from sweeps.plan import make_plan
from sweeps.stage import Graph, Stage
from tests.test_graph import STUDY, graph_of, kinds, model_folder, only

MINIMAL = "world: {}\nsizes: [27k, 100k]\n"
HUB = "{hub: org/rm}"


def classifier_folder(folder: Path, content: bytes = b"weights", labels: int | None = 1) -> Path:
    """What looks like somebody's reward model; with None a language model's folder."""
    config = json.loads((model_folder(folder, content) / "config.json").read_text())
    if labels is not None:
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def policies(graph: Graph) -> list[Stage]:
    return [stage for stage in graph.values() if stage.kind == "ppo"]


def parent_kinds(graph: Graph) -> list[dict[str, str]]:
    """The kinds of each policy's scorers by role."""
    return [
        {role: graph[i].kind for role, i in stage.parents.items() if role.startswith("pm_")}
        for stage in policies(graph)
    ]


# ---------------------------------------------------------------- ids


def test_without_a_gold_part_and_choices_every_id_is_the_one_it_was(tmp_path: Path) -> None:
    """The hash was written down before there was a gold part; defaults given in words are still the defaults."""
    config = DataConfig(comparisons=HHFiles(hub="Anthropic/hh-rlhf"))
    assert config_hash(config.model_dump(mode="json")) == "db486cdd673e"
    plain = graph_of(tmp_path)
    for stage in plain.values():
        assert not {"gold_fraction", "world_gold"} & stage.config.model_dump(mode="json").keys()
    told = ["data.gold_fraction=0", "ppo.gold=world", "ppo.pm=same", "ppo.test_pm=same"]
    assert list(graph_of(tmp_path, STUDY, *told)) == list(plain)


def test_outside_a_world_no_gold_is_the_default(tmp_path: Path) -> None:
    study = "data: {hub: Anthropic/hh-rlhf}\nsizes: [27k]\n"
    plain = graph_of(tmp_path, study)
    assert list(graph_of(tmp_path, study, "ppo.gold=null")) == list(plain)
    assert parent_kinds(plain) == [{"pm_train": "pm", "pm_test": "pm"}]


def test_a_world_s_gold_can_be_left_out(tmp_path: Path) -> None:
    plain, without = graph_of(tmp_path), graph_of(tmp_path, STUDY, "ppo.gold=null")
    assert {i for i in plain if not i.startswith(("ppo", "benchmark"))} <= set(without)
    assert not {s.stage_id for s in policies(plain)} & {s.stage_id for s in policies(without)}
    assert all(isinstance(s.config, PPOConfig) and not s.config.world_gold for s in policies(without))


# ---------------------------------------------------------------- the largest, on the gold part


def test_one_pm_of_the_largest_size_and_first_seed_gives_gold_to_all_policies(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, "data.gold_fraction=0.2", "ppo.gold=largest")
    gold = only(graph, "pm", half="gold")
    assert isinstance(gold.config, PMConfig) and (gold.size, gold.config.seed, gold.config.n_comparisons) == (
        "100k",
        0,
        None,
    )
    assert gold.stage_id.startswith("pm-100k-s0-gold-all-")
    assert {stage.parents["pm_gold"] for stage in policies(graph)} == {gold.stage_id} and len(policies(graph)) == 4
    assert kinds(graph)["pm"] == 12 + 1
    main = only(graph, "pm", size="100k", seed=0, half="train", n_comparisons=1024)
    assert gold.parents == main.parents and gold.config.training == main.config.training  # type: ignore[attr-defined]
    assert only(graph, "data").config.gold_fraction == 0.2  # type: ignore[attr-defined]


def test_policies_at_other_rates_have_the_same_gold(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, "data.gold_fraction=0.2", "ppo.gold=largest", "ppo.rate_factor=[1, 2]")
    assert len({stage.parents["pm_gold"] for stage in policies(graph)}) == 1 and kinds(graph)["pm"] == 13


def test_the_gold_pm_costs_the_gold_part(tmp_path: Path) -> None:
    """4,000 comparisons: 0.2 are gold, and 0.12 held out; each policy's evaluations cost one more scorer."""
    graph = graph_of(tmp_path, STUDY, "data.gold_fraction=0.2", "ppo.gold=largest", "pm.n_comparisons=all")
    costs = make_plan(graph, this_cpu()).costs
    gold, half = only(graph, "pm", half="gold"), only(graph, "pm", size="100k", seed=0, half="train")
    passes = [3 * 4000 * share + 480 for share in (0.2, 0.34)]
    assert costs[gold.stage_id].flops / costs[half.stage_id].flops == pytest.approx(passes[0] / passes[1])
    without = graph_of(tmp_path, STUDY, "data.gold_fraction=0.2", "pm.n_comparisons=all")
    plain = make_plan(without, this_cpu()).costs[only(without, "ppo", size="27k", seed=0).stage_id]
    one = costs[only(graph, "ppo", size="27k", seed=0).stage_id]
    assert one.flops > plain.flops and one.memory_bytes > plain.memory_bytes


# ---------------------------------------------------------------- somebody else's


def test_foreign_models_take_any_role_and_are_found_once(tmp_path: Path) -> None:
    classifier_folder(tmp_path / "theirs")
    study = STUDY.replace(
        "ppo: {", "ppo: {pm: {path: theirs}, gold: {path: theirs}, test_pm: {hub: org/rm, revision: abc}, "
    )
    graph = graph_of(tmp_path, study, "pm=null")
    assert kinds(graph)["foreign_pm"] == 2 and kinds(graph)["pm"] == 0
    assert parent_kinds(graph) == [dict.fromkeys(("pm_train", "pm_test", "pm_gold"), "foreign_pm")] * 4
    one = graph[policies(graph)[0].parents["pm_train"]]
    assert isinstance(one.config, ForeignPMConfig) and one.parents == {}
    assert one.where == {"size.path": str(tmp_path / "theirs")} and str(tmp_path) not in json.dumps(
        one.config.model_dump()
    )
    assert policies(graph)[0].parents["pm_gold"] == one.stage_id
    other = graph[policies(graph)[0].parents["pm_test"]].config.size  # type: ignore[attr-defined]
    assert (other.name, other.hub, other.revision) == ("rm", "org/rm", "abc")
    assert make_plan(graph, this_cpu()).costs[one.stage_id].memory_bytes > PROCESS_BYTES


def test_a_foreign_model_is_known_by_weights_and_chat_template(tmp_path: Path) -> None:
    ids = []
    for name, weights, template in (("a", b"1", "x"), ("b", b"1", "x"), ("c", b"2", "x"), ("d", b"1", "y")):
        folder = classifier_folder(tmp_path / name / "theirs", weights)
        (folder / "chat_template.jinja").write_text(template)
        ids.append(only(graph_of(tmp_path / name, MINIMAL + "ppo: {gold: {path: theirs}}\n"), "foreign_pm").stage_id)
    assert ids[0] == ids[1] and len(set(ids)) == 3


def test_beside_a_foreign_train_pm_the_test_pm_is_the_size_s_own(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, f"ppo.pm={HUB}")
    policy = only(graph, "ppo", size="27k", seed=1)
    assert policy.parents["pm_test"] == only(graph, "pm", size="27k", seed=1, half="test").stage_id
    assert graph[policy.parents["pm_train"]].kind == "foreign_pm"


def test_with_a_foreign_test_pm_the_test_half_can_be_left_out(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, f"ppo.test_pm={HUB}", "pm.halves=train", "ppo.pm=largest")
    assert parent_kinds(graph) == [{"pm_train": "pm", "pm_test": "foreign_pm"}] * 4


@pytest.mark.parametrize(("given", "source"), [("", "world"), ("gold: null", None), (f"gold: {HUB}", HUB)])
def test_the_resolved_study_says_where_gold_is_from(tmp_path: Path, given: str, source: Any) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(MINIMAL + f"ppo: {{{given}}}\n")
    gold = resolved_study(load_study(str(path)))["ppo"]["gold"]
    assert (gold if gold is None else gold["source"] or f"{{hub: {gold['hub']}}}") == source


# ---------------------------------------------------------------- what is wrong

FOREIGN = "{hub: NAME} or {path: FOLDER} of a sequence classifier"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MINIMAL + "ppo: {gold: largest}\n", f"3:13: ppo.gold: is largest, but data.gold_fraction keeps no comparisons for it (allowed: world, null, {FOREIGN}; --set data.gold_fraction=0.2)"),
        ("data: {hub: a/b}\nsizes: [27k]\nppo: {gold: world}\n", f"3:13: ppo.gold: is world, but the comparisons are not made by one (allowed: largest, null, {FOREIGN})"),
        (MINIMAL + "ppo: {gold: larges}\n", "3:13: ppo.gold.source: is 'larges' (allowed: world, largest; did you mean 'largest'?)"),
        (MINIMAL + "data: {gold_fraction: 0.2}\npm: null\nppo: {gold: largest, pm: {hub: a/b}, test_pm: {hub: a/b}}\n", f"5:13: ppo.gold: is largest, but pm is null (allowed: world, null, {FOREIGN})"),
        (MINIMAL + "data: {gold_fraction: 0.9}\n", "3:23: data.gold_fraction: is 0.9 (allowed: below 0.88, what the held-out part leaves)"),
        (MINIMAL + "ppo: {pm: {hub: a/b, path: c}}\n", "3:11: ppo.pm: has hub and path (allowed: one of them)"),
        (MINIMAL + "ppo: {gold: {source: world, hub: a/b}}\n", "3:13: ppo.gold: has source and hub (allowed: one of them)"),
        (MINIMAL + "ppo: {test_pm: 28k}\n", f"3:16: ppo.test_pm: is '28k' (allowed: same, largest, 27k, 100k, {FOREIGN}; did you mean '27k'?)"),
        (MINIMAL + "ppo: {pm: {hubb: a/b}}\n", "3:12: ppo.pm.hubb: unknown key (did you mean 'hub'?)"),
        (MINIMAL + "pm: null\nppo: {pm: {hub: a/b}}\n", f"4:6: ppo: needs preference models, but pm is null (else: ppo.pm and ppo.test_pm as {FOREIGN})"),
        (MINIMAL + "pm: {sizes: [27k]}\nppo: {pm: {hub: a/b}}\n", f"4:6: ppo.test_pm: is same, but pm.sizes leaves out 100k (allowed: largest, 27k, {FOREIGN})"),
        (MINIMAL + "data: {gold_fraction: 0.4}\npm: {n_comparisons: 6000}\n", "4:21: pm.n_comparisons.0: is 6000 (allowed: about 3932, half of what the world makes)"),
        (MINIMAL + "ppo: {gold: {path: nowhere}}\n", "3:20: ppo.gold.path: {}/nowhere: no such folder"),
        (MINIMAL + "ppo: {gold: {path: bare}}\n", "3:20: ppo.gold.path: {}/bare: a model folder without weights"),
        (MINIMAL + "ppo: {pm: {path: three}}\n", "3:18: ppo.pm.path: {}/three: 3 labels by its config.json; expected a sequence classifier with one"),
        (MINIMAL + "ppo: {test_pm: {path: lm}}\n", "3:23: ppo.test_pm.path: {}/lm: 2 labels by its config.json; expected a sequence classifier with one"),
    ],
)  # fmt: skip
def test_one_line_says_where_what_and_what_is_allowed(tmp_path: Path, text: str, line: str) -> None:
    (classifier_folder(tmp_path / "bare") / "model.safetensors").unlink()
    classifier_folder(tmp_path / "three", labels=3), classifier_folder(tmp_path / "lm", labels=None)
    with pytest.raises(StudyError) as error:
        graph_of(tmp_path, text)
    found = [problem.replace(f"{tmp_path}/study.yaml:", "") for problem in error.value.problems]
    assert len(found) == 1 and found[0].startswith(line.replace("{}/", f"{tmp_path}/")), found


def test_a_gold_part_that_nothing_uses_is_odd(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(MINIMAL + "data: {gold_fraction: 0.2}\n")
    assert any("nothing is trained on" in line for line in load_study(str(path)).warnings)
    path.write_text(MINIMAL + "data: {gold_fraction: 0.2}\nppo: {gold: largest}\n")
    assert not load_study(str(path)).warnings and expand(load_study(str(path)))
