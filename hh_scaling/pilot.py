"""The pilot stage: how many items a task needs for the precision wanted, from a few items before and after RLHF."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from hh_scaling.benchmarks import Asked, find_checkpoint, find_questions, model_items
from hh_scaling.configs import PilotConfig
from hh_scaling.estimates import ratio
from hh_scaling.harness import undisturbed
from hh_scaling.models import set_up
from hh_scaling.records import read_record
from hh_scaling.stages import StageContext, StageResult

Z = 1.959963984540054  # 97.5 % of the normal distribution
KEYS = ["task", "k_shot", "metric"]


def run(config: PilotConfig, context: StageContext) -> StageResult:
    """Writes items.parquet of both models; the summary has for every task how its items changed and how many it needs.

    A policy that never reached the wanted distance gives no tasks.
    """
    set_up(config.compute)
    before, after = context.parents["before"], context.parents["after"]
    summary: dict[str, Any] = {"model": read_record(before / "record.json").summary["model"], "at": config.at}
    summary |= {"precision": config.precision, "not_reached": find_checkpoint(after, config.at) is None, "tasks": []}
    if summary["not_reached"]:
        return StageResult(summary)
    with undisturbed():
        questions, sizes = find_questions(config.tasks, context)
        sides = []
        for name, stage, at in (("before", before, None), ("after", after, config.at)):
            asked = Asked(stage, at, config.size.name, config.tasks, config.compute)
            sides.append(model_items(asked, questions, context).assign(side=name))
    pd.concat(sides, ignore_index=True).to_parquet(context.out.path / "items.parquet", index=False)
    pairs = sides[0].merge(sides[1], on=[*KEYS, "doc_hash", "doc_id"], suffixes=("", "_after"))
    for (task, k_shot, metric), part in pairs.groupby(KEYS, sort=False):
        if task in sizes:  # not of bias scores, which are no quality
            row = needed_items(part.score_after - part.score, part.weight, part.cluster, config.precision)
            summary["tasks"].append(
                {"task": task, "k_shot": int(str(k_shot)), "metric": metric} | row | {"n_file": sizes[str(task)]}
            )
    return StageResult(summary)


def needed_items(difference: Any, weight: Any, cluster: Any, precision: float) -> dict[str, Any]:
    """How many items make ``precision`` the half-width of the 95 % interval of the mean paired difference.

    n = (z / precision)^2 n_0 se_0^2, with se_0 the clustered standard error on the pilot's n_0 items: for answers that
    are right or wrong n_0 se_0^2 is about the discordance. Where hardly anything changed the pilot itself does not
    know the discordance; it is then taken to be at most 3 / n_0, the rule of three. Never fewer than n_0.
    """
    change, w = np.asarray(difference, dtype=float), np.asarray(weight, dtype=float)
    n = len(change)
    se = ratio(change * w, w, cluster)["se"]
    least = 3 / n * float(np.abs(change).max() or 1.0) ** 2
    variance = None if se is None else max(n * se**2, least)
    needed = None if variance is None else max(n, math.ceil((Z / precision) ** 2 * variance))
    return {"n": n, "n_changed": int((change != 0).sum()), "variance": variance, "needed": needed}


def chosen_limits(summaries: list[dict[str, Any]], limit: int | None) -> dict[str, int | None]:
    """By task the number of items that the most demanding pilot needs, at most ``limit``; None is all of them."""
    found: dict[str, int | None] = {}
    for summary in summaries:
        for row in summary["tasks"]:
            known = found.get(row["task"], 0)
            both = None if known is None or row["needed"] is None else max(known, row["needed"])
            found[row["task"]] = both
    return {task: limit if n is None else n if limit is None else min(n, limit) for task, n in found.items()}
