"""Documents for pretraining and held-out loss: JSONL of texts or dialogues, or plain text, compressed or not."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hh_scaling.comparisons import ASSISTANT, HUMAN
from hh_scaling.inputs import DataError, json_kind, numbered_lines, numbered_objects, plain_name, require_unicode

ROLES = {"human": HUMAN, "user": HUMAN, "assistant": ASSISTANT}
PLAIN_CHARACTERS = 8_000  # a plain-text file is cut at the first blank line past this many


def documents(path: Path, tell: Callable[[int], None] | None = None) -> Iterator[str]:
    """The documents of one file, in its order; empty ones are passed over.

    A ``.jsonl`` row is one document, ``{"text": …}`` or ``{"turns": [[role, text], …]}``; any other file is plain text,
    cut at blank lines into documents of about ``PLAIN_CHARACTERS`` characters that together are the whole file.
    Windows line ends become ``\\n`` and a byte-order mark at the start goes. DataError names file and line.
    """
    read = _rows if plain_name(path.name).endswith(".jsonl") else _pieces
    for text in read(path, tell):
        tidy = text.removeprefix("\ufeff").replace("\r\n", "\n")
        if tidy.strip():
            yield tidy


def render_turns(turns: Any, at: str) -> str:
    """A dialogue ``[[role, text], …]`` as ``\\n\\nHuman: …\\n\\nAssistant: …``; DataError otherwise."""
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{at}: 'turns' is not a filled list; expected [[role, text], ...]")
    return "".join(_render_turn(turn, f"{at}: turn {number}") for number, turn in enumerate(turns, 1))


def _render_turn(turn: Any, at: str) -> str:
    if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn)):
        raise DataError(f"{at} is not a pair of strings; expected [role, text]")
    role, text = turn
    mark = ROLES.get(role.lower())
    if mark is None:
        close = difflib.get_close_matches(role.lower(), ROLES, n=1)
        nearest = f" (nearest: {close[0]!r})" if close else ""
        raise DataError(f"{at} has role {role!r}{nearest}; expected one of {', '.join(map(repr, ROLES))}")
    return f"{mark} {text}"


def _rows(path: Path, tell: Callable[[int], None] | None) -> Iterator[str]:
    for at, row in numbered_objects(path, tell):
        yield require_unicode(_row_text(row, at), at, "the text")


def _row_text(row: Mapping[str, Any], at: str) -> str:
    if "turns" in row:
        return render_turns(row["turns"], at)
    if "text" not in row:
        has = ", ".join(sorted(map(repr, row))) or "no keys"
        raise DataError(f"{at}: neither 'text' nor 'turns' (has {has}); expected one of them")
    if not isinstance(row["text"], str):
        raise DataError(f"{at}: 'text' is of type {json_kind(row['text'])}; expected a string")
    return row["text"]


def _pieces(path: Path, tell: Callable[[int], None] | None) -> Iterator[str]:
    """The lines of a plain text, joined into pieces that end at a blank line, or past four times the length at any."""
    lines: list[str] = []
    size = 0
    for _, line in numbered_lines(path, tell):
        lines.append(line + "\n")
        size += len(line) + 1
        if size >= PLAIN_CHARACTERS and (not line.strip() or size >= 4 * PLAIN_CHARACTERS):
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)
