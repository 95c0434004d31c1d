"""A RUNS directory as records with their lineage, and per-item scores as pandas frames.

Nothing is dropped silently: whatever a study planned and the analysis cannot use is a row of ``excluded``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.lib
import pyarrow.parquet
from numpy.typing import NDArray

from hh_scaling.records import FINISHED, Record, RecordError, RunStore, damaged_files, read_jsonl

# role of the parent through which a stage descends from its base model
DESCENT = {
    "teacher": "base", "reference": "base", "pmp": "base", "pm": "base", "ppo": "policy", "best_of_n": "policy",
    "interpolation": "policy", "pilot": "before", "benchmark": "model",
}  # fmt: skip
PM_COLUMNS = (
    "comparison_id", "conversation", "tranche", "n_turns", "score_chosen", "score_rejected",
    "length_chosen", "length_rejected", "p_chosen",
)  # fmt: skip
EVAL_COLUMNS = (
    "step", "samples", "prompt_id", "conversation", "kl_k1", "kl_k3", "score_train", "score_test", "gold",
    "gold_helpful", "gold_harmless", "length", "ended",
)  # fmt: skip
LATER_EVAL_COLUMNS = (  # absent from what earlier versions wrote
    "kl_exact", "reverse_kl_k1", "reverse_kl_k3", "reverse_kl_exact", "entropy", "sampled_tokens",
    "reverse_sampled_tokens",
)  # fmt: skip
ITEM_COLUMNS = (
    "task", "format", "k_shot", "metric", "higher_is_better", "chance", "doc_id", "doc_hash", "prompt_hash",
    "cluster", "score", "weight",
)  # fmt: skip
ITEM_DETAILS = ("loglikelihoods",)  # columns of items that older or foreign tables may lack
SHARED_BASE = "shared base: variation between bases is not included"
ABSOLUTE_PATH = re.compile(r"(?<![\w./])/(?:[^\s:'\",;()/]+/)*([^\s:'\",;()/]+)")


class AnalysisError(ValueError):
    """Input that cannot be analysed; the message is one line that names the file."""


@dataclass(frozen=True)
class Model:
    """A size of the study; parameters are non-embedding unless total."""

    name: str
    n_params: int
    n_params_total: int


@dataclass(frozen=True)
class Setting:
    """What a study varies one at a time around its main setting, which the defaults are."""

    rate_factor: float = 1.0  # of the learning rate that the schedule's rule gives
    helpful_share: float | None = None  # of a PM's comparisons; None: as the data come
    harmless_weight: float = 1.0  # of harmless comparisons in a PM's loss
    extra_share: float = 0.0  # of a PM's comparisons: so many votes besides them
    pretrained: bool | None = None  # whether a PM started from one of votes; None: as the study's main PMs
    ptx_coef: float | None = None  # of pretraining text in a policy's loss; None: as the study's main policies
    train_pm: str | None = None  # the size of a policy's train PM; None: that of the study's main policies

    @classmethod
    def of(cls, config: Mapping[str, Any], main_pretrained: bool = False, main_ptx: float = 0.0) -> Setting:
        """That of one stage's configuration; what an older one lacks is the main setting's."""
        training = config.get("training") or {}
        schedule = training.get("schedule") or {}
        known = {**config, "rate_factor": schedule.get("rate_factor")}
        own = bool(known.pop("pretrained", False))  # only written where it is so
        if config.get("half") not in ("train", "test"):  # the gold model is never pretrained, other stages cannot be
            own = main_pretrained
        ptx = float(training.get("ptx_coef", 0.0)) if "kl_coef" in training else main_ptx  # written where not 0
        known["ptx_coef"] = None if ptx == main_ptx else ptx
        size = known.pop("train_pm", None)
        numbers = {f.name: float(known[f.name]) for f in fields(cls) if known.get(f.name) is not None}
        return cls(**numbers, pretrained=None if own == main_pretrained else own, train_pm=size)

    def varies_only(self, name: str) -> bool:
        """Whether nothing but that field differs from the main setting (nor must it)."""
        return all(f.name == name or getattr(self, f.name) == f.default for f in fields(self))


MAIN = Setting()


@dataclass
class Study:
    """What a RUNS directory holds: finished records by stage id in the study's order, and what is missing."""

    root: Path
    described: dict[str, Any]  # study.json
    records: dict[str, Record] = field(default_factory=dict)
    excluded: list[dict[str, Any]] = field(default_factory=list)
    known_main: dict[str, bool] = field(default_factory=dict, repr=False)  # see _descends_from_main

    @property
    def name(self) -> str:
        return str(self.described.get("name", self.root.name))

    def of_kind(self, kind: str) -> list[Record]:
        """Finished stages of one kind, in the study's order."""
        return [record for record in self.records.values() if record.kind == kind]

    def main_of_kind(self, kind: str) -> list[Record]:
        """Those of the main setting."""
        return [record for record in self.of_kind(kind) if self.is_main(record)]

    def is_main(self, record: Record) -> bool:
        """Whether a stage and all its ancestors are of the study's main setting."""
        return self.setting(record) == MAIN

    def setting(self, record: Record) -> Setting | None:
        """A stage's own setting around the main one; None where an ancestor is of another setting."""
        known = all(self._descends_from_main(parent) for parent in record.parents.values())
        return self._own_setting(record.config) if known else None

    def _own_setting(self, config: Mapping[str, Any]) -> Setting:
        return Setting.of(config, self.main_pretrained, self.main_ptx)

    def is_recipe(self, policy: Record) -> bool:
        """Whether a policy is of the main setting but for the pretraining text in its mix."""
        setting = self.setting(policy)
        return policy.kind == "ppo" and setting is not None and setting.varies_only("ptx_coef")

    def _descends_from_main(self, stage_id: str) -> bool:
        """Whether that stage (finished or not) and all its ancestors are of the main setting."""
        if stage_id not in self.known_main:
            stage = self.planned.get(stage_id, {})
            parents = stage.get("parents", {}).values()
            own = self._own_setting(stage.get("config", {}))
            self.known_main[stage_id] = own == MAIN and all(map(self._descends_from_main, parents))
        return self.known_main[stage_id]

    @cached_property
    def main_pretrained(self) -> bool:
        """Whether the preference models of the main setting start from one of votes: the first value in the study."""
        section = (self.described.get("study") or {}).get("pm") or {}
        return bool((section.get("pretrained") or [False])[0])

    @cached_property
    def main_ptx(self) -> float:
        """The coefficient of pretraining text in the main setting's policies: the first number in the study."""
        section = (self.described.get("study") or {}).get("ppo") or {}
        first = section.get("ptx_coef") or [0.0]
        return float(first[0])

    def folder(self, record: Record) -> Path:
        return RunStore(self.root).stage_path(record.stage_id)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of every planned stage, finished or not, by its id."""
        return {stage_id: stage["kind"] for stage_id, stage in self.planned.items()}

    @cached_property
    def planned(self) -> dict[str, dict[str, Any]]:
        """What ``study.json`` says of every stage, by its id."""
        return {stage["stage_id"]: stage for stage in self.described["stages"]}

    def parent(self, record: Record, role: str) -> Record | None:
        return self.records.get(record.parents.get(role, ""))

    def base(self, record: Record) -> Record | None:
        """The base stage that a stage descends from (itself for a base), or None where it is missing."""
        current: Record | None = record
        while current is not None and current.kind != "base":
            current = self.parent(current, DESCENT.get(current.kind, ""))
        return current

    def model(self, record: Record) -> Model:
        """The size a stage belongs to, with the parameters of its base model where that is known."""
        base = self.base(record)
        summary = (base or record).summary.get("model") or record.summary.get("model")
        if not summary:
            raise AnalysisError(f"{self.folder(record) / 'record.json'}: summary has no 'model'")
        name = record.config.get("size", {}).get("name") or summary["name"]
        return Model(str(name), int(summary["n_params"]), int(summary["n_params_total"]))

    def seed(self, record: Record | None) -> int | None:
        return None if record is None else record.config.get("seed")

    def exclude(self, what: str, reason: str, record: Record | None = None) -> None:
        """Say that something was left out; ``what`` is a stage id, a task or a part of one."""
        row = {"what": what, "reason": self.portable(reason), "kind": None, "model": None, "seed": None}
        if record is not None:
            size = record.config.get("size", {}).get("name")
            row |= {"kind": record.kind, "model": size, "seed": record.config.get("seed")}
        self.excluded.append(row)

    def portable(self, text: str) -> str:
        """``text`` with paths in RUNS relative to it, and of any other absolute path only the last part."""
        for root in (self.root.resolve(), self.root):
            text = text.replace(f"{root}/", "")
        return ABSOLUTE_PATH.sub(r"\1", text)

    def planned_sizes(self, kind: str) -> tuple[str, ...]:
        """The names of the sizes for which the study plans stages of that kind, finished or not."""
        configs = [stage.get("config", {}) for stage in self.described["stages"] if stage["kind"] == kind]
        return tuple(dict.fromkeys(str(c["size"]["name"]) for c in configs if c.get("size")))

    def base_note(self, records: Sequence[Record]) -> str | None:
        """What is to be said where several chains among ``records`` descend from one base (``base_note``)."""
        return base_note({self.chain(record) for record in records})

    def chain(self, record: Record) -> str:
        """What replicates: the base model and the seed that a run descends from."""
        base = self.base(record)
        return f"{base.stage_id if base else self.model(record).name}/{self.seed(record)}"


def base_of(chain: str) -> str:
    """The base model of a chain (``Study.chain``)."""
    return chain.rsplit("/", 1)[0]


def base_note(chains: Collection[str]) -> str | None:
    """What the interval over these chains of one size is about, where some share a base (``crossed.replicates``)."""
    bases = {base_of(chain) for chain in chains}
    if len(bases) == len(chains):
        return None
    return SHARED_BASE if len(bases) == 1 else f"{len(chains)} runs on {len(bases)} bases: the interval is over bases"


def load_study(root: Path) -> Study:
    """The study in ``root``: only stages that its ``study.json`` names, finished and undamaged."""
    path = root / "study.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        planned = described["stages"]
    except FileNotFoundError as error:
        raise AnalysisError(f"{path}: no such file; RUNS must be a directory that `hh-scaling run` wrote") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(f"{path}: not a readable study ({type(error).__name__}: {error})") from error
    study = Study(root, described)
    for stage in planned:
        _admit(study, stage)
    return study


def _admit(study: Study, stage: dict[str, Any]) -> None:
    stage_id = stage["stage_id"]
    store = RunStore(study.root)
    try:
        record = store.record(stage_id)
    except RecordError as error:
        study.exclude(stage_id, str(error))
        return
    planned = Record(stage_id, stage["kind"], "running", stage.get("config", {}), stage.get("parents", {}))
    if record is None:
        study.exclude(stage_id, "not run or not finished", planned)
    elif record.status not in FINISHED:
        study.exclude(stage_id, f"{record.status}: {record.error}" if record.error else record.status, record)
    elif bad := damaged_files(store.stage_path(stage_id), record.files, hashes=False):
        study.exclude(stage_id, f"damaged files: {', '.join(bad)}", record)
    else:
        study.records[stage_id] = record
        if record.status == "diverged":
            note = record.summary.get("note") or "the policy collapsed"
            study.exclude(stage_id, f"diverged ({note}): kept in the tables, left out of fits and claims", record)


def read_columns(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pyarrow.Table:
    """The named columns of a Parquet file, and of the optional ones those it has; AnalysisError names the file and the
    first missing column."""
    try:
        # one thread: the files are small, and starting threads costs more than reading
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = [*columns, *(name for name in optional if name in names and name not in columns)]
            table = file.read(columns=wanted, use_threads=False)
    except (OSError, ValueError, pyarrow.lib.ArrowException) as error:
        raise AnalysisError(f"{path}: not a readable table ({str(error).splitlines()[0]})") from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise AnalysisError(f"{path}: no column {missing[0]!r}; it has {', '.join(names)}")
    return table.select(wanted)


def _list_type(kind: pyarrow.DataType) -> pd.ArrowDtype | None:
    """Lists stay Arrow's: as one array each they are slow to make and to read."""
    return pd.ArrowDtype(kind) if pyarrow.types.is_list(kind) else None


def stage_table(
    study: Study, record: Record, name: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> pd.DataFrame | None:
    """A stage's table, or None (and a row of ``excluded``) where it is absent or unreadable."""
    table = stage_columns(study, record, name, columns, optional)
    return None if table is None else table.to_pandas(use_threads=False, ignore_metadata=True, types_mapper=_list_type)


def stage_columns(
    study: Study, record: Record, name: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> pyarrow.Table | None:
    """``stage_table`` as Arrow's columns, for tables of which there are thousands."""
    try:
        return read_columns(study.folder(record) / name, columns, optional)
    except AnalysisError as error:
        study.exclude(record.stage_id, str(error), record)
        return None


def labels(column: pd.Series | pyarrow.ChunkedArray) -> NDArray[np.object_]:
    """A column as objects, equal texts the same object: thousands of tables name the same items, kept once."""
    values = column.tolist() if isinstance(column, pd.Series) else column.to_pylist()
    try:
        return _texts(tuple(map(sys.intern, values)))
    except TypeError:  # not all of them are texts
        return np.array([sys.intern(v) if type(v) is str else v for v in values], dtype=object)


@lru_cache(maxsize=256)
def _texts(values: tuple[str, ...]) -> NDArray[np.object_]:
    """The array of these texts, the same one for the many tables that have the same column."""
    array = np.array(values, dtype=object)
    array.flags.writeable = False
    return array


def models(study: Study) -> list[Model]:
    """The sizes of the study, smallest first."""
    found = {study.model(r) for r in study.records.values() if r.summary.get("model")}
    by_name: dict[str, Model] = {}
    for model in sorted(found, key=lambda m: (m.n_params, m.name)):
        by_name.setdefault(model.name, model)  # a stage whose base is missing may count a head's parameters too
    return list(by_name.values())


def model_rows(study: Study) -> list[dict[str, Any]]:
    """The ``models`` of results: name, parameters, and what its base stage notes about it (None: nothing)."""
    notes = {r.config["size"]["name"]: r.summary.get("note") for r in study.main_of_kind("base")}
    return [{**vars(model), "note": notes.get(model.name) or None} for model in models(study)]


def join_notes(*notes: str | None) -> str | None:
    """Notes one after the other; None where there is none."""
    return "; ".join(dict.fromkeys(note for note in notes if note)) or None


def stage_rows(study: Study) -> list[dict[str, Any]]:
    """Every finished stage with what it cost, in the study's order."""
    rows = []
    for record in study.records.values():
        size = record.config.get("size") or {}
        known = {"stage_id": record.stage_id, "kind": record.kind, "model": size.get("name")}
        rows.append(known | {"seed": record.config.get("seed"), "status": record.status, **costs(record)})
    return rows


def costs(record: Record) -> dict[str, Any]:
    """``tokens``, ``flops`` (counted) and ``seconds`` of one stage; None where not recorded."""
    return {name: record.provenance.get(name) for name in ("tokens", "flops", "seconds")}


def samples(study: Study, per_policy: int = 2) -> list[dict[str, Any]]:
    """A few sampled texts of each policy, at its first and last evaluation."""
    rows: list[dict[str, Any]] = []
    for record in study.main_of_kind("ppo"):
        path = study.folder(record) / "samples.jsonl"
        if not path.is_file():
            continue
        texts = list(read_jsonl(path))
        steps = sorted({row["step"] for row in texts})
        for step in {steps[0], steps[-1]} if steps else set():
            chosen = sorted((row for row in texts if row["step"] == step), key=lambda row: row["prompt_id"])
            labels = {"stage_id": record.stage_id, "model": study.model(record).name, "seed": study.seed(record)}
            rows += [labels | row for row in chosen[:per_policy]]
    return sorted(rows, key=lambda row: (row["stage_id"], row["step"], row["prompt_id"]))
