"""How every figure looks: one colour and marker per size, shared fonts, readable axes, reproducible bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from reports.formats import format_count, plain_label, size_label

INK, MUTED, RULE = "#1f2430", "#5b6270", "#d9dce3"
BEFORE, AFTER, MATCHED = "#5b6270", "#b3261e", "#1f6fb2"  # base or reference, end of RLHF, at matched √KL
MARKERS = "osD^vPX"
SYNTHETIC = "synthetic world"
LEVELS_OFF = (0, (3, 1.2))  # dashes of a law that levels off

# Sizes run from plasma's middle (small, warm) to its dark end (large): lightness falls with size, and every
# colour keeps a contrast of at least 3:1 on the white card (WCAG 1.4.11).
_RAMP = (0.62, 0.0)

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    # DejaVu Sans ships with matplotlib, so bytes do not depend on the machine; Verdana is as wide, for SVG readers
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # names of models and tasks are data, never markup
    "text.usetex": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 160,
    "svg.fonttype": "none",  # text stays text: smaller, searchable, editable
    "svg.hashsalt": "hh-scaling",  # identifiers in the SVG are hashes of this, not random
    "path.simplify": True,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Inside it, figures are built and saved in the shared style, whatever the caller's matplotlib settings."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches with constrained layout, outside pyplot's state."""
    return Figure(figsize=(width, height), layout="constrained")


def size_colours(models: Sequence[str]) -> dict[str, str]:
    """One hex colour per model, ``models`` given from small to large; dark is large."""
    places = np.linspace(*_RAMP, num=len(models)) if len(models) > 1 else [0.3]
    ramp = mpl.colormaps["plasma"]
    return {model: to_hex(ramp(float(place))) for model, place in zip(models, places, strict=True)}


def size_markers(models: Sequence[str]) -> dict[str, str]:
    """One marker per model, so that sizes are told apart without colour."""
    return {model: MARKERS[i % len(MARKERS)] for i, model in enumerate(models)}


def mark_synthetic(figure: Figure) -> None:
    """Write the words "synthetic world" on a figure, in a strip of their own above the panels."""
    figure.suptitle(SYNTHETIC, x=0.995, ha="right", fontsize=8, color="#8a3b00", style="italic", weight="bold")


def log_count_axis(
    axes: Axes, values: Iterable[float], min_decades: float = 0.16, names: Mapping[float, str] | None = None
) -> None:
    """A logarithmic x axis with a tick at each value (24k, 1.3M); those too close to the next are left out.

    ``names`` are what to write at values, in place of the count.
    """
    known = names or {}
    axes.set_xscale("log")
    wanted = sorted({float(v) for v in values if v > 0})
    if not wanted:
        return
    span = math.log10(wanted[-1] / wanted[0])
    axes.xaxis.set_major_locator(FixedLocator(_thinned(wanted, max(min_decades, span / 9))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: known.get(value) or format_count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    pad = 10 ** max(0.06 * span, 0.12)
    axes.set_xlim(wanted[0] / pad, wanted[-1] * pad)


def size_axis(axes: Axes, points: pd.DataFrame) -> None:
    """A logarithmic x axis of parameters, with a tick at each model of these tidy rows, called as tables call it."""
    known = points.dropna(subset=["x", "model"])
    log_count_axis(
        axes,
        known["x"],
        names={float(x): size_label(str(m), x) for x, m in zip(known["x"], known["model"], strict=True)},
    )


def count_axis(axes: Axes) -> None:
    """Label a linear x axis of counts as 5k, 10k."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == 0 else format_count(value)))


def size_handles(models: Sequence[str], colours: dict[str, str], markers: dict[str, str]) -> list[Line2D]:
    """Legend entries, one per model, small to large."""
    return [
        Line2D([], [], color=colours[model], marker=markers[model], label=plain_label(model), linewidth=1.5)
        for model in models
    ]


def legend_below(figure: Figure, handles: Sequence[Any], title: str | None = None, columns: int = 6) -> None:
    """One legend for the whole figure, below the panels, so that it covers no data."""
    labels = [handle.get_label() for handle in handles]
    columns = min(columns, len(handles))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, title=title, alignment="left")


def even_columns(n: int, most: int = 7) -> int:
    """How many columns give ``n`` legend entries rows of about equal length, at most ``most`` in a row."""
    return -(-n // -(-n // most)) if n else 1


def reference_line(axes: Axes, y: float, dashes: str) -> None:
    """A horizontal line over the whole panel; its name belongs in the legend."""
    axes.axhline(y, color=MUTED, linestyle=dashes, linewidth=1.2, zorder=1.5)


def reference_handle(text: str, dashes: str) -> Line2D:
    """The legend entry of a reference line."""
    return Line2D([], [], color=MUTED, linestyle=dashes, linewidth=1.2, label=plain_label(text, 60))


def legend_under(axes: Axes, handles: Sequence[Any], columns: int) -> None:
    """A legend below one panel and its axis label."""
    labels = [handle.get_label() for handle in handles]
    axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, columnspacing=1.4)


def _thinned(values: list[float], gap: float) -> list[float]:
    """``values`` from the largest down, skipping those nearer than ``gap`` decades to the last one kept."""
    kept = [values[-1]]
    for value in reversed(values[:-1]):
        if math.log10(kept[-1] / value) >= gap:
            kept.append(value)
    return kept[::-1]


def error_points(
    axes: Axes,
    points: pd.DataFrame,
    colour: str,
    marker: str,
    size: float = 5,
    alpha: float = 1.0,
    bars: float = 1.0,
    **line: Any,
) -> None:
    """Points with their intervals from tidy rows; hollow where the row says so. ``line`` may join them.

    ``bars`` is the intervals' share of the points' opacity, below 1 where many would lie on top of each other.
    """
    ordered = points.sort_values("x", kind="stable")
    if line:
        axes.plot(ordered["x"], ordered["y"], color=colour, alpha=alpha, **line)
    for hollow, rows in ordered.groupby("hollow"):
        spread = np.array([rows["y"] - rows["low"], rows["high"] - rows["y"]], dtype=float)
        drawn = axes.errorbar(
            rows["x"],
            rows["y"],
            yerr=np.clip(np.nan_to_num(spread), 0, None),
            fmt=marker,
            color=colour,
            alpha=alpha,
            markersize=size,
            markerfacecolor="white" if hollow else colour,
            markeredgewidth=1.1,
            elinewidth=1.0,
            capsize=0,
            zorder=3,
        )
        for bar in drawn.lines[2]:
            bar.set_alpha(alpha * bars)


def dodged(points: pd.DataFrame, by: pd.Series, step: float = 0.035) -> pd.DataFrame:
    """The rows moved apart along a logarithmic x by ``step`` decades per distinct value of ``by``.

    Steps shrink where needed, so that the rows of one x stay within a third of the way to the next x.
    """
    places = {name: i for i, name in enumerate(dict.fromkeys(by))}
    logs = np.log10(np.unique(points["x"].dropna().to_numpy(dtype=float)))
    if len(logs) > 1:
        step = min(step, float(np.diff(logs).min()) / 3 / max(len(places), 1))
    centre = (len(places) - 1) / 2
    return points.assign(x=points["x"] * by.map(lambda name: 10 ** (step * (places[name] - centre))))


def set_apart(points: pd.DataFrame, by: pd.Series, share: float = 0.4) -> pd.DataFrame:
    """The rows moved apart along a linear x by ``by``, over ``share`` of the least gap between two x.

    At most a twelfth of the whole range, so that few and distant x stay where they are read.
    """
    places = {name: i for i, name in enumerate(dict.fromkeys(by))}
    values = np.unique(points["x"].dropna().to_numpy(dtype=float))
    gap = min(share * float(np.diff(values).min()), float(np.ptp(values)) / 12) if len(values) > 1 else share
    step = gap / max(len(places), 1)
    centre = (len(places) - 1) / 2
    return points.assign(x=points["x"] + by.map(lambda name: step * (places[name] - centre)))


def grid_columns(n: int, most: int) -> int:
    """How many columns ``n`` panels take: at most ``most``, two where three would leave a lonely fourth."""
    return 2 if n == 4 and most == 3 else min(most, n)


def panel_grid(figure: Figure, n: int, columns: int, **share: Any) -> list[Axes]:
    """``n`` axes filled row by row in at most ``columns`` columns; the unused places are removed."""
    columns = grid_columns(n, columns)
    grid = figure.subplots(-(-n // columns), columns, squeeze=False, **share).ravel()
    for axes in grid[n:]:
        axes.remove()
    return list(grid[:n])


def panel_title(name: str) -> str:
    """A task's or tranche's name as a panel title."""
    return plain_label(name, 30)


def outer_labels(grid: Sequence[Axes], columns: int, xlabel: str, ylabel: str | None) -> None:
    """Axis labels on the lowest panel of every column and, unless ``ylabel`` is None, on the left column only."""
    columns = grid_columns(len(grid), columns)
    for i, axes in enumerate(grid):
        lowest = i + columns >= len(grid)
        axes.set_xlabel(xlabel if lowest else "")
        axes.tick_params(labelbottom=lowest)
        if ylabel is not None:
            axes.set_ylabel(ylabel if i % columns == 0 else "")
