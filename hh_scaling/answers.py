"""What a language model makes of good and bad answers: its loss on both, and whether it finds the good one likelier.

Bai et al. 2022: RLHF widens the difference but worsens the loss on both (figure 37, on StackOverflow answers); the mean
log-probability of a response's tokens is a preference of its own (figure 34, whose ceiling is a preference model's
accuracy). Here on held-out comparisons: chosen responses are the good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hh_scaling.estimates import clustered_mean, ratio

SIDES = ("chosen", "rejected")
ALL = "all"


def with_logprobs(comparisons: pd.DataFrame, loglikelihoods: Sequence[float], n_tokens: Sequence[int]) -> pd.DataFrame:
    """The comparisons with the log-likelihood (nats) and number of tokens of both responses; (n, 2) flat, chosen first.

    Comparisons with a response of no token are left out.
    """
    table = comparisons[["comparison_id", "conversation", "tranche"]].reset_index(drop=True)
    for i, side in enumerate(SIDES):
        table[f"loglikelihood_{side}"] = np.asarray(loglikelihoods, dtype=float)[i::2]
        table[f"n_tokens_{side}"] = np.asarray(n_tokens, dtype=int)[i::2]
    return table[(table.n_tokens_chosen > 0) & (table.n_tokens_rejected > 0)].reset_index(drop=True)


def accuracy_scores(table: pd.DataFrame) -> np.ndarray:
    """(n,) 1 where the mean log-probability of the chosen response's tokens is the higher one, 1/2 where equal."""
    chosen, rejected = (table[f"loglikelihood_{side}"] / table[f"n_tokens_{side}"] for side in SIDES)
    return np.where(chosen == rejected, 0.5, (chosen > rejected).astype(float))


def summarise(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry for all and each tranche: nats a token on chosen and rejected responses, their difference (rejected
    less chosen), accuracy; standard errors over conversations."""
    parts = [(ALL, table), *((str(name), part) for name, part in table.groupby("tranche", sort=True))]
    return [{"tranche": name, **_entry(part)} for name, part in parts if len(part)]


def _entry(part: pd.DataFrame) -> dict[str, Any]:
    losses = {
        f"loss_{side}": ratio(-part[f"loglikelihood_{side}"], part[f"n_tokens_{side}"], part.conversation)
        for side in SIDES
    }
    means = {side: -part[f"loglikelihood_{side}"] / part[f"n_tokens_{side}"] for side in SIDES}
    return {
        **losses,
        "difference": clustered_mean(means["rejected"] - means["chosen"], part.conversation),
        "accuracy": clustered_mean(accuracy_scores(part), part.conversation),
    }
