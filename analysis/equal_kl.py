"""Two ways to a score compared at equal sqrt(KL), on the same prompts, the noise of both distances included.

A policy's score at a distance is read off its training: linearly in sqrt(KL) between the first evaluation that reached
the distance and the one before it, as checkpoints are kept at the first evaluation past a distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Along:
    """Measurements at successive places of one way: KL in nats and a score, each (places, P prompts)."""

    kl: Floats
    score: Floats

    def at(self, shares: Floats) -> tuple[Floats, Floats]:
        """(W, places) sqrt(KL) and mean score under each row of ``shares`` (W, P) of the prompts."""
        return np.sqrt(np.maximum(shares @ self.kl.T, 0.0)), shares @ self.score.T


class Gap(NamedTuple):
    """What one way has more than another, per prompt, over the places where they overlap."""

    values: Floats  # (P,), whose mean is the difference and whose spread that of its influences
    sqrt_kl: Floats  # (places compared,)


def gap(way: Along, policy: Along) -> Gap | None:
    """The mean over ``way``'s places of its score minus the policy's at the same sqrt(KL), from delete-one jackknife
    pseudo-values over prompts; None where no place lies between the policy's start and its farthest evaluation.

    Scores must be of one scale and not relative to different starts. What the policy's KL is off by moves the place
    at which its score is read, so the pseudo-values carry both ways' noise in KL as well as in score.
    """
    n = way.kl.shape[1]
    whole = np.full((1, n), 1 / n)
    d, reached = way.at(whole)[0][0], policy.at(whole)[0][0]
    first = [int(np.argmax(reached >= place)) if (reached >= place).any() else 0 for place in d]
    kept = np.array([i for i, j in enumerate(first) if j > 0 and d[i] > 0], dtype=int)
    if not len(kept):
        return None
    after = np.array([first[i] for i in kept])
    shares = (1 - np.eye(n)) / (n - 1)
    value = _mean_gap(way, policy, kept, after, whole)[0]
    left_out = _mean_gap(way, policy, kept, after, shares)
    return Gap(value + (n - 1) * (left_out.mean() - left_out), d[kept])


def _mean_gap(way: Along, policy: Along, kept: NDArray[np.intp], after: NDArray[np.intp], shares: Floats) -> Floats:
    """(W,) the mean over places ``kept`` of the difference; ``after`` is each one's first evaluation past it."""
    (d, score), (reached, trained) = way.at(shares), policy.at(shares)
    low, high = reached[:, after - 1], reached[:, after]
    part = (d[:, kept] - low) / np.where(high > low, high - low, 1.0)
    at_policy = trained[:, after - 1] + part * (trained[:, after] - trained[:, after - 1])
    return np.asarray((score[:, kept] - at_policy).mean(axis=1))
