"""Votes: ranked answers by hand, the table beside the comparisons, the world's own."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hh_scaling.comparisons import Comparison, Dropped, first_human_turn
from hh_scaling.configs import DataConfig, HHFiles, InputFile, WorldConfig
from hh_scaling.inputs import DataError
from hh_scaling.pairs import choose_rows
from hh_scaling.votes import vote_pairs
from hh_scaling.world import World
from tests.test_data import hh_rows, run, transcript, write_jsonl

WORLD = {"n_comparisons": 600, "n_text_tokens": 4000, "n_items": 20}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def ranked(question: str, *scores: float, key: str = "score") -> dict[str, Any]:
    return {"question": question, "answers": [{"text": f"a{i}", key: s} for i, s in enumerate(scores)]}


def found(row: dict[str, Any]) -> tuple[list[Comparison], Counter[str]]:
    pairs = list(vote_pairs(row, "f.jsonl:1", "f", "f.jsonl:1"))
    dropped = Counter(pair.reason for pair in pairs if isinstance(pair, Dropped))
    return [pair for pair in pairs if isinstance(pair, Comparison)], dropped


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("key", ["score", "pm_score"])
def test_any_two_answers_of_different_scores_are_a_pair(key: str) -> None:
    """Scores 3, -1, 3, 0: six pairs, one of them equal."""
    pairs, dropped = found(ranked("why?", 3, -1, 3, 0, key=key))
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {
        (" a0", " a1"), (" a0", " a3"), (" a2", " a1"), (" a2", " a3"), (" a3", " a1"),
    }  # fmt: skip
    assert {pair.prompt for pair in pairs} == {"\n\nHuman: why?\n\nAssistant:"}
    assert dropped == {"equal_scores": 1}


def test_ten_pairs_a_question_at_most() -> None:
    """Nine answers are 36 pairs; which ten is decided by the question: the same every time, no rank preferred."""
    row = ranked("why?", *range(9))
    pairs, dropped = found(row)
    assert len(pairs) == 10 and dropped == {"over_10_pairs_of_a_question": 26}
    assert len({(p.chosen, p.rejected) for p in pairs}) == 10 and found(row)[0] == pairs
    assert all(int(p.chosen[2:]) > int(p.rejected[2:]) for p in pairs)
    chosen = Counter((p.chosen, p.rejected) for q in range(300) for p in found(ranked(f"q{q}", *range(9)))[0])
    assert len(chosen) == 36  # 300 questions x 10 over 36 pairs: 83 each, standard deviation 8
    assert min(chosen.values()) > 50 and max(chosen.values()) < 120


def test_what_is_no_pair_is_counted() -> None:
    assert found(ranked("why?", 1)) == ([], {"no_other_answer": 1})
    assert found(ranked(" ", 1, 2)) == ([], {"blank_question": 1})
    blank = {"question": "q", "answers": [{"text": " ", "score": 5}, {"text": "x", "score": 1}]}
    assert found(blank) == ([], {"blank_answer": 1, "no_other_answer": 1})
    alike = {"question": "q", "answers": [{"text": "x", "score": 5}, {"text": "x ", "score": 1}]}
    assert found(alike) == ([], {"equal_responses": 1})
    talk = {"question": "q", "answers": [{"text": "x\n\nHuman: and?", "score": 5}, {"text": "y", "score": 1}]}
    assert found(talk) == ([], {"ends_with_human": 1})


def test_a_pair_of_transcripts_is_a_comparison_as_it_is() -> None:
    (pair,), dropped = found({"chosen": transcript("q", " yes"), "rejected": transcript("q", " no")})
    assert (pair.prompt, pair.chosen, pair.rejected, pair.tranche) == ("\n\nHuman: q\n\nAssistant:", " yes", " no", "f")
    assert not dropped


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q"}, "has 'question'; expected 'chosen' and 'rejected', or 'question' and 'answers'"),
        ({}, "has no keys; expected 'chosen' and 'rejected', or 'question' and 'answers'"),
        ({"question": "q", "answers": "x"}, "'answers' is no list of objects; expected [{text, score}, …]"),
        ({"question": "q", "answers": ["x"]}, "'answers' is no list of objects; expected [{text, score}, …]"),
        ({"question": 1, "answers": []}, "'question' is of type number; expected a string"),
        ({"question": "q", "answers": [{"text": "x"}]}, "the score of answer 1 is None; expected a number"),
        (ranked("q", True), "the score of answer 1 is True; expected a number"),
        (ranked("q", 1, math.nan), "the score of answer 2 is nan; expected a number"),
        ({"question": "q", "answers": [{"score": 1}]}, "the text of answer 1 is of type null; expected a string"),
    ],
)
def test_malformed_rows_are_told_in_one_line(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        found(row)
    assert str(caught.value) == f"f.jsonl:1: {message}"


# ---------------------------------------------------------------- the table


def vote_file(folder: Path, rows: list[dict[str, Any]], name: str = "stack.jsonl") -> InputFile:
    """The file as a study knows it: its name is apart from those of the comparisons."""
    return write_jsonl(folder / name, rows).model_copy(update={"name": name})


def config_of(folder: Path, votes: list[dict[str, Any]] | None) -> DataConfig:
    comparisons = HHFiles(files=(write_jsonl(folder / "helpful-base.jsonl", hh_rows(300)),))
    given = None if votes is None else HHFiles(files=(vote_file(folder, votes),))
    return DataConfig(comparisons=comparisons, held_out_fraction=0.2, gold_fraction=0.2, votes=given)


def test_votes_are_a_table_of_their_own_in_the_same_columns(tmp_path: Path, files: Path) -> None:
    """9 questions of 3 answers are 27 pairs; one repeated question and every question of held-out or gold go."""
    plain, out = run(tmp_path, config_of(files, None), files)
    comparisons = pd.read_parquet(out / "comparisons.parquet")
    apart = comparisons[comparisons.split.isin(["held_out", "gold"])].prompt.map(first_human_turn)
    used = comparisons[comparisons.split.isin(["train", "test"])].prompt.map(first_human_turn)
    rows = [ranked(f"new {i}", 1, 2, 3) for i in range(9)] + [ranked("new 0", 1, 2, 3)]
    rows += [ranked(f" {q.upper()}", 1, 2) for q in apart.iloc[:4]] + [ranked(q, 1, 2) for q in used.iloc[:3]]
    (tmp_path / "with").mkdir()
    result, beside = run(tmp_path / "with", config_of(files, rows), files)

    for name in ("comparisons.parquet", "prompts.parquet", "text/train.jsonl"):
        assert (beside / name).read_bytes() == (out / name).read_bytes()
    assert result.summary | {"votes": None} == plain.summary | {"votes": None}
    votes = pd.read_parquet(beside / "votes.parquet")
    assert list(votes.columns) == list(comparisons.columns) and (votes.dtypes == comparisons.dtypes).all()
    kept = 27 + len(set(used.iloc[:3]))
    assert result.summary["votes"] == {
        "n_kept": kept, "empty_responses": 0, "tranches": {"stack": kept},
        "dropped": {"question_of_held_out_or_gold_comparisons": 4, "duplicate": 33 - kept},
    }  # fmt: skip
    assert set(votes.split) == {"votes"} and sorted(votes.order) == list(range(kept))
    assert not votes.prompt.map(lambda p: first_human_turn(p).casefold()).isin(apart).any()
    assert votes.comparison_id.tolist() == list(range(kept)) and votes.source.iloc[0] == "stack.jsonl:1"
    assert votes.n_turns.tolist() == [1] * kept and votes.p_chosen.isna().all()


def test_the_first_votes_are_a_random_part(tmp_path: Path, files: Path) -> None:
    """Rows of the first ten in their order: from all over the file, and nested."""
    _, out = run(tmp_path, config_of(files, [ranked(f"new {i}", 1, 2) for i in range(200)]), files)
    table = out / "votes.parquet"
    few, more = (choose_rows(table, "votes", n).row.tolist() for n in (10, 50))
    assert more[:10] == few
    assert 60 < np.mean(more) < 140  # 99.5 on the mean, standard error 8
    with pytest.raises(ValueError, match="200 comparisons among the votes, wanted: 201"):
        choose_rows(table, "votes", 201)


def test_votes_that_cannot_be_used_are_refused(tmp_path: Path, files: Path) -> None:
    for name, rows, message in (
        ("equal", [ranked("q", 1, 1)], "0 comparisons are left (left out: 1 equal_scores); expected at least one"),
        ("empty", [], "the file is empty; expected at least one row"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError) as caught:
            run(tmp_path / name, config_of(files, rows), files)
        assert str(caught.value).removeprefix("votes: ").removeprefix(f"{files / 'stack.jsonl'}: ") == message
    for given, message in (
        (HHFiles(), "data.votes: neither of files and hub given; expected exactly one"),
        (HHFiles(hub="a/b"), "data: votes and world.n_votes given together; expected one of them"),
    ):
        (tmp_path / (given.hub or "none").replace("/", "")).mkdir()
        with pytest.raises(DataError) as caught:
            run(
                tmp_path / (given.hub or "none").replace("/", ""), DataConfig(world=WorldConfig(n_votes=5), votes=given)
            )
        assert str(caught.value) == message


def test_hub_rows_are_votes_too(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"train": [ranked("a", 1, 2), ranked("b", 1, 2, 2)]}
    monkeypatch.setattr("hh_scaling.comparisons._load_hub", lambda name, folder, revision: rows)
    comparisons = HHFiles(files=(write_jsonl(files / "helpful-base.jsonl", hh_rows(300)),))
    result, _ = run(tmp_path, DataConfig(comparisons=comparisons, votes=HHFiles(hub="org/votes")), files)
    assert result.summary["votes"]["n_kept"] == 3 and result.summary["votes"]["tranches"] == {"all": 3}


# ---------------------------------------------------------------- the world's


def test_the_world_s_votes_are_noisier_and_change_nothing_else(tmp_path: Path) -> None:
    plain, world = (World(WorldConfig(**WORLD, n_votes=n)) for n in (0, 400))
    assert plain.comparisons() == world.comparisons()
    texts = [list(itertools.islice(w.documents("train"), 50)) for w in (plain, world)]
    assert texts[0] == texts[1] and plain.tasks() == world.tasks()
    votes = list(itertools.islice(world.votes(), 400))
    for vote in votes:
        assert vote.p_chosen == pytest.approx(1 / (1 + math.exp(-(vote.gold_chosen - vote.gold_rejected) / 4)))
    assert len({(vote.prompt, vote.chosen, vote.rejected) for vote in votes}) > 300
    better = np.mean([vote.gold_chosen > vote.gold_rejected for vote in votes])
    assert better < np.mean([c.gold_chosen > c.gold_rejected for c in world.comparisons()]) - 0.05


def test_the_data_stage_writes_the_world_s_votes(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    _, without = run(tmp_path / "plain", DataConfig(world=WorldConfig(**WORLD)))
    result, out = run(tmp_path, DataConfig(world=WorldConfig(**WORLD, n_votes=300)))
    assert not (without / "votes.parquet").exists()
    for name in ("comparisons.parquet", "prompts.parquet", "text/train.jsonl", "text/held_out.jsonl"):
        assert (without / name).read_bytes() == (out / name).read_bytes()
    votes, comparisons = (pd.read_parquet(out / f"{name}.parquet") for name in ("votes", "comparisons"))
    summary = result.summary["votes"]
    assert summary["n_kept"] == 300 == len(votes)
    assert summary["tranches"] == votes.tranche.value_counts().sort_index().to_dict()
    assert not set(votes.conversation) & set(comparisons[comparisons.split == "held_out"].conversation)
    assert json.loads((out / "world.json").read_text())["n_votes"] == 300


def test_a_world_makes_other_votes_for_those_on_held_out_questions(tmp_path: Path) -> None:
    """Most questions held out: more are drawn until there are as many as wanted; the first kept ones are the same."""
    result, out = run(tmp_path, DataConfig(world=WorldConfig(**WORLD, n_votes=300), held_out_fraction=0.9))
    votes = result.summary["votes"]
    assert votes["n_kept"] == 300 and votes["dropped"].keys() == {"question_of_held_out_or_gold_comparisons"}
    (tmp_path / "few").mkdir()
    _, few = run(tmp_path / "few", DataConfig(world=WorldConfig(**WORLD, n_votes=100), held_out_fraction=0.9))
    tables = [pd.read_parquet(folder / "votes.parquet")[["prompt", "chosen", "rejected"]] for folder in (few, out)]
    pd.testing.assert_frame_equal(tables[0], tables[1].head(100))


def test_a_world_without_enough_other_questions_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hh_scaling.data.MOST_DRAWN", 1)
    message = r"^votes: \d+ comparisons are left \(left out: \d+ question_of.*; expected 300$"
    with pytest.raises(DataError, match=message):
        run(tmp_path, DataConfig(world=WorldConfig(**WORLD, n_votes=300), held_out_fraction=0.9))
