"""The report: what it says, that it can say the opposite, that hostile text stays text, and equal bytes."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis.results import analyze
from reports import method, sentences, tax_sentences
from reports.figures import FIGURES
from reports.headlines import headlines
from reports.report import ShownFigure, draw_figure, render_page, write_report
from reports.results import without_surrogates
from reports.save import table_csv
from reports.sections import build_sections
from reports.tables import HtmlTable, evidence_lines, figure_numbers
from tests.fake_pm_tables import completed
from tests.fake_runs import Shape, make_runs

Results = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
SMALL = Shape(comparisons=(500, 2000), held_out=80, prompts=24, steps=(0, 5, 10, 20), items=60, failed=True, ways=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a small fake study and, in ``report/``, its report."""
    out = tmp_path_factory.mktemp("report")
    analyze(make_runs(out / "runs", sizes=(12_000, 60_000, 300_000), shape=SMALL), out)
    whole = completed(json.loads((out / "results.json").read_text()))  # every figure has something to show
    (out / "results.json").write_text(json.dumps(whole))
    write_report(out, out / "report")
    return out


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    """The results; tests that change them copy them first."""
    loaded: Results = json.loads((folder / "results.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report" / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every start tag with its attributes, all text, and what stays open."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


DRAWN: dict[tuple[str, str], ShownFigure] = {}  # drawing is slow: the same table is drawn once


def render(results: Results) -> str:
    """The page of changed results, figures included, without writing files."""
    figures = {}
    for spec in FIGURES:
        key = (spec.name, table_csv(spec.table(results)))
        if key not in DRAWN:
            DRAWN[key] = draw_figure(spec, results)[0]
        figures[spec.name] = DRAWN[key]
    return render_page(results, build_sections(results, figures))


def words(results: Results) -> str:
    """The page's text without its figures."""
    figures = {spec.name: draw_figure(spec, {})[0] for spec in FIGURES}
    return Elements(render_page(results, build_sections(results, figures))).text


# ---------------------------------------------------------------- one self-contained, readable file


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    parsed = Elements(page)
    assert parsed.open == []
    tags = [tag for tag, _ in parsed.found]
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(tags)
    for _, attributes in parsed.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        if source := attributes.get("src"):
            assert source.startswith("data:image/svg+xml;base64,")
        if target := attributes.get("href"):
            assert target.startswith(("#", "figures/"))
    assert len(page.encode()) < 4_000_000  # some 60 kB a figure; it is to go by mail


def test_the_policy_forbids_everything_but_our_style_and_pictures(page: str) -> None:
    parsed = Elements(page)
    policy = next(a["content"] for tag, a in parsed.found if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_every_link_and_file_of_a_figure_exists(page: str, folder: Path) -> None:
    for tag, attributes in Elements(page).found:
        target = attributes.get("href") or ""
        if target.startswith("#"):
            assert f'id="{target[1:]}"' in page
        elif tag == "a":
            assert (folder / "report" / target).is_file()
    for spec in FIGURES:
        assert {p.suffix for p in (folder / "report" / "figures").glob(f"{spec.name}.*")} == {".csv", ".png", ".svg"}


def test_headings_pictures_and_tables_are_accessible(page: str) -> None:
    parsed = Elements(page)
    levels = [int(tag[1]) for tag, _ in parsed.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(levels, levels[1:], strict=False))
    images = [a for tag, a in parsed.found if tag == "img"]
    assert len(images) == len(FIGURES) and all(len(a["alt"] or "") > 40 for a in images)
    assert all(a.get("scope") in ("col", "row") for tag, a in parsed.found if tag == "th")
    tables, captions = ([tag for tag, _ in parsed.found if tag == name] for name in ("table", "caption"))
    assert len(tables) == len(captions) > len(FIGURES)
    identifiers = [a["id"] for _, a in parsed.found if a.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert ("html", {"lang": "en"}) in parsed.found


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` by the formula of WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_contrast_of_at_least_four_and_a_half_in_light_and_dark() -> None:
    css = (ROOT / "reports" / "templates" / "report.css").read_text()
    themes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    pairs = [(ink, back) for ink in ("ink", "muted", "accent") for back in ("page", "card", "head")]
    pairs += [("banner-ink", "banner"), ("good", "good-back"), ("bad", "bad-back"), ("open", "open-back")]
    assert len(themes) == 3  # light, dark, print
    for theme in themes[:2]:
        for ink, back in pairs:
            light, dark = sorted((luminance(theme[ink]), luminance(theme[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, back)  # WCAG AA


def test_equal_results_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    """Here and in another process, with another hash seed, time zone and locale, which never loads torch."""
    first = {p.name: p.read_bytes() for p in (folder / "report").rglob("*") if p.is_file()}
    code = (
        "import sys; from pathlib import Path; from reports.report import write_report; "
        f"write_report(Path({str(folder)!r}), Path({str(tmp_path)!r})); "
        "assert not {'torch', 'matplotlib.pyplot'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == first
    assert len(first) == 1 + 3 * len(FIGURES)


# ---------------------------------------------------------------- hostile text

PAYLOADS = [
    "</script><img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" style="background:url(//x.test/a)" x="',
    "<!-- --><![CDATA[<b>]]>",
    "</style><style>*{display:none}",
    "</title><iframe src=//x.test>",
    "</td></tr></table><a href='javascript:alert(1)'>x</a>",
    "</pre><form action=//x.test><input name=q>",
    "<math><mi//xlink:href='data:x,<script>'>",
    "&lt;b&gt; &#60;i&#62; &amp;",
    "{{ 7*7 }} {% raw %} ${7*7} #{7*7}",
    "<base href=//x.test><meta http-equiv=refresh content=0>",
    "\x1b[31mred\x1b[0m \x1b]8;;http://x.test\x07link\x1b]8;;\x07",
    "\u202eevil\u202c \u2066x\u2069 \u200f \ufeff \u200b",
    "\x00\x08\x7f\x9b2J\r",
    "\ud800 lone surrogate",
    "<details open ontoggle=alert(1)><summary>",
    "<textarea><plaintext><noscript>",
]
FREE_TEXT = {
    "name", "description", "model", "note", "task", "tranche", "stage_id", "prompt", "response", "what", "reason",
    "text", "rule", "group", "formula", "message", "source", "generated_by", "half", "recipe", "missing", "part",
    "occupation",
}  # fmt: skip


def poisoned(value: Any, suffix: str, key: str = "") -> Any:
    """``value`` with ``suffix`` appended to every string that comes from users or files, and to data's own keys."""
    if isinstance(value, dict):
        free_keys = key in ("dropped", "tranches", "splits", "evidence")
        return {k + suffix if free_keys and k != "missing" else k: poisoned(v, suffix, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(item, suffix, key) for item in value]
    free = isinstance(value, str) and (key in FREE_TEXT or key == "tasks")
    ours = ("all", "pooled", "pm all", "pm n=")  # names that the analysis gives
    free = free and not value.startswith(ours) and not (key == "group" and value in ("helpful", "harmless", "mean"))
    known = ("religion", "race", "layer ", "responses", "dialogues", "text")  # parts that are no tranche
    free = free and not (key == "part" and value.startswith(known))
    return value + suffix if free else value


def test_hostile_text_in_every_field_adds_no_element_and_no_attribute(results: Results) -> None:
    """The page of poisoned results has the very elements, with the very attribute names, of a harmless one."""
    base = copy.deepcopy(results)
    base["models"][0]["note"] = "already instruction-tuned"
    base["fits"][0]["notes"] = [{"code": "one", "message": "a note"}]
    shapes = []
    for changed in (base, poisoned(base, " ".join(PAYLOADS))):
        html = render(without_surrogates(changed))
        html.encode("utf-8")
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", html
        )
        shapes.append([(tag, sorted(attributes)) for tag, attributes in Elements(html).found])
    assert shapes[0] == shapes[1]


def test_half_surrogates_in_the_file_do_not_stop_the_report(tmp_path: Path) -> None:
    study = {"schema": 1, "study": {"name": "\ud800x", "description": "naïve 😀"}}
    (tmp_path / "results.json").write_text(json.dumps(study))
    html = write_report(tmp_path, tmp_path).read_text(encoding="utf-8")
    assert "\ufffdx" in html and "naïve 😀" in html


def test_hostile_text_is_still_there_to_be_read(results: Results) -> None:
    changed = copy.deepcopy(results)
    changed["samples"][0]["response"] = PAYLOADS[0] + "\x1b[31m\u202e"
    html = render(changed)
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;␛[31m⟨U+202E⟩" in html


# ---------------------------------------------------------------- what it says


def test_the_synthetic_banner_and_model_notes_come_first(results: Results, page: str) -> None:
    assert "Synthetic world." in Elements(page).text
    changed = copy.deepcopy(results)
    changed["synthetic"] = False
    changed["models"][1]["note"] = "already tuned on instructions and preferences"
    text = words(changed)
    assert "ynthetic world" not in text.split("What was found")[0]
    assert "60k: already tuned on instructions and preferences" in text.split("What was found")[0]


def test_numbers_come_with_interval_and_n(results: Results, page: str) -> None:
    text = Elements(page).text
    for row in results["pm_trend"]:
        value = row["accuracy"]
        assert f"{value['value']:.3f} [" in text or f"{value['value']:.2f} [" in text
    number = r"\N{MINUS SIGN}?\+?[\d.,]+"
    assert len(re.findall(rf"{number} \[[^\]]+\] \(n=[\d,]+\)", text)) > 100


def test_what_was_left_out_is_said(page: str) -> None:
    text = Elements(page).text
    assert "no disk space left" in text
    assert "10 were dropped: 10 equal responses" in text
    assert "not above chance before RLHF" in text


def slopes(results: Results, low: float, high: float) -> Results:
    """Results whose log-linear fits of accuracy all have this interval of the slope with size and data."""
    changed = copy.deepcopy(results)
    for fit in changed["fits"]:
        if fit["y"] == "accuracy":
            fit["status"] = "ok"
            for name in ("c0", "c1"):
                fit["params"][name] = {"value": (low + high) / 2, "se": 0.01, "low": low, "high": high}
    return changed


@pytest.mark.parametrize(
    ("low", "high", "size", "data"),
    [
        (0.01, 0.02, "With size accuracy rises", "rises with data at 12k, 60k and 300k"),
        (-0.02, -0.01, "With size accuracy falls", "falls at 12k, 60k and 300k"),
        (
            -0.01,
            0.02,
            "With size accuracy does not measurably change",
            "does not measurably change at 12k, 60k and 300k",
        ),
    ],
)
def test_pm_sentences_can_come_out_either_way(results: Results, low: float, high: float, size: str, data: str) -> None:
    text = " ".join(sentences.pm_sentences(slopes(results, low, high)))
    assert size in text and data in text


def taxes(results: Results, value: float, verdict: str) -> Results:
    """Results whose every tax is ``value`` give or take a tenth of a point."""
    changed = copy.deepcopy(results)
    interval = {"value": value, "se": 0.0005, "low": value - 0.001, "high": value + 0.001}
    for row in changed["pooled"]:
        row.update(interval)
    for row in changed["tax"]:
        row.update(interval, verdict=verdict, informative=True)
    return changed


@pytest.mark.parametrize(
    ("value", "verdict", "words"),
    [
        (0.05, "tax", "a cost at 12k, 60k and 300k"),
        (-0.05, "bonus", "a gain at 12k, 60k and 300k"),
        (0.0, "equivalent", "neither a cost nor a gain at any size"),
    ],
)
def test_tax_sentences_can_come_out_either_way(results: Results, value: float, verdict: str, words: str) -> None:
    text = " ".join(tax_sentences.tax_sentences(taxes(results, value, verdict)))
    assert words in text and f"12 {verdict}" in text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("falls", "falls from its peak"),
        ("none", "keeps what it gained"),
        ("not reached", "was not taken past its peak"),
        ("inconclusive", "has no measurable peak"),
    ],
)
def test_gold_sentences_follow_the_verdicts(results: Results, verdict: str, words: str) -> None:
    changed = copy.deepcopy(results)
    for row in changed["overoptimisation"]:
        row["gold_verdict"] = verdict
    text = " ".join(sentences.frontier_sentences(changed))
    assert f"{words} at 12k, 60k and 300k" in text
    headline = headlines(changed)[1]
    assert headline.value == ("3 of 3" if verdict == "falls" else "0 of 3")
    assert all(("then falls" in line) == (verdict == "falls") for line in headline.lines)
    assert ("deepest fall" in text) == (verdict == "falls")


def test_a_gold_score_that_ends_below_its_start_is_said_to(results: Results) -> None:
    changed = copy.deepcopy(results)
    for row in changed["overoptimisation"]:
        row["gold_rise"] |= {"value": 0.2}
        row["gold_fall"] |= {"value": 1.2}
        row["gold_change"] |= {"value": -1.0, "low": -1.5, "high": -0.5}
    changed["overoptimisation"][0]["gold_change"] |= {"high": 0.5}
    lines = headlines(changed)[1].lines
    assert "fell below its start, not measurably (change to the end" in lines[0]
    assert all("fell below its start (change to the end" in line for line in lines[1:])
    assert "measurably below its start at 2 sizes: 60k" in " ".join(sentences.frontier_sentences(changed))


def test_what_was_not_measured_is_no_open_result(results: Results) -> None:
    changed = copy.deepcopy(results)
    for claim in changed["claims"]:
        claim.update(verdict="inconclusive", evidence={"missing": "policies"})
    n = len(changed["claims"])
    assert sentences.overview(changed) == [
        f"{n} of {n} claims not tested, for want of a measurement; they are listed as inconclusive."
    ]
    changed["claims"][0].update(verdict="supported", evidence={"slope": 1})
    assert sentences.overview(changed)[0] == "1 claim tested: 1 supported."
    assert sentences.overview(changed)[1].startswith(f"{n - 1} of {n} claims not tested")


def test_a_line_that_fits_worse_than_a_constant_is_called_so(results: Results) -> None:
    changed = copy.deepcopy(results)
    for fit in changed["fits"]:
        if fit["law"] == "sqrt-kl-linear" and fit["group"] == "60k":
            fit["r2"] = -0.5
    text = " ".join(sentences.frontier_sentences(changed))
    assert text.count("At 60k the line is worse than a constant") == 2
    assert "worse than a constant" not in " ".join(sentences.frontier_sentences(results))


def test_a_crossover_beyond_the_sizes_is_an_extrapolation(results: Results) -> None:
    changed = copy.deepcopy(results)
    slope = {"value": -0.05, "se": 0.01, "low": -0.07, "high": -0.03, "n": 3}
    place = {"kind": "interval", "n_params": 9e6, "low": 5e6, "high": 2e7, "direction": "tax to bonus", "slope": slope}
    for inside in (True, False):
        for row in changed["crossover"]:
            row.update(place, tested=[12_000, 300_000], in_range=inside)
        text = " ".join(tax_sentences.tax_sentences(changed))
        assert ("outside the sizes tested (12k to 300k)" in text) is not inside


def test_means_over_different_tasks_name_them(results: Results) -> None:
    changed = copy.deepcopy(results)
    for row in changed["pooled"]:
        row.update(suite="own", tasks=[f"only at {row['model']}"], n_tasks=1)
    text = " ".join(tax_sentences.tax_sentences(changed))
    assert "each size's own tasks, so that sizes do not compare" in text and "(1 task: only at 60k)" in text
    matched = " ".join(tax_sentences.tax_sentences(results))
    assert ", at √KL 1.05" in matched and "80 % power at Holm's level" in matched


def test_sizes_without_an_informative_task_are_named(results: Results) -> None:
    changed = copy.deepcopy(results)
    for row in changed["pooled"]:
        if row["model"] == "12k":
            row.update(value=None, se=None, low=None, high=None, n_tasks=0)
    assert "There is no mean tax to state at 12k" in " ".join(tax_sentences.tax_sentences(changed))


def test_failed_fits_and_unresolved_points_are_counted(results: Results) -> None:
    changed = copy.deepcopy(results)
    fit = next(fit for fit in changed["fits"] if fit["group"] == "pm 60k")
    fit["status"] = "not_identified"
    changed["frontier"][1]["kl"] |= {"value": 0.01, "se": 0.02}
    text = " ".join(method.left_out_sentences(changed))
    assert "log-linear of accuracy (pm 60k: not identified)" in text
    assert "1 of 18 checkpoints have a KL below two standard errors" in text


def test_what_the_length_limit_cut_and_dropped_is_counted(results: Results) -> None:
    changed = copy.deepcopy(results)
    rows = [row for row in changed["pm"] if row["tranche"] == "all"]
    for row in rows:
        row |= {"n_trained": 10, "equal_after_truncation": 0, "truncated": 0, "held_out_truncated": 0}
    assert "length limit" not in " ".join(method.left_out_sentences(changed))
    rows[0] |= {"n_trained": 8, "equal_after_truncation": 2, "truncated": 3, "held_out_truncated": 4}
    changed["data"] |= {"n_rows": 100, "n_kept": 100, "empty_responses": 5}
    text = " ".join(method.left_out_sentences(changed))
    n = 10 * len(rows)
    assert f"dropped, since both sides were then the same: 2 of {n} for training" in text
    assert f"cut and kept: 3 of {n - 2} for training" in text
    assert f"cut and kept: up to 4 of {rows[0]['accuracy']['n']:,} held out" in text
    assert "Kept although a response is empty: 5." in text


# ---------------------------------------------------------------- studies that lack things

EMPTY = ["pm", "pm_trend", "frontier", "overoptimisation", "benchmarks", "tax", "pooled", "crossover", "fits", "claims"]


def without(results: Results, *keys: str) -> Results:
    changed = copy.deepcopy(results)
    for key in keys:
        changed[key] = []
    return changed


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("pm", "pm_trend"), "No preference model was trained"),
        (("frontier", "overoptimisation", "samples"), "The study has no policy with evaluations"),
        (("benchmarks", "tax", "pooled", "crossover"), "No benchmark was taken both before and after RLHF"),
        (("fits",), "How accuracy changes with size was not fitted"),
        (("excluded", "fits"), "No stage and no file was left out."),
        ((*EMPTY, "models", "samples", "excluded"), "The study has no sizes"),
    ],
)
def test_a_missing_part_is_said_in_words(results: Results, missing: tuple[str, ...], said: str) -> None:
    assert said in Elements(render(without(results, *missing))).text


def test_one_size_one_seed_no_gold_and_null_estimates_still_give_a_report(results: Results) -> None:
    changed = copy.deepcopy(results)
    for key, rows in changed.items():
        if isinstance(rows, list) and key not in ("claims", "excluded", "fits"):
            changed[key] = [row for row in rows if row.get("model", row.get("name")) in ("60k", None)]
    changed["fits"], changed["data"] = [], None
    for row in changed["frontier"]:
        row.update(score_gold=None, gold_helpful=None, gold_harmless=None)
    for row in changed["overoptimisation"]:
        row.update(gold_fall=None, gold_rise=None, gold_verdict=None, peak_sqrt_kl=None, parting=None)
    for row in changed["pm"]:
        row.update(bayes_accuracy=None, calibration_slope=None, ece=None, accuracy_minus_length=None)
        row["accuracy"] |= {"se": None, "low": None, "high": None}
    text = Elements(render(changed)).text
    assert "1 size, so it cannot say how anything changes with size" in text
    assert "no gold score" in text and "[no interval]" in text


def test_results_that_hold_only_a_schema_give_a_page(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"schema": 1}')
    text = Elements(write_report(tmp_path, tmp_path / "out").read_text()).text
    assert "No model has finished" in text and "Nothing was left out, dropped or diverged." in text
    assert not (tmp_path / "out" / "figures").exists()


# ---------------------------------------------------------------- tables


def test_a_long_table_of_numbers_points_to_the_csv(results: Results) -> None:
    spec = next(spec for spec in FIGURES if spec.name == "figure-07-pm-accuracy")
    table = spec.table(results)
    while len(table) <= 300:
        table = table.loc[table.index.repeat(2)]
    shown = figure_numbers("x", table)
    assert len(shown.rows) == 120 and shown.more == f"{len(table) - 120:,} more rows are in the CSV file."


def test_evidence_of_any_shape_is_readable() -> None:
    estimate = {"value": 0.5, "se": 0.1, "low": 0.3, "high": 0.7, "n": 10}
    assert evidence_lines({"slopes": [{"group": "pm a", **estimate}, {"model": "b", "rise": estimate}]}) == [
        "slopes:", "pm a: 0.50 [0.30, 0.70] (n=10)", "b: rise 0.50 [0.30, 0.70] (n=10)"
    ]  # fmt: skip
    assert evidence_lines({"n_params": 61306.95, "in_range": True, "tested": [1, 2000], "note": None}) == [
        "n params: 61,307", "in range: yes", "tested: 1 and 2,000"
    ]  # fmt: skip
    assert evidence_lines(None) == ["–"] and evidence_lines({}) == ["–"]


def test_table_cells_line_up_with_their_heads(results: Results) -> None:
    figures = {spec.name: draw_figure(spec, {})[0] for spec in FIGURES}
    for section in build_sections(results, figures):
        for table in [*section.tables, *([section.lead_table] if section.lead_table else [])]:
            assert isinstance(table, HtmlTable) and table.caption
            assert {len(row) for row in table.rows} <= {len(table.head)}
