"""Code of models: what passes, and everything that a program must not be able to do."""

from __future__ import annotations

import platform
import socket
import sys
from pathlib import Path

import pytest

from hh_scaling import run_code
from hh_scaling.run_code import SandboxError, passes

needs_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="seccomp is Linux's"
)


@needs_linux
@pytest.mark.parametrize(
    ("program", "passed"),
    [
        ("def f(x):\n    return x + 1\nassert f(1) == 2\n", True),
        ("import math, re, collections, itertools, heapq, json\nprint('x' * 10**6)\n", True),
        ("assert 1 == 2\n", False),
        ("def f(:\n", False),
        ("import sys\nsys.exit(0)\nassert False\n", False),  # leaving before the tests is not passing
        ("import os\nos._exit(0)\n", False),
        ("import sys\nassert len(sys.argv) == 1\n", True),
        ("while True:\n    pass\n", False),
        ("x = bytearray(4 << 30)\n", False),
    ],
    ids=["right", "modules", "wrong", "no-syntax", "exit", "hard-exit", "arguments", "endless", "memory"],
)
def test_a_program_passes_if_it_ends_without_an_error(
    program: str, passed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_code, "SECONDS", 1)
    assert passes(program) is passed


@needs_linux
def test_a_program_that_waits_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_code, "WALL_SECONDS", 1.0)
    assert not passes("import time\ntime.sleep(60)\n")


@needs_linux
def test_the_network_and_other_processes_are_out_of_reach() -> None:
    """The same connection succeeds from here."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        for attempt in (
            f"import socket\nsocket.create_connection(('127.0.0.1', {port}))",
            "import socket\nsocket.socket(socket.AF_UNIX)",
            "import os\nos.fork()",
            "import subprocess\nsubprocess.run(['true'])",
            "import os, signal\nos.kill(os.getppid(), 0)",
            "import os\nos.execv('/bin/true', ['true'])",
        ):
            lines = attempt.replace("\n", "\n    ")
            program = f"try:\n    {lines}\nexcept PermissionError:\n    pass\nelse:\n    raise SystemExit\n"
            assert passes(program), attempt


@needs_linux
def test_no_file_can_be_made_changed_or_removed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    for attempt in (
        f"open({str(kept)!r}, 'w')", f"open({str(kept)!r}, 'a')", f"open({str(kept)!r}, 'r+')",
        f"open({str(tmp_path / 'new')!r}, 'x')", "open('here', 'w')", f"os.remove({str(kept)!r})",
        f"os.rename({str(kept)!r}, {str(tmp_path / 'other')!r})", f"os.truncate({str(kept)!r}, 0)",
        f"os.chmod({str(kept)!r}, 0)", f"os.mkdir({str(tmp_path / 'folder')!r})",
        f"os.symlink({str(kept)!r}, {str(tmp_path / 'link')!r})", f"os.utime({str(kept)!r}, (0, 0))",
    ):  # fmt: skip
        program = f"import os\ntry:\n    {attempt}\nexcept PermissionError:\n    pass\nelse:\n    raise SystemExit\n"
        assert passes(program), attempt
    assert kept.read_text() == "as it was" and list(tmp_path.iterdir()) == [kept]
    assert passes(f"assert open({str(kept)!r}).read() == 'as it was'\n")  # reading is what is left


def test_without_a_limit_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text(f"import os\nos._exit({run_code.NO_LIMITS})\n")
    monkeypatch.setattr(run_code, "CHILD", child)
    with pytest.raises(SandboxError, match="runs only where the kernel limits it"):
        passes("pass\n")
