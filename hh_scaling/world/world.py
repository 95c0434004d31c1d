"""The embedded world: everything that a study needs on a machine without a hub, as a function of one configuration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from hh_scaling.configs import WorldConfig
from hh_scaling.world import diagnostics
from hh_scaling.world.dialogues import Comparison, Dialogues
from hh_scaling.world.facts import Dice, Facts
from hh_scaling.world.gold import Gold
from hh_scaling.world.items import Items
from hh_scaling.world.text import Writer

Stream = Literal["train", "held_out"]


class World:
    """A seeded generator of text, comparisons and benchmark items, and the exact gold score of any response.

    Equal configurations give equal worlds on every machine. What is true depends on ``seed``, ``n_entities`` and
    ``n_values`` alone; a larger ``n_comparisons`` begins with the comparisons of a smaller one.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.facts = Facts(config)
        self.dialogues = Dialogues(self.facts, config.temperature)
        self.writer = Writer(self.facts, self.dialogues)

    def documents(self, stream: Stream) -> Iterator[str]:
        """Endless pretraining documents; "train" and "held_out" are independent draws about the same facts."""
        if stream not in ("train", "held_out"):
            raise ValueError(f"world.documents: {stream!r} is no stream; allowed are 'train' and 'held_out'")
        return self.writer.documents(self._dice(f"documents/{stream}"))

    def comparisons(self) -> list[Comparison]:
        """``n_comparisons`` comparisons with Bradley-Terry labels; the two responses of each differ."""
        return list(islice(self.dialogues.comparisons(self._dice("comparisons")), self.config.n_comparisons))

    def example_dialogues(self) -> Iterator[tuple[str, str, bool]]:
        """Endless prompts with good responses, for a prompt of examples, and whether the request is for harm."""
        return self.dialogues.good_dialogues(self._dice("example_dialogues"))

    def votes(self) -> Iterator[Comparison]:
        """Endless further comparisons, labelled at ``votes_temperature``; all else is what it is without them."""
        return self.dialogues.comparisons(self._dice("votes"), self.config.votes_temperature)

    def gold(self, prompt: str, response: str) -> Gold:
        """The exact helpful, harmless and total score of any response to any prompt."""
        return self.dialogues.scorer.score(prompt, response)

    def tasks(self) -> dict[str, list[dict[str, Any]]]:
        """Benchmark items by task: ``query``, ``choices`` (they begin with a space), ``gold`` (an index), ``cluster``.

        ``n_items`` of each, fewer where there are not so many different ones. Chance is 1 / number of choices.
        """
        return Items(self.facts, self.writer, self.config.seed, self.config.n_items).tasks()

    def bayes_accuracy(self, comparisons: list[Comparison]) -> float:
        """The accuracy of a reader who knows the gold scores: the ceiling of any preference model."""
        return diagnostics.bayes_accuracy(comparisons)

    def truth_blind_accuracy(self, comparisons: list[Comparison]) -> float:
        """The best accuracy of a reader who sees everything but whether claims are true."""
        return diagnostics.truth_blind_accuracy(self.dialogues.scorer, comparisons)

    def length_accuracy(self, comparisons: list[Comparison]) -> float:
        """How often the longer response is the chosen one."""
        return diagnostics.length_accuracy(comparisons)

    def _dice(self, name: str) -> Dice:
        return Dice(f"world/{self.config.seed}/{name}")
