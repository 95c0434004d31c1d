"""Benchmarks of a study's models with their pilots, and the paper's other evaluations that need no people."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from hh_scaling.configs import BehaviourConfig, BehaviourTasks, BenchmarkConfig, BenchmarkTasks, InputFile, PilotConfig
from hh_scaling.inputs import plain_name
from hh_scaling.tasks import OWN_TASKS, needed_files, needed_folders
from sweeps.check import made_name
from sweeps.expansion import Expansion, found_elsewhere
from sweeps.routes import places_by_kind
from sweeps.stage import Stage
from sweeps.study import BenchmarkSection, SizeEntry


def add_benchmarks(build: Expansion) -> None:
    """Benchmarks of every base, reference, policy (at each of its checkpoints) and interpolation."""
    section = build.study.benchmarks
    if section is None:
        return
    files, where = build.inputs.benchmarks()
    models = list(evaluated(build, section.at))
    for k_shot, names in shots_and_tasks(section):
        tasks = BenchmarkTasks(
            tasks=names, files=files if k_shot else without_examples(files, names), limit=section.limit,
            num_fewshot=k_shot, seed=section.seed, run_code=section.run_code, lm_eval_files=section.lm_eval_files,
        )  # fmt: skip
        pilots = add_pilots(build, tasks, where) if section.precision is not None else {}
        for (kind, name, seed), model, at in models:
            compute = build.compute(section.compute, name)
            config = BenchmarkConfig(size=build.sizes[name], seed=seed, at=at, tasks=tasks, compute=compute)
            slug = f"benchmark-{name}-s{seed}-{kind}" + (f"-{at}" if at else "")
            slug += f"-k{k_shot}" if len(section.num_fewshot) > 1 else ""
            parents = {"data": build.made["data",], "model": model, **pilots}
            stage = build.stage("benchmark", slug, config, parents, where=where)
            build.add(("benchmark", name, seed, kind, at, k_shot), stage)


def add_pilots(build: Expansion, tasks: BenchmarkTasks, where: dict[str, str]) -> dict[str, Stage]:
    """A pilot of every size that has a policy, in its first chain: what the sizes need is known before any is
    measured, since all models get the same items."""
    section = build.study.benchmarks
    assert section is not None and section.precision is not None
    at = "end" if "end" in section.at else section.at[-1]
    few = tasks.model_copy(update={"limit": section.pilot_items, "lm_eval_files": False})
    pilots = {}
    for name in build.names:
        policy = build.made.get(("ppo", name, build.study.seeds[0]))
        if policy is None:
            continue
        seed = build.study.seeds[0]
        config = PilotConfig(
            size=build.sizes[name], seed=seed, at=at, tasks=few, precision=section.precision,
            compute=build.compute(section.compute, name),
        )  # fmt: skip
        slug = f"pilot-{name}-s{seed}" + (f"-k{tasks.num_fewshot}" if len(section.num_fewshot) > 1 else "")
        parents = {"data": build.made["data",], "before": build.base(name, seed), "after": policy}
        pilots[f"pilot {name}"] = build.stage("pilot", slug, config, parents, where=where)
        build.add(None, pilots[f"pilot {name}"])
    return pilots


def evaluated(build: Expansion, at: Sequence[str]) -> list[tuple[tuple[str, str, int], Stage, str | None]]:
    """(kind, size, seed), stage and weights (None: the model itself) of every base, reference, policy (at each of
    its checkpoints) and interpolation.

    A policy with another ``ptx_coef`` than the main one's has a kind of its own, such as ``ppo-ptx1``.
    """
    places = places_by_kind(at)
    return [(key, stage, place) for key, stage in build.made.items() for place in places.get(stage.kind, ())]


def add_behaviours(build: Expansion) -> None:
    """The paper's other evaluations of the same models."""
    section = build.study.behaviours
    if section is None:
        return
    tasks = BehaviourTasks(**{name: getattr(section, name) for name in BehaviourTasks.model_fields})
    classifier, where = None, {}
    if (choice := section.sentiment) is not None:
        digest, found = build.inputs.classifier(("behaviours", "sentiment"), choice, one_label=False)
        name = choice.name or made_name(SizeEntry(hub=choice.hub, path=choice.path))
        classifier = found_elsewhere(choice, name, digest)
        where = {key.replace("size.", "classifier."): path for key, path in found.items()}
    for (kind, name, seed), model, at in evaluated(build, section.at):
        if kind.startswith("ppo-"):
            continue
        config = BehaviourConfig(
            size=build.sizes[name], seed=seed, at=at, tasks=tasks, classifier=classifier,
            compute=build.compute(section.compute, name),
        )  # fmt: skip
        slug = f"behaviour-{name}-s{seed}-{kind}" + (f"-{at}" if at else "")
        parents = {"data": build.made["data",], "model": model}
        build.add(None, build.stage("behaviour", slug, config, parents, where=where))


def without_examples(files: tuple[InputFile, ...], names: tuple[str, ...]) -> tuple[InputFile, ...]:
    """The files that tasks without examples read: what others need besides is none of their configuration."""
    local, folders = needed_files(names), needed_folders(names)
    return tuple(
        file
        for file in files
        if plain_name(file.name.rpartition("/")[2]) in local or any(fnmatch(file.name, each) for each in folders)
    )


def shots_and_tasks(section: BenchmarkSection) -> list[tuple[int, tuple[str, ...]]]:
    """Every number of examples with the tasks that are asked with it: tasks that take none are asked once."""
    found = []
    for i, k_shot in enumerate(section.num_fewshot):
        takes = (name for name in section.tasks if (own := OWN_TASKS.get(name)) is None or own.few_shot)
        found.append((k_shot, section.tasks if i == 0 else tuple(takes)))
    return [(k_shot, names) for k_shot, names in found if names]
