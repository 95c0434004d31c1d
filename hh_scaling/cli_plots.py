"""Pictures that commands draw outside a report: one fit, and the taxes of several studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Fitted(Protocol):
    """What is drawn of a fit; ``analysis.fit_result.FitResult`` is one."""

    def plot(self, ax: Any, x: Any, y: Any) -> Any: ...


class BadInput(ValueError):
    """What a user gave that cannot be used, in one line."""


def draw_fit(path: Path, result: Fitted, x: Any, y: Any) -> None:
    """Points, the fitted line and its 95 % bands against the first column, in a picture file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    known = FigureCanvasAgg(figure).get_supported_filetypes()
    if path.suffix.lstrip(".") not in known:
        raise BadInput(
            f"--plot {path}: cannot draw {path.suffix or 'a file without suffix'}; allowed: {', '.join(known)}"
        )
    result.plot(figure.subplots(), x, y)
    try:
        figure.savefig(path)
    except OSError as error:
        raise BadInput(f"--plot {path}: cannot be written ({error.strerror})") from error


def draw_comparison(out: Path, content: dict[str, Any]) -> None:
    """``compare.svg`` and ``compare.png``: a row for every task, size and checkpoint, a colour for every study.

    Taxes without a chance-normalised value (bits per byte) are on another scale and stay in the table.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in content["tax"] if row["normalised"] is not None]
    labels = list(dict.fromkeys(comparison_label(row) for row in rows))
    studies = content["studies"]
    figure = Figure(figsize=(7, 1.5 + 0.3 * len(labels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, study in enumerate(studies):
        own = [row for row in rows if row["study"] == study]
        places = [labels.index(comparison_label(row)) + 0.5 * (number + 0.5) / len(studies) - 0.25 for row in own]
        values = [row["normalised"]["value"] for row in own]
        halves = [
            0.0 if row["normalised"]["high"] is None else row["normalised"]["high"] - value
            for row, value in zip(own, values, strict=True)
        ]
        axes.errorbar(values, places, xerr=halves, fmt="o", ms=4, lw=1, label=study)
    axes.axvline(0, color="0.5", lw=0.8)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("chance-normalised tax, 95 % (positive is a cost)", fontsize=8)
    axes.legend(title="synthetic world" if content["synthetic"] else None, fontsize=8, title_fontsize=8)
    for suffix in ("svg", "png"):
        figure.savefig(out / f"compare.{suffix}", dpi=150)


def comparison_label(row: dict[str, Any]) -> str:
    return f"{row['task']} ({row['format']}, {row['k_shot']}-shot) {row['model']}, {row['at']}, from {row['before']}"
