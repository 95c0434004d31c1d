"""Which comparisons a preference model is trained on, as trees: those of its half, and votes besides them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hh_scaling.configs import PMConfig
from hh_scaling.pairs import PairFile, choose_rows, write_all_pairs
from hh_scaling.votes import SPLIT, votes_table

Chosen = dict[str, tuple[Path, pd.DataFrame]]  # a table and its rows, by what summaries call their number


@dataclass(frozen=True)
class Found:
    """The comparisons to train on, and how many of each table they are; pairs that truncation made equal are none."""

    trees: PairFile
    tranche: pd.Series
    counts: dict[str, Any]


def chosen_rows(config: PMConfig, data: Path) -> Chosen:
    """The comparisons of the half, and where asked for votes besides them, the first in their order."""
    table = data / "comparisons.parquet"
    rows = choose_rows(table, config.half, config.n_comparisons, config.helpful_share)
    found = {"n_comparisons": (table, rows)}
    if config.extra_share:
        votes, n_extra = votes_table(data), round(config.extra_share * len(rows))
        if not n_extra:
            raise ValueError(
                f"pm.extra_share {config.extra_share:g} of {len(rows)} comparisons is no vote, needed: one"
            )
        found["n_extra"] = (votes, choose_rows(votes, SPLIT, n_extra))
    return found


def find_pairs(chosen: Chosen, tokenizer: Any, max_length: int, path: Path) -> Found:
    """The trees of the chosen rows, table after table; ValueError where truncation leaves none of a table's."""
    parts = [(table, rows.row.to_numpy()) for table, rows in chosen.values()]
    pairs = write_all_pairs(parts, tokenizer, max_length, path)
    name = np.repeat(np.array(list(chosen)), [len(rows) for _, rows in parts])
    counts: dict[str, Any] = {key: int((~pairs.equal[name == key]).sum()) for key in chosen}
    dropped = {"equal_after_truncation": int(pairs.equal.sum())}
    if not all(counts.values()):
        raise ValueError(f"no comparison is left ({counts}, dropped {dropped}), needed: at least 1")
    kept = np.flatnonzero(~pairs.equal)
    counts["truncated"] = int(pairs.cut[kept].sum())  # trained on all the same
    tranche = pd.concat([rows.tranche.astype(object) for _, rows in chosen.values()]).iloc[kept]
    return Found(pairs.select(kept), tranche, counts | {"dropped": dropped})
