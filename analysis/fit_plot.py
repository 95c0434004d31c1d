"""A picture of one fitted law: points, line, the band of the mean and, fainter, that of a new run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from analysis.fit_result import FitResult, Kind, as_columns
from analysis.laws import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 20.0  # of the largest to the smallest x: from there on the axis is logarithmic
BANDS: tuple[tuple[Kind, float], ...] = (("mean", 0.25), ("new_run", 0.08))  # and how opaque each is
MOST_LINES = 8  # values of a second column that get a line of their own


def plot(result: FitResult, ax: Axes | None, x: ArrayLike | None, y: ArrayLike | None) -> Axes:
    """Draw ``result`` against its first column; a second column gets a line for each of its values in ``x``."""
    if ax is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.5), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
    points = None if x is None else as_columns(x)
    if points is not None and y is not None:
        ax.plot(points[:, 0], np.asarray(y, dtype=float), ".", color="0.3")
    low, high = result.x_range[0] if result.x_range else (1.0, 1.0)
    wide = low > 0 and high / low > WIDE
    line = np.geomspace(low, high, 200) if wide else np.linspace(low, high, 200)
    for second in _second(result, points):
        at = line[:, None] if second is None else np.column_stack([line, np.full_like(line, second)])
        (drawn,) = ax.plot(line, result.predict(at), lw=1.2, label=None if second is None else f"{second:.3g}")
        for kind, alpha in BANDS:
            ax.fill_between(line, *result.band(at, kind=kind), color=drawn.get_color(), alpha=alpha, lw=0)
    if len(result.x) > 1:
        ax.legend(title=result.x[1], fontsize=7, title_fontsize=7)
    ax.set(xlabel=result.x[0], ylabel=result.y, xscale="log" if wide else "linear")
    ax.set_title(f"{result.law}: {result.formula}", fontsize=9)
    return ax


def _second(result: FitResult, points: Floats | None) -> list[float | None]:
    """The values of a second column that get a line: those of the points, thinned, or the middle of its range."""
    if len(result.x) == 1:
        return [None]
    if points is None:
        low, high = result.x_range[1]
        return [float(np.sqrt(low * high))]
    values = np.unique(points[:, 1])
    kept = np.unique(np.linspace(0, len(values) - 1, min(MOST_LINES, len(values))).round().astype(int))
    return [float(v) for v in values[kept]]
