"""The store: what is in ``stages/`` is complete, whatever happened before."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hh_scaling import records
from hh_scaling.records import Record, RecordError, RunStore, StageWriter


def test_commit_moves_a_complete_stage_and_clears_its_attempts(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    dead, live = store.new_attempt("pm-1"), store.new_attempt("pm-1")
    assert (dead.name, live.name) == ("1", "2")
    (live / "scores.txt").write_text("data")
    final = store.commit(live, Record("pm-1", "pm", "done", {"a": 1}, {}, records.manifest(live)))
    assert store.finished("pm-1") and not (tmp_path / "attempts" / "pm-1").exists()
    record = records.read_record(final / "record.json")
    assert record.files["scores.txt"]["bytes"] == 4 and records.damaged_files(final, record.files) == []
    (final / "scores.txt").write_text("dat!")
    assert records.damaged_files(final, record.files) == ["scores.txt"]
    assert records.damaged_files(final, record.files, hashes=False) == []


def test_a_second_commit_leaves_the_first_alone(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    one, two = store.new_attempt("x-1"), store.new_attempt("x-1")
    (one / "who").write_text("one")
    (two / "who").write_text("two")
    record = Record("x-1", "x", "done", {}, {})
    assert (store.commit(one, record) / "who").read_text() == "one"
    two.mkdir(parents=True, exist_ok=True)
    assert (store.commit(two, record) / "who").read_text() == "one"


def test_an_attempt_killed_before_its_move_is_adopted(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    attempt = store.new_attempt("pm-1")
    (attempt / "scores.txt").write_text("data")
    (attempt / "states").mkdir()
    files = records.manifest(attempt, skip=frozenset({"states"}))
    records.write_json(attempt / "record.json", records.asdict(Record("pm-1", "pm", "done", {}, {}, files)))
    assert not store.finished("pm-1") and store.adopt("pm-1") and store.finished("pm-1")
    assert not (store.stage_path("pm-1") / "states").exists()
    damaged = store.new_attempt("pm-2")
    records.write_json(damaged / "record.json", records.asdict(Record("pm-2", "pm", "done", {}, {}, files)))
    assert not store.adopt("pm-2")


def test_failed_attempts_keep_their_record(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    attempt = store.new_attempt("ppo-1")
    records.write_json(attempt / "record.json", records.asdict(Record("ppo-1", "ppo", "failed", {}, {}, error="boom")))
    assert not store.finished("ppo-1")
    assert (found := store.record("ppo-1")) is not None and found.error == "boom"


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not a readable record"), ('{"schema": 99}', "schema 99"), ('{"schema": 1, "x": 2}', "unexpected keyword")],
)
def test_bad_records_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=says) as error:
        records.read_record(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_atomic_write_keeps_the_old_content_when_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    records.write_json(path, {"v": 1})

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        records.write_json(path, {"v": 2})
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"v": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nan_never_reaches_the_disk(tmp_path: Path) -> None:
    writer = StageWriter(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.log({"loss": float("nan")})
    with pytest.raises(records.NonFiniteError, match="loss is nan at step 7"):
        records.check_finite("loss", float("nan"), 7)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in records.read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]


def test_resume_takes_the_newest_whole_state_and_only_the_rows_before_it(tmp_path: Path) -> None:
    first = tmp_path / "1"
    first.mkdir()
    writer = StageWriter(first)
    for step in range(1, 5):
        writer.log({"step": step})
        writer.count(10, 100.0)
        with writer.save_state(step, {"note": step}) as folder:
            (folder / "weights").write_text(str(step))
    assert sorted(p.name for p in (first / "states").iterdir()) == ["00000003", "00000004"]
    (first / "states" / "00000004" / "weights").write_text("damaged")
    second = tmp_path / "2"
    second.mkdir()
    resumed = StageWriter(second, [first])
    found = resumed.resume()
    assert found is not None and found[1]["step"] == 3 and (found[0] / "weights").read_text() == "3"
    assert resumed.tokens == 30 and [r["step"] for r in records.read_jsonl(second / "metrics.jsonl")] == [1, 2, 3]


def test_hash_does_not_depend_on_key_order_and_sees_every_value() -> None:
    assert records.config_hash({"a": 1, "b": [2, 3]}) == records.config_hash({"b": [2, 3], "a": 1})
    assert records.config_hash({"a": 1}) != records.config_hash({"a": 1.5})
