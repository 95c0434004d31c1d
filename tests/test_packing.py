"""Packed trees: layout, and the same scores and gradients as plain passes, on every architecture family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from hh_scaling.configs import Compute
from hh_scaling.packed_llama import PackedLlama, can_pack
from hh_scaling.packing import MAX_PADDING, MULTIPLE, Tree, grouped, pack, round_up, tree_of
from hh_scaling.tree_scores import TreeScores, batches, chains, score_trees

VOCABULARY = 300
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96},
    "gpt_neox": {"num_attention_heads": 4, "intermediate_size": 96},
    "qwen2": {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96},
    "gpt2": {"n_head": 4, "bos_token_id": 1, "eos_token_id": 1},
    "mistral": {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "sliding_window": 16},
}


def tiny_pm(architecture: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    options = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 256}
    config = AutoConfig.for_model(
        architecture, num_labels=1, pad_token_id=0, **options | ARCHITECTURES[architecture] | changes
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.uniform_(0.5, 1.5) if "norm" in name and weight.dim() == 1 else weight.mul_(5)
    return model


def random_pairs(n: int) -> list[list[list[int]]]:
    generator = torch.Generator().manual_seed(1)

    def ids(least: int, most: int) -> list[int]:
        length = int(torch.randint(least, most, (1,), generator=generator))
        return torch.randint(2, VOCABULARY, (length,), generator=generator).tolist()

    prompts = [ids(0, 60) for _ in range(n)]
    return [[prompt + ids(1, 40), prompt + ids(1, 30)] for prompt in prompts]


def plain_scores(model: PreTrainedModel, sequences: list[list[int]]) -> torch.Tensor:
    """One sequence at a time, no padding, no mask: nothing that could go wrong."""
    trunk = model.base_model
    return torch.stack([model.score(trunk(input_ids=torch.tensor([s])).last_hidden_state[0, -1])[0] for s in sequences])


def test_a_tree_is_the_common_beginning_and_the_rest() -> None:
    assert tree_of([[1, 2, 3, 0], [1, 2, 4, 0]]) == Tree([1, 2], ([3, 0], [4, 0]))
    assert tree_of([[1, 2, 0], [1, 2, 0]]) == Tree([1, 2], ([0], [0]))  # each keeps its last token
    assert tree_of([[1], [1, 2]]) == Tree([], ([1], [1, 2]))


def test_groups_waste_little_and_lose_nothing() -> None:
    lengths = torch.randint(1, 500, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    groups = list(grouped(lengths))
    assert sorted(i for group in groups for i in group) == list(range(200))
    for group in groups:
        rows = round_up(lengths[group[0]], MULTIPLE) * len(group)
        alone = len(group) == 1
        assert alone or rows - sum(lengths[i] for i in group) <= MAX_PADDING * rows


def test_batches_keep_to_the_budget() -> None:
    trees = chains([[1] * n for n in (50, 400, 20, 70, 90)])
    groups = list(batches(trees, 120))
    assert sorted(i for group in groups for i in group) == list(range(5))
    assert all(len(group) == 1 or sum(len(trees[i]) for i in group) <= 120 for group in groups)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_and_gradients_equal_those_of_lone_sequences(architecture: str) -> None:
    """float32, 1e-5: whatever way ``TreeScores`` takes; a sliding window must not be packed."""
    model, pairs = tiny_pm(architecture), random_pairs(9)
    expected = plain_scores(model, [side for pair in pairs for side in pair]).view(-1, 2)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    scores = TreeScores(model, Compute())
    found = scores([tree_of(pair) for pair in pairs])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    (found * weights).sum().backward()
    for name, parameter in model.named_parameters():
        if name in gradients:
            scale = gradients[name].abs().max()
            torch.testing.assert_close(parameter.grad / scale, gradients[name] / scale, rtol=0, atol=5e-5)
    assert (scores.packed is not None) == (architecture == "llama")
    assert scores.heeds_blocks == {"llama": None, "mistral": False}.get(architecture, True)


@pytest.mark.parametrize("budget", [1, 200, 100_000])
def test_scores_do_not_depend_on_the_batch(budget: int) -> None:
    model = tiny_pm("llama")
    trees = [tree_of(pair) for pair in random_pairs(12)]
    alone = plain_scores(model, [t.trunk + b for t in trees for b in t.branches]).view(-1, 2)
    found = score_trees(TreeScores(model, Compute(micro_batch_tokens=budget)), trees)
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_chains_score_as_sequences() -> None:
    model, sequences = tiny_pm("llama"), [[5, 6, 7, 8], [9] * 30 + [3], [4, 2]]
    found = score_trees(TreeScores(model, Compute()), chains(sequences)).squeeze(1)
    torch.testing.assert_close(found, plain_scores(model, sequences), rtol=1e-5, atol=1e-5)


def test_all_rows_and_wanted_rows_agree() -> None:
    model = tiny_pm("llama")
    packed = pack([tree_of(pair) for pair in random_pairs(7)])
    trunk = PackedLlama(model, torch.float32)
    torch.testing.assert_close(trunk(packed)[packed.ends], trunk(packed, packed.ends), rtol=1e-5, atol=1e-5)


def test_working_weights_follow_the_parameters() -> None:
    """After an optimiser step the packed layers compute with the new weights."""
    model, trees = tiny_pm("llama"), [tree_of(pair) for pair in random_pairs(4)]
    scores = TreeScores(model, Compute())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    before = scores(trees)
    before.sum().backward()
    optimizer.step()
    after = scores(trees)
    assert (after - before).abs().min() > 1e-3
    expected = plain_scores(model, [t.trunk + b for t in trees for b in t.branches]).view(-1, 2)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


def test_bf16_differs_by_rounding_only() -> None:
    """bf16 has 8 bits: through three layers scores of size one stay within a few per cent."""
    model, trees = tiny_pm("llama"), [tree_of(pair) for pair in random_pairs(9)]
    exact, rounded = (TreeScores(model, Compute(dtype=dtype))(trees) for dtype in ("float32", "bf16"))
    assert (exact - rounded).abs().max() < 0.05 * exact.std()


def test_a_longer_tree_than_any_tried_is_tried_again() -> None:
    """A window that the model hides in its mask shows on sequences longer than it alone."""
    model = tiny_pm("mistral")
    scores = TreeScores(model, Compute())
    scores.longest_tried, scores.heeds_blocks = 3, True  # as if only short ones had come
    trees = [tree_of(pair) for pair in random_pairs(4)]
    alone = plain_scores(model, [t.trunk + b for t in trees for b in t.branches]).view(-1, 2)
    torch.testing.assert_close(scores(trees), alone, rtol=1e-5, atol=1e-5)
    assert scores.heeds_blocks is False


def test_rotations_by_the_longest_sequence_are_left_to_lone_passes() -> None:
    """longrope turns by other angles beyond a length: every sequence goes alone."""
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
        "short_factor": [1.0] * 4, "long_factor": [3.0] * 4,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, num_labels=1, pad_token_id=0, rope_parameters=rope,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    assert not can_pack(model.base_model)
    pairs = [[[5, 6, 7], [5, 6, 8]], [list(range(1, 40)), list(range(1, 41))]]
    found = TreeScores(model, Compute())([tree_of(pair) for pair in pairs])
    lone = [[model(torch.tensor([ids])).logits.item() for ids in pair] for pair in pairs]
    torch.testing.assert_close(found, torch.tensor(lone), rtol=1e-5, atol=1e-5)


def test_trees_of_different_numbers_of_branches_are_refused() -> None:
    with pytest.raises(ValueError, match="numbers of branches"):
        pack([tree_of([[1, 2], [1, 3]]), tree_of([[1, 2]])])
