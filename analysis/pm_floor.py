"""PM accuracy where both responses score high (Bai et al. 2022, figure 25), and where scores lie (figure 14)."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.crossed import Term, combine, measure
from analysis.frames import Study
from analysis.held_out import Bools, Floats, sigmoid
from analysis.pools import PM, Pool, everything, groups_of, largest

SHARES = tuple(i / 10 for i in range(10))  # of a group's pairs that lie below the threshold
HIGH = 0.8  # of the pairs lie below what the claim calls high
N_BARS = 40
QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


def pm_floor(study: Study, pms: list[PM]) -> list[dict[str, Any]]:
    """Accuracy of the pairs whose lower score is at or above each tenth's quantile, per size and kind of comparison.

    Scores have their PM's held-out mean subtracted; quantiles are of the group's pairs over all PMs of the size.
    """
    pools = largest(pms)
    rows = []
    for group in groups_of(pools):
        within = [pool.rows(group) for pool in pools]
        for share in SHARES:
            thresholds = [_quantile(pool.centred.lower[w], share) for pool, w in zip(pools, within, strict=True)]
            above = [w & (p.centred.lower >= t) for p, w, t in zip(pools, within, thresholds, strict=True)]
            cells = list(zip(pools, above, within, strict=True))
            accuracy = measure(cells, lambda cell: cell[0].term(cell[0].scores.correct, cell[1]))
            minus = measure(cells if share else [], lambda cell: _difference(*cell))
            for i, pool in enumerate(pools):
                rows.append(pool.labels | {
                    "group": group, "share": share, "threshold": thresholds[i], "accuracy": accuracy[i].to_proportion(),
                    "minus_all": minus[i].to_difference() if share else None,
                    "n_runs": len(pool.pms), "note": pool.note(study, accuracy[i]),
                })  # fmt: skip
    return sorted(rows, key=lambda row: (row["n_params"], row["model"]))


def _quantile(values: Floats, share: float) -> float:
    return float(np.quantile(values, share))


def _difference(pool: Pool, first: Bools, second: Bools) -> Term | None:
    """Accuracy over the first rows minus over the second."""
    correct = pool.scores.correct
    return combine((1, pool.term(correct, first)), (-1, pool.term(correct, second)))


def both_high_gain(pms: list[PM]) -> Term | None:
    """Accuracy beyond what the differences lead one to expect: the fifth of pairs with the highest lower score minus
    the others, all main PMs as runs.

    A high lower score leaves little room for a difference, so that the accuracy of a perfect reader falls there too.
    Expected is sigma(b |difference|), b the PM's own calibration slope. The fifth is taken within each PM and kind of
    comparison, so that neither a PM's scale nor the mixture of kinds can make a difference; kinds count alike.
    """
    pool = everything(pms)
    if pool is None:
        return None
    beyond = pool.scores.correct - expected_accuracy(pool)
    groups = [g for g in groups_of([pool]) if g != "all"] or ["all"]
    terms = []
    for group in groups:
        within = pool.rows(group)
        high = _highest(pool, within)
        terms.append(combine((1, pool.term(beyond, high)), (-1, pool.term(beyond, within & ~high))))
    return combine(*((1 / len(terms), term) for term in terms))


def expected_accuracy(pool: Pool) -> Floats:
    """What each pair's difference leads one to expect of its own PM; a PM that is always right, or never, as it is."""
    expected, difference = pool.scores.correct.copy(), pool.scores.difference
    for pm, own in zip(pool.pms, pool.spans, strict=True):
        if pm.slope is not None:
            expected[own] = sigmoid(pm.slope[0] * np.abs(difference[own]))
    return expected


def _highest(pool: Pool, within: Bools) -> Bools:
    """The fifth of ``within`` with the highest lower score, PM by PM."""
    high, lower = np.zeros(len(within), dtype=bool), pool.centred.lower
    for span in pool.spans:
        own = within[span]
        if own.any():
            high[span] = own & (lower[span] > np.quantile(lower[span][own], HIGH))
    return high


# ---------------------------------------------------------------- where scores lie


def pm_score_rows(study: Study, pms: list[PM]) -> list[dict[str, Any]]:
    """Distributions of the largest size's mean-subtracted scores by kind of comparison and side.

    ``density`` over 40 equal bars between the 0.1 % and 99.9 % points of all scores; quantiles are exact.
    """
    pools = largest(pms)[-1:]
    rows = []
    for pool in pools:
        left, right = np.quantile(pool.centred.both, (0.001, 0.999))
        edges = np.linspace(left, right, N_BARS + 1)
        for group in groups_of(pools):
            for side in ("chosen", "rejected"):
                labels = pool.labels | {"group": group, "side": side}
                rows.append(labels | _distribution(study, pool, group, side, edges))
    return rows


def _distribution(study: Study, pool: Pool, group: str, side: str, edges: Floats) -> dict[str, Any]:
    within = pool.rows(group)
    (mean,) = measure([pool], lambda p: _centred_mean(p, side, within))
    inside = getattr(pool.centred, f"score_{side}")[within]
    counts = np.histogram(inside, edges)[0]
    density = counts / len(inside) / np.maximum(np.diff(edges), 1e-300)
    return {
        "mean": mean.to_dict(), "sd": float(inside.std(ddof=1)) if len(inside) > 1 else None,
        **{name: _quantile(inside, q) for name, q in QUANTILES.items()},
        "edges": edges.tolist(), "density": density.tolist(), "n_runs": len(pool.pms), "note": pool.note(study, mean),
    }  # fmt: skip


def _centred_mean(pool: Pool, side: str, rows: Bools) -> Term | None:
    """The mean score of one side over ``rows`` minus the mean of both sides over all comparisons, which is estimated
    from the same conversations: what they share cancels."""
    middle = (pool.scores.score_chosen + pool.scores.score_rejected) / 2
    return combine((1, pool.term(getattr(pool.scores, f"score_{side}"), rows)), (-1, pool.term(middle)))
