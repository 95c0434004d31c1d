"""What a study varies one thing at a time around its main setting: rates, mixtures, weights, pretraining."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from hh_scaling.configs import (
    BaseTraining,
    Compute,
    Config,
    Half,
    InputFile,
    PMConfig,
    PMPConfig,
    PMTraining,
    PPOTraining,
    SizeSpec,
)
from sweeps.study import BaseSection, PMPSection, PMSection, PPOSection

Picked = TypeVar("Picked", bound=Config)
T = TypeVar("T", BaseTraining, PMTraining, PPOTraining)


def pick(section: Config, model: type[Picked]) -> Picked:
    """The stage's own configuration out of a section that extends it."""
    return model(**{name: getattr(section, name) for name in model.model_fields})


# ---------------------------------------------------------------- preference models


@dataclass(frozen=True)
class PMVariant:
    """One preference model of a size and seed: of the main setting, or with one of the last five fields changed."""

    n_comparisons: int | None
    half: Half = "train"
    eval_at: tuple[int, ...] = ()  # pairs seen after which it is scored along its pass
    probed: bool = False  # whether it is also judged on the section's probes
    rate_factor: float = 1.0
    helpful_share: float | None = None
    harmless_weight: float = 1.0
    extra_share: float = 0.0
    pretrained: bool = False

    @property
    def slug(self) -> str:
        """Half, number, what it starts from and what is changed: ``train-6144``, ``train-6144-pmp-help0.25``."""
        start = "-pmp" if self.pretrained else ""
        extra = f"-extra{self.extra_share:g}" if self.extra_share else ""
        share = "" if self.helpful_share is None else f"-help{self.helpful_share:g}"
        weight = "" if self.harmless_weight == 1 else f"-harmx{self.harmless_weight:g}"
        count = "all" if self.n_comparisons is None else self.n_comparisons
        return f"{self.half}-{count}{start}{share}{weight}{extra}{rate_slug(self.rate_factor)}"


def pm_variants(section: PMSection) -> list[PMVariant]:
    """The preference models of a size and seed: the main ones, then those with one thing changed."""
    main = PMVariant(largest_count(section), pretrained=section.pretrained[0])
    starts = [replace(main, pretrained=value) for value in section.pretrained[1:]]
    return [
        *main_variants(section),
        *(replace(start, n_comparisons=n) for start in starts for n in section.n_comparisons),
        *(replace(main, helpful_share=share) for share in section.helpful_share),
        *(replace(main, harmless_weight=weight) for weight in section.harmless_weight if weight != 1),
        *(replace(main, extra_share=share) for share in section.extra_share if share),
        *(replace(main, rate_factor=factor) for factor in other_rates(section)),
    ]


def main_variants(section: PMSection) -> list[PMVariant]:
    """Every number of comparisons on the train half, the largest also on the test half."""
    most = largest_count(section)
    smaller = sorted(n for n in section.n_comparisons if n is not None and n != most)
    along = {most: tuple(smaller)} if section.learning_curve else {}
    main = PMVariant(most, pretrained=section.pretrained[0])
    numbers = section.n_comparisons
    found = [replace(main, n_comparisons=n, eval_at=along.get(n, ()), probed=n == most) for n in numbers]
    return found if section.halves == "train" else [*found, replace(main, half="test")]


def largest_count(section: PMSection) -> int | None:
    """The largest of the numbers of comparisons; None, all, is the largest of all."""
    return None if None in section.n_comparisons else max(n for n in section.n_comparisons if n is not None)


def pm_config(
    section: PMSection, variant: PMVariant, size: SizeSpec, seed: int, compute: Compute, probes: tuple[InputFile, ...]
) -> PMConfig:
    """The complete configuration of one variant."""
    training = at_rate(pick(section, PMTraining), variant.rate_factor)
    return PMConfig(
        size=size,
        seed=seed,
        half=variant.half,
        n_comparisons=variant.n_comparisons,
        helpful_share=variant.helpful_share,
        harmless_weight=variant.harmless_weight,
        pretrained=variant.pretrained,
        extra_share=variant.extra_share,
        training=training.model_copy(update={"eval_at": variant.eval_at}),
        compute=compute,
        probes=probes if variant.probed else (),
    )


def pmp_config(section: PMPSection, size: SizeSpec, seed: int, compute: Compute) -> PMPConfig:
    """That of the pretraining that preference models of the size and seed start from."""
    return PMPConfig(
        size=size,
        seed=seed,
        n_comparisons=section.n_comparisons,
        binarised=section.binarised,
        training=pick(section, PMTraining),
        compute=compute,
    )


# ---------------------------------------------------------------- policies


@dataclass(frozen=True)
class PPOVariant:
    """One policy of a size and seed: of the main setting (no slug), or with one of these fields changed."""

    ptx_coef: float
    rate_factor: float = 1.0
    slug: str = ""  # ``-ratex0.5``, ``-ptx1``

    @property
    def benchmarked(self) -> bool:
        """Whether it takes benchmarks: what pretraining text in the mix spares is seen there."""
        return self.rate_factor == 1


def ppo_variants(section: PPOSection) -> list[PPOVariant]:
    """The policies of a size and seed: the main one, then those with one thing changed."""
    main = PPOVariant(section.ptx_coef[0])
    return [
        main,
        *(replace(main, rate_factor=factor, slug=rate_slug(factor)) for factor in other_rates(section)),
        *(replace(main, ptx_coef=coef, slug=f"-ptx{coef:g}") for coef in section.ptx_coef[1:]),
    ]


def ppo_training(section: PPOSection, variant: PPOVariant) -> PPOTraining:
    """How one variant is trained."""
    fields = {name: getattr(section, name) for name in PPOTraining.model_fields}
    return at_rate(PPOTraining(**fields | {"ptx_coef": variant.ptx_coef}), variant.rate_factor)


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
