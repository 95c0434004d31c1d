"""The tax between two lm-eval output directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frames import AnalysisError
from analysis.items import TASK_KEYS, pair_items, split_tasks
from analysis.lm_eval_io import read_lm_eval
from analysis.tax import judge, judge_map, task_rows
from analysis.tax_pooled import poolable, pooled_rows


def lm_eval_tax(
    base: Path, tuned: Path, margin: float, bits_margin: float, allow_prompts: bool = False
) -> dict[str, Any]:
    """``{"schema", "tax", "pooled"}`` of two directories, with their models' names and notes on what was decided.

    AnalysisError when nothing can be paired. Tasks whose items differ are refused by name in the notes, and so are
    those whose prompts differ, unless ``allow_prompts``.
    """
    before, after = read_lm_eval(base), read_lm_eval(tuned)
    sides = split_tasks(before.items), split_tasks(after.items)
    paired, refused = pair_items(*sides, tuned.name, f"{base} and {tuned}", allow_prompts)
    for task in sorted(before.filters.keys() & after.filters.keys()):
        if before.filters[task] != after.filters[task]:  # two ways to read an answer: their difference is no tax
            paired = {key: pair for key, pair in paired.items() if key[0] != task}
            one, two = before.filters[task], after.filters[task]
            refused.append(f"{base} and {tuned}: {task}: filter {one!r} before, {two!r} after; give both the same")
    if not paired:
        raise AnalysisError(refused[0] if refused else f"{base} and {tuned}: no task in common")
    pairs = {key: [pair] for key, pair in paired.items()}
    n_params = after.n_params or before.n_params
    labels = {"model": after.model, "n_params": n_params, "recipe": tuned.name, "before": "base", "at": "end"}
    labels |= {"at_sqrt_kl": None}
    rows = [labels | task_rows([found], margin, bits_margin)[0] for found in pairs.values()]
    judge(rows)
    judge_map([rows])
    pooled = []
    for k_shot in sorted({row["k_shot"] for row in rows}):
        usable = poolable(pairs, [row for row in rows if row["k_shot"] == k_shot])
        pooled.append(labels | {"k_shot": k_shot} | pooled_rows([usable])[0])
    notes = [
        *before.notes,
        *after.notes,
        *refused,
        *(_prompt_notes(before.items, after.items) if allow_prompts else ()),
    ]
    models = {"base": before.model, "tuned": after.model}
    return {"schema": 1, **models, "tax": rows, "pooled": pooled, "notes": list(dict.fromkeys(notes))}


def _prompt_notes(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Tasks whose prompts differ between the two sides: a chat template on one side is itself part of such a tax."""
    both = before.merge(after, on=[*TASK_KEYS, "doc_hash"], suffixes=("_before", "_after"))
    differ = both[both.prompt_hash_before != both.prompt_hash_after]
    return [f"task {task}: {len(part)} prompts differ between the two" for task, part in differ.groupby("task")]
