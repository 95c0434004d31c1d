"""The policies of a study, who scores them, and the other ways to a higher score that stand beside them."""

from __future__ import annotations

from collections.abc import Mapping

from hh_scaling.configs import Half, PPOConfig
from sweeps.expansion import Expansion
from sweeps.models import add_reference, pm
from sweeps.routes import best_of_n_config, interpolation_config
from sweeps.scoring import choice_for_test, gold_source
from sweeps.stage import Stage
from sweeps.study import PMChoice
from sweeps.variants import PMVariant, ppo_training, ppo_variants


def add_policy(build: Expansion, name: str, seed: int) -> None:
    """The reference (where there is one) and the policies of a size; the chains of later seeds than ``base_seeds`` have
    the main one alone."""
    section = build.study.ppo
    reference = add_reference(build, name, seed)
    if section is None or name not in (section.sizes or build.names):
        return
    main = scorer(build, section.pm, "train", name, seed)
    test = scorer(build, choice_for_test(section), "test", name, seed)
    parents = {
        "data": build.made["data",],
        "policy": reference or build.base(name, seed),
        "pm_train": main,
        "pm_test": test,
        **further_tests(build, test, name, seed),
        **gold(build),
    }
    first = seed in build.study.first_seeds
    for variant in ppo_variants(section) if first else ppo_variants(section)[:1]:
        config = PPOConfig(
            size=build.sizes[name],
            seed=seed,
            training=ppo_training(section, variant),
            compute=build.compute(section.compute, name),
            world_gold=build.study.world is None or gold_source(build.study) == "world",
        )
        policy = build.stage("ppo", f"ppo-{name}-s{seed}{variant.slug}", config, parents)
        build.add((f"ppo{variant.slug}", name, seed) if variant.benchmarked else None, policy)
        if first and not variant.slug:
            add_routes(build, config, policy, parents)
            add_crossed(build, config, main, parents)


def add_crossed(build: Expansion, main: PPOConfig, own: Stage, parents: Mapping[str, Stage]) -> None:
    """Beside the main policy of the first seed one for each other train PM, and the best of n by that PM."""
    section, name, seed = build.study.ppo, main.size.name, main.seed
    assert section is not None
    for size in section.pm_sizes if seed == build.study.seeds[0] else ():
        other = scorer(build, PMChoice(size=size), "train", name, seed)
        if other is own:
            continue
        config, crossed = main.model_copy(update={"train_pm": size}), {**parents, "pm_train": other}
        build.add(None, build.stage("ppo", f"ppo-{name}-s{seed}-by-{size}", config, crossed))
        if build.study.best_of_n is not None:
            pool = best_of_n_config(build.study.best_of_n, config)
            build.add(None, build.stage("best_of_n", f"best-of-n-{name}-s{seed}-by-{size}", pool, crossed))


def further_tests(build: Expansion, own: Stage, name: str, seed: int) -> dict[str, Stage]:
    """Test PMs of other sizes that follow a policy of size ``name``, by their role."""
    sizes = build.study.ppo.test_pm_sizes if build.study.ppo is not None else ()
    found = {f"pm_test_{size}": scorer(build, PMChoice(size=size), "test", name, seed) for size in sizes}
    return {role: stage for role, stage in found.items() if stage is not own}


def add_routes(build: Expansion, config: PPOConfig, policy: Stage, parents: Mapping[str, Stage]) -> None:
    """Beside the main policy of a size, the other ways to a higher score that the study asks for."""
    study, name, seed = build.study, config.size.name, config.seed
    if study.best_of_n is not None:
        pool = best_of_n_config(study.best_of_n, config)
        build.add(None, build.stage("best_of_n", f"best-of-n-{name}-s{seed}", pool, parents))
    if study.interpolation is not None:
        line = interpolation_config(study.interpolation, config)
        ends = {**parents, "policy": policy, "reference": parents["policy"]}
        stage = build.stage("interpolation", f"interpolation-{name}-s{seed}", line, ends)
        build.add(("interpolation", name, seed), stage)


def scorer(build: Expansion, choice: PMChoice, half: Half, name: str, seed: int) -> Stage:
    """The preference model of that half which scores the policies of size ``name``."""
    if choice.is_foreign:
        return build.foreign(("ppo", "pm" if half == "train" else "test_pm"), choice)
    size = name if choice.size in (None, "same") else largest(build) if choice.size == "largest" else choice.size
    assert size is not None
    return build.made["pm", size, build.seed_of("pm", seed, size), half]


def largest(build: Expansion) -> str:
    """The largest of the sizes that have preference models."""
    assert build.study.pm is not None
    scored = build.study.pm.sizes or build.names
    return max(scored, key=lambda size: (build.n_params(size), build.names.index(size)))


def gold(build: Expansion) -> dict[str, Stage]:
    """The preference model, shared by all policies, whose score is the gold score: none or one."""
    source = gold_source(build.study)
    if source == "foreign":
        assert build.study.ppo is not None and build.study.ppo.gold is not None
        return {"pm_gold": build.foreign(("ppo", "gold"), build.study.ppo.gold)}
    if source != "largest":
        return {}
    key = ("pm", largest(build), build.study.seeds[0], "gold")
    if key not in build.made:
        build.add(key, pm(build, *key[1:3], PMVariant(n_comparisons=None, half="gold")))
    return {"pm_gold": build.made[key]}
