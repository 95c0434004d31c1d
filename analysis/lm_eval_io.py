"""lm-eval output directories (``results_*.json`` and ``samples_*.jsonl``), whoever made them, as item tables.

The columns are those of a benchmark stage's ``items.parquet``, so that the tax does not care where scores came from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frames import ITEM_COLUMNS, ITEM_DETAILS, AnalysisError

METRICS = ("acc", "exact_match", "em", "bits_per_byte", "byte_perplexity", "word_perplexity", "acc_norm", "mc2", "f1",
           "pass@1", "pass_at_1", "bleu", "rouge1")  # fmt: skip
PREFERRED_FILTERS = ("none", "strict-match")
# rolling likelihoods are stored as (loglikelihood, units) whatever the metric's name: they are read as bits per unit
AS_BITS = {"bits_per_byte": "bits_per_byte", "byte_perplexity": "bits_per_byte", "word_perplexity": "bits_per_word"}
LOWER_IS_BETTER = ("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity", "brier_score")
# a sample row's own keys, so that whatever else is a number is a metric
ROW_KEYS = frozenset(
    [
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "prompt_hash",
        "target_hash",
    ]
)
MIN_SUBTASKS = 6
STAMP = r"\d{4}-\d{2}-\d{2}T\d{2}[-:]\d{2}[-:]\d{2}(?:\.\d+)?"
SAMPLES_NAME = re.compile(rf"^samples_(?P<task>.+)_(?P<stamp>{STAMP})\.jsonl$")
LETTER = re.compile(r"^\(?[A-Za-z]\)?[.:]?$")


@dataclass(frozen=True)
class LmEvalRun:
    """One model's per-item scores, its name and size where recorded, and what the reader had to decide."""

    path: Path
    model: str
    n_params: int | None
    items: pd.DataFrame  # columns ITEM_COLUMNS
    notes: tuple[str, ...]
    filters: dict[str, str]  # by task (before groups were made): the filter whose rows count


def read_lm_eval(path: Path) -> LmEvalRun:
    """The model in a directory, searched with its subdirectories.

    Of several runs of a task the newest counts; two models in one directory, no results, no samples, and
    unreadable files are AnalysisErrors that name the file.
    """
    if not path.is_dir():
        raise AnalysisError(
            f"{path}: not a directory; an lm-eval output directory holds results_*.json and samples_*.jsonl"
        )
    reports = [(file, _read_report(file)) for file in sorted(path.rglob("results*.json"), key=lambda f: f.name)]
    if not reports:
        raise AnalysisError(f"{path}: no results_*.json in it or below it")
    names = sorted({_model_name(report) for _, report in reports})
    if len(names) > 1:
        raise AnalysisError(f"{path}: results of {len(names)} models ({', '.join(names)}); give one model's directory")
    notes: list[str] = []
    merged = _merge([report for _, report in reports])
    filters: dict[str, str] = {}
    frames = [
        _read_task(task, file, merged, notes, filters) for task, file in sorted(_newest(path, merged, notes).items())
    ]
    wanted = set(merged["configs"])
    for task in sorted(wanted - {f.task.iloc[0] for f in frames if len(f)}):
        notes.append(f"{path}: no sample file of task {task}; run lm-eval with --log_samples")
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        raise AnalysisError(f"{path}: no samples_*.jsonl with usable rows; run lm-eval with --log_samples")
    items = _grouped(pd.concat(frames, ignore_index=True), merged, notes)
    counted = merged["config"].get("model_num_parameters")  # lm-eval writes -1 where it could not count
    n_params = int(counted) if isinstance(counted, (int, float)) and counted > 0 else None
    return LmEvalRun(path, names[0], n_params, items, tuple(notes), filters)


def _read_report(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(report, dict) or "results" not in report:
        raise AnalysisError(f"{file}: no 'results' in it; not an lm-eval results file")
    return report


def _model_name(report: Mapping[str, Any]) -> str:
    config = _mapping(report, "config")
    arguments = config.get("model_args") or {}
    given = arguments.get("pretrained") if isinstance(arguments, dict) else None
    return str(report.get("model_name") or given or arguments or config.get("model") or "unnamed")


def _mapping(report: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A part of a report that should be a mapping; empty where a file has something else there."""
    found = report.get(key)
    return found if isinstance(found, dict) else {}


def _merge(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Later files win, task by task."""
    keys = ("configs", "n-shot", "higher_is_better", "group_subtasks", "config")
    return {key: {k: v for report in reports for k, v in _mapping(report, key).items()} for key in keys}


def _newest(path: Path, report: Mapping[str, Any], notes: list[str]) -> dict[str, Path]:
    """The newest sample file of every task, by the task's own name: in a file's it has an underscore for every sign."""
    own = {re.sub(r"\W", "_", task): task for task in report["configs"]}
    found: dict[str, list[tuple[str, Path]]] = {}
    for file in sorted(path.rglob("samples_*.jsonl")):
        if match := SAMPLES_NAME.match(file.name):
            found.setdefault(match["task"], []).append((match["stamp"], file))
        else:
            found.setdefault(file.stem.removeprefix("samples_"), []).append(("", file))
    for task, files in found.items():
        if len(files) > 1:
            notes.append(f"{path}: task {task} has {len(files)} sample files; the newest counts ({max(files)[1].name})")
    return {own.get(task, task): max(files)[1] for task, files in found.items()}


def _read_rows(file: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # not splitlines: a row may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise AnalysisError(f"{file}: not readable as text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise AnalysisError(f"{file}:{number}: not JSON ({error})") from error
        if not isinstance(row, dict) or "doc_id" not in row:
            raise AnalysisError(f"{file}:{number}: no 'doc_id'; not an lm-eval sample")
        rows.append(row)
    return rows


def _read_task(
    task: str, file: Path, report: Mapping[str, Any], notes: list[str], filters: dict[str, str]
) -> pd.DataFrame:
    rows = _one_filter(task, _read_rows(file), notes)
    if rows:
        filters[task] = str(rows[0].get("filter", "none"))
    metric = _choose_metric(rows)
    if not rows or metric is None:
        notes.append(f"{file}: {'no rows' if not rows else 'no metric that is a number per item'}")
        return pd.DataFrame(columns=list(ITEM_COLUMNS))
    config = _mapping(report["configs"], task)
    form = _format(config.get("output_type"), rows, metric)
    better = _mapping(report["higher_is_better"], task).get(metric)
    k_shot = int(report["n-shot"].get(task) or config.get("num_fewshot") or 0)
    higher = metric not in LOWER_IS_BETTER if better is None else bool(better)
    labels = {
        "task": task,
        "format": form,
        "k_shot": k_shot,
        "metric": AS_BITS.get(metric, metric),
        "higher_is_better": higher,
    }
    items = [labels | item for row in rows if (item := _item(task, row, metric, form)) is not None]
    if len(items) < len(rows):
        notes.append(f"{file}: {len(rows) - len(items)} of {len(rows)} items have no finite {metric}")
    frame = pd.DataFrame(items, columns=[*ITEM_COLUMNS, *ITEM_DETAILS])
    if metric in AS_BITS and len(frame):
        frame["weight"] = frame.weight / frame.weight.mean()
    return frame


def _one_filter(task: str, rows: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """Rows of one filter: lm-eval writes every document once per filter."""
    filters = list(dict.fromkeys(str(row.get("filter", "none")) for row in rows))
    if len(filters) <= 1:
        return rows
    chosen = next((name for name in PREFERRED_FILTERS if name in filters), filters[0])
    notes.append(f"task {task}: {len(filters)} filters ({', '.join(filters)}); {chosen} counts")
    return [row for row in rows if str(row.get("filter", "none")) == chosen]


def _choose_metric(rows: Sequence[Mapping[str, Any]]) -> str | None:
    if not rows:
        return None
    named = rows[0].get("metrics") or [key for key in rows[0] if key not in ROW_KEYS]
    usable = [name for name in named if _value(rows[0].get(name), name) is not None]
    return next((name for name in METRICS if name in usable), usable[0] if usable else None)


def _value(value: Any, metric: str) -> tuple[float, float] | None:
    """An item's score and weight: a number, or (loglikelihood, bytes or words) for rolling likelihoods."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and metric in AS_BITS:
        loglikelihood, units = float(value[0]), float(value[1])
        return (-loglikelihood / units / math.log(2), units) if units > 0 and math.isfinite(loglikelihood) else None
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value), 1.0
    return None


def _item(task: str, row: Mapping[str, Any], metric: str, form: str) -> dict[str, Any] | None:
    found = _value(row.get(metric), metric)
    if found is None:
        return None
    n_choices = len(row.get("resps") or row.get("arguments") or ())
    if "acc_mutual_info" in row:  # every choice was asked for twice, with and without its question
        n_choices //= 2
    choices = form in ("cloze", "choice") and n_choices > 1 and metric in ("acc", "acc_norm", "exact_match")
    written = row.get("doc")
    doc: dict[str, Any] = written if isinstance(written, dict) else {}
    chance = _stated_chance(doc, n_choices)
    if chance is not None and not 0 <= chance < 1:
        raise AnalysisError(f"{task}: document {row['doc_id']}: chance is {chance:g} (allowed: at least 0, below 1)")
    if chance is None:
        chance = None if form == "loss" else 1 / n_choices if choices else 0.0
    return {
        "chance": math.nan if chance is None else chance,
        "doc_id": row["doc_id"],
        "doc_hash": str(row.get("doc_hash") or f"{row['doc_id']}-{row.get('target_hash')}"),
        "prompt_hash": str(row.get("prompt_hash")),
        # the first item of one task has nothing to do with that of another
        "cluster": f"{task}/{doc['cluster'] if isinstance(doc.get('cluster'), str) else row['doc_id']}",
        "score": found[0],
        "weight": found[1],
        "loglikelihoods": _loglikelihoods(row, n_choices) if choices else [],
    }


def _stated_chance(doc: Mapping[str, Any], n_choices: int) -> float | None:
    """What the document itself says: as our tasks write it, or the share of true answers in TruthfulQA's MC2."""
    if isinstance(doc.get("chance"), (int, float)):
        return float(doc["chance"])
    targets = doc.get("mc2_targets")
    labels = targets.get("labels") or [] if isinstance(targets, dict) else []
    return sum(labels) / len(labels) if labels and len(labels) == n_choices else None


def _loglikelihoods(row: Mapping[str, Any], n_choices: int) -> list[float]:
    """Of each choice; none where the row does not hold a number for each (lm-eval writes them as text)."""
    try:
        values = [float(response[0]) for response in (row.get("filtered_resps") or ())[:n_choices]]
    except (TypeError, ValueError, IndexError):
        return []
    return values if len(values) == n_choices and all(map(math.isfinite, values)) else []


def _continuations(row: Mapping[str, Any]) -> Iterable[str]:
    arguments = row.get("arguments") or ()
    requests = arguments.values() if isinstance(arguments, dict) else arguments
    for request in requests:
        parts = list(request.values()) if isinstance(request, dict) else list(request)
        if len(parts) > 1 and isinstance(parts[1], str):
            yield parts[1].strip()


def _format(output_type: str | None, rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    if output_type == "loglikelihood_rolling" or metric in LOWER_IS_BETTER:
        return "loss"
    if output_type in ("generate_until", "loglikelihood"):  # a text of its own, or one continuation: no choices
        return "generate"
    texts = list(_continuations(rows[0]))
    if not texts and output_type is None:
        return "generate"
    alone = all(LETTER.match(text) for text in texts)
    with_text = all(text.startswith(f"({chr(ord('A') + i)})") for i, text in enumerate(texts))
    return "choice" if texts and (alone or with_text) else "cloze"


def _grouped(items: pd.DataFrame, report: Mapping[str, Any], notes: list[str]) -> pd.DataFrame:
    """Subtasks of a group as one task whose clusters are the subtasks (MMLU's subjects, BLiMP's paradigms)."""
    children = {k: [c for c in v if c] for k, v in report.get("group_subtasks", {}).items() if v}
    tops = [group for group in children if not any(group in members for members in children.values())]
    for group in sorted(tops):
        leaves = _leaves(group, children)
        rows = items.task.isin(leaves)
        kinds = items.loc[rows, ["format", "k_shot", "metric"]].drop_duplicates()
        if items.task[rows].nunique() < MIN_SUBTASKS:  # too few clusters for an interval: they stay tasks
            continue
        if len(kinds) > 1:
            notes.append(f"group {group}: subtasks differ in format, shots or metric; kept as separate tasks")
            continue
        notes.append(f"group {group}: {items.task[rows].nunique()} subtasks as one task, clustered by subtask")
        names = items.task[rows]
        items.loc[rows, "doc_hash"] = names + "/" + items.doc_hash[rows].astype(str)
        items.loc[rows, "cluster"] = names
        items.loc[rows, "task"] = group
    return items


def _leaves(group: str, children: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    for child in children.get(group, ()):
        found |= _leaves(child, children) if child in children else {child}
    return found
