"""A tiny PPO stage on the tiny world, and what tests of such runs ask of it again and again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hh_scaling import ppo
from hh_scaling.configs import Compute, PMConfig, PMTraining, PPOConfig, PPOTraining
from hh_scaling.policy_eval import Evaluator
from hh_scaling.records import StageWriter, read_jsonl
from hh_scaling.stages import StageContext
from tests.tiny import COMPUTE, SIZE, run_stage

FEW = {
    "n_updates": 4, "batch_size": 16, "minibatch_size": 8, "max_prompt_tokens": 40, "max_response_tokens": 10,
    "eval_every": 2, "n_eval_prompts": 24, "keep_sqrt_kl": (0.05, 50.0),
}  # fmt: skip
OFTEN = 1e-9  # checkpoint_seconds: a state after every update


def config(compute: Compute = COMPUTE, **training: Any) -> PPOConfig:
    return PPOConfig(size=SIZE, seed=0, training=PPOTraining(**FEW | training), compute=compute)


def make_pms(tiny_stages: dict[str, Path], root: Path) -> dict[str, Path]:
    """The parents of a PPO stage."""
    for half in ("train", "test"):
        training = PMTraining(max_length=64, batch_size=16)
        pm = PMConfig(size=SIZE, seed=0, half=half, n_comparisons=200, training=training, compute=COMPUTE)  # type: ignore[arg-type]
        run_stage("pm", pm, tiny_stages, root / half)
    return {
        "data": tiny_stages["data"], "policy": tiny_stages["base"],
        "pm_train": root / "train", "pm_test": root / "test",
    }  # fmt: skip


def build(parents: dict[str, Path], out: Path, of: PPOConfig) -> tuple[ppo.Trainer, Evaluator]:
    out.mkdir(parents=True, exist_ok=True)
    return ppo.build(of, StageContext(parents, StageWriter(out), {}))


def built(parents: dict[str, Path], out: Path, **training: Any) -> ppo.Trainer:
    return build(parents, out, config(**training))[0]


def untimed(stage: Path) -> list[dict[str, Any]]:
    """The rows of metrics without the seconds they took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(stage / "metrics.jsonl")]


def assert_same_run(one: Path, other: Path) -> None:
    """Metrics, evaluations, texts and weights, bit for bit."""
    assert untimed(one) == untimed(other)
    weights, others = (sorted(p.relative_to(d) for p in d.rglob("model.safetensors")) for d in (one, other))
    assert weights == others and weights
    for name in (*weights, "samples.jsonl", "reference_samples.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    tables = [pd.read_parquet(stage / "evals.parquet") for stage in (one, other)]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)


def killed(at: float, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a stage in a process of its own that kills itself (signal 9) when it tells this progress."""
    real = StageWriter.progress

    def dies(self: StageWriter, done: float, total: float, note: str = "") -> None:
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, done, total, note)

    monkeypatch.setattr(StageWriter, "progress", dies)
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    monkeypatch.undo()
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
