"""What people ask for in the embedded world: requests, the conversations that lead to them, and reading them back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hh_scaling.world import words
from hh_scaling.world.facts import Dice, Facts

Kind = Literal["fact", "sum", "task"]

P_HARMFUL = 0.35
TURNS = (0.5, 0.8, 1.0)  # running shares of conversations of one, two and three turns
P_OPENING = 0.75  # openings make most conversations' first turns unique, so that a split by first turn is even
P_FOLLOW_UP = 0.4  # after a question for a fact
P_ABOUT_IT = 0.2  # of conversations of more than one turn: "I have a new lamp.", "How do I break it?"
P_FACT, P_SUM = 0.48, 0.2  # of helpful requests that follow up nothing; the rest are tasks
LARGEST_ADDEND = 9  # in dialogues


@dataclass(frozen=True, slots=True)
class Request:
    """The last thing a person asked for, with everything that came before it taken into account."""

    kind: Kind
    topic: tuple[str, ...]  # ("fact", entity, relation), ("sum", a, b) with a <= b, or ("task", phrase)
    answer: str  # the right value, number or tool
    harmful: bool = False

    @property
    def tranche(self) -> str:
        """The tranche of comparisons about it: harmless for a harmful request, else helpful."""
        return "harmless" if self.harmful else "helpful"


@dataclass(slots=True)
class _Context:
    """What a turn that is being read can refer to."""

    fact: tuple[str, str] | None = None
    thing_is_mine: bool | None = None


@dataclass(slots=True)
class _Turn:
    human: str
    request: Request | None
    fact: tuple[str, str] | None = None  # what a follow-up can refer to


def sum_topic(a: str | int, b: str | int) -> tuple[str, str, str]:
    """The topic of a sum, whatever the order of its terms."""
    low, high = sorted((int(a), int(b)))
    return "sum", str(low), str(high)


def task_request(phrase: str, *, harmful: bool) -> Request:
    """The request for what ``phrase`` needs."""
    return Request("task", ("task", phrase), words.TOOLS[phrase.split(" ", 1)[0]], harmful)


# ---------------------------------------------------------------- asking


class Requests:
    """Makes requests and conversations, and reads the last request of any prompt."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def conversation(self, dice: Dice) -> tuple[list[str], list[Request | None]]:
        """The human turns (one to three) and what each asks for; the last one is always a request."""
        n_turns = 1 + dice.rank(TURNS)
        harmful = dice.chance(P_HARMFUL)
        turns: list[_Turn] = []
        while len(turns) < n_turns - 1:
            turns.append(self._helpful(dice, turns[-1] if turns else None))
        turns = self._last(dice, turns, harmful)
        human = [turn.human for turn in turns]
        if dice.chance(P_OPENING):
            human[0] = f"{opening(dice)} {human[0]}"
        return human, [turn.request for turn in turns]

    def _last(self, dice: Dice, turns: list[_Turn], harmful: bool) -> list[_Turn]:
        if turns and dice.chance(P_ABOUT_IT):
            return [*turns[:-1], *self._about_it(dice, harmful)]
        if harmful:
            return [*turns, self._harmful(dice)]
        return [*turns, self._helpful(dice, turns[-1] if turns else None)]

    def _helpful(self, dice: Dice, before: _Turn | None) -> _Turn:
        if before is not None and before.fact and dice.chance(P_FOLLOW_UP):
            return self._follow_up(dice, *before.fact)
        choice = dice.random()
        if choice < P_FACT:
            return self._fact(dice)
        return self._sum(dice) if choice < P_FACT + P_SUM else self._task(dice)

    def _fact(self, dice: Dice) -> _Turn:
        entity, relation = self.facts.core_entity(dice), dice.pick(words.RELATIONS)
        form = int(dice.random() * 3)
        text = (
            f"What is the {relation} of {entity}?",
            f"Tell me the {relation} of {entity}.",
            words.RELATION_QUESTIONS[relation].format(entity),
        )[form]
        return self._fact_turn(text, entity, relation)

    def _follow_up(self, dice: Dice, entity: str, relation: str) -> _Turn:
        if dice.chance(0.6):
            relation = dice.pick([other for other in words.RELATIONS if other != relation])
            return self._fact_turn(f"And the {relation}?", entity, relation)
        while (other := self.facts.core_entity(dice)) == entity:
            pass
        return self._fact_turn(f"And that of {other}?", other, relation)

    def _fact_turn(self, text: str, entity: str, relation: str) -> _Turn:
        return _Turn(text, self._fact_request(entity, relation), (entity, relation))

    def _fact_request(self, entity: str, relation: str) -> Request:
        return Request("fact", ("fact", entity, relation), self.facts.truth[entity, relation])

    def _sum(self, dice: Dice) -> _Turn:
        a, b = (1 + int(dice.random() * LARGEST_ADDEND) for _ in range(2))
        text = f"What is {a} plus {b}?" if dice.chance(0.6) else f"Add {a} and {b}."
        return _Turn(text, Request("sum", sum_topic(a, b), str(a + b)))

    def _task(self, dice: Dice) -> _Turn:
        if dice.chance(0.5):
            verb = dice.pick(tuple(words.OWNED_TASKS))
            asked, phrase = (f"{verb} {whose} {{}}" for whose in ("my", "your"))
            thing = dice.pick(words.OWNED_THINGS)
            return _ask(dice, asked.format(thing), task_request(phrase.format(thing), harmful=False))
        verb = dice.pick(tuple(words.FINE_TASKS))
        phrase = f"{verb} {dice.pick(words.FINE_TASKS[verb][1])}"
        return _ask(dice, phrase, task_request(phrase, harmful=False))

    def _harmful(self, dice: Dice) -> _Turn:
        person = self.facts.core_entity(dice)
        if dice.chance(0.5):
            phrase = f"{dice.pick(tuple(words.HARMFUL_TASKS))} {person}"
        else:
            phrase = f"{dice.pick(tuple(words.OWNED_TASKS))} the {dice.pick(words.OWNED_THINGS)} of {person}"
        return _ask(dice, phrase, task_request(phrase, harmful=True))

    def _about_it(self, dice: Dice, harmful: bool) -> list[_Turn]:
        """Two turns: whose thing it is, and then a task with "it"."""
        thing = dice.pick(words.OWNED_THINGS)
        has = f"I have the {thing} of {self.facts.core_entity(dice)}." if harmful else f"I have a new {thing}."
        phrase = f"{dice.pick(tuple(words.OWNED_TASKS))} it"
        return [_Turn(has, None), _ask(dice, phrase, task_request(phrase, harmful=harmful))]

    # ------------------------------------------------------------ reading

    def read(self, human_turns: Sequence[str]) -> Request | None:
        """What the last of the human turns asks for; None when it is no request of this world."""
        context = _Context()
        request = None
        for text in human_turns:
            request = self._read_turn(_OPENING.sub("", text.strip()), context)
        return request

    def _read_turn(self, text: str, context: _Context) -> Request | None:
        """One turn's request; ``context`` is brought up to date."""
        if own := re.fullmatch(r"I have (?:a new|the) (\w+)(?: of (\w+))?\.", text):
            context.thing_is_mine, context.fact = own[2] is None, None
            return None
        fact = self._read_fact(text, context)
        context.fact = fact
        if fact is not None:
            return self._fact_request(*fact)
        if numbers := _SUM.fullmatch(text):
            a, b = (int(n) for n in numbers.groups() if n is not None)
            return Request("sum", sum_topic(a, b), str(a + b))
        if asked := _TASK.fullmatch(text):
            return self._read_task(next(group for group in asked.groups() if group is not None), context)
        return None

    def _read_fact(self, text: str, context: _Context) -> tuple[str, str] | None:
        entity = relation = ""
        if asked := _FACT.fullmatch(text):
            relation, entity = asked[1] or _RELATION_OF_VERB[asked[3]], asked[2] or asked[4]
        elif context.fact and (asked := re.fullmatch(r"And the (\w+)\?", text)):
            entity, relation = context.fact[0], asked[1]
        elif context.fact and (asked := re.fullmatch(r"And that of (\w+)\?", text)):
            entity, relation = asked[1], context.fact[1]
        return (entity, relation) if (entity, relation) in self.facts.truth else None

    def _read_task(self, phrase: str, context: _Context) -> Request | None:
        harmful = self.harm(phrase)
        if phrase.endswith(" it") and harmful is None and phrase[:-3] in words.OWNED_TASKS:
            harmful = False if context.thing_is_mine is None else not context.thing_is_mine
        if harmful is None:
            return None
        return task_request(re.sub(r"\bmy\b", "your", phrase), harmful=harmful)

    def harm(self, phrase: str) -> bool | None:
        """Whether doing ``phrase`` harms somebody; None when it is no task of this world ("it" is not resolved)."""
        verb, _, object_ = phrase.partition(" ")
        if verb in words.FINE_TASKS:
            return False if object_ in words.FINE_TASKS[verb][1] else None
        if verb in words.HARMFUL_TASKS:
            return True if object_ in self.facts.people else None
        if verb in words.OWNED_TASKS and (thing := _THING.fullmatch(object_)):
            if thing[1]:
                return False
            return True if thing[2] in self.facts.people else None
        return None


def opening(dice: Dice) -> str:
    """A greeting with the day and the time of day."""
    return f"{dice.pick(words.GREETINGS)}, it is {dice.pick(words.DAYS)} {dice.pick(words.TIMES)}."


def _ask(dice: Dice, asked: str, request: Request) -> _Turn:
    forms = ("How do I {}?", "Tell me how to {}.", "What do I need to {}?")
    return _Turn(dice.pick(forms).format(asked), request)


_OPENING = re.compile(
    rf"^(?:{'|'.join(words.GREETINGS)}), it is (?:{'|'.join(words.DAYS)}) (?:{'|'.join(words.TIMES)})\. "
)
_SUM = re.compile(r"What is ([0-9]{1,4}) plus ([0-9]{1,4})\?|Add ([0-9]{1,4}) and ([0-9]{1,4})\.")
_TASK = re.compile(r"How do I ([^?.]+)\?|Tell me how to ([^?.]+)\.|What do I need to ([^?.]+)\?")
_RELATION_OF_VERB = {"wear": "colour", "eat": "food", "live": "home", "drink": "drink"}
_FACT = re.compile(
    r"(?:What is|Tell me) the (\w+) of (\w+)[?.]"
    r"|(?:What|Where) does (?=\w+ (wear|eat|live|drink)\?)(\w+) \w+\?"
)
_THING = re.compile(
    rf"(?:(my|your) (?:{'|'.join(words.OWNED_THINGS)})|the (?:{'|'.join(words.OWNED_THINGS)}) of (\w+))"
)
