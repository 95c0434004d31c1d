"""What models scored on behaviours, and what RLHF changed on the same comparisons, from records on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.behaviours import N_BARS, behaviour_tables, changes, shown_layer
from analysis.frames import Study
from hh_scaling.records import Record

MODEL = {"name": "27k", "n_params": 27_000, "n_params_total": 50_000}
SIZE = {"size": {"name": "27k"}, "seed": 0}


def number(value: float, se: float | None = 0.1, n: int = 10) -> dict[str, Any]:
    return {"value": value, "se": se, "n": n}


def answers(loss: float, n: int = 40) -> pd.DataFrame:
    """Chosen answers of 4 tokens at ``loss`` nats each, rejected ones a whole nat dearer; two in a conversation."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, n)  # the same for every model: what is paired falls out
    return pd.DataFrame({
        "comparison_id": np.arange(n), "conversation": [f"c{i // 2}" for i in range(n)],
        "tranche": np.where(np.arange(n) < 20, "helpful", "harmless"),
        "loglikelihood_chosen": -4 * (loss + noise), "loglikelihood_rejected": -2 * (loss + 1 + noise),
        "n_tokens_chosen": 4, "n_tokens_rejected": 2,
    })  # fmt: skip


def log_ratios(more: float) -> pd.DataFrame:
    """Two occupations and three pairs in both tenses: nurses 1 + pair + ``more``, doctors the negative of it."""
    rows = [
        {"occupation": name, "pair": f"p{pair}", "tense": tense, "log_ratio": sign * (1 + pair + more)}
        for name, sign in (("nurse", 1), ("doctor", -1))
        for pair in range(3)
        for tense in ("is", "was")
    ]
    return pd.DataFrame(rows)


def distances() -> pd.DataFrame:
    """Of two layers and one method, helpful prompts 0 .. 3 and harmful ones 2 .. 7 times the layer."""
    rows = [
        {"layer": layer, "method": "mahalanobis", "harmful": harmful, "score": float(layer * score)}
        for layer in (1, 2)
        for harmful, scores in ((False, range(4)), (True, range(2, 8)))
        for score in scores
    ]
    return pd.DataFrame(rows)


def study_of(root: Path, **more: Any) -> Study:
    """A base and its policy, both measured; the policy's losses are 0.25 higher."""
    records = {
        "base": Record("base", "base", "done", SIZE, {}, summary={"model": MODEL}),
        "ppo": Record("ppo", "ppo", "done", SIZE, {"policy": "base"}, summary={"model": MODEL}),
    }
    for name, model, at, loss in (("b-base", "base", None, 2.0), ("b-ppo", "ppo", "end", 2.25)):
        summary = {
            "model": MODEL, "at": at, "at_sqrt_kl": 1.5 if at else None, "not_reached": False,
            "occupations": {"mean_abs": number(0.3), "mean": number(-0.1), "by_occupation": {}},
            "answers": {"entries": [{"tranche": "all", "loss_chosen": number(loss), "loss_rejected": number(loss + 1),
                                     "difference": number(1.0), "accuracy": number(0.9, None)}], "note": None},
            "outliers": {"entries": [
                {"layer": 1, "method": "mahalanobis", "n_outliers": 0, "auroc": number(0.7)},
                {"layer": 2, "method": "outlier_exposure", "n_outliers": 10, "auroc": number(0.8)},
            ], "note": None},
        } | (more if at else {})  # fmt: skip
        folder = root / "stages" / name
        folder.mkdir(parents=True)
        answers(loss).to_parquet(folder / "answers.parquet")
        log_ratios(loss - 2).to_parquet(folder / "occupations.parquet")
        distances().to_parquet(folder / "outlier_scores.parquet")
        records[name] = Record(name, "behaviour", "done", SIZE | {"at": at}, {"model": model}, summary=summary)
    (root / "stages" / "ppo").mkdir()
    kept = [{"name": "sqrt_kl=1.0", "samples": 128}, {"name": "end", "samples": 512}]
    (root / "stages" / "ppo" / "checkpoints.json").write_text(json.dumps(kept))
    planned = [
        {"stage_id": r.stage_id, "kind": r.kind, "parents": dict(r.parents), "config": r.config}
        for r in records.values()
    ]
    return Study(root, {"stages": planned}, records)


def test_scores_with_their_intervals(tmp_path: Path) -> None:
    rows = behaviour_tables(study_of(tmp_path))["behaviours"]
    assert len(rows) == 2 * (2 + 4 + 2)
    found = {(row["stage_id"], row["evaluation"], row["measure"], row["part"]): row for row in rows}
    bias = found["b-ppo", "occupations", "mean_abs", None]
    assert (bias["model"], bias["n_params"], bias["stage_kind"], bias["at"]) == ("27k", 27_000, "ppo", "end")
    assert bias["score"]["low"] == pytest.approx(0.3 - 1.959964 * 0.1) and bias["score"]["n"] == 10
    assert (bias["samples"], bias["status"], bias["layer"]) == (512, "done", None)
    layer = found["b-base", "outliers", "mahalanobis", "layer 1"]
    assert layer["score"]["value"] == 0.7 and layer["samples"] == 0
    assert [layer[key] for key in ("layer", "n_layers", "n_outliers")] == [1, 2, 0]
    assert found["b-base", "outliers", "outlier_exposure, 10 shown", "layer 2"]["at"] is None
    assert found["b-base", "answers", "accuracy", "all"]["score"]["low"] is None  # an error not known is not 0


def test_changes_are_paired(tmp_path: Path) -> None:
    """Noise that is the same before and after falls out: the change is exact, its error rounding."""
    rows = behaviour_tables(study_of(tmp_path))["behaviour_changes"]
    found = {(row["measure"], row["part"]): row for row in rows}
    assert {part for _, part in found} == {"all", "helpful", "harmless"} and len(rows) == 12
    for measure in ("mean_loss_chosen", "mean_loss_rejected"):
        change = found[measure, "all"]["change"]
        assert change["value"] == pytest.approx(0.25) and change["se"] == pytest.approx(0, abs=1e-12)
        assert change["n"] == 40
    assert found["difference", "helpful"]["change"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["accuracy", "all"]["stage_id"] == "b-ppo" and found["accuracy", "all"]["change"]["value"] == 0


def test_occupations_before_and_after(tmp_path: Path) -> None:
    """Pairs are what was drawn: means of 1, 2, 3 have a standard error of 1 / sqrt(3) and t on 2 degrees of freedom."""
    rows = behaviour_tables(study_of(tmp_path))["behaviour_occupations"]
    found = {row["occupation"]: row for row in rows}
    assert set(found) == {"nurse", "doctor"} and {row["stage_id"] for row in rows} == {"b-ppo"}
    assert found["nurse"]["before"]["value"] == pytest.approx(2) and found["nurse"]["after"]["value"] == 2.25
    assert found["doctor"]["after"]["value"] == -2.25
    half = 4.302653 / 3**0.5  # scipy.stats.t.ppf(0.975, 2)
    assert found["nurse"]["before"]["high"] == pytest.approx(2 + half)


def test_distances_at_the_layer_shown_fill_common_bars(tmp_path: Path) -> None:
    rows = behaviour_tables(study_of(tmp_path))["behaviour_distances"]
    assert [(row["stage_id"], row["harmful"]) for row in rows] == [
        ("b-base", False), ("b-base", True), ("b-ppo", False), ("b-ppo", True),
    ]  # fmt: skip
    assert {row["layer"] for row in rows} == {2} and rows[0]["mean"]["value"] == 3.0 and rows[1]["mean"]["value"] == 9.0
    for row in rows:
        assert row["edges"] == rows[0]["edges"] and len(row["density"]) == N_BARS
        assert sum(np.multiply(row["density"], np.diff(row["edges"]))) == pytest.approx(1)
    assert [shown_layer(n) for n in (4, 6, 10, 64)] == [4, 6, 5, 32]


def test_only_common_comparisons_are_compared() -> None:
    (row, *_) = changes(answers(2.0).iloc[:30], answers(3.0).iloc[10:])
    assert row["change"]["n"] == 20 and row["change"]["value"] == pytest.approx(1.0)


def test_what_is_missing_is_left_out_and_said(tmp_path: Path) -> None:
    """A checkpoint that was never reached has no rows; without the table there is no change."""
    never = study_of(tmp_path / "a", not_reached=True)
    tables = behaviour_tables(never)
    assert {row["stage_id"] for row in tables["behaviours"]} == {"b-base"} and not tables["behaviour_changes"]
    assert [row["reason"] for row in never.excluded] == ["the policy never reached end"]
    none = {"entries": [], "note": "no held-out comparisons"}
    assert behaviour_tables(study_of(tmp_path / "b", answers=none))["behaviour_changes"] == []
    broken = study_of(tmp_path / "c")
    (tmp_path / "c" / "stages" / "b-ppo" / "answers.parquet").unlink()
    assert behaviour_tables(broken)["behaviour_changes"] == [] and len(broken.excluded) == 1
