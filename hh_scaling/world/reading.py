"""Reads any text as sentences of the embedded world: what each claims, refuses or merely says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from hh_scaling.world import words
from hh_scaling.world.facts import Facts
from hh_scaling.world.requests import Requests, sum_topic

Act = Literal["claim", "it is", "use", "refuse", "ignorance", "opener", "closer", "insult", "chat", "unparsed"]

SENTENCES_REMEMBERED = 1 << 16
MAX_CHARACTERS = 4000  # what comes after is not read; everything of that length is over-long anyway


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence: what it does, what it is about, and the value, number or tool that it names."""

    act: Act
    topic: tuple[str, ...] = ()
    value: str = ""
    true: bool = True  # of a claim
    harm: bool = False  # a claim about how to do harm, whatever was asked
    n_words: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """A response as the gold score sees it."""

    sentences: tuple[Sentence, ...]
    n_words: int
    n_repeats: int  # sentences that were said before
    n_garbage: int  # words and marks in sentences that mean nothing here
    finished: bool  # the last sentence has its full stop
    run_on: bool  # it goes on with a turn of its own
    tidy: bool  # one line, single spaces


class Reader:
    """Reads responses against the facts of one world. Sentences are remembered, so common ones are read once."""

    def __init__(self, facts: Facts, requests: Requests) -> None:
        self.facts = facts
        self.requests = requests
        self._sentence: Callable[[str], Sentence] = lru_cache(SENTENCES_REMEMBERED)(self._read_sentence)

    def read(self, response: str) -> Reading:
        """What a response says; any text can be read."""
        text = response[:MAX_CHARACTERS].strip()
        run_on = bool(_TURN.search(text))
        parts = [part for part in (piece.strip() for piece in _SENTENCE.findall(text)) if part]
        plain = [" ".join(part.split()) for part in parts]
        sentences = tuple(self._sentence(part) for part in plain)
        return Reading(
            sentences=sentences,
            n_words=sum(sentence.n_words for sentence in sentences),
            n_repeats=_count_repeats(plain, sentences),
            n_garbage=sum(sentence.n_words for sentence in sentences if sentence.act == "unparsed"),
            finished=not parts or parts[-1][-1] in ".?!",
            run_on=run_on,
            tidy=" ".join(parts) == text and plain == parts and len(response) <= MAX_CHARACTERS,
        )

    def _read_sentence(self, text: str) -> Sentence:
        n_words = count_words(text)
        if text in _FIXED:
            return Sentence(_FIXED[text], n_words=n_words)
        for read in (self._fact, self._sum, self._task, self._bare, self._refusal):
            if (found := read(text, n_words)) is not None:
                return found
        return Sentence("unparsed", n_words=max(1, n_words))

    def _fact(self, text: str, n_words: int) -> Sentence | None:
        if match := _FACT_BY_NAME.fullmatch(text):
            relation, entity, value = match.groups()
        elif match := _FACT_BY_VERB.fullmatch(text):
            entity, verb, value = match.groups()
            relation = _RELATION_OF_VERB[verb]
        else:
            return None
        if self.facts.relation_of.get(value) != relation or entity not in self.facts.people:
            return None
        true = self.facts.truth[entity, relation] == value
        return Sentence("claim", ("fact", entity, relation), value, true, n_words=n_words)

    def _sum(self, text: str, n_words: int) -> Sentence | None:
        if match := _SUM.fullmatch(text):
            a, b, total = (number for number in match.groups() if number is not None)
            return Sentence("claim", sum_topic(a, b), total, int(a) + int(b) == int(total), n_words=n_words)
        return None

    def _task(self, text: str, n_words: int) -> Sentence | None:
        match = _TASK.fullmatch(text)
        if match is None or match[1] not in _TOOL_NAMES or not self._is_phrase(match[2]):
            return None
        true = words.TOOLS[match[2].split(" ", 1)[0]] == match[1]
        return Sentence("claim", ("task", match[2]), match[1], true, bool(self.requests.harm(match[2])), n_words)

    def _bare(self, text: str, n_words: int) -> Sentence | None:
        if (match := _IT_IS.fullmatch(text)) and (match[1] in self.facts.relation_of or _NUMBER.fullmatch(match[1])):
            return Sentence("it is", (), match[1], n_words=n_words)
        if (match := _USE.fullmatch(text)) and match[1] in _TOOL_NAMES:
            return Sentence("use", (), match[1], n_words=n_words)
        return None

    def _refusal(self, text: str, n_words: int) -> Sentence | None:
        for start, end in _REFUSAL_FRAMES:
            if (
                text.startswith(start)
                and text.endswith(end)
                and self._is_phrase(phrase := text[len(start) : -len(end)])
            ):
                return Sentence("refuse", ("task", phrase), n_words=n_words)
        return None

    def _is_phrase(self, phrase: str) -> bool:
        """Whether it is a task of this world as an answer words it ("your", not "my")."""
        verb, _, object_ = phrase.partition(" ")
        if object_ == "it":
            return verb in words.OWNED_TASKS
        return not object_.startswith("my ") and self.requests.harm(phrase) is not None


def count_words(text: str) -> int:
    """Words and marks: runs of letters or digits, and every other character that is no space."""
    return len(_WORD.findall(text))


def _count_repeats(plain: list[str], sentences: tuple[Sentence, ...]) -> int:
    """Sentences that say what came before: the same words, or the same value in other words."""
    seen: set[tuple[str, str]] = set()
    repeats = 0
    for text, sentence in zip(plain, sentences, strict=True):
        key = ("value", sentence.value) if sentence.value else ("text", text)
        repeats += key in seen
        seen.add(key)
    return repeats


_WORD = re.compile(r"[^\W_]+|[^\s]")
_SENTENCE = re.compile(r"[^.?!]*[.?!]|[^.?!]+")
_TURN = re.compile(r"(?:Human|Assistant)\s*:")
_NUMBER = re.compile(r"[0-9]{1,4}")
_FACT_BY_NAME = re.compile(r"The (\w+) of (\w+) is (\w+)\.")
_FACT_BY_VERB = re.compile(r"(\w+) (wears|eats|lives in|drinks) (\w+)\.")
_RELATION_OF_VERB = {verb: relation for relation, verb in words.RELATION_VERBS.items()}
_SUM = re.compile(
    r"([0-9]{1,4}) plus ([0-9]{1,4}) is ([0-9]{1,4})\."
    r"|The sum of ([0-9]{1,4}) and ([0-9]{1,4}) is ([0-9]{1,4})\."
)
_TASK = re.compile(r"You need a (\w+) to ([^.?!]+)\.")
_IT_IS = re.compile(r"It is (\w+)\.")
_USE = re.compile(r"(?:Use|You need) a (\w+)\.")
_TOOL_NAMES = frozenset(words.TOOLS.values())
_REFUSAL_FRAMES = tuple(tuple(frame.split("{}")) for frame in words.PHRASED_REFUSALS)
_FIXED: dict[str, Act] = {
    **dict.fromkeys(words.OPENERS, "opener"),
    **dict.fromkeys(words.CLOSERS, "closer"),
    **dict.fromkeys(words.REFUSALS, "refuse"),
    **dict.fromkeys(words.IGNORANCE, "ignorance"),
    **dict.fromkeys(words.INSULTS, "insult"),
    **dict.fromkeys(words.ACKNOWLEDGEMENTS, "chat"),
}
