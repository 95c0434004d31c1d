"""Over-optimisation: does the gold score fall again, and does the train PM's score part from the test PM's?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.estimates import Cell, Estimate, crossed_means
from analysis.frames import Study
from analysis.frontier import Curve
from analysis.pm import HeldOut

Floats = NDArray[np.float64]
NEGLIGIBLE = 0.1  # of the gold score's rise: a fall smaller than this is called none


def overoptimisation(study: Study, curves: list[Curve], scores: dict[str, HeldOut]) -> list[dict[str, Any]]:
    """One row per size over its finished runs: the gold score's peak and fall to the end, and the parting of train
    and test score at the end in units of each PM's own spread; prompts crossed with runs."""
    models = sorted({c.model for c in curves if usable(c)}, key=lambda m: (m.n_params, m.name))
    sizes = [[c for c in curves if c.model == model and usable(c)] for model in models]
    rises, falls = _by_size(sizes, rise_to_peak), _by_size(sizes, fall_from_peak)
    gaps = _by_size(sizes, lambda curve: parting(study, curve, scores))
    rows = []
    for model, runs, rise, fall, gap in zip(models, sizes, rises, falls, gaps, strict=True):
        gold = {"gold_rise": rise and rise.to_dict(), "gold_fall": fall and fall.to_dict()}
        verdict = gold_verdict(rise, fall) if rise and fall else None
        labels = {
            "model": model.name,
            "n_params": model.n_params,
            "n_runs": len(runs),
            "peak_sqrt_kl": _mean_peak(runs),
        }
        rows.append(labels | gold | {"gold_verdict": verdict, "parting": gap and gap.to_dict()})
    return rows


def usable(curve: Curve) -> bool:
    """Whether a policy finished (did not collapse) and was evaluated after its start."""
    return curve.finished and len(curve.steps) > 1


def _by_size(sizes: list[list[Curve]], measure: Callable[[Curve], Floats | None]) -> list[Estimate | None]:
    """A per-prompt measure's mean over prompts and runs at every size; None where no run has it."""
    cells = [_cell([(c, v) for c in runs if (v := measure(c)) is not None]) for runs in sizes]
    found = iter(crossed_means([cell for cell in cells if cell is not None]))
    return [None if cell is None else next(found)[0] for cell in cells]


def _cell(measured: list[tuple[Curve, Floats]]) -> Cell | None:
    if not measured:
        return None
    items = np.concatenate([curve.conversation for curve, _ in measured])
    runs = np.repeat([curve.record.stage_id for curve, _ in measured], [len(values) for _, values in measured])
    return Cell(np.concatenate([values for _, values in measured]), items, runs)


def _mean_peak(runs: list[Curve]) -> float | None:
    """The mean over runs of sqrt(KL) where the mean gold score is highest."""
    measured = [c for c in runs if "gold" in c.values]
    peaks = [float(c.sqrt_kl()[int(np.argmax(c.values["gold"].mean(axis=1)))]) for c in measured]
    return float(np.mean(peaks)) if peaks else None


def peak_steps(curve: Curve) -> NDArray[np.intp]:
    """(P,) for every prompt the index of the step where the *other* half of the prompts has its highest gold.

    The highest of several noisy means is too high, so the half that chooses the peak does not measure it.
    """
    half = curve.cluster % 2
    gold = curve.values["gold"]
    if len(set(half)) < 2:
        return np.full(gold.shape[1], int(np.argmax(gold.mean(axis=1))))
    peak = [int(np.argmax(gold[:, half == h].mean(axis=1))) for h in (0, 1)]
    return np.where(half == 0, peak[1], peak[0])


def fall_from_peak(curve: Curve) -> Floats | None:
    """(P,) gold at the peak minus gold at the end, per prompt; None without a gold score."""
    gold = curve.values.get("gold")
    if gold is None:
        return None
    return np.asarray(gold[peak_steps(curve), np.arange(gold.shape[1])] - gold[-1])


def rise_to_peak(curve: Curve) -> Floats | None:
    """(P,) gold at the peak minus gold at the start, per prompt; None without a gold score."""
    gold = curve.values.get("gold")
    if gold is None:
        return None
    return np.asarray(gold[peak_steps(curve), np.arange(gold.shape[1])] - gold[0])


def gold_verdict(rise: Estimate, fall: Estimate) -> str:
    """falls (the fall's interval is above 0), none (below a tenth of the rise), or inconclusive."""
    low, high = fall.interval()
    if low is not None and low > 0:
        return "falls"
    if high is not None and rise.value > 0 and high < NEGLIGIBLE * rise.value:
        return "none"
    return "inconclusive"


def parting(study: Study, curve: Curve, scores: dict[str, HeldOut]) -> Floats | None:
    """(P,) the rise of the train PM's score minus that of the test PM's at the end, each in standard deviations of
    that PM's held-out scores (two PMs share no scale); None where a PM's scores are missing."""
    pms = [scores.get(curve.record.parents.get(role, "")) for role in ("pm_train", "pm_test")]
    spreads = [pm.spread for pm in pms if pm is not None]
    if len(spreads) < 2:
        return None
    train, test = curve.relative("score_train"), curve.relative("score_test")
    if train is None or test is None or min(spreads) <= 0:
        return None
    return np.asarray(train[-1] / spreads[0] - test[-1] / spreads[1])


def pooled_parting(study: Study, curves: list[Curve], scores: dict[str, HeldOut]) -> Estimate | None:
    """The parting over all finished runs of all sizes, prompts crossed with runs; None without any."""
    return _by_size([[c for c in curves if usable(c)]], lambda curve: parting(study, curve, scores))[0]
