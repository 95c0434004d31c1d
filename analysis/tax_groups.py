"""Paired items of one size at one checkpoint, and what is known of the runs that they come from."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from analysis.frames import Model, base_note
from analysis.items import Pair, TaskKey
from analysis.reward_paths import Rise

Key = tuple[str, str, str, str]  # recipe, model name, before, at


@dataclass
class Group:
    """One size's paired items at one checkpoint, by task key, one Pair per run."""

    model: Model
    pairs: dict[TaskKey, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    bias: dict[TaskKey, list[Pair]] = field(default_factory=lambda: defaultdict(list))  # the same of bias scores
    at_sqrt_kl: dict[str, float] = field(default_factory=dict)  # by run
    collapsed: set[str] = field(default_factory=set)  # runs whose policy diverged
    rises: dict[str, Rise] = field(default_factory=dict)  # of the gold score there, by run; absent where not measured

    @property
    def note(self) -> str | None:
        """What is to be said where several runs descend from one base model."""
        return base_note({pair.run for pairs in self.pairs.values() for pair in pairs})

    def kept(self, at: str) -> dict[TaskKey, list[Pair]]:
        """The pairs that enter means, trends and claims: at the end without those of collapsed policies."""
        out = self.collapsed if at == "end" else set()
        found = {key: [pair for pair in pairs if pair.run not in out] for key, pairs in self.pairs.items()}
        return {key: pairs for key, pairs in found.items() if pairs}
