"""One node of a study's graph: a complete configuration, parents, and an id hashed from both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hh_scaling.configs import Compute, Config, SizeSpec
from hh_scaling.records import config_hash


@dataclass(frozen=True)
class Stage:
    """One node of the graph; everything a worker needs to run it."""

    stage_id: str
    kind: str
    config: Config
    parents: Mapping[str, str]  # role -> stage_id
    entry: str  # "module:function"
    version: int = 1
    where: Mapping[str, str] = field(default_factory=dict)  # input name -> path on this machine; not hashed

    @property
    def threads(self) -> int:
        """How many threads the stage computes with."""
        compute = getattr(self.config, "compute", None)
        return compute.threads if isinstance(compute, Compute) else 1

    @property
    def size(self) -> str | None:
        """The name of the stage's size, where it has one."""
        size = getattr(self.config, "size", None)
        return size.name if isinstance(size, SizeSpec) else None

    def to_json(self) -> dict[str, Any]:
        """The stage as plain values, as ``study.json`` and the worker have it."""
        config_type = type(self.config)
        return {
            "stage_id": self.stage_id,
            "kind": self.kind,
            "version": self.version,
            "entry": self.entry,
            "config_type": f"{config_type.__module__}:{config_type.__qualname__}",
            "config": self.config.model_dump(mode="json"),
            "parents": dict(self.parents),
            "where": dict(self.where),
            "threads": self.threads,
        }


Graph = dict[str, Stage]  # by stage_id, parents before children


def make_stage(
    kind: str,
    slug: str,
    config: Config,
    parents: Mapping[str, str],
    entry: str,
    version: int = 1,
    where: Mapping[str, str] | None = None,
) -> Stage:
    """A stage with its id: the slug and 12 digits of the hash of kind, version, configuration and parents' ids."""
    content = {"kind": kind, "version": version, "config": config.model_dump(mode="json"), "parents": dict(parents)}
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", slug)
    return Stage(f"{plain}-{config_hash(content)}", kind, config, dict(parents), entry, version, dict(where or {}))
