"""The tax of several studies or recipes side by side, as one figure with its CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from reports import save, tax_figures
from reports.figure_spec import grid_size

Row = Mapping[str, Any]
NAME = "compare"


def compare_table(compared: Row) -> pd.DataFrame:
    """Tidy rows of every study's tax at the end of RLHF by size, a series a study, from ``analysis.compare``."""
    several = {row["study"] for row in compared["tax"] if _recipes(compared, row["study"]) > 1}
    named = {key: list(_named(compared[key], several)) for key in ("tax", "pooled")}
    return tax_figures.tax_table(named)


def _recipes(compared: Row, study: str) -> int:
    return len({row["recipe"] for row in compared["tax"] if row["study"] == study})


def _named(rows: Iterable[Row], several: set[str]) -> Iterable[dict[str, Any]]:
    """The rows at the end of RLHF, the study (and its recipe, where it has several) in the recipe's place."""
    for row in rows:
        if row["at"] == "end":
            study = row["study"]
            yield {**row, "recipe": f"{study}/{row['recipe']}" if study in several else study}


def write_comparison(compared: Row, out: Path) -> list[Path]:
    """Write ``compare.png``, ``.svg`` and ``.csv`` in ``out/figures``; returns their paths, none without a tax.

    The figure carries the words "synthetic world" if any of its studies is one.
    """
    table = compare_table(compared)
    if not (table["layer"] == "point").any():
        return []
    size = grid_size(table["panel"].nunique(), columns=3)
    drawn = save.render(tax_figures.draw_tax, table, size, bool(compared.get("synthetic")))
    save.save(drawn, out / "figures", NAME)
    return [out / "figures" / f"{NAME}.{suffix}" for suffix in ("png", "svg", "csv")]
