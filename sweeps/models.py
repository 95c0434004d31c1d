"""The stages that policies are made of: data, bases, preference models and references."""

from __future__ import annotations

from hh_scaling.configs import (
    BaseConfig,
    BaseTraining,
    DataConfig,
    DistillationTargets,
    ReferenceConfig,
    ReferenceTraining,
    TeacherConfig,
)
from sweeps.expansion import Expansion
from sweeps.stage import Stage
from sweeps.variants import (
    PMVariant,
    at_rate,
    largest_count,
    main_variants,
    other_rates,
    pick,
    pm_config,
    pm_variants,
    pmp_config,
    rate_slug,
)


def add_data(build: Expansion) -> None:
    """The data stage, and the tokenizer where a rung needs one."""
    section, world = build.study.data, build.study.world
    config = DataConfig(
        world=world,
        comparisons=None if world is not None else build.inputs.comparisons(),
        text=None if world is not None else build.inputs.text(),
        held_out_fraction=section.held_out_fraction,
        gold_fraction=section.gold_fraction,
        max_held_out=section.max_held_out,
        split_seed=section.split_seed,
        votes=build.inputs.votes(),
    )
    data = build.stage("data", "data", config, {}, where=build.inputs.where)
    build.add(("data",), data)
    if any(size.n_params is not None for size in build.sizes.values()):
        build.add(("tokenizer",), build.stage("tokenizer", "tokenizer", build.study.tokenizer, {"data": data}))


def add_base(build: Expansion, name: str, seed: int) -> None:
    """The base of a size in the chain of ``seed``, and those of a rung at other rates."""
    seed, size, section = build.seed_of("base", seed, name), build.sizes[name], build.study.base
    if ("base", name, seed) in build.made:
        return
    training = pick(section, BaseTraining)
    parents = {"data": build.made["data",]}
    if size.n_params is not None:
        parents["tokenizer"] = build.made["tokenizer",]
    else:  # a model that exists is only measured: how rungs are trained is none of its configuration
        training = BaseTraining(context=section.context, eval_tokens=section.eval_tokens)
    compute = build.compute(section.compute, name)
    for factor in (1.0, *(other_rates(section) if size.n_params is not None else ())):
        config = BaseConfig(size=size, seed=seed, training=at_rate(training, factor), compute=compute)
        slug = f"base-{name}-s{seed}{rate_slug(factor)}"
        base = build.stage("base", slug, config, parents, where=build.size_where[name])
        build.add(("base", name, seed) if factor == 1 else None, base)


def add_pms(build: Expansion, name: str, seed: int) -> None:
    """The preference models of a size; policies are scored by those of the largest number on either half."""
    section, seed = build.study.pm, build.seed_of("pm", seed, name)
    if section is None or name not in (section.sizes or build.names) or ("pm", name, seed, "train") in build.made:
        return
    most, main = largest_count(section), main_variants(section)
    for variant in pm_variants(section):
        scores_policies = variant in main and variant.n_comparisons == most
        build.add(("pm", name, seed, variant.half) if scores_policies else None, pm(build, name, seed, variant))


def pm(build: Expansion, name: str, seed: int, variant: PMVariant) -> Stage:
    """One preference model of a size."""
    section = build.study.pm
    assert section is not None
    compute = build.compute(section.compute, name)
    config = pm_config(section, variant, build.sizes[name], seed, compute, build.probes)
    parents = {"data": build.made["data",], "base": build.base(name, seed)}
    parents |= {"pmp": pmp(build, name, seed)} if variant.pretrained else {}
    where = build.probes_where if variant.probed else {}
    return build.stage("pm", f"pm-{name}-s{seed}-{variant.slug}", config, parents, where=where)


def pmp(build: Expansion, name: str, seed: int) -> Stage:
    """The pretraining that preference models of the size and seed start from."""
    section = build.study.pmp
    assert section is not None
    if ("pmp", name, seed) not in build.made:
        config = pmp_config(section, build.sizes[name], seed, build.compute(section.compute, name))
        parents = {"data": build.made["data",], "base": build.base(name, seed)}
        build.add(("pmp", name, seed), build.stage("pmp", f"pmp-{name}-s{seed}", config, parents))
    return build.made["pmp", name, seed]


def add_reference(build: Expansion, name: str, seed: int) -> Stage | None:
    """The reference of the chain of ``seed``; None where the base itself is the reference."""
    section, seed = build.study.reference, build.seed_of("reference", seed, name)
    if section.kind == "none":
        return None
    if ("reference", name, seed) not in build.made:
        config = ReferenceConfig(
            size=build.sizes[name],
            seed=seed,
            training=pick(section, ReferenceTraining),
            compute=build.compute(section.compute, name),
        )
        parents = {"data": build.made["data",], "base": build.base(name, seed)}
        if section.kind == "context_distillation":
            parents["teacher"] = teacher(build, name if section.teacher == "same" else section.teacher, seed)
        build.add(("reference", name, seed), build.stage("reference", f"reference-{name}-s{seed}", config, parents))
    return build.made["reference", name, seed]


def teacher(build: Expansion, name: str, seed: int) -> Stage:
    """What a size's base in the chain of ``seed`` says with the prompt; shared by all students it has."""
    if ("teacher", name, seed) not in build.made:
        section = build.study.reference
        prompt, where = build.inputs.prompt
        config = TeacherConfig(
            size=build.sizes[name],
            seed=seed,
            prompt=prompt,
            targets=pick(section, DistillationTargets),
            compute=build.compute(section.compute, name),
        )
        parents = {"data": build.made["data",], "base": build.base(name, seed)}
        stage = build.stage("teacher", f"teacher-{name}-s{seed}", config, parents, where=where)
        build.add(("teacher", name, seed), stage)
    return build.made["teacher", name, seed]
