"""``report.html``: one self-contained page, readable without scripts, with every figure inlined; its files beside it.

The page is a function of ``results.json``: no clock, no machine, so the same results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hh_scaling.records import atomic_write
from reports import save
from reports.figure_spec import FigureSpec, Row
from reports.figures import FIGURES, alt_text
from reports.formats import visible
from reports.results import read_results
from reports.sections import ReportSection, build_sections, lead, model_notes, synthetic_note, title
from reports.tables import HtmlTable, figure_numbers

TONES = {
    "supported": "good",
    "bonus": "good",
    "equivalent": "good",
    "within noise of the best": "good",
    "contradicted": "bad",
    "tax": "bad",
    "failed": "bad",
    "diverged": "bad",
}


@dataclass(frozen=True)
class ShownFigure:
    """A figure as the template shows it; ``svg`` is base64, empty where there was nothing to draw."""

    name: str
    title: str
    caption: str
    why_empty: str
    alt: str
    svg: str
    width: int  # CSS pixels, so that the page keeps its place while loading
    height: int
    n_rows: int
    numbers: HtmlTable


def write_report(results_dir: Path, out: Path) -> Path:
    """Write ``out/report.html`` and ``out/figures/*`` from ``results_dir/results.json``; returns the page's path.

    Raises ResultsError, in one line, when the results are absent, unreadable or of another schema.
    """
    results = read_results(results_dir)
    drawn: dict[str, ShownFigure] = {}
    for spec in FIGURES:
        shown, files = draw_figure(spec, results)
        drawn[spec.name] = shown
        if files is not None:
            save.save(files, out / "figures", spec.name)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    atomic_write(path, render_page(results, build_sections(results, drawn)))
    return path


def draw_figure(spec: FigureSpec, results: Row) -> tuple[ShownFigure, save.Drawn | None]:
    """A figure for the page and its files; no files, and the reason in its place, where it has no rows."""
    table = spec.table(results)
    if not (table["layer"] == "point").any():
        return ShownFigure(spec.name, spec.title, "", spec.why_empty, "", "", 0, 0, 0, HtmlTable("", [], [])), None
    size = spec.size(table)
    files = save.render(spec.draw, table, size, bool(results.get("synthetic")))
    shown = ShownFigure(
        name=spec.name,
        title=spec.title,
        caption=spec.caption,
        why_empty="",
        alt=alt_text(spec, table),
        svg=base64.b64encode(files.svg).decode(),
        width=round(size[0] * 96),
        height=round(size[1] * 96),
        n_rows=len(table),
        numbers=figure_numbers(spec.title, table),
    )
    return shown, files


def render_page(results: Row, sections: list[ReportSection]) -> str:
    """The page as text, every string from the results escaped and its control characters made visible."""
    css = _asset("report.css")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title(results),
            lead=lead(results),
            synthetic=bool(results.get("synthetic")),
            synthetic_note=synthetic_note(),
            notes=model_notes(results),
            sections=sections,
            css=Markup(css),  # our own file, never data
            style_hash=f"sha256-{digest}",
            footer=f"Made by {results.get('generated_by') or 'hh-scaling'}.",
        )
    )


def tone(word: str) -> str:
    """The colour class of a verdict or status; words that are neither good nor bad news are "open"."""
    return TONES.get(word, "open")


@cache
def _environment() -> jinja2.Environment:
    """Autoescaping, strict about missing names, and with every plain string made visible before it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        keep_trailing_newline=True,
    )
    environment.globals["tone"] = tone
    return environment


def _finalize(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return resources.files("reports").joinpath("templates", name).read_text(encoding="utf-8")
