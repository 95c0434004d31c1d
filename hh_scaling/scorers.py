"""Scores of sampled responses by a preference model, and the seeds of a run's random streams."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.foreign_pm import scorer_of
from hh_scaling.models import forward_flops, load_from_stage, load_tokenizer, same_tokenizer
from hh_scaling.pairs import context_ids, encode
from hh_scaling.pm_model import longest_text
from hh_scaling.records import StageWriter
from hh_scaling.rollout import Sample
from hh_scaling.score import CHAT, OWN, ForeignScorer, last_turn
from hh_scaling.tree_scores import TreeScores, chains, score_trees


def stream_seed(seed: int, step: int, stream: str) -> int:
    """A seed for one use at one step, so that no generator has to be saved to resume."""
    entropy = [seed, step, zlib.crc32(stream.encode())]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


class PMScorer:
    """(samples) -> (B,) scores at the end-of-context token after prompt and response.

    Token ids go straight from the policy to the preference model when both have the same tokenizer; otherwise the
    text is decoded and encoded again, and ``reencodes`` says so.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, policy_tokenizer: Any, compute: Compute, out: StageWriter
    ) -> None:
        self.scores, self.tokenizer, self.out = TreeScores(model, compute), tokenizer, out
        self.policy_tokenizer = policy_tokenizer
        self.reencodes = not same_tokenizer(tokenizer, policy_tokenizer)
        self.max_length = longest_text(model)

    def __call__(self, samples: Sequence[Sample]) -> np.ndarray:
        responses = [s.text_ids for s in samples]
        prompts = [s.prompt for s in samples]
        if self.reencodes:
            prompts, responses = (self.translate(side) for side in (prompts, responses))
        own_end = self.tokenizer.eos_token_id
        pairs = zip(prompts, responses, strict=True)
        sequences = [context_ids(p, r, own_end, self.max_length) for p, r in pairs]
        scores: np.ndarray = score_trees(self.scores, chains(sequences), self.out).squeeze(1).numpy()
        return scores

    def translate(self, rows: list[list[int]]) -> list[list[int]]:
        """The policy's token ids as the preference model's."""
        return encode(self.tokenizer, self.policy_tokenizer.batch_decode(rows))

    @property
    def format(self) -> str:
        """How prompt and response become what the model reads."""
        return OWN


class ForeignPMScorer:
    """(samples) -> (B,) scores by a classifier that somebody else trained, through its own forward pass.

    Its chat template, where it has one, or another tokenizer than the policy's: the text is decoded and encoded again,
    and ``reencodes`` says so. Otherwise token ids go straight in, between the marks that its tokenizer sets.
    """

    def __init__(self, scorer: ForeignScorer, policy_tokenizer: Any, out: StageWriter) -> None:
        self.scorer, self.policy_tokenizer, self.out = scorer, policy_tokenizer, out
        self.format = scorer.format
        self.reencodes = self.format == CHAT or not same_tokenizer(scorer.tokenizer, policy_tokenizer)

    def __call__(self, samples: Sequence[Sample]) -> np.ndarray:
        ids = self.encoded(samples) if self.reencodes else [self.marked(sample) for sample in samples]
        n_tokens = sum(map(len, ids))
        self.out.count(n_tokens, forward_flops(self.scorer.model, n_tokens, n_tokens / len(ids), logits=0))
        return self.scorer.score_ids(ids)

    def marked(self, sample: Sample) -> list[int]:
        """The policy's own token ids between the model's marks."""
        before, after = self.scorer.marks
        return before + sample.prompt + sample.text_ids + after

    def encoded(self, samples: Sequence[Sample]) -> list[list[int]]:
        """The samples' texts by the model's chat template and tokenizer."""
        sides = ([s.prompt for s in samples], [s.text_ids for s in samples])
        texts = zip(*map(self.policy_tokenizer.batch_decode, sides), strict=True)
        if self.format == CHAT:
            return [self.scorer.chat_tokens(last_turn(prompt, response)) for prompt, response in texts]
        return [self.scorer.tokens(prompt + response) for prompt, response in texts]


def load_pm_scorer(
    stage: Path, policy_tokenizer: Any, compute: Compute, out: StageWriter
) -> PMScorer | ForeignPMScorer:
    """The scorer of a pm or foreign_pm stage; a foreign folder may turn out to be a PM of this project."""
    if (stage / "model.json").is_file():
        scorer = scorer_of(stage, compute)
        model, tokenizer = scorer.model.requires_grad_(False), scorer.tokenizer
        if isinstance(scorer, ForeignScorer):
            return ForeignPMScorer(scorer, policy_tokenizer, out)
    else:
        model = load_from_stage(AutoModelForSequenceClassification, stage, compute=compute).requires_grad_(False)
        tokenizer = load_tokenizer(stage)
    return PMScorer(model, tokenizer, policy_tokenizer, compute, out)
