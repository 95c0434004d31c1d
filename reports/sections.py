"""The report's sections in order: what each says, shows and tabulates. All text about findings is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from reports import (
    behaviour_sentences,
    distillation_sentences,
    law_sentences,
    method,
    pm_pretraining_sentences,
    pm_probe_sentences,
    pm_sentences,
    pm_tables,
    rate_sentences,
    result_tables,
    reward_sentences,
    robustness_sentences,
    sentences,
    tables,
    tax_sentences,
    tax_tables,
    way_sentences,
)
from reports.figure_spec import Section
from reports.figures import FIGURES
from reports.formats import format_number, join_words
from reports.headlines import Headline, headlines
from reports.results import models_by_size, rows_of
from reports.tables import HtmlTable

Row = Mapping[str, Any]
OPTIONAL = (
    "scores",
    "mixing",
    "reference",
    "predictions",
    "behaviours",
    "rates",
)  # left out where the study has nothing for them


@dataclass(frozen=True)
class Sample:
    """One sampled response as shown."""

    title: str
    prompt: str
    response: str
    scores: str


@dataclass(frozen=True)
class SampleGroup:
    """The samples of one size."""

    title: str
    samples: list[Sample]


@dataclass(frozen=True)
class ReportSection:
    """A heading with whatever stands under it, in the order of the fields."""

    id: str
    title: str
    intro: Sequence[str] = ()
    lead_table: HtmlTable | None = None
    headlines: Sequence[Headline] = ()
    sentences: Sequence[str] = ()
    figures: Sequence[Any] = ()  # reports.report.ShownFigure
    tables: Sequence[HtmlTable] = ()
    samples: Sequence[SampleGroup] = field(default_factory=tuple)


@dataclass(frozen=True)
class ModelNote:
    """Something a reader must know about a model before its numbers."""

    name: str
    text: str


def title(results: Row) -> str:
    """The page's title: the study's name."""
    return f"hh-scaling: {_study(results).get('name') or 'unnamed study'}"


def lead(results: Row) -> str:
    """One line under the title: the study's own description, its sizes and how much of it has finished."""
    study, models = _study(results), [str(model["name"]) for model in models_by_size(results)]
    parts = [str(study["description"]).strip().rstrip(".")] if study.get("description") else []
    parts.append(f"Sizes: {join_words(models)}" if models else "No model has finished")
    if study.get("n_stages") is not None:
        parts.append(f"{study['n_finished']} of {study['n_stages']} stages finished")
    return ". ".join(parts) + "."


def synthetic_note() -> str:
    """What the banner says of a study on the embedded world."""
    return (
        "Texts, comparisons and benchmarks were generated, so the truth is known exactly; effects show what the "
        "methods can measure and say nothing about any real language, person or product."
    )


def model_notes(results: Row) -> list[ModelNote]:
    """The notes that results carry about models, such as that one was already tuned on instructions."""
    return [ModelNote(str(m["name"]), str(m["note"])) for m in models_by_size(results) if m.get("note")]


def build_sections(results: Row, figures: Mapping[str, Any]) -> list[ReportSection]:
    """Every section of the page, in order; ``figures`` maps the names of the registry to shown figures."""
    every = [*_pm_sections(results, figures), *_policy_sections(results, figures), *_account_sections(results, figures)]
    return [section for section in every if section.sentences or section.figures or section.id not in OPTIONAL]


def shown_in(figures: Mapping[str, Any], section: Section) -> list[Any]:
    """The figures of a section, without optional ones that have nothing to show."""
    here = [spec for spec in FIGURES if spec.section == section]
    return [figures[spec.name] for spec in here if figures[spec.name].svg or not spec.optional]


def _pm_sections(results: Row, figures: Mapping[str, Any]) -> list[ReportSection]:
    """What was found, and preference models."""
    shown = partial(shown_in, figures)
    return [
        ReportSection(
            "found",
            "What was found",
            intro=sentences.overview(results),
            lead_table=tables.claims_table(results),
            headlines=headlines(results),
        ),
        ReportSection(
            "pm",
            "Preference models",
            sentences=[
                *sentences.pm_sentences(results),
                *pm_sentences.data_sentences(results),
                *pm_pretraining_sentences.pretraining_sentences(results),
            ],
            figures=shown("pm"),
            tables=[
                result_tables.trend_table(results),
                result_tables.pm_table(results),
                *pm_tables.data_tables(results),
                *pm_pretraining_sentences.pretraining_tables(results),
            ],
        ),
        ReportSection(
            "scores",
            "How preference models score",
            sentences=[*pm_sentences.score_sentences(results), *pm_probe_sentences.probe_sentences(results)],
            figures=shown("scores"),
            tables=pm_tables.score_tables(results),
        ),
        ReportSection(
            "mixing",
            "Helpful and harmless in one preference model",
            sentences=pm_sentences.mixing_sentences(results),
            figures=shown("mixing"),
            tables=pm_tables.mixing_tables(results),
        ),
    ]


def _policy_sections(results: Row, figures: Mapping[str, Any]) -> list[ReportSection]:
    """References, policies, their tax and other behaviours, and learning rates."""
    shown = partial(shown_in, figures)
    return [
        ReportSection(
            "reference",
            "The reference: context distillation",
            sentences=distillation_sentences.distillation_sentences(results),
            figures=shown("reference"),
            tables=distillation_sentences.distillation_tables(results),
        ),
        ReportSection(
            "frontier",
            "Reward against √KL",
            sentences=[
                *sentences.frontier_sentences(results),
                *law_sentences.law_sentences(results),
                *way_sentences.way_sentences(results),
                *robustness_sentences.robustness_sentences(results),
            ],
            figures=shown("frontier"),
            tables=[
                result_tables.frontier_table(results),
                *law_sentences.law_tables(results),
                *way_sentences.way_tables(results),
                *robustness_sentences.robustness_tables(results),
            ],
        ),
        ReportSection(
            "tax",
            "Benchmarks and the alignment tax",
            sentences=[
                *tax_sentences.tax_sentences(results),
                *reward_sentences.reward_sentences(results),
                *tax_tables.more_sentences(results),
            ],
            figures=shown("tax"),
            tables=[
                result_tables.pooled_table(results),
                result_tables.tax_rows_table(results),
                *reward_sentences.reward_tables(results),
                *tax_tables.more_tables(results),
            ],
        ),
        ReportSection(
            "predictions",
            "Predicting the largest sizes",
            sentences=reward_sentences.prediction_sentences(results),
            tables=[reward_sentences.prediction_table(results)],
        ),
        ReportSection(
            "behaviours",
            "Other behaviours",
            sentences=behaviour_sentences.behaviour_sentences(results),
            figures=shown("behaviours"),
        ),
        ReportSection(
            "rates",
            "Learning rates",
            sentences=rate_sentences.rate_sentences(results),
            figures=shown("rates"),
            tables=pm_tables.rate_tables(results),
        ),
    ]


def _account_sections(results: Row, figures: Mapping[str, Any]) -> list[ReportSection]:
    """Samples, what was left out, how it was measured, what it cost."""
    return [
        samples_section(results),
        ReportSection(
            "left-out",
            "What was left out",
            sentences=[*method.left_out_sentences(results), *not_drawn(figures)],
            tables=[tables.excluded_table(results)],
        ),
        ReportSection(
            "method",
            "How it was measured",
            sentences=method.method_sentences(results),
            tables=[tables.fits_table(results)],
        ),
        ReportSection("stages", "Stages and cost", tables=[tables.models_table(results), tables.stages_table(results)]),
    ]


def not_drawn(figures: Mapping[str, Any]) -> list[str]:
    """One line that lists the optional figures which the study has nothing for, each with the reason."""
    absent = [spec for spec in FIGURES if spec.optional and not figures[spec.name].svg]
    reasons: dict[str, list[str]] = {}
    for spec in absent:
        reasons.setdefault(spec.why_empty.rstrip("."), []).append(f"“{spec.title}”")
    listed = "; ".join(f"{join_words(titles)} ({reason})" for reason, titles in reasons.items())
    return [f"Not drawn, for want of what they show: {listed}."] if absent else []


def samples_section(results: Row) -> ReportSection:
    """A few responses of each size at the start and the end of RLHF, as plain text."""
    rows = rows_of(results, "samples")
    groups = []
    for model in models_by_size(results):
        here = [row for row in rows if row["model"] == model["name"]]
        if here:
            groups.append(SampleGroup(str(model["name"]), _samples(here)))
    intro = "Control characters and marks that change the direction of text are shown as signs."
    nothing = "No policy kept samples."
    return ReportSection("samples", "Sample responses", intro=[intro if groups else nothing], samples=groups)


def _samples(rows: list[dict[str, Any]]) -> list[Sample]:
    """The samples of one size's first policy: each prompt at its start beside its end."""
    first = [row for row in rows if row["stage_id"] == rows[0]["stage_id"]]
    first.sort(key=lambda row: (row["prompt_id"], row["step"]))
    return [_sample(row) for row in first]


def _sample(row: Row) -> Sample:
    place = "start" if row["step"] == 0 else f"update {row['step']}"
    scores = [
        f"{name} {format_number(row[key], 2)}"
        for name, key in (("train PM", "score_train"), ("test PM", "score_test"), ("gold", "gold"))
        if row.get(key) is not None
    ]
    return Sample(
        f"Prompt {row['prompt_id']}, {place}", row["prompt"].strip(), row["response"].strip("\n"), ", ".join(scores)
    )


def _study(results: Row) -> Row:
    study = results.get("study")
    return study if isinstance(study, Mapping) else {"name": study}
