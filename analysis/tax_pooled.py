"""The mean tax over tasks: which tasks enter, and one row for every size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.items import Pair, TaskKey
from analysis.tax import Pooled, pooled_taxes

Tasks = dict[str, list[Pair]]  # by "task (format)"
MIN_COMMON = 2  # tasks that all sizes must share for the mean to be over them alone
OWN_SUITE = "over this size's own tasks: the sizes share fewer than two"
NO_TASKS: dict[str, Any] = {
    **dict.fromkeys(("value", "se", "low", "high", "p", "suite")), "n_tasks": 0, "tasks": [], "n_seeds": 0,
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
    """At every size the equal-weight mean over tasks of the normalised tax; nulls where there is none."""
    suites, kind = one_suite(sizes)
    found = iter(pooled_taxes([by_task for by_task in suites if by_task]))
    return [_pooled_row(next(found), kind) if by_task else dict(NO_TASKS) for by_task in suites]


def _pooled_row(pooled: Pooled, suite: str) -> dict[str, Any]:
    plain = {k: v for k, v in pooled.estimate.to_dict().items() if k != "n"}
    counts = {"n_tasks": len(pooled.tasks), "tasks": list(pooled.tasks), "n_seeds": pooled.n_runs}
    note = "; ".join(filter(None, (pooled.note, OWN_SUITE if suite == "own" else None))) or None
    return plain | {"p": pooled.estimate.p_value(), "suite": suite} | counts | {"note": note}
