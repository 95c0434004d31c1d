"""Preference-model training and scoring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hh_scaling import models, pm
from hh_scaling.configs import Compute, PMConfig, PMTraining
from hh_scaling.records import StageWriter, read_jsonl
from tests.tiny import COMPUTE, SIZE, run_stage


def config(n: int | None = None, compute: Compute = COMPUTE, seed: int = 0, **training: object) -> PMConfig:
    defaults = {"max_length": 64, "batch_size": 16}
    chosen = PMTraining(**defaults | training)  # type: ignore[arg-type]
    return PMConfig(size=SIZE, seed=seed, half="train", n_comparisons=n, training=chosen, compute=compute)


@pytest.fixture(scope="module")
def trained(tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("pm")
    return out, run_stage("pm", config(), tiny_stages, out).summary


def test_it_learns_the_signal(trained: tuple[Path, dict[str, object]]) -> None:
    """Counting "good" against "bad" is learnable: accuracy above chance by more than four standard errors."""
    accuracy = trained[1]["accuracy"]
    assert isinstance(accuracy, dict) and accuracy["n"] == 300
    assert accuracy["value"] - 4 * accuracy["se"] > 0.5


def test_scores_equal_those_of_transformers(
    trained: tuple[Path, dict[str, object]], tiny_stages: dict[str, Path]
) -> None:
    """AutoModelForSequenceClassification on the saved folder, padded batch: same scores to 1e-4 (float32)."""
    out, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(out / "model", dtype=torch.float32)
    tokenizer = models.load_tokenizer(out)
    rows = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet").query("split == 'held_out'").head(20)
    texts = [p + c + tokenizer.eos_token for p, c in zip(rows.prompt, rows.chosen, strict=True)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].detach().numpy()
    ours = pd.read_parquet(out / "scores.parquet").head(20).score_chosen.to_numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_scores_do_not_depend_on_the_batch(trained: tuple[Path, dict[str, object]]) -> None:
    model = models.load_from_stage(AutoModelForSequenceClassification, trained[0])
    sequences = [[5, 6, 7, 0], [9] * 30 + [0], [4, 0]]
    together = pm.score_sequences(model, sequences, Compute(micro_batch_tokens=4096))
    alone = pm.score_sequences(model, sequences, Compute(micro_batch_tokens=1))
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_gradient_does_not_depend_on_micro_batches(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(tiny_stages["base"])
    rows = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet").query("split == 'train'").head(12)
    pairs, _ = pm.tokenize_pairs(rows, tokenizer, 64)
    gradients = []
    for budget in (100, 100_000):
        model = pm.initial_pm(tiny_stages["base"], tokenizer, config())
        pm.accumulate_gradient(model, pairs, Compute(micro_batch_tokens=budget), StageWriter(tmp_path), 0)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_pairs_equal_after_truncation_are_dropped_and_counted(tiny_stages: dict[str, Path]) -> None:
    tokenizer = models.load_tokenizer(tiny_stages["base"])
    rows = pd.DataFrame(
        {"prompt": ["a", "a"], "chosen": [" cat dog bird", " cat"], "rejected": [" cat dog fish", " dog"]}
    )
    shared = tokenizer(" cat dog")["input_ids"]
    pairs, dropped = pm.tokenize_pairs(rows, tokenizer, len(shared) + 1)
    assert len(pairs) == 1 and dropped == {"equal_after_truncation": 1}


def test_long_prompts_lose_their_beginning() -> None:
    assert pm.context_ids([1, 2, 3, 4], [5, 6], 0, 5) == [3, 4, 5, 6, 0]
    assert pm.context_ids([1, 2], [5, 6, 7, 8], 0, 4) == [5, 6, 7, 0]


def test_subsets_are_nested_and_too_large_ones_refused(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    small = run_stage("pm", config(32), tiny_stages, tmp_path / "a")
    assert small.summary["n_comparisons"] == 32
    with pytest.raises(ValueError, match="300 comparisons in the train half, wanted: 1000"):
        run_stage("pm", config(1000), tiny_stages, tmp_path / "b")


def test_frozen_layers_do_not_move(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    run_stage("pm", config(64, trainable_layers=1), tiny_stages, tmp_path)
    before = models.load_causal_lm(tiny_stages["base"]).base_model.state_dict()
    after = models.load_from_stage(AutoModelForSequenceClassification, tmp_path).base_model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("layers.1.", "norm.")) for name in changed)


def test_a_killed_stage_resumes_to_the_same_bits(
    tiny_stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a state in the middle: same metrics and weights as the undisturbed run, exactly."""
    undisturbed, broken, resumed = (tmp_path / name for name in ("undisturbed", "broken", "resumed"))
    run_stage("pm", config(160, checkpoint_seconds=1e-9), tiny_stages, undisturbed)
    real = StageWriter.progress

    def dies(self: StageWriter, done: float, total: float, note: str = "") -> None:
        if done == 6:
            raise KeyboardInterrupt
        real(self, done, total, note)

    monkeypatch.setattr(StageWriter, "progress", dies)
    with pytest.raises(KeyboardInterrupt):
        run_stage("pm", config(160, checkpoint_seconds=1e-9), tiny_stages, broken)
    monkeypatch.undo()
    run_stage("pm", config(160, checkpoint_seconds=1e-9), tiny_stages, resumed, [broken])
    assert list(read_jsonl(undisturbed / "metrics.jsonl")) == list(read_jsonl(resumed / "metrics.jsonl"))
    weights = [(p / "model" / "model.safetensors").read_bytes() for p in (undisturbed, resumed)]
    assert weights[0] == weights[1]
    scores = [pd.read_parquet(p / "scores.parquet") for p in (undisturbed, resumed)]
    pd.testing.assert_frame_equal(scores[0], scores[1], check_exact=True)


def test_non_finite_losses_name_the_step(
    tiny_stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pm, "preference_loss", lambda a, b: (a - b) * float("nan"))
    with pytest.raises(ArithmeticError, match="preference loss is nan at step 0"):
        run_stage("pm", config(32), tiny_stages, tmp_path)
