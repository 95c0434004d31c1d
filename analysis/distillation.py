"""Context distillation by size: divergence from the prompted teacher, and the loss of the base, the prompted and the
distilled model on held-out text (Bai et al. 2022, appendix A.1 and figure 30)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.crossed import Term, combine, mean_term, measure
from analysis.estimates import mean
from analysis.frames import Model, Study, join_notes, stage_table
from hh_scaling.records import Record, read_jsonl

KIND = "context_distillation"
DIALOGUES, TEXT = "dialogues.parquet", "text_loss.parquet"  # of a distilled reference
COLUMNS = ("conversation", "tokens", "response_tokens") + tuple(
    f"{what}_{part}"
    for what in ("kl_base", "kl_distilled", "nats_base", "nats_prompted", "nats_distilled")
    for part in ("all", "response")
)
TEXT_COLUMNS = ("document", "tokens", "nats_base", "nats_distilled")
MEASURES = ("kl_base", "kl_distilled", "nats_base", "nats_prompted", "nats_distilled")
CHANGES = {  # the second is subtracted from the first
    "kl_change": ("kl_distilled", "kl_base"),
    "distilled_minus_base": ("nats_distilled", "nats_base"),
    "distilled_minus_prompted": ("nats_distilled", "nats_prompted"),
    "prompted_minus_base": ("nats_prompted", "nats_base"),
}
BINS, STEPS = 16, 8  # points of a learning curve, at most; steps of each, at least


@dataclass(frozen=True)
class Text:
    """Rows of one part of the held-out text at one size: sums of each measure over ``tokens`` tokens of an item."""

    part: str  # responses, dialogues (their prompts included) or text
    sums: pd.DataFrame  # R rows, a column a measure
    tokens: np.ndarray  # (R,)
    item: np.ndarray  # (R,) conversation or document
    run: np.ndarray  # (R,) chain

    def term(self, name: str) -> Term | None:
        """A measure in nats a token; None where it was not taken."""
        if name not in self.sums or self.sums[name].isna().any():
            return None
        return mean_term(self.sums[name].to_numpy(float) / self.tokens, self.item, self.run, self.tokens)

    def change(self, names: tuple[str, str]) -> Term | None:
        """The first measure minus the second, paired by item and run."""
        return combine((1, self.term(names[0])), (-1, self.term(names[1])))


@dataclass(frozen=True)
class Students:
    """The distilled references of one size."""

    model: Model
    records: list[Record]
    parts: list[Text]


def distillation_rows(study: Study) -> list[dict[str, Any]]:
    """A row per size and part of the held-out text: KL from the teacher, losses in nats a token, changes."""
    students = [found for found in (_students(study, group) for group in _by_size(study)) if found is not None]
    rows = []
    for part in ("responses", "dialogues", "text"):
        here = [(s, text) for s in students for text in s.parts if text.part == part]
        texts = [text for _, text in here]
        own = {name: measure(texts, _measure(name)) for name in MEASURES}
        changed = {name: measure(texts, _change(names)) for name, names in CHANGES.items()}
        for i, (student, _) in enumerate(here):
            values = {name: found[i].to_dict() for name, found in own.items()}
            values |= {name: found[i].to_difference() for name, found in changed.items()}
            shared = study.base_note(student.records)
            note = join_notes(own["nats_distilled"][i].note, shared)
            rows.append(_labels(study, student) | {"part": part, **values, "note": note})
    return sorted(rows, key=lambda row: (row["n_params"], row["model"]))


def _measure(name: str) -> Callable[[Text], Term | None]:
    return lambda text: text.term(name)


def _change(names: tuple[str, str]) -> Callable[[Text], Term | None]:
    return lambda text: text.change(names)


def distilled(study: Study) -> list[Record]:
    """The finished references that were distilled."""
    return [r for r in study.main_of_kind("reference") if (r.config.get("training") or {}).get("kind") == KIND]


def _by_size(study: Study) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in distilled(study):
        groups.setdefault(study.model(record).name, []).append(record)
    return list(groups.values())


def _labels(study: Study, students: Students) -> dict[str, Any]:
    record, model = students.records[0], students.model
    teacher = study.parent(record, "teacher")
    said = teacher.summary if teacher is not None else {}
    return {
        "model": model.name, "n_params": model.n_params, "teacher": record.summary.get("teacher"),
        "prompt": said.get("prompt"), "n_prompt_tokens": said.get("n_prompt_tokens"), "n_runs": len(students.records),
    }  # fmt: skip


def _students(study: Study, records: Sequence[Record]) -> Students | None:
    """One size's tables under each other; None where no record has them."""
    known = {
        r.stage_id: (r, table) for r in records if (table := stage_table(study, r, DIALOGUES, COLUMNS)) is not None
    }
    if not known:
        return None
    kept = [record for record, _ in known.values()]
    both = pd.concat([table.assign(run=study.chain(record)) for record, table in known.values()])
    parts = []
    for part, end, tokens in (("responses", "response", "response_tokens"), ("dialogues", "all", "tokens")):
        sums = both[[f"{name}_{end}" for name in MEASURES]].set_axis(list(MEASURES), axis=1)
        parts.append(_text(part, sums, both, tokens, "conversation"))
    texts = [(record, stage_table(study, record, TEXT, TEXT_COLUMNS)) for record in kept]
    found = [table.assign(run=study.chain(record)) for record, table in texts if table is not None]
    if found and len(rows := pd.concat(found)):
        parts.append(_text("text", rows[["nats_base", "nats_distilled"]], rows, "tokens", "document"))
    return Students(study.model(kept[0]), kept, [text for text in parts if len(text.tokens)])


def _text(part: str, sums: pd.DataFrame, rows: pd.DataFrame, tokens: str, item: str) -> Text:
    return Text(part, sums, rows[tokens].to_numpy(float), rows[item].to_numpy(object), rows.run.to_numpy(object))


def distillation_curve(study: Study) -> list[dict[str, Any]]:
    """The training KL of every run along its tokens, in at most ``BINS`` parts of as many steps, at least ``STEPS``.

    ``tokens`` is where a part ends; the error is over its batches, each with the number of its predicted tokens.
    """
    rows = []
    for record in distilled(study):
        path, model = study.folder(record) / "metrics.jsonl", study.model(record)
        steps = pd.DataFrame(list(read_jsonl(path)) if path.is_file() else [])
        labels = {"model": model.name, "n_params": model.n_params, "seed": study.seed(record)}
        labels |= {"stage_id": record.stage_id, "teacher": record.summary.get("teacher")}
        for part in np.array_split(np.arange(len(steps)), min(BINS, len(steps) // STEPS) or 1):
            if len(part):
                here = steps.iloc[part]
                loss = mean(here.loss, weights=here.n_loss).to_dict() | {"n": int(here.n_loss.sum())}
                rows.append(labels | {"tokens": int(here.tokens.iloc[-1]), "loss": loss})
    return sorted(rows, key=lambda row: (row["n_params"], row["model"], row["stage_id"], row["tokens"]))
