"""PMs on probes, comparisons besides the held-out part: accuracy by category against size (Bai et al. 2022, figure 5,
left), and how far apart the largest size scores the two sides (figure 10, left)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.crossed import Term, measure, size_slope
from analysis.estimates import Estimate, codes, mean
from analysis.frames import MAIN, Study, join_notes, stage_table
from analysis.held_out import Bools, Floats, HeldOut
from analysis.pm_floor import QUANTILES
from analysis.pools import PM, Pool, largest

FILE = "probes.parquet"
SCORES = ("score_chosen", "score_rejected", "length_chosen", "length_rejected")
COLUMNS = ("probe", "row", "category", "conversation", *SCORES)
ALL = "all"
N_BARS = 24  # an even number: 0 lies between two
N_LOWEST = 5  # comparisons that are named
TOO_FEW = "no slope: too few base models, or conversations that a size judges differently"
OTHER_NUMBERS = "no slope: the sizes were trained on different numbers of comparisons"
Probed = dict[str, list[Pool]]


def probed(study: Study, pms: Sequence[PM]) -> Probed:
    """By probe and size the main PMs at their most comparisons, the probe's scores in place of the held-out ones."""
    found: dict[str, list[PM]] = {}
    for pm in pms:
        if pm.setting != MAIN or FILE not in pm.record.files:
            continue
        frame = stage_table(study, pm.record, FILE, COLUMNS)
        for name, rows in frame.groupby("probe", sort=False) if frame is not None else ():
            found.setdefault(str(name), []).append(replace(pm, scores=scores_of(rows)))
    return {name: largest(found[name]) for name in sorted(found)}


def scores_of(rows: pd.DataFrame) -> HeldOut:
    """One probe's rows; a comparison is called by the line of its file and its place among the pairs of that line."""
    place = rows.groupby("row").cumcount()
    ids = [f"{row}.{i}" for row, i in zip(rows.row, place, strict=True)]
    unknown = np.full(len(rows), np.nan)
    return HeldOut(
        comparison_id=np.array(ids, dtype=object),
        conversation=rows.conversation.to_numpy(object),
        tranche=rows.category.to_numpy(object),
        n_turns=unknown,
        p_chosen=unknown,
        **{name: rows[name].to_numpy(float) for name in SCORES},
    )


def categories(pools: Sequence[Pool]) -> list[str]:
    """ "all", and the categories by name, where they part the comparisons."""
    found = sorted({str(name) for pool in pools for name in set(pool.scores.tranche)})
    return [ALL, *(name for name in found if name)] if len(found) > 1 else [ALL]


def within(pool: Pool, category: str) -> Bools:
    """(R,) the rows of a category; every row for "all"."""
    return np.asarray((pool.scores.tranche == category) | (category == ALL), dtype=bool)


def accuracy(pool: Pool, category: str) -> Term | None:
    """How often the chosen side scores higher."""
    return pool.term(pool.scores.correct, within(pool, category))


# ---------------------------------------------------------------- accuracy


def pm_probes(study: Study, found: Probed) -> list[dict[str, Any]]:
    """A row per size, probe and category: accuracy, what "the longer one wins" reaches, and their difference."""
    rows = []
    for probe, pools in found.items():
        for category in categories(pools):
            cells = [(pool, category) for pool in pools]
            right = measure(cells, lambda cell: accuracy(*cell))
            minus = measure(cells, lambda cell: _minus_length(*cell))
            for pool, own, change in zip(pools, right, minus, strict=True):
                cut = filled_note(pool, probe) if category == ALL else None
                rows.append(pool.labels | {
                    "probe": probe, "category": category, "accuracy": own.to_proportion(),
                    "length_accuracy": length_level(pool, category), "accuracy_minus_length": change.to_difference(),
                    "n_runs": len(pool.pms), "note": join_notes(pool.note(study, own), cut),
                })  # fmt: skip
    return sorted((r for r in rows if r["accuracy"]), key=lambda row: (row["n_params"], row["model"]))


def _minus_length(pool: Pool, category: str) -> Term | None:
    return pool.term(pool.scores.correct - pool.scores.longer, within(pool, category))


def length_level(pool: Pool, category: str) -> dict[str, Any] | None:
    """How often the chosen side is the longer one; no model is involved, so one PM's rows say it."""
    one = pool.pms[0].scores
    rows = within(Pool(pool.pms[:1]), category)
    return mean(one.longer[rows], codes(one.conversation[rows])).to_proportion() if rows.any() else None


def filled_note(pool: Pool, probe: str) -> str | None:
    """How many comparisons take all of the PMs' context, most of them cut; None where none does."""
    summary = (pool.pms[0].record.summary.get("probes") or {}).get(probe) or {}
    filled, n = summary.get("filled"), len(pool.pms[0].scores.correct)
    return f"{filled} of {n} comparisons fill the context and may have lost part of it" if filled else None


def pm_probe_slopes(found: Probed) -> list[dict[str, Any]]:
    """A row per probe and category that two sizes or more met: the change of accuracy per doubling of parameters."""
    rows = []
    for probe, pools in found.items():
        alike = len({pool.pms[0].n_comparisons for pool in pools}) == 1
        for category in categories(pools):
            cells = [(pool.model.n_params, accuracy(pool, category)) for pool in pools]
            known = [(n_params, term) for n_params, term in cells if term is not None]
            if len({n_params for n_params, _ in known}) > 1:
                slope = _slope(known) if alike else None
                rows.append({
                    "probe": probe, "category": category, "n_sizes": len({n_params for n_params, _ in known}),
                    "n": max(term.n for _, term in known),
                    "per_doubling": None if slope is None else slope.scaled(math.log(2)).to_difference(),
                    "note": None if slope else TOO_FEW if alike else OTHER_NUMBERS,
                })  # fmt: skip
    return rows


def _slope(known: Sequence[tuple[int, Term]]) -> Estimate | None:
    """In ln(parameters); None also where a size judged every comparison alike, whose error is not known by that."""
    if not all(term.rows.any() for _, term in known):
        return None
    return size_slope([n_params for n_params, _ in known], [term for _, term in known])


# ---------------------------------------------------------------- margins


def pm_margins(study: Study, found: Probed) -> list[dict[str, Any]]:
    """A row per probe and category: the distribution of chosen minus rejected score at the largest size, runs pooled.

    ``density`` over 24 equal bars about 0 that hold 99.5 % of the probe's margins; quantiles are exact.
    """
    rows = []
    for probe, pools in found.items():
        pool = pools[-1]
        half = float(np.quantile(np.abs(pool.scores.difference), 0.995)) or 1.0
        edges = np.linspace(-half, half, N_BARS + 1)
        for category in categories(pools):
            if within(pool, category).any():
                labels = pool.labels | {"probe": probe, "category": category}
                rows.append(labels | _distribution(study, pool, category, edges))
    return rows


def _distribution(study: Study, pool: Pool, category: str, edges: Floats) -> dict[str, Any]:
    rows = within(pool, category)
    (margin,) = measure([pool], lambda p: p.term(p.scores.difference, rows))
    inside = pool.scores.difference[rows]
    density = np.histogram(inside, edges)[0] / len(inside) / np.diff(edges)
    return {
        "margin": margin.to_dict(), "sd": float(inside.std(ddof=1)) if len(inside) > 1 else None,
        **{name: float(np.quantile(inside, q)) for name, q in QUANTILES.items()},
        "edges": edges.tolist(), "density": density.tolist(), **_lowest(pool, rows),
        "n_runs": len(pool.pms), "note": pool.note(study, margin),
    }  # fmt: skip


def _lowest(pool: Pool, rows: Bools) -> dict[str, Any]:
    """Lines of the file and margins, means over runs, of the comparisons that fool the PMs most (figure 11)."""
    margins = pd.Series(pool.scores.difference[rows]).groupby(pool.scores.comparison_id[rows]).mean()
    lowest = margins[margins < 0].sort_values(kind="stable").head(N_LOWEST)
    lines = [int(str(name).partition(".")[0]) for name in lowest.index]
    return {"lowest_rows": lines, "lowest_margins": [float(value) for value in lowest]}
