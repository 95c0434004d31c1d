"""What pretraining on votes does to a preference model's held-out accuracy, and what votes mixed into its comparisons
do (Bai et al. 2022, section 3 and figure 20)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.crossed import Term, combine, measure
from analysis.frames import MAIN, Study
from analysis.held_out import HeldOut
from analysis.pools import PM, Pool, grouped, on_common_chains, varied

Cell = Mapping[Any, Pool]  # one size's PMs on one number of comparisons, by the value of what is varied


def pm_pretraining(study: Study, pms: Sequence[PM], votes: Sequence[PM] = ()) -> list[dict[str, Any]]:
    """A row per size, number of comparisons and start: accuracy with and without pretraining, and the difference.

    Only where there are both; PMs are of the train half. The difference is paired by comparison and chain. The row on 0
    comparisons is of the pretraining itself (``votes``), at sizes that have other rows.
    """
    alone = [pm for pm in pms if pm.half == "train" and pm.setting.varies_only("pretrained")]
    rows = []
    for same in grouped(alone, lambda pm: pm.n_comparisons).values():
        sizes = grouped(same.pms, lambda pm: pm.place).values()
        starts = [grouped(pool.pms, lambda pm: is_pretrained(study, pm)) for pool in sizes]
        rows += compared(study, [start for start in starts if len(start) == 2], "pretrained", False)
    shown = {row["model"] for row in rows}
    before = grouped([pm for pm in votes if pm.model.name in shown], lambda pm: pm.place).values()
    rows += compared(study, [{True: pool} for pool in before], "pretrained", False)
    return in_order(rows, "pretrained")


def votes_alone(study: Study, scores: Mapping[str, HeldOut]) -> list[PM]:
    """The pretraining of every size and seed as a preference model of no comparisons."""
    found = [(study.records[stage_id], held_out) for stage_id, held_out in scores.items()]
    pms = [PM(r, study.model(r), study.chain(r), MAIN, 0, scored) for r, scored in found if study.is_main(r)]
    return sorted(pms, key=lambda pm: pm.place)


def is_pretrained(study: Study, pm: PM) -> bool:
    """Whether the PM started from one that was trained on votes."""
    return study.main_pretrained if pm.setting.pretrained is None else pm.setting.pretrained


def pm_extra(study: Study, pms: Sequence[PM]) -> list[dict[str, Any]]:
    """A row per size and share of votes besides the comparisons: accuracy, and minus that without any (the main PM)."""
    return in_order(compared(study, varied(pms, "extra_share"), "extra_share", 0.0), "extra_share")


def compared(study: Study, cells: Sequence[Cell], axis: str, plain: float) -> list[dict[str, Any]]:
    """A row per cell and value of ``axis``: accuracy, and the difference from the value ``plain``."""
    rows = []
    for value in sorted({value for cell in cells for value in cell}):
        here = [cell for cell in cells if value in cell]
        accuracy = measure([cell[value] for cell in here], correct)
        change = measure([beside(cell, value, plain) for cell in here], difference)
        rows += [
            pool.labels | {
                axis: value, "accuracy": own.to_dict(), "difference": minus.to_difference(),
                "n_runs": len(pool.pms), "note": pool.note(study, own),
            }
            for pool, own, minus in zip([cell[value] for cell in here], accuracy, change, strict=True)
        ]  # fmt: skip
    return rows


def in_order(rows: list[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """By size, number of comparisons and value."""
    return sorted(rows, key=lambda row: (row["n_params"], row["model"], row["n_comparisons"], row[axis]))


def beside(cell: Cell, value: float, plain: float) -> tuple[Pool, Pool] | None:
    """The pools at both values, on the chains that have both; None where the two are one or one is missing."""
    return None if value == plain or plain not in cell else on_common_chains(cell[value], cell[plain])


def correct(pool: Pool) -> Term | None:
    """Accuracy on all held-out comparisons."""
    return pool.term(pool.scores.correct)


def difference(pair: tuple[Pool, Pool] | None) -> Term | None:
    """The first pool's accuracy minus the second's."""
    return None if pair is None else combine((1, correct(pair[0])), (-1, correct(pair[1])))
