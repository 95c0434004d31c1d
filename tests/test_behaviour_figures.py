"""Figures and sentences of behaviours against hand-made rows."""

from __future__ import annotations

import copy
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from reports import behaviour_figures, outlier_figures
from reports.behaviour_registry import BEHAVIOUR_FIGURES
from reports.behaviour_sentences import behaviour_sentences
from reports.tax_figures import BEFORE, END
from tests.fake_behaviours import LAYERS, OCCUPATIONS, behaviour_rows, estimate

SIZES = {"12k": 12_000, "60k": 60_000}
NEAR = "at √KL 1.0"
Results = dict[str, Any]


@pytest.fixture
def results() -> Results:
    pms = [
        {"model": name, "n_params": n, "half": half, "n_comparisons": count, "tranche": tranche, "seed": seed}
        | {"stage_id": f"{name}-{half}-{count}-{seed}", "accuracy": estimate(0.6 + 0.1 * (count == 500), 0.02, 300)}
        for name, n in SIZES.items()
        for half in ("train", "test")
        for count in (100, 500)
        for tranche in ("all", "helpful", "elsewhere")
        for seed in (0, 1)
    ]
    return {"pm": pms, **behaviour_rows(SIZES)}


def points(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The point rows of a tidy table, narrowed down by columns."""
    rows = table[table["layer"] == "point"]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def test_a_point_is_the_mean_over_seeds_with_intervals_of_items(results: Results) -> None:
    """Seeds are 0.02 apart and meet the same items: the half width is one seed's, 1.96 standard errors."""
    table = behaviour_figures.occupations_table(results)
    for place, value in ((BEFORE, 0.41), (NEAR, 0.31), (END, 0.21)):
        row = points(table, series=place, model="60k").iloc[0]
        assert row[["y", "low", "high", "n"]].tolist() == pytest.approx([value, value - 0.0392, value + 0.0392, 60])
    assert list(dict.fromkeys(points(table)["series"])) == [BEFORE, NEAR, END]


def test_occupations_of_the_largest_size_before_and_at_the_end(results: Results) -> None:
    table = behaviour_figures.occupations_table(results)
    rows = table[table["layer"] == "occupation"].set_index("series")
    assert set(rows.index) == set(OCCUPATIONS) and set(rows["model"]) == {"60k"}
    for name, bias in OCCUPATIONS.items():
        assert rows.loc[name, ["x", "y"]].tolist() == pytest.approx([bias, bias / 2])
    results["behaviour_occupations"] = []
    assert set(behaviour_figures.occupations_table(results)["panel"]) == {behaviour_figures.BY_SIZE}


def test_sentiment_has_a_column_of_panels_for_each_kind_of_group(results: Results) -> None:
    table = behaviour_figures.sentiment_table(results)
    assert list(dict.fromkeys(table["panel"])) == [
        f"{kind}, {place}" for place in (BEFORE, NEAR, END) for kind in ("religion", "race")
    ]
    assert set(points(table, panel=f"race, {END}")["series"]) == {"Asian", "Black", behaviour_figures.EVERY_GROUP}
    hindu = points(table, panel=f"religion, {END}", series="Hindu", model="12k")
    assert hindu["y"].tolist() == pytest.approx([0.45 + 0.1 + 0.2 + 0.01])


def test_losses_and_their_paired_changes(results: Results) -> None:
    table = behaviour_figures.answers_table(results)
    chosen = points(table, panel=behaviour_figures.LOSS, series=f"chosen, {END}", model="60k")
    assert chosen["y"].tolist() == pytest.approx([2.8 + 0.2 + 0.01]) and chosen["n"].tolist() == [300]
    change = points(table, panel=behaviour_figures.CHANGE, series="rejected")
    assert change["y"].tolist() == pytest.approx([0.2, 0.2])  # at the end alone
    assert change["low"].tolist() == pytest.approx([0.2 - 0.0196] * 2)
    figure = Figure()
    behaviour_figures.draw_answers(figure, table)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes][
        1
    ] == "Rejected minus chosen (n=300)"


def test_agreement_goes_along_samples_beside_the_pms_with_most_comparisons(results: Results) -> None:
    table = behaviour_figures.agreement_table(results)
    assert list(dict.fromkeys(table["panel"])) == ["all", "harmless", "helpful"]
    assert points(table, panel="helpful", model="12k")["x"].tolist() == [0, 256, 1024]
    ceilings = table[table["layer"] == "ceiling"]
    assert set(ceilings["panel"]) == {"all", "helpful"} and ceilings["y"].tolist() == pytest.approx([0.7] * 4)
    for row in results["behaviours"]:
        row["samples"] = None  # not known: nowhere on this axis
    assert behaviour_figures.agreement_table(results).empty


def test_layers_and_exposure(results: Results) -> None:
    """AUROC of seeds' mean: 0.51 + 0.02 a layer + 0.03 a size + 0.05 a decade shown; the middle of eight layers."""
    table = outlier_figures.layers_table(results)
    rows = points(table, panel=f"relative, {END}", model="60k")
    assert rows["x"].tolist() == [layer / LAYERS for layer in range(LAYERS + 1)]
    assert rows["y"].tolist() == pytest.approx([0.54 + 0.02 * layer for layer in range(LAYERS + 1)])
    assert list(dict.fromkeys(table["panel"]))[:2] == [f"relative, {BEFORE}", f"Mahalanobis, {BEFORE}"]
    shown = points(outlier_figures.exposure_table(results), panel=END, model="12k")
    assert shown["x"].tolist() == [1, 10] and shown["y"].tolist() == pytest.approx([0.59, 0.64])


def test_distances_keep_their_density_and_mean(results: Results) -> None:
    table = outlier_figures.distances_table(results)
    harmful = table[(table["panel"] == f"relative, {BEFORE}") & (table["series"] == outlier_figures.HARMFUL)]
    assert points(harmful)["y"].tolist() == [7.5]
    density = harmful[harmful["layer"] == "density"]
    assert density["x"].tolist() == [k + 0.5 for k in range(10)] and density["y"].sum() == pytest.approx(1)


def test_collapsed_policies_are_no_part_of_a_mean(results: Results) -> None:
    for row in results["behaviours"]:
        if row["seed"] == 1 and row["stage_kind"] == "ppo":
            row["status"] = "diverged"
    table = behaviour_figures.occupations_table(results)
    assert points(table, series=END, model="12k")["y"].tolist() == pytest.approx([0.2])
    assert points(table, series=BEFORE, model="12k")["y"].tolist() == pytest.approx([0.41])


@pytest.mark.parametrize("spec", BEHAVIOUR_FIGURES, ids=lambda spec: spec.name)
def test_what_was_not_measured_has_no_figure(results: Results, spec: Any) -> None:
    assert len(points(spec.table(results)))
    assert spec.table({}).empty and spec.optional
    unknown = copy.deepcopy(results)
    for row in unknown["behaviours"]:
        row["score"]["value"] = None
    unknown["behaviour_distances"] = unknown["behaviour_changes"] = unknown["behaviour_occupations"] = []
    assert not len(points(spec.table(unknown)))


def test_changes_in_words_need_an_interval_without_zero(results: Results) -> None:
    lines = behaviour_sentences(results)
    said = next(line for line in lines if line.startswith("Loss on chosen"))
    assert "measurably higher at 12k (+0.200 [+0.180, +0.220]) and 60k" in said
    assert "not measurably different at 12k and 60k" in next(line for line in lines if line.startswith("How often"))
    assert any(
        "0.410 [0.371, 0.449] (n=60) before RLHF and 0.210 [0.171, 0.249] (n=60) at its end at 12k" in x for x in lines
    )
    for row in results["behaviour_changes"]:
        row["change"] = estimate(-0.2, 0.01, 300)
    said = next(line for line in behaviour_sentences(results) if line.startswith("Loss on chosen"))
    assert "measurably lower at 12k" in said and behaviour_sentences({}) == []
