"""Probes: what a file's rows become, what a preference model writes about them, and who is asked in a study."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hh_scaling import models
from hh_scaling.configs import PMConfig, PMTraining
from hh_scaling.inputs import DataError, input_file
from hh_scaling.probes import COLUMNS, probe_name, prompt_of, read_probe
from hh_scaling.records import StageWriter
from hh_scaling.stages import KINDS, StageContext, StageResult
from sweeps.check import load_study
from sweeps.graph import expand
from sweeps.load import StudyError
from sweeps.stage import Graph
from tests.tiny import COMPUTE, SIZE

ASK, REPLY = "\n\nHuman: ", "\n\nAssistant:"


def write(path: Path, *rows: dict[str, Any]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def question(text: str, *choices: str, label: int = 0, **more: str) -> dict[str, Any]:
    return {"input": text, "choices": list(choices), "label": label, **more}


# ---------------------------------------------------------------- reading


def test_transcripts_and_choices_give_the_same_comparison(tmp_path: Path) -> None:
    pair = {"chosen": f"{ASK}Hi?{REPLY} Hello.", "rejected": f"{ASK}Hi?{REPLY} Go away."}
    path = write(tmp_path / "a.jsonl", pair, question("Hi?", "Go away.", "Hello.", label=1, subset="kind"))
    probe = read_probe(path)
    assert probe.name == "a" and probe.dropped == {} and tuple(probe.comparisons) == COLUMNS
    first, second = probe.comparisons.to_dict("records")
    assert (first["row"], first["category"], second["row"], second["category"]) == (1, "", 2, "kind")
    same = {"prompt": f"{ASK}Hi?{REPLY}", "chosen": " Hello.", "rejected": " Go away."}
    assert all({key: row[key] for key in same} == same for row in (first, second))
    assert first["conversation"] == second["conversation"]


def test_the_right_choice_is_paired_with_every_other(tmp_path: Path) -> None:
    rows = read_probe(write(tmp_path / "a.jsonl", question("Q", "a", "b", "right", "d", label=2))).comparisons
    assert list(rows.chosen) == [" right"] * 3 and list(rows.rejected) == [" a", " b", " d"]
    assert set(rows.row) == {1} and rows.conversation.nunique() == 1


def test_rows_of_one_question_are_one_cluster(tmp_path: Path) -> None:
    """The first Human turn decides: not case or spacing, not what follows in the dialogue."""
    follow_up = f"what now?{REPLY} This.\n\nHuman: And then?"
    texts = ("What now?", "what  NOW?", follow_up, "What else?")
    rows = read_probe(write(tmp_path / "a.jsonl", *(question(text, "a", "b") for text in texts))).comparisons
    assert list(pd.factorize(rows.conversation)[0]) == [0, 0, 0, 1]
    assert rows.prompt[2] == f"{ASK}{follow_up}{REPLY}"


def test_category_wins_over_subset_and_all_says_nothing(tmp_path: Path) -> None:
    labels = ({"category": "x", "subset": "y"}, {"subset": "y"}, {"subset": "all"}, {"category": None}, {})
    rows = read_probe(write(tmp_path / "a.jsonl", *(question("Q", "a", "b", **more) for more in labels))).comparisons
    assert list(rows.category) == ["x", "y", "", "", ""]


@pytest.mark.parametrize(
    "text, prompt",
    [
        ("Q", f"{ASK}Q{REPLY}"),
        (" Q\n", f"{ASK}Q{REPLY}"),
        (f"{ASK}Q", f"{ASK}Q{REPLY}"),
        (f"Human: Q{REPLY}", f"{ASK}Q{REPLY}"),
    ],
)
def test_prompts_ask_for_a_reply(text: str, prompt: str) -> None:
    assert prompt_of(text, "here") == prompt


def test_what_is_no_comparison_is_counted(tmp_path: Path) -> None:
    good = question("Q", "a", "b")
    open_end = question("Q", "a\n\nHuman: and?", "b")
    probe = read_probe(write(tmp_path / "a.jsonl", good, question("Q", "a", "a "), open_end))
    assert len(probe.comparisons) == 1 and probe.dropped == {"equal_responses": 1, "ends_with_human": 1}
    with pytest.raises(DataError, match="no comparison is left"):
        read_probe(write(tmp_path / "b.jsonl", open_end))


PAIR = {"chosen": f"{ASK}Q{REPLY} a", "rejected": f"{ASK}Q{REPLY} b"}


@pytest.mark.parametrize(
    "row, words",
    [
        ({"text": "x"}, "has 'text'; expected 'chosen' and 'rejected', or 'input', 'choices' and 'label'"),
        ({"chosen": PAIR["chosen"]}, "no key 'rejected'"),
        (PAIR | {"rejected": 3}, "'rejected' is of type number"),
        (PAIR | {"chosen": "Q and A"}, "'chosen' starts with 'Q and A'"),
        (PAIR | {"category": 3}, "'category' is of type number"),
        (question("", "a", "b"), "'input' is blank"),
        (question(f"Q{REPLY} A", "a", "b"), "'input' ends with an Assistant turn"),
        (question("Q", "a"), "'choices' is a list of 1"),
        (question("Q", "a", " "), "choice 1 is blank"),
        (question("Q", "a", "b", label=2), "'label' is 2; expected the right choice's place, 0 to 1"),
        (question("Q", "a", "b") | {"label": True}, "'label' is True"),
        (question("Q", "a", "b") | {"choices": "ab"}, "'choices' is of type string"),
        (question("\ud800", "a", "b"), "not valid Unicode"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "a.jsonl", question("Q", "a", "b"), row)
    with pytest.raises(DataError) as caught:
        read_probe(path)
    assert str(caught.value).startswith(f"{path}:2: ") and words in str(caught.value)


def test_a_probe_is_called_by_its_plain_stem(tmp_path: Path) -> None:
    assert probe_name("sub/hhh_alignment.jsonl.gz") == probe_name("hhh_alignment.jsonl") == "hhh_alignment"
    path = tmp_path / "hhh.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(question("Q", "a", "b")).encode()))
    assert read_probe(path).name == "hhh"


def test_the_hhh_comparisons_are_read_whole(real_data: Path) -> None:
    """221 comparisons, as BIG-bench counts them by subset, about a hundred questions."""
    probe = read_probe(real_data / "benchmarks" / "hhh_alignment.jsonl.gz")
    assert probe.dropped == {} and len(probe.comparisons) == 221
    counts = {"harmless": 58, "helpful": 59, "honest": 61, "other": 43}
    assert probe.comparisons.category.value_counts().to_dict() == counts
    assert 90 < probe.comparisons.conversation.nunique() < 110


# ---------------------------------------------------------------- the stage


def judge(
    files: list[Path], parents: dict[str, Path], out: Path, names: dict[str, str] | None = None
) -> tuple[StageResult, PMConfig]:
    """A short PM stage with these files as probes."""
    out.mkdir()
    training = PMTraining(max_length=48, batch_size=16)
    probes = tuple(input_file(path) for path in files)
    config = PMConfig(
        size=SIZE, seed=0, half="train", n_comparisons=64, training=training, compute=COMPUTE, probes=probes
    )
    where = names or {path.name: str(path) for path in files}
    return KINDS["pm"].load()(config, StageContext(parents, StageWriter(out), where)), config


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("probes")
    rows = [question(f"tell me {w}?", "good good sun", "bad", label=0, subset="short") for w in ("cat", "dog", "cat")]
    long = question("tell me " + "moon " * 60 + "?", "bad rat", "good", "good good", subset="long")
    pair = {"chosen": f"{ASK}tell me fish?{REPLY} good", "rejected": f"{ASK}tell me fish?{REPLY} bad bad"}
    return [write(folder / "own.jsonl", *rows, long), write(folder / "pairs.jsonl", pair)]


@pytest.fixture(scope="module")
def judged(
    files: list[Path], tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, StageResult]:
    out = tmp_path_factory.mktemp("judged") / "pm"
    return out, judge(files, tiny_stages, out)[0]


def test_scores_are_those_of_transformers(judged: tuple[Path, StageResult], files: list[Path]) -> None:
    """Each side alone through the saved model, its last 48 tokens: the same scores to 1e-4 (float32)."""
    table = pd.read_parquet(judged[0] / "probes.parquet")
    measured = ["score_chosen", "score_rejected", "length_chosen", "length_rejected"]
    assert list(table) == ["probe", "row", "category", "conversation", *measured]
    assert list(table.probe) == ["own"] * 5 + ["pairs"] and list(table.row) == [1, 2, 3, 4, 4, 1]
    model = AutoModelForSequenceClassification.from_pretrained(judged[0] / "model", dtype=torch.float32)
    tokenizer = models.load_tokenizer(judged[0])
    rows = pd.concat([read_probe(path).comparisons for path in files]).reset_index(drop=True)
    for side in ("chosen", "rejected"):
        for i in (0, 1, 5):  # the others are cut to what both sides need
            ids = tokenizer(rows.prompt[i] + rows[side][i] + tokenizer.eos_token)["input_ids"]
            assert len(ids) < 48
            with torch.no_grad():
                theirs = model(input_ids=torch.tensor([ids])).logits[0, 0].item()
            assert table[f"score_{side}"][i] == pytest.approx(theirs, abs=1e-4)
    assert list(table.length_chosen) == [14, 14, 14, 8, 8, 5]
    assert table.conversation.nunique() == 4 and table.conversation[0] == table.conversation[2]


def test_the_summary_says_what_each_came_to(judged: tuple[Path, StageResult]) -> None:
    table, summary = pd.read_parquet(judged[0] / "probes.parquet"), judged[1].summary["probes"]
    assert set(summary) == {"own", "pairs"}
    assert summary["own"]["filled"] == 2 and summary["pairs"]["filled"] == 0 and summary["own"]["dropped"] == {}
    own = table[table.probe == "own"]
    assert summary["own"]["accuracy"]["value"] == np.mean(own.score_chosen > own.score_rejected)
    assert summary["pairs"]["accuracy"]["se"] is None  # one conversation


def test_probes_change_neither_the_model_nor_its_held_out_scores(
    judged: tuple[Path, StageResult], tiny_stages: dict[str, Path], tmp_path: Path
) -> None:
    result, config = judge([], tiny_stages, tmp_path / "pm")
    assert "probes" not in config.model_dump(mode="json") and "probes" not in result.summary
    assert not (tmp_path / "pm" / "probes.parquet").exists()
    ours, theirs = (pd.read_parquet(folder / "scores.parquet") for folder in (tmp_path / "pm", judged[0]))
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_changed_file_is_refused_before_training(
    files: list[Path], tiny_stages: dict[str, Path], tmp_path: Path
) -> None:
    other = write(tmp_path / "pairs.jsonl", question("Q", "a", "b"))
    with pytest.raises(DataError, match="changed since the study was planned"):
        judge([files[1]], tiny_stages, tmp_path / "pm", {"pairs.jsonl": str(other)})
    assert not (tmp_path / "pm" / "metrics.jsonl").exists()


# ---------------------------------------------------------------- studies

STUDY = """
world: {n_comparisons: 4k}
seeds: [0, 1]
sizes: [27k]
pm: {n_comparisons: [256, 1024], harmless_weight: [2], rate_factor: [1, 2]}
ppo: null
"""


def graph_of(folder: Path, *assignments: str) -> Graph:
    path = folder / "study.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return expand(load_study(str(path), assignments))


def test_only_the_main_train_half_of_the_largest_number_is_asked(tmp_path: Path) -> None:
    write(tmp_path / "probe.jsonl", question("Q", "a", "b"))
    plain, asked = graph_of(tmp_path), graph_of(tmp_path, f"pm.probes={tmp_path / 'probe.jsonl'}")
    changed = [stage for name, stage in asked.items() if name not in plain]
    assert len(changed) == len([name for name in plain if name not in asked]) == 2  # a seed each
    for stage in changed:
        assert isinstance(stage.config, PMConfig)
        assert (stage.config.half, stage.config.n_comparisons) == ("train", 1024)
        assert (stage.config.harmless_weight, stage.config.training.schedule.rate_factor) == (1, 1)
        assert [file.name for file in stage.config.probes] == ["probe.jsonl"]
        assert stage.where == {"probe.jsonl": str(tmp_path / "probe.jsonl")}


def test_content_decides_the_id_and_not_the_place(tmp_path: Path) -> None:
    ids = []
    for folder, reply in (("a", "a"), ("b", "a"), ("c", "c")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "probe.jsonl", question("Q", reply, "b"))
        ids.append(set(graph_of(tmp_path, f"pm.probes=[{tmp_path / folder}]")))
    assert ids[0] == ids[1] != ids[2]


def test_missing_and_bad_files_are_problems_of_the_study(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for path in (tmp_path / "good.jsonl", tmp_path / "x" / "good.jsonl"):
        write(path, question("Q", "a", "b"))
    write(tmp_path / "bad.jsonl", question("Q", "a", "b"), {"text": "x"})
    for value, words in (
        ("none.jsonl", "no such file or folder"),
        ("bad.jsonl", "bad.jsonl:2: has 'text'"),
        ("[good.jsonl, x/good.jsonl]", "two files are called good"),
    ):
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.replace("harmless_weight", f"probes: {value}, harmless_weight"), encoding="utf-8")
        with pytest.raises(StudyError) as caught:
            expand(load_study(str(path)))
        assert any(": pm.probes: " in str(p) and words in str(p) for p in caught.value.problems), value
