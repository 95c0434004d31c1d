"""Pictures that commands draw outside a report: one fit, and the taxes of several studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Fitted(Protocol):
    """What is drawn of a fit; ``analysis.fit_result.FitResult`` is one."""

    @property
    def law(self) -> str: ...
    @property
    def formula(self) -> str: ...
    @property
    def x(self) -> tuple[str, ...]: ...
    @property
    def y(self) -> str: ...
    def predict(self, x: Any) -> Any: ...
    def band(self, x: Any) -> tuple[Any, Any]: ...


class BadInput(ValueError):
    """What a user gave that cannot be used, in one line."""


def draw_fit(path: Path, result: Fitted, x: Any, y: Any) -> None:
    """Points, the fitted line and its 95 % band against the first column, in a picture file."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    known = FigureCanvasAgg(figure).get_supported_filetypes()
    if path.suffix.lstrip(".") not in known:
        raise BadInput(
            f"--plot {path}: cannot draw {path.suffix or 'a file without suffix'}; allowed: {', '.join(known)}"
        )
    axes = figure.subplots()
    axes.plot(x[:, 0], y, ".", color="0.3")
    wide = x[:, 0].min() > 0 and x[:, 0].max() / x[:, 0].min() > 20
    for second in np.unique(x[:, 1]) if x.shape[1] > 1 else [None]:
        ends = x[:, 0].min(), x[:, 0].max()
        line = np.geomspace(*ends, 200) if wide else np.linspace(*ends, 200)
        points = line[:, None] if second is None else np.column_stack([line, np.full_like(line, second)])
        low, high = result.band(points)
        axes.plot(line, result.predict(points), lw=1.2)
        axes.fill_between(line, low, high, alpha=0.2, lw=0)
    axes.set(
        xlabel=result.x[0], ylabel=result.y, title=f"{result.law}: {result.formula}", xscale="log" if wide else "linear"
    )
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
