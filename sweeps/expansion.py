"""A study's graph while it is built: the stages made so far, and what all kinds of stage are made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hh_scaling.configs import Compute, Config, ForeignPMConfig, SizeSpec
from hh_scaling.stages import KINDS
from sweeps.check import LoadedStudy, made_name
from sweeps.compute import resolve_compute
from sweeps.inputs import Inputs
from sweeps.known_models import shape_of
from sweeps.load import KeyPath
from sweeps.stage import Graph, Stage, make_stage
from sweeps.study import ComputeChoice, ForeignChoice, SizeEntry, Study


class Expansion:
    """The graph as far as it is built; ``made`` finds stages again by what they are."""

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
        self.read_sizes()

    def read_sizes(self) -> None:
        """Make each size a specification without paths; local weights are known by their hash."""
        for i, (entry, name) in enumerate(zip(self.study.sizes, self.names, strict=True)):
            digest, where = self.inputs.weights(i, entry)
            own = {"n_params": entry.n_params, "architecture": entry.architecture or self.study.architecture}
            self.sizes[name] = found_elsewhere(entry, name, digest).model_copy(update=own)
            self.size_where[name], self.chosen[name] = where, entry.compute

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
        """The seed of the stage of ``kind`` that the chain of ``seed`` descends from: its own, the first one where the
        stage is shared, and with ``base_seeds`` one of the first ones in turn."""
        seeds = self.study.seeds
        if kind in self.study.share or (kind == "base" and self.sizes[name].n_params is None):
            return seeds[0]
        return seeds[seeds.index(seed) % len(self.study.first_seeds)]

    def compute(self, section: ComputeChoice, name: str) -> Compute:
        """The size's choice over the section's over the study's."""
        return resolve_compute((self.study.compute, section, self.chosen[name]), self.sizes[name].n_params)

    def base(self, name: str, seed: int) -> Stage:
        """The base that the chain of ``seed`` starts from."""
        return self.made["base", name, self.seed_of("base", seed, name)]

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


def found_elsewhere(entry: SizeEntry | ForeignChoice, name: str, digest: str | None) -> SizeSpec:
    """A model that exists, known by its revision or by its weights' hash."""
    return SizeSpec(
        name=name,
        hub=entry.hub,
        revision=entry.revision,
        weights_sha256=digest,
        trust_remote_code=entry.trust_remote_code,
    )
