"""Input files: finding them, knowing them by content, and reading them line by line with errors that name the line."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from hh_scaling.configs import InputFile
from hh_scaling.records import file_sha256

COMPRESSED = (".gz", ".xz")
COMPARISON_SUFFIXES = (".jsonl",)
TEXT_SUFFIXES = (".jsonl", ".txt")
WILDCARDS = "*?["
_MAGIC = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00"}
_FORMAT = {".gz": "gzip", ".xz": "xz"}


class DataError(ValueError):
    """Input that cannot be used; the message is one line: where, what is wrong, what is expected."""


# ---------------------------------------------------------------- finding


def plain_name(name: str) -> str:
    """A file name without its compression suffix: ``a.jsonl.gz`` gives ``a.jsonl``."""
    return next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)


def find_files(path: Path, suffixes: Sequence[str] = COMPARISON_SUFFIXES, pattern: str = "*") -> list[Path]:
    """The input files at ``path``, sorted: a file itself, all of a folder (with its subfolders), or a glob's matches.

    Kept are names that end in one of ``suffixes``, compressed (.gz, .xz) or not, and that match ``pattern``;
    ``ignored_files`` names the others. DataError when there is nothing at ``path`` or nothing to read in it.
    """
    if path.is_file():
        return [path]
    everything = _listing(path)
    found = [file for file in everything if _wanted(file, suffixes) and fnmatch.fnmatch(file.name, pattern)]
    if not found:
        others = ", ".join(file.name for file in everything[:5]) or "nothing"
        wanted = ", ".join(suffixes) + (f" and a name like {pattern!r}" if pattern != "*" else "")
        raise DataError(f"{path}: no input files (found {others}); expected {wanted}, plain or with .gz or .xz")
    return found


def ignored_files(path: Path, suffixes: Sequence[str] = COMPARISON_SUFFIXES) -> list[Path]:
    """The files under the folder ``path`` that ``find_files`` leaves out because of their suffix, sorted."""
    return [] if path.is_file() else [file for file in _listing(path) if not _wanted(file, suffixes)]


def split_files(files: Sequence[Path], pattern: str) -> tuple[list[Path], list[Path]]:
    """``files`` without, and those with, a name that matches ``pattern``; DataError when none matches."""
    held_out = [file for file in files if fnmatch.fnmatch(file.name, pattern)]
    if not held_out:
        names = ", ".join(file.name for file in files)
        raise DataError(f"held-out pattern {pattern!r} matches no file; the files are {names}")
    return [file for file in files if file not in held_out], held_out


def _wanted(file: Path, suffixes: Sequence[str]) -> bool:
    return plain_name(file.name).endswith(tuple(suffixes))


def _listing(path: Path) -> list[Path]:
    if path.is_dir():
        inside = (file for file in path.rglob("*") if not _hidden(file.relative_to(path)))
        return sorted(file for file in inside if file.is_file())
    if any(mark in str(path) for mark in WILDCARDS):
        root = Path(path.anchor or ".")
        return sorted(file for file in root.glob(str(path.relative_to(path.anchor))) if file.is_file())
    raise DataError(f"{path}: no such file or folder{nearest(path)}; expected a file, a folder or a pattern of files")


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def nearest(path: Path) -> str:
    """`` (nearest: NAME)`` where the folder that should hold ``path`` has a similar name."""
    with contextlib.suppress(OSError):
        close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
        if close:
            return f" (nearest: {path.parent / close[0]})"
    return ""


# ---------------------------------------------------------------- knowing


def input_file(path: Path, root: Path | None = None) -> InputFile:
    """What a configuration says of the file: its name, sha256 and size.

    The name is relative to ``root`` when given: the folder, or the pattern, that the file was found with.
    DataError when it is missing, not readable or empty.
    """
    folder = _fixed_part(root) if root else path.parent
    name = path.relative_to(folder).as_posix() if path != folder and path.is_relative_to(folder) else path.name
    try:
        size = path.stat().st_size
        digest = file_sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}){nearest(path)}; expected a file") from error
    if size == 0:
        raise DataError(f"{path}: the file is empty; expected at least one row")
    return InputFile(name=name, sha256=digest, bytes=size)


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part of ``pattern`` that has a wildcard; ``pattern`` itself where none has."""
    parts = pattern.parts
    wild = next((i for i, part in enumerate(parts) if any(mark in part for mark in WILDCARDS)), len(parts))
    return pattern if pattern.exists() else Path(*parts[:wild])


def locate(files: Sequence[InputFile], where: Mapping[str, str]) -> list[tuple[InputFile, Path]]:
    """Each file with its path on this machine, its content verified; DataError when it is missing or has changed."""
    found = []
    for file in files:
        if file.name not in where:
            raise DataError(f"{file.name}: the stage was not told where this input file is; known: {sorted(where)}")
        path = Path(where[file.name])
        actual = input_file(path).sha256
        if actual != file.sha256:
            raise DataError(
                f"{path}: changed since the study was planned (sha256 {actual[:12]}); "
                f"expected {file.sha256[:12]}, {file.bytes} bytes"
            )
        found.append((file, path))
    return found


# ---------------------------------------------------------------- reading


def numbered_lines(path: Path, tell: Callable[[int], None] | None = None) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without its line end; lines end at ``\\n`` alone, as JSONL's do.

    Compression is recognised by content. ``tell`` is called with the bytes of the file read so far.
    DataError, with the line, for what is not UTF-8, a damaged or truncated archive, or a file without a line.
    """
    number = 0
    with _opened(path) as (raw, stream):
        lines = iter(stream)
        while (line := _next_line(lines, path, number)) is not None:
            number += 1
            if tell is not None and number % 1000 == 0:
                tell(raw.tell())
            yield number, _decoded(line, path, number)
    if number == 0:
        raise DataError(f"{path}: the file is empty; expected at least one row")


def numbered_objects(path: Path, tell: Callable[[int], None] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (``file:line``) and JSON object of each line of a JSONL file; blank lines are passed over.

    DataError, with the place, for a line that is no JSON object, and for a file that has none.
    """
    n_objects = 0
    for number, line in numbered_lines(path, tell):
        if line.strip():
            n_objects += 1
            yield f"{path}:{number}", _json_object(line, f"{path}:{number}")
    if n_objects == 0:
        raise DataError(f"{path}: only blank lines; expected one JSON object a line")


def require_unicode(text: str, at: str, what: str) -> str:
    """``text`` if it can be written as UTF-8; DataError when it holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{at}: {what} is not valid Unicode (half a surrogate pair); expected text") from error
    return text


def json_kind(value: object) -> str:
    """What JSON calls a value of this type: string, list, object, number, boolean or null."""
    kinds = ((str, "string"), (list, "list"), (dict, "object"), (bool, "boolean"), ((int, float), "number"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _json_object(line: str, at: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{at}: not JSON ({error.msg} at column {error.colno}); expected one JSON object") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, brackets too deep
        raise DataError(f"{at}: not readable JSON ({type(error).__name__}); expected one JSON object") from error
    if not isinstance(value, dict):
        raise DataError(f"{at}: a JSON {json_kind(value)}; expected one JSON object")
    return value


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Any]]:
    """The raw file (to see how far reading has come) and the stream of its decompressed bytes."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file") from error
    with raw:
        yield raw, _decompressed(raw, path)


def _decompressed(raw: BinaryIO, path: Path) -> Any:
    start = raw.read(6)
    raw.seek(0)
    for suffix, magic in _MAGIC.items():
        if start.startswith(magic):
            return gzip.GzipFile(fileobj=raw) if suffix == ".gz" else lzma.LZMAFile(raw)
        if start and path.suffix == suffix:
            raise DataError(f"{path}: not a {_FORMAT[suffix]} file; expected {_FORMAT[suffix]}, as its name says")
    return raw


def _next_line(lines: Iterator[bytes], path: Path, before: int) -> bytes | None:
    try:
        return next(lines, None)
    except EOFError as error:
        raise DataError(f"{path}:{before + 1}: truncated archive; expected a complete file") from error
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}:{before + 1}: damaged file ({error}); expected a complete file") from error


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise DataError(
            f"{path}:{number}: not UTF-8 (byte 0x{byte:02x} at {error.start}); expected UTF-8 text"
        ) from error
    if number == 1:
        text = text.removeprefix("\ufeff")
    return text.removesuffix("\n").removesuffix("\r")
