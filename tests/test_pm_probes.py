"""Probes in the analysis and the report: numbers against hand-scored files, words and panels against hand-made rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.frames import Study
from analysis.pm_probes import pm_margins, pm_probe_slopes, pm_probes, probed
from analysis.pools import PM
from analysis.results import SCHEMA_FILE, clean
from reports import pm_figures, pm_probe_figures, pm_probe_sentences, pm_tables
from tests.fake_pm_tables import CATEGORIES, further_tables
from tests.fake_pms import fake_pm, held_out

SIZES = {"12k": 12_000, "60k": 60_000, "300k": 300_000}
HAND = pd.DataFrame(
    {
        "probe": "own",
        "row": [1, 2, 3, 3],  # the third line has three choices
        "category": ["a", "a", "b", "b"],
        "conversation": ["q1", "q1", "q2", "q2"],
        "score_chosen": [1.0, -0.5, 0.25, 2.0],
        "score_rejected": [0.0, 0.5, 0.25, 0.0],
        "length_chosen": [9, 5, 2, 7],
        "length_rejected": [3, 5, 4, 4],
    }
)
Results = dict[str, Any]


def study_of(folder: Path, *scored: tuple[PM, pd.DataFrame]) -> tuple[Study, list[PM]]:
    """PMs with probes.parquet on disk."""
    pms = []
    for pm, table in scored:
        record = replace(pm.record, files={"probes.parquet": {}})
        place = folder / "stages" / record.stage_id
        place.mkdir(parents=True)
        table.to_parquet(place / "probes.parquet", index=False)
        pms.append(replace(pm, record=record))
    return Study(folder, {"stages": []}), pms


def scored(margin: Sequence[float] | np.ndarray, **columns: Any) -> pd.DataFrame:
    """Comparisons of one category with these margins, each a question of its own, chosen as long as rejected."""
    n = len(margin)
    known: dict[str, Any] = {
        "probe": "own", "row": range(1, n + 1), "category": "", "conversation": [str(i) for i in range(n)],
        "score_chosen": margin, "score_rejected": np.zeros(n), "length_chosen": 5, "length_rejected": 5,
    }  # fmt: skip
    return pd.DataFrame(known | columns)


def row_of(rows: list[dict[str, Any]], **where: Any) -> dict[str, Any]:
    (found,) = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return found


# ---------------------------------------------------------------- accuracy


def test_a_hand_scored_file(tmp_path: Path) -> None:
    """Right, wrong, tie, right: 2.5 of 4; longer, equal, shorter, longer: 2.5 of 4.

    Questions' influences on the accuracy are -1/16 and 1/16: se = sqrt(2 (1/16^2 + 1/16^2)) = 1/8. The differences
    from length are 0, -1/2, 1/2, 0: influences -1/8 and 1/8, se 1/4.
    """
    study, pms = study_of(tmp_path, (fake_pm(held_out([1.0])), HAND))
    rows = pm_probes(study, probed(study, pms))
    assert [row["category"] for row in rows] == ["all", "a", "b"]
    whole = rows[0]
    assert (whole["model"], whole["n_params"], whole["n_comparisons"], whole["n_runs"]) == ("1000", 1000, 500, 1)
    assert whole["accuracy"]["value"] == whole["length_accuracy"]["value"] == 0.625
    assert whole["accuracy"]["se"] == pytest.approx(1 / 8) and whole["accuracy"]["n"] == 4
    assert whole["accuracy_minus_length"]["value"] == 0 and whole["accuracy_minus_length"]["se"] == pytest.approx(1 / 4)
    assert whole["length_accuracy"]["se"] == pytest.approx(math.sqrt(2) * 0.0625 * math.sqrt(2))
    alone = row_of(rows, category="a")
    assert alone["accuracy"] | {"note": alone["note"]} == {
        "value": 0.5, "se": None, "low": None, "high": None, "n": 2, "note": "one item cluster: no standard error"
    }  # fmt: skip
    assert row_of(rows, category="b")["length_accuracy"]["value"] == 0.5


def test_runs_meet_the_same_questions(tmp_path: Path) -> None:
    """Two seeds, four questions of which each judges three right, one of them differing: n stays 4, the mean is 3/4.

    Items' variance: (0, .5, .5, 0) off the mean by (1/4, -1/4, -1/4, 1/4) -> 4/3 * 4 * (1/16)^2; runs' is zero.
    """
    study, pms = study_of(
        tmp_path,
        (fake_pm(held_out([1.0]), seed=0), scored([1, 1, -1, 1])),
        (fake_pm(held_out([1.0]), seed=1), scored([1, -1, 1, 1])),
    )
    (row,) = pm_probes(study, probed(study, pms))
    assert (row["accuracy"]["value"], row["accuracy"]["n"], row["n_runs"]) == (0.75, 4, 2)
    assert row["accuracy"]["se"] == pytest.approx(math.sqrt(4 / 3 * 4 / 256))
    assert row["category"] == "all"


def test_only_main_models_with_probes_are_asked(tmp_path: Path) -> None:
    study, pms = study_of(
        tmp_path,
        (fake_pm(held_out([1.0]), n=500), scored([1, -1])),
        (fake_pm(held_out([1.0]), n=500, harmless_weight=2.0), scored([1, 1])),
    )
    pms.append(fake_pm(held_out([1.0]), n=900))  # more comparisons, but nothing to ask
    (row,) = pm_probes(study, probed(study, pms))
    assert row["accuracy"]["value"] == 0.5 and row["n_comparisons"] == 500


def test_what_is_cut_and_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    pm = fake_pm(held_out([1.0]))
    summary = pm.record.summary | {"probes": {"own": {"filled": 2}}}
    study, pms = study_of(tmp_path, (replace(pm, record=replace(pm.record, summary=summary)), HAND))
    rows = pm_probes(study, probed(study, pms))
    assert "2 of 4 comparisons fill the context" in rows[0]["note"] and "fill" not in (rows[1]["note"] or "")
    (tmp_path / "stages" / pms[0].record.stage_id / "probes.parquet").write_text("nothing")
    assert probed(study, pms) == {}
    assert "not a readable table" in study.excluded[0]["reason"]


def test_a_slope_is_per_doubling_and_paired_by_question(tmp_path: Path) -> None:
    """A quarter of the points from one size to four times it: an eighth a doubling; alike questions add no error."""
    scores = []
    for n_params, right in ((1000, [1, 1, -1, -1] * 5), (4000, [1, 1, 1, -1] * 5)):
        scores += [(fake_pm(held_out([1.0]), n_params, seed), scored(np.array(right, float))) for seed in (0, 1)]
    study, pms = study_of(tmp_path, *scores)
    (row,) = pm_probe_slopes(probed(study, pms))
    assert (row["probe"], row["category"], row["n_sizes"], row["n"]) == ("own", "all", 2, 20)
    assert row["per_doubling"]["value"] == pytest.approx(0.125)
    # The difference is 1 on a quarter of 20 questions: sqrt(20/19 * 3/16 / 20), over two doublings; t widens it.
    paired, apart = math.sqrt(3 / 16 / 19) / 2, math.sqrt((1 / 4 + 3 / 16) / 19) / 2
    assert paired <= row["per_doubling"]["se"] < 0.8 * apart


def test_no_slope_without_bases_or_spread(tmp_path: Path) -> None:
    few, _ = (
        study_of(
            tmp_path / "few",
            (fake_pm(held_out([1.0]), 1000), scored([1, -1, 1])),
            (fake_pm(held_out([1.0]), 4000), scored([1, 1, -1])),
        ),
        None,
    )
    alike = study_of(
        tmp_path / "alike", *((fake_pm(held_out([1.0]), n), scored([1.0, 1, 1])) for n in (1000, 2000, 4000))
    )
    for study, pms in (few, alike):
        (row,) = pm_probe_slopes(probed(study, pms))
        assert row["per_doubling"] is None and row["note"].startswith("no slope")
    study, pms = few
    assert pm_probe_slopes(probed(study, pms[:1])) == []


# ---------------------------------------------------------------- margins


def test_margins_are_a_histogram_of_the_largest_size_about_zero(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(0.3, 1.0, 400)
    study, pms = study_of(
        tmp_path,
        (fake_pm(held_out([1.0]), 1000), scored([5.0, -5.0])),
        (fake_pm(held_out([1.0]), 4000), scored(margin, category=["a", "b"] * 200)),
    )
    rows = pm_margins(study, probed(study, pms))
    assert [(row["n_params"], row["category"]) for row in rows] == [(4000, "all"), (4000, "a"), (4000, "b")]
    whole, edges = rows[0], np.array(rows[0]["edges"])
    assert len(edges) == 25 and edges[12] == pytest.approx(0) and edges[0] == -edges[-1]
    inside = np.array(whole["density"]) * np.diff(edges)
    assert inside.sum() == pytest.approx(np.mean(np.abs(margin) <= edges[-1])) and inside.sum() > 0.99
    assert inside[12:].sum() == pytest.approx(np.mean((margin >= 0) & (margin <= edges[-1])))
    assert whole["margin"]["value"] == pytest.approx(margin.mean()) and whole["q50"] == np.quantile(margin, 0.5)
    worst = np.argsort(margin)[:5]
    assert whole["lowest_rows"] == (worst + 1).tolist() and whole["lowest_margins"] == margin[worst].tolist()


def test_only_errors_are_named_and_ties_have_bars(tmp_path: Path) -> None:
    study, pms = study_of(tmp_path, (fake_pm(held_out([1.0])), HAND), (fake_pm(held_out([1.0]), seed=1), HAND))
    assert row_of(pm_margins(study, probed(study, pms)), category="all")["lowest_rows"] == [2]
    study, pms = study_of(tmp_path / "ties", (fake_pm(held_out([1.0])), scored([0.0, 0.0])))
    (row,) = pm_margins(study, probed(study, pms))
    assert row["edges"][-1] == 1 and row["lowest_rows"] == [] and max(row["density"]) > 0


def test_rows_follow_the_schema(tmp_path: Path) -> None:
    scores = [(fake_pm(held_out([1.0]), n, seed), HAND) for n in (1000, 4000) for seed in (0, 1)]
    study, pms = study_of(tmp_path, *scores)
    found = probed(study, pms)
    tables = {
        "pm_probes": pm_probes(study, found), "pm_probe_slopes": pm_probe_slopes(found),
        "pm_margins": pm_margins(study, found),
    }  # fmt: skip
    schema = json.loads(SCHEMA_FILE.read_text())
    for rows in (tables, further_tables(SIZES)):
        for name in tables:
            part = schema["properties"][name] | {"$defs": schema["$defs"]}
            jsonschema.validate(clean(rows[name]), part)
            assert set(rows[name][0]) == set(part["items"]["required"])


# ---------------------------------------------------------------- report


@pytest.fixture
def results() -> Results:
    return {"models": [{"name": name, "n_params": n} for name, n in SIZES.items()], **further_tables(SIZES)}


def test_figure_five_has_a_panel_a_category_with_length_and_chance(results: Results) -> None:
    table = pm_probe_figures.probes_table(results)
    panels = [f"hhh_alignment: {name}" for name in CATEGORIES]
    assert list(dict.fromkeys(table["panel"])) == panels
    here = table[(table["panel"] == "hhh_alignment: harmless") & (table["layer"] == "point")]
    assert here["x"].tolist() == list(SIZES.values()) and here["y"].tolist() == pytest.approx([0.65, 0.67, 0.69])
    levels = table[table["layer"] == "reference"].groupby("series")["y"].agg(list).to_dict()
    assert levels == {pm_figures.LENGTH: [0.6] * 5, pm_figures.CHANCE: [0.5] * 5}
    figure = Figure(figsize=(9.6, 6))
    pm_probe_figures.draw_probes(figure, table)
    assert [axes.get_title() for axes in figure.axes] == [
        "hhh_alignment (n=221)", "harmless (n=58)", "helpful (n=59)", "honest (n=61)", "other (n=43)"
    ]  # fmt: skip


def test_several_probes_keep_their_names(results: Results) -> None:
    results["pm_probes"] += [{**row, "probe": "other_set"} for row in results["pm_probes"] if row["category"] == "all"]
    panels = list(dict.fromkeys(pm_probe_figures.probes_table(results)["panel"]))
    titles = pm_probe_figures.short_names(panels)
    assert titles["hhh_alignment: honest"] == "hhh_alignment: honest" and titles["other_set: all"] == "other_set: all"


def test_figure_ten_colours_bars_by_their_side(results: Results) -> None:
    table = pm_probe_figures.margins_table(results)
    density = table[(table["layer"] == "density") & (table["panel"] == "hhh_alignment: all")]
    assert (density["y"] * 0.25).sum() == pytest.approx(1, abs=0.01)
    figure = Figure(figsize=(9.6, 6))
    pm_probe_figures.draw_margins(figure, table)
    bars = figure.axes[0].patches
    assert len({bar.get_facecolor() for bar in bars[:12]}) == len({bar.get_facecolor() for bar in bars[12:]}) == 1
    assert bars[0].get_facecolor() != bars[-1].get_facecolor()


def test_sentences_state_n_and_only_trends_that_are_measured(results: Results) -> None:
    level, length, trend, margins = pm_probe_sentences.probe_sentences(results)
    assert "of 300k score the chosen response higher on 0.590" in level and "(n=221)" in level and "(n=43)" in level
    assert "is right on 0.600" in length and "not measurably different at all comparisons (n=221)" in length
    assert trend.startswith("Per doubling of parameters, over 3 sizes, accuracy on hhh_alignment is measurably higher")
    named, flat = trend.split("; ")
    assert "at all comparisons (n=221) (+0.012" in named and "harmless (n=58) (+0.012" in named
    assert "helpful" not in named
    assert flat.startswith("not measurably different at helpful (n=59) and honest (n=61)") and "other" not in trend
    assert "would have been found with 80 % power" in flat
    assert "errs furthest on the file's lines 17 (\N{MINUS SIGN}2.50) and 4 (\N{MINUS SIGN}2.25)" in margins


def test_nothing_is_said_without_probes(results: Results) -> None:
    for name in ("pm_probes", "pm_probe_slopes", "pm_margins"):
        results[name] = []
    assert pm_probe_sentences.probe_sentences(results) == []
    assert pm_probe_figures.probes_table(results).empty and pm_probe_figures.margins_table(results).empty
    assert not pm_tables.probes_table(results).rows


def test_the_table_has_every_size_and_category(results: Results) -> None:
    table = pm_tables.probes_table(results)
    assert len(table.rows) == len(SIZES) * len(CATEGORIES) and {len(row) for row in table.rows} == {len(table.head)}
    assert table.rows[0][:3] == ["12k", "hhh_alignment", "all"] and "detectable" in table.rows[0][5]
