"""What is said of the further tables: either way, no direction where an interval holds 0, and what was left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from reports import pm_probe_sentences, pm_sentences, pm_tables, rate_sentences
from reports.differences import changes, detectable, tally
from reports.figures import FIGURES
from reports.report import draw_figure, render_page
from reports.sections import OPTIONAL, build_sections, not_drawn
from tests.fake_pm_tables import MOST, difference, estimate, further_tables, level

SIZES = {"12k": 12_000, "60k": 60_000, "300k": 300_000}
Results = dict[str, Any]
DIRECTIONS = re.compile(r"measurably (higher|lower|above|below)|grows|falls|rises|shrinks| \((under|over)-confident")
SAY: list[Callable[[Results], list[str]]] = [
    pm_sentences.data_sentences,
    pm_sentences.score_sentences,
    pm_sentences.mixing_sentences,
    pm_probe_sentences.probe_sentences,
    rate_sentences.rate_sentences,
]


@pytest.fixture
def results() -> Results:
    models = [{"name": name, "n_params": n} for name, n in SIZES.items()]
    trend = [
        {"model": name, "n_params": n, "n_comparisons": MOST, "n_runs": 2, "accuracy": estimate(level(i), 0.02)}
        | {"log_loss": estimate(0.6, 0.01), "calibration_slope": estimate(1.2 - 0.3 * i, 0.05)}
        for i, (name, n) in enumerate(SIZES.items())
    ]
    pms = [
        {**row, "stage_id": f"pm-{row['model']}", "tranche": "all", "seed": 0, "half": "train"}
        | {"length_matched_accuracy": estimate(0.61, 0.03), "bayes_gap": difference(0.1, 0.02)}
        for row in trend
    ]
    return {"schema": 1, "models": models, "pm": pms, "pm_trend": trend, **further_tables(SIZES)}


def said(results: Results) -> str:
    return " ".join(line for say in SAY for line in say(results))


def flattened(value: Any) -> Any:
    """Results in which every difference's interval holds 0 (every ratio's and slope's 1, every accuracy's one half)."""
    if isinstance(value, list):
        return [flattened(item) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: flattened(item) for key, item in value.items()}
    differences = ("minus_first", "gap", "minus_all", "minus_one", "difference", "bayes_gap", "per_doubling")
    for key in (*differences, "accuracy_minus_length"):
        if isinstance(changed.get(key), dict):
            changed[key] = difference(0.001, 0.1)
    if isinstance(changed.get("relative"), dict) and changed["helpful_share"] != changed["best_share"]:
        changed["relative"] = difference(0.99, 0.1)
    if "helpful_share" in changed:
        changed["accuracy"], changed["minus_chance"] = estimate(0.51, 0.1), difference(0.01, 0.1)
    if isinstance(changed.get("calibration_slope"), dict):
        changed["calibration_slope"] = estimate(1.01, 0.1)
    return changed


# ---------------------------------------------------------------- differences


def test_a_difference_is_named_by_the_side_of_its_interval() -> None:
    named = [("a", difference(0.3, 0.1)), ("b", difference(-0.3, 0.1)), ("c", difference(0.1, 0.1))]
    named += [("d", {"value": 0.5, "se": None, "low": None, "high": None, "mde": None})]
    assert changes(named, "higher", "lower") == (
        "measurably higher at a (+0.30 [+0.10, +0.50]); measurably lower at b "
        "(\N{MINUS SIGN}0.30 [\N{MINUS SIGN}0.50, \N{MINUS SIGN}0.10]); not measurably different at c (a true "
        "difference of 0.28 would have been found with 80 % power); of unknown interval at d"
    )
    assert tally([d for _, d in named], "higher", "lower") == (
        "1 of 3 are measurably lower and 1 higher (1 more of unknown interval)"
    )


def test_what_was_detectable_is_given_as_a_span() -> None:
    many = [difference(0.0, se) for se in (0.02, 0.01, 0.05)]
    assert detectable(many) == "a true difference of 0.028 to 0.140 would have been found with 80 % power"
    assert detectable([]) == detectable([{"mde": None}]) == ""


# ---------------------------------------------------------------- sentences


def test_no_direction_is_named_where_intervals_hold_zero(results: Results) -> None:
    text = said(flattened(results))
    found = [match[0] for match in DIRECTIONS.finditer(text)]
    zero = re.findall(r"\b0 of \d+ (?:are|stay) measurably \w+", text)  # "0 of 9 are measurably lower" names none
    assert len(found) == len(zero) > 0
    assert "would have been found with 80 % power" in text


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("key", ["minus_first", "minus_all", "minus_one"])
def test_sentences_can_come_out_either_way(results: Results, key: str, side: int) -> None:
    for table in ("pm_turns", "pm_floor", "pm_weights"):
        for row in results[table]:
            if row.get(key) is not None:
                row[key] = difference(0.5 * side, 0.01)
    word, other = ("higher", "lower") if side > 0 else ("lower", "higher")
    subject = {"minus_first": "Against the first turn", "minus_all": "On the fifth", "minus_one": "With weight 10"}
    lines = [line for say in SAY for line in say(results) if line.startswith(subject[key])]
    assert lines and all(f"measurably {word}" in line and f"measurably {other} at" not in line for line in lines)


def test_calibration_is_told_by_bins_and_by_slopes(results: Results) -> None:
    text = " ".join(pm_sentences.score_sentences(results))
    assert "0 of 10 are measurably below and 5 above the accuracy that the scores promise" in text
    assert "12k 1.200 [1.102, 1.298] (under-confident)" in text
    assert "60k 0.900 [0.802, 0.998] (over-confident)" in text


def test_an_unknown_slope_is_not_called_calibrated(results: Results) -> None:
    nothing = {"value": 1.0, "se": None, "low": None, "high": None, "n": 9}
    results["pm_trend"] = [row | {"calibration_slope": nothing} for row in results["pm_trend"]]
    text = " ".join(pm_sentences.score_sentences(results))
    assert "(of unknown interval)" in text and "not measurably either" not in text


def test_of_two_models_as_large_one_is_the_largest(results: Results) -> None:
    twin = [row | {"model": "zz", "minus_first": difference(0.4, 0.01)} for row in results["pm_turns"]
            if row["model"] == "300k" and row["minus_first"]]  # fmt: skip
    results["pm_turns"] += twin
    (line,) = [line for line in pm_sentences.score_sentences(results) if line.startswith("Against the first")]
    assert "accuracy at zz is measurably higher" in line and "lower at turn" not in line


def test_one_kind_alone_is_judged_against_chance(results: Results) -> None:
    text = " ".join(pm_sentences.mixing_sentences(results))
    helpful = next(part for part in text.split(". ") if part.startswith("Trained on harmless comparisons alone"))
    assert "measurably below 0 at 12k (\N{MINUS SIGN}0.280" in helpful
    assert "this part of harmless comparisons: 12k 50 %, 60k 50 % and 300k 50 %" in text


def test_rates_give_each_kind_s_verdict_and_what_was_open(results: Results) -> None:
    lines = rate_sentences.rate_sentences(results)
    assert [line.split(",")[0] for line in lines] == [
        f"The rule's learning rate for {kind}" for kind in ("base models", "preference models", "policies")
    ]
    assert "worse than x2 by 0.040 at 12k, 60k and 300k" in lines[0]
    assert "within noise of the best at 12k" in lines[1] and "80 % power" not in lines[1]
    assert "Where it is not established, a true difference of 0.14" in lines[2] and "1 of 12k at ×2" in lines[2]


def test_levels_without_length_and_below_the_ceiling(results: Results) -> None:
    text = " ".join(pm_sentences.data_sentences(results))
    assert "differ by at most a tenth in length" in text
    assert "1 of 1 stay measurably below the Bayes ceiling" in text
    for row in results["pm"]:
        row |= {"bayes_gap": None, "length_matched_accuracy": None}
    assert "ceiling" not in " ".join(pm_sentences.data_sentences(results))


def test_nothing_is_said_of_what_is_not_there() -> None:
    assert said({}) == ""
    empty: Results = {key: [] for key in further_tables(SIZES)}
    assert said(empty) == "" and not pm_tables.score_tables(empty) + pm_tables.mixing_tables(empty)


# ---------------------------------------------------------------- tables


def test_differences_stand_beside_what_was_detectable(results: Results) -> None:
    for table in (pm_tables.turns_table(results), pm_tables.weights_table(results), pm_tables.rate_table(results)):
        assert any(", detectable 0." in str(cell) for row in table.rows for cell in row), table.caption
        assert {len(row) for row in table.rows} == {len(table.head)}


def test_mixtures_have_a_line_each_and_name_the_best(results: Results) -> None:
    table = pm_tables.shares_table(results)
    here = [row for row in table.rows if row[0] == "12k"]
    assert [row[1] for row in here] == ["as the data come", "100 %", "75 %", "50 %", "25 %", "0 %"]
    assert [row[-1] == "the best" for row in here] == [False, False, False, True, False, False]


def test_unknown_estimates_are_dashes_or_words(results: Results) -> None:
    nothing = {"value": None, "se": None, "low": None, "high": None, "n": None, "mde": None}
    for rows in results.values():
        for row in rows if isinstance(rows, list) else []:
            row |= {key: nothing for key, value in row.items() if isinstance(value, dict)}
    for row in results["pooled"]:
        row |= {key: nothing[key] for key in ("value", "se", "low", "high")}  # an estimate that is the row itself
    assert "not measured" in str(pm_tables.turns_table(results).rows)
    assert "nan" not in said(results) and "None" not in said(results)
    for spec in FIGURES:
        if spec.optional:
            assert draw_figure(spec, results)[1] is None


# ---------------------------------------------------------------- what is left out


def test_optional_figures_without_rows_are_one_line_and_no_section(results: Results) -> None:
    lacking = {**results, "pm_shares": [], "pm_weights": [], "rate_check": []}
    figures = {spec.name: draw_figure(spec, lacking)[0] for spec in FIGURES}
    sections = {section.id: section for section in build_sections(lacking, figures)}
    assert "scores" in sections and not {"mixing", "rates"} & set(sections)
    (line,) = not_drawn(figures)
    assert line in sections["left-out"].sentences
    assert line.count("no preference model was trained on a mixture of its own") == 1
    absent = [spec for spec in FIGURES if spec.section in ("mixing", "rates")]
    assert len(absent) == 4 and all(spec.title in line for spec in absent)
    page = render_page(lacking, list(sections.values()))
    assert not [spec.name for spec in absent if f'id="{spec.name}"' in page]


def test_a_study_with_everything_lists_nothing(results: Results) -> None:
    figures = {spec.name: draw_figure(spec, results)[0] for spec in FIGURES}
    assert not_drawn(figures) == []
    assert set(OPTIONAL) <= {section.id for section in build_sections(results, figures)}
