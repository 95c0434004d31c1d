"""The tax at equal reward: how far a policy's benchmarks had moved when its gold score had risen by so much.

A path is what one chain (base, seed) was benchmarked at on its way: the start, which gained and lost nothing, and each
checkpoint with its rise of the gold score. Between two of these, scores of items are read linearly in the rise, at the
first crossing, since a gold score may come back. The noise of the rise itself (some hundred prompts) moves the place;
it differs between runs, so that intervals over several runs hold it and those of one run do not.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.estimates import Estimate, mean
from analysis.frames import Model, Study, stage_table
from analysis.frontier import Curve, Floats, gold_source
from analysis.items import Objects, TaskItems, TaskKey
from hh_scaling.records import Record

Items = dict[TaskKey, TaskItems]
Rise = tuple[Floats, Objects]  # of a score by prompt (P,), and the conversation of each prompt
RESOLVED_SE = 2.0  # standard errors that a reward to be matched must lie above 0


@dataclass(frozen=True)
class Place:
    """A checkpoint that was benchmarked: its name, sqrt(KL), rise of the gold score (P,) by prompt, and items."""

    at: str
    sqrt_kl: float
    rise: Floats
    items: Items

    @property
    def reward(self) -> float:
        return float(self.rise.mean())


@dataclass(frozen=True)
class Path:
    """One chain's places in the order they were passed; ``start`` are the items of the model it started from."""

    record: Record  # the policy's
    model: Model
    chain: str
    recipe: str
    conversation: Objects  # (P,)
    start: Items
    places: tuple[Place, ...]

    def reached(self) -> Estimate:
        """The largest rise of the gold score at any place, with its error over prompts."""
        best = max(self.places, key=lambda place: place.reward)
        return mean(best.rise, self.conversation)

    def at_reward(self, reward: float) -> Place | None:
        """Where the gold score had first risen by ``reward``: items, sqrt(KL) and the prompts' rises, each linear in
        the rise between the places before and after; None where it was not reached. Tasks must be at both places."""
        passed = next((i for i, place in enumerate(self.places) if place.reward >= reward), None)
        if passed is None or reward <= 0:
            return None
        after = self.places[passed]
        before = self.places[passed - 1] if passed else Place("start", 0.0, np.zeros_like(after.rise), self.start)
        share = (reward - before.reward) / (after.reward - before.reward)
        found = {}
        for key in sorted(set(before.items) & set(after.items)):
            one, two = before.items[key], after.items[key]
            if len(one.document) == len(two.document) and (one.document == two.document).all():
                found[key] = replace(two, score=(1 - share) * one.score + share * two.score, confidence=None)
        root = (1 - share) * before.sqrt_kl + share * after.sqrt_kl
        return Place(f"gold={reward:g}", root, (1 - share) * before.rise + share * after.rise, found)


def load_paths(
    study: Study, curves: Iterable[Curve], items: Mapping[str, Items], recipe_of: Mapping[str, str]
) -> list[Path]:
    """The paths of all finished policies with a gold score whose start was benchmarked; ``items`` by the id of the
    benchmark, ``recipe_of`` the policy's recipe by its id."""
    benchmarks: dict[str, list[str]] = defaultdict(list)
    for stage_id in items:
        benchmarks[study.records[stage_id].parents["model"]].append(stage_id)
    found = []
    for curve in curves:
        policy = curve.record
        start: dict[TaskKey, TaskItems] = {}
        for stage_id in benchmarks.get(policy.parents.get("policy", ""), []):
            start.update(items[stage_id])
        places = tuple(_places(study, curve, {s: items[s] for s in benchmarks.get(policy.stage_id, [])}))
        if curve.finished and "gold" in curve.values and start and places and policy.stage_id in recipe_of:
            chain, recipe = study.chain(policy), recipe_of[policy.stage_id]
            found.append(Path(policy, curve.model, chain, recipe, curve.conversation, start, places))
    return found


def interpolated_paths(
    study: Study, paths: Sequence[Path], curves: Iterable[Curve], items: Mapping[str, Items]
) -> list[Path]:
    """For each path whose policy was interpolated with its start: the line between their weights, alpha by alpha, as a
    recipe of its own that ends where training ended. Only weights that were benchmarked are on it."""
    by_policy = {curve.record.stage_id: curve for curve in curves}
    found = []
    for path in paths:
        curve, end = by_policy[path.record.stage_id], [place for place in path.places if place.at == "end"]
        for line in study.main_of_kind("interpolation"):
            if line.parents.get("policy") == path.record.stage_id:
                places = _line_places(study, line, curve, items)
                recipe = interpolated(path.recipe)
                found += [replace(path, recipe=recipe, places=(*places, *end))] if places else []
    return found


def interpolated(recipe: str) -> str:
    """The recipe of weights between the policies of ``recipe`` and what they started from."""
    return f"{recipe} interpolated"


def _line_places(study: Study, line: Record, curve: Curve, items: Mapping[str, Items]) -> list[Place]:
    """The benchmarked alphas of an interpolation, ascending, with rises from the policy's start on the same prompts."""
    kl = f"kl_{curve.estimator}"
    frame = stage_table(study, line, "evals.parquet", ("alpha", "prompt_id", kl, "gold"))
    if frame is None:
        return []
    found = []
    for stage_id, tasks in items.items():
        benchmark = study.records[stage_id]
        if benchmark.parents["model"] != line.stage_id:
            continue
        alpha = float(str(benchmark.config["at"]).removeprefix("alpha="))
        here = frame[np.isclose(frame.alpha, alpha)].set_index("prompt_id").reindex(list(curve.prompts))
        rise = here.gold.to_numpy(float) - curve.values["gold"][0]
        if np.isfinite(rise).all():
            root = math.sqrt(max(float(here[kl].mean()), 0.0))
            found.append((alpha, Place(f"alpha={alpha}", root, rise, tasks)))
    return [place for _, place in sorted(found, key=lambda entry: entry[0])]


def _places(study: Study, curve: Curve, benchmarks: Mapping[str, Items]) -> list[Place]:
    """A policy's benchmarked checkpoints in the order of training, each with the evaluation made at its step."""
    steps, rise, roots = step_of(study, curve.record), curve.relative("gold"), curve.sqrt_kl()
    index = {int(step): i for i, step in enumerate(curve.steps)}
    found = []
    for stage_id, tasks in benchmarks.items():
        at = str(study.records[stage_id].config.get("at") or "end")
        i = index.get(steps.get(at, -1))
        if i is not None and rise is not None:
            found.append((i, Place(at, float(roots[i]), rise[i], tasks)))
    return [place for _, place in sorted(found, key=lambda entry: entry[0])]


def step_of(study: Study, policy: Record) -> dict[str, int]:
    """The update at which each of a policy's checkpoints was kept, by its name; empty where that was not written."""
    path = study.folder(policy) / "checkpoints.json"
    try:
        return {str(entry["name"]): int(entry["step"]) for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def one_scale(paths: Iterable[Path], curves: Iterable[Curve]) -> bool:
    """Whether the gold scores of all paths are on one scale: of the world, or of one model."""
    sources = {curve.record.stage_id: gold_source(curve) for curve in curves}
    return len({sources[path.record.stage_id] for path in paths}) <= 1


def common_reward(paths: Sequence[Path]) -> float | None:
    """The largest rise of the gold score that every path reached, rounded down to two digits; None where some path's
    is not measurably above 0."""
    if not paths:
        return None
    rises = [path.reached() for path in paths]
    least = min(rises, key=lambda rise: rise.value)
    if any(rise.se is None or rise.value <= RESOLVED_SE * rise.se for rise in rises):
        return None
    digit = 10.0 ** (math.floor(math.log10(least.value)) - 1)
    return float(f"{math.floor(least.value / digit) * digit:.6g}")
