"""The tax of several studies or recipes side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.compare_reward import equal_reward_across
from analysis.frames import AnalysisError
from analysis.results import SCHEMA, analyze, clean, flatten

KEYS = ("task", "format", "k_shot", "metric", "model", "n_params", "before", "at")


def load_results(runs: Path) -> dict[str, Any]:
    """``results.json`` of a RUNS directory, analysed first where there is none; AnalysisError names the file."""
    path = runs / "results.json"
    if not path.is_file():
        return analyze(runs)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise AnalysisError(f"{path}: not results of schema {SCHEMA}; run `hh-scaling analyze {runs}`")
    return results


def compare(runs: list[Path]) -> dict[str, Any]:
    """``{"schema", "studies", "synthetic", "tax", "pooled", "tax_per_reward", "at_equal_reward", "notes"}``: every
    study's rows with a ``study`` column, ordered so that the same task at the same size stands together, and recipes
    beside each other at equal gold reward. Studies are told apart by directory where their names agree."""
    loaded = [load_results(path) for path in runs]
    names = [str(results["study"]["name"]) for results in loaded]
    labels = [name if names.count(name) == 1 else str(path) for name, path in zip(names, runs, strict=True)]
    tables: dict[str, list[dict[str, Any]]] = {"tax": [], "pooled": [], "tax_per_reward": []}
    for label, results in zip(labels, loaded, strict=True):
        for table, rows in tables.items():
            rows += [
                {"study": label, **row} for row in results.get(table, [])
            ]  # a table that an older version did not write
    for rows in tables.values():
        rows.sort(key=_place)
    synthetic = [label for label, results in zip(labels, loaded, strict=True) if results["synthetic"]]
    rows, notes = equal_reward_across(list(zip(labels, runs, strict=True)))
    compared = {"at_equal_reward": clean(rows), "notes": notes}
    return {"schema": SCHEMA, "studies": labels, "synthetic": synthetic, **tables, **compared}


def _place(row: dict[str, Any]) -> tuple[str, ...]:
    number = f"{row['n_params'] or 0:020d}"
    return (str(row.get("task", "")), str(row.get("format", "")), f"{row['k_shot']:04d}", number, str(row["at"]),
            str(row["before"]), str(row["study"]))  # fmt: skip


def equal_reward_table(compared: dict[str, Any]) -> pd.DataFrame:
    """The rows at equal gold reward, flat: estimates as columns, lists joined."""
    return pd.DataFrame([flatten(row) for row in compared["at_equal_reward"]])


def side_by_side(compared: dict[str, Any]) -> pd.DataFrame:
    """One row per task, size and checkpoint, and for every study its tax with interval and verdict."""
    recipes = {(row["study"], row["recipe"]) for row in compared["tax"]}
    several = {study for study, _ in recipes if sum(s == study for s, _ in recipes) > 1}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in compared["tax"]:
        key = tuple(row[name] for name in KEYS)
        cells = rows.setdefault(key, dict(zip(KEYS, key, strict=True)))
        column = f"{row['study']}/{row['recipe']}" if row["study"] in several else row["study"]
        cells[column] = row["value"]
        cells |= {f"{column}_{name}": row[name] for name in ("low", "high", "verdict")}
    return pd.DataFrame(list(rows.values()))
