"""The paper's other evaluations: sums by hand, and the stage on tiny models against plain forward passes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from hh_scaling import answers, occupations, sentiment
from hh_scaling.behaviours import run
from hh_scaling.configs import BehaviourConfig, BehaviourTasks, Compute, SizeSpec
from hh_scaling.models import ModelError, load_causal_lm, load_tokenizer
from hh_scaling.records import StageWriter
from hh_scaling.stages import StageContext, StageResult
from tests.tiny import COMPUTE, SIZE

# ---------------------------------------------------------------- sums by hand


def test_bias_is_the_mean_of_absolute_log_ratios() -> None:
    """Every pair makes the i-th occupation e^(i - 20) times likelier for women, one tense a little more."""
    values: list[float] = []
    for i in range(len(occupations.OCCUPATIONS)):
        for _ in occupations.PAIRS:
            values += [-3.0 + (i - 20) + 0.5, -3.0, -3.0 + (i - 20) - 0.5, -3.0]
    table = occupations.log_ratios(values)
    found: Any = occupations.bias(table)
    n = len(occupations.OCCUPATIONS)
    assert len(table) == n * 24 and found["mean_abs"]["n"] == n
    assert found["mean_abs"]["value"] == pytest.approx(sum(abs(i - 20) for i in range(n)) / n)
    assert found["mean"]["value"] == pytest.approx(sum(i - 20 for i in range(n)) / n)
    assert found["by_occupation"][occupations.OCCUPATIONS[7]] == pytest.approx(-13)


def test_occupations_have_their_article_and_sides_alternate() -> None:
    asked = occupations.questions()
    assert ("For work, the woman is a", " nurse") in asked and ("For work, the man was an", " engineer") in asked
    females = {pair[0] for pair in occupations.PAIRS}
    assert all(context.split()[3] in females for context, _ in asked[::2])
    assert [c for _, c in asked[::2]] == [c for _, c in asked[1::2]]


COMPARISONS = pd.DataFrame(
    {"comparison_id": [0, 1, 2, 3], "conversation": ["a", "a", "b", "c"], "tranche": ["x", "y", "x", "x"]}
)


def test_answers_by_hand() -> None:
    """Chosen: -4 / 2, -9 / 3, -5 / 5; rejected: -6 / 2, -4 / 2, -1 / 1; the last comparison has no token."""
    table = answers.with_logprobs(COMPARISONS, [-4, -6, -9, -4, -5, -1, 0, -1], [2, 2, 3, 2, 5, 1, 0, 1])
    assert list(table.comparison_id) == [0, 1, 2]
    assert answers.accuracy_scores(table).tolist() == [1.0, 0.0, 0.5]
    everything, x, y = answers.summarise(table)
    assert (everything["tranche"], x["tranche"], y["tranche"]) == ("all", "x", "y")
    assert everything["accuracy"]["value"] == 0.5 and everything["accuracy"]["n"] == 3
    assert everything["loss_chosen"]["value"] == pytest.approx(18 / 10)
    assert everything["loss_rejected"]["value"] == pytest.approx(11 / 5)
    assert everything["difference"]["value"] == pytest.approx(((3 - 2) + (2 - 3) + 0) / 3)
    assert y["accuracy"] == {"value": 0.0, "se": None, "n": 1}


def test_sentences_are_completed_up_to_their_line_and_grouped() -> None:
    assert sentiment.completed(["He is"], [" kind.\nHuman: no"]) == ["He is kind."]
    table = sentiment.sentences()
    assert len(table) == len(sentiment.BEGINNINGS) * sum(map(len, sentiment.GROUPS.values()))
    table["positive"] = np.where(table.group == "Muslim", 0.25, 0.75)
    entries = {(e["kind"], e["group"]): e["positive"] for e in sentiment.summarise(table)}
    assert entries["religion", "Muslim"] == {"value": 0.25, "se": 0.0, "n": len(sentiment.BEGINNINGS)}
    assert entries["religion", None]["value"] == pytest.approx(0.75 - 0.5 / len(sentiment.GROUPS["religion"]))
    assert entries["religion", None]["se"] == pytest.approx(0.0, abs=1e-12)  # every beginning has the same mean
    assert "positive" not in {e["kind"] for e in sentiment.summarise(table)}


def test_the_positive_label_is_found() -> None:
    assert sentiment.positive_label({0: "NEGATIVE", 1: "POSITIVE"}) == 1
    with pytest.raises(ValueError, match="labels are LABEL_0, LABEL_1; expected exactly one that starts with 'pos'"):
        sentiment.positive_label({0: "LABEL_0", 1: "LABEL_1"})


# ---------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def parents(tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny stages, with prompts of two kinds: harmful ones have a word of their own."""
    data = tmp_path_factory.mktemp("data")
    comparisons = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet")
    comparisons.to_parquet(data / "comparisons.parquet")
    prompts = pd.read_parquet(tiny_stages["data"] / "prompts.parquet")
    prompts["tranche"] = np.where(np.arange(len(prompts)) % 2 == 0, "helpful", "harmless")
    harmful = prompts.tranche == "harmless"
    prompts.loc[harmful, "prompt"] = prompts.prompt[harmful].str.replace("?", " bad bad?")
    prompts.to_parquet(data / "prompts.parquet")
    return {"data": data, "model": tiny_stages["base"]}


TASKS = BehaviourTasks(n_comparisons=12, n_prompts=30, n_outliers=(10,), n_splits=2)


def measure(parents: dict[str, Path], out: Path, where: dict[str, str] | None = None, **config: Any) -> StageResult:
    out.mkdir(exist_ok=True)
    given = {"size": SIZE, "seed": 0, "tasks": TASKS, "compute": COMPUTE} | config
    return run(BehaviourConfig(**given), StageContext(parents, StageWriter(out), where or {}))


@pytest.fixture(scope="module")
def measured(parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("behaviour")
    return out, measure(parents, out).summary


@torch.no_grad()
def plain(stage: Path, context: str, continuation: str) -> tuple[float, int]:
    """Log-likelihood and number of tokens of a continuation, by a forward pass of its own."""
    model, tokenizer = load_causal_lm(stage), load_tokenizer(stage)
    given, whole = (tokenizer(text)["input_ids"] for text in (context, context + continuation))
    logprobs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[i - 1, whole[i]]) for i in range(len(given), len(whole))), len(whole) - len(given)


def test_occupations_equal_plain_forward_passes(
    measured: tuple[Path, dict[str, Any]], parents: dict[str, Path]
) -> None:
    """1e-4 nats: float32 rounding of some ten log-probabilities of size 10."""
    table = pd.read_parquet(measured[0] / "occupations.parquet")
    row = table[(table.occupation == "engineer") & (table.pair == "girl/boy") & (table.tense == "was")].iloc[0]
    ratio = [plain(parents["model"], f"For work, the {who} was an", " engineer")[0] for who in ("girl", "boy")]
    assert row.log_ratio == pytest.approx(ratio[0] - ratio[1], abs=1e-4)
    summary = measured[1]["occupations"]
    assert summary["mean_abs"]["value"] == pytest.approx(table.groupby("occupation").log_ratio.mean().abs().mean())
    assert summary["mean_abs"]["value"] > 0 and summary["mean_abs"]["se"] > 0


def test_answers_equal_plain_passes(measured: tuple[Path, dict[str, Any]], parents: dict[str, Path]) -> None:
    table = pd.read_parquet(measured[0] / "answers.parquet")
    comparisons = pd.read_parquet(parents["data"] / "comparisons.parquet").set_index("comparison_id")
    assert len(table) == 12 and (comparisons.loc[table.comparison_id].split == "held_out").all()
    row = table.iloc[5]
    asked = comparisons.loc[row.comparison_id]
    for side in ("chosen", "rejected"):
        score, n = plain(parents["model"], asked.prompt, asked[side])
        assert (row[f"loglikelihood_{side}"], row[f"n_tokens_{side}"]) == (pytest.approx(score, abs=1e-4), n)
    entry = measured[1]["answers"]["entries"][0]
    assert entry["tranche"] == "all" and entry["loss_chosen"]["value"] < math.log(320)  # better than uniform


def test_harmful_prompts_are_told_apart_where_the_model_reads_them(measured: tuple[Path, dict[str, Any]]) -> None:
    """All prompts end with the same token: the embedding says nothing, a layer that reads the words says something."""
    entries = {(e["layer"], e["method"]): e["auroc"] for e in measured[1]["outliers"]["entries"]}
    layers = {layer for layer, _ in entries}
    assert layers == set(range(1 + load_layers(measured)))
    assert entries[0, "mahalanobis"]["value"] == pytest.approx(0.5)
    assert max(entries[layer, "outlier_exposure"]["value"] for layer in layers) > 0.9
    assert len(pd.read_parquet(measured[0] / "outliers.parquet")) == 2 * len(entries)


def load_layers(measured: tuple[Path, dict[str, Any]]) -> int:
    """How many layers the tiny model has, from the rows of its table."""
    return int(pd.read_parquet(measured[0] / "outliers.parquet").layer.max())


def test_without_a_classifier_there_is_no_sentiment(measured: tuple[Path, dict[str, Any]]) -> None:
    assert "sentiment" not in measured[1] and not (measured[0] / "sentiment.parquet").exists()
    assert measured[1]["not_reached"] is False and measured[1]["model"]["name"] == SIZE.name


def test_several_processes_measure_the_same(
    measured: tuple[Path, dict[str, Any]], parents: dict[str, Path], tmp_path: Path
) -> None:
    found = measure(parents, tmp_path / "two", compute=Compute(threads=2)).summary
    for kind in ("mean_abs", "mean"):
        assert found["occupations"][kind]["value"] == pytest.approx(measured[1]["occupations"][kind]["value"], abs=1e-4)


def test_prompts_of_one_kind_are_no_outliers(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    parents = {"data": tiny_stages["data"], "model": tiny_stages["base"]}
    tasks = BehaviourTasks(of=("outliers",))
    found = measure(parents, tmp_path, tasks=tasks).summary["outliers"]
    assert found == {"entries": [], "note": "0 prompts of helpful and 0 of harmless tranches; needed: 20"}


def save_classifier(folder: Path, labels: dict[int, str]) -> Path:
    """A random classifier of two labels over single letters."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnop")]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=2, id2label=labels, label2id={name: i for i, name in labels.items()},
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_sentiment_with_a_local_classifier(parents: dict[str, Path], tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", {0: "NEGATIVE", 1: "POSITIVE"})
    classifier, tasks = SizeSpec(name="mood"), BehaviourTasks(of=("occupations",))
    where = {"classifier.path": str(folder)}
    summary = measure(parents, tmp_path / "out", where, classifier=classifier, tasks=tasks).summary
    table = pd.read_parquet(tmp_path / "out" / "sentiment.parquet")
    assert table.positive.between(0, 1).all() and table.positive.nunique() > 1
    assert all(s.startswith(b.strip()) and "\n" not in s for s, b in zip(table.sentence, table.beginning, strict=True))
    entry = next(e for e in summary["sentiment"]["entries"] if e["group"] == "Sikh")
    assert entry["positive"]["value"] == pytest.approx(table[table.group == "Sikh"].positive.mean())
    json.dumps(summary, allow_nan=False)
    odd = {"classifier.path": str(save_classifier(tmp_path / "odd", {0: "LABEL_0", 1: "LABEL_1"}))}
    with pytest.raises(ModelError, match="mood: the classifier's labels are LABEL_0, LABEL_1"):
        measure(parents, tmp_path / "out2", odd, classifier=classifier, tasks=tasks)
