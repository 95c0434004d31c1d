"""Shapes, counts, padding and loading."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from hh_scaling import models, shapes
from hh_scaling.configs import BaseTraining, SizeSpec
from tests.tiny import COMPUTE


class FakeTokenizer:
    eos_token_id, pad_token_id = 0, 1

    def __len__(self) -> int:
        return 300


def rung(n_params: int = 100_000, architecture: str = "llama", seed: int = 0) -> models.PreTrainedModel:
    size = SizeSpec(name="x", n_params=n_params, architecture=architecture)  # type: ignore[arg-type]
    return models.build_rung(size, BaseTraining(), COMPUTE, FakeTokenizer(), seed)


@pytest.mark.parametrize("architecture", shapes.ARCHITECTURES)
@pytest.mark.parametrize("n_params", [27_000, 100_000, 400_000])
def test_the_rule_counts_what_transformers_builds(architecture: str, n_params: int) -> None:
    model = rung(n_params, architecture)
    n, total = models.count_params(model)
    assert n == shapes.shape_for(n_params, architecture).n_params
    assert total - n == model.get_input_embeddings().weight.numel()  # tied embeddings count once


def test_impossible_sizes_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="allowed: 26,784 to") as error:
        shapes.shape_for(1000, "llama")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="allowed: llama, gpt_neox"):
        shapes.shape_for(100_000, "mamba")


def test_same_seed_same_weights_and_the_global_stream_is_left_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = rung(seed=0), rung(seed=0), rung(seed=1)
    assert torch.equal(before, torch.get_rng_state())
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    assert all(same) and not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_flops_agree_with_pytorchs_counter() -> None:
    """Within 3 %: the counter sees only matrix products and full, not causal, attention."""
    model = rung(400_000)
    model.set_attn_implementation("eager")  # the counter does not know the fused kernel of processors
    tokens = torch.randint(2, 300, (4, 64))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    # our attention term is for the causal half; the counter's kernel computes the whole square
    ours = models.forward_flops(model, tokens.numel(), 2 * 64)
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.03)


def test_padding_on_the_right_changes_nothing() -> None:
    """Different batch shapes round differently in float32: 1e-5 on hidden states of order 1."""
    model = rung()
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [4]]
    tokens, lengths = models.pad_right(rows, 1)
    with torch.no_grad():
        batch = models.hidden_states(model, tokens)
        assert tokens.shape == (3, 16)
        for i, row in enumerate(rows):
            alone = models.hidden_states(model, torch.tensor([row]))[0]
            torch.testing.assert_close(batch[i, : lengths[i]], alone, rtol=1e-5, atol=1e-5)


def test_micro_batches_cover_all_within_the_budget() -> None:
    lengths = [3, 50, 7, 7, 20, 90, 1]
    groups = list(models.micro_batches(lengths, 60))
    assert sorted(i for g in groups for i in g) == list(range(7))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= 60 for g in groups)


def test_stage_models_load_everywhere(tiny_stages: dict[str, Path]) -> None:
    ours = models.load_causal_lm(tiny_stages["base"])
    theirs = AutoModelForCausalLM.from_pretrained(tiny_stages["base"] / "model", dtype=torch.float32)
    tokens = torch.tensor([[2, 3, 4, 5]])
    assert torch.equal(ours(tokens).logits, theirs(tokens).logits) and not ours.training
    tokenizer = models.load_tokenizer(tiny_stages["base"])
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_folder_without_weights_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(models.ModelError, match="cannot load this model") as error:
        models.load_causal_lm(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_weights_are_refused(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_stages["base"] / "model", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(models.ModelError, match="1 weights are missing, such as model.norm.weight"):
        models.load_causal_lm(tmp_path)


def test_contexts_and_output_heads_are_checked(tiny_stages: dict[str, Path]) -> None:
    model = models.load_causal_lm(tiny_stages["base"])
    models.check_length(model, 96, "pm.max_length")
    with pytest.raises(models.ModelError, match="come to 97 tokens, allowed: at most 96"):
        models.check_length(model, 97, "pm.max_length")
    models.check_output_head(model)
    model.forward = lambda input_ids: SimpleNamespace(logits=torch.zeros(1, 4, 320))
    with pytest.raises(models.ModelError, match="not its output matrix"):
        models.check_output_head(model)


def test_padding_equal_to_the_end_token_is_replaced(tiny_stages: dict[str, Path]) -> None:
    tokenizer = models.load_tokenizer(tiny_stages["base"])
    tokenizer.pad_token = tokenizer.eos_token
    assert models.with_pad_token(tokenizer).pad_token == "<|pad|>"
