"""What a study would run and cost, before it runs: a cost for every stage, sums, and the longest chain."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hh_scaling.configs import DataConfig, HHFiles, SizeSpec, TokenizerConfig
from hh_scaling.records import RecordError, RunStore
from sweeps.costs import ASSUMED, Cost, Sizing, stage_cost
from sweeps.known_models import ModelShape, shape_of
from sweeps.machines import DEFAULT_GPU, GPUS, Machine, cores, this_cpu
from sweeps.stage import Graph, Stage

HUB_COMPARISONS = 160_800  # rows of Anthropic/hh-rlhf's train split
LOCAL_COMPARISONS = 8_000  # a guess where a study has yet to be told which files
BYTES_A_ROW = {True: 370.0, False: 1100.0}  # of an HH comparison: compressed, plain


@dataclass(frozen=True)
class Plan:
    """Every stage's cost, in the graph's order, on one machine."""

    graph: Graph
    costs: dict[str, Cost]
    machine: Machine
    measured: dict[str, float]  # stage_id -> seconds, of stages that are finished
    refined: bool  # whether finished stages corrected the estimates

    def remaining(self) -> list[str]:
        """Ids of the stages that are not finished, in the graph's order."""
        return [stage_id for stage_id in self.graph if stage_id not in self.measured]

    def wall_seconds(self) -> float:
        """How long the remaining stages take on this many threads: their work shared out, or their longest chain."""
        work = sum(self.costs[i].seconds * self.graph[i].threads for i in self.remaining())
        slots = 1 if self.machine.is_gpu else cores()
        return max(work / slots, longest_chain(self.graph, {i: self.costs[i].seconds for i in self.remaining()}))


def machine_for(graph: Graph) -> Machine:
    """This machine's processor, or an accelerator where the study's stages ask for one."""
    devices = {stage.config.compute.device for stage in graph.values() if hasattr(stage.config, "compute")}
    return this_cpu() if devices <= {"cpu"} else GPUS[DEFAULT_GPU]


def make_plan(graph: Graph, machine: Machine, store: RunStore | None = None) -> Plan:
    """The cost of each stage; finished stages of the same kind and size in ``store`` correct the seconds."""
    costs = {stage.stage_id: stage_cost(stage.config, sizing(stage, graph), machine) for stage in graph.values()}
    measured = {} if store is None else measured_seconds(graph, store)
    if not measured or machine.is_gpu:
        return Plan(graph, costs, machine, measured, refined=False)
    factor = Correction(graph, {i: cost.seconds for i, cost in costs.items()}, measured)
    corrected = {i: replace(cost, seconds=cost.seconds * factor(graph[i])) for i, cost in costs.items()}
    return Plan(graph, corrected, machine, measured, refined=True)


def sizing(stage: Stage, graph: Graph) -> Sizing | None:
    """The shapes and data sizes that the stage's cost depends on; None where the model's shape is not known."""
    shape = model_shape(stage, graph)
    if shape is None:
        return None
    scorer = graph.get(stage.parents.get("pm_train", ""))
    others = [graph[parent] for role, parent in stage.parents.items() if role.startswith(("pm_test", "pm_gold"))]
    data = next(s for s in graph.values() if s.kind == "data")
    assert isinstance(data.config, DataConfig)
    n_rows = comparisons_in(data.config)
    n_held_out = n_rows * data.config.held_out_fraction
    return Sizing(
        shape=shape,
        scorer=shape if scorer is None else model_shape(scorer, graph) or shape,
        followers=tuple(model_shape(pm, graph) or shape for pm in others),
        n_pairs=votes_in(data.config) if stage.kind == "pmp" else n_rows * part_fraction(stage, data.config),
        n_held_out=min(n_held_out, data.config.max_held_out or n_held_out),
    )


def part_fraction(stage: Stage, data: DataConfig) -> float:
    """The share of the comparisons that are in the part which a preference model is trained on."""
    if getattr(stage.config, "half", None) == "gold":
        return data.gold_fraction
    return (1 - data.held_out_fraction - data.gold_fraction) / 2


def model_shape(stage: Stage, graph: Graph) -> ModelShape | None:
    """The shape of the stage's model, or None."""
    size = getattr(stage.config, "size", None)
    if not isinstance(size, SizeSpec):
        return None
    tokenizers = [s.config for s in graph.values() if isinstance(s.config, TokenizerConfig)]
    places = [s.where for s in graph.values() if s.kind == "base" and s.size == stage.size]
    where = stage.where if stage.kind == "foreign_pm" else places[0] if places else {}
    named = size if "size.gguf" not in where else size.model_copy(update={"gguf": where["size.gguf"]})
    return shape_of(named, tokenizers[0].vocab_size if tokenizers else 0, where.get("size.path"))


def comparisons_in(config: DataConfig) -> float:
    """How many comparisons the data stage has, estimated from the files' sizes."""
    return float(config.world.n_comparisons) if config.world is not None else rows_in(config.comparisons)


def votes_in(config: DataConfig) -> float:
    """How many votes it has, likewise."""
    if config.votes is not None:
        return rows_in(config.votes)
    return float(config.world.n_votes) if config.world is not None else 0.0


def rows_in(source: HHFiles | None) -> float:
    """How many rows files or a hub's data set have."""
    if source is None or not source.files:
        return float(HUB_COMPARISONS if source is not None and source.hub is not None else LOCAL_COMPARISONS)
    return sum(file.bytes / BYTES_A_ROW[file.name.endswith((".gz", ".xz"))] for file in source.files)


# ---------------------------------------------------------------- from finished stages


def measured_seconds(graph: Graph, store: RunStore) -> dict[str, float]:
    """Seconds that the finished stages of the graph took, by stage_id."""
    seconds = {}
    for stage_id in graph:
        path = store.stage_path(stage_id)
        if not path.is_dir():
            continue
        try:
            record = store.record(stage_id)
        except RecordError:
            continue
        if record is not None and record.status in ("done", "diverged"):
            seconds[stage_id] = float(record.provenance.get("seconds", 0.0))
    return seconds


class Correction:
    """Measured over estimated seconds: of the same kind and size, else of the kind, else of all finished stages."""

    def __init__(self, graph: Graph, estimated: Mapping[str, float], measured: Mapping[str, float]) -> None:
        groups: dict[Any, list[float]] = defaultdict(list)
        for stage_id, seconds in measured.items():
            stage = graph[stage_id]
            ratio = max(seconds, 0.01) / max(estimated.get(stage_id, 1.0), 0.01)
            groups[stage.kind, stage.size].append(ratio)
            groups[stage.kind].append(ratio)
        self.ratios = {key: statistics.median(ratios) for key, ratios in groups.items()}

    def __call__(self, stage: Stage) -> float:
        return self.ratios.get((stage.kind, stage.size), self.ratios.get(stage.kind, 1.0))


# ---------------------------------------------------------------- chains


def chain_seconds(graph: Graph, seconds: Mapping[str, float]) -> dict[str, float]:
    """For each stage, the seconds from its start to the end of the longest chain of stages that begins with it."""
    after: dict[str, float] = defaultdict(float)
    result: dict[str, float] = {}
    for stage in reversed(graph.values()):
        result[stage.stage_id] = seconds.get(stage.stage_id, 0.0) + after[stage.stage_id]
        for parent in stage.parents.values():
            after[parent] = max(after[parent], result[stage.stage_id])
    return result


def longest_chain(graph: Graph, seconds: Mapping[str, float]) -> float:
    """Seconds of the longest chain of stages."""
    return max(chain_seconds(graph, seconds).values(), default=0.0)


# ---------------------------------------------------------------- as plain values


def plan_json(plan: Plan, name: str, warnings: list[str]) -> dict[str, Any]:
    """The whole plan as ``plan --json -`` prints it; schema 1."""
    stages = []
    for stage in plan.graph.values():
        cost = plan.costs[stage.stage_id]
        shape = model_shape(stage, plan.graph)
        stages.append(
            stage.to_json()
            | {
                "n_params": None if shape is None else shape.n_params,
                "n_params_total": None if shape is None else shape.n_params_total,
                "finished": stage.stage_id in plan.measured,
                "tokens": round(cost.tokens),
                "flops": cost.flops,
                "seconds": cost.seconds,
                "seconds_measured": plan.measured.get(stage.stage_id),
                "memory_bytes": round(cost.memory_bytes),
                "fits_memory": cost.memory_bytes <= plan.machine.memory_bytes,
                "disk_bytes": round(cost.disk_bytes),
            }
        )
    left = plan.remaining()
    return {
        "schema": 1,
        "study": name,
        "machine": {"name": plan.machine.name, "rates": plan.machine.note, "memory_bytes": plan.machine.memory_bytes},
        "assumed": list(ASSUMED),
        "refined_by_finished_stages": plan.refined,
        "warnings": warnings,
        "stages": stages,
        "totals": {
            "stages": len(stages),
            "remaining": len(left),
            "flops": sum(plan.costs[i].flops for i in left),
            "stage_seconds": sum(plan.costs[i].seconds for i in left),
            "wall_seconds": plan.wall_seconds(),
            "peak_memory_bytes": max((plan.costs[i].memory_bytes for i in left), default=0.0),
            "disk_bytes": sum(plan.costs[i].disk_bytes for i in left),
        },
    }
