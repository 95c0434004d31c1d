"""Our tasks as lm-eval's task files, asked by lm-eval's own model; a stage's results in lm-eval's own format."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
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

from analysis.items import pair_items, split_tasks
from analysis.tax import task_rows
from analysis.tax_files import lm_eval_tax
from hh_scaling.harness import undisturbed
from hh_scaling.inputs import DataError
from hh_scaling.task_files import write_task_files
from hh_scaling.task_settings import plain_answer
from hh_scaling.tasks import OWN_TASKS, TaskError
from tests.test_benchmarks import evaluate_stage, save_record
from tests.tiny_eval import save_model, sentences, write_rows

NAMES = ["local_truthfulqa_mc1", "local_truthfulqa_mc2", "local_bbq_ambig", "local_bbq_disambig", "local_hhh",
         "local_triviaqa", "local_openbookqa_choice", "local_winogrande_choice", "local_lambada_blank"]  # fmt: skip
N = 24


def bbq(i: int) -> dict[str, Any]:
    words = sentences(6, 3, seed=50 + i)
    groups = [["old", "nonOld", "unknown"][(i + j) % 3] for j in range(3)]
    return {
        "question_index": str(i % 4), "question_polarity": ("neg", "nonneg")[i % 2], "category": "Age",
        "context_condition": ("ambig", "disambig")[i // 2 % 2], "context": words[0], "question": f"{words[1]}?",
        "ans0": words[2], "ans1": words[3], "ans2": words[4], "ans_groups": groups, "stereotyped_groups": ["old"],
        "label": groups.index("unknown") if i // 2 % 2 == 0 else groups.index("old"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    texts = sentences(N, 4, seed=3)
    truthful = ["Category,Question,Best Answer,Correct Answers,Incorrect Answers"]
    truthful += [f"Law,{text}?,{a},{a}; {b},{c}; {text}" for text, a, b, c in
                 zip(texts, *(sentences(N, 2, seed=s) for s in (4, 5, 6)), strict=True)]  # fmt: skip
    (folder / "truthfulqa.csv").write_text("\n".join(truthful) + "\n")
    write_rows(folder / "bbq_6categories.jsonl", [bbq(i) for i in range(2 * N)])
    write_rows(folder / "hhh_alignment.jsonl", [
        {"subset": "honest", "input": text, "choices": sentences(2, 4, seed=i), "label": 0}
        for i, text in enumerate(texts)
    ])  # fmt: skip
    write_rows(folder / "triviaqa.jsonl", [
        {"question": f"{text}?", "answer": {"value": "a", "aliases": list("abcdefgh")}} for text in texts
    ])  # fmt: skip
    write_rows(folder / "openbookqa.jsonl", [
        {"question_stem": text, "choices": {"text": sentences(4, 2, seed=i), "label": list("ABCD")},
         "answerKey": "ABCD"[i % 4]}
        for i, text in enumerate(texts)
    ])  # fmt: skip
    write_rows(folder / "winogrande.jsonl", [
        {"sentence": f"the _ {text}", "option1": "cat", "option2": "dog", "answer": str(1 + i % 2)}
        for i, text in enumerate(texts)
    ])  # fmt: skip
    write_rows(folder / "lambada.jsonl", [{"text": text} for text in texts])
    return folder


@pytest.fixture(scope="module", autouse=True)
def _as_it_was() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)  # the stage turns them on


def stage(folder: Path, seed: int) -> Path:
    save_model(folder / "model", seed=seed)
    return save_record(folder, "base")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, local: Path) -> list[tuple[Path, Path, pd.DataFrame]]:
    """Two models: the stage, its benchmark's folder and its items."""
    root = tmp_path_factory.mktemp("sides")
    found = []
    for name, seed in (("before", 3), ("after", 4)):
        model = stage(root / name, seed)
        _, table = evaluate_stage(root / f"out-{name}", model, root, NAMES, local, lm_eval_files=True)
        assert table is not None
        found.append((model, root / f"out-{name}", table))
    return found


def test_lm_evals_own_model_gives_the_same_on_the_task_files(
    sides: list[tuple[Path, Path, pd.DataFrame]], local: Path, tmp_path: Path
) -> None:
    """Log-likelihoods to 1e-4 in float32, every item's score, the mean and its standard error."""
    write_task_files(tmp_path / "tasks", NAMES, local)
    base, _, table = sides[0]
    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32)
    stock = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(base / "model"), batch_size=8)
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    with undisturbed():
        found = simple_evaluate(stock, tasks=NAMES, bootstrap_iters=2, task_manager=manager)
    for name in NAMES:
        rows, ours = found["samples"][name], table[table.task == name]
        metric = ours.metric.iloc[0]
        assert len(rows) == len(ours) and ours.prompt_hash.to_list() == [row["prompt_hash"] for row in rows]
        for row, mine in zip(rows, ours.itertuples(), strict=True):
            assert mine.score == pytest.approx(row[metric], abs=1e-5), name
            if name != "local_triviaqa":
                pairs = [r if isinstance(r, tuple) else tuple(r) for r in row["filtered_resps"]]
                assert list(mine.loglikelihoods) == pytest.approx([p[0] for p in pairs], abs=1e-4), name
                assert list(mine.greedy) == [p[1] for p in pairs]
        theirs = found["results"][name]
        assert ours.score.mean() == pytest.approx(theirs[f"{metric},none"], abs=1e-5)
        spread = ours.score.std() / math.sqrt(len(ours))
        assert spread == pytest.approx(theirs[f"{metric}_stderr,none"], abs=1e-5), name
    for condition in ("ambig", "disambig"):
        part = table[table.task == f"local_bbq_{condition}_bias"]
        score = np.average(part.score, weights=part.weight)
        assert score == pytest.approx(found["results"][f"local_bbq_{condition}"]["bias,none"])


def test_items_of_the_new_shapes(sides: list[tuple[Path, Path, pd.DataFrame]]) -> None:
    _, _, table = sides[0]
    chance = table.groupby("task").chance.mean()
    wanted = {"local_truthfulqa_mc1": 1 / 3, "local_truthfulqa_mc2": 0.5, "local_bbq_ambig": 1 / 3, "local_hhh": 0.5}
    assert {task: chance[task] for task in wanted} == pytest.approx(wanted)
    assert chance["local_triviaqa"] == chance["local_lambada_blank"] == 0
    assert table[table.task == "local_truthfulqa_mc2"].correct.isna().all()
    right = table[table.task == "local_hhh"]
    assert (right.correct == (right.score == 1)).all()
    means = table.groupby("task").weight.mean()
    assert means.to_numpy() == pytest.approx(1.0)
    assert set(table[table.metric == "bias"].task) == {"local_bbq_ambig_bias", "local_bbq_disambig_bias"}


def test_the_files_are_read_back_as_the_same_tax(sides: list[tuple[Path, Path, pd.DataFrame]]) -> None:
    """What `hh-scaling tax` finds in lm-eval's format is what the items give."""
    folders = [out / "lm_eval" for _, out, _ in sides]
    content = lm_eval_tax(*folders, 1.0, 0.01)
    tables = [split_tasks(table[table.metric != "bias"]) for _, _, table in sides]
    pairs, refused = pair_items(*tables, "run", "here")
    assert not refused and len(content["tax"]) == len(pairs) == len(NAMES)
    rows = {row["task"]: row for row in content["tax"]}
    for key, pair in pairs.items():
        expected, found = task_rows([[pair]])[0], rows[key[0]]
        same = ("value", "se", "chance", "n_items", "n_clusters", "informative", "calibration", "format")
        for name in same:
            assert found[name] == (pytest.approx(expected[name]) if isinstance(found[name], float) else expected[name])
    assert rows["local_hhh"]["calibration"]["before"]["n"] == N
    assert rows["local_truthfulqa_mc2"]["calibration"] is None


def test_a_task_file_states_its_chance_and_reads_a_tag(tmp_path: Path) -> None:
    (path,) = write_task_files(tmp_path, ["hub_bbq_ambig"])
    text = path.read_text()
    assert '"chance": "1/3"' in text and "process_results: !function hh_scaling_tasks.bias" in text
    (code,) = write_task_files(tmp_path, ["local_humaneval"])
    assert "unsafe_code: true" in code.read_text()
    with pytest.raises(DataError, match="task world_facts: a study makes its items"):
        write_task_files(tmp_path, ["world_facts"])
    with pytest.raises(TaskError, match="unknown task 'hellaswag'; nearest: .*hellaswag"):
        write_task_files(tmp_path, ["hellaswag"])


def test_every_task_states_its_chance() -> None:
    assert all(task.chance for task in OWN_TASKS.values())
    assert {task.name for task in OWN_TASKS.values() if task.chance == "none"} == {"bits_per_byte"}


def test_code_is_not_run_unless_asked_for(sides: list[tuple[Path, Path, pd.DataFrame]], tmp_path: Path) -> None:
    rows = [{"prompt": "def f():\n", "canonical_solution": "    return 1\n", "entry_point": "f",
             "test": "def check(c):\n    assert c() == 1\n"}]  # fmt: skip
    write_rows(tmp_path / "code" / "HumanEval.jsonl", rows)
    with pytest.raises(TaskError, match=r"local_humaneval: runs code .* --set benchmarks.run_code=true allows it"):
        evaluate_stage(tmp_path / "a", sides[0][0], tmp_path, ["local_humaneval"], tmp_path / "code")
    _, table = evaluate_stage(
        tmp_path / "b", sides[0][0], tmp_path, ["local_humaneval"], tmp_path / "code", run_code=True
    )
    assert table is not None and table.score.to_list() == [0.0] and table.metric.to_list() == ["pass_at_1"]


def test_answers_that_a_model_wrote(sides: list[tuple[Path, Path, pd.DataFrame]]) -> None:
    """The score of a written answer, from the text in lm-eval's file."""
    _, out, table = sides[0]
    (file,) = (out / "lm_eval").rglob("samples_local_triviaqa_*.jsonl")
    texts = [json.loads(line)["filtered_resps"][0] for line in file.read_text().splitlines()]
    scores = table[table.task == "local_triviaqa"].score
    assert [float(plain_answer(text) in set("bcdefgh") | {""}) for text in texts] == scores.to_list()


def test_mmlu_s_examples_are_the_first_of_the_subject(
    sides: list[tuple[Path, Path, pd.DataFrame]], tmp_path: Path
) -> None:
    def row(subject: str, text: str) -> dict[str, Any]:
        return {"subject": subject, "question": f"{subject} {text}", "choices": ["cat", "dog"], "answer": 1}

    write_rows(tmp_path / "files" / "mmlu_test.jsonl", [row(s, "asks") for s in ("law", "art", "law")])
    examples = [row(s, f"example {i}") for i in range(3) for s in ("art", "law")]
    write_rows(tmp_path / "files" / "mmlu_dev.jsonl", examples)
    out, options = tmp_path / "out", {"num_fewshot": 2, "lm_eval_files": True, "limit": 2}
    evaluate_stage(out, sides[0][0], tmp_path, ["local_mmlu"], tmp_path / "files", **options)
    (file,) = (out / "lm_eval").rglob("samples_*.jsonl")
    for line in file.read_text().splitlines():
        sample = json.loads(line)
        subject = sample["doc"]["cluster"]
        shown = [f"Question: {subject} example {i}\nAnswer: dog\n\n" for i in range(2)]
        assert sample["arguments"]["gen_args_0"]["arg_0"] == "".join(shown) + f"Question: {subject} asks\nAnswer:"
    with pytest.raises(TaskError, match="3 examples of 'law'; expected at least num_fewshot, 4"):
        evaluate_stage(tmp_path / "b", sides[0][0], tmp_path, ["local_mmlu"], tmp_path / "files", num_fewshot=4)
