"""Per-item scores by task, and the pairing of two models' items on the same documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.answers import confidences
from analysis.crossed import replicates
from analysis.estimates import Codes, codes
from analysis.frames import labels

Floats = NDArray[np.float64]
Objects = NDArray[np.object_]
TaskKey = tuple[str, str, int, str]  # task, format, k_shot, metric
TASK_KEYS = ["task", "format", "k_shot", "metric"]
K_SHOT: Final = 2  # their places
METRIC: Final = 3
LAID_OUT = [*TASK_KEYS, "higher_is_better", "doc_hash", "prompt_hash", "cluster"]
MOST_LAYOUTS = 8  # that a table is compared with, the latest
PROMPTS_DIFFER = "(a chat template or other examples on one side?); --allow-different-prompts compares them"
UNBOUNDED = ("bits_per_byte", "bits_per_word", "perplexity", "bias")


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
    confidence: Floats | None = None  # (n,) probability of the chosen answer among the choices; nan where unknown
    prompt: Objects | None = None  # (n,) the prompt's hash


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
    weight_after: Floats | None = None  # where an item's weight depends on its answer
    confidence: tuple[Floats, Floats] | None = None  # before and after, where all items have one


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
    confidence: tuple[Floats, Floats] | None = None  # before and after, where all runs have them

    @cached_property
    def item(self) -> Codes:
        """Clusters as integers."""
        return codes(self.cluster)

    @cached_property
    def which(self) -> Codes:
        """Runs as integers."""
        return codes(self.run)

    @cached_property
    def replicate(self) -> Codes:
        """What replicates (a run, or its base) as integers."""
        return replicates(self.run)

    @property
    def n_items(self) -> int:
        """Of the run with the most."""
        return int(np.bincount(self.which).max())

    @cached_property
    def loss(self) -> Floats:
        """Quality lost per item: before - after where higher is better, after - before where lower is."""
        return (self.before - self.after) * (1.0 if self.higher_is_better else -1.0)

    @property
    def bounded(self) -> bool:
        return is_bounded(self.key[3], self.before, self.after)


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task in an item table, ordered by document, and what they say of the items."""

    key: TaskKey
    at: NDArray[np.intp]
    document: Objects
    cluster: Objects
    prompt: Objects
    higher_is_better: bool


@dataclass(frozen=True)
class Layout:
    """Which items a table has, by task; the tables of models that answered the same items share it."""

    labels: pd.DataFrame
    tasks: list[TaskRows]

    @classmethod
    def of(cls, table: pd.DataFrame) -> Layout:
        """That of a table with the columns LAID_OUT."""
        cluster, better = labels(table["cluster"]), table["higher_is_better"].to_numpy()
        documents, prompts = _numbered(table), table.prompt_hash.astype(str).to_numpy(object)
        order = np.argsort(documents, kind="stable")
        groups: Any = table.iloc[order].groupby(TASK_KEYS, sort=True).indices
        tasks = []
        for (task, form, k_shot, metric), rows in groups.items():
            key, at = (str(task), str(form), int(k_shot), str(metric)), order[rows]
            tasks.append(TaskRows(key, at, documents[at], cluster[at], prompts[at], bool(better[at[0]])))
        return cls(table, tasks)


def task_name(key: TaskKey) -> str:
    """A task in words: ``arc_easy (cloze, 0-shot, acc)``."""
    return f"{key[0]} ({key[1]}, {key[2]}-shot, {key[3]})"


def split_tasks(frame: pd.DataFrame, layouts: list[Layout] | None = None) -> dict[TaskKey, TaskItems]:
    """An item table (columns of ``items.parquet``) by task key. ``layouts`` are those of other tables, one of which it
    may share; its own is added where it does not."""
    known, table = [] if layouts is None else layouts, frame[LAID_OUT]
    layout = next((one for one in known[-MOST_LAYOUTS:] if one.labels.equals(table)), None)
    if layout is None:
        layout = Layout.of(table)
        known.append(layout)
    score, weight, chance = (frame[name].to_numpy(float) for name in ("score", "weight", "chance"))
    confidence = confidences(frame.loglikelihoods) if "loglikelihoods" in frame.columns else None
    return {
        task.key: TaskItems(
            task.key, task.document, task.cluster, score[task.at], weight[task.at], chance[task.at],
            task.higher_is_better, None if confidence is None else confidence[task.at], task.prompt,
        )
        for task in layout.tasks
    }  # fmt: skip


def _numbered(frame: pd.DataFrame) -> Objects:
    """Document hashes, with ``#k`` appended to the k-th repetition of a document within its task."""
    documents = labels(frame.doc_hash.astype(str))
    if frame.duplicated([*TASK_KEYS, "doc_hash"]).any():
        repeat = frame.groupby([*TASK_KEYS, "doc_hash"]).cumcount().to_numpy()
        documents = np.array([f"{d}#{k}" if k else d for d, k in zip(documents, repeat, strict=True)], dtype=object)
    return documents


def pair_items(
    before: Mapping[TaskKey, TaskItems],
    after: Mapping[TaskKey, TaskItems],
    run: str,
    where: str,
    allow_prompts: bool = False,
) -> tuple[dict[TaskKey, Pair], list[str]]:
    """The tasks both sides have, paired by document, and why others were refused.

    A task whose documents differ between the two is refused as a whole, and so is one whose prompts differ (a chat
    template or other examples on one side), unless ``allow_prompts``; one that only one side has is named too.
    """
    pairs, refused = {}, []
    for key in sorted({*before, *after}):
        name = f"{where}: {task_name(key)}"
        if key not in before or key not in after:
            refused.append(f"{name}: scored only {'after' if key not in before else 'before'}")
            continue
        one, two = before[key], after[key]
        if len(one.document) != len(two.document) or (one.document != two.document).any():
            refused.append(f"{name}: {_difference(one, two)}")
            continue
        differ = n_other_prompts(one, two)
        if differ and not allow_prompts:
            refused.append(f"{name}: prompts differ on {differ} of {len(one.document)} items {PROMPTS_DIFFER}")
            continue
        pairs[key] = Pair(
            run, key, one.cluster, one.weight, one.chance, one.score, two.score, one.higher_is_better, two.weight,
            _confidences(one, two),
        )  # fmt: skip
    return pairs, refused


def n_other_prompts(one: TaskItems, two: TaskItems) -> int:
    """Of items that are the same, those whose prompts are not; 0 where a side does not say."""
    if one.prompt is None or two.prompt is None:
        return 0
    return int((one.prompt != two.prompt).sum())


def _confidences(one: TaskItems, two: TaskItems) -> tuple[Floats, Floats] | None:
    """Those of both sides where every item has one and is right or wrong; else None."""
    if one.confidence is None or two.confidence is None or not one.key[3].startswith("acc"):
        return None
    known = np.isfinite(one.confidence).all() and np.isfinite(two.confidence).all()
    return (one.confidence, two.confidence) if known else None


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
    known = [pair.confidence for pair in pairs if pair.confidence is not None]
    both = (np.concatenate([b for b, _ in known]), np.concatenate([a for _, a in known])) if known else None
    return Stack(
        key=pairs[0].key, run=run, higher_is_better=pairs[0].higher_is_better,
        confidence=both if len(known) == len(pairs) else None, **columns,
    )  # fmt: skip


def is_bounded(metric: str, *scores: Floats) -> bool:
    """Whether a score has a ceiling of 1, so that normalising by chance means something."""
    return metric not in UNBOUNDED and all(((s >= 0) & (s <= 1)).all() for s in scores)


def normaliser(chance: Floats, bounded: bool) -> Floats:
    """1 / (1 - chance) per item; 1 where the score is unbounded. An unknown chance counts as 0."""
    return 1 / (1 - np.nan_to_num(chance)) if bounded else np.ones_like(chance)
