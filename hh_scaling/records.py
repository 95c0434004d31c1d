"""Records on disk: the one seam between stages (torch) and analysis (no torch).

A finished stage is a folder ``RUNS/stages/<stage_id>/`` that holds ``record.json``. Attempts work in
``RUNS/attempts/<stage_id>/<n>/`` and are renamed to ``stages/`` as a whole, last, after everything in them
has been flushed to disk; a failed attempt stays where it is, with a record that says why. So whatever lies
in ``stages/`` is complete, and nothing in it is ever written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

SCHEMA = 1
Status = Literal["running", "done", "diverged", "failed"]
FINISHED: tuple[Status, ...] = ("done", "diverged")
STATES = "states"  # an attempt's folder of resumable states


class RecordError(ValueError):
    """A record that cannot be read or trusted; the message names the file."""


@dataclass(frozen=True)
class Record:
    """One stage's manifest, ``record.json``."""

    stage_id: str
    kind: str
    status: Status
    config: dict[str, Any]  # complete, after defaults
    parents: dict[str, str]  # role -> stage_id
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path -> {"bytes", "sha256"}
    summary: dict[str, Any] = field(default_factory=dict)  # measured numbers as {"value", "se", "n"}
    provenance: dict[str, Any] = field(default_factory=dict)  # versions, code, seconds, tokens, flops, peak memory
    error: str | None = None
    schema: int = SCHEMA


# ---------------------------------------------------------------- hashing


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def config_hash(value: Any, length: int = 12) -> str:
    """The first ``length`` hex digits of the sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------- durable writing


def fsync_path(path: Path) -> None:
    """Flush a file's or folder's own data to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write ``data`` so that ``path`` holds either the old or the new content after any crash."""
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Atomically write indented JSON; refuses NaN and infinities."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def manifest(folder: Path, skip: frozenset[str] = frozenset()) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file under ``folder``, each flushed to disk first, by relative path."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            fsync_path(path)
        elif name.split("/")[0] not in skip and not name.endswith(".tmp"):
            fsync_path(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    return files


def damaged_files(folder: Path, files: Mapping[str, Mapping[str, Any]], hashes: bool = True) -> list[str]:
    """Names of the manifest's files that are missing or differ; sizes only unless ``hashes``."""
    bad = []
    for name, want in files.items():
        path = folder / name
        same_size = path.is_file() and path.stat().st_size == want["bytes"]
        if not same_size or (hashes and file_sha256(path) != want["sha256"]):
            bad.append(name)
    return bad


# ---------------------------------------------------------------- the store


class RunStore:
    """A RUNS directory: ``stages/`` (finished, immutable) and ``attempts/`` (running or failed)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stages = root / "stages"
        self.attempts = root / "attempts"

    def stage_path(self, stage_id: str) -> Path:
        return self.stages / stage_id

    def attempt_paths(self, stage_id: str) -> list[Path]:
        """This stage's unfinished attempts, oldest first."""
        folder = self.attempts / stage_id
        if not folder.is_dir():
            return []
        return sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))

    def new_attempt(self, stage_id: str) -> Path:
        """A fresh, empty folder for one attempt; earlier attempts are never written to again."""
        number = max((int(p.name) for p in self.attempt_paths(stage_id)), default=0) + 1
        while True:
            path = self.attempts / stage_id / str(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return path

    def commit(self, attempt: Path, record: Record) -> Path:
        """Write the record, flush all, and rename the attempt to ``stages/``; returns the stage's folder."""
        write_json(attempt / "record.json", asdict(record))
        return self.move(attempt, record.stage_id)

    def adopt(self, stage_id: str) -> bool:
        """Commit an attempt that was killed between its record and its move; False where there is none."""
        for attempt in reversed(self.attempt_paths(stage_id)):
            if (attempt / "record.json").is_file():
                record = read_record(attempt / "record.json")
                if record.status in FINISHED and not damaged_files(attempt, record.files):
                    self.move(attempt, stage_id)
                    return True
        return False

    def move(self, attempt: Path, stage_id: str) -> Path:
        """Rename a complete attempt, without its resumable states, to ``stages/``; returns the stage's folder."""
        final = self.stage_path(stage_id)
        self.stages.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(attempt / STATES, ignore_errors=True)  # only now: till here a kill could still resume from them
        fsync_path(attempt)
        with contextlib.suppress(OSError):  # another launcher may have committed the same stage: theirs stands
            os.rename(attempt, final)
        if not (final / "record.json").is_file():
            raise RecordError(f"{final}: could not move {attempt} there")
        fsync_path(self.stages)
        shutil.rmtree(self.attempts / stage_id, ignore_errors=True)
        return final

    def finished(self, stage_id: str) -> bool:
        """Whether the stage has a readable record whose status is done or diverged."""
        path = self.stage_path(stage_id) / "record.json"
        return path.is_file() and read_record(path).status in FINISHED

    def record(self, stage_id: str) -> Record | None:
        """The finished record, else that of the newest attempt that has one, else None."""
        for folder in (self.stage_path(stage_id), *reversed(self.attempt_paths(stage_id))):
            if (folder / "record.json").is_file():
                return read_record(folder / "record.json")
        return None


def read_record(path: Path) -> Record:
    """The record in ``path``; RecordError names the file when it is damaged or of another schema."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable record ({error})") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise RecordError(f"{path}: record schema {found!r}, this version reads {SCHEMA}")
    try:
        record = Record(**raw)
    except TypeError as error:
        raise RecordError(f"{path}: {error}") from error
    if record.status not in get_args(Status):
        raise RecordError(f"{path}: status {record.status!r}, allowed: {', '.join(get_args(Status))}")
    return record


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of an append-only file; a torn last line (a writer was killed) is left out."""
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):
                yield json.loads(line)


# ---------------------------------------------------------------- what a running stage writes with


class NonFiniteError(ArithmeticError):
    """A loss or score that is NaN or infinite; the message names the step."""


def check_finite(name: str, value: float, step: int) -> float:
    """``value`` if it is finite; else NonFiniteError with the quantity and the step."""
    if value != value or value in (float("inf"), float("-inf")):
        raise NonFiniteError(f"{name} is {value} at step {step}")
    return value


class StageWriter:
    """The writing end of one attempt: metrics, progress, counters and resumable states."""

    def __init__(self, path: Path, earlier: list[Path] | None = None) -> None:
        self.path = path
        self.earlier = earlier or []  # attempts before this one, oldest first
        self.tokens = 0
        self.flops = 0.0
        self.rows = 0  # of metrics written
        self.resumed_from_step: int | None = None
        self.seconds_before = 0.0  # spent by earlier attempts up to the state that was resumed from
        self._started = time.monotonic()
        self._metrics = path / "metrics.jsonl"
        self._progress_at = 0.0

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row of measurements to ``metrics.jsonl``; NaN is refused."""
        with open(self._metrics, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
        self.rows += 1

    def count(self, tokens: int, flops: float) -> None:
        """Add to the stage's counted tokens and floating-point operations."""
        self.tokens += tokens
        self.flops += flops

    def seconds(self) -> float:
        """Wall-clock seconds spent so far, those of the attempt that was resumed from included."""
        return self.seconds_before + time.monotonic() - self._started

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell the launcher how far the stage is; written at most twice a second."""
        now = time.monotonic()
        if now - self._progress_at >= 0.5:
            self._progress_at = now
            text = json.dumps({"done": done, "total": total, "note": note, "time": time.time()})
            temporary = self.path / ".progress.tmp"
            temporary.write_text(text)
            os.replace(temporary, self.path / ".progress.json")

    # A state is a folder states/<step>/ with the stage's own files and, written last, state.json.

    @contextlib.contextmanager
    def save_state(self, step: int, extra: Mapping[str, Any]) -> Iterator[Path]:
        """A folder to save tensors in; committed with its manifest on leaving. The newest two are kept."""
        folder = self.path / STATES / f"{step:08d}"
        temporary = folder.with_name(f"{step:08d}.tmp-{uuid.uuid4().hex[:8]}")
        temporary.mkdir(parents=True)
        try:
            yield temporary
            files = manifest(temporary)
        except BaseException:  # a full disk must not fill up further with what was half saved
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        counters = {"step": step, "tokens": self.tokens, "flops": self.flops, "rows": self.rows}
        meta = counters | {"seconds": self.seconds(), "extra": dict(extra), "files": files}
        write_json(temporary / "state.json", meta)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one, where this attempt goes on from an earlier state
        os.rename(temporary, folder)
        fsync_path(folder.parent)
        for old in sorted(p for p in folder.parent.iterdir() if p.name.isdigit())[:-2]:
            shutil.rmtree(old)

    def again(self) -> None:
        """Let ``resume`` go on in this very attempt, from its own newest state or from the beginning."""
        if self.path not in self.earlier:
            self.earlier = [*self.earlier, self.path]
        self.tokens, self.flops, self.rows = 0, 0.0, 0

    def resume(
        self, valid: Callable[[Path, dict[str, Any]], bool] = lambda state, meta: True
    ) -> tuple[Path, dict[str, Any]] | None:
        """The newest undamaged state of an earlier attempt that is also ``valid``, with its metadata, or None.

        The metric rows written before it are copied from its attempt, and the counters restored.
        """
        for attempt in reversed(self.earlier):
            states = attempt / STATES
            if not states.is_dir():
                continue
            for folder in sorted((p for p in states.iterdir() if p.name.isdigit()), reverse=True):
                try:
                    meta = json.loads((folder / "state.json").read_text())
                except (OSError, ValueError):
                    continue
                if damaged_files(folder, meta["files"]) or not valid(folder, meta):
                    continue
                self.tokens, self.flops, self.rows = meta["tokens"], meta["flops"], meta["rows"]
                if attempt != self.path:
                    self.resumed_from_step, self.seconds_before = meta["step"], meta["seconds"]
                self._copy_metrics(attempt)
                return folder, meta
        self._metrics.unlink(missing_ok=True)  # of this attempt before ``again``: it begins once more
        return None

    def _copy_metrics(self, attempt: Path) -> None:
        source = attempt / "metrics.jsonl"
        if source.is_file():
            rows = list(read_jsonl(source))[: self.rows]
            self._metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
