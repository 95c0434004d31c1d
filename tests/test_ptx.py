"""Pretraining text in PPO's gradient: transformers' own loss is the truth; a coefficient of 0 is nothing at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hh_scaling.configs import Compute
from hh_scaling.crew import Crew
from hh_scaling.models import ModelError
from hh_scaling.ppo_work import pretraining_gradient
from hh_scaling.ptx import PretrainingText
from tests.tiny import run_stage
from tests.tiny_ppo import assert_same_run, build, built, config, untimed

FEW_ROWS = {"ptx_rows": 6, "ptx_context": 24}


@pytest.mark.parametrize("n_processes", [1, 2])
def test_the_gradient_is_that_of_transformers_loss(
    ppo_parents: dict[str, Path], tmp_path: Path, n_processes: int
) -> None:
    """ptx_coef times the mean cross-entropy a token, in float32; added to the gradient that is there already."""
    ours, theirs = (built(ppo_parents, tmp_path, ptx_coef=2.0, temperature=0.7, **FEW_ROWS) for _ in range(2))
    text = ours.models.text
    assert text is not None
    tokens = torch.tensor(text(3))
    assert tokens.shape == (6, 25)
    loss = theirs.policy(tokens, labels=tokens).loss
    (2.0 * loss).backward()
    with Crew(n_processes, ours.models.parameters(), text=ours.work.text_gradient) as crew:
        first = next(ours.policy.parameters())
        first.grad = torch.ones_like(first)
        found = pretraining_gradient(crew, ours.work, text, 3)
    first.grad = first.grad - 1
    assert found["ptx_loss"] == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_a_coefficient_of_zero_is_bit_identical_to_none(ppo_parents: dict[str, Path], tmp_path: Path) -> None:
    """Other rows of text that nothing reads change nothing either; a coefficient above 0 does."""
    plain, zero, mixed = (tmp_path / name for name in ("plain", "zero", "mixed"))
    run_stage("ppo", config(), ppo_parents, plain)
    run_stage("ppo", config(ptx_coef=0.0, ptx_rows=5, ptx_context=7), ppo_parents, zero)
    run_stage("ppo", config(ptx_coef=1.0, **FEW_ROWS), ppo_parents, mixed)
    assert_same_run(plain, zero)
    losses = [row.get("ptx_loss") for row in untimed(mixed) if row["type"] == "update"]
    assert len(losses) == 4 and all(losses) and untimed(mixed)[-1] != untimed(plain)[-1]


def test_rows_come_again_only_after_all_others() -> None:
    text = PretrainingText(np.arange(10)[:, None], 4, seed=0)
    rows = [row[0] for step in range(5) for row in text(step)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10)) and rows[:10] != rows[10:]
    assert text(2) == PretrainingText(np.arange(10)[:, None], 4, seed=0)(2)
    few = PretrainingText(np.arange(3)[:, None], 8, seed=0)(0)  # a step may need more rows than there are
    assert sorted(row[0] for row in few[:6]) == [0, 0, 1, 1, 2, 2] and len(few) == 8


def test_no_text_is_said_in_one_line(ppo_parents: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "text").mkdir(parents=True)
    (data / "text" / "train.jsonl").write_text("")
    with pytest.raises(ModelError, match=r"ppo\.ptx_coef: no pretraining text to mix in \(.*0 tokens"):
        build(ppo_parents | {"data": data}, tmp_path / "out", config(Compute(), ptx_coef=1.0))
