"""What a figure is: a function of results, with its words and its size on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from reports import style

Section = Literal["pm", "scores", "mixing", "reference", "frontier", "tax", "behaviours", "rates"]
Row = Mapping[str, Any]
WIDTH = 9.6  # inches: the page's column at 96 pixels an inch


@dataclass(frozen=True)
class FigureSpec:
    """A figure as a function of results: ``table`` makes the numbers, ``draw`` draws nothing but them."""

    name: str  # stem of its files
    section: Section
    title: str
    caption: str
    why_empty: str  # said in its place when the table has no rows
    table: Callable[[Row], pd.DataFrame]
    draw: Callable[[Figure, pd.DataFrame], None]
    columns: int = 1  # panels side by side; 1 where the figure is a single row of fixed size
    optional: bool = False  # of a question that a study need not ask: where empty, only listed among what was left out

    def size(self, table: pd.DataFrame) -> tuple[float, float]:
        """Width and height in inches."""
        return (WIDTH, 4.2) if self.columns == 1 else grid_size(table["panel"].nunique(), self.columns)


def grid_size(n_panels: int, columns: int) -> tuple[float, float]:
    """Width and height in inches of a grid of panels, which grows by a row for every ``columns`` of them."""
    rows = -(-n_panels // style.grid_columns(n_panels, columns))
    height = 0.8 + (3.4 if columns == 2 else 2.6) * rows
    return (WIDTH if n_panels > 1 else 5.8, height)
