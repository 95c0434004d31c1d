"""How long ``analyze`` takes and how much memory, on a study of faked stages in the format of real records.

``make RUNS --seeds 100`` writes one of ten sizes (a seed is about 100 stages), ``analyze RUNS`` times the analysis of
a folder. Run from the repository's root with ``PYTHONPATH=.`` and OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = tuple(int(v) for v in np.geomspace(12_000, 6_000_000, 10))


def make(runs: Path, seeds: int) -> None:
    """A study of ten sizes with this many seeds each."""
    from tests.fake_runs import Shape, make_runs  # tests come with their own requirements

    make_runs(runs, sizes=SIZES, seeds=tuple(range(seeds)), shape=Shape())


def analyze(runs: Path) -> None:
    """Print CPU and wall-clock seconds of ``analyze`` and the process's largest resident memory, imports included."""
    from analysis import results

    wall = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        found = results.analyze(runs, Path(out))
    wall, mebibytes = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    stages = found["study"]["n_finished"]
    print(f"{stages} stages: {time.process_time():.1f} s CPU, {wall:.1f} s wall-clock, {mebibytes:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    making = tasks.add_parser("make")
    making.add_argument("runs", type=Path)
    making.add_argument("--seeds", type=int, default=10)
    tasks.add_parser("analyze").add_argument("runs", type=Path)
    given = parser.parse_args()
    if given.task == "make":
        make(given.runs, given.seeds)
    else:
        analyze(given.runs)


if __name__ == "__main__":
    main()
