"""Whether a study's preference models find as many comparisons as they ask for: before the run, and after the data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import sweeps.launch
from hh_scaling.records import RunStore
from sweeps.check import load_study
from sweeps.enough import data_problems
from sweeps.graph import expand
from sweeps.load import StudyError
from sweeps.stage import Graph, make_stage
from tests.toy import ToyConfig, graph_of, launch, toy

FILES = {"helpful-base": 30, "harmless-base": 10}


def comparison_files(folder: Path) -> Path:
    """30 helpful comparisons, plain, and 10 harmless ones, compressed."""
    (folder / "text.txt").write_text("words\n" * 50)
    for name, n in FILES.items():
        rows = [f"\n\nHuman: {name} {i}?\n\nAssistant: " for i in range(n)]
        text = "".join(json.dumps({"chosen": row + "yes", "rejected": row + "no"}) + "\n" for row in rows)
        if name.startswith("harmless"):
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{name}.jsonl").write_text(text)
    return folder


def graph(folder: Path, pm: str, source: str | None = None) -> Graph:
    """The graph of a study on these files (or on ``source``)."""
    study = folder / "study.yaml"
    source = source or "data: {path: .}\ntext: {path: text.txt}\n"
    study.write_text(f"description: d\n{source}sizes: [27k, 60k]\npm: {pm}\nppo: null\n")
    return expand(load_study(str(study)))


@pytest.mark.parametrize(
    ("pm", "said"),
    [
        ("{n_comparisons: [8, 41]}", r"pm.n_comparisons.1: is 41 \(allowed: at most half of the files' 40 rows\)"),
        (
            "{n_comparisons: [12], halves: train, helpful_share: [0.5, 0]}",
            r"pm.helpful_share.1: is 0, which needs 12 harmless comparisons \(allowed: at most half of the 10 rows",
        ),
        (
            "{n_comparisons: [40], halves: train, helpful_share: [0.75, 1]}",
            r"pm.helpful_share.1: is 1, which needs 40 helpful comparisons \(allowed: at most half of the 30 rows",
        ),
    ],
)
def test_more_than_the_files_have_is_refused_before_anything_runs(tmp_path: Path, pm: str, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        graph(comparison_files(tmp_path), pm)


def test_as_many_as_there_may_be_are_not_refused(tmp_path: Path) -> None:
    folder = comparison_files(tmp_path)
    assert graph(folder, "{n_comparisons: [8, 40]}")
    assert graph(folder, "{n_comparisons: [10, all]}")
    assert graph(folder, "{n_comparisons: [10], halves: train, helpful_share: [0, 1]}")


def test_a_share_that_the_world_has_too_few_for_is_refused(tmp_path: Path) -> None:
    """35 % of its requests are harmful: of a half of 900 comparisons 315."""
    source = "world: {n_comparisons: 2000}\ndata: {held_out_fraction: 0.1}\n"
    said = r"pm.helpful_share.0: is 0, which needs 500 harmless comparisons \(allowed: about 315"
    with pytest.raises(StudyError, match=said):
        graph(tmp_path, "{n_comparisons: [500], halves: train, helpful_share: [0, 1]}", source)
    assert graph(tmp_path, "{n_comparisons: [300], halves: train, helpful_share: [0, 1]}", source)


def summary(train: dict[str, int], test: dict[str, int], votes: int = 0) -> dict[str, Any]:
    splits = {name: {"n": sum(t.values()), "tranches": t} for name, t in (("train", train), ("test", test))}
    return {"splits": splits, "votes": {"n_kept": votes}}


@pytest.mark.parametrize(
    ("pm", "train", "said"),
    [
        ("[5, 10]", 10, []),
        ("[5, 10]", 9, ["pm.n_comparisons: wants 10 comparisons of the train half (allowed: at most 9"]),
        ("[5, all]", 4, ["pm.n_comparisons: wants 5 comparisons of the train half (allowed: at most 4"]),
        ("[10], helpful_share: [0, 1]", 10, ["pm.helpful_share: wants 10 harmless comparisons of the train half"]),
    ],
)
def test_the_halves_are_counted_once_the_data_are_there(tmp_path: Path, pm: str, train: int, said: list[str]) -> None:
    stages = graph(comparison_files(tmp_path), f"{{n_comparisons: {pm}}}")
    found = data_problems(stages, summary({"helpful": train}, {"helpful": 10}))
    if "share" in pm:
        found = [line for line in found if "share" in line]
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))


def test_votes_are_counted_too(tmp_path: Path) -> None:
    source = "world: {n_comparisons: 2000, n_votes: 100}\n"
    pm = "{n_comparisons: [200], halves: train, extra_share: [0, 0.4], pretrained: [false, true]}"
    stages = graph(tmp_path, f"{pm}\npmp: {{n_comparisons: 90}}", source)
    halves = {"helpful": 500}
    assert data_problems(stages, summary(halves, halves, votes=90)) == []
    short = data_problems(stages, summary(halves, halves, votes=79))
    assert sorted(line.split(" (")[0] for line in short) == [
        "pm.extra_share: wants 80 votes",
        "pmp.n_comparisons: wants 90 votes",
    ]


def test_a_run_ends_with_its_data_stage_where_they_are_too_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained, whether the data stage has just been made or was there before."""
    data = make_stage("data", "data", ToyConfig(name="data"), {}, "tests.toy:run")
    child = toy("base", {"data": data})
    monkeypatch.setattr(sweeps.launch, "data_problems", lambda graph, found: [f"too few ({found['total']})"])
    for _ in range(2):
        with pytest.raises(StudyError, match=r"too few \(1\)"):
            launch(tmp_path, graph_of(data, child))
        assert RunStore(tmp_path).finished(data.stage_id) and not RunStore(tmp_path).attempt_paths(child.stage_id)
    monkeypatch.undo()
