"""The facts of the embedded world: invented people, and one value for each of them in each relation."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from hh_scaling.configs import WorldConfig
from hh_scaling.world import words

T = TypeVar("T")

N_CORE = 24  # people that dialogues are about: few enough that a preference model can learn to check their facts
ZIPF_TEXT = 1.1  # exponent of the exposure of people in text, by rank
ZIPF_DIALOGUES = 0.8  # of the core in dialogues: the first is asked about often, the last rarely
MIN_ENTITIES = 8
MIN_VALUES = 8  # the cloze items offer this many

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
UNWANTED = frozenset(("dago", "kike", "nazi", "pedo", "peni", "puta", "rape", "sure"))  # no names


class Dice(random.Random):
    """A named stream of random numbers: equal names give equal streams on every machine (sha512 of the name)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.random() * len(options))]

    def rank(self, cumulative: Sequence[float]) -> int:
        """An index with probability proportional to the steps of ``cumulative``."""
        return bisect.bisect(cumulative, self.random() * cumulative[-1], 0, len(cumulative) - 1)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability


def cumulative_zipf(n: int, exponent: float) -> list[float]:
    """The running sums of 1 / rank ** exponent over n ranks."""
    return list(itertools.accumulate((rank + 1) ** -exponent for rank in range(n)))


class Facts:
    """Who there is, ordered by how often text speaks of them, and what is true of them.

    ``values[relation]`` lists what a relation can be; ``truth[entity, relation]`` is what it is. Every block of as many
    people as there are values has each value once, so that no value is more likely than another.
    """

    def __init__(self, config: WorldConfig) -> None:
        _check(config)
        dice = Dice(f"world/{config.seed}/facts")
        known = {word for values in words.VALUES.values() for word in values}
        self.entities = tuple(_new_words(dice, config.n_entities, known, capital=True))
        self.people = frozenset(self.entities)
        self.core = self.entities[:N_CORE]
        self.values = {relation: _values(dice, relation, config.n_values, known) for relation in words.RELATIONS}
        self.truth = {
            (entity, relation): value
            for relation in words.RELATIONS
            for entity, value in zip(self.entities, _balanced(dice, self.values[relation]), strict=False)
        }
        self.relation_of = {value: relation for relation, values in self.values.items() for value in values}
        self._in_text = cumulative_zipf(len(self.entities), ZIPF_TEXT)
        self._in_dialogues = cumulative_zipf(len(self.core), ZIPF_DIALOGUES)

    def entity(self, dice: Dice) -> str:
        """Somebody, as often as text speaks of them."""
        return self.entities[dice.rank(self._in_text)]

    def core_entity(self, dice: Dice) -> str:
        """Somebody of the core, as often as dialogues speak of them."""
        return self.core[dice.rank(self._in_dialogues)]

    def other_value(self, dice: Dice, entity: str, relation: str) -> str:
        """A value that is not true of the entity, all equally likely."""
        options, true = self.values[relation], self.truth[entity, relation]
        return options[(options.index(true) + 1 + int(dice.random() * (len(options) - 1))) % len(options)]


def statement(entity: str, relation: str, value: str, form: int) -> str:
    """The sentence that says a fact, in one of two forms, without its full stop."""
    return f"{statement_start(entity, relation, form)} {value}"


def statement_start(entity: str, relation: str, form: int) -> str:
    """A statement up to its value."""
    if form == 0:
        return f"The {relation} of {entity} is"
    return f"{entity} {words.RELATION_VERBS[relation]}"


def _check(config: WorldConfig) -> None:
    for name, value, least in (
        ("n_entities", config.n_entities, MIN_ENTITIES),
        ("n_values", config.n_values, MIN_VALUES),
    ):
        if value < least:
            raise ValueError(f"world.{name}: {value} is too few; at least {least} are needed")


def _values(dice: Dice, relation: str, n: int, known: set[str]) -> tuple[str, ...]:
    """The first n values of a relation, in an order of the seed's; invented ones when the list is too short."""
    listed = list(words.VALUES[relation][:n])
    listed += _new_words(dice, n - len(listed), known, capital=relation == "home")
    dice.shuffle(listed)
    return tuple(listed)


def _balanced(dice: Dice, values: Sequence[str]) -> Iterator[str]:
    """Endless values in shuffled blocks that hold each once."""
    while True:
        yield from dice.sample(list(values), len(values))


def _new_words(dice: Dice, n: int, known: set[str], *, capital: bool) -> list[str]:
    """n words that are not known yet; they are added to ``known`` (lower case and capitalised are both taken)."""
    found: list[str] = []
    syllables = 2
    tries = 0
    while len(found) < n:
        tries += 1
        if tries % 2000 == 0:  # two syllables make 4,900 words: go on with longer ones when they run out
            syllables += 1
        word = "".join(dice.pick(CONSONANTS) + dice.pick(VOWELS) for _ in range(syllables))
        word = word.capitalize() if capital else word
        if word.lower() not in UNWANTED and word.lower() not in known and word.capitalize() not in known:
            known.update((word.lower(), word.capitalize()))
            found.append(word)
    return found
