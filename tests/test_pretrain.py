"""Pretraining of a rung and held-out loss."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hh_scaling import models, pretrain, training
from hh_scaling.configs import BaseConfig, BaseTraining, Schedule, SizeSpec
from hh_scaling.records import StageWriter, read_jsonl
from hh_scaling.stages import StageContext
from tests.tiny import COMPUTE, base_config, kill_at, run_stage


def test_loss_falls_far_below_uniform(tiny_stages: dict[str, Path]) -> None:
    rows = list(read_jsonl(tiny_stages["base"] / "metrics.jsonl"))
    # embeddings of deviation .5/sqrt(d) make fresh logits vary by about 1/4, which moves the loss by about 1/8
    assert rows[0]["loss"] == pytest.approx(math.log(320), abs=0.15)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


def test_documents_add_up_to_the_loss(tiny_stages: dict[str, Path]) -> None:
    """held_out.parquet, by which learning rates are compared document by document, holds the record's own loss."""
    documents = pd.read_parquet(tiny_stages["base"] / "held_out.parquet")
    model, tokenizer = models.load_causal_lm(tiny_stages["base"]), models.load_tokenizer(tiny_stages["base"])
    texts = [json.loads(line)["text"] for line in (tiny_stages["data"] / "text" / "held_out.jsonl").open()]
    training = base_config().training
    whole = pretrain.held_out_loss(model, tokenizer, texts, training, COMPUTE)
    assert whole is not None and len(documents) > 1
    assert documents.nats.sum() / documents.tokens.sum() == pytest.approx(whole["loss"]["value"], rel=1e-12)


def test_held_out_loss_equals_a_direct_sum(tiny_stages: dict[str, Path]) -> None:
    """One document, by hand: sum of -ln p over its tokens, per token and in bits per byte (float32 rounding)."""
    model, tokenizer = models.load_causal_lm(tiny_stages["base"]), models.load_tokenizer(tiny_stages["base"])
    text = "\n\nHuman: tell me cat dog?\n\nAssistant: good bad"
    ids = tokenizer(text)["input_ids"]
    logits = model(torch.tensor([[tokenizer.eos_token_id, *ids]])).logits[0, :-1]
    nats = -torch.log_softmax(logits, -1)[torch.arange(len(ids)), torch.tensor(ids)].sum().item()
    got = pretrain.held_out_loss(model, tokenizer, [text], BaseTraining(context=len(ids)), COMPUTE)
    assert got is not None and got["loss"]["value"] == pytest.approx(nats / len(ids), rel=1e-5)
    assert got["bits_per_byte"]["value"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)


def test_no_held_out_text_is_not_zero_loss(tiny_stages: dict[str, Path]) -> None:
    model, tokenizer = models.load_causal_lm(tiny_stages["base"]), models.load_tokenizer(tiny_stages["base"])
    assert pretrain.held_out_loss(model, tokenizer, [], BaseTraining(), COMPUTE) is None


@pytest.mark.parametrize(
    ("name", "tuned"),
    [("SmolLM2-135M-Instruct", True), ("gemma-2b-it", True), ("pythia-70m", False), ("italian-gpt", False)],
)
def test_tuned_models_are_noted(name: str, tuned: bool) -> None:
    assert (pretrain.tuned_note(SizeSpec(name=name, hub=name), None) is not None) == tuned


def test_a_gguf_file_is_known_by_its_place_alone(
    tiny_stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study's hashed configuration holds no paths: the file comes through ``where``; its folder is converted."""
    seen: list[Path] = []

    def fake(path: Path) -> tuple[object, object]:
        seen.append(path)
        return models.load_causal_lm(tiny_stages["base"]), models.load_tokenizer(tiny_stages["base"])

    monkeypatch.setattr(pretrain, "load_gguf", fake)
    config = BaseConfig(size=SizeSpec(name="x-Instruct"), seed=0, training=BaseTraining(context=32), compute=COMPUTE)
    context = StageContext({"data": tiny_stages["data"]}, StageWriter(tmp_path), {"size.gguf": "/models/x.gguf"})
    summary = pretrain.run(config, context).summary
    assert seen == [Path("/models/x.gguf")] and "further RLHF" in summary["note"]
    assert (tmp_path / "model" / "model.safetensors").is_file() and summary["model"]["name"] == "x-Instruct"


def test_rows_are_the_joined_documents(tiny_stages: dict[str, Path]) -> None:
    tokenizer = models.load_tokenizer(tiny_stages["base"])
    rows = pretrain.token_rows(tokenizer, ["good cat", "bad <|endoftext|> dog"], 1000, 4)
    flat = rows.flatten().tolist()
    want = [
        *tokenizer("good cat")["input_ids"],
        0,
        *tokenizer("bad <|endoftext|> dog", split_special_tokens=True)["input_ids"],
    ]
    assert flat == (want + [0])[: len(flat)] and flat.count(0) == 1  # typed special tokens stay text
    with pytest.raises(ValueError, match="needed: at least 101"):
        pretrain.token_rows(tokenizer, ["good"], 1000, 100)


def test_rows_repeat_only_after_all_were_used() -> None:
    order = pretrain.row_order(7, 17, 0)
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7)) and len(order) == 17


def test_learning_rate_rule() -> None:
    schedule = Schedule(learning_rate=1.0, width_exponent=0.5, warmup_fraction=0.1, decay="linear", final_fraction=0.1)
    rates = [training.learning_rate(schedule, 512, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(0.5) and rates[0] == pytest.approx(0.05)  # (128 / 512) ** .5 = 1/2
    assert rates[20] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.05 + 0.45 / 80, rel=1e-6)
    assert np.argmax(rates) in range(9, 21)


def test_a_killed_stage_resumes_to_the_same_bits(
    tiny_stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = base_config(n_tokens=16_000, checkpoint_seconds=1e-9)
    undisturbed, broken, resumed = (tmp_path / name for name in ("undisturbed", "broken", "resumed"))
    run_stage("base", config, tiny_stages, undisturbed)
    kill_at(13, monkeypatch, lambda: run_stage("base", config, tiny_stages, broken))
    run_stage("base", config, tiny_stages, resumed, [broken])
    assert list(read_jsonl(undisturbed / "metrics.jsonl")) == list(read_jsonl(resumed / "metrics.jsonl"))
    weights = [(p / "model" / "model.safetensors").read_bytes() for p in (undisturbed, resumed)]
    assert weights[0] == weights[1]


def test_gradients_are_clipped_to_the_norm_of_all_together() -> None:
    """AdamW's first moment after one step is (1 - beta1) = 0.1 times the gradient that it was given."""
    schedule = Schedule(learning_rate=1.0, max_grad_norm=0.5)
    for scale, kept in ((2.0, 0.5), (0.05, 0.25)):
        parameters = [torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(13))]
        optimizer = training.make_optimizer(parameters, schedule)
        for p in parameters:
            p.grad = torch.full_like(p, scale)
        norm = training.apply_step(optimizer, schedule, 1e-3, 0)
        moments = torch.cat([optimizer.state[p]["exp_avg"].flatten() for p in parameters])
        assert norm == pytest.approx(scale * 5, rel=1e-6)  # 25 entries
        assert float(moments.norm()) == pytest.approx(0.1 * kept, rel=1e-5)
        assert all(p.grad is None for p in parameters)
