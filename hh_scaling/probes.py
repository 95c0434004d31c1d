"""Probes: files of comparisons besides the held-out part that a finished preference model is judged on.

A row is a pair ``{chosen, rejected}`` of transcripts, or ``{input, choices, label}``: a question, or a dialogue that a
Human turn ends, whose right choice is paired with every other. Either may have a ``category`` (or ``subset``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hh_scaling.comparisons import ASSISTANT, HUMAN, KEYS, Comparison, Dropped, check_row
from hh_scaling.configs import InputFile
from hh_scaling.inputs import DataError, json_kind, locate, numbered_objects, plain_name, require_unicode
from hh_scaling.splits import conversation_id

COLUMNS = ("row", "category", "conversation", "prompt", "chosen", "rejected")
EVERYTHING = "all"  # as a category it says nothing


@dataclass(frozen=True)
class Probe:
    """The comparisons of one file, and its rows that were none, by reason."""

    name: str
    comparisons: pd.DataFrame  # COLUMNS; row is the line of the file, from 1
    dropped: dict[str, int]


def probe_name(file: str) -> str:
    """What tables call the probe of a file: its plain stem."""
    return Path(plain_name(Path(file).name)).stem


def read_probes(files: Sequence[InputFile], where: Mapping[str, str]) -> list[Probe]:
    """The probes of a configuration, each file's content verified."""
    return [read_probe(path) for _, path in locate(files, where)]


def read_probe(path: Path) -> Probe:
    """One file; DataError names the line of a row that cannot be read, or says that no comparison is left."""
    rows: list[tuple[Any, ...]] = []
    dropped: Counter[str] = Counter()
    for line, found in read_comparisons(path):
        if isinstance(found, Dropped):
            dropped[found.reason] += 1
        else:
            conversation = conversation_id(found.prompt)
            rows.append((line, found.tranche, conversation, found.prompt, found.chosen, found.rejected))
    if not rows:
        raise DataError(f"{path}: no comparison is left ({dict(dropped)}); expected at least one")
    return Probe(probe_name(path.name), pd.DataFrame(rows, columns=list(COLUMNS)), dict(dropped))


def read_comparisons(path: Path) -> Iterator[tuple[int, Comparison | Dropped]]:
    """Line and comparison (its tranche is the category), or why it is none, of every pair of every row."""
    for at, row in numbered_objects(path):
        category = category_of(row, at)
        for pair in pairs_of(row, at):
            yield int(at.rpartition(":")[2]), check_row(pair, at, category, at)


def category_of(row: Mapping[str, Any], at: str) -> str:
    """The row's ``category``, or else its ``subset``; empty where it has neither."""
    key = "category" if "category" in row else "subset"
    value = row.get(key)
    if value is None or value == EVERYTHING:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{at}: {key!r} is of type {json_kind(value)}; expected a string")
    return require_unicode(value, at, repr(key))


def pairs_of(row: Mapping[str, Any], at: str) -> list[Mapping[str, Any]]:
    """The row's pairs of transcripts: itself, or the right choice with each of the others after the same prompt."""
    if any(key in row for key in KEYS):
        return [row]
    if not all(key in row for key in ("input", "choices", "label")):
        has = ", ".join(sorted(map(repr, row))) or "no keys"
        raise DataError(f"{at}: has {has}; expected 'chosen' and 'rejected', or 'input', 'choices' and 'label'")
    prompt, choices = prompt_of(_text(row["input"], at, "'input'"), at), _choices(row["choices"], at)
    label = row["label"]
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(choices):
        raise DataError(f"{at}: 'label' is {label!r}; expected the right choice's place, 0 to {len(choices) - 1}")
    others = choices[:label] + choices[label + 1 :]
    return [{"chosen": f"{prompt} {choices[label]}", "rejected": f"{prompt} {other}"} for other in others]


def prompt_of(text: str, at: str) -> str:
    """The transcript that asks for a reply to a question, or to a dialogue that begins and ends with a Human turn."""
    body = text.strip()
    first = HUMAN.lstrip()
    prompt = f"\n\n{body}" if body.startswith(first) else f"{HUMAN} {body}"
    if prompt.endswith(ASSISTANT):
        return prompt
    if prompt.rfind(ASSISTANT) > prompt.rfind(HUMAN):
        raise DataError(f"{at}: 'input' ends with an Assistant turn; expected a question or a last Human turn")
    return prompt + ASSISTANT


def _choices(value: Any, at: str) -> list[str]:
    if not isinstance(value, list) or len(value) < 2:
        found = f"a list of {len(value)}" if isinstance(value, list) else f"of type {json_kind(value)}"
        raise DataError(f"{at}: 'choices' is {found}; expected a list of two strings or more")
    return [_text(choice, at, f"choice {i}").strip() for i, choice in enumerate(value)]


def _text(value: Any, at: str, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "blank" if isinstance(value, str) else f"of type {json_kind(value)}"
        raise DataError(f"{at}: {what} is {found}; expected text")
    return require_unicode(value, at, what)
