"""Preference models trained on mixtures of helpful and harmless comparisons, and with a weight on the harmless ones
(Bai et al. 2022, figures 19, 26 and 27)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from analysis.crossed import Measured, Term, combine, measure, one, ratio, size_slope
from analysis.estimates import Estimate
from analysis.frames import Study
from analysis.held_out import KINDS
from analysis.pools import PM, Pool, on_common_chains, varied, with_both_kinds

Value = float | None
Size = dict[Value, Pool]  # one size's PMs by the value of what is varied
GROUPS = (*KINDS, "mean")
Pair = tuple[Pool, Pool]


def accuracy(pool: Pool, group: str) -> Term | None:
    """Accuracy on one kind of comparison, or the mean of both kinds'."""
    correct = pool.scores.correct
    return pool.mean_of_kinds(correct) if group == "mean" else pool.term(correct, pool.rows(group))


def difference(pair: Pair, group: str) -> Term | None:
    """The first pool's accuracy minus the second's, paired by comparison and chain."""
    return combine((1, accuracy(pair[0], group)), (-1, accuracy(pair[1], group)))


def quotient(pair: Pair, group: str) -> Term | None:
    """The first pool's accuracy divided by the second's, paired likewise."""
    return ratio(accuracy(pair[0], group), accuracy(pair[1], group))


def _sizes(pms: Sequence[PM], axis: str) -> list[Size]:
    """The sizes that vary ``axis``, where both kinds of comparison are held out."""
    return [size for size in varied(pms, axis) if with_both_kinds(size.values())]


def _values(sizes: list[Size]) -> list[Value]:
    """What the axis takes, None (as the data come) last."""
    return sorted({value for size in sizes for value in size}, key=lambda value: (value is None, value or 0.0))


def _at(sizes: list[Size], value: Value, group: str) -> dict[int, Measured]:
    """The accuracy of each size that has the value, by the size's index."""
    cells = {i: (size[value], group) for i, size in enumerate(sizes) if value in size}
    return dict(zip(cells, measure(list(cells.values()), lambda cell: accuracy(*cell)), strict=True))


def _compared(
    sizes: list[Size], value: Value, others: Sequence[Value], group: str, of: Callable[[Pair, str], Term | None]
) -> dict[int, Measured]:
    """A quantity of each size's pool at ``value`` and at another value, on the chains that have both; by the size's
    index. Nothing where the two are one."""
    cells = {}
    for i, (size, other) in enumerate(zip(sizes, others, strict=True)):
        pair = on_common_chains(size[value], size[other]) if value in size and other in size else None
        if pair is not None and other != value:
            cells[i] = (pair, group)
    return dict(zip(cells, measure(list(cells.values()), lambda cell: of(*cell)), strict=True))


def _row(study: Study, pool: Pool, group: str, measured: Measured) -> dict[str, Any]:
    shared = {"group": group, "accuracy": measured.to_dict(), "n_runs": len(pool.pms)}
    return pool.labels | shared | {"note": pool.note(study, measured)}


def _sorted(rows: list[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        value = row[axis]
        return (row["n_params"], row["model"], GROUPS.index(row["group"]), value is None, value or 0.0)

    return sorted(rows, key=place)


# ---------------------------------------------------------------- shares


def pm_shares(study: Study, pms: Sequence[PM]) -> list[dict[str, Any]]:
    """Accuracy by the share of helpful comparisons in training, and relative to the size's best share.

    The best is chosen on the same held-out comparisons, so that a relative accuracy is at most 1; its interval takes
    the choice as given. The main PM, trained on the data as they come, is a row without a share.
    """
    sizes, rows = _sizes(pms, "helpful_share"), []
    for group in GROUPS:
        best = [best_share(size, group) for size in sizes]
        for share in _values(sizes):
            measured = _at(sizes, share, group)
            relative = _compared(sizes, share, best, group, quotient)
            for i, found in measured.items():
                shown = relative.get(i, Measured())
                if share == best[i] and found.estimate is not None:
                    shown = Measured(Estimate(1.0, 0.0, found.estimate.n))
                row = _row(study, sizes[i][share], group, found)
                rows.append(row | {"helpful_share": share, "relative": shown.to_difference(), "best_share": best[i]})
    return _sorted(rows, "helpful_share")


def best_share(size: Size, group: str) -> float:
    """The share, among those asked for, with the highest accuracy; the smallest of several."""
    given = sorted(share for share in size if share is not None)
    found = {share: term.value for share in given if (term := accuracy(size[share], group)) is not None}
    return max(found, key=lambda share: found[share])


def one_sided(pms: Sequence[PM]) -> dict[str, Estimate]:
    """1/2 minus the accuracy on the kind of comparison that a PM was not trained on, over all sizes, by that kind."""
    found: dict[str, Estimate] = {}
    for kind, share in (("harmless", 1.0), ("helpful", 0.0)):
        members = [pm for size in _sizes(pms, "helpful_share") if share in size for pm in size[share].pms]
        if members:
            pool = Pool(tuple(members), by_base=True)
            below = one(pool.term(0.5 - pool.scores.correct, pool.rows(kind)))
            found |= {} if below is None else {kind: below}
    return found


def mixing_by_size(pms: Sequence[PM]) -> tuple[Estimate | None, list[dict[str, Any]]]:
    """The slope in ln(parameters) of what training on one kind alone changes in the mean accuracy, and each size's.

    At every size: the mean over the shares 0 and 1, minus the share nearest to 1/2. Negative is a loss.
    """
    found = []
    for size in _sizes(pms, "helpful_share"):
        inner = [share for share in size if share is not None and 0 < share < 1]
        if {0.0, 1.0} <= set(size) and inner:
            middle = min(inner, key=lambda share: (abs(share - 0.5), share))
            ends = [on_common_chains(size[end], size[middle]) for end in (0.0, 1.0)]
            parts = [(0.5, None if pair is None else difference(pair, "mean")) for pair in ends]
            found.append((size[middle], combine(*parts), {"shares": [0.0, middle, 1.0]}))
    return _slope(found)


# ---------------------------------------------------------------- weights


def pm_weights(study: Study, pms: Sequence[PM]) -> list[dict[str, Any]]:
    """Accuracy by the weight of harmless comparisons in the loss, and minus that at weight 1 (the main PM)."""
    sizes, rows = _sizes(pms, "harmless_weight"), []
    for group in GROUPS:
        for weight in _values(sizes):
            minus = _compared(sizes, weight, [1.0] * len(sizes), group, difference)
            for i, found in _at(sizes, weight, group).items():
                row = _row(study, sizes[i][weight], group, found)
                change = minus.get(i, Measured()).to_difference()
                rows.append(row | {"harmless_weight": weight, "minus_one": change})
    return _sorted(rows, "harmless_weight")


def weight_by_size(pms: Sequence[PM]) -> tuple[Estimate | None, list[dict[str, Any]]]:
    """The slope in ln(parameters) of the change in helpful accuracy from weight 1 to the largest, and each size's."""
    found = []
    sizes = _sizes(pms, "harmless_weight")
    most = max((value for value in _values(sizes) if value is not None), default=1.0)
    for size in sizes:
        if most > 1 and {1.0, most} <= set(size):
            pair = on_common_chains(size[most], size[1.0])
            term = None if pair is None else difference(pair, "helpful")
            found.append((size[most], term, {"weights": [1.0, most]}))
    return _slope(found)


def _slope(sizes: list[tuple[Pool, Term | None, dict[str, Any]]]) -> tuple[Estimate | None, list[dict[str, Any]]]:
    measured = measure([term for _, term, _ in sizes], lambda term: term)
    rows = [
        {"model": pool.model.name, "n_params": pool.model.n_params, **about, "change": change.to_difference()}
        for (pool, _, about), change in zip(sizes, measured, strict=True)
    ]
    return size_slope([pool.model.n_params for pool, _, _ in sizes], [term for _, term, _ in sizes]), rows
