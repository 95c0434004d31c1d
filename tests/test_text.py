"""Documents from JSONL and plain text, compressed or not, and every kind of bad row."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from hh_scaling.inputs import TEXT_SUFFIXES, DataError, find_files
from hh_scaling.text import PLAIN_CHARACTERS, documents, render_turns


def test_turns_are_rendered_as_hh_transcripts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": 1, "turns": [["human", "Hi"], ["Assistant", "Hello"], ["user", "Bye"]]}))
    assert list(documents(path)) == ["\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye"]


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_jsonl_text_compressed_or_not(tmp_path: Path, ending: str, pack: Any) -> None:
    rows = [{"text": "\ufeffone\r\ntwo"}, {"text": ""}, {"text": " \n"}, {"text": "été\u2028\n"}]
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(pack("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()))
    assert list(documents(path)) == ["one\ntwo", "été\u2028\n"]


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_plain_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path, ending: str, pack: Any) -> None:
    paragraphs = [f"paragraph {i} " + "word " * (i % 300) + "\n \n" for i in range(300)]
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(pack("".join(paragraphs).encode()))
    pieces = list(documents(path))
    assert "".join(pieces) == "".join(paragraphs)
    assert len(pieces) > 10
    assert all(piece.startswith("paragraph") for piece in pieces)
    assert all(PLAIN_CHARACTERS <= len(piece) < PLAIN_CHARACTERS + 1600 for piece in pieces[:-1])


def test_plain_text_without_blank_lines_is_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a line\r\n" * 20_000, newline="")
    pieces = list(documents(path))
    assert "".join(pieces) == "a line\n" * 20_000
    assert max(map(len, pieces)) <= 4 * PLAIN_CHARACTERS + 10


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"{", "not JSON (Expecting property name enclosed in double quotes at column 2); expected one JSON object"),
        (b'"text"', "a JSON string; expected one JSON object"),
        (b'{"text": "\xff"}', "not UTF-8 (byte 0xff at 10); expected UTF-8 text"),
        (b'{"body": "x"}', "neither 'text' nor 'turns' (has 'body'); expected one of them"),
        (b'{"text": ["x"]}', "'text' is of type list; expected a string"),
        (b'{"text": "\\udc00"}', "the text is not valid Unicode (half a surrogate pair); expected text"),
        (b'{"turns": []}', "'turns' is not a filled list; expected [[role, text], ...]"),
        (b'{"turns": [["human", "a"], ["human"]]}', "turn 2 is not a pair of strings; expected [role, text]"),
        (b'{"turns": [["human", 1]]}', "turn 1 is not a pair of strings; expected [role, text]"),
        (
            b'{"turns": [["asistant", "a"]]}',
            "turn 1 has role 'asistant' (nearest: 'assistant'); expected one of 'human', 'user', 'assistant'",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + row + b"\n")
    with pytest.raises(DataError) as caught:
        list(documents(path))
    assert str(caught.value) == f"{path}:2: {message}"


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a.txt: the file is empty; expected at least one row$"):
        list(documents(path))
    path.write_bytes("é".encode("utf-16"))
    with pytest.raises(DataError, match=r"a.txt:1: not UTF-8 \(byte 0xff at 0\); expected UTF-8 text$"):
        list(documents(path))
    path.write_bytes(gzip.compress(b"text\n" * 9)[:-4])
    with pytest.raises(DataError, match=r"a.txt:\d+: truncated archive; expected a complete file$"):
        list(documents(path))
    with pytest.raises(DataError, match=r"no.txt: cannot be read \(No such file or directory\); expected a file$"):
        list(documents(tmp_path / "no.txt"))


def test_render_turns_names_the_place() -> None:
    with pytest.raises(DataError, match=r"^f:7: 'turns' is not a filled list"):
        render_turns({"a": 1}, "f:7")


def test_real_files(real_data: Path) -> None:
    """Rows and characters as the README beside the files has them."""
    names = {path.name: path for path in find_files(real_data / "text", TEXT_SUFFIXES)}
    dialogues = list(documents(names["sgd_train.jsonl.gz"]))
    assert len(dialogues) == 12_174
    assert all(text.startswith("\n\nHuman: ") for text in dialogues)
    with gzip.open(names["wikitext2_test.txt.gz"], "rt", encoding="utf-8") as stream:
        assert "".join(documents(names["wikitext2_test.txt.gz"])) == stream.read()
