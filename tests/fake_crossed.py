"""Fake policies of two sizes against train PMs of two sizes, followed by both sizes' test PMs; truths by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import load_study
from analysis.held_out import pm_scores
from hh_scaling.configs import Compute, PPOConfig, PPOTraining
from hh_scaling.records import StageWriter, write_json
from tests.fake_runs import Builder, Shape, Truth, later_columns, size_name, spec, write_metrics, write_samples
from tests.fake_ways import add_ways

SIZES, SEEDS = (12_000, 300_000), (0, 1, 2)
STEPS = tuple(range(0, 45, 5))
FARTHEST = 2.5  # sqrt(KL) at the end
SLOPE = 0.8  # standard deviations a sqrt(nat), of the train PM's score
# Of what the train PM's score gains the test PM's lacks this much a sqrt(nat): (policy, train PM, test PM) differ in
# the train PM alone, so that scores part at sqrt(KL) = 0.2 / LACKS, or never.
LACKS = {"12k": 0.16, "300k": 0.04}
GOLD = {"12k": 0.5, "300k": 0.9}  # gold a sqrt(nat), by the train PM
SHAPE = Shape(comparisons=(500,), prompts=120, ways=True)


def crossed_runs(path: Path) -> Path:
    """Every size against its own PM in three seeds, and against the other's in the first."""
    builder = Builder(path, SIZES, np.random.default_rng(3), Truth(), SHAPE)
    data = builder.data()
    tokenizer = "tokenizer-0"
    bases = {n: builder.base(n, 0, data, tokenizer) for n in SIZES}
    for seed in SEEDS:
        pms = {(n, half): builder.pm(n, seed, half, 500, data, bases[n]) for n in SIZES for half in ("train", "test")}
        spreads = _spreads(builder)
        for n in SIZES:
            for by in SIZES if seed == 0 else (n,):
                other = next(m for m in SIZES if m != n)
                parents = {"data": data, "policy": bases[n], "pm_train": pms[by, "train"], "pm_test": pms[n, "test"]}
                parents[f"pm_test_{size_name(other)}"] = pms[other, "test"]
                policy = _policy(builder, n, seed, by, parents, spreads)
                if by == n:
                    add_ways(builder, spec(n), seed, parents, policy)
    write_json(path / "study.json", {"name": "crossed", "synthetic": True, "study": {}, "stages": builder.stages})
    return path


def _spreads(builder: Builder) -> dict[str, float]:
    """The standard deviation of every PM's held-out scores so far."""
    write_json(builder.path / "study.json", {"name": "crossed", "synthetic": True, "stages": builder.stages})
    return {name: scores.spread for name, scores in pm_scores(load_study(builder.path)).items()}


def _policy(builder: Builder, n: int, seed: int, by: int, parents: dict[str, str], spreads: dict[str, float]) -> str:
    name, rng = size_name(by), np.random.default_rng([n, seed, by])
    # policies of one seed are evaluated on the same responses at the start, whatever trains them
    level = np.random.default_rng([n, seed]).normal(0, 1, (3, SHAPE.prompts))
    tests = {role: role.replace("pm_", "score_", 1) for role in parents if role.startswith("pm_test")}
    slope = SLOPE * (1 + 0.02 * rng.normal())

    def rows(step: int) -> pd.DataFrame:
        d = FARTHEST * step / STEPS[-1]
        noise = rng.normal(0, 0.3 if step else 0.0, (4, SHAPE.prompts))
        ids = np.arange(SHAPE.prompts)
        kl = d**2 + rng.normal(0, 0.3 * d, SHAPE.prompts)
        gold = GOLD[name] * d + level[2] + noise[0]
        scores = {"score_train": spreads[parents["pm_train"]] * (slope * d + level[0] + noise[1])}
        for i, (role, column) in enumerate(tests.items()):
            scores[column] = spreads[parents[role]] * ((slope - LACKS[name]) * d + level[1] + noise[2 + i])
        known = {"step": step, "samples": step * 256, "prompt_id": ids, "conversation": [f"p{i}" for i in ids]}
        plain = {"gold_helpful": gold / 2, "gold_harmless": gold / 2, "length": 20.0, "ended": 1.0}
        later = later_columns(rng, d, SHAPE.prompts)
        return pd.DataFrame({**known, "kl_k1": kl, "kl_k3": np.abs(kl), **scores, "gold": gold, **plain, **later})

    evals = pd.concat([rows(step) for step in STEPS], ignore_index=True)

    def fill(folder: Path, writer: StageWriter) -> dict[str, Any]:
        evals.to_parquet(folder / "evals.parquet", index=False)
        write_samples(folder, evals)
        write_metrics(folder, writer, evals)
        return {"model": builder.model(n), "note": ""}

    own = None if by == n else name
    config = PPOConfig(size=spec(n), seed=seed, training=PPOTraining(), compute=Compute(), train_pm=own)
    slug = f"ppo-{size_name(n)}-s{seed}" + ("" if own is None else f"-by-{own}")
    return builder.stage("ppo", slug, config, parents, fill)
