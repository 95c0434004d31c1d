"""The bias score of answers (BBQ, Parrish et al. 2022) before and after RLHF.

It is no quality with a better and a worse end (0 is no bias, 1 always the biased answer, -1 always the opposite one),
so it has a table of its own and never enters the tax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.crossed import replicates
from analysis.estimates import Influence, codes, crossed_estimate, influences
from analysis.items import TASK_KEYS, Pair, stack
from analysis.tax import floored

METRIC = "bias"


def bias_row(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """The bias score before and after and its change, over items crossed with runs; None where a side has no answer
    that counts (all say unknown)."""
    both = stack(pairs)
    after_weight = np.concatenate([pair.weight if pair.weight_after is None else pair.weight_after for pair in pairs])
    if not both.weight.any() or not after_weight.any():
        return None
    item, run = codes(both.cluster), replicates(both.run)
    value_before, rows_before = influences(both.before, both.weight)
    value_after, rows_after = influences(both.after, after_weight)
    sides = {
        "before_score": Influence(value_before, rows_before, item, run),
        "after_score": Influence(value_after, rows_after, item, run),
        "change": Influence(value_after - value_before, rows_after - rows_before, item, run),
    }
    found = {name: crossed_estimate(influence) for name, influence in sides.items()}
    if not sides["change"].rows.any():  # no answer changed: the rule of three over clusters, of a score in [-1, 1]
        change, note = found["change"]
        found["change"] = floored(change, 2 * 3 / (int(item.max()) + 1)), note
    counts = {"n_items": len(both.run) // len(pairs), "n_clusters": int(item.max()) + 1, "n_seeds": len(pairs)}
    return {
        **dict(zip(TASK_KEYS, both.key, strict=True)),
        **{name: estimate.to_dict() for name, (estimate, _) in found.items()},
        **counts,
        "note": found["change"][1],
    }
