"""From a name or path to a checked study: everything that is wrong with it at once, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sweeps.complete import complete, model_at
from sweeps.consistency import inconsistencies, oddities
from sweeps.load import Document, KeyPath, StudyError, apply_assignment, nearest, read_document
from sweeps.numbers import format_count
from sweeps.study import SizeEntry, Study

STUDIES = Path(__file__).resolve().parent / "studies"


@dataclass
class LoadedStudy:
    """A checked study with where its values were written, its sizes' names, and what is odd but allowed."""

    name: str
    study: Study
    document: Document
    size_names: list[str]
    warnings: list[str] = field(default_factory=list)


def shipped_studies() -> dict[str, Path]:
    """Names and files of the studies that come with the package, by name."""
    return {path.stem: path for path in sorted(STUDIES.glob("*.yaml"))}


def find_study(word: str) -> Path:
    """The file of a study given by path or by a shipped name; StudyError names the nearest one."""
    shipped = shipped_studies()
    if word in shipped:
        return shipped[word]
    path = Path(word)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or "/" in word:
        raise StudyError([f"{word}: no such file"])
    allowed = ", ".join(shipped)
    raise StudyError([f"study '{word}' is not known (allowed: a YAML file, or {allowed}{nearest(word, shipped)})"])


def load_study(word: str, assignments: Sequence[str] = ()) -> LoadedStudy:
    """The study ``word`` with ``--set`` assignments on top; StudyError lists everything that is wrong."""
    path = find_study(word)
    document = read_document(path)
    for assignment in assignments:
        apply_assignment(document, assignment)
    study = validated(document)
    loaded = LoadedStudy(study.name or path.stem, study, document, size_names(study))
    for key, text in inconsistencies(study, loaded.size_names):
        document.complain(key, text)
    if document.problems:
        raise StudyError(document.problems)
    loaded.warnings += oddities(study)
    return loaded


def validated(document: Document) -> Study:
    """The study model of a document; StudyError with every problem of reading and of validation."""
    try:
        study = Study.model_validate(complete(Study, document.value))
    except ValidationError as error:
        for details in error.errors(include_url=False):
            path = raw_path(details["loc"], document.value)
            document.complain(path, explain(details, path), key=details["type"] == "extra_forbidden")
        problems = sorted(document.problems, key=lambda p: (p.place.line or 0, p.place.column or 0))
        raise StudyError(problems) from error
    return study


def raw_path(loc: tuple[str | int, ...], value: Any) -> KeyPath:
    """A validation error's location in terms of what was written (a single value stands for a list of one)."""
    path: list[str | int] = []
    for part in loc:
        if isinstance(part, int) and not isinstance(value, list):
            continue
        path.append(part)
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            value = None
    return tuple(path)


# ---------------------------------------------------------------- one line per problem


def explain(details: ErrorDetails, path: KeyPath) -> str:
    """What is wrong and what is allowed, in words."""
    kind, value, context = details["type"], details.get("input"), details.get("ctx", {})
    shown = repr(value) if not isinstance(value, dict | list | tuple | BaseModel) else "this"
    if kind == "extra_forbidden":
        return unknown_key(path)
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"is {shown} (allowed: {allowed}{nearest(str(value), allowed.split(', '))})"
    if kind.startswith(("int_", "float_")):
        what = "a whole number, such as 24000, 24k or 1.3M" if kind.startswith("int_") else "a number, such as 3e-6"
        return f"is {shown} (allowed: {what})"
    if kind in LIMITS:
        key, words = LIMITS[kind]
        return f"is {shown} (allowed: {words.format(context[key])})"
    if kind == "finite_number":
        return f"is {shown} (allowed: a finite number)"
    if kind in TYPES:
        return f"is {shown} (allowed: {TYPES[kind]})"
    if kind == "string_pattern_mismatch":
        return f"is {shown} (allowed: {PATTERNS['at' if 'at' in path else '']})"
    return f"is {shown}: {details['msg'][:1].lower()}{details['msg'][1:]}"


LIMITS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "a number of at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "a number of at most {}"),
    "too_short": ("min_length", "at least {} of them"),
    "string_too_long": ("max_length", "at most {} characters"),
}
TYPES = {
    "string_type": "a word; put a number in quotes",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "list_type": "a list",
}
PATTERNS = {
    "": "letters, digits, '.', '_' and '-', beginning with a letter or digit",
    "at": "end, the sqrt(KL) of a checkpoint, such as 1.0, or a point in between, such as alpha=0.5",
}


def unknown_key(path: KeyPath) -> str:
    """That the last part of ``path`` is no key of its section, with the nearest or all that are."""
    section = model_at(Study, path[:-1])
    names = list(section.model_fields) if section is not None else []
    if hint := nearest(str(path[-1]), names):
        return f"unknown key ({hint.removeprefix('; ')})"
    where = f"keys of {'.'.join(str(p) for p in path[:-1])}" if len(path) > 1 else "keys of a study"
    return f"unknown key (allowed {where}: {', '.join(names)})"


# ---------------------------------------------------------------- names


def size_names(study: Study) -> list[str]:
    """What tables call each size: its ``name``, or one made from its number of parameters or its source."""
    return [entry.name or made_name(entry) for entry in study.sizes]


def made_name(entry: SizeEntry) -> str:
    """24k, pythia-70m (of a hub name), or the last part of a path, without what file names may not hold."""
    if entry.n_params is not None:
        return format_count(entry.n_params)
    source = entry.hub or entry.path or entry.gguf or "model"
    stem = Path(source.rstrip("/")).name.removesuffix(".gguf")
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in stem).lstrip("._-") or "model"
