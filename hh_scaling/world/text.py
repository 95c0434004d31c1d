"""Pretraining text of the embedded world: facts, sums, agreement, stories, dialogues and questions with examples.

Each document is short; the formats of the benchmark items occur in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hh_scaling.world import words
from hh_scaling.world.dialogues import Dialogues
from hh_scaling.world.facts import Dice, Facts, statement

# Shares of documents. About 5 % agreement: less leaves small models at chance, more saturates them.
MIX = {"facts": 0.30, "sums": 0.13, "agreement": 0.055, "story": 0.13, "dialogue": 0.30, "cloze": 0.045, "choice": 0.04}
SENTENCES = 5  # in a document of facts or sums
SHOTS = 5  # examples in a document of questions: four and one more fill a context of 128 tokens
LARGEST_ADDEND = 20
LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Story:
    """A story up to its last word, that word, and the other nouns in it."""

    text: str
    last: str
    others: tuple[str, ...]


class Writer:
    """Writes documents about the facts of one world."""

    def __init__(self, facts: Facts, dialogues: Dialogues) -> None:
        self.facts = facts
        kinds: dict[str, Callable[[Dice], str]] = {
            "facts": self.fact_document,
            "sums": sum_document,
            "agreement": agreement_document,
            "story": self.story_document,
            "dialogue": dialogues.transcript,
            "cloze": self.cloze_document,
            "choice": self.choice_document,
        }
        self._kinds = [kinds[kind] for kind in MIX]
        self._cumulative = [sum(list(MIX.values())[: i + 1]) for i in range(len(MIX))]

    def documents(self, dice: Dice) -> Iterator[str]:
        """Endless documents."""
        while True:
            yield self._kinds[dice.rank(self._cumulative)](dice)

    def fact_document(self, dice: Dice) -> str:
        """True statements, about one person or about several."""
        if dice.chance(0.4):
            entity = self.facts.entity(dice)
            topics = [(entity, relation) for relation in dice.sample(words.RELATIONS, len(words.RELATIONS))]
        else:
            topics = self._topics(dice, SENTENCES)
        return " ".join(self._state(dice, *topic) + "." for topic in topics)

    def _topics(self, dice: Dice, n: int) -> list[tuple[str, str]]:
        """n different facts: repetition would teach repetition."""
        topics: dict[tuple[str, str], None] = {}
        while len(topics) < n:
            topics[self.facts.entity(dice), dice.pick(words.RELATIONS)] = None
        return list(topics)

    def _state(self, dice: Dice, entity: str, relation: str) -> str:
        return statement(entity, relation, self.facts.truth[entity, relation], dice.chance(0.5))

    def story_document(self, dice: Dice) -> str:
        """A story with its end."""
        story = self.story(dice)
        return f"{story.text} {story.last}."

    def story(self, dice: Dice) -> Story:
        """People hide one or two things and find them again: the last word is the place of the last one."""
        people = dice.sample(self.facts.core, 2)
        n_hidden = 1 + dice.chance(0.6)
        things, places = dice.sample(words.THINGS, n_hidden), dice.sample(words.PLACES, n_hidden)
        hidden = list(zip(people, things, places, strict=False))
        lines = [f"{who} put the {thing} in the {place}." for who, thing, place in hidden]
        home, food = dice.pick(self.facts.values["home"]), dice.pick(self.facts.values["food"])
        lines.append(f"Then {people[1]} went to {home} and got some {food}.")
        dice.shuffle(hidden)
        lines += [
            f"At {dice.pick(words.TIMES)} {who} found the {thing} in the {place}." for who, thing, place in hidden
        ]
        last = hidden[-1][2]
        others = tuple(noun for noun in (*places, *things) if noun != last)
        return Story(" ".join(lines).removesuffix(f" {last}."), last, others)

    def cloze_document(self, dice: Dice) -> str:
        """Statements without full stops, a blank line between them: examples before a cloze question."""
        if dice.chance(0.3):
            return "\n\n".join(_sum(dice) for _ in range(SHOTS + 1))
        return "\n\n".join(self._state(dice, *topic) for topic in self._topics(dice, SHOTS + 1))

    def choice_document(self, dice: Dice) -> str:
        """Questions with lettered options and their answers."""
        shots = []
        for entity, relation in self._topics(dice, SHOTS):
            right = int(dice.random() * len(LETTERS))
            shots.append(f"{self.choice_question(dice, entity, relation, right)} {LETTERS[right]}")
        return "\n\n".join(shots)

    def choice_question(self, dice: Dice, entity: str, relation: str, right: int) -> str:
        """A question about a fact with four lettered options, the right one at index ``right``, up to "Answer:"."""
        true = self.facts.truth[entity, relation]
        options = dice.sample([value for value in self.facts.values[relation] if value != true], len(LETTERS) - 1)
        options.insert(right, true)
        offered = " ".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))
        return f"The {relation} of {entity}: {offered}\nAnswer:"


def sum_document(dice: Dice) -> str:
    """Right sums."""
    return " ".join(_sum(dice) + "." for _ in range(SENTENCES))


def _sum(dice: Dice) -> str:
    largest = LARGEST_ADDEND if dice.chance(0.5) else LARGEST_ADDEND // 2  # small sums are more frequent
    a, b = (1 + int(dice.random() * largest) for _ in range(2))
    return f"{sum_start(a, b, dice.chance(0.3))} {a + b}"


def sum_start(a: int, b: int, form: int) -> str:
    """A sum up to its value, in one of two forms."""
    return f"The sum of {a} and {b} is" if form else f"{a} plus {b} is"


def agreement_document(dice: Dice) -> str:
    """A sentence whose verb agrees with its first noun, not with a nearer one."""
    plural = dice.chance(0.5)
    verb = dice.pick(words.AGREEING_VERBS)[plural]
    end = "a hat" if verb in ("has", "have") else dice.pick(words.ADJECTIVES)
    return f"{agreement_start(dice, plural)} {verb} {end}."


def agreement_start(dice: Dice, plural: bool) -> str:
    """A subject with one or two other nouns, of either number, between it and its verb."""
    nouns = dice.sample(words.AGREEING_NOUNS, 3 if dice.chance(0.4) else 2)
    start = f"The {nouns[0]}{'s' * plural}"
    for attractor in nouns[1:]:
        start += f" {dice.pick(words.PREPOSITIONS)} the {attractor}{'s' * dice.chance(0.5)}"
    return start
