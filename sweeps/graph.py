"""From a study to its graph of stages: each with a complete configuration and an id hashed from it and its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from hh_scaling.configs import (
    BaseConfig,
    BaseTraining,
    BehaviourConfig,
    BehaviourTasks,
    BenchmarkConfig,
    BenchmarkTasks,
    Compute,
    Config,
    DataConfig,
    DistillationTargets,
    ForeignPMConfig,
    Half,
    InputFile,
    PilotConfig,
    PPOConfig,
    PPOTraining,
    ReferenceConfig,
    ReferenceTraining,
    SizeSpec,
    TeacherConfig,
)
from hh_scaling.inputs import plain_name
from hh_scaling.stages import KINDS
from hh_scaling.tasks import OWN_TASKS, needed_files, needed_folders
from sweeps.check import LoadedStudy, made_name
from sweeps.compute import resolve_compute
from sweeps.inputs import Inputs
from sweeps.known_models import shape_of
from sweeps.load import KeyPath, StudyError
from sweeps.routes import best_of_n_config, interpolation_config, places_by_kind
from sweeps.scoring import choice_for_test, gold_source
from sweeps.stage import Graph, Stage, make_stage
from sweeps.study import BenchmarkSection, ComputeChoice, ForeignChoice, PMChoice, SizeEntry, Study
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


def expand(loaded: LoadedStudy, may_lack_files: bool = False) -> Graph:
    """The study's graph; StudyError lists every input file that is missing or unusable.

    With ``may_lack_files`` missing files become placeholders, for estimates only: such ids are not the real ones.
    """
    graph = Expansion(loaded, Inputs(loaded, may_lack_files)).run()
    if loaded.document.problems:
        raise StudyError(loaded.document.problems)
    return graph


def resolved_study(loaded: LoadedStudy) -> dict[str, Any]:
    """The study as plain values with its defaults and its sizes' names filled in."""
    values = loaded.study.model_dump(mode="json")
    for entry, name in zip(values["sizes"], loaded.size_names, strict=True):
        entry["name"] = name
    source = gold_source(loaded.study)
    if values["ppo"] is not None and source != "foreign":
        values["ppo"]["gold"] = None if source is None else values["ppo"]["gold"] | {"source": source}
    return values | {"name": loaded.name}


class Expansion:
    """Builds the graph section by section; ``made`` finds stages again by what they are."""

    def __init__(self, loaded: LoadedStudy, inputs: Inputs) -> None:
        self.study: Study = loaded.study
        self.names = loaded.size_names
        self.inputs = inputs
        self.graph: Graph = {}
        self.made: dict[tuple[Any, ...], Stage] = {}
        self.sizes: dict[str, SizeSpec] = {}
        self.size_where: dict[str, dict[str, str]] = {}
        self.chosen: dict[str, ComputeChoice] = {}
        self.probes, self.probes_where = inputs.probes()

    def run(self) -> Graph:
        """The whole graph, parents before children."""
        self.read_sizes()
        self.add_data()
        for name in self.names:
            for seed in self.study.seeds:
                self.add_base(name, seed)
                self.add_pms(name, seed)
        for name in self.names:
            for seed in self.study.seeds:
                self.add_policy(name, seed)
        if self.study.benchmarks is not None:
            self.add_benchmarks()
        if self.study.behaviours is not None:
            self.add_behaviours()
        return self.graph

    def add(self, key: tuple[Any, ...] | None, stage: Stage) -> None:
        """Put a stage into the graph; one that others build on is remembered by what it is."""
        if key is not None:
            self.made[key] = stage
        self.graph[stage.stage_id] = stage

    def stage(self, kind: str, slug: str, config: Config, parents: Mapping[str, Stage], **more: Any) -> Stage:
        """A stage of a registered kind."""
        ids = {role: parent.stage_id for role, parent in parents.items()}
        return make_stage(kind, slug, config, ids, KINDS[kind].entry, KINDS[kind].version, **more)

    def seed_of(self, kind: str, seed: int, name: str) -> int:
        """The seed of the stage of ``kind`` in the chain of ``seed``: the first one where the stage is shared."""
        shared = kind in self.study.share or (kind == "base" and self.sizes[name].n_params is None)
        return self.study.seeds[0] if shared else seed

    def compute(self, section: ComputeChoice, name: str) -> Compute:
        """The size's choice over the section's over the study's."""
        return resolve_compute((self.study.compute, section, self.chosen[name]), self.sizes[name].n_params)

    # ------------------------------------------------------------ sizes and data

    def read_sizes(self) -> None:
        """Make each size a specification without paths; local weights are known by their hash."""
        for i, (entry, name) in enumerate(zip(self.study.sizes, self.names, strict=True)):
            digest, where = self.inputs.weights(i, entry)
            own = {"n_params": entry.n_params, "architecture": entry.architecture or self.study.architecture}
            self.sizes[name] = found_elsewhere(entry, name, digest).model_copy(update=own)
            self.size_where[name], self.chosen[name] = where, entry.compute

    def add_data(self) -> None:
        """The data stage, and the tokenizer where a rung needs one."""
        section, world = self.study.data, self.study.world
        config = DataConfig(
            world=world,
            comparisons=None if world is not None else self.inputs.comparisons(),
            text=None if world is not None else self.inputs.text(),
            held_out_fraction=section.held_out_fraction,
            gold_fraction=section.gold_fraction,
            max_held_out=section.max_held_out,
            split_seed=section.split_seed,
            votes=self.inputs.votes(),
        )
        data = self.stage("data", "data", config, {}, where=self.inputs.where)
        self.add(("data",), data)
        if any(size.n_params is not None for size in self.sizes.values()):
            self.add(("tokenizer",), self.stage("tokenizer", "tokenizer", self.study.tokenizer, {"data": data}))

    # ------------------------------------------------------------ models

    def add_base(self, name: str, seed: int) -> None:
        """The base of a size in the chain of ``seed``, and those of a rung at other rates."""
        seed, size, section = self.seed_of("base", seed, name), self.sizes[name], self.study.base
        if ("base", name, seed) in self.made:
            return
        training = pick(section, BaseTraining)
        parents = {"data": self.made["data",]}
        if size.n_params is not None:
            parents["tokenizer"] = self.made["tokenizer",]
        else:  # a model that exists is only measured: how rungs are trained is none of its configuration
            training = BaseTraining(context=section.context, eval_tokens=section.eval_tokens)
        compute = self.compute(section.compute, name)
        for factor in (1.0, *(other_rates(section) if size.n_params is not None else ())):
            config = BaseConfig(size=size, seed=seed, training=at_rate(training, factor), compute=compute)
            slug = f"base-{name}-s{seed}{rate_slug(factor)}"
            base = self.stage("base", slug, config, parents, where=self.size_where[name])
            self.add(("base", name, seed) if factor == 1 else None, base)

    def base(self, name: str, seed: int) -> Stage:
        """The base that the chain of ``seed`` starts from."""
        return self.made["base", name, self.seed_of("base", seed, name)]

    def add_pms(self, name: str, seed: int) -> None:
        """The preference models of a size; policies are scored by those of the largest number on either half."""
        section, seed = self.study.pm, self.seed_of("pm", seed, name)
        if section is None or name not in (section.sizes or self.names) or ("pm", name, seed, "train") in self.made:
            return
        most, main = largest_count(section), main_variants(section)
        for variant in pm_variants(section):
            scores_policies = variant in main and variant.n_comparisons == most
            self.add(("pm", name, seed, variant.half) if scores_policies else None, self.pm(name, seed, variant))

    def pm(self, name: str, seed: int, variant: PMVariant) -> Stage:
        """One preference model of a size."""
        section = self.study.pm
        assert section is not None
        compute = self.compute(section.compute, name)
        config = pm_config(section, variant, self.sizes[name], seed, compute, self.probes)
        parents = {"data": self.made["data",], "base": self.base(name, seed)}
        parents |= {"pmp": self.pmp(name, seed)} if variant.pretrained else {}
        where = self.probes_where if variant.probed else {}
        return self.stage("pm", f"pm-{name}-s{seed}-{variant.slug}", config, parents, where=where)

    def pmp(self, name: str, seed: int) -> Stage:
        """The pretraining that preference models of the size and seed start from."""
        section = self.study.pmp
        assert section is not None
        if ("pmp", name, seed) not in self.made:
            config = pmp_config(section, self.sizes[name], seed, self.compute(section.compute, name))
            parents = {"data": self.made["data",], "base": self.base(name, seed)}
            self.add(("pmp", name, seed), self.stage("pmp", f"pmp-{name}-s{seed}", config, parents))
        return self.made["pmp", name, seed]

    def add_reference(self, name: str, seed: int) -> Stage | None:
        """The reference of the chain of ``seed``; None where the base itself is the reference."""
        section, seed = self.study.reference, self.seed_of("reference", seed, name)
        if section.kind == "none":
            return None
        if ("reference", name, seed) not in self.made:
            config = ReferenceConfig(
                size=self.sizes[name],
                seed=seed,
                training=pick(section, ReferenceTraining),
                compute=self.compute(section.compute, name),
            )
            parents = {"data": self.made["data",], "base": self.base(name, seed)}
            if section.kind == "context_distillation":
                parents["teacher"] = self.teacher(name if section.teacher == "same" else section.teacher, seed)
            self.add(("reference", name, seed), self.stage("reference", f"reference-{name}-s{seed}", config, parents))
        return self.made["reference", name, seed]

    def teacher(self, name: str, seed: int) -> Stage:
        """What a size's base in the chain of ``seed`` says with the prompt; shared by all students it has."""
        if ("teacher", name, seed) not in self.made:
            section = self.study.reference
            prompt, where = self.inputs.prompt
            config = TeacherConfig(
                size=self.sizes[name],
                seed=seed,
                prompt=prompt,
                targets=pick(section, DistillationTargets),
                compute=self.compute(section.compute, name),
            )
            parents = {"data": self.made["data",], "base": self.base(name, seed)}
            stage = self.stage("teacher", f"teacher-{name}-s{seed}", config, parents, where=where)
            self.add(("teacher", name, seed), stage)
        return self.made["teacher", name, seed]

    def add_policy(self, name: str, seed: int) -> None:
        """The reference (where there is one) and the policies of a size."""
        section = self.study.ppo
        reference = self.add_reference(name, seed)
        if section is None or name not in (section.sizes or self.names):
            return
        main = self.scorer(section.pm, "train", name, seed)
        test = self.scorer(choice_for_test(section), "test", name, seed)
        parents = {
            "data": self.made["data",],
            "policy": reference or self.base(name, seed),
            "pm_train": main,
            "pm_test": test,
            **self.further_tests(test, name, seed),
            **self.gold(),
        }
        for factor in (1.0, *other_rates(section)):
            config = PPOConfig(
                size=self.sizes[name],
                seed=seed,
                training=at_rate(pick(section, PPOTraining), factor),
                compute=self.compute(section.compute, name),
                world_gold=self.study.world is None or gold_source(self.study) == "world",
            )
            policy = self.stage("ppo", f"ppo-{name}-s{seed}{rate_slug(factor)}", config, parents)
            self.add(("ppo", name, seed) if factor == 1 else None, policy)
            if factor == 1:
                self.add_routes(config, policy, parents)
                self.add_crossed(config, main, parents)

    def add_crossed(self, main: PPOConfig, own: Stage, parents: Mapping[str, Stage]) -> None:
        """Beside the main policy of the first seed one for each other train PM, and the best of n by that PM."""
        section, name, seed = self.study.ppo, main.size.name, main.seed
        assert section is not None
        for size in section.pm_sizes if seed == self.study.seeds[0] else ():
            scorer = self.scorer(PMChoice(size=size), "train", name, seed)
            if scorer is own:
                continue
            config, crossed = main.model_copy(update={"train_pm": size}), {**parents, "pm_train": scorer}
            self.add(None, self.stage("ppo", f"ppo-{name}-s{seed}-by-{size}", config, crossed))
            if self.study.best_of_n is not None:
                pool = best_of_n_config(self.study.best_of_n, config)
                self.add(None, self.stage("best_of_n", f"best-of-n-{name}-s{seed}-by-{size}", pool, crossed))

    def further_tests(self, own: Stage, name: str, seed: int) -> dict[str, Stage]:
        """Test PMs of other sizes that follow a policy of size ``name``, by their role."""
        sizes = self.study.ppo.test_pm_sizes if self.study.ppo is not None else ()
        found = {f"pm_test_{size}": self.scorer(PMChoice(size=size), "test", name, seed) for size in sizes}
        return {role: stage for role, stage in found.items() if stage is not own}

    def add_routes(self, config: PPOConfig, policy: Stage, parents: Mapping[str, Stage]) -> None:
        """Beside the main policy of a size, the other ways to a higher score that the study asks for."""
        study, name, seed = self.study, config.size.name, config.seed
        if study.best_of_n is not None:
            pool = best_of_n_config(study.best_of_n, config)
            self.add(None, self.stage("best_of_n", f"best-of-n-{name}-s{seed}", pool, parents))
        if study.interpolation is not None:
            line = interpolation_config(study.interpolation, config)
            ends = {**parents, "policy": policy, "reference": parents["policy"]}
            stage = self.stage("interpolation", f"interpolation-{name}-s{seed}", line, ends)
            self.add(("interpolation", name, seed), stage)

    def scorer(self, choice: PMChoice, half: Half, name: str, seed: int) -> Stage:
        """The preference model of that half which scores the policies of size ``name``."""
        if choice.is_foreign:
            return self.foreign(("ppo", "pm" if half == "train" else "test_pm"), choice)
        size = name if choice.size in (None, "same") else self.largest() if choice.size == "largest" else choice.size
        assert size is not None
        return self.made["pm", size, self.seed_of("pm", seed, size), half]

    def largest(self) -> str:
        """The largest of the sizes that have preference models."""
        assert self.study.pm is not None
        scored = self.study.pm.sizes or self.names
        return max(scored, key=lambda size: (self.n_params(size), self.names.index(size)))

    def gold(self) -> dict[str, Stage]:
        """The preference model, shared by all policies, whose score is the gold score: none or one."""
        source = gold_source(self.study)
        if source == "foreign":
            assert self.study.ppo is not None and self.study.ppo.gold is not None
            return {"pm_gold": self.foreign(("ppo", "gold"), self.study.ppo.gold)}
        if source != "largest":
            return {}
        key = ("pm", self.largest(), self.study.seeds[0], "gold")
        if key not in self.made:
            self.add(key, self.pm(*key[1:3], PMVariant(n_comparisons=None, half="gold")))
        return {"pm_gold": self.made[key]}

    def foreign(self, key: KeyPath, choice: ForeignChoice) -> Stage:
        """The stage that finds and tries the classifier which that key of the study names."""
        if ("foreign_pm", key) not in self.made:
            digest, where = self.inputs.classifier(key, choice)
            name = choice.name or made_name(SizeEntry(hub=choice.hub, path=choice.path))
            config = ForeignPMConfig(size=found_elsewhere(choice, name, digest))
            stage = self.stage("foreign_pm", f"foreign-pm-{name}", config, {}, where=where)
            self.add(("foreign_pm", key), stage)
        return self.made["foreign_pm", key]

    def n_params(self, name: str) -> int:
        """Non-embedding parameters of a size; 0 where they are not known."""
        shape = shape_of(self.sizes[name], self.study.tokenizer.vocab_size, self.size_where[name].get("size.path"))
        return 0 if shape is None else shape.n_params

    # ------------------------------------------------------------ benchmarks

    def add_benchmarks(self) -> None:
        """Benchmarks of every base, reference, policy (at each of its checkpoints) and interpolation."""
        section = self.study.benchmarks
        assert section is not None
        files, where = self.inputs.benchmarks()
        models = list(self.evaluated(section.at))
        for k_shot, names in shots_and_tasks(section):
            tasks = BenchmarkTasks(
                tasks=names, files=files if k_shot else without_examples(files, names), limit=section.limit,
                num_fewshot=k_shot, seed=section.seed, run_code=section.run_code, lm_eval_files=section.lm_eval_files,
            )  # fmt: skip
            pilots = self.add_pilots(tasks, where) if section.precision is not None else {}
            for (kind, name, seed), model, at in models:
                compute = self.compute(section.compute, name)
                config = BenchmarkConfig(size=self.sizes[name], seed=seed, at=at, tasks=tasks, compute=compute)
                slug = f"benchmark-{name}-s{seed}-{kind}" + (f"-{at}" if at else "")
                slug += f"-k{k_shot}" if len(section.num_fewshot) > 1 else ""
                parents = {"data": self.made["data",], "model": model, **pilots}
                stage = self.stage("benchmark", slug, config, parents, where=where)
                self.add(("benchmark", name, seed, kind, at, k_shot), stage)

    def add_pilots(self, tasks: BenchmarkTasks, where: dict[str, str]) -> dict[str, Stage]:
        """A pilot of every size that has a policy, in its first chain: what the sizes need is known before any is
        measured, since all models get the same items."""
        section = self.study.benchmarks
        assert section is not None and section.precision is not None
        at = "end" if "end" in section.at else section.at[-1]
        few = tasks.model_copy(update={"limit": section.pilot_items, "lm_eval_files": False})
        pilots = {}
        for name in self.names:
            policy = self.made.get(("ppo", name, self.study.seeds[0]))
            if policy is None:
                continue
            seed = self.study.seeds[0]
            config = PilotConfig(
                size=self.sizes[name], seed=seed, at=at, tasks=few, precision=section.precision,
                compute=self.compute(section.compute, name),
            )  # fmt: skip
            slug = f"pilot-{name}-s{seed}" + (f"-k{tasks.num_fewshot}" if len(section.num_fewshot) > 1 else "")
            parents = {"data": self.made["data",], "before": self.base(name, seed), "after": policy}
            pilots[f"pilot {name}"] = self.stage("pilot", slug, config, parents, where=where)
            self.add(None, pilots[f"pilot {name}"])
        return pilots

    def evaluated(self, at: Sequence[str]) -> list[tuple[tuple[str, str, int], Stage, str | None]]:
        """(kind, size, seed), stage and weights (None: the model itself) of every base, reference, policy (at each of
        its checkpoints) and interpolation."""
        places = places_by_kind(at)
        models = [(key, stage) for key, stage in self.made.items() if key[0] in places]
        return [(key, stage, place) for key, stage in models for place in places[key[0]]]

    def add_behaviours(self) -> None:
        """The paper's other evaluations of the same models."""
        section = self.study.behaviours
        assert section is not None
        tasks = BehaviourTasks(**{name: getattr(section, name) for name in BehaviourTasks.model_fields})
        classifier, where = None, {}
        if (choice := section.sentiment) is not None:
            digest, found = self.inputs.classifier(("behaviours", "sentiment"), choice, one_label=False)
            name = choice.name or made_name(SizeEntry(hub=choice.hub, path=choice.path))
            classifier = found_elsewhere(choice, name, digest)
            where = {key.replace("size.", "classifier."): path for key, path in found.items()}
        for (kind, name, seed), model, at in self.evaluated(section.at):
            config = BehaviourConfig(
                size=self.sizes[name], seed=seed, at=at, tasks=tasks, classifier=classifier,
                compute=self.compute(section.compute, name),
            )  # fmt: skip
            slug = f"behaviour-{name}-s{seed}-{kind}" + (f"-{at}" if at else "")
            parents = {"data": self.made["data",], "model": model}
            self.add(None, self.stage("behaviour", slug, config, parents, where=where))


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


def found_elsewhere(entry: SizeEntry | ForeignChoice, name: str, digest: str | None) -> SizeSpec:
    """A model that exists, known by its revision or by its weights' hash."""
    return SizeSpec(
        name=name,
        hub=entry.hub,
        revision=entry.revision,
        weights_sha256=digest,
        trust_remote_code=entry.trust_remote_code,
    )
