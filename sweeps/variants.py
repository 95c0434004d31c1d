"""What a study varies one thing at a time around its main setting: rates, shares of helpful comparisons, weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from hh_scaling.configs import BaseTraining, Half, PMTraining, PPOTraining
from sweeps.study import BaseSection, PMSection, PPOSection

T = TypeVar("T", BaseTraining, PMTraining, PPOTraining)


@dataclass(frozen=True)
class PMVariant:
    """One preference model of a size and seed: of the main setting, or with one of the last three fields changed."""

    n_comparisons: int | None
    half: Half = "train"
    eval_at: tuple[int, ...] = ()  # pairs seen after which it is scored along its pass
    probed: bool = False  # whether it is also judged on the section's probes
    rate_factor: float = 1.0
    helpful_share: float | None = None
    harmless_weight: float = 1.0

    @property
    def is_main(self) -> bool:
        """Whether only half and number tell it from the others."""
        return (self.rate_factor, self.helpful_share, self.harmless_weight) == (1.0, None, 1.0)

    @property
    def slug(self) -> str:
        """Half, number, and what is changed: ``train-6144``, ``train-6144-help0.25``, ``train-6144-harmx3``."""
        share = "" if self.helpful_share is None else f"-help{self.helpful_share:g}"
        weight = "" if self.harmless_weight == 1 else f"-harmx{self.harmless_weight:g}"
        count = "all" if self.n_comparisons is None else self.n_comparisons
        return f"{self.half}-{count}{share}{weight}{rate_slug(self.rate_factor)}"


def pm_variants(section: PMSection) -> list[PMVariant]:
    """The preference models of a size and seed: the main ones, then those with one thing changed."""
    most = largest_count(section)
    return [
        *main_variants(section),
        *(PMVariant(most, helpful_share=share) for share in section.helpful_share),
        *(PMVariant(most, harmless_weight=weight) for weight in section.harmless_weight if weight != 1),
        *(PMVariant(most, rate_factor=factor) for factor in other_rates(section)),
    ]


def main_variants(section: PMSection) -> list[PMVariant]:
    """Every number of comparisons on the train half, the largest also on the test half."""
    most = largest_count(section)
    smaller = sorted(n for n in section.n_comparisons if n is not None and n != most)
    along = {most: tuple(smaller)} if section.learning_curve else {}
    found = [PMVariant(n, eval_at=along.get(n, ()), probed=n == most) for n in section.n_comparisons]
    return found if section.halves == "train" else [*found, PMVariant(most, "test")]


def largest_count(section: PMSection) -> int | None:
    """The largest of the numbers of comparisons; None, all, is the largest of all."""
    return None if None in section.n_comparisons else max(n for n in section.n_comparisons if n is not None)


# ---------------------------------------------------------------- rates


def other_rates(section: BaseSection | PMSection | PPOSection) -> tuple[float, ...]:
    """The section's rate factors but 1, the main setting's."""
    return tuple(factor for factor in section.rate_factor if factor != 1)


def at_rate(training: T, factor: float) -> T:
    """``training`` at ``factor`` times the rate that its schedule's rule gives."""
    schedule = training.schedule.model_copy(update={"rate_factor": factor})
    return training.model_copy(update={"schedule": schedule})


def rate_slug(factor: float) -> str:
    """``-ratex0.5``, or nothing at the rule's own rate."""
    return "" if factor == 1 else f"-ratex{factor:g}"
