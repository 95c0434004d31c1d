"""One stage in one process: run it in a fresh attempt, commit it, or record in one line why it failed."""

from __future__ import annotations

import datetime
import errno
import faulthandler
import functools
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

import hh_scaling
from hh_scaling.records import STATES, Record, RunStore, StageWriter, manifest, write_json
from hh_scaling.stages import StageContext, StageKind, StageResult

EXIT_FAILED = 1  # the attempt's record says why
EXIT_NO_SPACE = 28  # nothing could be written, not even the record
EXIT_ORPHANED = 3  # the launcher is gone
LIVE_FILE = ".worker.json"  # which process works in an attempt
LOG_FILE = "log.txt"  # what libraries print
NOT_KEPT = (LIVE_FILE, LOG_FILE, ".progress.json", ".progress.tmp")
DISTRIBUTIONS = ("torch", "transformers", "tokenizers", "datasets", "lm-eval", "numpy", "pandas", "pyarrow")


def work(job_text: str, root: str, launcher: tuple[int, float]) -> None:
    """Run the stage that ``job_text`` (``Stage.to_json``) describes under RUNS ``root``, then end the process.

    ``launcher`` is the pid and start time of the process that wants the result; when it is gone, so is this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the launcher ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()
    threading.Thread(target=watch, args=launcher, daemon=True).start()
    job = json.loads(job_text)
    os.environ["RAYON_NUM_THREADS"] = str(job["threads"])  # of the tokenizers library; read at its first use
    try:
        code = run_stage(job, RunStore(Path(root)))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        code = EXIT_NO_SPACE
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # libraries' exit handlers and threads have nothing left to do, and could hang


def watch(pid: int, create_time: float) -> None:
    """End this process when the launcher is no longer there; a new process with its pid does not count."""
    while is_alive(pid, create_time):
        time.sleep(0.5)
    os._exit(EXIT_ORPHANED)


def is_alive(pid: int, create_time: float) -> bool:
    """Whether the process that had ``pid`` at ``create_time`` still runs."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - create_time) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ---------------------------------------------------------------- one attempt


def run_stage(job: Mapping[str, Any], store: RunStore) -> int:
    """Make one attempt at the stage; 0 when it is committed, EXIT_FAILED when its record says why not."""
    stage_id = job["stage_id"]
    if store.adopt(stage_id):
        return 0
    earlier = store.attempt_paths(stage_id)
    attempt = store.new_attempt(stage_id)
    redirect_output(attempt / LOG_FILE)
    me = psutil.Process()
    live = {"pid": me.pid, "create_time": me.create_time(), "host": platform.node()}
    (attempt / LIVE_FILE).write_text(json.dumps(live))
    writer = StageWriter(attempt, earlier)
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()

    def record(status: Any, **more: Any) -> Record:
        measured = provenance(job, attempt, writer, started, time.monotonic() - clock)
        return Record(stage_id, job["kind"], status, job["config"], job["parents"], provenance=measured, **more)

    try:
        result = call_stage(job, store, writer)
        clean(attempt)
        files = manifest(attempt, skip=frozenset({STATES}))
        store.commit(attempt, record(result.status, summary=result.summary, files=files))
    except Exception as error:
        (attempt / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        write_json(attempt / "record.json", asdict(record("failed", error=one_line(error))))
        return EXIT_FAILED
    return 0


def redirect_output(path: Path) -> None:
    """Send standard output and error to a file: libraries print there what would disturb the launcher's display."""
    with open(path, "ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def call_stage(job: Mapping[str, Any], store: RunStore, writer: StageWriter) -> StageResult:
    """Build the stage's configuration and context, and run its entry point."""
    module, _, name = job["config_type"].partition(":")
    config_type = getattr(importlib.import_module(module), name)
    kind = StageKind(config_type, job["entry"], job["version"])
    parents = {role: store.stage_path(parent) for role, parent in job["parents"].items()}
    context = StageContext(parents=parents, out=writer, where=job["where"])
    result = kind.load()(config_type(**job["config"]), context)
    # What is not JSON is the stage's mistake, and is to be found while its failure can still be recorded.
    json.dumps(result.summary, allow_nan=False)
    return result


def clean(attempt: Path) -> None:
    """Remove what only a running stage needs: its progress, and who works here."""
    for name in NOT_KEPT:
        (attempt / name).unlink(missing_ok=True)


def one_line(error: BaseException) -> str:
    """The error's message as one line, with its type where the message does not speak for itself."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" at {error.filename}" if error.filename else ""
        return f"no space left on the device{where}; make room and run the same command again"
    text = " ".join(str(error).split())
    if "os error 28" in text:  # safetensors' own error for a full disk
        return "no space left on the device; make room and run the same command again"
    if isinstance(error, MemoryError):
        return f"out of memory; give the stage a smaller compute.micro_batch_tokens {text}".strip()
    # Our own errors are sentences for people; a foreign one needs its type ('KeyError: x').
    ours = type(error).__module__.split(".")[0] in ("hh_scaling", "sweeps")
    return text if ours and text else f"{type(error).__name__}: {text}".rstrip(": ")


def provenance(
    job: Mapping[str, Any], attempt: Path, writer: StageWriter, started: datetime.datetime, seconds: float
) -> dict[str, Any]:
    """What made the result: versions, time, counted work, peak memory, the attempt's number."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "versions": versions(),
        "stage_version": job["version"],
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(writer.seconds_before + seconds, 3),
        "tokens": writer.tokens,
        "flops": writer.flops,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "host": {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
        "host_threads": job["threads"],
        "attempt": int(attempt.name),
        "resumed_from_step": writer.resumed_from_step,
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of this package, Python, and the libraries that results depend on."""
    found = {"hh-scaling": hh_scaling.__version__, "python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
