"""Fake best-of-n and interpolation stages beside a fake policy, with known truths; see ``tests.fake_runs``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hh_scaling.configs import BestOfNConfig, BestOfNSampling, Compute, InterpolationConfig, PPOTraining, SizeSpec
from hh_scaling.records import StageWriter

if TYPE_CHECKING:
    from tests.fake_runs import Builder

ALPHA, BETA = 1.5, 0.2  # every score of the best of n is d (ALPHA - BETA d)
NOISE = 0.1  # of a prompt's score
GRID, ALPHAS = (1, 2, 4, 8, 16), (0.0, 0.5, 1.0)
SCORES = ("score_train", "score_test", "gold")
LINE = 0.4  # what weights in between have more than the policy at the same distance


def add_ways(builder: Builder, size: SizeSpec, seed: int, parents: Mapping[str, str], policy: str) -> str:
    """Both kinds of stage for one policy; they share its prompts and the prompts' own levels. Returns the line's id."""
    evals = pd.read_parquet(builder.store.stage_path(policy) / "evals.parquet")
    rng = np.random.default_rng([size.n_params or 0, seed, 11])
    model = {"model": builder.model(size.n_params or 0)}

    def pool(folder: Path, writer: StageWriter) -> dict[str, Any]:
        expected(evals[evals.step == 0], rng).to_parquet(folder / "expected.parquet", index=False)
        return model

    def line(folder: Path, writer: StageWriter) -> dict[str, Any]:
        between(evals).to_parquet(folder / "evals.parquet", index=False)
        return model

    sampling = BestOfNSampling(n_samples=GRID[-1], n_prompts=int((evals.step == 0).sum()))
    best = BestOfNConfig(size=size, seed=seed, sampling=sampling, compute=Compute())
    builder.stage("best_of_n", f"best-of-n-{size.name}-s{seed}", best, parents, pool)
    ends = {**parents, "policy": policy, "reference": parents["policy"]}
    points = InterpolationConfig(size=size, seed=seed, training=PPOTraining(), compute=Compute(), alphas=ALPHAS)
    return builder.stage("interpolation", f"interpolation-{size.name}-s{seed}", points, ends, line)


def expected(start: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The table of a best-of-n stage, without ties; n = 1 is the prompts' own level."""
    parts = []
    for n in GRID:
        kl = math.log(n) - (n - 1) / n
        part = start[["prompt_id", "conversation", *SCORES, "gold_helpful", "gold_harmless", "length", "ended"]].copy()
        rise = math.sqrt(kl) * (ALPHA - BETA * math.sqrt(kl))
        for name in SCORES:
            part[name] += rise + (rng.normal(0, NOISE, len(part)) if n > 1 else 0.0)
        parts.append(part.assign(n=n, kl=kl))
    return pd.concat(parts, ignore_index=True)


def between(evals: pd.DataFrame) -> pd.DataFrame:
    """The table of an interpolation: the policy's first and last evaluation, and its middle one ``LINE`` higher."""
    steps = sorted(evals.step.unique())
    parts = []
    for alpha, step in zip(ALPHAS, (steps[0], steps[len(steps) // 2], steps[-1]), strict=True):
        part = evals[evals.step == step].assign(step=steps[-1])
        for name in SCORES:
            part[name] += LINE if 0 < alpha < 1 else 0.0
        part.insert(0, "alpha", alpha)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
