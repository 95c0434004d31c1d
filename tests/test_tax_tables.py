"""The report's tables beside the tax, and which stage's items give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.frames import load_study
from analysis.precision import precision_rows
from hh_scaling.records import Record, write_json
from reports.tax_tables import NAMED, bias_table, calibration_table, more_sentences, more_tables, precision_table

ESTIMATE = {"value": 0.1, "se": 0.01, "low": 0.08, "high": 0.12, "n": 50}
PLACE = {"model": "27k", "task": "t", "format": "cloze", "k_shot": 2, "before": "base", "at": "end", "at_sqrt_kl": 1.0}


def precision(**values: Any) -> dict[str, Any]:
    row = {"model": "27k", "at": "end", "task": "t", "k_shot": 0, "metric": "acc", "wanted": 0.01, "reached": 0.009,
           "met": True, "n_pilot": 200, "n_changed": 20, "needed": 3800, "n_items": 3800, "n_file": 10042}  # fmt: skip
    return row | values


def test_a_study_without_them_has_none() -> None:
    results = {"tax": [PLACE | {"calibration": None}], "bias": [], "precision": [], "benchmarks": []}
    assert more_tables(results) == [] and more_sentences(results) == []


def test_rows_are_shown_with_their_intervals() -> None:
    calibration = {"before": ESTIMATE, "after": ESTIMATE | {"value": 0.2}, "change": ESTIMATE}
    (row,) = calibration_table({"tax": [PLACE | {"calibration": calibration}]}).rows
    assert row[:3] == ["27k", "t (cloze, 2-shot)", "end of RLHF"] and "0.08" in str(row[3]) and "n=50" in str(row[5])
    bias = PLACE | {"before_score": ESTIMATE, "after_score": ESTIMATE, "change": ESTIMATE, "n_items": 60, "n_seeds": 3,
                    "note": None}  # fmt: skip
    (shown,) = bias_table({"bias": [bias]}).rows
    assert shown[6:] == ["60, 3", "–"] and str(shown[5]).startswith("+0.1")
    (cells,) = precision_table({"precision": [precision(k_shot=5)]}).rows
    assert cells[1:5] == ["t, 5-shot", "20 of 200", "3,800", "3,800 of 10,042"] and cells[-1] == "yes"


def test_precision_that_was_missed_is_named() -> None:
    met, missed = precision(), precision(task="u", reached=0.02, met=False)
    unknown = precision(reached=None, met=None)
    (line,) = more_sentences({"precision": [met, missed, unknown]})
    assert line == "Of 2 paired differences, 1 has the precision wanted (± 0.010); not u at 27k."
    (many,) = more_sentences({"precision": [missed] * (NAMED + 3)})
    assert many.endswith("u at 27k and 3 more.")


def test_prompts_that_lost_their_beginning_are_counted() -> None:
    counts = ((0, "27k", 3), (0, "27k", 2), (5, "27k", 40), (0, "100k", 0), (0, "100k", None))
    rows = [{"task": "mmlu", "k_shot": k, "model": m, "n_truncated": n} for k, m, n in counts]
    (line,) = more_sentences({"benchmarks": rows})
    assert line == "Items longer than a model's context lost their beginning: mmlu 3 at 27k; mmlu, 5-shot 40 at 27k."


def test_precision_rows_join_pilots_with_taxes(tmp_path: Path) -> None:
    size, model = {"name": "27k"}, {"name": "27k", "n_params": 27000, "n_params_total": 30000}
    found = {
        "task": "t",
        "k_shot": 0,
        "metric": "acc",
        "n": 50,
        "n_changed": 9,
        "variance": 0.1,
        "needed": 80,
        "n_file": 90,
    }
    pilot = {"model": model, "tasks": [found, found | {"task": "u", "needed": None}]}
    configs = {"base-x": {"size": size, "seed": 0}, "ppo-x": {"size": size, "seed": 0},
               "pilot-x": {"size": size, "seed": 0, "at": "end", "precision": 0.05}}  # fmt: skip
    kinds = {"base-x": ("base", {}, {"model": model}), "ppo-x": ("ppo", {"policy": "base-x"}, {}),
             "pilot-x": ("pilot", {"before": "base-x", "after": "ppo-x"}, pilot)}  # fmt: skip
    stages = []
    for stage_id, (kind, parents, summary) in kinds.items():
        folder = tmp_path / "stages" / stage_id
        folder.mkdir(parents=True)
        record = Record(stage_id, kind, "done", configs[stage_id], parents, summary=summary)
        write_json(folder / "record.json", vars(record))
        stages.append({"stage_id": stage_id, "kind": kind, "config": configs[stage_id], "parents": parents})
    write_json(tmp_path / "study.json", {"name": "s", "stages": stages})
    tax = [{"model": "27k", "at": "end", "before": "base", "task": "t", "k_shot": 0, "metric": "acc", "low": -0.01,
            "high": 0.07, "n_items": 80}]  # fmt: skip
    one, two = precision_rows(load_study(tmp_path), tax)
    assert one["reached"] == pytest.approx(0.04) and one["met"] and (one["n_items"], one["n_file"]) == (80, 90)
    assert (two["reached"], two["met"], two["needed"]) == (None, None, None)
