"""The base stage: a rung pretrained on the study's text, or a model that exists, with its held-out loss."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from hh_scaling.configs import BaseConfig, BaseTraining, Compute, ForeignPMConfig, SizeSpec
from hh_scaling.estimates import ratio
from hh_scaling.models import (
    autocast,
    build_rung,
    check_output_head,
    describe,
    forward_flops,
    hidden_states,
    load_causal_lm,
    load_gguf,
    load_tokenizer,
    set_up,
    with_pad_token,
)
from hh_scaling.records import StageWriter, check_finite, read_jsonl, write_json
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training import (
    Stopwatch,
    apply_step,
    learning_rate,
    load_training_state,
    make_optimizer,
    save_training_state,
)


def run(config: BaseConfig, context: StageContext) -> StageResult:
    """Train or fetch the base model, save it, and measure it on held-out text."""
    set_up(config.compute)
    summary: dict[str, Any] = {}
    if config.size.n_params is not None:
        model, tokenizer = train_rung(config, context)
        save_model(model, tokenizer, context.out.path / "model")
        summary["n_tokens"] = config.training.n_tokens
    else:
        fetch_model(config, context)
        model, tokenizer = load_causal_lm(context.out.path, compute=config.compute), load_tokenizer(context.out.path)
        check_output_head(model)
        pin_revision(context.out.path, model)
        if note := tuned_note(config.size, tokenizer):
            summary["note"] = note
    summary["model"] = describe(model, config.size.name)
    held_out = [row["text"] for row in read_jsonl(context.parents["data"] / "text" / "held_out.jsonl")]
    documents = document_losses(model, tokenizer, held_out, config.training, config.compute)
    documents.drop(columns="bytes").to_parquet(context.out.path / "held_out.parquet", index=False)
    summary["held_out"] = summed_loss(documents)
    return StageResult(summary)


def save_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """A Hugging Face folder (safetensors, tokenizer) that ``AutoModel…from_pretrained`` loads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def pin_revision(stage: Path, model: PreTrainedModel) -> None:
    """Write the commit that the hub gave into ``model.json``, so that every later stage loads the same weights."""
    commit = getattr(model.config, "_commit_hash", None)
    if commit is not None and (stage / "model.json").is_file():
        saved = json.loads((stage / "model.json").read_text())
        write_json(stage / "model.json", saved | {"revision": commit})


def tuned_note(size: SizeSpec, tokenizer: Any) -> str | None:
    """A warning for a model that is no plain language model: its tax is that of further RLHF."""
    source = " ".join(filter(None, (size.name, size.hub, size.path, size.gguf)))
    named = re.search(r"(?i)(?<![a-z])(instruct|chat|it|sft|dpo|rlhf)(?![a-z])", source)
    if not named and not getattr(tokenizer, "chat_template", None):
        return None
    reason = f"its name says {named[0]!r}" if named else "its tokenizer has a chat template"
    return f"{size.name} was already tuned on instructions or preferences ({reason}): its tax is that of further RLHF"


def fetch_model(config: BaseConfig | ForeignPMConfig, context: StageContext) -> None:
    """Convert a GGUF file to a folder, or note where the hub's or a local folder's weights are."""
    size, out = config.size, context.out
    if "size.gguf" in context.where:
        model, tokenizer = load_gguf(Path(context.where["size.gguf"]))
        save_model(model, with_pad_token(tokenizer), out.path / "model")
        return
    source = size.hub or context.where["size.path"]
    saved = {"source": source, "revision": size.revision, "trust_remote_code": size.trust_remote_code}
    write_json(out.path / "model.json", saved)


# ---------------------------------------------------------------- training


def token_rows(tokenizer: Any, texts: list[str], n_tokens: int, context: int) -> np.ndarray:
    """(rows, context + 1) token ids: the documents joined by the end token and cut; at most about ``n_tokens``."""
    ids: list[int] = []
    for start in range(0, len(texts), 1000):
        batch = tokenizer(texts[start : start + 1000], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for document in batch:
            ids += document
            ids.append(tokenizer.eos_token_id)
        if len(ids) > n_tokens + context:
            break
    n_rows = min(len(ids), n_tokens) // (context + 1)
    if n_rows == 0:
        raise ValueError(f"text: {len(ids)} tokens, needed: at least {context + 1} (base.context + 1)")
    return np.array(ids[: n_rows * (context + 1)], dtype=np.int32).reshape(n_rows, context + 1)


def row_order(n_rows: int, n_needed: int, seed: int) -> np.ndarray:
    """(n_needed,) row indices: permutations of all rows, one after another, so that rows repeat as late as possible."""
    rng = np.random.default_rng(seed)
    passes = math.ceil(n_needed / n_rows)
    return np.concatenate([rng.permutation(n_rows) for _ in range(passes)])[:n_needed]


def lm_loss(model: PreTrainedModel, rows: torch.Tensor, compute: Compute) -> torch.Tensor:
    """Mean next-token cross-entropy (nats) of (B, context + 1) rows; the softmax is in float32."""
    with autocast(compute):
        logits = model.get_output_embeddings()(hidden_states(model, rows[:, :-1]))
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def train_rung(config: BaseConfig, context: StageContext) -> tuple[PreTrainedModel, Any]:
    """Next-token training of a new rung on the study's text; resumes from an earlier attempt's state."""
    training, out, compute = config.training, context.out, config.compute
    tokenizer = load_tokenizer_folder(context.parents["tokenizer"] / "tokenizer")
    texts = [row["text"] for row in read_jsonl(context.parents["data"] / "text" / "train.jsonl")]
    np.random.default_rng(config.seed).shuffle(texts)
    rows = token_rows(tokenizer, texts, training.n_tokens, training.context)
    n_steps = max(1, training.n_tokens // (training.batch_rows * (training.context + 1)))
    order = row_order(len(rows), n_steps * training.batch_rows, config.seed).reshape(n_steps, -1)
    model = build_rung(config.size, training, compute, tokenizer, config.seed).to(compute.device)
    optimizer = make_optimizer(model.parameters(), training.schedule)
    first, stopwatch = resume(out, model, optimizer), Stopwatch(training.checkpoint_seconds)
    step_tokens = training.batch_rows * training.context
    step_flops = 3 * forward_flops(model, step_tokens, training.context)
    for step in range(first, n_steps):
        batch = torch.from_numpy(rows[order[step]].astype(np.int64)).to(compute.device)
        loss = lm_loss(model, batch, compute)
        check_finite("pretraining loss", loss.item(), step)
        loss.backward()
        rate = learning_rate(training.schedule, model.config.hidden_size, step, n_steps)
        norm = apply_step(optimizer, training.schedule, rate, step)
        out.count(step_tokens, step_flops)
        if step % 20 == 0 or step == n_steps - 1:
            out.log({"step": step, "tokens": out.tokens, "loss": loss.item(), "lr": rate, "grad_norm": norm})
        out.progress(step + 1, n_steps, f"loss {loss.item():.3f}" if step % 20 == 0 else "")
        if stopwatch.due():
            with out.save_state(step, {}) as folder:
                save_training_state(folder, model, optimizer)
    return model, tokenizer


def resume(out: StageWriter, model: PreTrainedModel, optimizer: torch.optim.AdamW) -> int:
    """The first step still to be made: 0, or the one after the newest valid state, which is restored."""
    if (found := out.resume()) is None:
        return 0
    folder, meta = found
    load_training_state(folder, model, optimizer)
    return int(meta["step"]) + 1


def load_tokenizer_folder(folder: Path) -> Any:
    """The fast tokenizer saved in ``folder``."""
    from transformers import AutoTokenizer

    return with_pad_token(AutoTokenizer.from_pretrained(str(folder)))


# ---------------------------------------------------------------- held-out loss


def held_out_loss(
    model: PreTrainedModel, tokenizer: Any, texts: list[str], training: BaseTraining, compute: Compute
) -> dict[str, Any] | None:
    """Held-out loss in nats a token and in bits a byte over whole documents; None when there is no held-out text."""
    return summed_loss(document_losses(model, tokenizer, texts, training, compute))


@torch.no_grad()
def document_losses(
    model: PreTrainedModel, tokenizer: Any, texts: list[str], training: BaseTraining, compute: Compute
) -> pd.DataFrame:
    """``document`` (its number), summed ``nats``, ``tokens`` and ``bytes`` of documents until ``eval_tokens``.

    Documents are cut into windows of the context length; empty ones are passed over.
    """
    rows: list[tuple[int, float, int, int]] = []
    n_tokens = 0
    for number, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if not ids:
            continue
        nats = 0.0
        for start in range(0, len(ids), training.context):
            window = ids[start : start + training.context]
            row = torch.tensor([[tokenizer.eos_token_id, *window]], device=compute.device)
            nats += float(lm_loss(model, row, compute)) * len(window)
        rows.append((number, nats, len(ids), len(text.encode())))
        n_tokens += len(ids)
        if n_tokens >= training.eval_tokens:
            break
    return pd.DataFrame(rows, columns=["document", "nats", "tokens", "bytes"])


def summed_loss(documents: pd.DataFrame) -> dict[str, Any] | None:
    """Nats a token and bits a byte with standard errors over documents; None where there are none."""
    if documents.empty:
        return None
    return {
        "loss": ratio(documents.nats, documents.tokens),
        "bits_per_byte": ratio(documents.nats / math.log(2), documents.bytes),
    }
