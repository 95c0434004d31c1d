"""What a run shows while it goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from hh_scaling.records import RunStore
from sweeps.numbers import format_seconds
from sweeps.plan import Correction, longest_chain
from sweeps.runner import Display, Run
from sweeps.stage import Stage

LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal


def printable(text: str) -> str:
    """``text`` without control characters, which could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def stage_progress(store: RunStore, stage_id: str) -> tuple[float, str]:
    """How far a running stage says it is, from 0 to 1, and its note; (0, "") when it has said nothing yet."""
    attempts = store.attempt_paths(stage_id)
    try:
        told = json.loads((attempts[-1] / ".progress.json").read_text(encoding="utf-8"))
        return min(1.0, max(0.0, told["done"] / told["total"])), printable(str(told["note"]))
    except (OSError, ValueError, KeyError, IndexError, TypeError, ZeroDivisionError):
        return 0.0, ""


def eta_seconds(run: Run) -> float:
    """Seconds until the run ends: what is left by the estimates, corrected by what this run's stages took."""
    factor = Correction(run.graph, run.seconds, run.made)
    blocked = set(run.blocked()) | set(run.failed)
    left = {}
    for stage_id, stage in run.graph.items():
        if stage_id in run.done or stage_id in blocked:
            continue
        left[stage_id] = run.seconds.get(stage_id, 1.0) * factor(stage)
        if stage_id in run.running:
            left[stage_id] = running_left(run, stage_id, left[stage_id])
    work = sum(seconds * run.graph[i].threads for i, seconds in left.items())
    return max(work / run.threads, longest_chain(run.graph, left))


def running_left(run: Run, stage_id: str, estimate: float) -> float:
    """Seconds left of a running stage: from its own progress once that says something, else from the estimate."""
    elapsed = time.monotonic() - run.running[stage_id].since
    fraction, _ = stage_progress(run.store, stage_id)
    if fraction >= 0.05:
        return elapsed / fraction * (1 - fraction)
    return max(estimate - elapsed, 0.0)


def counts(run: Run) -> str:
    """``12 of 40 stages done, 2 running, 1 failed``."""
    text = f"{len(run.done)} of {len(run.graph)} stages done, {len(run.running)} running"
    if run.failed:
        text += f", {len(run.failed)} failed, {len(run.blocked())} cannot run"
    return text


class PlainDisplay:
    """A line when a stage starts and ends, and one of progress every half minute."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.last = time.monotonic()

    def line(self, text: str) -> None:
        """Print one line, without control characters."""
        print(printable(text), file=self.stream, flush=True)

    def started(self, stage: Stage) -> None:
        """A line that it has begun."""
        self.line(f"started {stage.stage_id}")

    def ended(self, stage: Stage, status: str, seconds: float, error: str | None) -> None:
        """A line with how it went."""
        self.line(f"{status} {stage.stage_id} after {format_seconds(seconds)}" + (f": {error}" if error else ""))
        self.last = time.monotonic()

    def tick(self, run: Run) -> None:
        """Progress, now and then."""
        if time.monotonic() - self.last < LINE_SECONDS:
            return
        self.last = time.monotonic()
        parts = [f"{i} {stage_progress(run.store, i)[0]:.0%}" for i in run.running]
        self.line(f"{counts(run)}, about {format_seconds(eta_seconds(run))} left; {', '.join(parts)}")

    def close(self) -> None:
        """Nothing to put back."""


class LiveDisplay:
    """A bar over all stages and one line for each that runs, redrawn in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(stderr=True)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.live.start()
        self.drawn = 0.0

    def started(self, stage: Stage) -> None:
        """The table shows it."""

    def ended(self, stage: Stage, status: str, seconds: float, error: str | None) -> None:
        """A line with how it went."""
        text = f"{status:8} {stage.stage_id}  {format_seconds(seconds)}" + (f"  {error}" if error else "")
        style = {"failed": "red", "diverged": "yellow"}.get(status, "green")
        self.console.print(printable(text), style=style, markup=False, highlight=False)

    def tick(self, run: Run) -> None:
        """Progress, now and then."""
        if time.monotonic() - self.drawn >= 0.5:
            self.drawn = time.monotonic()
            self.live.update(live_table(run))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.live.stop()


def live_table(run: Run) -> Any:
    """The rich table of a run: the whole in its first line, then each running stage."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    total = sum(run.seconds.values()) or 1.0
    done = sum(run.seconds.get(i, 0.0) for i in run.done)
    done += sum(run.seconds.get(i, 0.0) * stage_progress(run.store, i)[0] for i in run.running)
    table.add_row(Text("all", style="bold"), ProgressBar(total, done, width=30), Text(about_left(run)))
    for stage_id in run.running:
        fraction, note = stage_progress(run.store, stage_id)
        table.add_row(Text(stage_id), ProgressBar(1.0, fraction, width=30), Text(f"{fraction:4.0%} {note}"))
    return table


def about_left(run: Run) -> str:
    """The counts and the time left, for the first line."""
    return f"{counts(run)}, about {format_seconds(eta_seconds(run))} left"


class Shown:
    """The display for standard error, as a context: live on a terminal, lines elsewhere."""

    def __enter__(self) -> Display:
        self.display: PlainDisplay | LiveDisplay
        self.display = LiveDisplay() if sys.stderr.isatty() else PlainDisplay(sys.stderr)
        return self.display

    def __exit__(self, *error: object) -> None:
        self.display.close()


def wrap_ids(ids: list[str], limit: int = 5) -> Iterator[str]:
    """The first few ids, and how many more there are."""
    yield from ids[:limit]
    if len(ids) > limit:
        yield f"and {len(ids) - limit} more"
