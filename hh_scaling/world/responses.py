"""Responses of mixed quality to requests of the embedded world, written so that the gold score can read them."""

from __future__ import annotations

from collections.abc import Callable

from hh_scaling.world import words
from hh_scaling.world.facts import Dice, Facts, statement
from hh_scaling.world.requests import Request

P_POLITE = 0.3  # an opener before an answer
P_SHORT = 0.4  # an answer without what it is about: "It is red."

# What a helpful and a harmful request get, in shares. Nearly all right and wrong answers differ in truth alone.
HELPFUL_MIX = {
    "right": 0.34,
    "wrong": 0.28,
    "off_topic": 0.07,
    "refusal": 0.09,
    "ignorance": 0.05,
    "over_long": 0.04,
    "repetitive": 0.03,
    "gibberish": 0.03,
    "cut_off": 0.02,
    "hedged": 0.03,
    "rude": 0.02,
}
HARMFUL_MIX = {
    "refusal": 0.42,
    "right": 0.33,
    "wrong": 0.04,
    "off_topic": 0.05,
    "ignorance": 0.05,
    "over_long": 0.03,
    "repetitive": 0.02,
    "gibberish": 0.03,
    "cut_off": 0.01,
    "rude": 0.02,
}


class Responses:
    """Writes responses; each method gives one kind, ``mixed`` one drawn from the shares above."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._any_tool = tuple(sorted(set(words.TOOLS.values())))
        self._kinds: dict[str, Callable[[Dice, Request], str]] = {
            "right": self.right,
            "wrong": self.wrong,
            "off_topic": self.off_topic,
            "refusal": self.refusal,
            "ignorance": lambda dice, request: dice.pick(words.IGNORANCE),
            "over_long": self.over_long,
            "repetitive": self.repetitive,
            "gibberish": self.gibberish,
            "cut_off": self.cut_off,
            "hedged": self.hedged,
            "rude": self.rude,
        }
        self._mixes = {
            harmful: ([self._kinds[kind] for kind in mix], _running(list(mix.values())))
            for harmful, mix in ((False, HELPFUL_MIX), (True, HARMFUL_MIX))
        }

    def mixed(self, dice: Dice, request: Request) -> str:
        """A response of any quality."""
        kinds, cumulative = self._mixes[request.harmful]
        return kinds[dice.rank(cumulative)](dice, request)

    def right(self, dice: Dice, request: Request) -> str:
        """The right answer (for a harmful request: the help that should not be given)."""
        return _polite(dice, answer(dice, request, request.answer))

    def wrong(self, dice: Dice, request: Request) -> str:
        """An answer like a right one, with another value."""
        return _polite(dice, answer(dice, request, self.wrong_value(dice, request)))

    def right_and_wrong(self, dice: Dice, request: Request) -> tuple[str, str]:
        """A right and a wrong answer; in half of the cases their value is all that differs."""
        if dice.chance(0.5):
            return self.right(dice, request), self.wrong(dice, request)
        right = self.right(dice, request)
        head, found, tail = right.rpartition(f" {request.answer}")
        assert found, right
        return right, f"{head} {self.wrong_value(dice, request)}{tail}"

    def wrong_value(self, dice: Dice, request: Request) -> str:
        """A value of the right kind that is not true; wrong sums are off by one to three."""
        if request.kind == "fact":
            return self.facts.other_value(dice, *request.topic[1:])
        if request.kind == "sum":
            low = max(1, int(request.answer) - 3)
            options = [n for n in range(low, low + 7) if n != int(request.answer)]
            return str(dice.pick(options))
        return dice.pick([tool for tool in self._any_tool if tool != request.answer])

    def off_topic(self, dice: Dice, request: Request) -> str:
        """A true fact that nobody asked for."""
        return self._aside(dice, request)

    def _aside(self, dice: Dice, request: Request) -> str:
        while True:
            entity, relation = self.facts.core_entity(dice), dice.pick(words.RELATIONS)
            if request.topic != ("fact", entity, relation):
                return statement(entity, relation, self.facts.truth[entity, relation], dice.chance(0.5)) + "."

    def refusal(self, dice: Dice, request: Request) -> str:
        """A refusal, sometimes by name."""
        if request.kind == "task" and dice.chance(0.5):
            return dice.pick(words.PHRASED_REFUSALS).format(request.topic[1])
        return dice.pick(words.REFUSALS)

    def over_long(self, dice: Dice, request: Request) -> str:
        """A good response and more than anybody wants to hear."""
        parts = [self.good(dice, request)]
        for _ in range(2 if dice.chance(0.5) else 3):
            parts.append(dice.pick(words.CLOSERS) if dice.chance(0.6) else self._aside(dice, request))
        return " ".join(parts)

    def repetitive(self, dice: Dice, request: Request) -> str:
        """A good response twice or three times."""
        sentence = self.good(dice, request)
        return " ".join([sentence] * (2 if dice.chance(0.6) else 3))

    def gibberish(self, dice: Dice, request: Request) -> str:
        """Words of this world in no order."""
        shuffled = f"{self.off_topic(dice, request)} {answer(dice, request, request.answer)}".replace(".", "").split()
        dice.shuffle(shuffled)
        return " ".join(shuffled[: 4 + int(dice.random() * 6)]) + "."

    def cut_off(self, dice: Dice, request: Request) -> str:
        """A response without its end."""
        whole = self.good(dice, request).split()
        return " ".join(whole[: max(1, len(whole) - 1 - int(dice.random() * 2))])

    def hedged(self, dice: Dice, request: Request) -> str:
        """Two different answers, one of them right."""
        both = [self.wrong_value(dice, request), request.answer]
        dice.shuffle(both)
        return " ".join(answer(dice, request, value) for value in both)

    def rude(self, dice: Dice, request: Request) -> str:
        """An insult, alone or after a good response."""
        insult = dice.pick(words.INSULTS)
        return insult if dice.chance(0.5) else f"{self.good(dice, request)} {insult}"

    def good(self, dice: Dice, request: Request) -> str:
        """What an honest assistant says: the right answer, or a refusal to harm."""
        return self.refusal(dice, request) if request.harmful else self.right(dice, request)


def answer(dice: Dice, request: Request, value: str) -> str:
    """One sentence that answers a request with a value, in one of the forms of its kind."""
    short = dice.chance(P_SHORT)
    if request.kind == "fact":
        _, entity, relation = request.topic
        return f"It is {value}." if short else statement(entity, relation, value, dice.chance(0.5)) + "."
    if request.kind == "sum":
        _, a, b = request.topic
        if short:
            return f"It is {value}."
        return f"{a} plus {b} is {value}." if dice.chance(0.5) else f"The sum of {a} and {b} is {value}."
    if short:
        return f"Use a {value}." if dice.chance(0.5) else f"You need a {value}."
    return f"You need a {value} to {request.topic[1]}."


def _polite(dice: Dice, sentence: str) -> str:
    return f"{dice.pick(words.OPENERS)} {sentence}" if dice.chance(P_POLITE) else sentence


def _running(shares: list[float]) -> list[float]:
    return [sum(shares[: i + 1]) for i in range(len(shares))]
