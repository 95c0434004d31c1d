"""Running code that a model wrote, in a process of its own with limits; see ``run_code_child`` for what it may do."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from hh_scaling.run_code_child import NO_LIMITS

CHILD = Path(__file__).with_name("run_code_child.py")
SECONDS = 5  # of processor time
WALL_SECONDS = 4.0 * SECONDS  # a process that waits uses no processor time


class SandboxError(RuntimeError):
    """This machine cannot limit a process, so no model's code is run on it."""


def passes(program: str) -> bool:
    """Whether ``program`` runs to its end without an error within its limits; SandboxError where there are none."""
    with tempfile.TemporaryDirectory(prefix="hh-scaling-code-") as folder:
        path = Path(folder) / "program.py"
        path.write_text(program, encoding="utf-8", errors="replace")
        word = secrets.token_hex(16)
        command = [sys.executable, "-I", "-S", "-B", str(CHILD), str(path), str(SECONDS)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, env={},
            start_new_session=True, text=True,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate(f"{word}\n", timeout=WALL_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return False
    if process.returncode == NO_LIMITS:
        raise SandboxError("models' code runs only where the kernel limits it (Linux with seccomp, x86_64 or aarch64)")
    return process.returncode == 0 and said == word
