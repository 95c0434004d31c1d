"""Reading and checking comparison files: what a row gives, what is dropped, and every kind of bad input."""

from __future__ import annotations

import gzip
import json
import lzma
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from hh_scaling.comparisons import (
    Comparison,
    Dropped,
    check_row,
    first_human_turn,
    n_turns,
    read_file,
    read_hub,
    tranche_of,
)
from hh_scaling.inputs import DataError, find_files, ignored_files, input_file, locate, split_files

GOOD = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away"}


def write(path: Path, *rows: Any) -> Path:
    """A JSONL file of the rows; bytes are written as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def error_of(path: Path) -> str:
    """The one line that reading the file ends with, its folder left out."""
    with pytest.raises(DataError) as caught:
        list(read_file(path, path.name))
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


# ---------------------------------------------------------------- good rows


def test_the_prompt_ends_with_the_last_assistant_mark() -> None:
    prompt = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    row = check_row({"chosen": prompt + " yes", "rejected": prompt + " no", "extra": 1}, "f:1", "t", "s")
    assert row == Comparison(prompt, " yes", " no", "t", "s")
    assert n_turns(prompt) == 2


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: y", "prompts_differ"),
        ("\n\nHuman: a\n\nAssistant: x\n\nHuman: b\n\nAssistant: y", "\n\nHuman: a\n\nAssistant: y", "prompts_differ"),
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: a\n\nAssistant: x", "equal_responses"),
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: a\n\nAssistant:  x ", "equal_responses"),
        ("\n\nHuman: a\n\nAssistant:", "\n\nHuman: a\n\nAssistant: ", "equal_responses"),
        ("\n\nHuman: a\n\nAssistant: x\n\nHuman: b", "\n\nHuman: a\n\nAssistant: y", "ends_with_human"),
    ],
)
def test_rows_that_are_no_comparison_are_dropped_with_a_reason(chosen: str, rejected: str, reason: str) -> None:
    assert check_row({"chosen": chosen, "rejected": rejected}, "f:1", "t", "s") == Dropped(reason)


def test_one_empty_response_is_kept() -> None:
    row = check_row(
        {"chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": GOOD["rejected"].replace("Hi", "a")}, "f:1", "t", "s"
    )
    assert isinstance(row, Comparison)
    assert row.chosen == " "


@pytest.mark.parametrize(
    ("prompt", "turn"),
    [
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "a"),
        ("\n\nHuman: a\n\nmore\n\nHuman: again\n\nAssistant:", "a\n\nmore"),
        (
            "\n\nHuman: \n\nAssistant: b\n\nHuman: c\n\nAssistant:",
            "\n\nHuman: \n\nAssistant: b\n\nHuman: c\n\nAssistant:",
        ),
    ],
)
def test_first_human_turn(prompt: str, turn: str) -> None:
    assert first_human_turn(prompt) == turn


@pytest.mark.parametrize(
    ("name", "tranche"),
    [
        ("helpful-base.jsonl.gz", "helpful-base"),
        ("harmless-base.jsonl", "harmless-base"),
        ("helpful-base/train.jsonl.gz", "helpful-base"),
        ("train.jsonl.xz", "train"),
        ("my.set.v2.jsonl", "my"),
    ],
)
def test_tranche_of(name: str, tranche: str) -> None:
    assert tranche_of(name) == tranche


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.xz"])
def test_plain_and_compressed_files_give_the_same(tmp_path: Path, ending: str) -> None:
    raw = (
        b"\xef\xbb\xbf"
        + json.dumps(GOOD).encode()
        + b"\r\n\n"
        + json.dumps(GOOD | {"chosen": "\n\nHuman: Hi\n\nAssistant: a\u2028b"}, ensure_ascii=False).encode()
    )
    pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.xz": lzma.compress}[ending]
    path = tmp_path / f"helpful-base{ending}"
    path.write_bytes(pack(raw))
    rows = [row for row in read_file(path, path.name) if isinstance(row, Comparison)]
    assert [(row.chosen, row.tranche, row.source) for row in rows] == [
        (" Hello", "helpful-base", f"helpful-base{ending}:1"),
        (" a\u2028b", "helpful-base", f"helpful-base{ending}:3"),
    ]


# ---------------------------------------------------------------- bad rows


BAD_ROWS: list[tuple[Any, str]] = [
    (
        b"{'chosen': 1}",
        "not JSON (Expecting property name enclosed in double quotes at column 2); expected one JSON object",
    ),
    (b'{"chosen": "\\n\\nHu', "not JSON (Unterminated string starting at at column 12); expected one JSON object"),
    (b"[" * 100_000, "not readable JSON (RecursionError); expected one JSON object"),
    (b"1" * 10_000, "not readable JSON (ValueError); expected one JSON object"),
    (["\n\nHuman: a", "b"], "a JSON list; expected one JSON object"),
    ({}, "no key 'chosen' (has no keys); expected 'chosen' and 'rejected'"),
    (
        {"chosen": GOOD["chosen"], "rejcted": ""},
        "no key 'rejected' (has 'chosen', 'rejcted'); expected 'chosen' and 'rejected'",
    ),
    (GOOD | {"chosen": None}, "'chosen' is of type null; expected a transcript as one string"),
    (GOOD | {"rejected": [{"role": "user"}]}, "'rejected' is of type list; expected a transcript as one string"),
    (GOOD | {"chosen": ""}, r"'chosen' starts with ''; expected '\n\nHuman:' first"),
    (
        GOOD | {"chosen": "Human: Hi\n\nAssistant: x"},
        r"'chosen' starts with 'Human: Hi\n\nAssistant'; expected '\n\nHuman:' first",
    ),
    (
        GOOD | {"rejected": "\n\nAssistant: x"},
        r"'rejected' starts with '\n\nAssistant: x'; expected '\n\nHuman:' first",
    ),
    (
        GOOD | {"rejected": "\n\nHuman: Hi"},
        r"'rejected' has no Assistant turn; expected '\n\nAssistant:' before the response",
    ),
    (b'{"chosen": "caf\xe9"}', "not UTF-8 (byte 0xe9 at 15); expected UTF-8 text"),
    (
        GOOD | {"chosen": GOOD["chosen"] + "\ud800"},
        "'chosen' is not valid Unicode (half a surrogate pair); expected text",
    ),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    assert error_of(write(tmp_path / "hh.jsonl", GOOD, GOOD, row, GOOD)) == f"hh.jsonl:3: {message}"


@pytest.mark.parametrize("raw", [b"", gzip.compress(b"")])
def test_empty_file(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "hh.jsonl"
    path.write_bytes(raw)
    assert error_of(path) == "hh.jsonl: the file is empty; expected at least one row"


def test_file_of_blank_lines(tmp_path: Path) -> None:
    assert (
        error_of(write(tmp_path / "hh.jsonl", b"", b" "))
        == "hh.jsonl: only blank lines; expected one JSON object a line"
    )


@pytest.mark.parametrize(("pack", "ending"), [(gzip.compress, ".gz"), (lzma.compress, ".xz")])
def test_truncated_archive(tmp_path: Path, pack: Any, ending: str) -> None:
    path = tmp_path / f"hh.jsonl{ending}"
    whole = pack(json.dumps(GOOD).encode() + b"\n")
    path.write_bytes(whole[:-6])
    assert error_of(path).endswith(": truncated archive; expected a complete file")
    path.write_bytes(whole[: len(whole) // 2] + b"\x00\xff" * 8 + whole[len(whole) // 2 + 16 :])
    assert error_of(path).startswith(f"hh.jsonl{ending}:1: ")


@pytest.mark.parametrize(("ending", "kind"), [(".gz", "gzip"), (".xz", "xz")])
def test_archive_that_is_none(tmp_path: Path, ending: str, kind: str) -> None:
    path = write(tmp_path / f"hh.jsonl{ending}", b"<html>not found</html>")
    assert error_of(path) == f"hh.jsonl{ending}: not a {kind} file; expected {kind}, as its name says"


def test_missing_file(tmp_path: Path) -> None:
    assert error_of(tmp_path / "hh.jsonl") == "hh.jsonl: cannot be read (No such file or directory); expected a file"


# ---------------------------------------------------------------- finding files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have them: data, a hub-like subfolder, hidden files, and files of other kinds."""
    for name in ("helpful-base.jsonl.gz", "helpful-online/train.jsonl", "README.md", ".cache/x.jsonl", "b.parquet"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_find_files(folder: Path) -> None:
    found = [path.relative_to(folder).as_posix() for path in find_files(folder)]
    assert found == ["helpful-base.jsonl.gz", "helpful-online/train.jsonl"]
    assert [path.name for path in ignored_files(folder)] == ["README.md", "b.parquet"]
    assert find_files(folder / "README.md") == [folder / "README.md"]  # a file named outright is taken as it is
    assert find_files(folder / "*" / "train.*") == [folder / "helpful-online" / "train.jsonl"]
    assert find_files(folder, pattern="helpful*") == [folder / "helpful-base.jsonl.gz"]


def test_find_files_says_what_is_there_instead(folder: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"^.*/helpful-bas\.jsonl: no such file or folder \(nearest: .*/helpful-base.jsonl.gz\); expected",
    ):
        find_files(folder / "helpful-bas.jsonl")
    for name in ("helpful-base.jsonl.gz", "helpful-online/train.jsonl"):
        (folder / name).unlink()
    with pytest.raises(DataError) as caught:
        find_files(folder)
    assert str(caught.value) == (
        f"{folder}: no input files (found README.md, b.parquet); expected .jsonl, plain or with .gz or .xz"
    )


def test_split_files(folder: Path) -> None:
    files = find_files(folder)
    assert split_files(files, "train*") == (files[:1], files[1:])
    with pytest.raises(
        DataError, match="^held-out pattern 'x' matches no file; the files are helpful-base.jsonl.gz, train"
    ):
        split_files(files, "x")


def test_input_file_and_locate(folder: Path) -> None:
    path = folder / "helpful-online" / "train.jsonl"
    known = input_file(path, root=folder)
    assert input_file(path, root=folder / "*" / "train.*").name == "helpful-online/train.jsonl"
    assert input_file(path, root=path).name == input_file(path).name == "train.jsonl"
    # sha256("x"), from coreutils' sha256sum
    assert (known.name, known.bytes) == ("helpful-online/train.jsonl", 1)
    assert known.sha256 == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert locate([known], {known.name: str(path)}) == [(known, path)]
    path.write_bytes(b"y")
    with pytest.raises(
        DataError,
        match=r"train.jsonl: changed since the study was planned \(sha256 a1fce4363854\); expected 2d711642b726",
    ):
        locate([known], {known.name: str(path)})
    with pytest.raises(DataError, match="the stage was not told where this input file is"):
        locate([known], {})
    path.write_bytes(b"")
    with pytest.raises(DataError, match="train.jsonl: the file is empty; expected at least one row"):
        input_file(path)
    with pytest.raises(
        DataError, match=r"trian.jsonl: cannot be read \(No such file or directory\) \(nearest: .*/train.jsonl\)"
    ):
        input_file(path.with_name("trian.jsonl"))


# ---------------------------------------------------------------- hub


def test_hub_rows_keep_their_tranche(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any, Any]] = []

    def load(name: str, data_dir: str | None, revision: str | None) -> dict[str, list[dict[str, str]]]:
        asked.append((name, data_dir, revision))
        return {"train": [GOOD], "test": [GOOD]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = [row for row in read_hub("Anthropic/hh-rlhf", "abc") if isinstance(row, Comparison)]
    assert Counter(row.tranche for row in rows) == dict.fromkeys(
        ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"), 2
    )
    assert rows[0].source == "Anthropic/hh-rlhf/harmless-base/train:1"
    assert [row.tranche for row in read_hub("me/mine/part") if isinstance(row, Comparison)] == ["part", "part"]
    assert [row.tranche for row in read_hub("me/mine") if isinstance(row, Comparison)] == ["all", "all"]
    assert asked[-2:] == [("me/mine", "part", None), ("me/mine", None, None)]


def test_hub_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(DataError) as caught:
        list(read_hub("Anthropic/hh-rlhf/helpful-base"))
    message = str(caught.value)
    assert message.startswith("hub data set 'Anthropic/hh-rlhf/helpful-base': cannot be loaded (")
    assert message.endswith("; expected a data set that can be reached, or local files (data.path=FOLDER)")
    assert "\n" not in message


# ---------------------------------------------------------------- real files


def test_real_files(real_data: Path) -> None:
    """The README beside the files counts 17 and 36 over four official files, of which these are three."""
    counts: Counter[str] = Counter()
    for path in find_files(real_data / "hh"):
        counts.update(row.reason if isinstance(row, Dropped) else row.tranche for row in read_file(path, path.name))
    assert counts["prompts_differ"] <= 17
    assert counts["equal_responses"] <= 36
    assert counts.total() == 2354 + 2749 + 2312
    assert set(counts) - {"prompts_differ", "equal_responses"} == {
        "helpful-base",
        "helpful-rejection-sampled",
        "harmless-base",
    }


def test_reading_data_imports_no_torch() -> None:
    code = (
        "import sys; from hh_scaling import comparisons, data, inputs, splits, text, tokenizer; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
