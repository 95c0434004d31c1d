"""The benchmark stage: scores against lm-eval's own evaluation of the same files, subsets, bad input, checkpoints."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from hh_scaling import harness
from hh_scaling.benchmarks import run
from hh_scaling.configs import BenchmarkConfig, BenchmarkTasks, Compute, SizeSpec
from hh_scaling.harness import undisturbed
from hh_scaling.inputs import input_file
from hh_scaling.records import NonFiniteError, Record, StageWriter, write_json
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.tasks import OWN_TASKS, TaskError, needed_files, read_documents
from tests.tiny_eval import WORDS, items, save_model, sentences, write_rows

MODEL_ENTRY = {"name": "tiny", "n_params": 1, "n_params_total": 2}
ITEM_COLUMNS = [
    "task", "format", "k_shot", "metric", "higher_is_better", "chance", "doc_id", "doc_hash", "prompt_hash", "cluster",
    "score", "weight", "loglikelihoods", "greedy", "correct",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)  # the stage turns them on


def save_record(stage: Path, kind: str) -> Path:
    write_json(stage / "record.json", asdict(Record(stage.name, kind, "done", {}, {}, summary={"model": MODEL_ENTRY})))
    return stage


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = tmp_path_factory.mktemp("base")
    save_model(stage / "model", seed=3)
    return save_record(stage, "base")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = tmp_path_factory.mktemp("ppo")
    save_model(stage / "model", seed=4)
    save_model(stage / "checkpoints" / "near", seed=5)
    end = {"name": "end", "step": 9, "sqrt_kl": 2.0, "path": "model"}
    write_json(stage / "checkpoints.json", [{"name": "sqrt_kl=1.0", "sqrt_kl": 1.1, "path": "checkpoints/near"}, end])
    return save_record(stage, "ppo")


ARC = [{"query": f"Question: {text}?", "choices": sentences(4, 2, seed=i), "gold": i % 4}
       for i, text in enumerate(sentences(40, 5, seed=9))]  # fmt: skip
BLIMP = [
    {"sentence_good": f"{text} {WORDS[i % 7]}", "sentence_bad": f"{text} {WORDS[i % 9 + 8]}", "UID": f"kind {i % 5}"}
    for i, text in enumerate(sentences(40, 5, seed=10))
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = tmp_path_factory.mktemp("data")
    write_rows(stage / "tasks" / "world_facts.jsonl", items(30, seed=1))
    texts = [" ".join(sentences(1 + i % 4, 20, seed=i)) for i in range(12)]
    write_rows(stage / "text" / "held_out.jsonl", [{"text": text} for text in texts])
    return stage


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_rows(folder / "arc_easy.jsonl.gz", ARC)
    write_rows(folder / "blimp.jsonl", BLIMP)
    write_rows(folder / "lambada.jsonl", [{"text": text} for text in sentences(30, 9, seed=11)])
    winogrande = [{"sentence": f"the _ {text}", "option1": "cat", "option2": "dog", "answer": str(1 + i % 2)}
                  for i, text in enumerate(sentences(20, 4, seed=12))]  # fmt: skip
    write_rows(folder / "winogrande.jsonl", winogrande)
    return folder


def evaluate_stage(
    out: Path,
    model: Path,
    data: Path,
    tasks: Sequence[str],
    local: Path | None = None,
    at: str | None = None,
    **options: Any,
) -> tuple[StageResult, pd.DataFrame | None]:  # fmt: skip
    """The stage's result and its items, if it wrote any."""
    paths = sorted(local.iterdir()) if local else []
    out.mkdir(parents=True, exist_ok=True)
    asked = BenchmarkTasks(tasks=tuple(tasks), files=tuple(map(input_file, paths)), **options)
    size = SizeSpec(name="tiny", n_params=1000)
    config = BenchmarkConfig(size=size, seed=0, at=at, tasks=asked, compute=Compute(micro_batch_tokens=512))
    writer = StageWriter(out)
    result = run(config, StageContext({"model": model, "data": data}, writer, {path.name: str(path) for path in paths}))
    table = pd.read_parquet(out / "items.parquet") if (out / "items.parquet").is_file() else None
    if table is not None:
        assert writer.tokens > 0 and writer.flops > 0
    return result, table


ALL = ["world_facts", "bits_per_byte", "local_arc_easy", "local_arc_easy_choice", "local_blimp", "local_lambada",
       "local_winogrande"]  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path, local: Path
) -> tuple[StageResult, pd.DataFrame]:
    result, table = evaluate_stage(tmp_path_factory.mktemp("out"), base, data, ALL, local)
    assert table is not None
    return result, table


def test_items_and_summary(evaluated: tuple[StageResult, pd.DataFrame]) -> None:
    result, table = evaluated
    assert list(table.columns) == ITEM_COLUMNS
    assert list(table.task.unique()) == ALL
    assert dict(table.groupby("task").size())["world_facts"] == 30
    assert table.groupby("task").weight.mean().to_numpy() == pytest.approx(1.0)
    chance = table.groupby("task").chance.first()
    assert chance["world_facts"] == 0.25 and chance["local_blimp"] == 0.5 and chance["local_winogrande"] == 0.5
    assert chance["local_lambada"] == 0 and math.isnan(chance["bits_per_byte"])
    assert table[table.task == "local_blimp"].cluster.nunique() == 5
    assert table[table.task == "local_arc_easy"].cluster.nunique() == 40
    assert set(table[~table.higher_is_better].task) == {"bits_per_byte"}
    formats = table.groupby("task").format.first()
    assert (formats["local_arc_easy_choice"], formats["local_lambada"], formats["bits_per_byte"]) == (
        "choice", "generate", "loss")  # fmt: skip
    summary = result.summary
    assert summary["model"]["name"] == "tiny" and summary["model"]["n_params"] > 0
    assert (summary["at"], summary["at_sqrt_kl"], summary["not_reached"]) == (None, None, False)
    for entry in summary["scores"]:
        part = table[table.task == entry["task"]]
        assert entry["score"]["value"] == pytest.approx(np.average(part.score, weights=part.weight))
        assert entry["score"]["n"] == len(part)
        assert (entry["score"]["se"] > 0) == (part.score.nunique() > 1)
    assert summary["truncated"]["local_arc_easy_choice"] == 40  # the listed choices do not fit 64 tokens
    assert summary["truncated"]["bits_per_byte"] == 0 and summary["truncated"]["local_blimp"] == 0


def test_scores_equal_lm_evals(evaluated: tuple[StageResult, pd.DataFrame], base: Path, data: Path, local: Path,
                               tmp_path: Path) -> None:  # fmt: skip
    """lm-eval's own model and data loading, with templates written here, on the same files."""
    accuracy = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    bits = [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}]
    perplexity = [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}]
    lettered = " (A) {{choices[0]}}\n (B) {{choices[1]}}\n (C) {{choices[2]}}\n (D) {{choices[3]}}\n"
    answers = "{{['(A) ' + choices[0], '(B) ' + choices[1], '(C) ' + choices[2], '(D) ' + choices[3]]}}"
    arc, blank = local / "arc_easy.jsonl.gz", "sentence.split('_')"
    settings: dict[str, tuple[Path, dict[str, Any]]] = {
        "world_facts": (data / "tasks" / "world_facts.jsonl", {
            "doc_to_text": "query", "doc_to_choice": "choices", "doc_to_target": "gold", "target_delimiter": ""}),
        "local_arc_easy": (arc, {
            "doc_to_text": "{{query}}\nAnswer:", "doc_to_choice": "choices", "doc_to_target": "gold"}),
        "local_arc_easy_choice": (arc, {
            "doc_to_text": "{{query}}\nChoices:\n" + lettered + "Answer:", "doc_to_choice": answers,
            "doc_to_target": "gold"}),
        "local_blimp": (local / "blimp.jsonl", {
            "doc_to_text": "", "doc_to_choice": "{{[sentence_good, sentence_bad]}}", "doc_to_target": 0,
            "target_delimiter": ""}),
        "local_winogrande": (local / "winogrande.jsonl", {
            "doc_to_text": "{{answer | int - 1}}", "doc_to_target": "{{" + blank + "[1].strip()}}",
            "doc_to_choice": "{{[" + blank + "[0] + option1, " + blank + "[0] + option2]}}"}),
        "local_lambada": (local / "lambada.jsonl", {
            "output_type": "loglikelihood", "doc_to_text": "{{text.split(' ')[:-1] | join(' ')}}",
            "doc_to_target": "{{' ' + text.split(' ')[-1]}}", "metric_list": accuracy + perplexity}),
        "bits_per_byte": (data / "text" / "held_out.jsonl", {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text", "metric_list": bits}),
    }  # fmt: skip
    tasks = [
        {"task": name, "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
         "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(tmp_path)}, "metric_list": accuracy}
        | extra
        for name, (path, extra) in settings.items()
    ]  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32)
    stock = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(base / "model"), batch_size=8)
    with undisturbed():
        found = simple_evaluate(stock, tasks=tasks, bootstrap_iters=0, task_manager=TaskManager(include_defaults=False))
    result, table = evaluated
    for entry in result.summary["scores"]:
        name = entry["task"]
        metric = "bits_per_byte,none" if name == "bits_per_byte" else "acc,none"
        theirs = found["results"][name]
        assert entry["score"]["value"] == pytest.approx(theirs[metric], abs=1e-6), name  # the same items right
        rows = sorted(found["samples"][name], key=lambda row: row["doc_id"])
        ours = table[table.task == name].sort_values("doc_id")
        for row, mine in zip(rows, ours.loglikelihoods, strict=True):
            both = [r[0] if isinstance(r, tuple) else r for r in row["filtered_resps"]]
            assert sorted(mine) == pytest.approx(sorted(both), abs=1e-4), name  # float32; BLiMP's order is ours
    assert result.summary["perplexity"]["local_lambada"]["value"] == pytest.approx(
        found["results"]["local_lambada"]["perplexity,none"], rel=1e-4
    )


def test_every_model_gets_the_same_items_and_prompts(base: Path, policy: Path, data: Path, local: Path,
                                                     tmp_path: Path) -> None:  # fmt: skip
    tasks = ["local_arc_easy", "local_arc_easy_choice", "world_facts", "local_blimp"]
    options: dict[str, Any] = {"limit": 10, "num_fewshot": 2, "seed": 5}
    _, one = evaluate_stage(tmp_path / "1", base, data, tasks, local, **options)
    _, other = evaluate_stage(tmp_path / "2", policy, data, tasks[::-1], local, at="end", **options)
    assert one is not None and other is not None
    same = ["task", "doc_id", "doc_hash", "prompt_hash", "cluster", "k_shot"]
    order = {"by": ["task", "doc_id"], "ignore_index": True}
    assert one[same].sort_values(**order).equals(other[same].sort_values(**order))
    assert (one.score != other.score).any()
    ids = one.groupby("task").doc_id.agg(list)
    assert ids["local_arc_easy"] == ids["local_arc_easy_choice"]  # one file, one subset
    assert one.groupby("task").k_shot.first().to_dict() == dict.fromkeys(tasks, 2) | {"local_blimp": 0}
    _, another = evaluate_stage(tmp_path / "3", base, data, tasks, local, **(options | {"num_fewshot": 1}))
    assert another is not None
    few_shot = one.task != "local_blimp"
    assert (one.prompt_hash[few_shot] != another.prompt_hash[few_shot]).all() and (one.doc_id == another.doc_id).all()


def test_a_policys_checkpoints(policy: Path, data: Path, tmp_path: Path) -> None:
    results = {
        at: evaluate_stage(tmp_path / str(i), policy, data, ["world_facts"], at=at)
        for i, at in enumerate(["end", "sqrt_kl=1.0", None, "sqrt_kl=3.0"])
    }
    assert results["end"][0].summary["at_sqrt_kl"] == 2.0 and results["sqrt_kl=1.0"][0].summary["at_sqrt_kl"] == 1.1
    end, near, plain, never = (table for _, table in results.values())
    assert end is not None and near is not None and plain is not None
    lls = [np.concatenate(table.loglikelihoods.to_list()) for table in (end, near, plain)]
    assert (lls[0] == lls[2]).all() and (lls[0] != lls[1]).all()
    summary = results["sqrt_kl=3.0"][0].summary
    assert never is None and summary["not_reached"] and summary["scores"] == []
    assert summary["model"] == MODEL_ENTRY and results["sqrt_kl=3.0"][0].status == "done"


def test_a_base_has_no_checkpoints(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="at='end' names a policy's checkpoint"):
        evaluate_stage(tmp_path, base, data, ["world_facts"], at="end")


def test_nan_names_task_and_item(base: Path, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[5:] = float("nan")
    model.save_pretrained(broken / "model")
    AutoTokenizer.from_pretrained(base / "model").save_pretrained(broken / "model")
    with pytest.raises(NonFiniteError, match="task world_facts, item 0 is not finite"):
        evaluate_stage(tmp_path / "out", broken, data, ["world_facts"])


def test_examples_never_show_the_item_itself(data: Path) -> None:
    task = OWN_TASKS["world_facts"]
    docs = read_documents(task, (), {}, data)
    for limit in (None, 10):  # from the other items asked; from those not asked
        with undisturbed():
            (leaf,) = harness.own_question(task, docs, BenchmarkTasks(limit=limit, num_fewshot=3)).leaves
            leaf.task.build_all_requests()
        for instance in leaf.task.instances:
            context, own = instance.args[0], instance.doc
            assert context.endswith(own["query"]) and context.count("\n\n") == 3
            assert own["query"] + own["choices"][own["gold"]] not in context


def test_random_states_are_put_back(base: Path, data: Path, tmp_path: Path) -> None:
    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # noqa: NPY002

    before = states()
    evaluate_stage(tmp_path, base, data, ["world_facts", "bits_per_byte"], limit=5, num_fewshot=1)
    assert states() == before


# ---------------------------------------------------------------- bad input


def test_missing_files(base: Path, data: Path, local: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no piqa.jsonl among benchmarks.path \(arc_easy.jsonl.gz, blimp"):
        evaluate_stage(tmp_path, base, data, ["local_piqa"], local)
    with pytest.raises(TaskError, match="no tasks/world_arithmetic.jsonl; expected the embedded world"):
        evaluate_stage(tmp_path, base, data, ["world_arithmetic"])
    write_rows(tmp_path / "empty" / "text" / "held_out.jsonl", [])
    with pytest.raises(TaskError, match="no text/held_out.jsonl; expected held-out text"):
        evaluate_stage(tmp_path, base, tmp_path / "empty", ["bits_per_byte"])
    assert needed_files(["local_arc_easy_choice", "world_facts", "arc_easy"]) == {"arc_easy.jsonl"}


def test_too_few_items_for_the_examples(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="30 items are too few for 30 examples"):
        evaluate_stage(tmp_path, base, data, ["world_facts"], num_fewshot=30)


# ---------------------------------------------------------------- lm-eval's own tasks


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    """An index of three small tasks in place of lm-eval's thousands: two local ones in a group, one on the hub."""
    rows = [{k: row[k] for k in ("query", "choices", "gold")} for row in items(12, seed=2)]
    for name in ("first", "second"):
        path = write_rows(tmp_path / f"{name}.jsonl", rows if name == "first" else rows[:6])
        (tmp_path / f"{name}.yaml").write_text(
            f"task: tiny_{name}\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
            f"dataset_kwargs:\n  cache_dir: {tmp_path / 'cache'}\n  data_files:\n    test: {path}\n"
            "doc_to_text: query\ndoc_to_choice: choices\ndoc_to_target: gold\ntarget_delimiter: ''\n"
            "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
        )
    (tmp_path / "group.yaml").write_text("group: tiny_group\ntask:\n  - tiny_first\n  - tiny_second\n")
    (tmp_path / "hub.yaml").write_text(
        "task: tiny_hub\ndataset_path: nobody/has-this\noutput_type: multiple_choice\ntest_split: test\n"
        "doc_to_text: query\ndoc_to_choice: choices\ndoc_to_target: gold\n"
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr(harness, "task_manager", lambda: manager)
    return manager


def test_lm_evals_own_tasks_and_groups(registry: TaskManager, base: Path, data: Path, tmp_path: Path) -> None:
    result, table = evaluate_stage(tmp_path / "all", base, data, ["tiny_group", "tiny_first"])
    assert table is not None
    group, single = table[table.task == "tiny_group"], table[table.task == "tiny_first"]
    assert group.groupby("cluster").size().to_dict() == {"tiny_first": 12, "tiny_second": 6}
    assert sorted(group.doc_id) == list(range(18))
    assert group.score[:12].to_list() == single.score.to_list() and (table.chance == 0.25).all()
    assert [entry["task"] for entry in result.summary["scores"]] == ["tiny_group", "tiny_first"]
    _, limited = evaluate_stage(tmp_path / "some", base, data, ["tiny_group"], limit=6, num_fewshot=1)
    assert limited is not None
    assert limited.groupby("cluster").size().to_dict() == {"tiny_first": 4, "tiny_second": 2}
    assert set(zip(limited.doc_id, limited.doc_hash, strict=True)) < set(zip(group.doc_id, group.doc_hash, strict=True))


def test_tasks_that_cannot_be_had(registry: TaskManager, base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="unknown task 'tiny_frist'; nearest: tiny_first "):
        evaluate_stage(tmp_path / "a", base, data, ["tiny_frist"])
    with pytest.raises(TaskError, match="task tiny_hub: its data cannot be had") as caught:
        evaluate_stage(tmp_path / "b", base, data, ["tiny_hub"])
    assert "\n" not in str(caught.value)
