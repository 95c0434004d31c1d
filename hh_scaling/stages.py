"""The kinds of stage: configuration, entry point, version. Importing this loads no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hh_scaling import configs
from hh_scaling.records import StageWriter, Status


@dataclass(frozen=True)
class StageResult:
    """What a stage returns: its summary, and ``diverged`` where that is how it ended."""

    summary: dict[str, Any]
    status: Status = "done"


@dataclass(frozen=True)
class StageContext:
    """Everything a stage may look at besides its configuration."""

    parents: Mapping[str, Path]  # role -> finished stage folder
    out: StageWriter
    where: Mapping[str, str]  # InputFile.name -> path on this machine


@dataclass(frozen=True)
class StageKind:
    """A kind of stage. ``version`` rises when its code changes what the same configuration gives."""

    config: type[configs.Config]
    entry: str  # "module:function", called as function(config, context) -> StageResult
    version: int = 1

    def load(self) -> Callable[[Any, StageContext], StageResult]:
        module, _, name = self.entry.partition(":")
        function: Callable[[Any, StageContext], StageResult] = getattr(importlib.import_module(module), name)
        return function


KINDS: dict[str, StageKind] = {
    "data": StageKind(configs.DataConfig, "hh_scaling.data:run"),
    "tokenizer": StageKind(configs.TokenizerConfig, "hh_scaling.tokenizer:run"),
    "base": StageKind(configs.BaseConfig, "hh_scaling.pretrain:run"),
    "teacher": StageKind(configs.TeacherConfig, "hh_scaling.teacher:run"),
    "reference": StageKind(configs.ReferenceConfig, "hh_scaling.reference:run"),
    "pmp": StageKind(configs.PMPConfig, "hh_scaling.pmp:run"),
    "pm": StageKind(configs.PMConfig, "hh_scaling.pm:run", version=5),
    "foreign_pm": StageKind(configs.ForeignPMConfig, "hh_scaling.foreign_pm:run"),
    "ppo": StageKind(configs.PPOConfig, "hh_scaling.ppo:run", version=7),
    "best_of_n": StageKind(configs.BestOfNConfig, "hh_scaling.best_of_n:run"),
    "interpolation": StageKind(configs.InterpolationConfig, "hh_scaling.interpolate:run"),
    "pilot": StageKind(configs.PilotConfig, "hh_scaling.pilot:run"),
    "benchmark": StageKind(configs.BenchmarkConfig, "hh_scaling.benchmarks:run", version=2),
    "behaviour": StageKind(configs.BehaviourConfig, "hh_scaling.behaviours:run"),
}
