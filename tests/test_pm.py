"""Preference-model training and scoring."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hh_scaling import models, pairs, pm
from hh_scaling.configs import Compute, PMConfig, PMTraining
from hh_scaling.packing import Tree, tree_of
from hh_scaling.pm_model import initial_pm
from hh_scaling.records import StageWriter, read_jsonl
from tests.tiny import COMPUTE, SIZE, kill_at, run_stage


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


def gradient_of(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def some_pairs(tiny_stages: dict[str, Path], n: int, max_length: int = 64) -> tuple[list[Tree], Any]:
    tokenizer = models.load_tokenizer(tiny_stages["base"])
    rows = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet").query("split == 'train'").head(n)
    return pairs.pair_trees(rows, tokenizer, max_length), tokenizer


def test_gradient_does_not_depend_on_micro_batches(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    trees, tokenizer = some_pairs(tiny_stages, 12)
    gradients = []
    for budget in (100, 100_000):
        of = config(compute=Compute(micro_batch_tokens=budget))
        model = initial_pm(tiny_stages["base"], tokenizer, of)
        pm.Training(model, trees, torch.ones(12), None, of, StageWriter(tmp_path)).accumulate_gradient(np.arange(12), 0)
        gradients.append(gradient_of(model))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_training_by_two_processes_is_that_by_one(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """Float32, a few steps with evaluations along the way: the same losses and scores, and bit for bit if repeated."""
    found = []
    for name, threads in (("one", 1), ("two", 2), ("again", 2)):
        (tmp_path / name).mkdir()
        of = config(64, compute=Compute(threads=threads, micro_batch_tokens=600), eval_at=(32,))
        run_stage("pm", of, tiny_stages, tmp_path / name)
        losses = [row["loss"] for row in read_jsonl(tmp_path / name / "metrics.jsonl")]
        found.append((losses, *(pd.read_parquet(tmp_path / name / f) for f in ("curve.parquet", "scores.parquet"))))
    one, two, again = found
    np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
    for mine, theirs in zip(one[1:], two[1:], strict=True):
        np.testing.assert_allclose(mine.score_chosen, theirs.score_chosen, rtol=1e-4, atol=1e-5)
    assert two[0] == again[0]
    pd.testing.assert_frame_equal(two[2], again[2], check_exact=True)


def test_loss_and_gradient_equal_two_plain_passes_of_transformers(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """The shared beginning computed once: loss and gradients of -log sigma(r_c - r_r) as from two padded passes."""
    trees, tokenizer = some_pairs(tiny_stages, 12)
    of = config(compute=Compute(micro_batch_tokens=300))
    ours, theirs = (initial_pm(tiny_stages["base"], tokenizer, of) for _ in range(2))
    training = pm.Training(ours, trees, torch.ones(12), None, of, StageWriter(tmp_path))
    loss = training.accumulate_gradient(np.arange(12), 0)["loss"]
    sides = []
    for side in range(2):
        texts = [tree.trunk + tree.branches[side] for tree in trees]
        batch = tokenizer.pad({"input_ids": texts}, padding_side="right", return_tensors="pt")
        sides.append(theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0])
    expected = -torch.nn.functional.logsigmoid(sides[0] - sides[1]).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(gradient_of(ours), gradient_of(theirs), rtol=1e-4, atol=1e-5)


def test_a_weight_that_would_do_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="harmless_weight 5: all comparisons are harmless, needed: both kinds"):
        pm.loss_weights(pd.Series(["harmless-base"] * 3), 5.0)
    assert pm.loss_weights(pd.Series(["helpful-base"] * 3), 1.0).tolist() == [1, 1, 1]


def test_equal_sides_give_ln_2(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    _, tokenizer = some_pairs(tiny_stages, 1)
    model = initial_pm(tiny_stages["base"], tokenizer, config())
    same = [tree_of([[5, 6, 7, 0], [5, 6, 7, 0]])] * 3
    stats = pm.Training(model, same, torch.ones(3), None, config(), StageWriter(tmp_path)).accumulate_gradient(
        np.arange(3), 0
    )
    assert stats["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_pairs_equal_after_truncation_are_dropped_and_counted(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(tiny_stages["base"])
    rows = pd.DataFrame(
        {"prompt": ["a", "a"], "chosen": [" cat dog bird", " cat"], "rejected": [" cat dog fish", " dog"]}
    )
    rows.to_parquet(tmp_path / "table.parquet")
    shared = tokenizer(" cat dog")["input_ids"]
    found = pairs.write_pairs(
        tmp_path / "table.parquet", np.arange(2), tokenizer, len(shared) + 1, tmp_path / "pairs.tmp"
    )
    assert found.equal.tolist() == [True, False]


def test_pairs_that_the_limit_cuts_are_counted(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """As many as have more tokens, with the end token, than the limit: in training and held out."""
    tokenizer, limit = models.load_tokenizer(tiny_stages["base"]), 24
    table = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet")
    sides = [[len(tokenizer(t)["input_ids"]) for t in table[side]] for side in ("prompt", "chosen", "rejected")]
    long = np.array(sides[0]) + np.maximum(sides[1], sides[2]) + 1 > limit
    first = table.order[table.split == "train"].nsmallest(64).index
    summary = run_stage("pm", config(64, max_length=limit), tiny_stages, tmp_path).summary
    equal = summary["dropped"]["equal_after_truncation"]
    assert summary["truncated"] == long[first].sum() - equal > 0
    assert summary["held_out_truncated"] == long[table.split == "held_out"].sum()


def test_pairs_on_disk_are_the_pairs_in_memory(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """Rows out of the table's order, over several row groups: tree for tree what tokenizing them at once gives."""
    frame = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet")
    frame.to_parquet(tmp_path / "table.parquet", row_group_size=100)
    tokenizer = models.load_tokenizer(tiny_stages["base"])
    rows = np.random.default_rng(0).permutation(len(frame))[:250]
    found = pairs.write_pairs(tmp_path / "table.parquet", rows, tokenizer, 40, tmp_path / "pairs.tmp")
    assert [found[i] for i in range(250)] == pairs.pair_trees(frame.iloc[rows], tokenizer, 40)


def test_long_prompts_lose_their_beginning() -> None:
    assert pairs.context_ids([1, 2, 3, 4], [5, 6], 0, 5) == [3, 4, 5, 6, 0]
    assert pairs.context_ids([1, 2], [5, 6, 7, 8], 0, 4) == [5, 6, 7, 0]


def test_both_sides_keep_the_same_prompt() -> None:
    """The longer response decides how much of the prompt is left, for both."""
    tree = pairs.pair_tree([1, 2, 3, 4], [5, 6], [7], 0, 5)
    assert tree == Tree([3, 4], ([5, 6, 0], [7, 0]))


def mixed_table(path: Path) -> Path:
    tranches = ["helpful-base", "harmless-base", "helpful-online", "other"] * 10
    frame = pd.DataFrame({"split": "train", "order": np.random.default_rng(0).permutation(40), "tranche": tranches})
    frame.to_parquet(path / "table.parquet")
    return path / "table.parquet"


@pytest.mark.parametrize("share, n_helpful", [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_helpful_share_takes_the_first_of_either_kind(tmp_path: Path, share: float, n_helpful: int) -> None:
    table = mixed_table(tmp_path)
    chosen = pairs.choose_rows(table, "train", 8, share)
    frame = pd.read_parquet(table).sort_values("order")
    wanted = [frame[frame.tranche.str.startswith("helpful")].head(n_helpful)]
    wanted.append(frame[frame.tranche.str.startswith("harmless")].head(8 - n_helpful))
    assert sorted(chosen.row) == sorted(pd.concat(wanted).index)


def test_too_few_of_a_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="10 harmless comparisons in the train half, wanted: 12 of 16"):
        pairs.choose_rows(mixed_table(tmp_path), "train", 16, 0.25)


def test_harmless_weight_has_mean_one() -> None:
    weights = pm.loss_weights(pd.Series(["helpful", "harmless", "other", "helpful"]), 3.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 3.0, 1.0, 1.0]) / 1.5)


def test_a_weighted_gradient_is_the_weighted_sum(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    trees, tokenizer = some_pairs(tiny_stages, 2)
    gradients = []
    for weights in ([1.0, 0.0], [0.0, 1.0], [0.5, 1.5]):
        model = initial_pm(tiny_stages["base"], tokenizer, config())
        training = pm.Training(model, trees, torch.tensor(weights), None, config(), StageWriter(tmp_path))
        training.accumulate_gradient(np.arange(2), 0)
        gradients.append(gradient_of(model))
    torch.testing.assert_close(gradients[2], 0.5 * gradients[0] + 1.5 * gradients[1], rtol=1e-4, atol=1e-6)


def test_the_curve_ends_where_the_scores_are(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """Scored along the pass: rows for every held-out comparison, and after the last pair the final scores."""
    run_stage("pm", config(160, eval_at=(40, 160)), tiny_stages, tmp_path)
    curve, scores = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("curve", "scores"))
    assert curve.groupby("pairs").size().to_dict() == {48: 300, 160: 300}
    last = curve[curve.pairs == 160].reset_index(drop=True)
    pd.testing.assert_series_equal(last.score_chosen, scores.score_chosen, check_exact=True)


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
    of = config(160, checkpoint_seconds=1e-9, eval_at=(40, 120))
    run_stage("pm", of, tiny_stages, undisturbed)
    kill_at(6, monkeypatch, lambda: run_stage("pm", of, tiny_stages, broken))
    run_stage("pm", of, tiny_stages, resumed, [broken])
    assert list(read_jsonl(undisturbed / "metrics.jsonl")) == list(read_jsonl(resumed / "metrics.jsonl"))
    weights = [(p / "model" / "model.safetensors").read_bytes() for p in (undisturbed, resumed)]
    assert weights[0] == weights[1]
    scores = [pd.read_parquet(p / "scores.parquet") for p in (undisturbed, resumed)]
    pd.testing.assert_frame_equal(scores[0], scores[1], check_exact=True)
    curves = [pd.read_parquet(p / "curve.parquet") for p in (undisturbed, resumed)]
    pd.testing.assert_frame_equal(curves[0], curves[1], check_exact=True)


def test_non_finite_losses_name_the_step(
    tiny_stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pm, "preference_loss", lambda a, b: (a - b) * float("nan"))
    with pytest.raises(ArithmeticError, match="preference loss is nan at step 0"):
        run_stage("pm", config(32), tiny_stages, tmp_path)
