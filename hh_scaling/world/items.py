"""Benchmark items of the embedded world: the facts, sums and regularities of its text, as questions with choices."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import product
from typing import Any, TypeVar

from hh_scaling.world import words
from hh_scaling.world.facts import MIN_VALUES, Dice, Facts, statement_start
from hh_scaling.world.text import LARGEST_ADDEND, LETTERS, Writer, agreement_start, sum_start

T = TypeVar("T")
Item = dict[str, Any]  # query, choices, gold, cluster

N_FACT_CHOICES = MIN_VALUES
N_SUM_CHOICES = 10
N_PLACE_CHOICES = 10
FACT_EXPONENT = 0.6  # items ask more about people that text speaks of more, but not as much more


class Items:
    """Makes the items of every task; the right choice is at every index equally often."""

    def __init__(self, facts: Facts, writer: Writer, seed: int, n_items: int) -> None:
        self.facts = facts
        self.writer = writer
        self.seed = seed
        self.n_items = n_items

    def tasks(self) -> dict[str, list[Item]]:
        """``n_items`` items of each task, fewer where the world has not so many different ones."""
        return {
            "world_facts": self._facts(self._dice("world_facts")),
            "world_facts_choice": self._facts_choice(self._dice("world_facts_choice")),
            "world_arithmetic": self._arithmetic(self._dice("world_arithmetic")),
            "world_agreement": self._agreement(self._dice("world_agreement")),
            "world_last_word": self._last_word(self._dice("world_last_word")),
        }

    def _dice(self, task: str) -> Dice:
        return Dice(f"world/{self.seed}/items/{task}")

    def _facts(self, dice: Dice) -> list[Item]:
        options = list(product(range(len(self.facts.entities)), words.RELATIONS, (0, 1)))
        drawn = _draw(dice, options, lambda option: (option[0] + 1) ** -FACT_EXPONENT, self.n_items)
        items = []
        for (rank, relation, form), gold in zip(drawn, _places(dice, len(drawn), N_FACT_CHOICES), strict=True):
            entity = self.facts.entities[rank]
            true = self.facts.truth[entity, relation]
            wrong = dice.sample([v for v in self.facts.values[relation] if v != true], N_FACT_CHOICES - 1)
            items.append(_item(statement_start(entity, relation, form), wrong, true, gold, entity))
        return items

    def _facts_choice(self, dice: Dice) -> list[Item]:
        options = list(product(range(len(self.facts.entities)), words.RELATIONS))
        drawn = _draw(dice, options, lambda option: (option[0] + 1) ** -FACT_EXPONENT, self.n_items)
        items = []
        for (rank, relation), gold in zip(drawn, _places(dice, len(drawn), len(LETTERS)), strict=True):
            entity = self.facts.entities[rank]
            query = self.writer.choice_question(dice, entity, relation, gold)
            choices = [f" {letter}" for letter in LETTERS]
            items.append({"query": query, "choices": choices, "gold": gold, "cluster": entity})
        return items

    def _arithmetic(self, dice: Dice) -> list[Item]:
        terms = range(1, LARGEST_ADDEND + 1)
        drawn = _draw(dice, list(product(terms, terms, (0, 1))), lambda _: 1.0, self.n_items)
        items = []
        for (a, b, form), gold in zip(drawn, _places(dice, len(drawn), N_SUM_CHOICES), strict=True):
            wrong = dice.sample([n for n in range(2, 2 * LARGEST_ADDEND + 1) if n != a + b], N_SUM_CHOICES - 1)
            items.append(_item(sum_start(a, b, form), [str(n) for n in wrong], str(a + b), gold, f"{a}+{b}"))
        return items

    def _agreement(self, dice: Dice) -> list[Item]:
        """The nearest noun has the subject's number half of the time, so that agreeing with it scores one half."""
        starts = _distinct(lambda: _agreement_start(dice), lambda found: (found[0], found[2]), self.n_items)
        items = []
        for (start, plural, verbs), gold in zip(starts, _places(dice, len(starts), 2), strict=True):
            noun = start.split()[1].removesuffix("s")
            items.append(_item(start, [verbs[not plural]], verbs[plural], gold, noun))
        return items

    def _last_word(self, dice: Dice) -> list[Item]:
        stories = _distinct(lambda: self.writer.story(dice), lambda story: story.text, self.n_items)
        items = []
        for i, (story, gold) in enumerate(zip(stories, _places(dice, len(stories), N_PLACE_CHOICES), strict=True)):
            rest = [place for place in words.PLACES if place != story.last and place not in story.others]
            dice.shuffle(rest)
            wrong = [*story.others, *rest][: N_PLACE_CHOICES - 1]
            dice.shuffle(wrong)
            items.append(_item(story.text, wrong, story.last, gold, f"story {i}"))
        return items


def _agreement_start(dice: Dice) -> tuple[str, bool, tuple[str, str]]:
    plural = dice.chance(0.5)
    return agreement_start(dice, plural), plural, dice.pick(words.AGREEING_VERBS)


def _item(query: str, wrong: list[str], right: str, gold: int, cluster: str) -> Item:
    """An item with the right choice at index ``gold``; choices carry the space between query and choice."""
    choices = [f" {choice}" for choice in (*wrong[:gold], right, *wrong[gold:])]
    return {"query": query, "choices": choices, "gold": gold, "cluster": cluster}


def _places(dice: Dice, n: int, n_choices: int) -> list[int]:
    """Where the right choice of each of n items is: every index as often as any other, to within one, in no order."""
    places = [i % n_choices for i in range(n)]
    dice.shuffle(places)
    return places


def _draw(dice: Dice, options: list[T], weight: Callable[[T], float], n: int) -> list[T]:
    """At most n different options, the heavier ones more likely (Efraimidis and Spirakis 2006, keys u ** (1 / w))."""
    keys = [dice.random() ** (1 / weight(option)) for option in options]
    order = sorted(range(len(options)), key=lambda i: -keys[i])
    return [options[i] for i in order[:n]]


def _distinct(make: Callable[[], T], key: Callable[[T], Hashable], n: int) -> list[T]:
    """n things with different keys, fewer where most new ones have been made before."""
    found: dict[Hashable, T] = {}
    for _ in range(4 * n):
        thing = make()
        found.setdefault(key(thing), thing)
        if len(found) == n:
            break
    return list(found.values())
