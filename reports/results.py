"""Reading ``results.json`` and turning its rows into the tidy tables that figures and CSV files share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.pm_saturation import BETTER

SCHEMA = 1
Row = Mapping[str, Any]

TIDY: tuple[str, ...] = ("panel", "layer", "series", "model", "n_params", "run")
TIDY += ("x_name", "x", "y_name", "y", "low", "high", "n", "hollow", "status")
"""Columns of every figure's table. ``layer`` is ``point`` (an estimate with its interval), ``run`` (one training
run), ``fit`` (vertices of a fitted line), ``reference`` (a level drawn across the panel) or a word of the figure's own
such as ``peak``; ``status`` is that of the run, where one run made the row."""


class ResultsError(ValueError):
    """Results that cannot be read; the message names the file and what is wrong in one line."""


def read_results(results_dir: Path) -> dict[str, Any]:
    """``results_dir/results.json``, checked for its schema; ResultsError in one line when it cannot be used."""
    path = results_dir / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: no such file; run `hh-scaling analyze {results_dir}` first") from error
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        found = results.get("schema") if isinstance(results, dict) else type(results).__name__
        raise ResultsError(f"{path}: results schema {found!r}, this version reads {SCHEMA}")
    mended: dict[str, Any] = without_surrogates(results)
    return mended


def without_surrogates(value: Any) -> Any:
    """``value`` with half surrogates, which JSON can hold and no file can, as U+FFFD in every string."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return [without_surrogates(item) for item in value] if isinstance(value, list) else value


def rows_of(results: Row, key: str) -> list[dict[str, Any]]:
    """The list of rows under ``key``; empty when it is absent or null."""
    return list(results.get(key) or [])


def models_by_size(results: Row) -> list[dict[str, Any]]:
    """The models of the study from the smallest to the largest, each once."""
    models = {row["name"]: row for row in rows_of(results, "models")}
    return sorted(models.values(), key=lambda row: (row.get("n_params") or 0, row["name"]))


def model_names(table: pd.DataFrame) -> list[str]:
    """The models in a tidy table from small to large; rows that belong to no model are passed over."""
    known = table.dropna(subset=["model"]).sort_values("n_params", kind="stable")
    return list(dict.fromkeys(known["model"]))


def tidy(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a frame with exactly the columns TIDY; cells that a row lacks are missing, ``hollow`` False."""
    table = pd.DataFrame([{**dict.fromkeys(TIDY), **row} for row in rows], columns=list(TIDY))
    for column in ("n_params", "x", "y", "low", "high", "n"):
        table[column] = pd.to_numeric(table[column])
    table["hollow"] = table["hollow"].eq(True)
    return table


def reference_levels(table: pd.DataFrame) -> dict[str, float]:
    """The reference levels in a tidy table: name to y, each name once."""
    rows = table[table["layer"] == "reference"]
    return {str(name): float(y) for name, y in zip(rows["series"], rows["y"], strict=True)}


def estimate_cells(estimate: Row | None) -> dict[str, Any]:
    """An estimate as the tidy columns y, low, high and n; all missing for None."""
    known = estimate or {}
    return {"y": known.get("value"), "low": known.get("low"), "high": known.get("high"), "n": known.get("n")}


def has_value(estimate: Row | None) -> bool:
    """Whether an estimate was measured at all."""
    return estimate is not None and estimate.get("value") is not None


def find_fit(results: Row, law: str, group: str, x: Sequence[str], y: str) -> dict[str, Any] | None:
    """The fit of ``law`` of ``y`` on the columns ``x`` for that group, or None."""
    for fit in rows_of(results, "fits"):
        if (fit["law"], fit["group"], list(fit["x"]), fit["y"]) == (law, group, list(x), y):
            return fit
    return None


def data_fit(results: Row, model: str, kind: str = "all") -> dict[str, Any] | None:
    """Accuracy as a log-linear law of the number of comparisons, at one size; on one kind of them, or on all."""
    group = f"pm {model}" if kind == "all" else f"pm {kind} {model}"
    return find_fit(results, "log-linear", group, ["n_comparisons"], "accuracy")


def size_fit(results: Row, n_comparisons: int) -> dict[str, Any] | None:
    """Accuracy as a log-linear law of size, at one number of comparisons."""
    return find_fit(results, "log-linear", f"pm n={n_comparisons}", ["n_params"], "accuracy")


def joint_fit(results: Row) -> dict[str, Any] | None:
    """Accuracy as a log-linear law of size (c1) and comparisons (c2) together."""
    return find_fit(results, "log-linear", "pm all", ["n_params", "n_comparisons"], "accuracy")


def saturating_fit(results: Row, group: str, x: Sequence[str]) -> dict[str, Any] | None:
    """Accuracy as the law that levels off at p_inf, only where a limit was found (p_inf's interval ends below 1) and
    its AICc is clearly lower than that of the log-linear law on the same points."""
    fit = find_fit(results, "pm-accuracy", group, x, "accuracy")
    if fit is None or fit["status"] != "ok" or not usable(fit):
        return None
    high, delta = fit["params"]["p_inf"].get("high"), fit.get("delta_aicc")
    return fit if high is not None and high < 1 and delta is not None and delta <= -BETTER else None


def slope_fit(results: Row, model: str, score: str) -> dict[str, Any] | None:
    """A score as a line in √KL through the origin, pooled over one size's runs."""
    return find_fit(results, "sqrt-kl-linear", model, ["sqrt_kl"], score)


def usable(fit: Row) -> bool:
    """Whether a fit has a value for every parameter, so that its line can be drawn."""
    params = fit.get("params") or {}
    return bool(params) and all(has_value(p) for p in params.values()) and fit.get("status") != "not_identified"
