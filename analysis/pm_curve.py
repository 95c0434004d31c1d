"""Held-out accuracy along one pass over the comparisons, beside separate passes over fewer (figures 7 and 31)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.crossed import Term, combine, measure
from analysis.frames import MAIN, Study, stage_table
from analysis.pm_baselines import baselines
from analysis.pools import PM, Pool, grouped, groups_of, on_common_chains

CURVE_COLUMNS = ("pairs", "comparison_id", "score_chosen", "score_rejected")


@dataclass(frozen=True)
class Seen:
    """A PM as it was after some of its comparisons: scored then, labelled with the number asked for."""

    pm: PM
    pairs: int  # it had really seen
    at_end: bool


def pm_curve(study: Study, pms: Sequence[PM]) -> list[dict[str, Any]]:
    """One row per size, kind of comparison and number of pairs seen; the end of the pass is the main PM itself.

    Beside it stands the accuracy of separate passes over as many comparisons, both halves, as the laws of data have it;
    the difference from those of the train half, which the long pass is of, is paired by comparison and chain.
    """
    main = [pm for pm in pms if pm.setting == MAIN]
    train = [pm for pm in main if pm.half == "train"]
    along = [seen for pm in train if "curve.parquet" in pm.record.files for seen in evaluations(study, pm)]
    separate, paired = (grouped(of, lambda pm: (pm.place, pm.n_comparisons)) for of in (main, train))
    rows = []
    for count, at_end in sorted({(seen.pm.n_comparisons, seen.at_end) for seen in along}):
        here = [seen for seen in along if (seen.pm.n_comparisons, seen.at_end) == (count, at_end)]
        pools = list(grouped([seen.pm for seen in here], lambda pm: pm.place).values())
        pairs = {seen.pm.record.stage_id: seen.pairs for seen in here}
        beside = [separate.get((pool.pms[0].place, count)) for pool in pools]
        same = [None if at_end else paired.get((pool.pms[0].place, count)) for pool in pools]
        rows += [row | {"at_end": at_end} for row in _rows(study, pools, beside, same, pairs)]
    return sorted(rows, key=lambda row: (row["n_params"], row["model"], row["n_comparisons"]))


def evaluations(study: Study, pm: PM) -> list[Seen]:
    """The PM after each number of pairs asked for, and at the end.

    What is asked for is scored after a whole batch: it is the first evaluation at or after it, by less than two
    batches (batches differ by a few pairs). What cannot be used is excluded with its reason.
    """
    frame = stage_table(study, pm.record, "curve.parquet", CURVE_COLUMNS)
    training = pm.record.config.get("training", {})
    slack = 2 * int(training.get("batch_size", 1))
    found = []
    for asked in training.get("eval_at", ()):
        if frame is None:  # said by stage_table
            break
        after = [int(n) for n in set(frame.pairs) if asked <= n < asked + slack]
        then = _as_it_was(pm, frame[frame.pairs == min(after)], asked) if after else None
        if then is None:
            study.exclude(pm.record.stage_id, f"curve.parquet: not all scores after {asked} pairs", pm.record)
        else:
            found.append(Seen(then, min(after), at_end=False))
    trained = pm.record.summary.get("n_comparisons") or pm.n_comparisons
    return [*found, Seen(pm, int(trained), at_end=True)]


def _as_it_was(pm: PM, part: pd.DataFrame, asked: int) -> PM | None:
    """The PM with the scores of one evaluation; None where it lacks a comparison or has it twice."""
    rows = part.set_index("comparison_id")
    if not rows.index.is_unique or not set(pm.scores.comparison_id) <= set(rows.index):
        return None
    rows = rows.loc[list(pm.scores.comparison_id)]
    chosen, rejected = rows.score_chosen.to_numpy(float), rows.score_rejected.to_numpy(float)
    return replace(pm, n_comparisons=asked, scores=replace(pm.scores, score_chosen=chosen, score_rejected=rejected))


def _rows(
    study: Study, pools: list[Pool], beside: list[Pool | None], same: list[Pool | None], pairs: dict[str, int]
) -> list[dict[str, Any]]:
    """One number of comparisons, at every size and kind of comparison."""
    both = [None if b is None else on_common_chains(pool, b) for pool, b in zip(pools, same, strict=True)]
    rows = []
    for group in groups_of(pools):
        accuracy = measure([(pool, group) for pool in pools], lambda cell: _accuracy(*cell))
        separate = measure(beside, lambda pool: None if pool is None else _accuracy(pool, group))  # noqa: B023
        change = measure([(pair, group) for pair in both], lambda cell: cell[0] and _difference(*cell[0], cell[1]))
        beside_it = baselines(pools, lambda pool, values, kept: pool.term(values, pool.rows(group) & kept))  # noqa: B023
        for i, pool in enumerate(pools):
            rows.append(pool.labels | {
                "group": group, "pairs": round(sum(pairs[pm.record.stage_id] for pm in pool.pms) / len(pool.pms)),
                "accuracy": accuracy[i].to_proportion(), "separate": separate[i].to_proportion(),
                "difference": change[i].to_difference(), **beside_it[i], "n_runs": len(pool.pms),
                "note": pool.note(study, accuracy[i]),
            })  # fmt: skip
    return rows


def _accuracy(pool: Pool, group: str) -> Term | None:
    return pool.term(pool.scores.correct, pool.rows(group))


def _difference(along: Pool, separate: Pool, group: str) -> Term | None:
    return combine((1, _accuracy(along, group)), (-1, _accuracy(separate, group)))
