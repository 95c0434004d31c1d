"""PM accuracy against the score difference, beside the logistic curve (Bai et al. 2022, figure 9)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.calibration import N_BINS
from analysis.crossed import Term, measure
from analysis.frames import Study
from analysis.held_out import Floats, sigmoid
from analysis.pm import slope_term
from analysis.pools import PM, Pool, everything, largest


def quantile_bins(values: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The bin of every value, 0 .. 9, of ten with equally many values, and the 11 edges; ties share a bin."""
    edges = np.quantile(values, np.linspace(0, 1, N_BINS + 1))
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, N_BINS - 1), edges


def pm_calibration(study: Study, pms: list[PM]) -> list[dict[str, Any]]:
    """For every size's main PMs and each tenth of the pairs by |score difference|: how often the higher score is the
    chosen response's, and how often it should be. Empty bins are left out."""
    pools = largest(pms)
    size = [np.abs(pool.scores.difference) for pool in pools]
    bins = [quantile_bins(values) for values in size]
    rows = []
    for b in range(N_BINS):
        inside = [of == b for of, _ in bins]
        cells = list(zip(pools, inside, strict=True))
        accuracy = measure(cells, lambda cell: cell[0].term(cell[0].scores.correct, cell[1]))
        length = measure(cells, lambda cell: cell[0].term(cell[0].scores.longer, cell[1]))
        gap = measure(cells, lambda cell: _gap(*cell))
        for i, pool in enumerate(pools):
            if inside[i].any():
                within, edges = size[i][inside[i]], bins[i][1]
                rows.append(pool.labels | {
                    "bin": b, "left": float(edges[b]), "right": float(edges[b + 1]),
                    "difference": float(within.mean()), "accuracy": accuracy[i].to_proportion(),
                    "expected": float(sigmoid(within).mean()), "gap": gap[i].to_difference(),
                    "length_accuracy": length[i].to_proportion(),
                    "n_runs": len(pool.pms), "note": pool.note(study, accuracy[i]),
                })  # fmt: skip
    return sorted(rows, key=lambda row: (row["n_params"], row["model"], row["bin"]))


def _gap(pool: Pool, rows: NDArray[np.bool_]) -> Term | None:
    """Whether right minus how likely the PM held it to be."""
    of = pool.scores
    return pool.term(of.correct - sigmoid(np.abs(of.difference)), rows)


def pooled_slope(pms: list[PM]) -> Term | None:
    """The mean of the calibration slopes of all sizes' main PMs."""
    pool = everything(pms)
    return None if pool is None else slope_term(pool)
