"""Other ways to a higher score, beside each size's main policy: the best of n, and weights between it and reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hh_scaling.configs import (
    BestOfNConfig,
    BestOfNSampling,
    InterpolationConfig,
    PPOConfig,
    alpha_name,
    checkpoint_name,
)
from sweeps.load import KeyPath
from sweeps.study import BestOfNSection, InterpolationSection, PPOSection, Study

Found = Iterator[tuple[KeyPath, str]]
SHARED = ("max_prompt_tokens", "max_response_tokens", "temperature", "sample_rows")  # with PPO's evaluations


def best_of_n_config(section: BestOfNSection, policy: PPOConfig) -> BestOfNConfig:
    """A pool of the reference's samples that the policy can be compared with: same prompts, lengths and temperature."""
    sampling = BestOfNSampling(
        n_samples=section.n_samples,
        n_prompts=section.n_prompts or policy.training.n_eval_prompts,
        **{key: getattr(policy.training, key) for key in SHARED},
    )
    shared = {key: getattr(policy, key) for key in ("size", "seed", "compute", "world_gold", "train_pm")}
    return BestOfNConfig(sampling=sampling, **shared)


def interpolation_config(section: InterpolationSection, policy: PPOConfig) -> InterpolationConfig:
    """Points evaluated as the policy is: its own configuration, and where on the line they lie."""
    own = {key: getattr(policy, key) for key in PPOConfig.model_fields}
    return InterpolationConfig(alphas=section.alphas, keep=section.keep, **own)


def places_by_kind(at: Sequence[str]) -> dict[str, tuple[str | None, ...]]:
    """By kind of stage, at which of its weights it is evaluated; None: a model that has but one."""
    between = tuple(place for place in at if place.startswith("alpha="))
    along = tuple(place for place in at if place not in between)
    return {"base": (None,), "reference": (None,), "ppo": along, "interpolation": between}


# ---------------------------------------------------------------- what cannot be


def route_problems(study: Study) -> Found:
    """Other ways to a higher score without the policy they stand beside, and alphas that repeat or are not there."""
    for key in ("best_of_n", "interpolation"):
        if getattr(study, key) is not None and study.ppo is None:
            yield (key,), "stands beside policies, on their prompts, but ppo is null (allowed: null)"
    line = study.interpolation
    if line is None:
        return
    if len(set(line.alphas)) < len(line.alphas):
        yield ("interpolation", "alphas"), "names a number twice"
    for i, alpha in enumerate(line.keep):
        if alpha not in line.alphas or alpha in line.keep[:i]:
            allowed = ", ".join(map(str, line.alphas))
            yield ("interpolation", "keep", i), f"is {alpha} (allowed: interpolation.alphas, each once: {allowed})"


def place_problems(study: Study, ppo: PPOSection) -> Found:
    """Benchmarks and behaviours at weights that are not kept."""
    kept = ", ".join(str(x) for x in ppo.keep_sqrt_kl)
    alphas = () if study.interpolation is None else study.interpolation.keep
    known = {checkpoint_name(x) for x in ppo.keep_sqrt_kl} | {alpha_name(x) for x in alphas} | {"end"}
    sections = {"benchmarks": study.benchmarks, "behaviours": study.behaviours}
    asked = [(name, i, at) for name, section in sections.items() if section for i, at in enumerate(section.at)]
    for name, i, at in asked:
        if at not in known:
            text = f"is {at.removeprefix('sqrt_kl=')} (allowed: end, or one of ppo.keep_sqrt_kl: {kept}"
            if study.interpolation is not None or at.startswith("alpha="):
                text += f", or alpha= one of interpolation.keep: {', '.join(map(str, alphas)) or 'none'}"
            yield (name, "at", i), f"{text})"
