"""How long ``analyze``, fits and their intervals take: a generator of finished studies and a timer.

``make RUNS --seeds 100`` writes a study of faked stages (ten sizes; 1 seed is about 100 stages), ``analyze RUNS`` times
the whole analysis of a folder, ``fits`` one fit, one profile and 2,000 wild-bootstrap draws. Run from the repository's
root with ``PYTHONPATH=.`` and OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SIZES = tuple(int(v) for v in np.geomspace(12_000, 6_000_000, 10))
NOISE, ROUNDS = 0.01, 5


def make(runs: Path, seeds: int) -> None:
    """A study of ten sizes with this many seeds each, in the format of real records."""
    from tests.fake_runs import Shape, make_runs  # tests come with their own requirements

    make_runs(runs, sizes=SIZES, seeds=tuple(range(seeds)), shape=Shape())


def time_analyze(runs: Path) -> None:
    """CPU and wall-clock seconds of ``analyze`` and the process's largest resident memory, imports included."""
    from analysis.results import analyze

    wall = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        results = analyze(runs, Path(out))
    wall, mebibytes = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    stages = results["study"]["n_finished"]
    print(f"{stages} stages: {time.process_time():.1f} s CPU, {wall:.1f} s wall-clock, {mebibytes:.0f} MiB")


def median_seconds(call: Callable[[], Any]) -> float:
    """The median CPU time of a few calls after a first that is not counted."""
    call()
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return float(np.median(taken))


def time_fits() -> None:
    """Laws on points around them: a fit with Wald intervals, with a profile, and with 2,000 wild draws."""
    from analysis.fits import fit

    rng = np.random.default_rng(0)
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e4, 1e7, 10), np.geomspace(1e3, 1e6, 10)))
    one = 1 + 20 * n**-0.3 + rng.normal(0, NOISE, len(n))
    two = 1 + 20 * n**-0.3 + 15 * d**-0.4 + rng.normal(0, NOISE, len(n))
    for law, x, y in (("log-linear", n, one), ("power", n, one), ("additive", np.column_stack([n, d]), two)):
        call = partial(fit, law, x, y, repeats=True)
        taken = [median_seconds(partial(call, ci=ci)) for ci in ("wald", "profile", "bootstrap")]
        fitted, profiled, drawn = (f"{1000 * t:.0f} ms" for t in taken)
        print(f"{law}, {len(y)} points: fit {fitted}, with profile {profiled}, with 2,000 wild draws {drawn}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    making = tasks.add_parser("make")
    making.add_argument("runs", type=Path)
    making.add_argument("--seeds", type=int, default=10)
    tasks.add_parser("analyze").add_argument("runs", type=Path)
    tasks.add_parser("fits")
    given = parser.parse_args()
    if given.task == "make":
        make(given.runs, given.seeds)
    elif given.task == "analyze":
        time_analyze(given.runs)
    else:
        time_fits()


if __name__ == "__main__":
    main()
