"""Precision: how many items a pilot asks for, and the stages that a study with a precision or several shots has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hh_scaling.configs import BenchmarkConfig, BenchmarkTasks, Compute, PilotConfig, SizeSpec
from hh_scaling.pilot import Z, chosen_limits, needed_items
from hh_scaling.pilot import run as run_pilot
from hh_scaling.records import Record, StageWriter, write_json
from hh_scaling.stages import StageContext
from sweeps.check import load_study
from sweeps.graph import expand
from sweeps.load import StudyError
from sweeps.stage import Graph
from tests.test_benchmarks import MODEL_ENTRY, evaluate_stage, save_record
from tests.test_task_rows import write_arrow
from tests.tiny_eval import items, save_model, write_rows


@pytest.fixture(scope="module", autouse=True)
def _as_it_was() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)  # the stage turns them on


# ---------------------------------------------------------------- how many


def test_the_number_follows_from_the_discordance() -> None:
    """b + c of n right or wrong answers changed: variance (b + c) / n - ((b - c) / n)^2, here with n / (n - 1)."""
    change = np.zeros(200)
    change[:30], change[30:40] = -1, 1
    found = needed_items(change, np.ones(200), np.arange(200), 0.02)
    variance = (40 / 200 - (20 / 200) ** 2) * 200 / 199
    assert found["n_changed"] == 40 and found["variance"] == pytest.approx(variance)
    assert found["needed"] == math.ceil((Z / 0.02) ** 2 * variance)


def test_the_number_of_items_gives_the_precision_it_promises() -> None:
    """Items of the same kind, as many as were asked for: the half-width comes out as wanted to within its own error."""
    rng = np.random.default_rng(0)
    draw = lambda n: rng.choice([-1.0, 0.0, 1.0], n, p=[0.15, 0.8, 0.05])  # noqa: E731
    n = needed_items(draw(4000), np.ones(4000), np.arange(4000), 0.01)["needed"]
    half = Z * draw(n).std(ddof=1) / math.sqrt(n)
    assert half == pytest.approx(0.01, rel=0.08)  # the variance from 4,000 items has a relative error of 3 %


def test_where_hardly_anything_changed_the_rule_of_three_counts() -> None:
    none = needed_items(np.zeros(100), np.ones(100), np.arange(100), 0.01)
    assert none["needed"] == math.ceil((Z / 0.01) ** 2 * 3 / 100)
    one = np.zeros(100)
    one[0] = 1
    assert needed_items(one, np.ones(100), np.arange(100), 0.01)["variance"] == pytest.approx(3 / 100)
    assert needed_items(one, np.ones(100), np.arange(100), 0.9)["needed"] == 100  # never fewer than were looked at
    assert needed_items(one, np.ones(100), ["all"] * 100, 0.01)["needed"] is None  # one cluster says nothing


def test_items_that_move_together_count_as_fewer() -> None:
    change = np.repeat(np.tile([1.0, 0.0, 0.0, 0.0], 25), 4)
    alone = needed_items(change, np.ones(400), np.arange(400), 0.01)["variance"]
    fours = needed_items(change, np.ones(400), np.repeat(np.arange(100), 4), 0.01)["variance"]
    assert fours == pytest.approx(4 * alone, rel=0.02)


def test_the_most_demanding_pilot_decides() -> None:
    summaries = [{"tasks": [{"task": "a", "needed": 5}, {"task": "b", "needed": 9}]},
                 {"tasks": [{"task": "a", "needed": 7}, {"task": "b", "needed": None}]}, {"tasks": []}]  # fmt: skip
    assert chosen_limits(summaries, None) == {"a": 7, "b": None}
    assert chosen_limits(summaries, 6) == {"a": 6, "b": 6}
    assert chosen_limits(summaries[::-1], None) == {"a": 7, "b": None}


# ---------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stages")
    write_rows(root / "data" / "tasks" / "world_facts.jsonl", items(90, seed=1))
    for role, seed in (("before", 3), ("after", 4)):
        save_model(root / role / "model", seed=seed)
        save_record(root / role, "base" if role == "before" else "ppo")
    write_json(root / "after" / "checkpoints.json", [{"name": "end", "step": 9, "sqrt_kl": 2.0, "path": "model"}])
    return {role: root / role for role in ("data", "before", "after")}


def make_pilot(stages: dict[str, Path], out: Path, at: str = "end") -> Path:
    out.mkdir()
    asked = BenchmarkTasks(tasks=("world_facts",), limit=30)
    config = PilotConfig(
        size=SizeSpec(name="tiny", n_params=1), seed=0, at=at, tasks=asked, precision=0.12, compute=Compute()
    )
    result = run_pilot(config, StageContext(stages, StageWriter(out), {}))
    write_json(out / "record.json", vars(Record(out.name, "pilot", "done", {}, {}, summary=result.summary)))
    return out


def test_a_pilot_and_the_benchmarks_that_follow_it(stages: dict[str, Path], tmp_path: Path) -> None:
    from hh_scaling.benchmarks import run
    from hh_scaling.records import read_record

    summary = read_record(make_pilot(stages, tmp_path / "pilot") / "record.json").summary
    (row,) = summary["tasks"]
    _, few = evaluate_stage(tmp_path / "one", stages["before"], stages["data"], ["world_facts"], limit=30)
    _, others = evaluate_stage(tmp_path / "two", stages["after"], stages["data"], ["world_facts"], at="end", limit=30)
    assert few is not None and others is not None
    expected = needed_items(others.score - few.score, few.weight, few.cluster, 0.12)
    assert row == {"task": "world_facts", "k_shot": 0, "metric": "acc", "n_file": 90} | expected
    assert 30 < row["needed"] < 90  # else what follows shows nothing
    (tmp_path / "after").mkdir()
    tasks = BenchmarkTasks(tasks=("world_facts",))
    config = BenchmarkConfig(size=SizeSpec(name="tiny", n_params=1), seed=0, tasks=tasks, compute=Compute())
    parents = {"data": stages["data"], "model": stages["before"], "pilot tiny": tmp_path / "pilot"}
    result = run(config, StageContext(parents, StageWriter(tmp_path / "after"), {}))
    table = pd.read_parquet(tmp_path / "after" / "items.parquet")
    assert len(table) == row["needed"] and result.summary["items"] == {
        "world_facts": {"n": row["needed"], "n_file": 90}
    }
    assert set(few.doc_hash) < set(table.doc_hash)


def test_a_policy_that_never_got_there_asks_for_nothing(stages: dict[str, Path], tmp_path: Path) -> None:
    from hh_scaling.records import read_record

    summary = read_record(make_pilot(stages, tmp_path / "pilot", at="sqrt_kl=9.0") / "record.json").summary
    assert summary["not_reached"] and summary["tasks"] == [] and summary["model"] == MODEL_ENTRY


# ---------------------------------------------------------------- the graph

STUDY = """\
world: {n_comparisons: 4k}
sizes: [27k, 100k]
seeds: [0, 1]
share: [base]
pm: {n_comparisons: [256]}
ppo: {keep_sqrt_kl: [1]}
benchmarks: {tasks: [world_facts, bits_per_byte], at: [end, 1]}
"""


def graph_of(tmp_path: Path, *assignments: str, text: str = STUDY) -> Graph:
    (tmp_path / "study.yaml").write_text(text)
    return expand(load_study(str(tmp_path / "study.yaml"), list(assignments)))


def of_kind(graph: Graph, kind: str) -> dict[str, Any]:
    return {i.rpartition("-")[0]: s for i, s in graph.items() if s.kind == kind}


def test_a_precision_puts_a_pilot_of_each_size_before_all_benchmarks(tmp_path: Path) -> None:
    plain, graph = graph_of(tmp_path), graph_of(tmp_path, "benchmarks.precision=0.01", "benchmarks.pilot_items=50")
    pilots = of_kind(graph, "pilot")
    assert set(pilots) == {"pilot-27k-s0", "pilot-100k-s0"}
    for stage in pilots.values():
        assert (
            stage.config.tasks.limit == 50
            and stage.config.at == "end"
            and set(stage.parents) == {"data", "before", "after"}
        )
    for stage in of_kind(graph, "benchmark").values():
        assert {role: i for role, i in stage.parents.items() if role.startswith("pilot")} == {
            f"pilot {size}": pilots[f"pilot-{size}-s0"].stage_id for size in ("27k", "100k")
        }
    without = {i for i in plain if not i.startswith("benchmark")}
    assert without < set(graph)  # nothing that is trained is made again


def test_tasks_without_examples_are_asked_once(tmp_path: Path) -> None:
    one, both = graph_of(tmp_path), graph_of(tmp_path, "benchmarks.num_fewshot=[0, 5]")
    assert {s.config.tasks.tasks for s in of_kind(both, "benchmark").values() if s.config.tasks.num_fewshot} == {
        ("world_facts",)
    }
    assert len(of_kind(both, "benchmark")) == 2 * len(of_kind(one, "benchmark"))
    single = graph_of(
        tmp_path, "benchmarks.num_fewshot=0", "benchmarks.run_code=false", "benchmarks.lm_eval_files=false"
    )
    assert list(single) == list(one)  # defaults change no id
    only_text = graph_of(tmp_path, "benchmarks.tasks=bits_per_byte", "benchmarks.num_fewshot=[0, 5]")
    assert len(of_kind(only_text, "benchmark")) == len(of_kind(one, "benchmark"))


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ("precision=0.01 ppo=null benchmarks.at=end", "benchmarks.precision: is of the difference that RLHF makes"),
        ("num_fewshot=[2,2]", "benchmarks.num_fewshot: names a number twice"),
        ("precision=0", "benchmarks.precision"),
        ("tasks=local_humaneval benchmarks.path=.", "runs code that models write; --set benchmarks.run_code=true"),
        ("tasks=local_hellaswg", "unknown task 'local_hellaswg'; nearest: local_hellaswag (allowed: what hh-scaling"),
        ("tasks=olmo_piqa benchmarks.olmo=no-such", "benchmarks.olmo: no-such: no such folder, and no installed"),
        ("tasks=olmo_piqa benchmarks.olmo=empty", "has no piqa/plain_text/validation/*.arrow, which the tasks read"),
        ("tasks=olmo_piqa benchmarks.olmo=none", "no folder hf_datasets in it"),
        ("tasks=local_piqa benchmarks.path=empty", "no input files"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, assignments: str, message: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty" / "hf_datasets").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    with pytest.raises(StudyError) as caught:
        graph_of(tmp_path, *f"benchmarks.{assignments}".split())
    assert len(caught.value.problems) == 1 and message in str(caught.value.problems[0])
    assert "\n" not in str(caught.value.problems[0])


def test_arrow_folders_are_known_by_their_content(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"goal": f"g{i}", "sol1": "a", "sol2": "b", "label": i % 2} for i in range(3)]
    name = "piqa/plain_text/validation/data-00000-of-00001.arrow"
    for folder, some in (("one", rows), ("two", rows), ("three", rows[:2])):
        write_arrow(tmp_path / folder / "hf_datasets" / name, some)
    folders = [f"benchmarks.olmo={folder}" for folder in ("one", "two", "three")]
    graphs = [graph_of(tmp_path, "benchmarks.tasks=olmo_piqa", folder) for folder in folders]
    assert list(graphs[0]) == list(graphs[1]) != list(graphs[2])
    stage = next(iter(of_kind(graphs[0], "benchmark").values()))
    assert [file.name for file in stage.config.tasks.files] == [name]
    assert stage.where == {name: str((tmp_path / "one" / "hf_datasets" / name).resolve())}


def test_mmlu_s_examples_are_read_only_where_they_are_wanted(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"subject": "law", "question": "q", "choices": ["a", "b"], "answer": 0}
    for name in ("mmlu_test.jsonl", "mmlu_dev.jsonl"):
        write_rows(tmp_path / "files" / name, [row])
    told = ("benchmarks.tasks=[local_mmlu]", "benchmarks.path=files")
    none, both = graph_of(tmp_path, *told), graph_of(tmp_path, *told, "benchmarks.num_fewshot=[0, 5]")
    asked = [stage.config.tasks for stage in of_kind(both, "benchmark").values()]
    read = {tasks.num_fewshot: [file.name for file in tasks.files] for tasks in asked}
    assert read == {0: ["mmlu_test.jsonl"], 5: ["mmlu_dev.jsonl", "mmlu_test.jsonl"]}
    plain = {stage_id.rpartition("-")[2] for stage_id in none if stage_id.startswith("benchmark")}
    assert plain < {stage_id.rpartition("-")[2] for stage_id in both}
    (tmp_path / "files" / "mmlu_dev.jsonl").unlink()
    with pytest.raises(StudyError, match=r"benchmarks.path: lacks mmlu_dev.jsonl"):
        graph_of(tmp_path, *told, "benchmarks.num_fewshot=5")
