"""Over-optimisation: does the gold score fall again, and does the train PM's score part from the test PM's?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.crossed import Measured, mean_term, replicates, size_slope
from analysis.estimates import Cell, Estimate, crossed_means
from analysis.frames import Study, join_notes
from analysis.frontier import Curve, spread
from analysis.held_out import HeldOut

Floats = NDArray[np.float64]
NEGLIGIBLE = 0.1  # of the gold score's rise: a fall smaller than this is called none
WINDOW = 3  # evaluations whose mean is a candidate for the peak: one alone may be high by chance
LAST = 2  # evaluations whose mean is the end
MIN_STEPS = WINDOW + 1
GOLD_RULE = (
    f"peak: the highest mean of {WINDOW} successive evaluations, chosen on the other half of the prompts; end: the "
    f"mean of the last {LAST}. falls: the rise's 95 % interval is above 0, the fall's above {NEGLIGIBLE * 100:.0f} % "
    "of the rise, and the train score rises from there to the end. none: the rise's is above 0, the fall's below that, "
    "and every run went measurably past its peak in KL (else not reached). Otherwise inconclusive."
)


def overoptimisation(study: Study, curves: list[Curve], scores: dict[str, HeldOut]) -> list[dict[str, Any]]:
    """One row per size over its finished runs: the gold score's peak and fall to the end, and the parting of train
    and test score at the end in units of each PM's own spread; prompts crossed with runs."""
    models = sorted({c.model for c in curves if usable(c)}, key=lambda m: (m.n_params, m.name))
    sizes = [[c for c in curves if c.model == model and usable(c)] for model in models]
    measures: dict[str, Callable[[Curve], Floats | None]] = {
        "gold_rise": lambda curve: from_start(curve, "gold"),
        "gold_fall": lambda curve: _negative(to_end(curve, "gold")),
        "gold_change": lambda curve: _sum(from_start(curve, "gold"), to_end(curve, "gold")),
        "train_after_peak": lambda curve: to_end(curve, "score_train"),
        "kl_after_peak": lambda curve: to_end(curve, f"kl_{curve.estimator}"),
        "parting": lambda curve: parting(study, curve, scores),
    }
    found = {name: _by_size(study, sizes, measure) for name, measure in measures.items()}
    return [
        {"model": model.name, "n_params": model.n_params} | _row(study, runs, {name: found[name][i] for name in found})
        for i, (model, runs) in enumerate(zip(models, sizes, strict=True))
    ]


def _row(study: Study, runs: list[Curve], found: dict[str, Measured]) -> dict[str, Any]:
    """The columns of one size beside its labels."""
    note = join_notes(*(m.note for m in found.values()), study.base_note([curve.record for curve in runs]))
    verdict = gold_verdict({name: m.estimate for name, m in found.items()}, all(map(left_peak, runs)))
    return {
        "n_runs": len(runs), "peak_sqrt_kl": _mean_peak(runs), **{name: m.to_dict() for name, m in found.items()},
        "gold_verdict": verdict, "gold_rule": GOLD_RULE, "note": note,
    }  # fmt: skip


def usable(curve: Curve) -> bool:
    """Whether a policy finished (did not collapse) and was evaluated after its start."""
    return curve.finished and len(curve.steps) > 1


def _by_size(study: Study, sizes: list[list[Curve]], measure: Callable[[Curve], Floats | None]) -> list[Measured]:
    """A per-prompt measure's mean over prompts and runs at every size."""
    measured = [[(c, v) for c in runs if (v := measure(c)) is not None] for runs in sizes]
    found = iter(crossed_means([_cell(study, parts) for parts in measured if parts]))
    return [_measured(parts, *next(found)) if parts else Measured() for parts in measured]


def _measured(parts: list[tuple[Curve, Floats]], estimate: Estimate, note: str | None) -> Measured:
    return Measured(replace(estimate, n=max(len(values) for _, values in parts)), note)


def _cell(study: Study, measured: list[tuple[Curve, Floats]]) -> Cell:
    items = np.concatenate([curve.conversation for curve, _ in measured])
    chains = np.array([study.chain(curve.record) for curve, _ in measured], dtype=object)
    runs = np.repeat(chains, [len(values) for _, values in measured])
    return Cell(np.concatenate([values for _, values in measured]), items, replicates(runs))


# ---------------------------------------------------------------- the gold score's peak


def has_peak(curve: Curve) -> bool:
    """Whether a peak can be looked for: a gold score at enough evaluations."""
    return "gold" in curve.values and len(curve.steps) >= MIN_STEPS


def windows(values: Floats) -> Floats:
    """(S - 2, P) means of three successive evaluations (S, P); row i is centred on evaluation i + 1."""
    return np.asarray((values[:-2] + values[1:-1] + values[2:]) / WINDOW)


def peak_windows(curve: Curve) -> NDArray[np.intp]:
    """(P,) for every prompt the window where the *other* half of the prompts has its highest gold.

    The highest of several noisy means is too high, so the half that chooses the peak does not measure it. That
    takes away the noise of prompts; what moves all prompts from one evaluation to the next is damped by the window.
    """
    half = curve.cluster % 2
    gold = windows(curve.values["gold"])
    if len(set(half)) < 2:
        return np.full(gold.shape[1], int(np.argmax(gold.mean(axis=1))))
    peak = [int(np.argmax(gold[:, half == h].mean(axis=1))) for h in (0, 1)]
    return np.where(half == 0, peak[1], peak[0])


def at_peak(curve: Curve, column: str) -> Floats:
    """(P,) a column's mean over the window of the gold score's peak."""
    values = windows(curve.values[column])
    return np.asarray(values[peak_windows(curve), np.arange(values.shape[1])])


def from_start(curve: Curve, column: str) -> Floats | None:
    """(P,) a column at the gold score's peak minus at the start; None without a gold score."""
    return at_peak(curve, column) - curve.values[column][0] if has_peak(curve) else None


def to_end(curve: Curve, column: str) -> Floats | None:
    """(P,) a column at the end (mean of the last two evaluations) minus at the gold score's peak."""
    if not has_peak(curve) or column not in curve.values:
        return None
    return np.asarray(curve.values[column][-LAST:].mean(axis=0) - at_peak(curve, column))


def _negative(values: Floats | None) -> Floats | None:
    return None if values is None else -values


def _sum(one: Floats | None, two: Floats | None) -> Floats | None:
    return None if one is None or two is None else one + two


def _own_peak(curve: Curve) -> int:
    """The window with the run's highest mean gold over all prompts."""
    return int(np.argmax(windows(curve.values["gold"]).mean(axis=1)))


def left_peak(curve: Curve) -> bool:
    """Whether a run's peak is not its last window."""
    return has_peak(curve) and _own_peak(curve) < len(curve.steps) - WINDOW


def _mean_peak(runs: list[Curve]) -> float | None:
    """The mean over runs of sqrt(KL) over the window where the mean gold score is highest."""
    peaks = [float(windows(c.sqrt_kl()[:, None])[_own_peak(c), 0]) for c in runs if has_peak(c)]
    return float(np.mean(peaks)) if peaks else None


def gold_verdict(found: Mapping[str, Estimate | None], all_left: bool) -> str | None:
    """``GOLD_RULE``; ``all_left`` says whether every run's peak lies before its last window. None: no gold score."""
    rise, fall, train, kl = (found[k] for k in ("gold_rise", "gold_fall", "train_after_peak", "kl_after_peak"))
    if rise is None or fall is None or kl is None:
        return None
    (low, high), bound = fall.interval(), NEGLIGIBLE * rise.value
    if low is None or high is None or (rise.interval()[0] or 0.0) <= 0:
        return "inconclusive"
    if low > bound and train is not None and train.value > 0:
        return "falls"
    if high < bound:
        return "none" if all_left and (kl.interval()[0] or 0.0) > 0 else "not reached"
    return "inconclusive"


# ---------------------------------------------------------------- train against test


def parting(study: Study, curve: Curve, scores: dict[str, HeldOut]) -> Floats | None:
    """(P,) the rise of the train PM's score minus that of the test PM's at the end, each in standard deviations of
    that PM's scores (``spread``; two PMs share no scale); None where a PM's scores are missing."""
    found = [spread(study, curve, role, scores) for role in ("train", "test")]
    spreads = [value for value in found if value is not None]
    if len(spreads) < 2:
        return None
    train, test = curve.relative("score_train"), curve.relative("score_test")
    if train is None or test is None or min(spreads) <= 0:
        return None
    return np.asarray(train[-1] / spreads[0] - test[-1] / spreads[1])


def parting_slope(study: Study, curves: list[Curve], scores: dict[str, HeldOut]) -> Estimate | None:
    """The change per ln(parameters) of the parting where all runs are equally far, at the farthest sqrt(KL) that every
    run reached; None with too few sizes or base models. Sizes end at different distances, and scores part with it."""
    runs = [c for c in curves if usable(c)]
    reached = min((float(c.sqrt_kl().max()) for c in runs), default=0.0)
    sizes: dict[int, list[tuple[Curve, Floats]]] = {}
    for curve in runs:
        values = parting(study, cut_at(curve, reached), scores) if reached > 0 else None
        if values is not None:
            sizes.setdefault(curve.model.n_params, []).append((curve, values))
    terms = []
    for members in sizes.values():
        values = np.concatenate([v for _, v in members])
        prompts = np.concatenate([c.conversation for c, _ in members])
        chains = np.array([study.chain(c.record) for c, _ in members], dtype=object)
        terms.append(mean_term(values, prompts, np.repeat(chains, [len(v) for _, v in members])))
    return size_slope(list(sizes), terms)


def cut_at(curve: Curve, place: float) -> Curve:
    """The curve up to where its sqrt(KL) first was ``place``, its scores there read linearly between evaluations."""
    roots = curve.sqrt_kl()
    after = max(int(np.argmax(roots >= place)), 1)
    share = (place - roots[after - 1]) / (roots[after] - roots[after - 1]) if roots[after] > roots[after - 1] else 1.0
    there = {k: (1 - share) * v[after - 1] + share * v[after] for k, v in curve.values.items()}
    values = {k: np.vstack([v[:after], there[k][None]]) for k, v in curve.values.items()}
    return replace(curve, values=values)


def pooled_parting(study: Study, curves: list[Curve], scores: dict[str, HeldOut]) -> Estimate | None:
    """The parting over all finished runs of all sizes, prompts crossed with runs; None without any."""
    return _by_size(study, [[c for c in curves if usable(c)]], lambda curve: parting(study, curve, scores))[0].estimate
