"""The best-of-n stage: a pool of samples of the reference for every held-out prompt, scored once.

Of n samples the one that the train PM likes best is taken; what that is worth on every scale, at every n up to the
pool's size, comes from the same pool (``hh_scaling.order_statistics``). No weight is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel

from hh_scaling.configs import BestOfNConfig
from hh_scaling.estimates import clustered_mean
from hh_scaling.models import check_length, describe, load_causal_lm, load_tokenizer, set_up
from hh_scaling.order_statistics import best_weights, grid, kl_upper_bound, pool_kl
from hh_scaling.policy_eval import Measures
from hh_scaling.ppo import encode_prompts, load_measures
from hh_scaling.records import StageWriter, check_finite
from hh_scaling.rollout import Sample, StopText, count_generation, end_tokens, generate, sampling_copy
from hh_scaling.scorers import stream_seed
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training import Stopwatch

LABELS = ("prompt_id", "conversation", "sample", "response")  # columns of a sample that are not measured


@dataclass(frozen=True)
class Sampler:
    """What a block of prompts needs to become scored samples."""

    config: BestOfNConfig
    model: PreTrainedModel  # the reference
    copy: PreTrainedModel  # what it samples with
    tokenizer: Any
    stop: StopText
    measures: Measures
    table: pd.DataFrame  # of the held-out prompts
    prompts: list[list[int]]
    out: StageWriter


def run(config: BestOfNConfig, context: StageContext) -> StageResult:
    """Writes samples.parquet (every sample with its scores and text) and expected.parquet (one row a prompt and n)."""
    set_up(config.compute)
    sampler = build(config, context)
    samples = draw_pools(sampler)
    samples.to_parquet(context.out.path / "samples.parquet", index=False)
    expected = expected_scores(samples)
    expected.to_parquet(context.out.path / "expected.parquet", index=False)
    summary = {
        "model": describe(sampler.model, config.size.name),
        "n_prompts": len(sampler.prompts),
        "n_samples": config.sampling.n_samples,
        "distinct": clustered_mean(*distinct_share(samples)),
        "best_of": summarise(expected),
        **sampler.measures.describe(),
    }
    return StageResult(summary)


def build(config: BestOfNConfig, context: StageContext) -> Sampler:
    """Load the models and tokenise the prompts, as PPO does for its evaluations."""
    parents, sampling = context.parents, config.sampling
    tokenizer = load_tokenizer(parents["policy"])
    model = load_causal_lm(parents["policy"], compute=config.compute).requires_grad_(False)
    check_length(model, sampling.max_prompt_tokens + sampling.max_response_tokens, "best_of_n: prompt and response")
    table = pd.read_parquet(parents["data"] / "prompts.parquet").sort_values("order")
    table = table[table.split == "held_out"].head(sampling.n_prompts).reset_index(drop=True)
    return Sampler(
        config,
        model,
        sampling_copy(model, model, config.compute),
        tokenizer,
        StopText(tokenizer, model.config.vocab_size, end_tokens(tokenizer, model)),
        load_measures(config, context, tokenizer),
        table,
        encode_prompts(tokenizer, list(table.prompt), sampling.max_prompt_tokens),
        context.out,
    )


# ---------------------------------------------------------------- samples


def draw_pools(sampler: Sampler) -> pd.DataFrame:
    """All samples, block of prompts after block; resumes after the last block of a saved state to the same bits."""
    sampling, out = sampler.config.sampling, sampler.out
    per_block = max(1, sampling.sample_rows // sampling.n_samples)
    n_blocks = -(-len(sampler.prompts) // per_block)
    found, stopwatch = out.resume(), Stopwatch(sampling.checkpoint_seconds)
    first = 0 if found is None else int(found[1]["step"])
    tables = [] if found is None else [pd.read_parquet(found[0] / "samples.parquet")]
    for block in range(first, n_blocks):
        rows = range(block * per_block, min((block + 1) * per_block, len(sampler.prompts)))
        tables.append(draw_block(sampler, block, rows))
        done, mean = int(rows.stop), float(tables[-1].score_train.mean())
        check_finite("score", mean, block)
        out.log({"type": "block", "prompts": done, "samples": done * sampling.n_samples, "score_train": mean})
        out.progress(done, len(sampler.prompts), f"prompt {done}")
        if stopwatch.due():
            with out.save_state(block + 1, {}) as folder:
                pd.concat(tables, ignore_index=True).to_parquet(folder / "samples.parquet", index=False)
    return pd.concat(tables, ignore_index=True)


def draw_block(sampler: Sampler, block: int, rows: Sequence[int]) -> pd.DataFrame:
    """``n_samples`` scored samples of each of these prompts."""
    config, n = sampler.config, sampler.config.sampling.n_samples
    seed = stream_seed(config.seed, block, "best_of_n")
    samples = generate(
        sampler.copy,
        [sampler.prompts[i] for i in rows for _ in range(n)],
        rows=config.sampling.sample_rows,
        max_tokens=config.sampling.max_response_tokens,
        temperature=config.sampling.temperature,
        tokenizer=sampler.tokenizer,
        stop=sampler.stop,
        generator=torch.Generator(config.compute.device).manual_seed(seed),
    )
    count_generation(sampler.model, samples, sampler.out)
    of_prompt = [i for i in rows for _ in range(n)]
    table = pd.DataFrame(
        {
            "prompt_id": sampler.table.prompt_id.to_numpy()[of_prompt],
            "conversation": sampler.table.conversation.to_numpy()[of_prompt],
            "sample": list(range(n)) * len(rows),
            "length": [float(len(s.response)) for s in samples],
            "ended": [float(s.ended) for s in samples],
        }
    )
    return table.assign(**score_distinct(sampler, samples, of_prompt))


def score_distinct(sampler: Sampler, samples: Sequence[Sample], of_prompt: Sequence[int]) -> dict[str, Any]:
    """(B,) columns of scores and texts. Equal responses to a prompt are scored once: it is cheaper, and they tie to
    the bit, which scores of one text from differently padded batches would not."""
    places: dict[tuple[int, tuple[int, ...]], int] = {}
    index = [places.setdefault((i, tuple(s.text_ids)), len(places)) for i, s in zip(of_prompt, samples, strict=True)]
    first = [index.index(place) for place in range(len(places))]
    different = [samples[i] for i in first]
    texts = sampler.tokenizer.batch_decode([s.text_ids for s in different])
    prompts = [str(sampler.table.prompt[of_prompt[i]]) for i in first]
    columns = {
        **sampler.measures.scores(different),
        **sampler.measures.gold(different, prompts, texts),
        "response": texts,
    }
    return {name: [values[place] for place in index] for name, values in columns.items()}


# ---------------------------------------------------------------- the best of n


def expected_scores(samples: pd.DataFrame) -> pd.DataFrame:
    """One row a prompt and n: the unbiased estimate of every measured column at the best of n by the train PM, and
    the estimated KL of that choice (``pool_kl``)."""
    rows, measured = [], [name for name in samples.columns if name not in LABELS]
    for (prompt, conversation), pool in samples.groupby(["prompt_id", "conversation"], sort=False):
        proxy, values = pool.score_train.to_numpy(float), pool[measured].to_numpy(float)
        for n in grid(len(pool)):
            means = dict(zip(measured, best_weights(proxy, n) @ values, strict=True))
            known = {"prompt_id": prompt, "conversation": conversation, "n": n, "kl": pool_kl(proxy, n)}
            rows.append(known | means)
    return pd.DataFrame(rows)


def distinct_share(samples: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """The share of different responses among each prompt's samples, and the prompts' conversations."""
    shares = samples.groupby(["prompt_id", "conversation"], sort=False).response.agg(lambda r: r.nunique() / len(r))
    return shares, list(shares.index.get_level_values("conversation"))


def summarise(expected: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry an n: means over prompts with clustered standard errors, and the two formulas for the KL beside the
    estimate; columns that were not measured are left out."""
    entries, columns = [], [name for name in expected.columns if name not in ("prompt_id", "conversation", "n")]
    for n in grid(int(expected.n.max())):
        part = expected[expected.n == n]
        names = [name for name in columns if part[name].notna().all()]
        means = {name: clustered_mean(part[name], part.conversation) for name in names}
        entries.append({"n": n, "kl_upper_bound": kl_upper_bound(n), "kl_log_n": math.log(n), **means})
    return entries
