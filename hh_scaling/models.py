"""Language models from any source, in one form: a Hugging Face causal LM with float32 weights and no dropout."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hh_scaling.configs import BaseTraining, Compute, SizeSpec
from hh_scaling.shapes import shape_for

PAD_MULTIPLE = 16  # tokens
# M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of malloc.h: nothing is given back, the heap grows in large steps.
MALLOC_OPTIONS = {-1: 2**31 - 1, -2: 2**26, -3: 2**30}


class ModelError(ValueError):
    """A model that cannot be built or loaded; the message is one line."""


def set_up(compute: Compute) -> None:
    """Fix what rounding depends on: threads, deterministic kernels, no denormals (they are slow on processors)."""
    torch.set_num_threads(compute.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # for debugging; costs a tenth
    torch.set_flush_denormal(True)
    keep_freed_memory()
    transformers.logging.set_verbosity_error()  # its load reports and bars would drown the launcher's lines
    transformers.logging.disable_progress_bar()


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed: asking the system again and again costs up to a third."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in MALLOC_OPTIONS.items():
            libc.mallopt(option, value)


def autocast(compute: Compute) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in bf16 where the configuration says so; weights stay float32."""
    if compute.dtype == "bf16":
        return torch.autocast(torch.device(compute.device).type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


# ---------------------------------------------------------------- counting


def count_params(model: PreTrainedModel) -> tuple[int, int]:
    """(non-embedding, total) parameters; input and output embeddings are left out of the first, tied ones once."""
    embeddings = {
        id(p): p.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
        for p in module.parameters()
    }
    total = sum(p.numel() for p in model.parameters())
    return total - sum(embeddings.values()), total


def forward_flops(model: PreTrainedModel, n_tokens: int, mean_context: float, logits: int | None = None) -> float:
    """Floating-point operations of a forward pass: 2 a parameter and token, attention, and ``logits`` output rows.

    Attention: 4 * d_model * context a layer and token, half of it causal. ``logits`` is all tokens unless given.
    """
    config = model.config
    n_params, _ = count_params(model)
    attention = 2 * config.num_hidden_layers * config.hidden_size * mean_context
    head = 2 * config.hidden_size * config.vocab_size * (n_tokens if logits is None else logits)
    return float(n_tokens * (2 * n_params + attention) + head)


def describe(model: PreTrainedModel, name: str) -> dict[str, Any]:
    """The ``model`` entry of a stage's summary."""
    n_params, n_params_total = count_params(model)
    return {"name": name, "n_params": n_params, "n_params_total": n_params_total}


# ---------------------------------------------------------------- building and loading


def build_rung(size: SizeSpec, training: BaseTraining, compute: Compute, tokenizer: Any, seed: int) -> PreTrainedModel:
    """A randomly initialised rung of the ladder in float32; its shape comes from ``size.n_params``.

    Output projections of attention and MLP start small, so that every block starts near the identity.
    """
    assert size.n_params is not None
    shape = shape_for(size.n_params, size.architecture)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "intermediate_size": shape.d_ff,
        "max_position_embeddings": training.max_positions,
        "tie_word_embeddings": True,
        "initializer_range": 1 / math.sqrt(shape.d_model),
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(size.architecture, **common)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=compute.attention, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "attention.dense.weight", "dense_4h_to_h.weight")):
                weight.mul_(training.output_init_scale)
        model.get_input_embeddings().weight.mul_(0.5)
    return without_dropout(model)


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """The model in evaluation mode, in which it stays: gradients flow, dropout never acts."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.eval()


def load_pretrained(
    kind: type, source: str, trust_remote_code: bool = False, new_head: bool = True, **options: Any
) -> PreTrainedModel:
    """``kind.from_pretrained`` with float32 weights from safetensors; one line when it cannot be had.

    With ``new_head`` the weights of a score head may be missing, which then are random.
    """
    try:
        model, info = kind.from_pretrained(  # type: ignore[attr-defined]
            source, dtype=torch.float32, trust_remote_code=trust_remote_code, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{source}: cannot load this model ({reason})") from error
    if missing := sorted(key for key in info["missing_keys"] if not (new_head and key.startswith("score."))):
        raise ModelError(f"{source}: {len(missing)} weights are missing, such as {missing[0]}; expected: all of them")
    return without_dropout(model)


def check_length(model: PreTrainedModel, n_tokens: int, what: str) -> None:
    """ModelError when sequences of ``n_tokens`` do not fit the model's context."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and n_tokens > limit:
        raise ModelError(f"{what} come to {n_tokens} tokens, allowed: at most {limit}, the model's context")


@torch.no_grad()
def check_output_head(model: PreTrainedModel) -> None:
    """ModelError unless logits are the output matrix times the last hidden states, as all stages compute them."""
    tokens = torch.tensor([[3, 4, 5, 6]], device=model.device)
    short = model.get_output_embeddings()(hidden_states(model, tokens))
    if not torch.allclose(short, model(input_ids=tokens).logits, rtol=1e-3, atol=1e-3):
        raise ModelError(f"{type(model).__name__}: its logits are not its output matrix times its last hidden states")


def load_gguf(path: Path) -> tuple[PreTrainedModel, Any]:
    """A GGUF file dequantized to a float32 causal LM, and its tokenizer. Needs the ``gguf`` extra."""
    try:
        from transformers import GgufConfig
    except ImportError as error:
        raise ModelError(f"{path}: this version of transformers cannot read GGUF files ({error})") from error
    folder, name = str(path.parent), path.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = load_pretrained(
        AutoModelForCausalLM,
        folder,
        gguf_file=name,
        quantization_config=GgufConfig(dequantize=True, gguf_file=name),
    )
    with contextlib.suppress(AttributeError):
        del model.config.quantization_config
    return model, tokenizer


def model_source(stage: Path, checkpoint: str | None = None) -> str:
    """Where a base, reference, pm or ppo stage's weights are: its own folder, or what ``model.json`` names."""
    if checkpoint is not None and checkpoint != "end":
        for entry in json.loads((stage / "checkpoints.json").read_text()):
            if entry["name"] == checkpoint:
                return str(stage / entry["path"])
        raise ModelError(f"{stage.name}: no checkpoint {checkpoint!r}")
    if (stage / "model").is_dir():
        return str(stage / "model")
    return str(json.loads((stage / "model.json").read_text())["source"])


def load_causal_lm(stage: Path, checkpoint: str | None = None, compute: Compute | None = None) -> PreTrainedModel:
    """The stage's causal LM in float32, evaluation mode; ``checkpoint`` names one of a policy's."""
    return load_from_stage(AutoModelForCausalLM, stage, checkpoint, compute)


def load_from_stage(
    kind: Any, stage: Path, checkpoint: str | None = None, compute: Compute | None = None, **options: Any
) -> PreTrainedModel:
    """A stage's model as ``kind``, with the configuration's attention and on its device."""
    compute = compute or Compute()
    options |= load_options(stage)
    model = load_pretrained(kind, model_source(stage, checkpoint), attn_implementation=compute.attention, **options)
    return model.to(compute.device)


def load_options(stage: Path) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained`` that a model kept elsewhere needs: its revision, its permission."""
    options: dict[str, Any] = {}
    if (stage / "model.json").is_file():
        saved = json.loads((stage / "model.json").read_text())
        options = {k: saved[k] for k in ("revision", "trust_remote_code") if saved.get(k)}
    return options


def load_tokenizer(stage: Path, checkpoint: str | None = None) -> Any:
    """The tokenizer saved with the stage's model (or checkpoint), with a padding token that is not its end token."""
    options = {k: v for k, v in load_options(stage).items() if k in ("revision", "trust_remote_code")}
    return with_pad_token(AutoTokenizer.from_pretrained(model_source(stage, checkpoint), **options))


def with_pad_token(tokenizer: Any) -> Any:
    """The tokenizer, given another of its special tokens as padding where padding is missing or equals the end.

    ``AutoModelForSequenceClassification`` reads the score at the rightmost token that is not padding; with padding
    equal to the end-of-context token it would skip that token.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-text token")
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return tokenizer
    added = sorted(tokenizer.added_tokens_decoder.items())
    others = [t.content for i, t in added if t.special and i not in (tokenizer.eos_token_id, tokenizer.bos_token_id)]
    if not others:
        raise ModelError(f"{tokenizer.name_or_path}: no special token besides the end token can serve as padding")
    preferred = [t for t in others if "pad" in t.lower()] or others
    tokenizer.pad_token = preferred[0]
    return tokenizer


def same_tokenizer(one: Any, other: Any) -> bool:
    """Whether two tokenizers map the same text to the same ids (compared by vocabulary and merges)."""
    known = [t.backend_tokenizer.to_str() for t in (one, other) if hasattr(t, "backend_tokenizer")]
    if len(known) == 2 and known[0] == known[1]:
        return True
    return bool(one.get_vocab() == other.get_vocab()) and type(one) is type(other)


# ---------------------------------------------------------------- token batches


def pad_right(rows: list[list[int]], pad: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """(tokens (B, T), lengths (B,)) of sequences padded on the right, T a multiple of 16.

    With causal attention nothing before a position sees the padding after it, so no attention mask is needed. Few
    different widths let the processor's kernels be made once: a quarter less time and half the memory in bf16.
    """
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), round_up(int(lengths.max()))), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    return tokens.to(device), lengths.to(device)


def round_up(n: int, multiple: int = PAD_MULTIPLE) -> int:
    """The smallest multiple that is at least ``n``."""
    return -(-n // multiple) * multiple


def micro_batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Indices of sequences grouped by length so that each padded group holds at most ``budget`` tokens."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[group[0]] if group else lengths[i]
        if group and longest * (len(group) + 1) > budget:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def hidden_states(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """(B, T, d_model) last hidden states of right-padded tokens, without the output head."""
    hidden: Tensor = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    return hidden
