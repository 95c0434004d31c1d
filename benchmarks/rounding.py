"""Whose log-likelihoods lie nearer the exact ones: ours or stock HFLM's in float32, against the model in float64.

usage: python benchmarks/rounding.py --model DIR --tasks NAME,... --files DIR [--limit 12]
"""

import argparse
import copy
import tempfile
from pathlib import Path

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from hh_scaling.bench_eval import Sides, find_questions
from hh_scaling.configs import Compute
from hh_scaling.harness import Item, undisturbed
from hh_scaling.models import load_pretrained, set_up, with_pad_token


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "tasks", "files"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=int, default=12)
    given = parser.parse_args()
    compute = Compute(threads=2, dtype="float32", micro_batch_tokens=4096)
    set_up(compute)
    model = load_pretrained(AutoModelForCausalLM, given.model, attn_implementation=compute.attention)
    tokenizer = with_pad_token(AutoTokenizer.from_pretrained(given.model))
    sides, exact = (Sides(m, m, tokenizer, compute) for m in (model, in_float64(model)))
    with undisturbed(), tempfile.TemporaryDirectory() as folder:
        for question in find_questions(given.tasks.split(","), Path(given.files), given.limit, Path(folder)):
            truth = exact.stock(question, 0, 1)
            ours, stock = (largest(found, truth) for found in (sides.ours(question, 0), sides.stock(question, 0, 8)))
            print(f"{question.name}, {question.n_items} items: ours {ours:.1e}, HFLM {stock:.1e} nats from float64")


def in_float64(model: nn.Module) -> nn.Module:
    """A copy in float64, the rotary frequencies too."""
    copied = copy.deepcopy(model).double()
    for module in copied.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq = module.inv_freq.double()
    return copied


def largest(found: list[Item], truth: list[Item]) -> float:
    """The largest difference of two log-likelihoods, in nats."""
    pairs = [zip(a["loglikelihoods"], b["loglikelihoods"], strict=True) for a, b in zip(found, truth, strict=True)]
    return max(abs(one - other) for pair in pairs for one, other in pair)


if __name__ == "__main__":
    main()
