"""Per-item scores by task, and the pairing of two models' items on the same documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.frames import labels

Floats = NDArray[np.float64]
Objects = NDArray[np.object_]
TaskKey = tuple[str, str, int, str]  # task, format, k_shot, metric
TASK_KEYS = ["task", "format", "k_shot", "metric"]
UNBOUNDED = ("bits_per_byte", "bits_per_word", "perplexity")


@dataclass(frozen=True)
class TaskItems:
    """One model's items on one task, ordered by document."""

    key: TaskKey
    document: Objects  # (n,) the document's hash; of a repeated document the second is hash#1
    cluster: Objects
    score: Floats
    weight: Floats
    chance: Floats  # nan where unknown
    higher_is_better: bool


@dataclass(frozen=True)
class Pair:
    """One run's items of one task before and after, on the same documents."""

    run: str
    key: TaskKey
    cluster: Objects
    weight: Floats
    chance: Floats
    before: Floats
    after: Floats
    higher_is_better: bool


@dataclass(frozen=True)
class Stack:
    """Several runs' pairs of one task, one below the other."""

    key: TaskKey
    run: Objects
    cluster: Objects
    weight: Floats
    chance: Floats
    before: Floats
    after: Floats
    higher_is_better: bool

    @cached_property
    def loss(self) -> Floats:
        """Quality lost per item: before - after where higher is better, after - before where lower is."""
        return (self.before - self.after) * (1.0 if self.higher_is_better else -1.0)

    @property
    def bounded(self) -> bool:
        return is_bounded(self.key[3], self.before, self.after)


def split_tasks(frame: pd.DataFrame) -> dict[TaskKey, TaskItems]:
    """An item table (columns of ``items.parquet``) by task key."""
    cluster, better = labels(frame["cluster"]), frame["higher_is_better"].to_numpy()
    numbers = {name: frame[name].to_numpy(float) for name in ("score", "weight", "chance")}
    documents = _numbered(frame)
    order = np.argsort(documents, kind="stable")
    found = {}
    groups: Any = frame.iloc[order].groupby(TASK_KEYS, sort=True).indices
    for key, rows in groups.items():
        at = order[rows]
        task = (str(key[0]), str(key[1]), int(key[2]), str(key[3]))
        found[task] = TaskItems(
            task, documents[at], cluster[at], numbers["score"][at], numbers["weight"][at],
            numbers["chance"][at], bool(better[at[0]]),
        )  # fmt: skip
    return found


def _numbered(frame: pd.DataFrame) -> Objects:
    """Document hashes, with ``#k`` appended to the k-th repetition of a document within its task."""
    documents = labels(frame.doc_hash.astype(str))
    if frame.duplicated([*TASK_KEYS, "doc_hash"]).any():
        repeat = frame.groupby([*TASK_KEYS, "doc_hash"]).cumcount().to_numpy()
        documents = np.array([f"{d}#{k}" if k else d for d, k in zip(documents, repeat, strict=True)], dtype=object)
    return documents


def pair_items(
    before: Mapping[TaskKey, TaskItems], after: Mapping[TaskKey, TaskItems], run: str, where: str
) -> tuple[dict[TaskKey, Pair], list[str]]:
    """The tasks both sides have, paired by document, and why others were refused.

    A task whose documents differ between the two is refused as a whole; one that only one side has is named too.
    """
    pairs, refused = {}, []
    for key in sorted({*before, *after}):
        name = f"{where}: {key[0]} ({key[1]}, {key[2]}-shot, {key[3]})"
        if key not in before or key not in after:
            refused.append(f"{name}: scored only {'after' if key not in before else 'before'}")
            continue
        one, two = before[key], after[key]
        if len(one.document) != len(two.document) or (one.document != two.document).any():
            refused.append(f"{name}: {_difference(one, two)}")
            continue
        pairs[key] = Pair(
            run, key, one.cluster, one.weight, one.chance, one.score, two.score, one.higher_is_better
        )  # fmt: skip
    return pairs, refused


def _difference(one: TaskItems, two: TaskItems) -> str:
    differing = sorted(set(one.document) ^ set(two.document))
    counts = f"{len(one.document)} before, {len(two.document)} after"
    return f"item sets differ ({counts}; {len(differing)} unpaired, first doc_hash {differing[0]})"


def stack(pairs: Sequence[Pair]) -> Stack:
    """Several runs' pairs of one task as one table."""
    columns = {
        name: np.concatenate([getattr(pair, name) for pair in pairs])
        for name in ("cluster", "weight", "chance", "before", "after")
    }
    run = np.repeat(np.array([pair.run for pair in pairs], dtype=object), [len(pair.before) for pair in pairs])
    return Stack(key=pairs[0].key, run=run, higher_is_better=pairs[0].higher_is_better, **columns)


def is_bounded(metric: str, *scores: Floats) -> bool:
    """Whether a score has a ceiling of 1, so that normalising by chance means something."""
    return metric not in UNBOUNDED and all(((s >= 0) & (s <= 1)).all() for s in scores)


def normaliser(chance: Floats, bounded: bool) -> Floats:
    """1 / (1 - chance) per item; 1 where the score is unbounded. An unknown chance counts as 0."""
    return 1 / (1 - np.nan_to_num(chance)) if bounded else np.ones_like(chance)
