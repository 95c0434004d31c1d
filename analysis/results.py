"""A RUNS directory to ``results.json`` (schema 1) and ``tables/*.csv``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import hh_scaling
from analysis import claims, frames, frontier, pm, tax_sizes
from analysis.frontier_fits import frontier_fits, run_exponents
from analysis.overoptimisation import overoptimisation, pooled_parting
from analysis.pm_fits import pm_fits
from analysis.tax import BITS_MARGIN, MARGIN
from hh_scaling.records import atomic_write, write_json

SCHEMA = 1
SCHEMA_FILE = Path(__file__).with_name("results.schema.json")
TABLES = (
    "pm", "pm_trend", "frontier", "overoptimisation", "benchmarks", "tax", "pooled", "crossover", "fits", "models",
    "stages", "claims", "excluded",
)  # fmt: skip
ESTIMATE_KEYS = {"value", "se", "low", "high"}


def analyze(
    runs: Path, out: Path | None = None, *, margin: float | None = None, bits_margin: float | None = None
) -> dict[str, Any]:
    """The results of the study in ``runs``, also written to ``results.json`` and ``tables/`` in ``out`` (or ``runs``).

    Margins default to the study's own. Raises AnalysisError, in one line, when ``runs`` holds no study. The same
    records give the same bytes.
    """
    study = frames.load_study(runs)
    own = (study.described.get("study") or {}).get("analysis") or {}
    given = {"margin": margin, "bits_margin": bits_margin}
    defaults = {"margin": MARGIN, "bits_margin": BITS_MARGIN} | own
    margins = {name: float(defaults[name] if value is None else value) for name, value in given.items()}
    results = clean(compute(study, **margins))
    target = out or runs
    (target / "tables").mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        table = pd.DataFrame([flatten(row) for row in table_rows(results, name)])
        atomic_write(target / "tables" / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write_json(target / "results.json", results)
    return results


def compute(study: frames.Study, margin: float, bits_margin: float) -> dict[str, Any]:
    """Everything in ``results.json``, as plain Python values that may still hold nan."""
    scores = pm.pm_scores(study)
    curves = frontier.load_curves(study)
    items = tax_sizes.benchmark_items(study)
    tax = tax_sizes.tax_tables(study, items, margin, bits_margin)
    data = study.of_kind("data")
    pm_rows = pm.pm_rows(study, scores)
    fits = pm_fits(study, scores, pm_rows) + frontier_fits(curves)
    over = overoptimisation(study, curves, scores)
    plain_fits = [fit.to_dict() for fit in fits] + tax.trends
    judged = claims.judge_all(
        claims.Evidence(
            plain_fits,
            tax.pooled,
            tax.crossover,
            over,
            run_exponents(curves),
            pooled_parting(study, curves, scores),
            study.planned_sizes("pm"),
            study.planned_sizes("ppo"),
        )
    )
    return {
        "schema": SCHEMA,
        "generated_by": f"hh-scaling {hh_scaling.__version__}",
        "study": {
            "name": study.name,
            "description": study.described.get("description", ""),
            "n_stages": len(study.described["stages"]),
            "n_finished": len(study.records),
        },
        "synthetic": bool(study.described.get("synthetic", False)),
        "data": data[0].summary if data else None,
        "models": frames.model_rows(study),
        "stages": frames.stage_rows(study),
        "pm": pm_rows,
        "pm_trend": pm.pm_trend(study, scores),
        "frontier": frontier.frontier_rows(study, curves),
        "overoptimisation": over,
        "benchmarks": tax_sizes.benchmark_rows(study, items),
        "tax": tax.tax,
        "pooled": tax.pooled,
        "crossover": tax.crossover,
        "fits": plain_fits,
        "claims": judged,
        "samples": frames.samples(study),
        "excluded": sorted(study.excluded, key=lambda row: (str(row["kind"]), row["what"], row["reason"])),
    }


def clean(value: Any) -> Any:
    """``value`` with every nan and infinity as None and numpy scalars as Python's, ready for JSON."""
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table_rows(results: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """The rows of one table; of ``fits`` one row per parameter."""
    if name != "fits":
        rows: Sequence[Mapping[str, Any]] = results[name]
        return rows
    return [
        {"law": fit["law"], "group": fit["group"], "x": ",".join(fit["x"]), "y": fit["y"], "param": param, **estimate}
        | {k: fit[k] for k in ("ci_method", "n_points", "n_clusters", "aicc", "r2", "status")}
        for fit in results["fits"]
        for param, estimate in fit["params"].items()
    ]


def flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """One flat row: an estimate becomes ``col, col_se, col_low, col_high, col_n``; lists are joined by ``; ``."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            if set(value) >= ESTIMATE_KEYS:
                flat[name] = value["value"]
                flat |= {f"{name}_{key}": item for key, item in value.items() if key != "value"}
            else:
                flat |= {f"{name}_{key}": item for key, item in value.items() if not isinstance(item, (dict, list))}
        elif isinstance(value, (list, tuple)):
            flat[name] = "; ".join(map(str, value))
        else:
            flat[name] = value
    return flat
