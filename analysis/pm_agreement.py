"""How far the PMs of the two halves of one seed agree: preferences alike, and correlation of score differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analysis.estimates import Codes, clustered_variance, codes, mean, t_quantile
from analysis.frames import MAIN, Study
from analysis.held_out import Floats, HeldOut
from analysis.pools import PM, grouped


def pm_agreement(study: Study, pms: list[PM]) -> list[dict[str, Any]]:
    """One row per size and seed with a main PM of either half, at the largest number of comparisons both have."""
    rows = []
    for pool in grouped([pm for pm in pms if pm.setting == MAIN], lambda pm: (pm.place, pm.chain)).values():
        halves = {(pm.half, pm.n_comparisons): pm for pm in pool.pms}
        both = [n for half, n in halves if half == "train" and ("test", n) in halves]
        if both:
            rows.append(_row(study, halves["train", max(both)], halves["test", max(both)]))
    return [row for row in rows if row]


def _row(study: Study, train: PM, test: PM) -> dict[str, Any]:
    a, b = matched(train.scores, test.scores)
    if not len(a.correct):
        study.exclude(train.record.stage_id, f"no comparison in common with {test.record.stage_id}", train.record)
        return {}
    cluster = codes(a.conversation)
    missing = max(len(train.scores.correct), len(test.scores.correct)) - len(a.correct)
    return {
        "model": train.model.name, "n_params": train.model.n_params, "seed": study.seed(train.record),
        "n_comparisons": train.n_comparisons,
        "agreement": mean(0.5 + 0.5 * np.sign(a.difference * b.difference), cluster).to_proportion(),
        "correlation": correlation(a.difference, b.difference, cluster),
        "note": f"{missing} comparisons that only one scored are left out" if missing else None,
    }  # fmt: skip


def matched(one: HeldOut, other: HeldOut) -> tuple[HeldOut, HeldOut]:
    """The comparisons that both scored, in one order."""
    place = {name: i for i, name in enumerate(other.comparison_id)}
    pairs = [(i, place[name]) for i, name in enumerate(one.comparison_id) if name in place]
    left, right = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    return one.select(left), other.select(right)


def correlation(x: Floats, y: Floats, cluster: Codes) -> dict[str, Any] | None:
    """Pearson's r with an interval over clusters on Fisher's z = artanh(r); None where x or y does not vary.

    The influence of row i on r is (u v - r (u^2 + v^2) / 2) / n with u, v the standardised values; on z it is divided
    by 1 - r^2.
    """
    if x.std() == 0 or y.std() == 0:
        return None
    u, v = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    r = float(np.clip((u * v).mean(), -1.0, 1.0))
    estimate: dict[str, Any] = {"value": r, "se": None, "low": None, "high": None, "n": len(x)}
    groups = int(cluster.max()) + 1
    if groups < 2 or abs(r) > 1 - 1e-12:
        return estimate
    influence = (u * v - r * (u**2 + v**2) / 2) / len(x)
    se = math.sqrt(clustered_variance(influence, cluster))
    half = t_quantile(0.975, groups - 1) * se / (1 - r**2)
    middle = math.atanh(r)
    return estimate | {"se": se, "low": math.tanh(middle - half), "high": math.tanh(middle + half)}
