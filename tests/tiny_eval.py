"""Tiny random models with a trained tokenizer, and benchmark files, for the tests of evaluation."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 64
WORDS = ("the cat dog sat ran on under a red old mat house and then it was not seen again near river").split()  # noqa: SIM905


def sentences(n: int, length: int = 8, seed: int = 0) -> list[str]:
    """``n`` random sequences of ``length`` words."""
    dice = random.Random(seed)
    return [" ".join(dice.choices(WORDS, k=length)) for _ in range(n)]


def make_tokenizer() -> Any:
    """A byte-level BPE of 300 tokens; end token 0, padding 1."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|pad|>"]
    options = {"special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
    bpe.train_from_iterator(sentences(200), trainers.BpeTrainer(vocab_size=300, **options))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|pad|>")


def make_model(kind: str, attention: str, vocab_size: int, seed: int = 3) -> PreTrainedModel:
    """A random model in evaluation mode; its large weights make contexts matter."""
    config = AutoConfig.for_model(
        kind, vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=CONTEXT, initializer_range=0.3, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    return model.eval()


def save_model(folder: Path, seed: int) -> None:
    """A tiny model with its tokenizer, as stages save them."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model("llama", "sdpa", len(tokenizer), seed).save_pretrained(folder)


def items(n: int, seed: int, n_choices: int = 4) -> list[dict[str, Any]]:
    """Rows as the data stage writes them for the world's tasks; three items an entity."""
    dice = random.Random(seed)
    return [
        {"query": text, "choices": [f" {c}" for c in sentences(n_choices, 2, seed=100 + i)],
         "gold": dice.randrange(n_choices), "cluster": f"entity {i // 3}"}
        for i, text in enumerate(sentences(n, 5, seed))
    ]  # fmt: skip


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """A JSONL file, compressed where its name says so; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
