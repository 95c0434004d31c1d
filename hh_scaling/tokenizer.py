"""The tokenizer stage: a byte-level BPE trained on the study's text, and the one way to encode data with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hh_scaling.configs import TokenizerConfig
from hh_scaling.estimates import ratio
from hh_scaling.inputs import DataError
from hh_scaling.stages import StageContext, StageResult

EOS = "<|endoftext|>"  # id 0
PAD = "<|pad|>"  # id 1; never the end token, so that a mask by id could not lose the end
MIN_VOCAB = 256 + 2  # every byte, and the two special tokens


def run(config: TokenizerConfig, context: StageContext) -> StageResult:
    """Train on the data stage's text and save to ``tokenizer/``; the summary holds bytes per token on held-out text.

    DataError when there is no text, or the vocabulary is too small or larger than the text supports.
    """
    text = context.parents["data"] / "text"
    if (text / "train.jsonl").stat().st_size == 0:
        raise DataError("tokenizer: the study has no training text; expected text files, or models with a tokenizer")
    tokenizer = train(_sample(text / "train.jsonl", config.max_bytes), config.vocab_size)
    tokenizer.save_pretrained(str(context.out.path / "tokenizer"))
    held_out = list(_sample(text / "held_out.jsonl", config.max_bytes))
    summary = {"vocab_size": len(tokenizer), "bytes_per_token": bytes_per_token(tokenizer, held_out)}
    return StageResult(summary)


def train(texts: Iterator[str], vocab_size: int) -> Any:
    """A transformers fast tokenizer of ``vocab_size`` entries (special tokens and bytes counted).

    Any text decodes to itself, and no text encodes to a special token. DataError as in ``run``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < MIN_VOCAB:
        raise DataError(f"tokenizer.vocab_size: {vocab_size} is too small; expected at least {MIN_VOCAB}")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if (supported := bpe.get_vocab_size()) < vocab_size:
        raise DataError(
            f"tokenizer.vocab_size: {vocab_size} is more than the training text supports; "
            f"expected {MIN_VOCAB} to {supported}, or more text"
        )
    # Saved with the tokenizer, so that whoever loads it is safe from special tokens typed into the data.
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=EOS,
        pad_token=PAD,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: Any, text: str) -> list[int]:
    """The token ids of ``text`` alone: nothing added, and a special token's name in the text is spelled out."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def bytes_per_token(tokenizer: Any, texts: list[str]) -> dict[str, Any] | None:
    """UTF-8 bytes a token over ``texts``, its standard error over texts; None without a token."""
    n_bytes = [len(text.encode()) for text in texts]
    n_tokens = [len(encode(tokenizer, text)) for text in texts]
    return ratio(n_bytes, n_tokens) if sum(n_tokens) else None


def _sample(path: Path, max_bytes: int) -> Iterator[str]:
    """Texts spread evenly over the whole file, about ``max_bytes`` in all (by the file's own bytes).

    The first bytes alone would be the first source's, novels without dialogue for example.
    """
    wanted = min(1.0, max_bytes / max(1, path.stat().st_size))
    seen = taken = 0
    with open(path, "rb") as stream:
        for line in stream:
            seen += len(line)
            if taken < wanted * seen:
                taken += len(line)
                yield json.loads(line)["text"][:max_bytes]
