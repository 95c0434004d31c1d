"""Pretraining and a second set in analysis and report: numbers by hand, words and panels from hand-made rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.estimates import paired_difference
from analysis.frames import MAIN, Setting, Study
from analysis.pm import pm_rows
from analysis.pm_pretraining import pm_extra, pm_pretraining, votes_alone
from analysis.pools import PM, largest
from analysis.results import SCHEMA_FILE, clean
from hh_scaling.configs import Compute, PMConfig, PMTraining, SizeSpec
from hh_scaling.records import Record
from reports import pm_pretraining_figures, pm_pretraining_sentences
from reports.figures import FIGURES
from reports.sections import build_sections
from tests.fake_pm_tables import COUNTS, EXTRA, MOST, difference, further_tables, level
from tests.fake_pms import empty_study, fake_pm, held_out

SIZES = {"12k": 12_000, "60k": 60_000, "300k": 300_000}
N = 400
Results = dict[str, Any]


def scored(seed: int, lift: float = 0.3) -> Any:
    return held_out(np.random.default_rng(seed).normal(lift, 1, N))


def pm_config(half: str = "train", **more: Any) -> dict[str, Any]:
    """As records have it: what has its default is not written."""
    known = {"size": SizeSpec(name="x", n_params=1), "seed": 0, "half": half, "n_comparisons": None}
    return PMConfig(**known | more, training=PMTraining(), compute=Compute()).model_dump(mode="json")  # type: ignore[arg-type]


def study_of(*pretrained: bool) -> Study:
    return Study(Path("nowhere"), {"stages": [], "study": {"pm": {"pretrained": list(pretrained)}}})


def row_of(rows: list[dict[str, Any]], **where: Any) -> dict[str, Any]:
    (found,) = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return found


def accuracy(pm: PM) -> float:
    return float((pm.scores.difference > 0).mean())


# ---------------------------------------------------------------- which is the main setting


def test_the_first_value_in_the_study_is_the_main_setting() -> None:
    """A preference model's own value counts as another setting only where it is not the study's first."""
    for first in (False, True):
        study = study_of(first, not first)
        assert study.main_pretrained is first
        for own in (False, True):
            record = Record("pm-x", "pm", "done", pm_config(pretrained=own), {})
            assert study.is_main(record) == (own is first)
            assert study.setting(record) == Setting(pretrained=None if own is first else own)
    assert study_of().main_pretrained is False and empty_study().main_pretrained is False
    other = Record("pm-x", "pm", "done", pm_config(extra_share=0.5), {})
    assert study_of(False).setting(other) == Setting(extra_share=0.5)
    assert study_of(True).setting(other) == Setting(extra_share=0.5, pretrained=False)
    gold = Record("pm-x", "pm", "done", pm_config(half="gold"), {})  # which nothing starts from votes
    assert study_of(True).setting(gold) == study_of(False).setting(gold) == MAIN
    assert Setting.of({"size": {}}, main_pretrained=True) == MAIN  # what has no such key is of no other setting


def test_a_policy_of_a_pretrained_pm_is_main_only_where_that_is() -> None:
    for first in (False, True):
        stages = [
            {"stage_id": "pmp", "kind": "pmp", "config": {"binarised": False}, "parents": {}},
            {"stage_id": "pm", "kind": "pm", "config": pm_config(pretrained=True), "parents": {"pmp": "pmp"}},
            {"stage_id": "gold", "kind": "pm", "config": pm_config(half="gold"), "parents": {}},
        ]
        study = Study(Path("nowhere"), {"stages": stages, "study": {"pm": {"pretrained": [first]}}})
        assert study.is_main(Record("ppo", "ppo", "done", {}, {"pm_train": "pm", "pm_gold": "gold"})) is first
    assert study.base(Record("pmp", "pmp", "done", {}, {"base": "b"})) is None  # its base is not in this study


# ---------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def starts() -> list[PM]:
    """One seed at two numbers of comparisons, the pretrained ones better; and what must not be counted."""
    pms = [
        fake_pm(
            scored(10 * n + pretrained, 0.2 + 0.3 * pretrained), n=n, **({"pretrained": True} if pretrained else {})
        )
        for n in (100, 500)
        for pretrained in (False, True)
    ]
    others = [fake_pm(scored(77), half="test"), fake_pm(scored(78), harmless_weight=3.0, pretrained=True)]
    return [*pms, *others, fake_pm(scored(79), n=50), fake_pm(scored(80), extra_share=0.5)]


def test_rows_are_accuracies_with_and_without(starts: list[PM]) -> None:
    rows = pm_pretraining(study_of(False, True), starts)
    assert [(row["n_comparisons"], row["pretrained"]) for row in rows] == [
        (100, False), (100, True), (500, False), (500, True),
    ]  # fmt: skip
    for row, pm in zip(rows, starts, strict=False):
        assert row["accuracy"]["value"] == pytest.approx(accuracy(pm)) and row["accuracy"]["n"] == N
        assert row["n_runs"] == 1 and (row["difference"] is None) == (not row["pretrained"])


def test_differences_are_paired_by_comparison(starts: list[PM]) -> None:
    """One run each, so the interval is that of a paired difference over conversations."""
    rows = pm_pretraining(study_of(False, True), starts)
    for plain, other, n in ((starts[0], starts[1], 100), (starts[2], starts[3], 500)):
        found = row_of(rows, n_comparisons=n, pretrained=True)["difference"]
        cluster = np.arange(N) // 2
        wanted = paired_difference(other.scores.correct, plain.scores.correct, cluster)
        assert found["value"] == pytest.approx(accuracy(other) - accuracy(plain))
        assert found["se"] == pytest.approx(wanted.se) and found["mde"] == pytest.approx(wanted.to_difference()["mde"])


def test_where_pretraining_is_the_main_setting_the_others_are_without_it(starts: list[PM]) -> None:
    """The same rows the other way round: None is pretrained, False is not."""
    swapped = [
        fake_pm(pm.scores, n=pm.n_comparisons, **({} if pm.setting.pretrained else {"pretrained": False}))
        for pm in starts[:4]
    ]
    study = study_of(True, False)
    wanted = pm_pretraining(study_of(False, True), starts)
    assert pm_pretraining(study, swapped) == wanted
    assert [pm.n_comparisons for pool in largest(swapped) for pm in pool.pms] == [500]
    assert {row["n_comparisons"] for row in pm_rows(study, swapped)} == {100, 500}


def test_the_votes_alone_are_a_row_on_no_comparisons(starts: list[PM]) -> None:
    """Pretrainings become preference models of 0 comparisons; at a size without other rows they are not shown."""
    size = {"model": {"name": "1000", "n_params": 1000, "n_params_total": 1000}}
    stages = [{"stage_id": f"pmp-s{k}", "kind": "pmp", "config": {"seed": k}, "parents": {}} for k in range(2)]
    records = {
        s["stage_id"]: Record(s["stage_id"], "pmp", "done", s["config"], {"base": "b"}, summary=size) for s in stages
    }
    study = Study(Path("nowhere"), {"stages": stages, "study": {"pm": {"pretrained": [False, True]}}}, records)
    scores = {name: scored(90 + k) for k, name in enumerate(records)}
    votes = votes_alone(study, scores)
    row, *others = pm_pretraining(study, starts, votes)
    assert (row["n_comparisons"], row["pretrained"], row["difference"], row["n_runs"]) == (0, True, None, 2)
    assert row["accuracy"]["value"] == pytest.approx(np.mean([s.correct.mean() for s in scores.values()]))
    assert others == pm_pretraining(study, starts)
    assert pm_pretraining(study, [], votes) == []


def test_one_start_alone_is_no_table(starts: list[PM]) -> None:
    assert pm_pretraining(study_of(False), [starts[0], starts[2]]) == []
    assert pm_extra(study_of(False), starts[:4]) == []


def test_extra_rows_are_beside_the_main_pm_of_as_many_comparisons() -> None:
    pms = [fake_pm(scored(k), n=500, extra_share=share) for k, share in enumerate((0.0, 0.5, 1.0))]
    rows = pm_extra(empty_study(), [*pms, fake_pm(scored(9), n=100), fake_pm(scored(8), n=500, half="test")])
    assert [row["extra_share"] for row in rows] == [0.0, 0.5, 1.0] and rows[0]["difference"] is None
    for row, pm in zip(rows, pms, strict=True):
        assert (row["n_comparisons"], row["n_runs"]) == (500, 1)
        assert row["accuracy"]["value"] == pytest.approx(accuracy(pm))
    assert rows[2]["difference"]["value"] == pytest.approx(accuracy(pms[2]) - accuracy(pms[0]))


def test_chains_without_a_partner_are_left_out_of_differences() -> None:
    pms = [fake_pm(scored(k), seed=k) for k in range(3)]
    pms += [fake_pm(scored(10 + k, 0.6), seed=k, pretrained=True) for k in range(2)]
    (plain, row) = pm_pretraining(study_of(False, True), pms)
    assert (plain["n_runs"], row["n_runs"]) == (3, 2)
    both = [accuracy(pms[3 + k]) - accuracy(pms[k]) for k in range(2)]
    assert row["difference"]["value"] == pytest.approx(np.mean(both))


def test_rows_are_as_the_schema_says(starts: list[PM]) -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    extra = [fake_pm(scored(k), extra_share=share) for k, share in enumerate((0.0, 0.5))]
    found = {
        "pm_pretraining": pm_pretraining(study_of(False, True), starts),
        "pm_extra": pm_extra(empty_study(), extra),
    }
    for name, rows in found.items():
        table = {**schema["properties"][name], "$defs": schema["$defs"]}
        for given in (rows, further_tables(SIZES)[name]):
            assert given
            jsonschema.validate(clean(given), table)


# ---------------------------------------------------------------- report


@pytest.fixture
def results() -> Results:
    models = [{"name": name, "n_params": n} for name, n in SIZES.items()]
    return {"schema": 1, "models": models, **further_tables(SIZES)}


def points(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    rows = table[table["layer"] == "point"]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def drawn(name: str, results: Results) -> tuple[Figure, pd.DataFrame]:
    (spec,) = [spec for spec in FIGURES if spec.name == name]
    table, figure = spec.table(results), Figure()
    spec.draw(figure, table)
    figure.draw_without_rendering()
    return figure, table


def test_pretraining_has_a_panel_a_size(results: Results) -> None:
    figure, table = drawn("pm-pretraining", results)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == list(SIZES)
    plain = points(table, panel="60k", series=pm_pretraining_figures.FRESH)
    gained = points(table, panel="60k", series=pm_pretraining_figures.PRETRAINED)
    assert plain["x"].tolist() == gained["x"].tolist() == [COUNTS[0], MOST]
    assert (gained["y"].to_numpy() - plain["y"].to_numpy()) == pytest.approx([0.02, 0.0])
    assert pm_pretraining_figures.pretraining_table({**results, "pm_pretraining": []}).empty


def test_figure_20_shows_accuracy_and_its_change_against_size(results: Results) -> None:
    figure, table = drawn("figure-20-pm-extra", results)
    assert len(figure.axes) == 2
    for share in EXTRA:
        here = points(table, panel="accuracy", series=pm_pretraining_figures.share_words(share))
        assert here["x"].tolist() == list(SIZES.values())
        assert here["y"].tolist() == pytest.approx([level(0) - 0.03 * share, level(1), level(2)])
    change = points(table, panel="change")
    assert sorted(set(change["series"])) == ["votes, 100 % as many", "votes, 50 % as many"]
    assert change["y"].min() == pytest.approx(-0.03)
    assert pm_pretraining_figures.extra_table({**results, "pm_extra": []}).empty


def test_only_what_excludes_zero_is_said(results: Results) -> None:
    """By hand: gains of .04, .02 and .013 with standard error .008 at 500; costs of .015 and .03 with .01 at 12k."""
    start, mixed = pm_pretraining_sentences.pretraining_sentences(results)
    assert "0 of 6 are measurably lower and 2 higher" in start
    assert "12k on 500 (+0.040" in start and "60k on 500 (+0.020" in start and "300k" not in start
    assert "1 of 6 is measurably lower and 0 higher" in mixed
    assert "measurably lower at 12k (votes, 100 % as many)" in mixed
    for name in ("pm_pretraining", "pm_extra"):
        for row in results[name]:
            row["difference"] = row["difference"] and difference(0.001, 0.1)
    flat = pm_pretraining_sentences.pretraining_sentences(results)
    assert len(flat) == 2
    assert all("of 6 are measurably lower and 0 higher (a true difference of" in line for line in flat)
    assert not any("measurably lower at" in line or "by chance" in line for line in flat)
    assert [len(table.rows) for table in pm_pretraining_sentences.pretraining_tables(results)] == [15, 9]


@pytest.mark.parametrize(("side", "word"), [(1, "higher"), (-1, "lower")])
def test_sentences_can_come_out_either_way(results: Results, side: int, word: str) -> None:
    for name in ("pm_pretraining", "pm_extra"):
        for row in results[name]:
            row["difference"] = row["difference"] and difference(0.5 * side, 0.01)
    lines = pm_pretraining_sentences.pretraining_sentences(results)
    other = "lower" if side > 0 else "higher"
    assert len(lines) == 2
    assert all(f"measurably {word} at" in line and f"measurably {other} at" not in line for line in lines)


def test_the_page_shows_them_under_preference_models(results: Results) -> None:
    figures = {spec.name: type("Shown", (), {"svg": "x"})() for spec in FIGURES}
    section = next(s for s in build_sections(results, figures) if s.id == "pm")
    assert [table.caption for table in section.tables if "otes" in table.caption] == [
        table.caption for table in pm_pretraining_sentences.pretraining_tables(results)
    ]
    assert set(pm_pretraining_sentences.pretraining_sentences(results)) <= set(section.sentences)
    empty = {**results, "pm_pretraining": [], "pm_extra": []}
    assert (
        pm_pretraining_sentences.pretraining_tables(empty)
        == []
        == pm_pretraining_sentences.pretraining_sentences(empty)
    )
