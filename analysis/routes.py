"""Other ways to a higher score than training: the best of n samples, and weights between reference and policy."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.crossed import Measured, Term, mean_term, measure
from analysis.equal_kl import Along, gap
from analysis.estimates import Codes, Estimate, codes, mean
from analysis.fit_result import FitResult, Note, Param
from analysis.fits import fit
from analysis.frames import EVAL_COLUMNS, Model, Study, costs, join_notes, stage_table
from analysis.frontier import PLAIN, SCORES, Curve, square_root, test_columns
from hh_scaling.records import Record

Floats = NDArray[np.float64]
Kind = Literal["best_of_n", "interpolation"]
WINNER = {"best_of_n": "best of n", "interpolation": "interpolation"}
EXACT = "kl_exact"  # of an evaluation, where it was measured
LABELS = ("step", "samples", "prompt_id", "conversation")  # columns that are not measured
EXPECTED_COLUMNS = ("prompt_id", "conversation", "n", "kl", "score_train", "score_test", "gold", *PLAIN)
PROMPT_DRAWS = 400
TIE_CORRECTED = "tie-corrected"  # the estimator of the best of n's KL, see docs/method.md
EQUAL_KL_RULE = (
    "difference: the other way's mean score minus the policy's at the same √KL, over the other way's places between "
    "the policy's start and its farthest evaluation (of an interpolation without its ends), read linearly in √KL "
    "between evaluations. The 95 % interval, of prompts crossed with runs, carries the noise of both KLs; the verdict "
    "names who has more where it leaves out 0, else it is inconclusive."
)


@dataclass(frozen=True)
class Way:
    """Measurements at the places of one way (n, or alpha), each (places, P prompts), prompts in one fixed order."""

    kind: Kind
    record: Record
    model: Model
    seed: int | None
    estimator: str  # of the KL
    places: Floats  # ascending
    conversation: NDArray[np.object_]  # (P,)
    prompts: tuple[int, ...]  # (P,)
    kl: Floats  # nats, signed where it is a k1 estimate
    values: dict[str, Floats]  # by column; all-null ones absent

    @property
    def cluster(self) -> Codes:
        """(P,) conversations as integers."""
        return codes(self.conversation)

    def sqrt_kl(self) -> Floats:
        """(places,) sqrt(max(mean KL, 0))."""
        return np.asarray(np.sqrt(np.maximum(self.kl.mean(axis=1), 0.0)))


def load_ways(study: Study, kind: Kind, wanted: Callable[[Record], bool] | None = None) -> list[Way]:
    """The finished stages of that kind that are wanted (by default those of the main setting) and whose table can be
    read, by size and seed."""
    name, place, columns = {
        "best_of_n": ("expected.parquet", "n", EXPECTED_COLUMNS),
        "interpolation": ("evals.parquet", "alpha", ("alpha", *EVAL_COLUMNS)),
    }[kind]
    found = []
    for record in filter(wanted or study.is_main, study.of_kind(kind)):
        frame = stage_table(study, record, name, columns, (EXACT, *test_columns(record).values()))
        if frame is not None and not frame.empty:
            found.append(_way(study, kind, record, frame, place))
    return sorted(found, key=lambda way: (way.model.n_params, way.model.name, way.seed, way.record.stage_id))


def _way(study: Study, kind: Kind, record: Record, frame: pd.DataFrame, place: str) -> Way:
    kl, estimator = (EXACT, "exact") if EXACT in frame else ("kl_k1", "k1")
    if kind == "best_of_n":
        kl, estimator = "kl", TIE_CORRECTED
    frame = frame.sort_values([place, "prompt_id"])
    first = frame[frame[place] == frame[place].min()]
    shape = (frame[place].nunique(), len(first))
    names = [name for name in frame.columns if name not in LABELS and name != place]
    values = {name: frame[name].to_numpy(float).reshape(shape) for name in names}
    return Way(
        kind,
        record,
        study.model(record),
        study.seed(record),
        estimator,
        places=frame[place].unique().astype(float),
        conversation=first.conversation.to_numpy(object),
        prompts=tuple(first.prompt_id),
        kl=values.pop(kl),
        values={name: v for name, v in values.items() if np.isfinite(v).all()},
    )


# ---------------------------------------------------------------- rows


def best_of_n_rows(study: Study, ways: Sequence[Way]) -> list[dict[str, Any]]:
    """One row per size, seed and n; scores relative to the mean over the same prompt's whole pool (n = 1)."""
    rows = []
    for way in ways:
        start = {column: values[0] for column, values in way.values.items()}
        for i, place in enumerate(way.places):
            n = int(place)
            known = mean(way.kl[i], way.cluster)
            kl = known.to_dict() | {"estimator": TIE_CORRECTED}
            bounds = {"kl_upper_bound": math.log(n) - (n - 1) / n, "kl_log_n": math.log(n)}
            head = _labels(study, way) | {"n": n, "n_samples": int(way.places[-1]), "kl": kl, **bounds}
            rows.append(head | _root(known) | _scores(way, start, i) | costs(way.record))
    return rows


def interpolation_rows(study: Study, ways: Sequence[Way], curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """One row per size, seed and alpha; scores relative to the policy's own start, as the frontier's are."""
    rows = []
    for way in ways:
        curve = _policy_of(way, curves)
        if curve is None or curve.prompts != way.prompts:
            study.exclude(way.record.stage_id, "its policy's evaluations are missing or of other prompts", way.record)
            continue
        start = {column: values[0] for column, values in curve.values.items()}
        for i, alpha in enumerate(way.places):
            known = mean(way.kl[i], way.cluster)
            kl = known.to_dict() | {"estimator": way.estimator}
            head = _labels(study, way) | {"alpha": float(alpha), "kl": kl}
            rows.append(head | _root(known) | _scores(way, start, i) | costs(way.record))
    return rows


def _labels(study: Study, way: Way) -> dict[str, Any]:
    record, model = way.record, way.model
    return {
        "stage_id": record.stage_id, "model": model.name, "n_params": model.n_params,
        "n_params_total": model.n_params_total, "seed": way.seed,
        "seed_pm": study.seed(study.parent(record, "pm_train")), "seed_base": study.seed(study.base(record)),
    }  # fmt: skip


def _root(kl: Estimate) -> dict[str, Any]:
    return dict(zip(("sqrt_kl", "sqrt_kl_se"), square_root(kl), strict=True))


def _scores(way: Way, start: dict[str, Floats], i: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, column in SCORES.items():
        known = column in way.values and column in start
        values = way.values[column][i] if known else None
        row[name] = None
        if values is not None:
            row[name] = mean(values - start[column], way.cluster).to_dict() | {"raw": float(values.mean())}
    for name in PLAIN:
        row[name] = mean(way.values[name][i], way.cluster).to_dict() if name in way.values else None
    return row


# ---------------------------------------------------------------- the law of the best of n


def best_of_n_fits(ways: Sequence[Way]) -> list[FitResult]:
    """d (alpha - beta d) over n > 1 for every size and score, d the square root of the estimated KL.

    All n share one pool, so that points of a run are not independent: with several runs the interval is from one fit a
    run, with one from redrawn prompts.
    """
    sizes: dict[Model, list[Way]] = defaultdict(list)
    for way in ways:
        sizes[way.model].append(way)
    fits = []
    for model, runs in sizes.items():
        for name, column in SCORES.items():
            measured = [way for way in runs if column in way.values]
            if measured:
                fits.append(_best_of_n_fit(measured, name, column, f"best-of-n {model.name}"))
    return fits


def _best_of_n_fit(runs: list[Way], name: str, column: str, group: str) -> FitResult:
    x = np.concatenate([way.sqrt_kl()[1:] for way in runs])
    y = np.concatenate([(way.values[column][1:] - way.values[column][0]).mean(axis=1) for way in runs])
    run = np.repeat([way.record.stage_id for way in runs], [len(way.places) - 1 for way in runs])
    result = fit("bon", x, y, cluster=run, group=group, x_names=("sqrt_kl",), y_name=name)
    if len(runs) > 1 or result.status == "not_identified" or len(set(runs[0].cluster)) < 2:
        return result
    drawn = _redraw(runs[0], column)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    params = {
        key: Param(result.params[key].value, float(drawn[:, j].std(ddof=1)), float(low[j]), float(high[j]))
        for j, key in enumerate(("alpha", "beta"))
    }
    note = Note("one_cluster", "the interval is over prompts, conditional on this run")
    return replace(result, params=params, ci_method="prompt-bootstrap", notes=(note,))


def _redraw(way: Way, column: str) -> Floats:
    """(draws, 2) alpha and beta by least squares with conversations redrawn, the same draw at every n (fixed seed)."""
    cluster = way.cluster
    groups = int(cluster.max()) + 1
    counts = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=PROMPT_DRAWS)[:, cluster]
    shares = counts / counts.sum(axis=1, keepdims=True)
    d, score = Along(way.kl[1:], way.values[column][1:] - way.values[column][0]).at(shares)
    design = np.stack([d, -(d**2)], axis=2)
    return np.asarray((np.linalg.pinv(design) @ score[..., None])[..., 0])


# ---------------------------------------------------------------- beside policies


def equal_kl_rows(study: Study, ways: Sequence[Way], curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """One row per size and score: what the other way has more than its policies at equal sqrt(KL), and who has more."""
    finished = [curve for curve in curves if curve.finished]
    pairs = [(way, curve) for way in ways if (curve := _policy_of(way, finished)) is not None]
    models = list(dict.fromkeys(way.model for way, _ in pairs))
    rows = []
    for name, column in SCORES.items():
        sizes = [
            [(w, c) for w, c in pairs if w.model == model and column in w.values and column in c.values]
            for model in models
        ]
        known = [(model, members) for model, members in zip(models, sizes, strict=True) if members]
        cells = [_Compared.of(study, model, members, column) for model, members in known]
        found = iter(measure([cell for cell in cells if cell.values.size], _Compared.term))
        rows += [_equal_kl_row(study, cell, name, next(found) if cell.values.size else Measured()) for cell in cells]
    return sorted(rows, key=lambda row: (row["n_params"], row["model"]))


@dataclass(frozen=True)
class _Compared:
    """All runs of a size: the per-prompt differences with their conversations and runs, and where they were taken."""

    model: Model
    ways: tuple[Way, ...]
    values: Floats
    items: NDArray[np.object_]
    runs: NDArray[np.object_]
    sqrt_kl: Floats

    @classmethod
    def of(cls, study: Study, model: Model, members: list[tuple[Way, Curve]], column: str) -> _Compared:
        parts = [(way, *_gap(way, curve, column)) for way, curve in members]
        runs = [np.full(len(values), study.chain(way.record), dtype=object) for way, values, _, _ in parts]
        values, items, places = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
        return cls(model, tuple(part[0] for part in parts), values, items, np.concatenate(runs), places)

    def term(self) -> Term | None:
        """The mean over prompts and runs; n counts the prompts of the run that has most."""
        most = max(int((self.runs == run).sum()) for run in set(self.runs))
        return mean_term(self.values, self.items, self.runs, n=most)


def _gap(way: Way, curve: Curve, column: str) -> tuple[Floats, NDArray[np.object_], Floats]:
    """Per-prompt differences on the prompts that both have, their conversations, and the sqrt(KL)s compared."""
    own, theirs = ({prompt: i for i, prompt in enumerate(side.prompts)} for side in (way, curve))
    shared = [prompt for prompt in way.prompts if prompt in theirs]
    mine, other = [own[p] for p in shared], [theirs[p] for p in shared]
    inside = np.ones(len(way.places), dtype=bool)
    if way.kind == "interpolation":  # its ends are the policy's start and end, measured by the same evaluations
        inside = (way.places > 0) & (way.places < 1)
    nothing = np.array([], dtype=object)
    if len(shared) < 2 or not inside.any():
        return nothing, nothing, nothing
    ours = Along(way.kl[inside][:, mine], way.values[column][inside][:, mine])
    found = gap(ours, Along(curve.kls[:, other], curve.values[column][:, other]))
    return (nothing, nothing, nothing) if found is None else (found.values, way.conversation[mine], found.sqrt_kl)


def _equal_kl_row(study: Study, cell: _Compared, score: str, measured: Measured) -> dict[str, Any]:
    kind, difference = cell.ways[0].kind, measured.to_difference()
    verdict = "no overlap"
    if difference is not None:
        low, high = difference["low"], difference["high"]
        decided = low is not None and (low > 0 or high < 0)
        verdict = (WINNER[kind] if low > 0 else "PPO") if decided else "inconclusive"
    shared = study.base_note([way.record for way in cell.ways])
    return {
        "way": kind, "model": cell.model.name, "n_params": cell.model.n_params, "score": score,
        "n_runs": len(set(cell.runs)), "n_places": len(cell.sqrt_kl),
        "sqrt_kl_low": min(cell.sqrt_kl, default=None), "sqrt_kl_high": max(cell.sqrt_kl, default=None),
        "difference": difference, "verdict": verdict, "rule": EQUAL_KL_RULE,
        "note": join_notes(measured.note, shared),
    }  # fmt: skip


def _policy_of(way: Way, curves: Sequence[Curve]) -> Curve | None:
    """The policy that a way stands beside: an interpolation's own, of the best of n that of the same parents."""
    if way.kind == "interpolation":
        return next((c for c in curves if c.record.stage_id == way.record.parents["policy"]), None)
    alike = (c for c in curves if c.seed == way.seed and c.record.parents == way.record.parents)
    return next(alike, None)
