"""A RUNS directory to ``results.json`` (schema 1) and ``tables/*.csv``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import hh_scaling
from analysis import claims, distillation, frames, frontier, pm, reward_paths, tax_sizes
from analysis.behaviours import behaviour_tables
from analysis.frontier_fits import frontier_fits, run_exponents
from analysis.frontier_laws import law_rows
from analysis.frontier_slopes import bound_rows, slope_rows
from analysis.held_out import pm_scores
from analysis.overoptimisation import overoptimisation, parting_slope, pooled_parting
from analysis.peaks import peak_rows
from analysis.pm_agreement import pm_agreement
from analysis.pm_calibration import pm_calibration
from analysis.pm_claims import pm_evidence
from analysis.pm_curve import pm_curve
from analysis.pm_fits import pm_fits
from analysis.pm_floor import pm_floor, pm_score_rows
from analysis.pm_mixing import pm_shares, pm_weights
from analysis.pm_pretraining import pm_extra, pm_pretraining, votes_alone
from analysis.pm_probes import pm_margins, pm_probe_slopes, pm_probes, probed
from analysis.pm_saturation import saturation_fits
from analysis.pm_turns import pm_turns
from analysis.pools import PM, preference_models
from analysis.precision import precision_rows
from analysis.prediction import pm_series, prediction_rows, slope_series, tax_series
from analysis.rate_check import rate_check
from analysis.robustness import robustness
from analysis.routes import best_of_n_fits, best_of_n_rows, equal_kl_rows, interpolation_rows, load_ways
from analysis.scored_by import scored_by
from analysis.tax import BITS_MARGIN, MARGIN
from hh_scaling.records import atomic_write

SCHEMA = 1
SCHEMA_FILE = Path(__file__).with_name("results.schema.json")
TABLES = (
    "pm", "pm_trend", "pm_turns", "pm_calibration", "pm_floor", "pm_scores", "pm_agreement", "pm_shares", "pm_weights",
    "pm_pretraining", "pm_extra", "pm_curve", "pm_probes", "pm_probe_slopes", "pm_margins", "rate_check",
    "distillation", "distillation_curve", "frontier", "scored_by", "overoptimisation", "frontier_laws",
    "frontier_slopes", "frontier_peaks", "reward_bound", "best_of_n", "interpolation", "at_equal_kl", "robustness",
    "robustness_points", "pm_size_effect", "benchmarks", "tax", "bias", "precision", "pooled", "crossover",
    "tax_per_reward", "at_equal_reward", "predictions", "behaviours", "behaviour_changes", "behaviour_occupations",
    "behaviour_distances", "fits", "models", "stages", "claims", "excluded",
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
    atomic_write(target / "results.json", to_json(results))
    return results


def compute(study: frames.Study, margin: float, bits_margin: float) -> dict[str, Any]:
    """Everything in ``results.json``, as plain Python values that may still hold nan."""
    scores = pm_scores(study)
    pms = preference_models(study, scores)
    all_curves = frontier.load_curves(study)
    curves = [curve for curve in all_curves if study.is_main(curve.record)]
    items = tax_sizes.benchmark_items(study)
    tuned = [curve for curve in all_curves if study.is_recipe(curve.record)]
    tax = tax_sizes.tax_tables(study, items, margin, bits_margin, tax_paths(study, tuned, items))
    data = study.of_kind("data")
    pools, lines = load_ways(study, "best_of_n"), load_ways(study, "interpolation")
    crossed, crossed_fits = robustness(study, all_curves, scores)
    along, exponents = frontier_fits(curves), run_exponents(curves)
    fits = pm_fits(pms) + saturation_fits(pms) + along + best_of_n_fits(pools) + crossed_fits
    over = overoptimisation(study, curves, scores)
    laws, slopes = law_rows(curves), slope_rows(study, curves, scores, exponents)
    plain_fits = [fit.to_dict() for fit in fits] + tax.trends
    recipes = tax_sizes.main_recipes(study)
    judged = claims.judge_all(
        claims.Evidence(
            plain_fits,
            [row for row in tax.pooled if row["recipe"] in recipes],
            [row for row in tax.crossover if row["recipe"] in recipes],
            over,
            exponents,
            pooled_parting(study, curves, scores),
            study.planned_sizes("pm"),
            study.planned_sizes("ppo"),
            pm_evidence(pms),
            laws,
            slopes,
            parting_slope(study, curves, scores),
            {curve.record.stage_id: study.chain(curve.record) for curve in curves},
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
        **pm_tables(study, pms),
        "rate_check": rate_check(study, pms, all_curves, scores),
        "distillation": distillation.distillation_rows(study),
        "distillation_curve": distillation.distillation_curve(study),
        "frontier": frontier.frontier_rows(study, curves),
        "scored_by": scored_by(study, curves, scores),
        "overoptimisation": over,
        "frontier_laws": laws,
        "frontier_slopes": slopes,
        "frontier_peaks": peak_rows(along, curves),
        "reward_bound": bound_rows(study, curves),
        "best_of_n": best_of_n_rows(study, pools),
        "interpolation": interpolation_rows(study, lines, curves),
        "at_equal_kl": equal_kl_rows(study, pools, curves) + equal_kl_rows(study, lines, curves),
        **crossed,
        "benchmarks": tax_sizes.benchmark_rows(study, items),
        "tax": tax.tax,
        "bias": tax.bias,
        "precision": precision_rows(study, tax.tax),
        "pooled": tax.pooled,
        "crossover": tax.crossover,
        "tax_per_reward": tax.per_reward,
        "at_equal_reward": tax.equal_reward,
        "predictions": prediction_rows([*pm_series(pms), *slope_series(slopes), *tax_series(tax.pooled)]),
        **behaviour_tables(study),
        "fits": plain_fits,
        "claims": judged,
        "samples": frames.samples(study),
        "excluded": sorted(study.excluded, key=lambda row: (str(row["kind"]), row["what"], row["reason"])),
    }


def tax_paths(
    study: frames.Study, curves: list[frontier.Curve], items: dict[str, tax_sizes.Items]
) -> list[reward_paths.Path]:
    """The policies' paths through benchmarks and gold scores; none where these are on several scales, which is said."""
    paths = reward_paths.load_paths(study, curves, items, tax_sizes.recipes(study))
    if reward_paths.one_scale(paths, curves):
        return paths + reward_paths.interpolated_paths(study, paths, curves, items)
    study.exclude("tax at equal gold reward", "policies are judged by several gold models, whose scales differ")
    return []


def pm_tables(study: frames.Study, pms: list[PM]) -> dict[str, list[dict[str, Any]]]:
    """The tables about preference models; one that the study has nothing for is empty."""
    probes = probed(study, pms)
    return {
        "pm": pm.pm_rows(study, pms),
        "pm_trend": pm.pm_trend(study, pms),
        "pm_turns": pm_turns(study, pms),
        "pm_calibration": pm_calibration(study, pms),
        "pm_floor": pm_floor(study, pms),
        "pm_scores": pm_score_rows(study, pms),
        "pm_agreement": pm_agreement(study, pms),
        "pm_shares": pm_shares(study, pms),
        "pm_weights": pm_weights(study, pms),
        "pm_pretraining": pm_pretraining(study, pms, votes_alone(study, pm_scores(study, "pmp"))),
        "pm_extra": pm_extra(study, pms),
        "pm_curve": pm_curve(study, pms),
        "pm_probes": pm_probes(study, probes),
        "pm_probe_slopes": pm_probe_slopes(probes),
        "pm_margins": pm_margins(study, probes),
    }


def clean(value: Any) -> Any:
    """``value`` with every nan and infinity as None and numpy scalars as Python's, ready for JSON."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:  # most are, and Mapping is slow to ask for
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(results: Mapping[str, Any]) -> str:
    """Results as JSON text, a line for every row of a table: with many thousands, indented they take minutes."""
    parts = []
    for key, value in results.items():
        if isinstance(value, list) and value:
            rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False, allow_nan=False)}" for row in value)
            text = f"[\n{rows}\n ]"
        else:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def table_rows(results: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """The rows of one table; of ``fits`` one row per parameter."""
    if name != "fits":
        rows: Sequence[Mapping[str, Any]] = results[name]
        return rows
    return [
        {"law": fit["law"], "group": fit["group"], "x": ",".join(fit["x"]), "y": fit["y"], "param": param, **estimate}
        | {k: fit[k] for k in ("ci_method", "n_points", "n_clusters", "aicc", "delta_aicc", "r2", "status")}
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
