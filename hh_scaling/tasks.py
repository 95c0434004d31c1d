"""The project's own benchmark tasks: what each asks, of which file, in which format.

A task reads rows of one file into documents; ``hh_scaling.harness`` hands these to lm-eval. Importing this loads
neither torch nor lm-eval. Formats: *cloze* (the answers themselves are scored as continuations), *choice* (the answers
are listed with letters first, as in appendix E of Bai et al. 2022), *generate* (a word has to be produced), *loss*.
"""

from __future__ import annotations

import difflib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hh_scaling.configs import InputFile
from hh_scaling.inputs import DataError, locate, numbered_objects, plain_name

Doc = dict[str, Any]
Format = Literal["cloze", "choice", "generate", "loss"]
Shape = Literal["choices", "contexts", "word", "text"]
LETTERS = "ABCDEFGHIJ"
WINDOW = 1000  # characters of held-out text in one item


class TaskError(DataError):
    """A task that cannot be asked; the message is one line."""


@dataclass(frozen=True)
class Row:
    """One row of a task's file, and where it is; its methods raise DataError with the place."""

    values: Mapping[str, Any]
    at: str

    def get(self, key: str, kind: type, what: str) -> Any:
        """The value of ``key``, of type ``kind``, which errors call ``what``."""
        if key not in self.values:
            has = ", ".join(sorted(self.values)) or "nothing"
            raise DataError(f"{self.at}: no key {key!r} (the row has {has}); expected {what}")
        value = self.values[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise DataError(f"{self.at}: {key!r} is {value!r:.60}; expected {what}")
        return value

    def text(self, key: str) -> str:
        return str(self.get(key, str, "text"))

    def texts(self, key: str) -> list[str]:
        """A list of at least two texts."""
        values: list[Any] = self.get(key, list, "a list of texts")
        if len(values) < 2 or not all(isinstance(value, str) and value for value in values):
            raise DataError(f"{self.at}: {key!r} is {values!r:.60}; expected at least two texts, none empty")
        return values

    def index(self, key: str, n: int) -> int:
        """An index below ``n``."""
        value: int = self.get(key, int, f"a number from 0 to {n - 1}")
        return self.among(key, value, list(range(n)))

    def among(self, key: str, value: Any, allowed: Sequence[Any]) -> int:
        """The place of ``value``, which is that of ``key``, among ``allowed``."""
        if value not in allowed:
            raise DataError(f"{self.at}: {key!r} is {value!r:.60}; expected one of {', '.join(map(repr, allowed))}")
        return allowed.index(value)


@dataclass(frozen=True)
class OwnTask:
    """A task over one file of the data stage (``world_*``, ``bits_per_byte``) or of the user (``local_*``).

    ``shape`` of its documents, besides ``cluster``: choices (query, choices, gold), contexts (choices that all continue
    with ``target``, gold), word (query, target) or text (text). ``cluster`` None: every document is one of its own.
    """

    name: str
    file: str
    format: Format
    read: Callable[[Row], Iterable[Doc]]
    shape: Shape = "choices"
    few_shot: bool = True  # whether worked examples before an item make sense

    @property
    def is_local(self) -> bool:
        return self.name.startswith("local_")


# ---------------------------------------------------------------- rows to documents


def cloze(query: str, choices: Sequence[str], gold: int, cluster: str | None = None) -> list[Doc]:
    """A document whose answers are scored as they stand."""
    return [{"query": query, "choices": [f" {choice}" for choice in choices], "gold": gold, "cluster": cluster}]


def choice(
    question: str, choices: Sequence[str], gold: int, cluster: str | None = None, letter_only: bool = False
) -> list[Doc]:
    """A document that lists its answers, ``(A)`` and so on; the letter with its answer, or alone, is scored."""
    lettered = [f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False)]
    query = "\n".join([question, "Choices:", *(f" {line}" for line in lettered), "Answer:"])
    return cloze(query, [line[:3] for line in lettered] if letter_only else lettered, gold, cluster)


def _world(row: Row) -> list[Doc]:
    choices = row.texts("choices")
    gold = row.index("gold", len(choices))
    return [{"query": row.text("query"), "choices": choices, "gold": gold, "cluster": row.text("cluster")}]


def _arc(row: Row) -> list[Doc]:
    choices = row.texts("choices")
    return cloze(row.text("query") + "\nAnswer:", choices, row.index("gold", len(choices)))


def _arc_choice(row: Row) -> list[Doc]:
    choices = row.texts("choices")
    return choice(row.text("query"), choices, row.index("gold", len(choices)))


def _mmlu(row: Row) -> list[Doc]:
    choices = row.texts("choices")
    query = f"Question: {row.text('question')}\nAnswer:"
    return cloze(query, choices, row.index("answer", len(choices)), row.text("subject"))


def _mmlu_choice(row: Row) -> list[Doc]:
    choices = row.texts("choices")
    question = f"Question: {row.text('question')}"
    return choice(question, choices, row.index("answer", len(choices)), row.text("subject"))


def _openbookqa_parts(row: Row) -> tuple[str, list[str], int]:
    listed = Row(row.get("choices", dict, "an object with text and label"), row.at)
    key = row.text("answerKey").strip()
    return row.text("question_stem"), listed.texts("text"), row.among("answerKey", key, listed.texts("label"))


def _openbookqa(row: Row) -> list[Doc]:
    return cloze(*_openbookqa_parts(row))


def _openbookqa_choice(row: Row) -> list[Doc]:
    stem, choices, gold = _openbookqa_parts(row)
    return choice(f"Question: {stem}", choices, gold, letter_only=True)


def _hellaswag(row: Row) -> list[Doc]:
    """Prompt and endings as lm-eval's task has them: WikiHow's marks in square brackets are taken out."""

    def tidy(text: str) -> str:
        return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")

    endings, label = row.texts("endings"), str(row.get("label", object, "the right ending's number"))
    gold = row.among("label", label, [str(i) for i in range(len(endings))])
    context = f"{row.text('activity_label')}: {row.text('ctx_a')} {row.text('ctx_b').capitalize()}"
    return cloze(tidy(context), [tidy(ending) for ending in endings], gold, row.text("activity_label"))


def _piqa(row: Row) -> list[Doc]:
    query = f"Question: {row.text('goal')}\nAnswer:"
    return cloze(query, [row.text("sol1"), row.text("sol2")], row.index("label", 2))


def _boolq(row: Row) -> list[Doc]:
    query = f"{row.text('passage')}\nQuestion: {row.text('question')}?\nAnswer:"
    return cloze(query, ["no", "yes"], int(row.get("answer", bool, "true or false")))


def _winogrande(row: Row) -> list[Doc]:
    """Partial evaluation (Trinh and Le 2018): the rest of the sentence is scored after each filled-in beginning."""
    before, blank, after = row.text("sentence").partition("_")
    if not blank:
        raise DataError(f"{row.at}: 'sentence' has no blank; expected one _ where an option goes")
    contexts = [before + row.text("option1"), before + row.text("option2")]
    gold = row.among("answer", row.text("answer"), ["1", "2"])
    return [{"choices": contexts, "target": f" {after.strip()}", "gold": gold, "cluster": None}]


def _blimp(row: Row) -> list[Doc]:
    """A minimal pair as two whole sentences; every other right one comes second, so that ties score one half."""
    good, bad = row.text("sentence_good"), row.text("sentence_bad")
    second = int(row.at.rpartition(":")[2]) % 2
    return [
        {"query": "", "choices": [bad, good] if second else [good, bad], "gold": second, "cluster": row.text("UID")}
    ]


def _lambada(row: Row) -> list[Doc]:
    context, space, word = row.text("text").rpartition(" ")
    if not space or not word:
        raise DataError(f"{row.at}: 'text' has no last word after a space; expected at least two words")
    return [{"query": context, "target": f" {word}", "cluster": None}]


def _text(row: Row) -> Iterator[Doc]:
    """Windows of at most WINDOW characters, cut before a space where there is one; one after another the text."""
    text, start = row.text("text"), 0
    while start < len(text):
        end = len(text) if len(text) - start <= WINDOW else text.rfind(" ", start + 1, start + WINDOW + 1)
        end = end if end > start else start + WINDOW
        if text[start:end].strip():
            yield {"text": text[start:end], "cluster": row.at.rpartition(":")[2]}
        start = end


def _all_tasks() -> Iterator[OwnTask]:
    for name in ("world_facts", "world_arithmetic", "world_agreement", "world_last_word"):
        yield OwnTask(name, f"tasks/{name}.jsonl", "cloze", _world)
    yield OwnTask("world_facts_choice", "tasks/world_facts_choice.jsonl", "choice", _world)
    yield OwnTask("bits_per_byte", "text/held_out.jsonl", "loss", _text, "text", few_shot=False)
    for name in ("arc_easy", "arc_challenge"):
        yield OwnTask(f"local_{name}", f"{name}.jsonl", "cloze", _arc)
        yield OwnTask(f"local_{name}_choice", f"{name}.jsonl", "choice", _arc_choice)
    yield OwnTask("local_mmlu", "mmlu_test.jsonl", "cloze", _mmlu)
    yield OwnTask("local_mmlu_choice", "mmlu_test.jsonl", "choice", _mmlu_choice)
    yield OwnTask("local_openbookqa", "openbookqa.jsonl", "cloze", _openbookqa)
    yield OwnTask("local_openbookqa_choice", "openbookqa.jsonl", "choice", _openbookqa_choice)
    yield OwnTask("local_hellaswag", "hellaswag.jsonl", "cloze", _hellaswag)
    yield OwnTask("local_piqa", "piqa.jsonl", "cloze", _piqa)
    yield OwnTask("local_boolq", "boolq.jsonl", "cloze", _boolq)
    yield OwnTask("local_winogrande", "winogrande.jsonl", "cloze", _winogrande, "contexts")
    yield OwnTask("local_blimp", "blimp.jsonl", "cloze", _blimp, few_shot=False)
    yield OwnTask("local_lambada", "lambada.jsonl", "generate", _lambada, "word")


OWN_TASKS: dict[str, OwnTask] = {task.name: task for task in _all_tasks()}


# ---------------------------------------------------------------- finding and reading


def own_task(name: str) -> OwnTask | None:
    """The project's task of that name; None for a name that lm-eval may know.

    TaskError for a misspelt one of ours: names that start with ``local_`` or ``world_`` are never looked up elsewhere.
    """
    if name not in OWN_TASKS and name.startswith(("local_", "world_")):
        raise unknown_task(name, OWN_TASKS)
    return OWN_TASKS.get(name)


def unknown_task(name: str, known: Iterable[str]) -> TaskError:
    """The error that names the nearest of the ``known`` names."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    nearest = f"; nearest: {close[0]}" if close else ""
    return TaskError(f"unknown task {name!r}{nearest} (allowed: {', '.join(OWN_TASKS)}, or a task of lm-eval)")


def needed_files(names: Iterable[str]) -> set[str]:
    """The local files, without compression suffix, that the named tasks read."""
    return {task.file for name in names if (task := OWN_TASKS.get(name)) and task.is_local}


def read_documents(task: OwnTask, files: Sequence[InputFile], where: Mapping[str, str], data_stage: Path) -> list[Doc]:
    """All of the task's documents, in its file's order; DataError names the file and line of a row it cannot use."""
    path = _local_path(task, files, where) if task.is_local else data_stage / task.file
    if not path.is_file() or (not task.is_local and path.stat().st_size == 0):
        need = "held-out text" if task.shape == "text" else "the embedded world"
        raise TaskError(f"task {task.name}: the study's data have no {task.file}; expected {need}")
    docs = [doc for at, values in numbered_objects(path) for doc in task.read(Row(values, at))]
    if not docs:
        raise TaskError(f"{path}: no items for task {task.name}; expected at least one")
    for i, doc in enumerate(docs):
        doc["cluster"] = doc["cluster"] or f"item {i}"
    return docs


def _local_path(task: OwnTask, files: Sequence[InputFile], where: Mapping[str, str]) -> Path:
    wanted = [file for file in files if plain_name(Path(file.name).name) == task.file]
    if not wanted:
        has = ", ".join(sorted(file.name for file in files)) or "no files"
        raise TaskError(f"task {task.name}: no {task.file} among benchmarks.path ({has}); plain, .gz or .xz will do")
    return locate(wanted[:1], where)[0][1]


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
