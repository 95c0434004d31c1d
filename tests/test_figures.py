"""Figures: the tables behind them against the results they come from, what is drawn, and the style's promises."""

from __future__ import annotations

import copy
import io
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.results import analyze
from reports import compare_figures, frontier_figures, pm_figures, policy_figures, save, style, tax_figures
from reports.figure_spec import FigureSpec
from reports.figures import FIGURES, alt_text
from reports.formats import (
    format_count,
    format_estimate,
    format_number,
    format_seconds,
    join_words,
    plain_label,
    plural,
    size_label,
    visible,
)
from reports.results import ResultsError, model_names, read_results
from tests.fake_pm_tables import completed, further_tables
from tests.fake_runs import Shape, make_runs

Results = dict[str, Any]
SMALL = Shape(
    comparisons=(500, 2000), held_out=80, prompts=24, steps=(0, 5, 10, 20), items=60, diverged=True, ways=True
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A small fake study, analysed, what it lacks written by hand; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("figures")
    analyze(make_runs(folder / "runs", sizes=(12_000, 60_000, 300_000), shape=SMALL), folder)
    return completed(json.loads((folder / "results.json").read_text()))


def points(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The point rows of a tidy table, narrowed down by columns."""
    rows = table[table["layer"] == "point"]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


# ---------------------------------------------------------------- numbers as text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (512, "512"),
        (999, "999"),
        (8192, "8.2k"),
        (24_000, "24k"),
        (100_000, "100k"),
        (999_600, "1M"),
        (1_330_000, "1.3M"),
        (135_000_000, "135M"),
        (2_800_000_000, "2.8B"),
        (9_960, "10k"),
        (None, "not measured"),
    ],
)
def test_counts_are_short(count: float | None, text: str) -> None:
    assert format_count(count) == text


def test_an_estimate_shows_two_digits_of_its_uncertainty_and_n() -> None:
    estimate = {"value": 0.6312, "se": 0.0055, "low": 0.6203, "high": 0.6421, "n": 2000}
    assert format_estimate(estimate) == "0.631 [0.620, 0.642] (n=2,000)"
    assert format_estimate(estimate, scale=100) == "63.1 [62.0, 64.2] (n=2,000)"
    assert format_estimate({**estimate, "value": -0.001, "low": -0.012, "high": 0.01}, signed=True) == (
        "\N{MINUS SIGN}0.001 [\N{MINUS SIGN}0.012, +0.010] (n=2,000)"
    )
    assert format_estimate({**estimate, "low": None, "high": None}) == "0.631 [no interval] (n=2,000)"
    assert format_estimate({**estimate, "high": None}) == "0.631 [0.620, +∞] (n=2,000)"
    assert format_estimate({"value": None, "n": 3}) == format_estimate(None) == "not measured"


def test_numbers_have_one_zero_and_true_minus_signs() -> None:
    assert format_number(-0.0004, 3, signed=True) == "0.000"
    assert format_number(-1234.5, 1) == "\N{MINUS SIGN}1,234.5"
    assert [format_seconds(s) for s in (0.25, 59.4, 200, 7500)] == ["0.2 s", "59 s", "3 min 20 s", "2 h 5 min"]
    assert [join_words(words) for words in ([], ["a"], ["a", "b", "c"])] == ["none", "a", "a, b and c"]
    assert [plural(n, "policy", "policies") for n in (0, 1, 1200)] == ["no policies", "1 policy", "1,200 policies"]


def test_acting_characters_become_signs() -> None:
    assert visible("a\x1b[31mb\u202ec\x00\u200bd\ud800\x9b\n\t") == "a␛[31mb⟨U+202E⟩c␀⟨U+200B⟩d⟨U+D800⟩⟨U+009B⟩\n\t"
    assert visible("plain √KL, naïve 東京") == "plain √KL, naïve 東京"
    assert plain_label("\x1b[1mbig\x1b[0m\nmodel") == "big model"
    assert not plain_label("_hidden").startswith("_")  # matplotlib drops such labels from legends
    assert len(plain_label("x" * 200)) == 32


# ---------------------------------------------------------------- style


def luminance(colour: str) -> float:
    """Relative luminance by the formula of WCAG 2.2."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True))


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_size_colours_are_distinct_readable_and_darken_with_size(count: int) -> None:
    colours = list(style.size_colours([f"m{i}" for i in range(count)]).values())
    light = [luminance(colour) for colour in colours]
    assert light == sorted(light, reverse=True) and len(set(colours)) == count
    assert all(1.05 / (value + 0.05) >= 3 for value in light)  # WCAG 1.4.11, graphics on white


def test_ticks_lie_on_the_values_and_keep_apart() -> None:
    figure = Figure()
    axes = figure.subplots()
    style.log_count_axis(axes, [24_000, 26_000, 100_000, 1_330_000])
    figure.draw_without_rendering()
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == ["26k", "100k", "1.3M"]  # 24k would touch 26k


def test_a_lonely_fourth_panel_is_avoided() -> None:
    assert [style.grid_columns(n, 3) for n in (1, 2, 3, 4, 5, 7)] == [1, 2, 3, 2, 3, 3]


# ---------------------------------------------------------------- preference models


def test_pm_points_are_the_pooled_accuracies(results: Results) -> None:
    table = pm_figures.pm_accuracy_table(results)
    for row in results["pm_trend"]:
        by_data = points(table, panel=pm_figures.BY_DATA, model=row["model"], x=row["n_comparisons"])
        by_size = points(table, panel=pm_figures.BY_SIZE, model=row["model"], series=format_count(row["n_comparisons"]))
        for found in (by_data, by_size):
            assert found[["y", "low", "high", "n"]].to_numpy().tolist() == [
                [row["accuracy"][key] for key in ("value", "low", "high", "n")]
            ]
    assert len(points(table)) == 2 * len(results["pm_trend"])


def test_pm_lines_are_the_fitted_laws(results: Results) -> None:
    table = pm_figures.pm_accuracy_table(results)
    own = next(fit for fit in results["fits"] if fit["group"] == "pm 60k")["params"]
    line = table[(table["layer"] == "fit") & (table["model"] == "60k")]
    assert line["x"].tolist() == [500, 2000]
    for x, y in zip(line["x"], line["y"], strict=True):
        assert y == pytest.approx(own["c0"]["value"] + own["c1"]["value"] * math.log(x), abs=1e-12)
    joint = next(fit for fit in results["fits"] if fit["group"] == "pm all")["params"]
    line = table[(table["layer"] == "fit") & (table["panel"] == pm_figures.BY_SIZE) & (table["series"] == "2k")]
    level = joint["c0"]["value"] + joint["c2"]["value"] * math.log(2000)
    for x, y in zip(line["x"], line["y"], strict=True):
        assert y == pytest.approx(level + joint["c1"]["value"] * math.log(x), abs=1e-12)


def test_pm_reference_levels_are_length_and_bayes_of_the_same_items(results: Results) -> None:
    table = pm_figures.pm_accuracy_table(results)
    levels = {str(r["series"]): r["y"] for _, r in table[table["layer"] == "reference"].iterrows()}
    row = next(row for row in results["pm"] if row["tranche"] == "all")
    assert levels == {
        pm_figures.BAYES: row["bayes_accuracy"]["value"],
        pm_figures.LENGTH: row["length_accuracy"]["value"],
    }


# ---------------------------------------------------------------- frontier


@pytest.mark.parametrize("builder", [frontier_figures.samples_table, frontier_figures.sqrt_kl_table])
def test_every_curve_starts_at_the_origin(results: Results, builder: Any) -> None:
    table = points(builder(results))
    for _, curve in table.groupby(["panel", "series", "model", "run"]):
        assert curve[["x", "y"]].iloc[0].tolist() == [0.0, 0.0]


def test_frontier_lines_go_from_the_origin_to_the_farthest_point(results: Results) -> None:
    table = frontier_figures.sqrt_kl_table(results)
    line = table[(table["layer"] == "fit") & (table["model"] == "300k") & (table["panel"] == frontier_figures.TEST)]
    slope = next(
        fit["params"]["c"]["value"]
        for fit in results["fits"]
        if (fit["law"], fit["group"], fit["y"]) == ("sqrt-kl-linear", "300k", "score_test")
    )
    farthest = max(row["sqrt_kl"] for row in results["frontier"] if row["model"] == "300k")
    assert line[["x", "y"]].to_numpy().tolist() == [[0.0, 0.0], [farthest, pytest.approx(slope * farthest)]]


def test_the_mean_over_runs_leaves_out_diverged_policies(results: Results) -> None:
    table = points(frontier_figures.samples_table(results), panel=frontier_figures.EACH, series="train PM", model="12k")
    last = [row for row in results["frontier"] if row["model"] == "12k" and row["step"] == 20]
    assert {row["status"] for row in last} == {"done", "diverged"}
    kept = [row["score_train"]["value"] for row in last if row["status"] == "done"]
    assert table["y"].iloc[-1] == pytest.approx(sum(kept) / len(kept))


def test_points_are_hollow_exactly_below_two_standard_errors(results: Results) -> None:
    changed = copy.deepcopy(results)
    first = next(row for row in changed["frontier"] if row["step"] == 5)
    first["kl"] |= {"value": 0.1, "se": 0.051}
    table = points(frontier_figures.sqrt_kl_table(changed))
    assert table[table["hollow"]][["run", "x"]].drop_duplicates().to_numpy().tolist() == [
        [first["stage_id"], first["sqrt_kl"]]
    ]


def gold_curve(results: Results, values: list[float], verdict: str) -> pd.DataFrame:
    """The gold table of one run with the given scores at its steps, at a size with that verdict."""
    changed = copy.deepcopy(results)
    run = changed["frontier"][0]["stage_id"]
    changed["frontier"] = [row for row in changed["frontier"] if row["stage_id"] == run]
    for row, value in zip(changed["frontier"], values, strict=True):
        row["score_gold"]["value"] = value
    for row in changed["overoptimisation"]:
        row["gold_verdict"] = verdict
    return frontier_figures.gold_table(changed)


@pytest.mark.parametrize(
    ("values", "verdict", "peak"),
    [
        ([0, 0.5, 0.9, 0.4], "falls", 0.9),  # means of three: .47 and .6
        ([0, 0.9, 0.3, -0.5], "falls", 0.9),
        ([0, 0.5, 0.9, 0.4], "inconclusive", None),
    ],
)
def test_a_star_only_where_the_size_falls_by_the_rule(
    results: Results, values: list[float], verdict: str, peak: float | None
) -> None:
    table = gold_curve(results, values, verdict)
    assert table[table["layer"] == "peak"]["y"].tolist() == ([] if peak is None else [peak])


def vertices(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    """Both coordinates of a drawn line."""
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def test_every_size_is_shown_as_far_as_it_went(results: Results) -> None:
    """The largest size goes to twice the others' √KL: its panel must not be cut at theirs."""
    changed = copy.deepcopy(results)
    for row in changed["frontier"]:
        row["sqrt_kl"] *= 2 if row["model"] == "300k" else 1
    for table, draw in (
        (frontier_figures.gold_table(changed), frontier_figures.draw_gold),
        (frontier_figures.sqrt_kl_table(changed), frontier_figures.draw_sqrt_kl),
    ):
        figure = Figure()
        draw(figure, table)
        for axes in figure.axes:
            reached = max(float(x.max()) for x, _ in map(vertices, axes.get_lines()) if len(x) > 2)
            assert axes.get_xlim()[0] < 0 and reached < axes.get_xlim()[1] < 1.2 * reached


def test_a_line_worse_than_a_constant_is_dashed(results: Results) -> None:
    changed = copy.deepcopy(results)
    for fit in changed["fits"]:
        if fit["law"] == "sqrt-kl-linear" and fit["group"] == "60k":
            fit["r2"] = -0.5
    table = frontier_figures.sqrt_kl_table(changed)
    lines = table[table["layer"] == "fit"]
    assert set(lines[lines["status"] == frontier_figures.WORSE]["model"]) == {"60k"}
    figure = Figure()
    frontier_figures.draw_sqrt_kl(figure, table)
    drawn = [line.get_linestyle() for line in figure.axes[0].get_lines() if len(vertices(line)[0]) == 2]
    assert drawn.count("--") == 1 and "worse than a constant" in "".join(t.get_text() for t in figure.legends[0].texts)


@pytest.mark.parametrize(
    ("name", "count", "title", "tick"),
    [
        ("100k", 100_672, "100k parameters", "100k"),
        ("885k", 885_696, "885k parameters", "885k"),
        ("1.5m", 1_500_000, "1.5m parameters", "1.5m"),
        ("100k", 120_000, "100k · 120k parameters", "120k"),
        ("pythia-14m", 1_200_000, "pythia-14m · 1.2M parameters", "1.2M"),
    ],
)
def test_a_size_is_named_once(name: str, count: int, title: str, tick: str) -> None:
    assert frontier_figures.size_title(name, count) == title and size_label(name, count) == tick


# ---------------------------------------------------------------- tax


def test_tax_points_are_normalised_points_and_hollow_where_uninformative(results: Results) -> None:
    table = tax_figures.tax_table(results)
    for row in results["tax"]:
        panel = tax_figures.task_label(row["task"], row["format"], row["k_shot"])
        found = points(table, panel=panel, model=row["model"], series=tax_figures.at_label(row)).iloc[0]
        value = row["value"] if row["normalised"] is None else 100 * row["normalised"]["value"]
        assert found["y"] == pytest.approx(value) and bool(found["hollow"]) is not row["informative"]
    pooled = next(row for row in results["pooled"] if row["model"] == "60k" and row["at"] == "end")
    mean = points(table, panel=tax_figures.MEAN, model="60k", series=tax_figures.END)
    assert mean["y"].tolist() == [pytest.approx(100 * pooled["value"])]


def test_the_mean_over_tasks_weights_them_equally(results: Results) -> None:
    table = points(tax_figures.mean_table(results), model="60k", series=tax_figures.BEFORE)
    scores: dict[str, list[float]] = {}
    for row in results["benchmarks"]:
        if row["model"] == "60k" and row["stage_kind"] == "base" and row["metric"] == "acc":
            scores.setdefault(row["task"], []).append(row["score"]["value"])
    means = [sum(values) / len(values) for values in scores.values()]
    assert table["y"].tolist() == [pytest.approx(sum(means) / len(means))]


def test_every_task_has_its_panel_and_chance_line(results: Results) -> None:
    table = tax_figures.tasks_table(results)
    chances = {(row["task"], row["format"]): row["chance"] for row in results["benchmarks"]}
    for (task, form), chance in chances.items():
        rows = table[(table["panel"] == tax_figures.task_label(task, form, 0)) & (table["layer"] == "reference")]
        assert rows["y"].tolist() == ([] if chance is None else [chance])


def test_kl_is_shown_by_every_estimator_and_size(results: Results) -> None:
    """Each point is the frontier's own estimate with its interval; one panel a size."""
    table = points(policy_figures.kl_table(results))
    assert set(table["series"]) == set(policy_figures.ESTIMATORS) and len(set(table["panel"])) == 3
    for name, column in policy_figures.ESTIMATORS.items():
        ours = points(table, series=name)
        wanted = {(row["stage_id"], row["step"]): row[column] for row in results["frontier"]}
        assert len(ours) == len(wanted)
        for run, step, y, low in zip(ours["run"], ours["x"], ours["y"], ours["low"], strict=True):
            assert (y, low) == (wanted[run, step]["value"], wanted[run, step]["low"])


def test_what_was_not_measured_is_not_drawn(results: Results) -> None:
    """Results of an earlier version: k1 and k3 alone, and only the panels there are numbers for."""
    old = copy.deepcopy(results)
    for row in old["frontier"]:
        row.update(dict.fromkeys(("kl_exact", "reverse_kl_exact", "entropy", "distinct_1", "distinct_2")))
        row["score_train_controlled"] = None
    assert set(policy_figures.kl_table(old)["series"]) == {"k1", "k3"}
    panels = set(policy_figures.responses_table(old)["panel"])
    assert panels == {"Response length, tokens", "Share cut off by the limit", "Train PM's score, change"}
    assert len(set(policy_figures.responses_table(results)["panel"])) == len(policy_figures.MEASURES)


# ---------------------------------------------------------------- every figure


@pytest.mark.parametrize("spec", FIGURES, ids=lambda spec: spec.name)
def test_every_figure_says_synthetic_world_and_nothing_when_it_is_not(results: Results, spec: FigureSpec) -> None:
    """Text in the SVG is text, so it can be searched; the CSV is the table that was drawn."""
    table = spec.table(results)
    marked, plain = (save.render(spec.draw, table, spec.size(table), synthetic) for synthetic in (True, False))
    assert b"synthetic world" in marked.svg and b"synthetic world" not in plain.svg
    assert marked.png[:8] == b"\x89PNG\r\n\x1a\n"
    read = pd.read_csv(io.BytesIO(marked.csv), dtype={"series": str})
    assert len(read) == len(table) and read["y"].tolist() == pytest.approx(table["y"].tolist(), nan_ok=True)
    assert spec.title in alt_text(spec, table)


def test_names_are_never_markup(results: Results) -> None:
    """A size called like TeX, like a hidden label or like markup is drawn as those very characters."""
    text = json.dumps(results)
    for name, odd in (("12k", "$\\\\frac{$"), ("60k", "_60k"), ("300k", "</text><script>")):
        text = text.replace(f'"{name}"', f'"{odd}"').replace(f'"pm {name}"', f'"pm {odd}"')
    changed = json.loads(text)
    for spec in FIGURES:
        table = spec.table(changed)
        drawn = save.render(spec.draw, table, spec.size(table), True)
        root = ET.fromstring(drawn.svg)
        assert not [e for e in root.iter() if e.tag.endswith("script")]
        if spec.name == "figure-13-sqrt-kl":
            words = "".join(root.itertext())
            assert all(name in words for name in ("$\\frac{$", "_60k", "</text><script>"))


def test_bytes_do_not_depend_on_the_callers_settings(results: Results) -> None:
    import matplotlib as mpl

    spec = FIGURES[0]
    table = spec.table(results)
    first = save.render(spec.draw, table, spec.size(table), True)
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": None, "axes.grid": False, "savefig.dpi": 40}):
        assert save.render(spec.draw, table, spec.size(table), True) == first


def test_no_figure_depends_on_the_order_of_rows(results: Results) -> None:
    changed = copy.deepcopy(results)
    for key in ("frontier", "benchmarks", "tax", "pooled", "models", *further_tables({"12k": 12_000})):
        changed[key].reverse()
    for spec in FIGURES:
        if spec.section != "pm":
            ours, theirs = (points(spec.table(r)).dropna(subset=["x"]) for r in (results, changed))
            assert sorted(map(str, ours["y"])) == sorted(map(str, theirs["y"]))
            assert model_names(ours) == model_names(theirs)


def test_file_names_are_unique_and_safe() -> None:
    names = [spec.name for spec in FIGURES]
    assert len(set(names)) == len(names)
    assert not [n for n in names if not n.replace("-", "").isalnum()]


# ---------------------------------------------------------------- several studies


def test_studies_stand_side_by_side_at_the_end(results: Results, tmp_path: Path) -> None:
    rows = {
        key: [{**row, "study": study} for study in ("one", "two") for row in results[key]] for key in ("tax", "pooled")
    }
    compared: dict[str, Any] = {"schema": 1, "studies": ["one", "two"], "synthetic": ["one"], **rows}
    table = compare_figures.compare_table(compared)
    assert points(table)["series"].unique().tolist() == ["end of RLHF (one)", "end of RLHF (two)"]
    ends = [row for row in compared["tax"] + compared["pooled"] if row["at"] == "end" and row["before"] == "base"]
    assert len(points(table)) == len(ends)
    paths = compare_figures.write_comparison(compared, tmp_path)
    assert [path.suffix for path in paths] == [".png", ".svg", ".csv"] and all(path.is_file() for path in paths)
    assert b"synthetic world" in paths[1].read_bytes()
    assert compare_figures.write_comparison({**compared, "tax": [], "pooled": []}, tmp_path) == []


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), ("{", "not readable as JSON"), ('{"schema": 9}', "schema 9"), ("[]", "schema 'list'")],
)
def test_unusable_results_are_named_in_one_line(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ResultsError) as caught:
        read_results(tmp_path)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
