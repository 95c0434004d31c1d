"""The project's own tasks: documents from rows, subsets of documents, rows that cannot be used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hh_scaling.inputs import DataError, input_file
from hh_scaling.task_rows import WINDOW, Row
from hh_scaling.tasks import OWN_TASKS, TaskError, own_task, read_documents, subset
from tests.tiny_eval import sentences, write_rows

GOOD = {"query": "Question: a?", "choices": ["b", "c"], "gold": 1}


# ---------------------------------------------------------------- subsets


def test_subsets_are_nested_and_stratified() -> None:
    clusters = [f"phenomenon {i % 6}" for i in range(600)]
    small, large = set(subset(clusters, 60, "0/x")), set(subset(clusters, 180, "0/x"))
    assert small < large and len(small) == 60 and len(large) == 180
    assert all(9 <= n <= 11 for n in Counter(clusters[i] for i in small).values())  # 10 each, to within the last draw
    assert subset(clusters, 60, "1/x") != sorted(small)
    assert subset(clusters, None, "0/x") == subset(clusters, 600, "0/x") == list(range(600))


def test_every_document_is_as_likely_to_be_drawn() -> None:
    """Clusters of 1, 3 and 36 documents, 10 of 40 drawn 4,000 times: binomial sd of a document's share .0068."""
    clusters = ["one"] + ["three"] * 3 + ["many"] * 36
    counts = Counter(i for k in range(4000) for i in subset(clusters, 10, str(k)))
    shares = np.array([counts[i] for i in range(40)]) / 4000
    assert abs(shares - 0.25).max() < 5 * 0.0068


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "nearest"), [("local_arc_esy", "local_arc_easy"), ("world_fact", "world_facts"), ("local_", None)]
)
def test_a_misspelt_task(name: str, nearest: str | None) -> None:
    with pytest.raises(TaskError) as caught:
        own_task(name)
    message = str(caught.value)
    assert f"unknown task '{name}'" in message and "\n" not in message
    assert nearest is None or f"nearest: {nearest} " in message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"query": "a", "choices": ["b", "c"]},
            "no key 'gold' (the row has choices, query); expected a number from 0 to 1",
        ),
        ({"query": "a", "choices": ["b", "c"], "gold": 2}, "'gold' is 2; expected one of 0, 1"),
        ({"query": "a", "choices": ["b", "c"], "gold": True}, "'gold' is True; expected a number from 0 to 1"),
        ({"query": "a", "choices": ["b"], "gold": 0}, "'choices' is ['b']; expected at least two texts"),
        ({"query": 3, "choices": ["b", "c"], "gold": 0}, "'query' is 3; expected text"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "arc_easy.jsonl", [GOOD, row])
    with pytest.raises(DataError) as caught:
        read_documents(OWN_TASKS["local_arc_easy"], [input_file(path)], {path.name: str(path)}, tmp_path)
    assert str(caught.value).startswith(f"{path}:2: ") and message in str(caught.value)


# ---------------------------------------------------------------- documents


def test_windows_put_together_are_the_text() -> None:
    text = " ".join(sentences(200, 7)) + "x" * (2 * WINDOW + 5)  # and one word longer than a window
    docs = list(OWN_TASKS["bits_per_byte"].read(Row({"text": text}, "file:7")))
    assert "".join(doc["text"] for doc in docs) == text
    assert max(len(doc["text"]) for doc in docs) == WINDOW and {doc["cluster"] for doc in docs} == {"7"}
    assert all(doc["text"].startswith(" ") for doc in docs[1:-2])
    assert not list(OWN_TASKS["bits_per_byte"].read(Row({"text": " \n"}, "file:8")))


def test_choice_format() -> None:
    row = Row({"query": "Question: Why?", "choices": ["so", "not so"], "gold": 1}, "file:1")
    (doc,) = OWN_TASKS["local_arc_easy_choice"].read(row)
    assert doc["query"] == "Question: Why?\nChoices:\n (A) so\n (B) not so\nAnswer:"
    assert doc["choices"] == [" (A) so", " (B) not so"]


def test_real_files(real_data: Path) -> None:
    """Item counts of ../shared/data's list; right answers are spread as the benchmarks' authors spread them."""
    folder = real_data / "benchmarks"
    paths = [path for path in folder.iterdir() if path.name.endswith(".jsonl.gz")]
    files, where = [input_file(path) for path in paths], {path.name: str(path) for path in paths}
    wanted = {
        "local_arc_easy": 2376, "local_arc_challenge": 1172, "local_hellaswag": 10042, "local_piqa": 1838,
        "local_openbookqa": 500, "local_openbookqa_choice": 500, "local_winogrande": 1267, "local_boolq": 3270,
        "local_lambada": 5153, "local_mmlu_choice": 14042, "local_arc_easy_choice": 2376,
    }  # fmt: skip
    for name, n in wanted.items():
        docs = read_documents(OWN_TASKS[name], files, where, real_data)
        assert len(docs) == n, name
        if name != "local_lambada":
            counts = Counter(doc["gold"] for doc in docs)
            n_choices = max(len(doc["choices"]) for doc in docs if name != "local_arc_easy" or len(doc["choices"]) < 5)
            assert all(counts[i] > 0.7 * n / n_choices for i in range(min(n_choices, 4))), (name, counts)
