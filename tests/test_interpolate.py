"""Interpolation between reference and policy: exact at both ends, evaluated as PPO's checkpoints are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hh_scaling.configs import BenchmarkConfig, BenchmarkTasks, InterpolationConfig, PPOConfig, PPOTraining
from hh_scaling.interpolate import write_mixture
from hh_scaling.models import ModelError, load_causal_lm
from hh_scaling.stages import StageResult
from tests.tiny import COMPUTE, SIZE, interrupted, run_stage

ALPHAS = (0.0, 0.5, 1.0)
FEW = {
    "n_updates": 4, "batch_size": 16, "minibatch_size": 8, "max_prompt_tokens": 40, "max_response_tokens": 10,
    "eval_every": 2, "n_eval_prompts": 24, "keep_sqrt_kl": (), "checkpoint_seconds": 1e-9,
}  # fmt: skip
Finished = tuple[Path, StageResult]


def config(**more: Any) -> InterpolationConfig:
    training = PPOTraining(**FEW)
    return InterpolationConfig(size=SIZE, seed=0, training=training, compute=COMPUTE, **{"alphas": ALPHAS} | more)


@pytest.fixture(scope="module")
def parents(policy_parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short policy and what it was made from, in the roles that the stage knows them by."""
    out = tmp_path_factory.mktemp("ppo")
    policy = PPOConfig(size=SIZE, seed=0, training=PPOTraining(**FEW), compute=COMPUTE)
    run_stage("ppo", policy, policy_parents, out)
    return {**policy_parents, "policy": out, "reference": policy_parents["policy"]}


@pytest.fixture(scope="module")
def finished(parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("interpolation")
    return out, run_stage("interpolation", config(keep=(0.5,)), parents, out)


def test_the_reference_s_end_has_no_kl(finished: Finished) -> None:
    rows = pd.read_parquet(finished[0] / "evals.parquet")
    start = rows[rows.alpha == 0]
    assert len(start) == 24 and (start.kl_k1 == 0).all() and (start.kl_k3 == 0).all()
    assert list(rows.alpha.unique()) == list(ALPHAS) and finished[1].summary["points"][0]["sqrt_kl"]["value"] == 0


def test_the_policy_s_end_is_its_last_evaluation(finished: Finished, parents: dict[str, Path]) -> None:
    """To the bit: the same weights, prompts and random stream."""
    rows, own = (pd.read_parquet(folder / "evals.parquet") for folder in (finished[0], parents["policy"]))
    end = rows[rows.alpha == 1].drop(columns="alpha").reset_index(drop=True)
    pd.testing.assert_frame_equal(end, own[own.step == 4].reset_index(drop=True), check_exact=True)
    assert end.kl_k3.mean() > 0


def test_points_between_are_the_weighted_mean_of_the_weights(finished: Finished, parents: dict[str, Path]) -> None:
    """The saved weights at one half, against the mean of both ends; exact, since halving is."""
    ends = [load_causal_lm(parents[role]).state_dict() for role in ("reference", "policy")]
    middle = load_causal_lm(finished[0], "alpha=0.5").state_dict()
    for name, weight in middle.items():
        assert torch.equal(weight, 0.5 * ends[0][name] + 0.5 * ends[1][name]), name
    entry, *more = json.loads((finished[0] / "checkpoints.json").read_text())
    rows = pd.read_parquet(finished[0] / "evals.parquet")
    assert not more and entry["kl_k1"]["value"] == pytest.approx(rows[rows.alpha == 0.5].kl_k1.mean(), rel=1e-6)


def test_a_mixture_is_exact_at_both_ends_and_linear_between(parents: dict[str, Path]) -> None:
    reference, into = load_causal_lm(parents["reference"]), load_causal_lm(parents["reference"])
    tuned = dict(load_causal_lm(parents["policy"]).named_parameters())
    for alpha in (0.0, 1.0, 0.3):
        write_mixture(into, reference, tuned, alpha)
        for (name, weight), start in zip(into.named_parameters(), reference.parameters(), strict=True):
            exact = (1 - alpha) * start.double() + alpha * tuned[name].double()
            # float32 at the ends loses nothing, between them at most a few rounding steps
            assert torch.equal(weight.double(), exact) if alpha in (0, 1) else torch.allclose(weight.double(), exact)
    name = next(iter(tuned))
    with pytest.raises(ModelError, match="expected one architecture"):
        write_mixture(into, reference, {**tuned, name: tuned[name][:1]}, 0.5)


def test_benchmarks_take_kept_weights(finished: Finished, parents: dict[str, Path], tmp_path: Path) -> None:
    tasks = BenchmarkTasks(tasks=("bits_per_byte",), limit=5)
    benchmark = BenchmarkConfig(size=SIZE, seed=0, at="alpha=0.5", tasks=tasks, compute=COMPUTE)
    result = run_stage("benchmark", benchmark, {"data": parents["data"], "model": finished[0]}, tmp_path)
    points = {p["alpha"]: p["sqrt_kl"]["value"] for p in finished[1].summary["points"]}
    assert result.summary["at_sqrt_kl"] == points[0.5] and result.summary["scores"][0]["score"]["n"] == 5


def test_a_killed_run_resumes_to_the_same_bits(
    parents: dict[str, Path], finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, resumed = tmp_path / "broken", tmp_path / "resumed"
    interrupted(3, lambda: run_stage("interpolation", config(keep=(0.5,)), parents, broken), monkeypatch)
    run_stage("interpolation", config(keep=(0.5,)), parents, resumed, [broken])
    for name in ("evals.parquet", "checkpoints/alpha=0.5/model.safetensors"):
        assert (finished[0] / name).read_bytes() == (resumed / name).read_bytes(), name


def test_points_differ_between_the_ends(finished: Finished) -> None:
    """Half of the way is neither end: other weights sample other responses from the same random numbers."""
    rows = pd.read_parquet(finished[0] / "evals.parquet")
    kl = rows.groupby("alpha").kl_k3.mean()
    assert 0 == kl[0.0] < kl[0.5] < kl[1.0]
    assert np.ptp(rows.groupby("alpha").score_train.mean()) > 0
