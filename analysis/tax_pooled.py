"""The mean tax over tasks: which tasks enter, and one row for every size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.estimates import Estimate
from analysis.items import Pair, TaskKey
from analysis.meta import combine_effects
from analysis.tax import Pooled, normalised_taxes, pooled_taxes

Tasks = dict[str, list[Pair]]  # by "task (format)"
MIN_COMMON = 2  # tasks that all sizes must share for the mean to be over them alone
OWN_SUITE = "over this size's own tasks: the sizes share fewer than two"
EFFECTS = ("fixed_effect", "random_effect", "tau2", "q", "i2", "prediction_low", "prediction_high")
NO_TASKS: dict[str, Any] = {
    **dict.fromkeys(("value", "se", "low", "high", "p", "suite", *EFFECTS)), "n_tasks": 0, "tasks": [], "n_seeds": 0,
    "note": "no task far enough above chance at this size",
}  # fmt: skip


def poolable(pairs: dict[TaskKey, list[Pair]], rows: list[dict[str, Any]]) -> Tasks:
    """The tasks that enter means, by "task (format)": chance-normalised and well above chance before RLHF."""
    keys = [(r["task"], r["format"], r["k_shot"], r["metric"]) for r in rows if r["enters_means"]]
    return {f"{key[0]} ({key[1]})": pairs[key] for key in keys if key in pairs}


def one_suite(sizes: Sequence[Tasks]) -> tuple[list[Tasks], str]:
    """The tasks that all sizes with any share, where there are two or more ("common"); else each size's "own".

    A mean over other tasks at another size would look like an effect of size.
    """
    with_tasks = [set(tasks) for tasks in sizes if tasks]
    common = set.intersection(*with_tasks) if with_tasks else set()
    if len(common) < MIN_COMMON and any(tasks != common for tasks in with_tasks):
        return list(sizes), "own"
    return [{name: tasks[name] for name in sorted(common)} if tasks else {} for tasks in sizes], "common"


def pooled_rows(sizes: Sequence[Tasks]) -> list[dict[str, Any]]:
    """At every size the equal-weight mean over tasks of the normalised tax; nulls where there is none.

    ``fixed_effect`` and ``random_effect`` put the same taxes together by their precision (``analysis.meta``), the
    latter for what a task outside the suite would lose. Their errors take tasks as independent, given these runs.
    """
    suites, kind = one_suite(sizes)
    effects = iter(task_effects([by_task for by_task in suites if by_task]))
    found = iter(pooled_taxes([by_task for by_task in suites if by_task]))
    return [_pooled_row(next(found), kind) | next(effects) if by_task else dict(NO_TASKS) for by_task in suites]


def task_effects(sizes: Sequence[Tasks]) -> list[dict[str, Any]]:
    """At every size its tasks' normalised taxes combined; nulls with one task, or where one has no error."""
    names = sorted(set().union(*sizes)) if sizes else []
    taxes: list[dict[str, Estimate]] = [{} for _ in sizes]
    for name in names:
        holders = [i for i, by_task in enumerate(sizes) if name in by_task]
        for i, estimate in zip(holders, normalised_taxes([sizes[i][name] for i in holders]), strict=True):
            taxes[i][name] = estimate
    found = []
    for by_task in taxes:
        known = list(by_task.values())
        meta = combine_effects([t.value for t in known], [t.normal_variance() for t in known])
        found.append(dict.fromkeys(EFFECTS) if meta is None else meta.to_dict())
    return found


def _pooled_row(pooled: Pooled, suite: str) -> dict[str, Any]:
    plain = {k: v for k, v in pooled.estimate.to_dict().items() if k != "n"}
    counts = {"n_tasks": len(pooled.tasks), "tasks": list(pooled.tasks), "n_seeds": pooled.n_runs}
    note = "; ".join(filter(None, (pooled.note, OWN_SUITE if suite == "own" else None))) or None
    return plain | {"p": pooled.estimate.p_value(), "suite": suite} | counts | {"note": note}
