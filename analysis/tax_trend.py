"""The normalised tax over ln N: which tasks a trend may use, the line, and the crossover from tax to bonus."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analysis.crossover import exp_or_none, fieller_root, gls_line, shared_covariance
from analysis.frames import Model
from analysis.items import Pair
from analysis.tax import pooled_taxes

Sizes = list[tuple[Model, dict[str, list[Pair]]]]


def trend_suites(sizes: Sizes) -> list[tuple[str, Sizes]]:
    """What trends are fitted on: "pooled" over the tasks that enter means at every size, then each task by itself.

    The pooled suite is the same at all sizes, since a change of suite would look like a trend.
    """
    with_tasks = [(model, tasks) for model, tasks in sizes if tasks]
    common = set.intersection(*(set(tasks) for _, tasks in with_tasks)) if with_tasks else set()
    suites = [
        ("pooled", [(m, {name: tasks[name] for name in sorted(common)}) for m, tasks in with_tasks] if common else [])
    ]
    for task in sorted(set().union(*(tasks.keys() for _, tasks in with_tasks))):
        suites.append((task, [(m, {task: tasks[task]}) for m, tasks in with_tasks if task in tasks]))
    return suites


def trend_over_sizes(labels: dict[str, Any], sizes: Sizes) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The crossover row and the trend (an element of ``fits``) of the normalised tax over ln N."""
    tasks = sorted(sizes[0][1]) if sizes else []
    row = labels | {
        "kind": "none", "n_params": None, "low": None, "high": None, "direction": None, "slope": None, "g": None,
        "n_sizes": len(sizes), "tasks": tasks, "tested": _range(sizes), "in_range": None, "note": None,
    }  # fmt: skip
    if not tasks:
        return row | {"note": "no task is well above chance at every size that has one"}, None
    if len({model.n_params for model, _ in sizes}) < 3:
        missing = 3 - len({model.n_params for model, _ in sizes})
        return row | {"note": f"a trend with an interval needs 3 sizes; {missing} more would do"}, None
    pooled = pooled_taxes([members for _, members in sizes])
    if any(p.estimate.se is None for p in pooled):
        return row | {"note": "a size's tax has no standard error"}, None
    line = gls_line(
        np.array([math.log(model.n_params) for model, _ in sizes]),
        np.array([p.estimate.value for p in pooled]),
        shared_covariance([p.by_cluster for p in pooled], [p.estimate.normal_variance() for p in pooled]),
    )
    root = fieller_root(line)
    place = exp_or_none(root.value)
    inside = place is not None and row["tested"][0] <= place <= row["tested"][1]
    row |= {
        "kind": root.kind, "n_params": place, "low": exp_or_none(root.low), "high": exp_or_none(root.high),
        "direction": "tax to bonus" if line.b < 0 else "bonus to tax", "slope": line.slope.to_dict(), "g": root.g,
        "in_range": inside,
    }  # fmt: skip
    group = "tax " + " ".join(str(labels[k]) for k in ("task", "recipe", "before", "at")) + f" {labels['k_shot']}-shot"
    return row, trend_fit(group, line.intercept.to_dict(), line.slope.to_dict(), len(sizes), line.tau2)


def trend_fit(group: str, c0: dict[str, Any], c1: dict[str, Any], n: int, tau2: float) -> dict[str, Any]:
    """An element of ``fits`` for the line c0 + c1 ln N, with its generalised-least-squares intervals."""
    params = {name: {k: e[k] for k in ("value", "se", "low", "high")} for name, e in (("c0", c0), ("c1", c1))}
    note = {"code": "between_size_variance", "message": f"tau2 = {tau2:.3g} added to every size's variance"}
    return {
        "law": "log-linear", "formula": "c0 + c1*ln(N)", "group": group, "x": ["n_params"], "y": "tax",
        "params": params, "ci_method": "gls-t", "n_points": n, "n_clusters": None, "aicc": None, "delta_aicc": None,
        "status": "ok", "notes": [note], "r2": None,
    }  # fmt: skip


def _range(sizes: Sizes) -> list[int] | None:
    numbers = [model.n_params for model, _ in sizes]
    return [min(numbers), max(numbers)] if numbers else None
