"""How long a fit, its profile and its bootstrap take on one core: CPU seconds, so that a shared machine does not count.

``OMP_NUM_THREADS=1 python benchmarks/fits.py`` prints the median of 5 and the goal of each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from analysis.fits import fit

SIZES = np.geomspace(1e4, 1e7, 7)
X = np.repeat(SIZES, 3)
GRID = np.array([(n, d) for n in SIZES for d in (500.0, 2000.0, 8000.0, 32000.0)])
LONG = np.geomspace(1e2, 1e9, 30)
RNG = np.random.default_rng(0)
POWER = 1.5 + 40 * X**-0.3 + RNG.normal(0, 0.02, len(X))
ACCURACY = 0.5 + 0.3 / (1 + 30 * X**-0.35) + RNG.normal(0, 0.005, len(X))
ADDITIVE = 1.7 + 480 * GRID[:, 0] ** -0.35 + 2000 * GRID[:, 1] ** -0.5 + RNG.normal(0, 0.02, len(GRID))
BROKEN = 0.2 + 3 * LONG**-0.1 * (1 + (LONG / 3e5) ** (1 / 0.3)) ** (-0.4 * 0.3) + RNG.normal(0, 0.003, len(LONG))

WORK: dict[str, tuple[float, Callable[[], object]]] = {
    "fit, power (3 parameters)": (0.05, lambda: fit("power", X, POWER, ci="wald")),
    "fit, pm-accuracy (3)": (0.05, lambda: fit("pm-accuracy", X, ACCURACY, ci="wald")),
    "fit, additive (5)": (0.05, lambda: fit("additive", GRID, ADDITIVE, ci="wald")),
    "fit, broken (6)": (0.05, lambda: fit("broken", LONG, BROKEN, ci="wald")),
    "fit and profile, power (3)": (0.3, lambda: fit("power", X, POWER)),
    "fit and profile, additive (5)": (0.3, lambda: fit("additive", GRID, ADDITIVE)),
    "fit and profile, broken (6)": (0.3, lambda: fit("broken", LONG, BROKEN)),
    "2,000 wild draws, power (3)": (3.0, lambda: fit("power", X, POWER, cluster=X, draws=2000)),
    "2,000 wild draws, pm-accuracy (3)": (3.0, lambda: fit("pm-accuracy", X, ACCURACY, cluster=X, draws=2000)),
    "hoffmann with 500 draws, power (3)": (3.0, lambda: fit("power", X, POWER, loss="hoffmann")),
}


def seconds(work: Callable[[], object], times: int = 5) -> float:
    """The median CPU time of a call, after one that is not counted."""
    work()
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return statistics.median(found)


def main() -> None:
    for name, (goal, work) in WORK.items():
        taken = seconds(work)
        print(f"{name:<36} {1e3 * taken:8.1f} ms   goal {1e3 * goal:6.0f} ms   {'ok' if taken <= goal else 'SLOWER'}")


if __name__ == "__main__":
    main()
