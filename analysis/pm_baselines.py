"""What length alone and a perfect reader reach on the comparisons of a table's row, beside the PMs' accuracy there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.crossed import Term, measure
from analysis.estimates import Estimate, clustered_variance, codes
from analysis.held_out import Bools, Floats, HeldOut
from analysis.pools import Pool

SAME_LENGTH = 0.1  # of the longer response's characters: pairs that differ by no more are matched in length
MeanOf = Callable[[Pool, Floats, Bools], Term | None]  # the mean of values (R,) over those of a row that are also kept


def same_length(of: HeldOut) -> Bools:
    """(n,) pairs whose lengths differ by at most a tenth of the longer."""
    longer = np.maximum(of.length_chosen, of.length_rejected)
    return np.asarray(np.abs(of.length_chosen - of.length_rejected) <= SAME_LENGTH * longer)


def baselines(pools: Sequence[Pool], mean_of: MeanOf) -> list[dict[str, Any]]:
    """For every pool the accuracy of "the longer one wins", the PMs' own on pairs of like length, and the Bayes ceiling
    (None outside the world).

    The first and the last are of the comparisons, which are the same for every PM: clustered by conversation alone.
    """
    items = [replace(pool, pms=pool.pms[:1]) for pool in pools]
    matched = measure(pools, lambda pool: mean_of(pool, pool.scores.correct, same_length(pool.scores)))
    return [
        {
            "length_accuracy": of_items(mean_of(item, item.scores.longer, np.ones(len(item.chain), dtype=bool))),
            "length_matched_accuracy": alike.to_proportion(),
            "bayes_accuracy": of_items(ceiling(item, mean_of)),
        }
        for item, alike in zip(items, matched, strict=True)
    ]


def ceiling(pool: Pool, mean_of: MeanOf) -> Term | None:
    """The mean of max(p, 1 - p); None where a label's probability is not known."""
    p = pool.scores.p_chosen
    return mean_of(pool, np.maximum(p, 1 - p), np.ones(len(p), dtype=bool)) if np.isfinite(p).all() else None


def of_items(term: Term | None) -> dict[str, Any] | None:
    """A proportion of one PM's comparisons, clustered by conversation."""
    if term is None:
        return None
    cluster = codes(term.item)
    variance, groups = clustered_variance(term.rows, cluster), int(cluster.max()) + 1
    known = groups > 1
    found = Estimate(term.value, math.sqrt(variance) if known else None, term.n, groups - 1 if known else None)
    return found.to_proportion()
