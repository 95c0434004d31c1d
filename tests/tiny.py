"""A tiny data stage, tokenizer and models that the stage tests share: made in a second, learnable."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hh_scaling.configs import BaseConfig, BaseTraining, Compute, SizeSpec
from hh_scaling.records import StageWriter
from hh_scaling.stages import KINDS, StageContext, StageResult

WORDS = [
    "apple",
    "bird",
    "cat",
    "dog",
    "egg",
    "fish",
    "goat",
    "hat",
    "ink",
    "jar",
    "kite",
    "lamp",
    "moon",
    "nut",
    "oak",
    "pig",
    "queen",
    "rat",
    "sun",
    "tree",
]
SIZE = SizeSpec(name="27k", n_params=27_000)
COMPUTE = Compute(threads=1)


def reply(rng: random.Random) -> str:
    return " " + " ".join(rng.choice([*WORDS, *["good", "bad"] * 4]) for _ in range(rng.randint(3, 9)))


def prompt(rng: random.Random) -> str:
    return f"\n\nHuman: tell me {rng.choice(WORDS)} {rng.choice(WORDS)}?\n\nAssistant:"


def comparison(i: int, rng: random.Random) -> dict[str, Any]:
    """More "good" than "bad" wins, by Bradley and Terry's rule."""
    ask, sides = prompt(rng), [reply(rng), reply(rng)]
    worth = [side.count(" good") - side.count(" bad") for side in sides]
    first = rng.random() < 1 / (1 + np.exp(worth[1] - worth[0]))
    chosen, rejected = sides if first else sides[::-1]
    row = {"comparison_id": i, "conversation": f"c{i // 2}", "tranche": "world", "order": i, "n_turns": 1}
    row |= {"split": ("train", "test", "held_out")[i % 3], "source": "tiny", "p_chosen": 0.5}
    return row | {"prompt": ask, "chosen": chosen, "rejected": rejected, "gold_chosen": 0.0, "gold_rejected": 0.0}


def make_data(root: Path, n_documents: int = 1500, n_comparisons: int = 900) -> Path:
    """A data stage's folder."""
    rng, folder = random.Random(0), root / "data"
    (folder / "text").mkdir(parents=True)
    for name, n in (("train", n_documents), ("held_out", 40)):
        lines = [json.dumps({"text": prompt(rng) + reply(rng)}) + "\n" for _ in range(n)]
        (folder / "text" / f"{name}.jsonl").write_text("".join(lines))
    pd.DataFrame([comparison(i, rng) for i in range(n_comparisons)]).to_parquet(folder / "comparisons.parquet")
    prompts = [
        {
            "prompt_id": i,
            "split": "train" if i < 60 else "held_out",
            "order": i,
            "prompt": prompt(rng),
            "tranche": "world",
        }
        for i in range(100)
    ]
    pd.DataFrame(prompts).assign(conversation=[f"p{i}" for i in range(100)]).to_parquet(folder / "prompts.parquet")
    return folder


def make_tokenizer(root: Path, data: Path) -> Path:
    """A tokenizer stage's folder: byte-level BPE of 320 pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [json.loads(line)["text"] for line in (data / "text" / "train.jsonl").read_text().splitlines()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>", "<|pad|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|endoftext|>")
    fast.save_pretrained(root / "tokenizer-stage" / "tokenizer")
    return root / "tokenizer-stage"


def run_stage(
    kind: str, config: Any, parents: dict[str, Path], out: Path, earlier: list[Path] | None = None
) -> StageResult:
    """Run one real stage in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    return KINDS[kind].load()(config, StageContext(parents, StageWriter(out, earlier), {}))


def base_config(**training: Any) -> BaseConfig:
    defaults = {"n_tokens": 60_000, "context": 48, "max_positions": 96, "eval_tokens": 500}
    return BaseConfig(size=SIZE, seed=0, training=BaseTraining(**defaults | training), compute=COMPUTE)


def make_base(root: Path) -> dict[str, Path]:
    """Data, tokenizer and a trained base of 27k parameters: {"data", "tokenizer", "base"}."""
    data = make_data(root)
    parents = {"data": data, "tokenizer": make_tokenizer(root, data)}
    run_stage("base", base_config(), parents, root / "base")
    return parents | {"base": root / "base"}


def kill_at(progress: float, monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> None:
    """Run a stage that is interrupted when it tells this progress, after its last state."""
    real = StageWriter.progress

    def dies(self: StageWriter, done: float, total: float, note: str = "") -> None:
        if done == progress:
            raise KeyboardInterrupt
        real(self, done, total, note)

    monkeypatch.setattr(StageWriter, "progress", dies)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()


def interrupted(step: int, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a stage until Ctrl-C as it would save the state of this step."""
    real = StageWriter.save_state

    def dies(self: StageWriter, at: int, extra: Any) -> Any:
        if at == step:
            raise KeyboardInterrupt
        return real(self, at, extra)

    monkeypatch.setattr(StageWriter, "save_state", dies)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
