"""Calibration of answers: whether the probability a model gives its chosen answer is how often it is right.

RLHF can leave accuracy as it was and ruin this (GPT-4's report: .007 before and .074 after): it is part of the tax.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from analysis.calibration import N_BINS, N_DRAWS, poisson_draws
from analysis.crossed import replicates
from analysis.estimates import Codes, Estimate, codes

Floats = NDArray[np.float64]


def confidences(loglikelihoods: Iterable[Any]) -> Floats:
    """(n,) the largest of each item's choice probabilities, softmax of its choices' log-likelihoods; nan for an item
    with fewer than two."""
    lists = pa.array(loglikelihoods, from_pandas=True)
    lists = (lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists).cast(pa.list_(pa.float64()))
    values = np.asarray(lists.flatten(), dtype=float)
    n_choices = lists.value_lengths().fill_null(0).to_numpy()
    first, found = np.cumsum(n_choices) - n_choices, np.full(len(lists), np.nan)
    for n in set(n_choices[n_choices > 1].tolist()):  # items with as many choices at once
        of = np.flatnonzero(n_choices == n)
        choices = values[first[of][:, None] + np.arange(n)]
        found[of] = 1 / np.exp(choices - choices.max(axis=1, keepdims=True)).sum(axis=1)
    return found


def bin_sums(confidence: Floats, correct: Floats, item: Codes, run: Codes, shape: tuple[int, int]) -> Floats:
    """(runs, item clusters, bins) sums of (correct - confidence) over ten equal bins of the confidence in [0, 1]."""
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    place = (run * shape[1] + item) * N_BINS + bins
    sums = np.bincount(place, correct - confidence, math.prod(shape) * N_BINS)
    return np.asarray(sums.reshape(*shape, N_BINS), dtype=float)


def answer_calibration(
    before: tuple[Floats, Floats], after: tuple[Floats, Floats], item: ArrayLike, run: ArrayLike
) -> dict[str, dict[str, Any]]:
    """Expected calibration error ``before`` and ``after``, each (confidence, correct), and its ``change``.

    ECE = sum over bins of |sum(correct - confidence)| / n, of each run and then their mean. Standard errors are from
    200 Poisson draws of item clusters, shared by both sides and all runs, and of runs (``replicates``). ECE is biased
    upwards in small samples; the bias is on both sides of the change.
    """
    items, runs = codes(item), codes(run)
    shape = (int(runs.max()) + 1, int(items.max()) + 1)
    counts = np.zeros(shape)
    np.add.at(counts, (runs, items), 1.0)
    sums = [bin_sums(*side, items, runs, shape) for side in (before, after)]
    of_items = poisson_draws(shape[1])
    chance = np.random.default_rng(1)  # another stream than that of items
    unit = replicates(pd.unique(np.asarray(run)))  # of every run
    of_units = chance.poisson(1.0, (N_DRAWS, int(unit.max()) + 1)) if shape[0] > 1 else np.ones((N_DRAWS, 1))
    of_runs = of_units[:, unit]
    drawn_n = np.maximum(of_items @ counts.T, 1.0)  # (draws, runs)
    one = np.ones((1, shape[1]))
    values, drawn = [], []
    for side in sums:
        values.append(float((_errors(one, side) / (one @ counts.T)).mean()))
        errors = _errors(of_items, side) / drawn_n
        drawn.append((errors * of_runs).sum(1) / np.where(of_runs.any(1), of_runs.sum(1), np.nan))
    named = {"before": (values[0], drawn[0]), "after": (values[1], drawn[1])}
    named["change"] = (values[1] - values[0], drawn[1] - drawn[0])
    n, known = len(items) // shape[0], shape[1] > 1
    return {
        name: Estimate(value, float(np.nanstd(draw, ddof=1)) if known else None, n).to_dict()
        for name, (value, draw) in named.items()
    }


def _errors(weights: Floats, sums: Floats) -> Floats:
    """(draws, runs) sum over bins of |sum over item clusters of weight * sum|."""
    runs, groups, bins = sums.shape
    product = weights @ sums.transpose(1, 0, 2).reshape(groups, runs * bins)
    return np.abs(product).reshape(len(weights), runs, bins).sum(axis=2)
