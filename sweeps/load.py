"""A study's YAML as plain values, each with the place it was written; ``--set`` assignments on top.

Reading is strict: duplicate keys, merge keys, foreign tags, alias bombs and oversized files are refused. What is
wrong is collected, so that one reading reports everything.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

KeyPath = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_VALUES = 20_000  # after aliases are followed
TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file's line and column (from 1), or an assignment on the command line."""

    source: str
    line: int | None = None
    column: int | None = None
    folder: Path | None = None  # what relative paths written here are relative to

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, as one line: where, which key, what, and what is allowed."""

    place: Place
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.text}" if self.key else f"{self.place}: {self.text}"


class StudyError(ValueError):
    """A study that cannot be used; ``problems`` lists everything that is wrong with it, one line each."""

    def __init__(self, problems: Iterable[Problem | str]) -> None:
        self.problems = [str(problem) for problem in problems]
        super().__init__("\n".join(self.problems))


@dataclass
class Document:
    """Plain values with the places of values and keys, and the problems met so far."""

    source: str
    folder: Path
    value: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    key_places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: KeyPath, key: bool = False) -> Place:
        """Where the value (or key) at ``path`` was written, or else the nearest thing around it."""
        if key and path in self.key_places:
            return self.key_places[path]
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Place(self.source, 1, 1, self.folder)

    def complain(self, path: KeyPath, text: str, key: bool = False) -> None:
        """Add a problem with the value (or key) at ``path``."""
        self.problems.append(Problem(self.place(path, key), dotted(path), text))


def dotted(path: KeyPath) -> str:
    """The path as it is given to ``--set``: ``sizes.0.n_params``."""
    return ".".join(str(part) for part in path)


def nearest(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the closest allowed word, or an empty string."""
    words = list(allowed)
    lowered = {w.lower(): w for w in words}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.55)
    return f"; did you mean '{lowered[found[0]]}'?" if found else ""


# ---------------------------------------------------------------- reading


def read_document(path: Path) -> Document:
    """The document in a YAML file; StudyError when it cannot be read at all."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StudyError([f"{path}: cannot be read ({error.strerror or error})"]) from error
    if len(raw) > MAX_BYTES:
        raise StudyError([f"{path}: {len(raw):,} bytes, a study has at most {MAX_BYTES:,}"])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StudyError([f"{path}: byte {error.start} is not UTF-8"]) from error
    return parse_document(text, str(path), path.resolve().parent)


def parse_document(text: str, source: str, folder: Path) -> Document:
    """The document that ``text`` writes; relative paths in it are relative to ``folder``."""
    document = Document(source, folder)
    node = compose(text, source)
    if node is None:
        raise StudyError([f"{source}: empty, a study has at least the key 'sizes'"])
    if not isinstance(node, MappingNode):
        raise StudyError([f"{source}:1:1: a study is a mapping of keys to values, this is {describe(node)}"])
    reader = Reader(document)
    document.value = reader.read(node, ())
    return document


def compose(text: str, source: str) -> Node | None:
    """The YAML node graph of ``text``; StudyError with line and column when it is not YAML."""
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(io.StringIO(text))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark is not None else source
        reason = getattr(error, "problem", None) or str(error).strip().splitlines()[0]
        raise StudyError([f"{where}: not valid YAML ({reason})"]) from error
    except RecursionError as error:
        raise StudyError([f"{source}: nested more than {MAX_DEPTH} levels deep"]) from error
    return node


def describe(node: Node) -> str:
    """What a node is, for a message."""
    return "a mapping" if isinstance(node, MappingNode) else "a list" if isinstance(node, SequenceNode) else "a value"


class Reader:
    """Turns nodes into plain values and notes where each was written."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0
        self.scalars = YAML(typ="safe", pure=True).constructor

    def place(self, node: Node) -> Place:
        """Where a node begins."""
        mark = node.start_mark
        return Place(self.document.source, mark.line + 1, mark.column + 1, self.document.folder)

    def read(self, node: Node, path: KeyPath) -> Any:
        """The value of ``node``, at ``path``; StudyError when following aliases never ends or grows too far."""
        self.count += 1
        if self.count > MAX_VALUES or len(path) > MAX_DEPTH:
            limit = f"{MAX_VALUES:,} values" if self.count > MAX_VALUES else f"{MAX_DEPTH} levels"
            raise StudyError([f"{self.place(node)}: more than {limit} once its aliases are followed"])
        self.document.places[path] = self.place(node)
        if isinstance(node, MappingNode):
            return self.read_mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        return self.read_scalar(node, path)

    def read_mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        """A mapping's values; duplicate, merge and non-scalar keys become problems."""
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.complain(key_node, path, f"a key must be a word, this is {describe(key_node)}")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key_node.tag == f"{TAG}merge":
                self.complain(key_node, here, "merge keys are not supported; write the keys out")
                continue
            if key in result:
                first = self.document.key_places[here]
                self.complain(key_node, here, f"duplicate key (first on line {first.line})")
                continue
            self.document.key_places[here] = self.place(key_node)
            result[key] = self.read(value_node, here)
        return result

    def read_scalar(self, node: Node, path: KeyPath) -> Any:
        """A single value by the rules of YAML 1.2; foreign tags become problems."""
        tag = str(node.tag).removeprefix(TAG)
        if tag not in ("int", "float", "bool", "null", "str", "timestamp"):
            self.complain(node, path, f"the tag {node.tag} is not allowed")
            return None
        if tag in ("str", "timestamp"):
            return str(node.value)
        try:
            return self.scalars.construct_object(node)
        except (ValueError, YAMLError):  # such as '1_' or five thousand digits: a word like any other
            return str(node.value)

    def complain(self, node: Node, path: KeyPath, text: str) -> None:
        """Add a problem with a node."""
        self.document.problems.append(Problem(self.place(node), dotted(path), text))


# ---------------------------------------------------------------- --set


def apply_assignment(document: Document, assignment: str) -> None:
    """Put the value of ``key.path=value`` into the document; what is wrong with it becomes a problem."""
    key, equals, text = assignment.partition("=")
    place = Place(f"--set {assignment}", folder=Path.cwd())
    if not equals or not key.strip():
        document.problems.append(Problem(place, "", "must be KEY=VALUE, such as ppo.n_updates=10"))
        return
    path: KeyPath = tuple(int(p) if p.isdigit() else p for p in key.strip().split("."))
    try:
        value = parse_value(text, place)
    except StudyError as error:
        document.problems.append(Problem(place, dotted(path), str(error).removeprefix(f"{place}: ")))
        return
    parent = find_parent(document, path, place)
    if parent is None:
        return
    if isinstance(parent, dict):
        path = (*path[:-1], str(path[-1]))
    parent[path[-1]] = value
    for places in (document.places, document.key_places):
        for known in [p for p in places if p[: len(path)] == path]:
            del places[known]
        for length in range(1, len(path) + 1):  # sections made on the way were written here too
            places.setdefault(path[:length], place)


def parse_value(text: str, place: Place) -> Any:
    """The value that ``text`` writes in YAML; a word that YAML could not hold, such as ``*.txt``, stays a word."""
    if text[:1] in ("*", "&", "!", "%", "@", "`"):
        return text
    node = compose(text, str(place))
    return None if node is None else Reader(Document(str(place), Path.cwd())).read(node, ())


def find_parent(document: Document, path: KeyPath, place: Place) -> Any:
    """What holds ``path``'s last part, made where it is missing; None (and a problem) where that is impossible."""
    value: Any = document.value
    for i, part in enumerate(path):
        here = dotted(path[:i])
        if isinstance(value, list):
            if not isinstance(part, int) or part >= len(value):
                text = f"{here} is a list of {len(value)}, '{part}' is not one of 0 to {len(value) - 1}"
                document.problems.append(Problem(place, dotted(path), text))
                return None
        elif not isinstance(value, dict):
            document.problems.append(Problem(place, dotted(path), f"{here} is {value!r}, which has no keys"))
            return None
        if i == len(path) - 1:
            return value
        if isinstance(value, dict):
            part = str(part)
            if value.get(part) is None:
                value[part] = {}
        value = value[part]
    return None
