"""From a study to its graph of stages: each with a complete configuration and an id hashed from it and its parents."""

from __future__ import annotations

from typing import Any

from sweeps.check import LoadedStudy
from sweeps.evaluations import add_behaviours, add_benchmarks
from sweeps.expansion import Expansion
from sweeps.inputs import Inputs
from sweeps.load import StudyError
from sweeps.models import add_base, add_data, add_pms
from sweeps.policies import add_policy
from sweeps.scoring import gold_source
from sweeps.stage import Graph


def expand(loaded: LoadedStudy, may_lack_files: bool = False) -> Graph:
    """The study's graph; StudyError lists every input file that is missing or unusable.

    With ``may_lack_files`` missing files become placeholders, for estimates only: such ids are not the real ones.
    """
    build = Expansion(loaded, Inputs(loaded, may_lack_files))
    add_data(build)
    chains = [(name, seed) for name in build.names for seed in build.study.seeds]
    for name, seed in chains:
        add_base(build, name, seed)
        add_pms(build, name, seed)
    for name, seed in chains:
        add_policy(build, name, seed)
    add_benchmarks(build)
    add_behaviours(build)
    if loaded.document.problems:
        raise StudyError(loaded.document.problems)
    return build.graph


def resolved_study(loaded: LoadedStudy) -> dict[str, Any]:
    """The study as plain values with its defaults and its sizes' names filled in."""
    values = loaded.study.model_dump(mode="json")
    for entry, name in zip(values["sizes"], loaded.size_names, strict=True):
        entry["name"] = name
    source = gold_source(loaded.study)
    if values["ppo"] is not None and source != "foreign":
        values["ppo"]["gold"] = None if source is None else values["ppo"]["gold"] | {"source": source}
    return values | {"name": loaded.name}
