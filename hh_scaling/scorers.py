"""Scores of sampled responses by a preference model, and the seeds of a run's random streams."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.models import same_tokenizer
from hh_scaling.pairs import context_ids, encode
from hh_scaling.records import StageWriter
from hh_scaling.rollout import Sample
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
        self.max_length = int(getattr(model.config, "max_position_embeddings", 1 << 20))

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
