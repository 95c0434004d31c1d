"""The data stage: comparisons in two halves, a held-out and perhaps a gold part; prompts, text, the world's tasks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hh_scaling import comparison_table
from hh_scaling.comparisons import Comparison, Dropped, Parser, one_pair, read_file, read_hub
from hh_scaling.configs import DataConfig, HHFiles, TextFiles, WorldConfig
from hh_scaling.estimates import clustered_mean
from hh_scaling.inputs import DataError, locate
from hh_scaling.records import StageWriter, write_json
from hh_scaling.splits import GOLD, HELD_OUT, SPLITS, TRAIN, SplitIndex, SplitPlan, conversation_id, tranche_counts
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.text import documents
from hh_scaling.votes import vote_pairs, write_votes
from hh_scaling.world import Comparison as WorldComparison
from hh_scaling.world import Gold, World

MOST_DRAWN = 100  # of a world's votes for each that is wanted, where nearly all questions are held out
HELD_OUT_TEXT = 0.05  # of the world's text, written besides the training text
Tell = Callable[[int], None]


def run(config: DataConfig, context: StageContext) -> StageResult:
    """Write comparisons.parquet, prompts.parquet, text/, in the world tasks/ and world.json, and perhaps votes.parquet.

    The summary counts what came in, what was dropped and why, and what length alone predicts on the held-out part.
    DataError (one line) when the input cannot be used.
    """
    _require_one_source(config)
    world = World(config.world) if config.world else None
    text = _write_text(config, world, context)
    index = SplitIndex(config.split_seed, config.held_out_fraction, config.gold_fraction)
    staged = context.out.path / "comparisons.tmp"
    tally = _stage_rows(_rows(config, world, context), index, staged)
    plan = index.plan(config.max_held_out, drop_duplicates=world is None)
    joins = config.text is not None and config.text.include_transcripts
    transcripts = comparison_table.write_tables(staged, context.out.path, plan)
    text |= _append(context.out.path / "text" / "train.jsonl", transcripts, text, joins)
    staged.unlink()
    if world and config.world:
        _write_world(world, config.world, context.out.path)
    votes = _write_votes(config, world, index, plan, context)
    return StageResult(_summary(config, tally, index, plan, text) | votes)


def gold_scorer(data_stage: Path) -> Callable[[str, str], Gold] | None:
    """The world's exact scorer of (prompt, response), or None where the data are not from the world."""
    path = data_stage / "world.json"
    if not path.is_file():
        return None
    return World(WorldConfig(**json.loads(path.read_text(encoding="utf-8")))).gold


def _require_one_source(config: DataConfig) -> None:
    if (config.world is None) == (config.comparisons is None):
        found = "neither" if config.world is None else "both"
        raise DataError(f"data: {found} of world and comparisons given; expected exactly one")
    if config.world and config.text:
        raise DataError("data: text files and world given together; expected text files with comparisons alone")
    for name, source in (("comparisons", config.comparisons), ("votes", config.votes)):
        if source is not None and bool(source.files) == bool(source.hub):
            found = "both" if source.hub else "neither"
            raise DataError(f"data.{name}: {found} of files and hub given; expected exactly one")
    if config.votes and config.world and config.world.n_votes:
        raise DataError("data: votes and world.n_votes given together; expected one of them")


# ---------------------------------------------------------------- comparisons


def _rows(config: DataConfig, world: World | None, context: StageContext) -> Iterator[Comparison | Dropped]:
    if world is not None:
        return _world_rows(world.comparisons())
    assert config.comparisons is not None  # one of the two is there: _require_one_source
    return _source_rows(config.comparisons, context, one_pair)


def _source_rows(source: HHFiles, context: StageContext, parse: Parser) -> Iterator[Comparison | Dropped]:
    return (_file_rows if source.files else _hub_rows)(source, context, parse)


def _world_rows(rows: Iterable[WorldComparison]) -> Iterator[Comparison]:
    for row in rows:
        yield Comparison(
            row.prompt, row.chosen, row.rejected, row.tranche, "world", row.gold_chosen, row.gold_rejected, row.p_chosen
        )


def _file_rows(source: HHFiles, context: StageContext, parse: Parser) -> Iterator[Comparison | Dropped]:
    located = locate(source.files, context.where)
    done, total = 0, sum(file.bytes for file in source.files)
    for file, path in located:
        tell = _teller(context.out, done, total, f"comparisons: {file.name}")
        yield from read_file(path, file.name, tell, parse)
        done += file.bytes


def _hub_rows(source: HHFiles, context: StageContext, parse: Parser) -> Iterator[Comparison | Dropped]:
    assert source.hub is not None  # no files, so a hub: _require_one_source
    # How many rows there are is known only after the download, so the bar stays at its start and the note counts.
    return read_hub(
        source.hub, source.hub_revision, lambda n: context.out.progress(0, 1, f"{n:,} rows of {source.hub}"), parse
    )


def _teller(out: StageWriter, before: int, total: int, note: str) -> Tell:
    return lambda done: out.progress(before + done, total, note)


def _stage_rows(rows: Iterable[Comparison | Dropped], index: SplitIndex, staged: Path) -> Counter[str]:
    """Write the usable rows to ``staged`` as they come and note them in ``index``; counts by reason, and "rows"."""
    tally: Counter[str] = Counter(rows=0, empty_responses=0)
    with comparison_table.staging(staged) as write:
        for row in rows:
            tally["rows"] += 1
            if isinstance(row, Dropped):
                tally[row.reason] += 1
                continue
            tally["empty_responses"] += not row.chosen.strip() or not row.rejected.strip()
            conversation = conversation_id(row.prompt)
            index.add(row, conversation)
            write(row, conversation)
    return tally


def _write_votes(
    config: DataConfig, world: World | None, index: SplitIndex, plan: SplitPlan, context: StageContext
) -> dict[str, Any]:
    """Write votes.parquet where there are votes; what the summary says of them. None is about a question that held-out
    or gold comparisons are about: a world makes others instead."""
    rows: Iterator[Comparison | Dropped]
    wanted = config.world.n_votes if config.world is not None else 0
    if config.votes is not None:
        rows = _source_rows(config.votes, context, vote_pairs)
    elif world is not None and wanted:
        rows = _world_rows(islice(world.votes(), MOST_DRAWN * wanted))
    else:
        return {}
    apart = plan.kept & np.isin(plan.split, (HELD_OUT, GOLD))
    reserved = set(index.column("conversation")[apart].tolist())
    return {"votes": write_votes(rows, reserved, config.split_seed, wanted or None, context.out.path)}


# ---------------------------------------------------------------- text


def _write_text(config: DataConfig, world: World | None, context: StageContext) -> dict[str, int]:
    """Write text/train.jsonl and text/held_out.jsonl; their documents and UTF-8 bytes, the JSON around not counted."""
    folder = context.out.path / "text"
    folder.mkdir()
    counts: dict[str, int] = {}
    for split, texts in _texts(config, world, context).items():
        counts[f"{split}_documents"], counts[f"{split}_bytes"] = _write_documents(folder / f"{split}.jsonl", texts)
    return counts


def _texts(config: DataConfig, world: World | None, context: StageContext) -> dict[str, Iterator[str]]:
    if world is not None and config.world is not None:
        n_words = config.world.n_text_tokens
        n_held_out = max(1, round(HELD_OUT_TEXT * n_words))
        return {
            "train": _first_words(world.documents("train"), n_words, _teller(context.out, 0, n_words, "world text")),
            "held_out": _first_words(world.documents("held_out"), n_held_out, lambda n: None),
        }
    text = config.text or TextFiles()
    if shared := {file.sha256 for file in text.files} & {file.sha256 for file in text.held_out}:
        names = ", ".join(file.name for file in text.held_out if file.sha256 in shared)
        raise DataError(f"data.text: {names} is both training and held-out text; expected it in one of them")
    return {"train": _file_texts(text.files, context), "held_out": _file_texts(text.held_out, context)}


def _first_words(texts: Iterator[str], n_words: int, tell: Tell) -> Iterator[str]:
    """Documents until ``n_words`` whitespace-separated words have been given."""
    seen = 0
    while seen < n_words:
        text = next(texts)
        seen += len(text.split())
        tell(seen)
        yield text


def _file_texts(files: Sequence[Any], context: StageContext) -> Iterator[str]:
    done, total = 0, sum(file.bytes for file in files)
    for file, path in locate(files, context.where):
        yield from documents(path, _teller(context.out, done, total, f"text: {file.name}"))
        done += file.bytes


def _write_documents(path: Path, texts: Iterable[str], mode: str = "w") -> tuple[int, int]:
    """Write rows ``{"text": …}``; how many, and the UTF-8 bytes of their texts."""
    n, size = 0, 0
    with open(path, mode, encoding="utf-8") as stream:
        for text in texts:
            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            n += 1
            size += len(text.encode())
    return n, size


def _append(path: Path, transcripts: Iterator[str], counts: Mapping[str, int], joins: bool) -> dict[str, int]:
    """Run through the tables' transcripts, adding them to the training text if ``joins``; the counts then."""
    n, size = _write_documents(path, transcripts if joins else (), "a")
    for _ in transcripts:  # the tables are written as the transcripts are asked for
        pass
    return {"train_bytes": counts["train_bytes"] + size, "transcripts": n}


# ---------------------------------------------------------------- the world's own files


def _write_world(world: World, config: WorldConfig, out: Path) -> None:
    write_json(out / "world.json", config.model_dump())
    folder = out / "tasks"
    folder.mkdir()
    for task, items in world.tasks().items():
        with open(folder / f"{task}.jsonl", "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


# ---------------------------------------------------------------- summary


def _summary(
    config: DataConfig, tally: Counter[str], index: SplitIndex, plan: SplitPlan, text: dict[str, int]
) -> dict[str, Any]:
    counted = ("rows", "empty_responses")
    dropped = {reason: n for reason, n in tally.items() if reason not in counted} | plan.dropped
    prompts = {SPLITS[part]: int((plan.new_prompt & (plan.split == part)).sum()) for part in (TRAIN, HELD_OUT)}
    source = "synthetic world" if config.world else "hub" if config.comparisons and config.comparisons.hub else "files"
    return {
        "source": source,
        "synthetic": config.world is not None,
        "n_rows": tally["rows"],
        "n_kept": int(plan.kept.sum()),
        "dropped": dropped,
        "empty_responses": tally["empty_responses"],  # kept: saying nothing can be better or worse
        "splits": {name: _split_counts(index, plan, part) for part, name in enumerate(index.parts)},
        "length_baseline": _length_baseline(index, plan),
        "bayes_accuracy": _bayes_accuracy(index, plan),
        "text": text,
        "n_prompts": prompts,
    }


def _split_counts(index: SplitIndex, plan: SplitPlan, part: int) -> dict[str, Any]:
    rows = plan.kept & (plan.split == part)
    return {
        "n": int(rows.sum()),
        "n_conversations": len(np.unique(index.column("conversation")[rows])),
        "tranches": tranche_counts(index.column("tranche")[rows], index.tranches),
    }


def _length_baseline(index: SplitIndex, plan: SplitPlan) -> dict[str, Any]:
    """How often the chosen response is the longer one (characters; ties ½), held out: all, and by tranche."""
    held_out = plan.kept & (plan.split == HELD_OUT)
    tranche = index.column("tranche")
    parts = {"all": held_out}
    parts |= {
        name: held_out & (tranche == code) for code, name in sorted(enumerate(index.tranches), key=lambda t: t[1])
    }
    longer, conversation = index.column("longer"), index.column("conversation")
    return {name: clustered_mean(longer[rows], conversation[rows]) for name, rows in parts.items() if rows.any()}


def _bayes_accuracy(index: SplitIndex, plan: SplitPlan) -> dict[str, Any] | None:
    """Mean of max(p, 1 - p) over the held-out part; None where the labels' probabilities are not known."""
    held_out = plan.kept & (plan.split == HELD_OUT)
    p = index.column("p_chosen")[held_out]
    if np.isnan(p).any():
        return None
    return clustered_mean(np.maximum(p, 1 - p), index.column("conversation")[held_out])
