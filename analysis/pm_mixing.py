"""Preference models trained on mixtures of helpful and harmless comparisons, and with a weight on the harmless ones
(Bai et al. 2022, figures 19, 26 and 27)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analysis.crossed import Measured, Term, combine, measure, ratio, size_mean, size_slope
from analysis.estimates import Estimate
from analysis.frames import Study
from analysis.held_out import KINDS, Bools, Floats
from analysis.pm_baselines import baselines
from analysis.pools import PM, Pool, on_common_chains, varied, with_both_kinds

Value = float | None
Size = dict[Value, Pool]  # one size's PMs by the value of what is varied
GROUPS = (*KINDS, "mean")
Pair = tuple[Pool, Pool]


def accuracy(pool: Pool, group: str, rows: Bools | None = None) -> Term | None:
    """Accuracy over ``rows`` (all by default) on one kind of comparison, or the mean of both kinds'."""
    return mean_of(pool, group, pool.scores.correct, rows)


def mean_of(pool: Pool, group: str, values: Floats, rows: Bools | None = None) -> Term | None:
    """The mean of ``values`` (R,) over ``rows`` of one kind of comparison, or the mean of both kinds'."""
    if group == "mean":
        return pool.mean_of_kinds(values, rows)
    return pool.term(values, pool.rows(group) if rows is None else pool.rows(group) & rows)


def difference(pair: Pair, group: str) -> Term | None:
    """The first pool's accuracy minus the second's, paired by comparison and chain."""
    return combine((1, accuracy(pair[0], group)), (-1, accuracy(pair[1], group)))


def first_half(pool: Pool) -> Bools:
    """(R,) the comparisons of one half of the conversations, by their names: the same for every pool."""
    names = set(pool.scores.conversation)
    first = {name for name in names if zlib.crc32(str(name).encode()) % 2 == 0}
    return np.array([name in first for name in pool.scores.conversation], dtype=bool)


def best_value(size: Size, group: str, half: int | None = None) -> float:
    """The value, among those asked for, with the highest accuracy, on one half of the conversations (0 or 1) or on
    all; the smallest of several."""
    found: dict[float, float] = {}
    for value in sorted(value for value in size if value is not None):
        rows = None if half is None else first_half(size[value]) == (half == 0)
        if (term := accuracy(size[value], group, rows)) is not None:
            found[value] = term.value
    return max(found, key=lambda value: found[value])


def relative(size: Size, value: Value, group: str) -> Term | None:
    """Accuracy at a value over that at the size's best, paired by comparison and chain.

    The best is chosen on one half of the conversations and compared on the other, both ways, and the mean is taken:
    on the comparisons that chose it the best is too good, by luck.
    """
    parts = []
    for half in (0, 1):
        pair = on_common_chains(size[value], size[best_value(size, group, half)]) if value in size else None
        if pair is None:
            return None
        top, bottom = (accuracy(pool, group, first_half(pool) != (half == 0)) for pool in pair)
        parts.append((0.5, ratio(top, bottom)))
    return combine(*parts)


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


def _compared(sizes: list[Size], of: Callable[[Size], Term | None]) -> dict[int, Measured]:
    """A quantity of every size that has it, by the size's index."""
    found = measure(sizes, of)
    return {i: measured for i, measured in enumerate(found) if measured.estimate is not None}


def _row(study: Study, pool: Pool, group: str, measured: Measured) -> dict[str, Any]:
    (beside,) = baselines([pool], lambda one, values, kept: mean_of(one, group, values, kept))
    shared = {"group": group, "accuracy": measured.to_proportion(), **beside, "n_runs": len(pool.pms)}
    return pool.labels | shared | {"note": pool.note(study, measured)}


def _sorted(rows: list[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        value = row[axis]
        return (row["n_params"], row["model"], GROUPS.index(row["group"]), value is None, value or 0.0)

    return sorted(rows, key=place)


# ---------------------------------------------------------------- shares


def pm_shares(study: Study, pms: Sequence[PM]) -> list[dict[str, Any]]:
    """Accuracy by the share of helpful comparisons in training, minus chance, and relative to the size's best share.

    ``best_share`` is the best over all comparisons; ``relative`` chooses and compares on different conversations.
    The main PM, trained on the data as they come, is a row without a share.
    """
    sizes, rows = _sizes(pms, "helpful_share"), []
    for group in GROUPS:
        for share in _values(sizes):
            compared = _compared(sizes, lambda size: relative(size, share, group))  # noqa: B023
            for i, found in _at(sizes, share, group).items():
                rows.append(_row(study, sizes[i][share], group, found) | {
                    "helpful_share": share, "minus_chance": _minus_chance(found),
                    "relative": compared.get(i, Measured()).to_difference(), "best_share": best_value(sizes[i], group),
                })  # fmt: skip
    return _sorted(rows, "helpful_share")


def _minus_chance(found: Measured) -> dict[str, Any] | None:
    own = found.estimate
    return None if own is None else replace(own, value=own.value - 0.5).to_difference()


def one_sided(pms: Sequence[PM]) -> dict[str, tuple[Pool, Term]]:
    """1/2 minus the accuracy on the kind of comparison that PMs were not trained on, by that kind, with those PMs:
    over all sizes, which must have the same number of comparisons."""
    found: dict[str, tuple[Pool, Term]] = {}
    for kind, share in (("harmless", 1.0), ("helpful", 0.0)):
        members = [pm for size in _sizes(pms, "helpful_share") if share in size for pm in size[share].pms]
        if len({pm.n_comparisons for pm in members}) == 1:
            pool = Pool(tuple(members))
            term = pool.term(0.5 - pool.scores.correct, pool.rows(kind))
            found |= {} if term is None else {kind: (pool, term)}
    return found


# ---------------------------------------------------------------- weights


def pm_weights(study: Study, pms: Sequence[PM]) -> list[dict[str, Any]]:
    """Accuracy by the weight of harmless comparisons in the loss, and minus that at weight 1 (the main PM)."""
    sizes, rows = _sizes(pms, "harmless_weight"), []
    for group in GROUPS:
        for weight in _values(sizes):
            minus = _compared(sizes, lambda size: _minus_one(size, weight, group))  # noqa: B023
            for i, found in _at(sizes, weight, group).items():
                row = _row(study, sizes[i][weight], group, found)
                change = minus.get(i, Measured()).to_difference()
                rows.append(row | {"harmless_weight": weight, "minus_one": change})
    return _sorted(rows, "harmless_weight")


def _minus_one(size: Size, weight: Value, group: str) -> Term | None:
    both = weight in size and 1.0 in size and weight != 1.0
    pair = on_common_chains(size[weight], size[1.0]) if both else None
    return None if pair is None else difference(pair, group)


# ---------------------------------------------------------------- against size


@dataclass(frozen=True)
class BySize:
    """How a relative loss moves with size: the mean over sizes, the slope in ln(parameters), and every size's."""

    slope: Estimate | None = None
    loss: Estimate | None = None  # mean change over all base models; below 0 is a loss
    sizes: list[dict[str, Any]] = field(default_factory=list)
    n_bases: int = 0


def mixing_by_size(pms: Sequence[PM]) -> BySize:
    """What training on one kind alone changes in the mean of both kinds' accuracies, relative to the size's best share:
    the mean over the shares 0 and 1, among the shares that all sizes have."""
    sizes = comparable([s for s in _sizes(pms, "helpful_share") if {0.0, 1.0} <= set(s)])
    return _by_size(sizes, (0.0, 1.0), "mean", "shares") if len(_values(sizes)) > 2 else BySize()


def weight_by_size(pms: Sequence[PM]) -> BySize:
    """What the largest weight that all sizes have changes in helpful accuracy, relative to the size's best weight."""
    sizes = comparable([size for size in _sizes(pms, "harmless_weight") if 1.0 in size])
    most = max((value for value in _values(sizes) if value is not None), default=1.0)
    return _by_size(sizes, (most,), "helpful", "weights") if most > 1 else BySize()


def comparable(sizes: Sequence[Size]) -> list[Size]:
    """The sizes with the values that all of them have, and of each the chains that have all of those; none where their
    numbers of comparisons differ. A best among more values would be better by luck."""
    values = set.intersection(*(set(size) for size in sizes)) - {None} if sizes else set()
    found = []
    for size in sizes:
        chains = set.intersection(*(size[value].chains for value in values)) if values else set()
        own = {value: tuple(pm for pm in size[value].pms if pm.chain in chains) for value in values}
        found += [{value: Pool(members) for value, members in own.items()}] if chains else []
    numbers = {pm.n_comparisons for size in found for pool in size.values() for pm in pool.pms}
    return found if len(numbers) == 1 else []


def _by_size(sizes: list[Size], ends: Sequence[float], group: str, name: str) -> BySize:
    """The relative change at ``ends``, averaged over them."""
    relatives = [combine(*((1 / len(ends), relative(size, end, group)) for end in ends)) for size in sizes]
    terms = [None if term is None else replace(term, value=term.value - 1) for term in relatives]
    measured = measure(terms, lambda term: term)
    pools = [size[ends[0]] for size in sizes]
    rows = [
        {"model": pool.model.name, "n_params": pool.model.n_params, "n_comparisons": pool.pms[0].n_comparisons,
         name: sorted(v for v in size if v is not None), "n_bases": len(pool.bases), "change": change.to_difference()}
        for pool, size, change in zip(pools, sizes, measured, strict=True)
    ]  # fmt: skip
    slope = size_slope([pool.model.n_params for pool in pools], terms)
    return BySize(slope, size_mean(terms), rows, len({base for pool in pools for base in pool.bases}))
