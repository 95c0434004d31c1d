"""Whether there are as many comparisons as a study's preference models ask for: roughly before anything runs, from the
lines of the files, and exactly once the data stage has counted them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hh_scaling.comparisons import tranche_of
from hh_scaling.configs import InputFile, PMConfig, PMPConfig
from hh_scaling.inputs import DataError, numbered_lines
from sweeps.load import KeyPath
from sweeps.stage import Graph
from sweeps.study import PMSection
from sweeps.variants import largest_count

CLASSES = ("helpful", "harmless")  # what the names of tranches begin with
Found = Iterator[tuple[KeyPath, str]]


def by_class(n: int, share: float) -> tuple[int, int]:
    """The helpful and the harmless ones of n comparisons."""
    return round(share * n), n - round(share * n)


# ---------------------------------------------------------------- before anything runs


def rows_problems(pm: PMSection, files: Sequence[InputFile], where: Mapping[str, str]) -> Found:
    """Numbers of comparisons that are more than the rows of all files, or of all files of a class.

    No more lines are read than are wanted. What a half has is known only once the rows are split.
    """
    numbers = [n for n in pm.n_comparisons if n is not None]
    rows = n_lines(files, where, max(numbers, default=0))
    for i, n in enumerate(pm.n_comparisons):
        if n is not None and n > rows:
            yield ("pm", "n_comparisons", i), f"is {n} (allowed: at most half of the files' {rows} rows)"
    most = largest_count(pm)
    if most is None or most > rows:
        return
    for place, name in enumerate(CLASSES):
        wanted = [by_class(most, share)[place] for share in pm.helpful_share]
        own = [file for file in files if tranche_of(file.name).startswith(name)]
        if own and wanted and max(wanted) > (rows := n_lines(own, where, max(wanted))):
            i = wanted.index(max(wanted))
            text = f"is {pm.helpful_share[i]:g}, which needs {wanted[i]} {name} comparisons"
            yield ("pm", "helpful_share", i), f"{text} (allowed: at most half of the {rows} rows of their files)"


def n_lines(files: Sequence[InputFile], where: Mapping[str, str], enough: int) -> int:
    """Lines of the files together, counted no further than one more than ``enough``."""
    n = 0
    for file in files:
        try:
            n += sum(1 for _ in islice(numbered_lines(Path(where[file.name])), enough + 1 - n))
        except DataError:  # the data stage says what is wrong with it
            return enough
        if n > enough:
            break
    return n


# ---------------------------------------------------------------- once the data are there


def data_problems(graph: Graph, summary: Mapping[str, Any]) -> list[str]:
    """What the graph's preference models want that the data stage has not, a line for each key and half.

    ``summary`` is that of the data stage's record.
    """
    found: dict[tuple[str, str], tuple[int, int]] = {}  # key and what of -> the most that is wanted, what there is
    for stage in graph.values():
        for key, what, wanted, there in needs(stage.config, summary):
            if wanted > max(there, found.get((key, what), (0, 0))[0]):
                found[key, what] = wanted, there
    return [
        f"{key}: wants {wanted} {what} (allowed: at most {there}, as many as the data have)"
        for (key, what), (wanted, there) in found.items()
    ]


def needs(config: object, summary: Mapping[str, Any]) -> Iterator[tuple[str, str, int, int]]:
    """(key, of what, how many are wanted, how many there are) of a preference model's configuration."""
    votes = (summary.get("votes") or {}).get("n_kept", 0)
    if isinstance(config, PMPConfig) and config.n_comparisons is not None:
        yield "pmp.n_comparisons", "votes", config.n_comparisons, votes
    if not isinstance(config, PMConfig):
        return
    part, n = summary["splits"][config.half], config.n_comparisons
    half = f"of the {config.half} half"
    if n is not None and config.helpful_share is None:
        yield "pm.n_comparisons", f"comparisons {half}", n, part["n"]
    if n is not None and config.helpful_share is not None:
        for name, wanted in zip(CLASSES, by_class(n, config.helpful_share), strict=True):
            there = sum(count for tranche, count in part["tranches"].items() if tranche.startswith(name))
            yield "pm.helpful_share", f"{name} comparisons {half}", wanted, there
    if config.extra_share:
        yield "pm.extra_share", "votes", round(config.extra_share * (part["n"] if n is None else n)), votes
