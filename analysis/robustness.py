"""Robustness of preference models: policies of every size against train PMs of several, followed by all test PMs.

After Bai et al. (2022), section 4.2, figures 4, 13 and 33; scores are those of ``analysis.cells``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.cells import Cell, Judge, Row, Scores, cells_of, is_shown, judges, labels_of, pm_model, rises
from analysis.estimates import Estimate, mean
from analysis.fit_result import FitResult
from analysis.fits import fit
from analysis.frames import Study
from analysis.frontier import Curve, square_root, test_columns
from analysis.frontier_fits import MIN_POINTS, censored
from analysis.parting import parting_rows, size_rows
from analysis.routes import load_ways
from hh_scaling.records import Record


def robustness(study: Study, curves: Sequence[Curve], scores: Scores) -> tuple[dict[str, list[Row]], list[FitResult]]:
    """The tables ``robustness``, ``robustness_points`` and ``pm_size_effect``, and the fits of every cell; all empty
    where no policy was followed by test PMs of several sizes or trained against another train PM."""
    shown = [curve for curve in curves if is_shown(study, curve.record)]
    crossed = [c for c in shown if study.setting(c.record).train_pm or len(test_columns(c.record)) > 1]  # type: ignore[union-attr]
    if not crossed:
        return {"robustness": [], "robustness_points": [], "pm_size_effect": []}, []
    cells = cells_of(study, shown)
    tables = {
        "robustness": parting_rows(study, cells, scores),
        "robustness_points": [*policy_points(study, shown, scores), *pool_points(study, scores)],
        "pm_size_effect": size_rows(study, cells, scores),
    }
    return tables, [f for cell in cells for f in cell_fits(study, cell, scores)]


# ---------------------------------------------------------------- points


def policy_points(study: Study, curves: Sequence[Curve], scores: Scores) -> list[Row]:
    """One row per policy, evaluation and score."""
    rows = []
    for curve in curves:
        kl = curve.kl
        found = list(judges(study, curve.record, list(curve.values), scores))
        train_pm = pm_model(study, curve.record, "pm_train")
        assert train_pm is not None
        head = labels_of(curve.model, train_pm) | _run(curve.record, curve.seed) | {"way": "ppo"}
        for judge in found:
            relative = curve.relative(judge.column)
            assert relative is not None
            values = [mean(row / judge.unit, curve.cluster) for row in relative]
            rows += [
                head | {"place": int(s)} | _point(judge, *at) for s, *at in zip(curve.steps, kl, values, strict=True)
            ]
    return rows


def pool_points(study: Study, scores: Scores) -> list[Row]:
    """One row per pool of the best of n, n and score; changes from the mean over the same prompt's whole pool."""
    rows = []
    for way in load_ways(study, "best_of_n", lambda record: is_shown(study, record)):
        kl = [mean(values, way.cluster) for values in way.kl]
        train_pm = pm_model(study, way.record, "pm_train")
        assert train_pm is not None
        head = labels_of(way.model, train_pm) | _run(way.record, way.seed) | {"way": "best_of_n"}
        for judge in judges(study, way.record, list(way.values), scores):
            relative = (way.values[judge.column] - way.values[judge.column][0]) / judge.unit
            values = [mean(row, way.cluster) for row in relative]
            rows += [
                head | {"place": int(n)} | _point(judge, *at) for n, *at in zip(way.places, kl, values, strict=True)
            ]
    return rows


def _run(record: Record, seed: int | None) -> Row:
    return {"stage_id": record.stage_id, "seed": seed, "status": record.status}


def _point(judge: Judge, kl: Estimate, value: Estimate) -> Row:
    root, root_se = square_root(kl)
    at = {"kl": kl.to_dict(), "sqrt_kl": root, "sqrt_kl_se": root_se}
    pm = {"pm": judge.pm.name if judge.pm else None, "pm_n_params": judge.pm.n_params if judge.pm else None}
    return at | {"score": judge.score, **pm, "change": value.to_dict()}


# ---------------------------------------------------------------- fits


def group_of(cell: Cell, score: str, pm: str | None) -> str:
    """What a cell's fit is called in ``fits``."""
    by = "" if pm is None else f" by {pm}"
    return f"{cell.model.name} against {cell.train_pm.name}, {score}{by}"


def cell_fits(study: Study, cell: Cell, scores: Scores) -> list[FitResult]:
    """Change against sqrt(KL), pooled over a cell's runs: a line through the origin, and of the gold score d (alpha -
    beta ln d), the form of Gao et al. (2023) for RL; evaluations whose KL is below two standard errors left out."""
    found = [rises(study, curve, scores) for curve in cell.runs]
    fits = []
    for key in found[0]:
        pairs = [(c, f[key], c.resolved()) for c, f in zip(cell.runs, found, strict=True) if key in f]
        parts = [(curve.sqrt_kl()[kept], values[kept].mean(axis=1)) for curve, values, kept in pairs]
        x, y = (np.concatenate(side) for side in zip(*parts, strict=True))
        if len(x) < MIN_POINTS:
            continue
        run = np.repeat(np.arange(len(parts)), [len(d) for d, _ in parts])
        name = {"x_names": ("sqrt_kl",), "y_name": f"change_{key[0]}", "group": group_of(cell, *key)}
        for law in ("sqrt-kl-linear", *(("rl",) if key[0] == "gold" else ())):
            result = fit(law, x, y, cluster=run if len(parts) > 1 else np.zeros(len(x)), **name)  # type: ignore[arg-type]
            fits.append(replace(result, notes=(*result.notes, *censored(cell.runs))))
    return fits
