"""comparisons.parquet and prompts.parquet, written in row groups so that no more than one group is in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hh_scaling.comparisons import Comparison, n_turns
from hh_scaling.splits import HELD_OUT, SPLITS, TRAIN, SplitPlan

GROUP_ROWS = 20_000

_STAGED = pa.schema(
    [
        ("conversation", pa.string()),
        ("tranche", pa.string()),
        ("prompt", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("n_turns", pa.int32()),
        ("source", pa.string()),
        ("gold_chosen", pa.float64()),
        ("gold_rejected", pa.float64()),
        ("p_chosen", pa.float64()),
    ]
)
COMPARISONS = pa.schema(
    [
        ("comparison_id", pa.int64()),
        *((name, _STAGED.field(name).type) for name in ("conversation", "tranche")),
        ("split", pa.string()),
        ("order", pa.int64()),
        *((field.name, field.type) for field in _STAGED if field.name not in ("conversation", "tranche")),
    ]
)
PROMPTS = pa.schema(
    [
        ("prompt_id", pa.int64()),
        ("split", pa.string()),
        ("order", pa.int64()),
        ("prompt", pa.string()),
        ("tranche", pa.string()),
        ("conversation", pa.string()),
    ]
)


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Callable[[Comparison, str], None]]:
    """A function that adds a comparison and its conversation to the staged file at ``path``."""
    rows: list[tuple[Any, ...]] = []
    with pq.ParquetWriter(path, _STAGED) as writer:

        def flush() -> None:
            columns = zip(*rows, strict=True) if rows else ([] for _ in _STAGED)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, _STAGED, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=_STAGED))
            rows.clear()

        def write(row: Comparison, conversation: str) -> None:
            texts = (row.prompt, row.chosen, row.rejected)
            gold = (row.gold_chosen, row.gold_rejected, row.p_chosen)
            rows.append((conversation, row.tranche, *texts, n_turns(row.prompt), row.source, *gold))
            if len(rows) == GROUP_ROWS:
                flush()

        yield write
        flush()


def write_tables(staged: Path, out: Path, plan: SplitPlan) -> Iterator[str]:
    """Write both tables into ``out``; yields, group by group, each new chosen transcript of the train half.

    The tables are complete once the iterator has been used up.
    """
    ids, prompt_ids = np.cumsum(plan.kept) - 1, np.cumsum(plan.new_prompt & _for_prompts(plan)) - 1
    start = 0
    with (
        pq.ParquetWriter(out / "comparisons.parquet", COMPARISONS) as comparisons,
        pq.ParquetWriter(out / "prompts.parquet", PROMPTS) as prompts,
    ):
        for batch in pq.ParquetFile(staged).iter_batches(batch_size=GROUP_ROWS):
            here = slice(start, start + batch.num_rows)
            start += batch.num_rows
            kept, new = plan.kept[here], (plan.new_prompt & _for_prompts(plan))[here]
            names = np.array(SPLITS)[plan.split[here]]
            comparisons.write_table(_select(batch, COMPARISONS, kept, ids[here], names, plan.order[here]))
            prompts.write_table(_select(batch, PROMPTS, new, prompt_ids[here], names, plan.prompt_order[here]))
            yield from _transcripts(batch, plan.new_transcript[here])


def write_part(staged: Path, path: Path, name: str, kept: np.ndarray, order: np.ndarray) -> None:
    """The kept rows as a table of their own in the columns of comparisons.parquet, all of one part called ``name``."""
    ids, start = np.cumsum(kept) - 1, 0
    with pq.ParquetWriter(path, COMPARISONS) as writer:
        for batch in pq.ParquetFile(staged).iter_batches(batch_size=GROUP_ROWS):
            here = slice(start, start + batch.num_rows)
            start += batch.num_rows
            names = np.full(batch.num_rows, name)
            writer.write_table(_select(batch, COMPARISONS, kept[here], ids[here], names, order[here]))


def _for_prompts(plan: SplitPlan) -> np.ndarray:
    """PPO's prompts come from the train half, its evaluation's from the held-out part; the others give none."""
    return np.isin(plan.split, (TRAIN, HELD_OUT))


def _select(
    batch: Any, schema: pa.Schema, rows: np.ndarray, ids: np.ndarray, split: np.ndarray, order: np.ndarray
) -> pa.Table:
    """The chosen rows of a staged batch with the schema's columns; the first is the id."""
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns |= {schema.names[0]: pa.array(ids), "order": pa.array(order), "split": pa.array(split)}
    return pa.table([columns[name] for name in schema.names], schema=schema).filter(pa.array(rows))


def _transcripts(batch: Any, rows: np.ndarray) -> Iterator[str]:
    chosen = batch.select(["prompt", "chosen"]).filter(pa.array(rows)).to_pydict()
    for prompt, response in zip(chosen["prompt"], chosen["chosen"], strict=True):
        yield prompt + response
