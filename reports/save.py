"""Files of one figure: PNG, SVG and the CSV behind them, with the same bytes whenever the numbers are the same."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from hh_scaling.records import atomic_write
from reports import style

PNG_DPI = 160


@dataclass(frozen=True)
class Drawn:
    """A figure's three files as bytes."""

    png: bytes
    svg: bytes
    csv: bytes


def render(
    draw: Callable[[Figure, pd.DataFrame], None], table: pd.DataFrame, size: tuple[float, float], synthetic: bool
) -> Drawn:
    """``draw(figure, table)`` on a figure of ``size`` inches in the house style, marked where it is synthetic."""
    with style.house_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name in a script we lack
        figure = style.new_figure(*size)
        draw(figure, table)
        if synthetic:
            style.mark_synthetic(figure)
        return Drawn(*_pictures(figure), table_csv(table).encode())


def table_csv(table: pd.DataFrame) -> str:
    """A tidy table as CSV with shortest round-trip numbers and no index."""
    return table.to_csv(index=False, lineterminator="\n")


def save(drawn: Drawn, folder: Path, name: str) -> None:
    """Write ``name.png``, ``name.svg`` and ``name.csv`` into ``folder``, each replaced as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, data in (("png", drawn.png), ("svg", drawn.svg), ("csv", drawn.csv)):
        atomic_write(folder / f"{name}.{suffix}", data)


def _pictures(figure: Figure) -> tuple[bytes, bytes]:
    """PNG and SVG of one layout, without dates or versions in them.

    The canvases print directly: ``savefig`` would draw everything a second time for each, and lay it out again.
    """
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(PNG_DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    png, svg = io.BytesIO(), io.BytesIO()
    canvas.print_png(png, metadata={"Software": None})
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": "hh-scaling"})
    return png.getvalue(), compact_svg(svg.getvalue().decode()).encode()


def compact_svg(svg: str) -> str:
    """The same picture in about two thirds of the bytes: no indentation, coordinates to a hundredth of a point.

    Only tags and the space between them are touched, so text keeps every character.
    """
    tight = re.sub(r">\s+<", "><", svg)
    return re.sub(r"<[^<>]*>", lambda tag: _COORDINATES.sub(_rounded, tag[0]), tight)


_COORDINATES = re.compile(r' (?:d|x|y)="[^"]*"')
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def _rounded(attribute: re.Match[str]) -> str:
    numbers = _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", attribute[0])
    return re.sub(r"\s+", " ", numbers)
