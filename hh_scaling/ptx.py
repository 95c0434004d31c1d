"""PPO-ptx: the next-token loss on pretraining text, mixed into PPO's (Ouyang et al. 2022, section 3.5, equation 2).

The gradient of a step is that of the PPO loss plus ptx_coef times that of the mean loss a token on fresh rows of the
text that bases are pretrained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from hh_scaling.configs import Compute, PPOConfig
from hh_scaling.models import ModelError, micro_batches
from hh_scaling.pretrain import token_rows
from hh_scaling.records import read_jsonl
from hh_scaling.rollout import Sample, response_forward
from hh_scaling.scorers import stream_seed


class PretrainingText:
    """(number of a step) -> rows of token ids, all used before one comes again, in an order that the seed gives."""

    def __init__(self, rows: np.ndarray, batch_rows: int, seed: int) -> None:
        self.rows, self.batch_rows, self.seed = rows, batch_rows, seed  # rows (n, context + 1)

    def __call__(self, step: int) -> list[list[int]]:
        first = step * self.batch_rows
        passes = [divmod(place, len(self.rows)) for place in range(first, first + self.batch_rows)]
        orders = {number: self.order(number) for number, _ in passes}
        return [self.rows[orders[number][place]].tolist() for number, place in passes]

    def order(self, number: int) -> np.ndarray:
        """The order of the rows in a pass over them."""
        return np.random.default_rng(stream_seed(self.seed, number, "pretraining text")).permutation(len(self.rows))


def load_text(config: PPOConfig, data: Path, tokenizer: Any) -> PretrainingText | None:
    """The data stage's training text, as much of it as the run can use; None where the coefficient is 0."""
    training = config.training
    if training.ptx_coef == 0:
        return None
    texts = [row["text"] for row in read_jsonl(data / "text" / "train.jsonl")]
    np.random.default_rng(stream_seed(config.seed, 0, "documents")).shuffle(texts)
    n_steps = training.n_updates * training.n_epochs * max(1, training.batch_size // training.minibatch_size)
    n_tokens = n_steps * training.ptx_rows * (training.ptx_context + 1)
    try:
        rows = token_rows(tokenizer, texts, n_tokens, training.ptx_context)
    except ValueError as error:
        raise ModelError(f"ppo.ptx_coef: no pretraining text to mix in ({error})") from error
    return PretrainingText(rows, training.ptx_rows, config.seed)


def text_gradient(
    policy: PreTrainedModel, rows: Sequence[list[int]], weight: float, budget: int, compute: Compute
) -> float:
    """Gradient of ``weight`` times the summed next-token loss of the rows, at temperature 1; that sum in nats."""
    nats = 0.0
    for group in micro_batches([len(row) for row in rows], budget):
        some = [Sample(rows[i][:1], rows[i][1:], ended=False) for i in group]
        logprobs, _, _ = response_forward(policy, None, some, 1.0, compute, with_entropy=False)
        loss = -logprobs.sum()
        (weight * loss).backward()
        nats += loss.item()
    return nats
