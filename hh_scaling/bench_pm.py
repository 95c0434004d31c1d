"""Throughput of preference-model training: the stage's own training loop on given models, token ids and lengths."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hh_scaling.configs import Compute, PMConfig, PMTraining, Schedule, SizeSpec
from hh_scaling.inputs import DataError, json_kind, require_unicode
from hh_scaling.models import load_pretrained, set_up
from hh_scaling.packing import Tree, tree_of
from hh_scaling.pairs import encode
from hh_scaling.pm import Training
from hh_scaling.records import StageWriter, read_jsonl


class InFileOrder(Training):
    """Training on the pairs in the order of their file, whole batches only."""

    def order(self) -> list[np.ndarray]:
        batch = self.config.training.batch_size
        return [np.arange(i, i + batch) for i in range(0, len(self.pairs) - batch + 1, batch)]


def bench_pm(
    model: Path, pairs: Path, tokenizer: Path, batch: int, max_length: int, steps: int, compute: Compute, rate: float
) -> dict[str, Any]:
    """Train for ``steps`` and say how fast: pairs and tokens a second, operations and their share of a plain product.

    Pairs with a side of more than ``max_length`` tokens, or whose sides are equal, are dropped and counted. The rate
    is constant. The time is that of the whole loop, without loading and tokenizing.
    """
    set_up(compute)
    trees, dropped = read_pairs(pairs, AutoTokenizer.from_pretrained(str(tokenizer)), max_length, batch * steps)
    if len(trees) < batch:
        raise DataError(f"{pairs}: {len(trees)} usable pairs ({dropped}), needed: at least a batch of {batch}")
    pm = load_pretrained(AutoModelForSequenceClassification, str(model), num_labels=1).to(compute.device)
    schedule = Schedule(learning_rate=rate, warmup_fraction=0.0, beta2=0.999)
    training = PMTraining(batch_size=batch, max_length=max_length, schedule=schedule, checkpoint_seconds=1e9)
    config = PMConfig(
        size=SizeSpec(name=model.name), seed=0, half="train", n_comparisons=None, training=training, compute=compute
    )
    with tempfile.TemporaryDirectory() as folder:
        out = StageWriter(Path(folder))
        started = time.perf_counter()
        InFileOrder(pm, trees, torch.ones(len(trees)), None, config, out).run()
        seconds = time.perf_counter() - started
        rows = list(read_jsonl(Path(folder) / "metrics.jsonl"))
    n_pairs, peak = rows[-1]["pairs"], product_rate(compute)
    return {
        "model": model.name, "n_pairs": n_pairs, "n_steps": len(rows), "dropped": dropped, "seconds": seconds,
        "pairs_per_s": n_pairs / seconds, "tokens_per_s": out.tokens / seconds,
        "flop_per_s": out.flops / seconds, "product_flop_per_s": peak, "share_of_product": out.flops / seconds / peak,
        "dtype": compute.dtype, "threads": compute.threads, "micro_batch_tokens": compute.micro_batch_tokens,
        "losses": [row["loss"] for row in rows],
    }  # fmt: skip


def read_pairs(path: Path, tokenizer: Any, max_length: int, n: int) -> tuple[list[Tree], dict[str, int]]:
    """The first ``n`` of a JSON list of [chosen, rejected] transcripts as trees; how many of them were dropped."""
    rows = read_rows(path)[:n]
    sides = [encode(tokenizer, [row[i] for row in rows]) for i in range(2)]
    end = tokenizer.eos_token_id
    pairs = [[chosen + [end], rejected + [end]] for chosen, rejected in zip(*sides, strict=True)]
    short = [pair for pair in pairs if max(map(len, pair)) <= max_length]
    trees = [tree_of(pair) for pair in short if pair[0] != pair[1]]
    return trees, {"too_long": len(pairs) - len(short), "equal": len(short) - len(trees)}


def read_rows(path: Path) -> list[list[str]]:
    """The file's pairs; DataError names the row, from 0, that is not two transcripts."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable JSON ({error}); expected a list of [chosen, rejected]") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: a JSON {json_kind(rows)}; expected a list of [chosen, rejected]")
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 2:
            found = f"a list of {len(row)}" if isinstance(row, list) else f"of type {json_kind(row)}"
            raise DataError(f"{path}: row {i} is {found}; expected [chosen, rejected]")
        for side, text in zip(("chosen", "rejected"), row, strict=True):
            if not isinstance(text, str) or not text:
                found = "an empty string" if text == "" else f"of type {json_kind(text)}"
                raise DataError(f"{path}: row {i}: {side} is {found}; expected a transcript")
            require_unicode(text, f"{path}: row {i}", side)
    return rows


def product_rate(compute: Compute, size: int = 1024, repeats: int = 20) -> float:
    """Operations a second of a plain square matrix product in the dtype of the products."""
    dtype = torch.bfloat16 if compute.dtype == "bf16" else torch.float32
    a = torch.randn(size, size, device=compute.device).to(dtype)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        float((a @ a)[0, 0])  # read back, so that an accelerator has finished
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / np.median(seconds))
