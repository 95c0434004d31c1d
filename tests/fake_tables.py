"""Results in which every table has something, what a fake study lacks written by hand."""

from __future__ import annotations

from tests.fake_distillation import distillation_by_hand
from tests.fake_pm_tables import Row, further_tables


def completed(results: Row) -> Row:
    """The results with every further table that the study has nothing for written by hand, for their own models."""
    sizes = {m["name"]: m["n_params"] for m in sorted(results["models"], key=lambda m: int(m["n_params"]))}
    every = further_tables(sizes) | distillation_by_hand(sizes)
    by_hand = {key: rows for key, rows in every.items() if not results.get(key)}
    return {**results, **by_hand}
