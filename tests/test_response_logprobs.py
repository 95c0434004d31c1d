"""Packed log-probabilities of responses against padded passes of transformers and autograd."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hh_scaling.configs import Compute
from hh_scaling.losses import entropy, token_logprobs
from hh_scaling.models import hidden_states
from hh_scaling.response_logprobs import ROWS_AT_ONCE, TokenLogprobs, entropies, packed_hidden, packs


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_and_gradients_are_autograds(temperature: float) -> None:
    """More rows than one chunk holds; float32, the same sums in another order: 1e-5."""
    torch.manual_seed(0)
    n, d, v = ROWS_AT_ONCE + 37, 12, 50
    targets, weights = torch.randint(v, (n,)), torch.randn(n)
    ours, theirs = ([torch.randn(n, d), torch.randn(v, d)] for _ in range(2))
    theirs = [x.clone().requires_grad_() for x in ours]
    ours = [x.requires_grad_() for x in ours]
    found = TokenLogprobs.apply(*ours, targets, temperature, torch.float32)
    expected = token_logprobs(theirs[0] @ theirs[1].T, targets, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    spread = entropies(ours[0], ours[1], temperature, torch.float32)
    torch.testing.assert_close(spread, entropy(theirs[0] @ theirs[1].T, temperature).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_packed_hidden_states_are_those_of_padded_passes(tied: bool) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=200, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    assert packs(model, Compute()) and not packs(model, Compute(device="cuda"))
    sequences = [torch.randint(40, (n,)).tolist() for n in (3, 150, 40, 41, 1)]  # the third and fourth are of one block
    n_last = [2, 50, 40, 1, 1]
    found = packed_hidden(model, sequences, n_last, torch.float32)
    expected = [hidden_states(model, torch.tensor([ids]))[0, -n:] for ids, n in zip(sequences, n_last, strict=True)]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)
