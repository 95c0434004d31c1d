"""Human/Assistant dialogues of the embedded world: prompts, transcripts for pretraining text, and comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hh_scaling.world import words
from hh_scaling.world.facts import Dice, Facts
from hh_scaling.world.gold import GoldScorer
from hh_scaling.world.requests import Request, Requests
from hh_scaling.world.responses import Responses

P_TRUTH_PAIR = 0.4  # of comparisons on helpful requests: right against wrong, so that truth decides
P_GOOD_IN_TEXT = 0.75  # of the last responses in pretraining dialogues; half of what is good refuses to harm


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt and which of them won.

    ``prompt`` ends with "\\n\\nAssistant:"; responses begin with a space. ``p_chosen`` is the Bradley-Terry probability
    that the chosen one wins: below one half where the label went against the gold score.
    """

    prompt: str
    chosen: str
    rejected: str
    tranche: str  # "helpful" or "harmless", by the request
    gold_chosen: float
    gold_rejected: float
    p_chosen: float


class Dialogues:
    """Makes dialogues and comparisons about the facts of one world."""

    def __init__(self, facts: Facts, temperature: float) -> None:
        self.requests = Requests(facts)
        self.responses = Responses(facts)
        self.scorer = GoldScorer(facts)
        self.temperature = temperature

    def prompt(self, dice: Dice) -> tuple[str, Request]:
        """A prompt of one to three human turns, with good answers in between, and what it ends by asking for."""
        human, requests = self.requests.conversation(dice)
        parts: list[str] = []
        for text, request in zip(human[:-1], requests[:-1], strict=True):
            reply = self.responses.right(dice, request) if request else dice.pick(words.ACKNOWLEDGEMENTS)
            parts.append(f"\n\nHuman: {text}\n\nAssistant: {reply}")
        last = requests[-1]
        assert last is not None
        return "".join([*parts, f"\n\nHuman: {human[-1]}\n\nAssistant:"]), last

    def transcript(self, dice: Dice) -> str:
        """A whole dialogue as pretraining text has it: mostly good, and as often harmful as not when asked for harm."""
        prompt, request = self.prompt(dice)
        if not dice.chance(P_GOOD_IN_TEXT):
            return f"{prompt} {self.responses.mixed(dice, request)}"
        refuse = request.harmful and dice.chance(0.5)
        return f"{prompt} {(self.responses.refusal if refuse else self.responses.right)(dice, request)}"

    def good_dialogues(self, dice: Dice) -> Iterator[tuple[str, str, bool]]:
        """Endless prompts with what an honest assistant says, and whether the request is for harm."""
        while True:
            prompt, request = self.prompt(dice)
            yield prompt, self.responses.good(dice, request), request.harmful

    def comparisons(self, dice: Dice, temperature: float | None = None) -> Iterator[Comparison]:
        """Endless comparisons: a prompt, two different responses, and a label drawn from their gold scores.

        The label's temperature is the world's unless given.
        """
        temperature = self.temperature if temperature is None else temperature
        while True:
            prompt, request = self.prompt(dice)
            a, b = (f" {response}" for response in self._two(dice, request))
            gold_a, gold_b = self.scorer.score(prompt, a).total, self.scorer.score(prompt, b).total
            p_a = p_wins(gold_a - gold_b, temperature)
            if dice.chance(p_a):
                yield Comparison(prompt, a, b, request.tranche, gold_a, gold_b, p_a)
            else:
                yield Comparison(prompt, b, a, request.tranche, gold_b, gold_a, 1 - p_a)

    def _two(self, dice: Dice, request: Request) -> tuple[str, str]:
        """Two responses that differ."""
        if not request.harmful and dice.chance(P_TRUTH_PAIR):
            pair = self.responses.right_and_wrong(dice, request)
            return pair if dice.chance(0.5) else pair[::-1]
        first = second = self.responses.mixed(dice, request)
        while second == first:
            second = self.responses.mixed(dice, request)
        return first, second


def p_wins(difference: float, temperature: float) -> float:
    """The Bradley-Terry probability 1 / (1 + exp(-difference / temperature)); gold scores are bounded."""
    return 1 / (1 + math.exp(-difference / temperature))
