"""Rows of a JSONL file to score: transcripts and comparisons, and by name what makes a row no good comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hh_scaling.comparisons import (
    ASSISTANT,
    ENDS_WITH_HUMAN,
    EQUAL_RESPONSES,
    HUMAN,
    KEYS,
    PROMPTS_DIFFER,
    Dropped,
    check_row,
)
from hh_scaling.inputs import DataError, json_kind, numbered_objects, require_unicode

NO_HUMAN_TURN = "no_human_turn_first"
NO_ASSISTANT_TURN = "no_assistant_turn"
EMPTY_RESPONSE = "empty_response"
# Of a comparison with one of these nothing can be right or wrong; training drops it, or refuses its file.
LEFT_OUT = (PROMPTS_DIFFER, EQUAL_RESPONSES, ENDS_WITH_HUMAN, NO_HUMAN_TURN, NO_ASSISTANT_TURN)
FORMATS = (("prompt", *KEYS), KEYS, ("prompt", "response"), ("text",))


@dataclass(frozen=True)
class Row:
    """A line of the file: one text, or a chosen and a rejected one, and what is wrong with them."""

    at: str  # file:line
    texts: tuple[str, ...]
    problems: tuple[str, ...] = ()

    @property
    def line(self) -> int:
        """From 1."""
        return int(self.at.rpartition(":")[2])


def read_texts(file: Path) -> Iterator[Row]:
    """The rows of a JSONL file, plain or compressed; DataError, with file and line, for what is no text at all."""
    for at, row in numbered_objects(file):
        texts = _texts(row, at)
        if not all(texts):
            raise DataError(f"{at}: a text is empty; expected transcripts")
        yield Row(at, texts, tuple(_problems(texts, at)))


def _texts(row: Mapping[str, Any], at: str) -> tuple[str, ...]:
    """The row's one or two transcripts, a prompt before both sides where it is a key of its own."""
    keys = next((keys for keys in FORMATS if all(key in row for key in keys)), None)
    if keys is None:
        has = ", ".join(row) or "no keys"
        raise DataError(f"{at}: has {has}; expected chosen and rejected, prompt and response, or text")
    values = [_text(row[key], at, key) for key in keys]
    if keys in (KEYS, ("text",)):
        return tuple(values)
    prompt, *sides = values
    if len(sides) == 2 and all(side.startswith(prompt) for side in sides):
        return tuple(sides)  # whole transcripts, with their prompt besides
    return tuple(prompt + side for side in sides)


def _text(value: Any, at: str, key: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{at}: {key!r} is of type {json_kind(value)}; expected a string")
    return require_unicode(value, at, repr(key))


def _problems(texts: tuple[str, ...], at: str) -> Iterator[str]:
    """By name: what training would drop or refuse, and an empty response, which it keeps."""
    if not all(text.startswith(HUMAN) for text in texts):
        yield NO_HUMAN_TURN
    if not all(ASSISTANT in text for text in texts):
        yield NO_ASSISTANT_TURN
        return
    whole = [text if text.startswith(HUMAN) else HUMAN + text for text in texts]  # named above: what else is wrong
    if len(texts) == 2:
        found = check_row(dict(zip(KEYS, whole, strict=True)), at, "", at)
        if isinstance(found, Dropped):
            yield found.reason
    elif HUMAN in texts[0][texts[0].rindex(ASSISTANT) :]:
        yield ENDS_WITH_HUMAN
    if any(text.rstrip().endswith(ASSISTANT) for text in texts):
        yield EMPTY_RESPONSE
