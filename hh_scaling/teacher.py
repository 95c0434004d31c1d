"""The teacher stage: what a base says after every token of many texts when it has read a prompt before each of them.

Texts are the train half's chosen dialogues and a share of plain training text, which the prompt's last words announce
as a new conversation (Bai et al. 2022, appendix A.1); held-out dialogues come besides. All tokens but the first of
each text count. The stage keeps the k most likely next tokens and, as one number, the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from hh_scaling.configs import DataConfig, TeacherConfig
from hh_scaling.distillation import top_k_logprobs
from hh_scaling.estimates import ratio
from hh_scaling.inputs import DataError
from hh_scaling.models import (
    autocast,
    check_length,
    describe,
    forward_flops,
    load_causal_lm,
    load_tokenizer,
    micro_batches,
    pad_right,
    set_up,
)
from hh_scaling.pairs import context_ids, encode
from hh_scaling.prefix import Prefix, next_logits
from hh_scaling.prompt import HUMAN, prompt_text
from hh_scaling.records import atomic_write, config_hash, damaged_files, manifest, read_jsonl, read_record
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.targets import Example, Target, TargetFiles, write_shard
from hh_scaling.training import Stopwatch

SHARD = 256  # examples in a file
CHECKPOINT_SECONDS = 120.0
CHARACTERS_A_TOKEN = 16  # of plain text that are read for each token wanted: more than any usual text needs


def run(config: TeacherConfig, context: StageContext) -> StageResult:
    """Write prompt.txt and targets/, resuming after the last shard that an earlier attempt saved."""
    set_up(config.compute)
    base, data = context.parents["base"], context.parents["data"]
    tokenizer, model = load_tokenizer(base), load_causal_lm(base, compute=config.compute).requires_grad_(False)
    world = DataConfig(**read_record(data / "record.json").config)
    text = prompt_text(config.prompt, world, config.targets.n_prompt_dialogues, context.where)
    atomic_write(context.out.path / "prompt.txt", text)
    prompt, marker = encode(tokenizer, [text, HUMAN])
    longest = config.targets.max_length
    what = f"reference: prompt ({len(prompt)} tokens), its last words ({len(marker)}) and max_length ({longest})"
    check_length(model, len(prompt) + len(marker) + longest, what)
    teacher = Teacher(model, tokenizer, prompt, marker, config)
    parts = {"held_out": held_out_examples(data, tokenizer, config), "train": train_examples(data, tokenizer, config)}
    write_targets(teacher, parts, context)
    summary: dict[str, Any] = {
        "model": describe(model, config.size.name),
        "vocabulary": config_hash(tokenizer.get_vocab()),
        "prompt": "world" if config.prompt is None else config.prompt.name,
        "n_prompt_tokens": len(prompt),
        "n_examples": len(parts["train"]),
        "n_predicted": sum(example.n_predicted for example in parts["train"]),
        "n_held_out": len(parts["held_out"]),
        "rest": rest(TargetFiles(sorted((context.out.path / "targets").glob("held_out-*")))),
    }
    return StageResult(summary)


def rest(targets: TargetFiles) -> dict[str, Any] | None:
    """The mean probability outside the k kept ones on held-out dialogues, with an error over conversations, if any."""
    if not targets.examples:
        return None
    sums = [float(np.exp(target.logprobs[:, -1].astype(float)).sum()) for target in targets]
    examples = targets.examples
    return ratio(sums, [e.n_predicted for e in examples], [e.cluster for e in examples])


# ---------------------------------------------------------------- the texts


def dialogue_examples(rows: pd.DataFrame, tokenizer: Any, max_length: int) -> list[Example]:
    """Prompt + chosen response + end token of each row; clusters are conversations."""
    prompts, responses = encode(tokenizer, list(rows.prompt)), encode(tokenizer, list(rows.chosen))
    found = []
    for prompt, response, cluster in zip(prompts, responses, pd.factorize(rows.conversation)[0], strict=True):
        ids = context_ids(prompt, response, tokenizer.eos_token_id, max_length)
        found.append(Example(ids, len(ids) - 1 - min(len(response), max_length - 1), int(cluster)))
    return [example for example in found if example.n_predicted > 0]


def train_examples(data: Path, tokenizer: Any, config: TeacherConfig) -> list[Example]:
    """The train half's first chosen dialogues, then plain documents in a seeded order."""
    wanted = config.targets
    n_texts = round(wanted.text_share * wanted.n_examples)
    rows = split_rows(data, "train", wanted.n_examples - n_texts)
    texts = [row["text"] for row in read_jsonl(data / "text" / "train.jsonl")] if n_texts else []
    if n_texts and not texts:
        raise DataError("reference.text_share: there is no training text; --set reference.text_share=0")
    chosen = np.random.default_rng(config.seed).permutation(len(texts))[:n_texts]
    cut = [texts[i][: CHARACTERS_A_TOKEN * wanted.max_length] for i in chosen]
    plain = [ids[: wanted.max_length] for ids in encode(tokenizer, cut)]
    return dialogue_examples(rows, tokenizer, wanted.max_length) + [
        Example(ids, len(ids)) for ids in plain if len(ids) > 1
    ]


def held_out_examples(data: Path, tokenizer: Any, config: TeacherConfig) -> list[Example]:
    """The first held-out chosen dialogues, the same for every teacher with this tokenizer."""
    return dialogue_examples(
        split_rows(data, "held_out", config.targets.n_held_out), tokenizer, config.targets.max_length
    )


def split_rows(data: Path, split: str, n: int) -> pd.DataFrame:
    """The first ``n`` comparisons of a part, in their fixed order."""
    rows = pd.read_parquet(data / "comparisons.parquet", columns=["split", "order", "conversation", "prompt", "chosen"])
    return rows[rows.split == split].sort_values("order").head(n)


# ---------------------------------------------------------------- the answers


@dataclass
class Teacher:
    """A model with a prompt, and another before texts that are no dialogues themselves."""

    model: PreTrainedModel
    tokenizer: Any
    prompt: list[int]
    marker: list[int]
    config: TeacherConfig

    def __post_init__(self) -> None:
        compute = self.config.compute
        self.prefixes = {
            False: Prefix(self.model, self.prompt, compute),
            True: Prefix(self.model, self.prompt + self.marker, compute),
        }

    def is_plain(self, example: Example) -> bool:
        """Whether a text does not begin like a dialogue, so that it has to be announced as one."""
        return example.tokens[: len(self.marker)] != self.marker and example.start == len(example.tokens)

    @torch.no_grad()
    def answers(self, examples: Sequence[Example], plain: bool) -> list[Target]:
        """Targets of a few examples, in one forward pass."""
        compute, wanted = self.config.compute, self.config.targets
        tokens, lengths = pad_right([e.tokens for e in examples], self.tokenizer.pad_token_id, compute.device)
        with autocast(compute):
            logits = next_logits(self.model, self.prefixes[plain].hidden(tokens), lengths, wanted.temperature)
        ids, logprobs = top_k_logprobs(logits, wanted.top_k, len(self.tokenizer))
        sizes = [example.n_predicted for example in examples]
        pairs = zip(examples, ids.cpu().split(sizes), logprobs.cpu().split(sizes), strict=True)
        return [Target(example, part.numpy().astype(np.uint32), kept.numpy()) for example, part, kept in pairs]

    def shard(self, examples: Sequence[Example], context: StageContext) -> list[Target]:
        """Targets of all examples, in micro-batches of similar length."""
        done: dict[int, Target] = {}
        for plain, prefix in self.prefixes.items():
            mine = [i for i, example in enumerate(examples) if self.is_plain(example) == plain]
            lengths = [len(examples[i].tokens) for i in mine]
            for group in micro_batches(prefix.weights(lengths), self.config.compute.micro_batch_tokens):
                rows = [mine[i] for i in group]
                done |= zip(rows, self.answers([examples[i] for i in rows], plain), strict=True)
            n_tokens, mean = sum(lengths), prefix.length + sum(lengths) / (2 * len(lengths) or 1)
            context.out.count(n_tokens, forward_flops(self.model, n_tokens, 2 * mean))
        return [done[i] for i in range(len(examples))]


def write_targets(teacher: Teacher, parts: Mapping[str, list[Example]], context: StageContext) -> None:
    """A file for every ``SHARD`` examples of each part; what an earlier attempt saved is copied."""
    out = context.out
    jobs = [(part, start) for part, rows in parts.items() for start in range(0, len(rows), SHARD)]
    folder, stopwatch = out.path / "targets", Stopwatch(CHECKPOINT_SECONDS)
    first = resume(context)
    folder.mkdir(exist_ok=True)
    for number, (part, start) in enumerate(jobs[first:], first):
        targets = teacher.shard(parts[part][start : start + SHARD], context)
        write_shard(folder / f"{part}-{start // SHARD:05d}.safetensors", targets, len(teacher.tokenizer))
        out.progress(number + 1, len(jobs))
        if stopwatch.due():
            with out.save_state(number, {"targets": manifest(folder)}):
                pass


def resume(context: StageContext) -> int:
    """The first shard still to be made; those before it are copied from the attempt that was resumed."""
    found = context.out.resume(targets_whole)
    if found is None:
        return 0
    state, meta = found
    for name in meta["extra"]["targets"]:
        target = context.out.path / "targets" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(state.parent.parent / "targets" / name, target)
    return int(meta["step"]) + 1


def targets_whole(state: Path, meta: Mapping[str, Any]) -> bool:
    """Whether the shards that a saved state counts on are undamaged in its attempt."""
    return not damaged_files(state.parent.parent / "targets", meta["extra"]["targets"])
