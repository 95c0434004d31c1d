"""What a learning rate is judged by: held-out loss of bases, log loss of PMs, the end score of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.frames import Model, Study, join_notes, stage_table
from analysis.frontier import Curve, spread
from analysis.held_out import Floats, HeldOut, Objects
from analysis.overoptimisation import LAST
from analysis.pools import PM, Pool, varied
from hh_scaling.records import Record

BASE_FILE = "held_out.parquet"  # of a base stage: its held-out loss by document
BASE_COLUMNS = ("document", "nats", "tokens")


@dataclass(frozen=True)
class Yardstick:
    """What runs of one kind are measured by; a loss of less than ``margin`` (in ``unit``) does not matter."""

    kind: str
    measure: str
    unit: str
    margin: float
    higher_is_better: bool


# Margins: a tenth more parameters is worth about 0.02 nats a token (slope 0.2 per ln N); 0.02 nats a pair go with about
# 1.5 points of accuracy; policies end 1 to 3 standard deviations above their start.
BASE = Yardstick("base", "held_out_loss", "nats a token", 0.02, higher_is_better=False)
PREFERENCE = Yardstick("pm", "log_loss", "nats a pair", 0.02, higher_is_better=False)
GOLD = Yardstick("ppo", "gold", "sd of the gold scores at the start", 0.25, higher_is_better=True)
TEST = Yardstick("ppo", "score_test", "sd of the test PM's scores", 0.25, higher_is_better=True)


@dataclass(frozen=True)
class Run:
    """One run's measure on n items, their mean weighted; or, with ``se``, a single number whose items are not known."""

    seed: str  # what is the same for the runs at another rate
    values: Floats  # (n,)
    item: Objects  # (n,)
    weights: Floats  # (n,)
    se: float | None = None
    n: int | None = None  # items behind a single number


@dataclass(frozen=True)
class Arm:
    """All runs of one size at one rate factor."""

    runs: tuple[Run, ...]
    sqrt_kl: float | None = None
    n_diverged: int | None = None  # policies that collapsed; None where that is not measured
    note: str | None = None


@dataclass(frozen=True)
class RateSize:
    """One size's arms by rate factor."""

    model: Model
    arms: dict[float, Arm]


def factor_of(study: Study, record: Record) -> float | None:
    """The rate factor of a stage that varies nothing else; None for others."""
    setting = study.setting(record)
    return setting.rate_factor if setting is not None and setting.varies_only("rate_factor") else None


def _sizes(found: dict[tuple[int, str], tuple[Model, dict[float, Arm]]]) -> list[RateSize]:
    """By size, those with more than one rate."""
    return [RateSize(model, arms) for _, (model, arms) in sorted(found.items()) if len(arms) > 1]


# ---------------------------------------------------------------- bases


def base_sizes(study: Study) -> list[RateSize]:
    """Held-out loss in nats a token of bases at each rate, by document where the stage kept its documents."""
    grouped: dict[tuple[int, str], tuple[Model, dict[float, list[Record]]]] = {}
    for record in study.of_kind("base"):
        factor, model = factor_of(study, record), study.model(record)
        if factor is not None and (record.summary.get("held_out") or {}).get("loss"):
            rates = grouped.setdefault((model.n_params, model.name), (model, {}))[1]
            rates.setdefault(factor, []).append(record)
    return _sizes({
        place: (model, {factor: _base_arm(study, rates, factor) for factor in rates})
        for place, (model, rates) in grouped.items()
        if len(rates) > 1
    })  # fmt: skip


def _base_arm(study: Study, rates: dict[float, list[Record]], factor: float) -> Arm:
    """By document only where the bases at every rate kept theirs."""
    paired = all(BASE_FILE in record.files for records in rates.values() for record in records)
    return Arm(tuple(_base_run(study, record, paired) for record in rates[factor]))


def _base_run(study: Study, record: Record, paired: bool) -> Run:
    seed = f"seed {study.seed(record)}"
    frame = stage_table(study, record, BASE_FILE, BASE_COLUMNS) if paired else None
    if frame is not None:
        tokens = frame.tokens.to_numpy(float)
        return Run(seed, frame.nats.to_numpy(float) / tokens, frame.document.to_numpy(object), tokens)
    loss = record.summary["held_out"]["loss"]
    item = np.array(["all"], dtype=object)
    return Run(seed, np.array([float(loss["value"])]), item, np.ones(1), loss.get("se"), loss.get("n"))


# ---------------------------------------------------------------- preference models


def pm_sizes(study: Study, pms: Sequence[PM]) -> list[RateSize]:
    """Held-out log loss of train-half PMs at each rate."""
    found = {}
    for size in varied(pms, "rate_factor"):
        arms = {float(factor or 0.0): _pm_arm(study, pool) for factor, pool in size.items()}
        model = next(iter(size.values())).model
        found[model.n_params, model.name] = (model, arms)
    return _sizes(found)


def _pm_arm(study: Study, pool: Pool) -> Arm:
    runs = tuple(
        Run(pm.chain, pm.scores.log_loss, pm.scores.conversation, np.ones(len(pm.scores.log_loss))) for pm in pool.pms
    )
    return Arm(runs, note=pool.note(study))


# ---------------------------------------------------------------- policies


def ppo_yardstick(curves: Sequence[Curve]) -> Yardstick:
    """The gold score where every policy has one, else the test PM's."""
    return GOLD if curves and all("gold" in curve.values for curve in curves) else TEST


def ppo_sizes(study: Study, curves: Sequence[Curve], scores: dict[str, HeldOut]) -> list[RateSize]:
    """Each policy's score at the end, collapsed ones included, minus at the start, by prompt and in ``unit``."""
    yardstick = ppo_yardstick(curves)
    grouped: dict[tuple[int, str], tuple[Model, dict[float, list[tuple[Curve, Run]]]]] = {}
    for curve in curves:
        factor, run = factor_of(study, curve.record), _ppo_run(study, curve, scores, yardstick)
        if factor is not None and run is not None:
            place = (curve.model.n_params, curve.model.name)
            arms = grouped.setdefault(place, (curve.model, {}))[1]
            arms.setdefault(factor, []).append((curve, run))
    return _sizes({
        place: (model, {factor: _ppo_arm(study, members) for factor, members in arms.items()})
        for place, (model, arms) in grouped.items()
    })  # fmt: skip


def _ppo_run(study: Study, curve: Curve, scores: dict[str, HeldOut], yardstick: Yardstick) -> Run | None:
    """The run's gain by prompt in standard deviations; None where the score or its spread is missing."""
    gain = curve.relative(yardstick.measure)
    if gain is None or len(curve.steps) < 2:
        return None
    if yardstick is GOLD:
        unit = float(curve.values["gold"][0].std(ddof=1))
    else:
        unit = spread(study, curve, "test", scores) or 0.0
    if not unit > 0:
        return None
    values = gain[1:][-LAST:].mean(axis=0) / unit
    return Run(study.chain(curve.record), values, curve.conversation, np.ones(len(values)))


def _ppo_arm(study: Study, members: list[tuple[Curve, Run]]) -> Arm:
    collapsed = sum(not curve.finished for curve, _ in members)
    shared = study.base_note([curve.record for curve, _ in members])
    note = join_notes(f"{collapsed} collapsed policies included" if collapsed else None, shared)
    root = float(np.mean([curve.sqrt_kl()[-LAST:].mean() for curve, _ in members]))
    return Arm(tuple(run for _, run in members), root, collapsed, note)


def planned_seeds(study: Study, kind: str, model: str) -> dict[float, set[Any]]:
    """The seeds that the study plans for that kind and size at each rate factor, finished or not."""
    configs: list[dict[str, Any]] = [s.get("config", {}) for s in study.described["stages"] if s["kind"] == kind]
    own = [config for config in configs if (config.get("size") or {}).get("name") == model]
    seeds: dict[float, set[Any]] = {}
    for config in own:
        factor = float(config.get("training", {}).get("schedule", {}).get("rate_factor", 1.0))
        seeds.setdefault(factor, set()).add(config.get("seed"))
    return seeds
