"""Scores of files by our own and by foreign preference models, and the bench of PM training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from typer.testing import CliRunner

from hh_scaling import models
from hh_scaling.bench_pm import bench_pm, read_pairs
from hh_scaling.cli import app
from hh_scaling.configs import Compute, PMConfig, PMTraining
from hh_scaling.inputs import DataError
from hh_scaling.models import ModelError
from hh_scaling.score import messages_of, score_file
from tests.tiny import COMPUTE, SIZE, run_stage

TRANSCRIPT = "\n\nHuman: tell me cat?\n\nAssistant: good cat\n\nHuman: and dog?\n\nAssistant: bad dog"
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def pm_stage(tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pm")
    config = PMConfig(
        size=SIZE, seed=0, half="train", n_comparisons=64, training=PMTraining(max_length=96), compute=COMPUTE
    )
    run_stage("pm", config, tiny_stages, out)
    (out / "record.json").write_text(json.dumps({"kind": "pm"}))
    return out


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def foreign(folder: Path, pm_stage: Path, n_labels: int = 1, template: str | None = None) -> Path:
    """A random GPT-NeoX classifier with the stage's tokenizer: nothing here says that this project made it."""
    tokenizer = models.load_tokenizer(pm_stage)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=96, num_labels=n_labels, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("part", ["", "model"])
def test_own_scores_are_those_of_the_stage(
    pm_stage: Path, tiny_stages: dict[str, Path], tmp_path: Path, part: str
) -> None:
    """The stage's folder or its model folder: scores.parquet again, in float32."""
    rows = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet").query("split == 'held_out'")
    texts = [
        {"chosen": p + c, "rejected": p + r} for p, c, r in zip(rows.prompt, rows.chosen, rows.rejected, strict=True)
    ]
    found = score_file(str(pm_stage / part), write_rows(tmp_path / "rows.jsonl", texts), COMPUTE)
    stage = pd.read_parquet(pm_stage / "scores.parquet")
    for side in ("score_chosen", "score_rejected"):
        np.testing.assert_allclose([row[side] for row in found["rows"]], stage[side], rtol=0, atol=1e-4)
    # Scores differ by rounding, which may decide one tie otherwise: one comparison.
    accuracy = ((stage.score_chosen > stage.score_rejected) + 0.5 * (stage.score_chosen == stage.score_rejected)).mean()
    assert found["summary"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1 / len(stage))


def test_own_scores_are_those_of_the_stage_where_texts_are_cut(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """A PM of 24 tokens on longer transcripts, in the stage's folder and copied without its record: the same cuts."""
    stage = tmp_path / "pm"
    stage.mkdir()
    short = PMTraining(max_length=24, batch_size=16)
    of = PMConfig(size=SIZE, seed=0, half="train", n_comparisons=64, training=short, compute=COMPUTE)
    run_stage("pm", of, tiny_stages, stage)
    rows = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet").query("split == 'held_out'")
    texts = [
        {"chosen": p + c, "rejected": p + r} for p, c, r in zip(rows.prompt, rows.chosen, rows.rejected, strict=True)
    ]
    file = write_rows(tmp_path / "rows.jsonl", texts)
    expected = pd.read_parquet(stage / "scores.parquet")
    copied = shutil.copytree(stage / "model", tmp_path / "copied")
    for pm in (stage / "model", copied):
        found = score_file(str(pm), file, COMPUTE)
        assert found["truncated"] > 0
        for side in ("score_chosen", "score_rejected"):
            np.testing.assert_allclose([row[side] for row in found["rows"]], expected[side], rtol=0, atol=1e-4)


def test_scores_that_are_no_numbers_are_named(pm_stage: Path, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "foreign", pm_stage)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="1 of 1 scores by the model are not finite"):
        score_file(str(folder), write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}]), COMPUTE)


def test_a_template_that_refuses_is_named_with_its_line(pm_stage: Path, tmp_path: Path) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    folder = foreign(tmp_path / "foreign", pm_stage, template=template)
    with pytest.raises(DataError, match=":1: the model's chat template refuses this text .roles must alternate"):
        score_file(str(folder), write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}]), COMPUTE)


def test_kinds_of_rows(pm_stage: Path, tmp_path: Path) -> None:
    """A transcript scores the same whole, in two parts, and as a side of a comparison."""
    cut = TRANSCRIPT.rindex(" bad")
    rows = [
        {"text": TRANSCRIPT},
        {"prompt": TRANSCRIPT[:cut], "response": TRANSCRIPT[cut:]},
        {"chosen": TRANSCRIPT, "rejected": TRANSCRIPT[:cut] + " good dog"},
    ]
    found = score_file(str(pm_stage), write_rows(tmp_path / "rows.jsonl", rows), COMPUTE)["rows"]
    assert found[0]["score"] == pytest.approx(found[1]["score"], abs=1e-5)
    assert found[0]["score"] == pytest.approx(found[2]["score_chosen"], abs=1e-5)
    assert [row["line"] for row in found] == [1, 2, 3]


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE])
def test_a_foreign_model_scores_by_its_own_forward_pass(pm_stage: Path, tmp_path: Path, template: str | None) -> None:
    folder = foreign(tmp_path / "foreign", pm_stage, template=template)
    found = score_file(
        str(folder), write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}, {"text": TRANSCRIPT[:60]}]), COMPUTE
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = models.load_tokenizer(pm_stage)
    plain = "<user>tell me cat?<assistant>good cat<user>and dog?<assistant>bad dog" if template else TRANSCRIPT
    alone = model(input_ids=torch.tensor([tokenizer(plain)["input_ids"]])).logits.item()
    assert found["rows"][0]["score"] == pytest.approx(alone, abs=1e-5)
    assert found["format"].startswith("chat template" if template else "transcript with the tokenizer's own marks")


def test_several_labels_are_refused(pm_stage: Path, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "foreign", pm_stage, n_labels=3)
    with pytest.raises(ModelError, match="3 labels, needed: one with a single score"):
        score_file(str(folder), write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}]), COMPUTE)


def test_a_language_model_is_no_preference_model(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """Elsewhere its weights say so, in its stage the record does."""
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}])
    model = tmp_path / "stage" / "model"
    shutil.copytree(tiny_stages["base"] / "model", model)
    with pytest.raises(ModelError, match=r"weights are missing, such as score\.weight|2 labels"):
        score_file(str(model), rows, COMPUTE)
    (model.parent / "record.json").write_text('{"kind": "base"}')
    with pytest.raises(ModelError, match="of a base stage; allowed: pm or pmp"):
        score_file(str(model), rows, COMPUTE)


@pytest.mark.parametrize(
    ("row", "said"), [({"a": 1}, ":1: has a; expected chosen and rejected"), ({"text": ""}, ":1: a text is empty")]
)
def test_bad_rows_are_named(pm_stage: Path, tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        score_file(str(pm_stage), write_rows(tmp_path / "rows.jsonl", [row]), COMPUTE)


def test_long_texts_lose_their_beginning_and_are_counted(pm_stage: Path, tmp_path: Path) -> None:
    rows = [{"text": TRANSCRIPT * 20 + " end"}, {"text": TRANSCRIPT * 30 + " end"}]
    found = score_file(str(pm_stage), write_rows(tmp_path / "rows.jsonl", rows), COMPUTE)
    assert found["truncated"] == 2
    assert found["rows"][0]["score"] == pytest.approx(found["rows"][1]["score"], abs=1e-5)


def test_turns_of_a_transcript() -> None:
    roles = ["user", "assistant", "user", "assistant"]
    contents = ["tell me cat?", "good cat", "and dog?", "bad dog"]
    assert messages_of(TRANSCRIPT) == [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    assert messages_of("no turns") == []


def test_the_command_prints_json_alone(pm_stage: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}])
    result = CliRunner().invoke(app, ["score", str(pm_stage), str(rows), "--threads", "1", "--json", "-"])
    assert result.exit_code == 0 and json.loads(result.stdout)["n"] == 1


# ---------------------------------------------------------------- bench


def bench_inputs(pm_stage: Path, folder: Path) -> Path:
    pairs = [[TRANSCRIPT, TRANSCRIPT[:-3] + "cat"]] * 6 + [[TRANSCRIPT, TRANSCRIPT], [TRANSCRIPT * 9, TRANSCRIPT]]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return folder / "pairs.json"


def test_bench_counts_what_it_drops(pm_stage: Path, tmp_path: Path) -> None:
    trees, dropped = read_pairs(bench_inputs(pm_stage, tmp_path), models.load_tokenizer(pm_stage), 90, 100)
    assert len(trees) == 6 and dropped == {"too_long": 1, "equal": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not readable JSON"),
        ('{"a": 1}', "a JSON object; expected a list"),
        ('[["a", "b"], ["a"]]', "row 1 is a list of 1; expected .chosen, rejected"),
        ('[["a", "b"], {"chosen": "a"}]', "row 1 is of type object"),
        ('[["a", "b"], ["a", null]]', "row 1: rejected is of type null; expected a transcript"),
        ('[["", "b"]]', "row 0: chosen is an empty string"),
        ('[["a\\ud800", "b"]]', "row 0: chosen is not valid Unicode"),
    ],
)
def test_bench_names_the_row_that_is_no_pair(pm_stage: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pairs.json").write_text(text)
    with pytest.raises(DataError, match=f"pairs.json: {said}"):
        read_pairs(tmp_path / "pairs.json", models.load_tokenizer(pm_stage), 90, 100)


def test_bench_trains_as_an_optimiser_of_ones_own_would(pm_stage: Path, tmp_path: Path) -> None:
    """Six equal pairs, three steps of two: the losses of plain AdamW on -log sigma(r_c - r_r), clipped at 1."""
    path = bench_inputs(pm_stage, tmp_path)
    found = bench_pm(pm_stage / "model", path, pm_stage / "model", 2, 90, 4, Compute(threads=1), 1e-3)
    tokenizer = models.load_tokenizer(pm_stage)
    model = AutoModelForSequenceClassification.from_pretrained(pm_stage / "model")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    ids = [
        torch.tensor([tokenizer(t)["input_ids"] + [tokenizer.eos_token_id]])
        for t in (TRANSCRIPT, TRANSCRIPT[:-3] + "cat")
    ]
    expected = []
    for _ in range(3):
        chosen, rejected = (model(input_ids=side).logits[0, 0] for side in ids)
        loss = -torch.nn.functional.logsigmoid(chosen - rejected)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    np.testing.assert_allclose(found["losses"], expected, rtol=1e-3)
    assert found["n_pairs"] == 6 and found["pairs_per_s"] == pytest.approx(6 / found["seconds"])


# ---------------------------------------------------------------- rows that are no good comparison


PROMPT = "\n\nHuman: tell me cat?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"chosen": PROMPT + " good", "rejected": "\n\nHuman: other?\n\nAssistant: bad"}, "prompts_differ"),
        ({"chosen": PROMPT + " good", "rejected": PROMPT + " good"}, "equal_responses"),
        ({"chosen": TRANSCRIPT, "rejected": TRANSCRIPT + "\n\nHuman: and?"}, "ends_with_human"),
        ({"chosen": "good", "rejected": "bad"}, "no_assistant_turn"),
        ({"chosen": PROMPT[2:] + " good", "rejected": PROMPT[2:] + " bad"}, "no_human_turn_first"),
    ],
)
def test_comparisons_that_training_would_drop_are_named_and_in_no_accuracy(
    pm_stage: Path, tmp_path: Path, row: dict[str, Any], problem: str
) -> None:
    good = {"chosen": TRANSCRIPT, "rejected": TRANSCRIPT[:-3] + "cat"}
    alone = score_file(str(pm_stage), write_rows(tmp_path / "one.jsonl", [good]), COMPUTE)["summary"]
    found = score_file(str(pm_stage), write_rows(tmp_path / "two.jsonl", [row, good]), COMPUTE)
    assert found["n"] == 2 and problem in found["rows"][0]["problems"] and "problems" not in found["rows"][1]
    assert found["summary"]["problems"][problem] == 1 and found["summary"]["comparisons_left_out"] == 1
    for name in ("accuracy", "log_loss"):
        assert found["summary"][name] == pytest.approx(alone[name])


def test_empty_responses_are_named_and_kept_as_in_training(pm_stage: Path, tmp_path: Path) -> None:
    rows = [{"chosen": PROMPT, "rejected": PROMPT + " bad"}, {"prompt": PROMPT, "response": ""}]
    summary = score_file(str(pm_stage), write_rows(tmp_path / "rows.jsonl", rows), COMPUTE)["summary"]
    assert summary["problems"] == {"empty_response": 2} and summary["comparisons_left_out"] == 0
    assert summary["accuracy"]["n"] == 1


def test_a_prompt_beside_the_responses_is_read(pm_stage: Path, tmp_path: Path) -> None:
    """As two responses after it, and where both sides repeat it as whole transcripts: the scores of the transcripts."""
    whole = {"chosen": PROMPT + " good", "rejected": PROMPT + " bad"}
    rows = [whole, {"prompt": PROMPT, "chosen": " good", "rejected": " bad"}, {"prompt": PROMPT} | whole]
    found = score_file(str(pm_stage), write_rows(tmp_path / "rows.jsonl", rows), COMPUTE)
    for row in found["rows"][1:]:
        for key in ("score_chosen", "score_rejected"):
            assert row[key] == pytest.approx(found["rows"][0][key], abs=1e-6)
    assert found["summary"]["problems"] == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "response": null}', ":1: 'response' is of type null; expected a string"),
        ('{"prompt": "a", "response": ["b"]}', ":1: 'response' is of type list; expected a string"),
        ('{"chosen": [{"role": "user"}], "rejected": "x"}', ":1: 'chosen' is of type list; expected a string"),
        ('{"text": "\\ud800 hi"}', ":1: 'text' is not valid Unicode"),
    ],
)
def test_what_is_no_text_is_refused(pm_stage: Path, tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=said):
        score_file(str(pm_stage), tmp_path / "rows.jsonl", COMPUTE)


# ---------------------------------------------------------------- which model


@pytest.mark.parametrize("kind", ["pm", "pmp"])
def test_scores_less_the_stored_mean_are_given(pm_stage: Path, tmp_path: Path, kind: str) -> None:
    stage = shutil.copytree(pm_stage, tmp_path / "stage")
    record = {"kind": kind, "summary": {"mean_score": {"value": 0.25, "se": 0.1, "n": 4}}}
    (stage / "record.json").write_text(json.dumps(record))
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}])
    for pm in (stage, stage / "model"):
        found = score_file(str(pm), rows, COMPUTE)
        assert found["held_out_mean"] == 0.25
        assert found["rows"][0]["score_less_mean"] == pytest.approx(found["rows"][0]["score"] - 0.25)
    assert score_file(str(pm_stage), rows, COMPUTE)["held_out_mean"] is None


def test_a_stage_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"kind": "base"}))
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}])
    for pm in (tmp_path, tmp_path / "model"):
        with pytest.raises(ModelError, match="a base stage; allowed: pm or pmp"):
            score_file(str(pm), rows, COMPUTE)


@pytest.mark.parametrize("damage", ["{", '{"kind": "pm"', ""])
def test_a_damaged_record_is_named(pm_stage: Path, tmp_path: Path, damage: str) -> None:
    stage = shutil.copytree(pm_stage, tmp_path / "stage")
    (stage / "record.json").write_text(damage)
    with pytest.raises(ModelError, match="record.json: not a readable record"):
        score_file(str(stage), write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}]), COMPUTE)


def test_a_folder_that_is_not_there_is_said_so(pm_stage: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}])
    (tmp_path / "model-a").mkdir()
    with pytest.raises(ModelError, match=r"no such folder \(nearest: .*model-a\)"):
        score_file(str(tmp_path / "model-b"), rows, COMPUTE)


def test_a_tokenizer_larger_than_the_embeddings_is_named(pm_stage: Path, tmp_path: Path) -> None:
    """Its own pieces by their number, an added token by its id, where a text has it."""
    folder = foreign(tmp_path / "foreign", pm_stage)
    tokenizer = models.load_tokenizer(pm_stage)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": TRANSCRIPT}])
    assert score_file(str(folder), rows, COMPUTE)["n"] == 1
    with pytest.raises(ModelError, match=rf"token id {len(tokenizer) - 1}, allowed: below {len(tokenizer) - 1}"):
        score_file(str(folder), write_rows(tmp_path / "zebra.jsonl", [{"text": TRANSCRIPT + " zebra"}]), COMPUTE)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.resize_token_embeddings(100)
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="pieces, its embeddings 100"):
        score_file(str(folder), rows, COMPUTE)


def test_the_command_names_its_columns(pm_stage: Path, tmp_path: Path) -> None:
    rows = [{"text": TRANSCRIPT}, {"chosen": "good", "rejected": "bad"}]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    result = CliRunner().invoke(app, ["score", str(pm_stage), str(file), "--threads", "1"])
    lines = [line.split("\t") for line in result.stdout.splitlines()[:3]]
    assert lines[0] == ["line", "score", "score_chosen", "score_rejected", "conversation", "problems"]
    assert {len(line) for line in lines} == {6} and lines[1][2:] == [""] * 4
    assert lines[2][-1] == "no_human_turn_first,no_assistant_turn"
