"""Token-by-token logits against whole passes of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hh_scaling.decoding import CachedDecoder, LlamaDecoder, decoder_of


def llama(n_key: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=n_key, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("n_key", [4, 2])
@torch.no_grad()
def test_logits_are_those_of_whole_sequences(n_key: int) -> None:
    """Left-padded prompts of different lengths, sequences that leave: float32, 1e-4 of logits of size one."""
    model = llama(n_key)
    prompts = [torch.randint(40, (n,)).tolist() for n in (1, 7, 5, 12)]
    tokens = torch.tensor([[0] * (12 - len(p)) + p for p in prompts])
    seen = torch.tensor([[0] * (12 - len(p)) + [1] * len(p) for p in prompts])
    for decoder in (LlamaDecoder(model, seen, 6), CachedDecoder(model, seen)):
        rows, inputs, sequences = [0, 1, 2, 3], tokens, [list(p) for p in prompts]
        for step in range(6):
            logits = decoder.read(inputs)
            expected = torch.stack([model(torch.tensor([sequences[i]])).logits[0, -1] for i in rows])
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
            if step == 2:
                decoder.keep(torch.tensor([0, 2, 3]))
                rows = [0, 2, 3]
            inputs = torch.randint(40, (len(rows), 1))
            for i, token in zip(rows, inputs[:, 0].tolist(), strict=True):
                sequences[i].append(token)


def test_which_decoder() -> None:
    seen = torch.ones(1, 3, dtype=torch.long)
    assert isinstance(decoder_of(llama(2), seen, 2), LlamaDecoder)
    biased = llama(2)
    biased.config.hidden_act = "gelu"
    assert isinstance(decoder_of(biased, seen, 2), CachedDecoder)
