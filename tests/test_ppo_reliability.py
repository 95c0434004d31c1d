"""What may go wrong in a PPO run: memory, disk, damaged files, numbers that are none. Each really happens here."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hh_scaling import memory, ppo, training
from hh_scaling.configs import Compute
from hh_scaling.crew import LostMember
from hh_scaling.ppo_state import checkpoints_whole
from hh_scaling.ppo_work import Targets, Work
from hh_scaling.records import STATES, NonFiniteError, StageWriter
from tests.tiny import run_stage
from tests.tiny_ppo import OFTEN, assert_same_run, config, killed, untimed

SOME = config(checkpoint_seconds=OFTEN)


@pytest.fixture(scope="module")
def whole(ppo_parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, with a state after each of its four updates."""
    out = tmp_path_factory.mktemp("whole")
    run_stage("ppo", SOME, ppo_parents, out)
    return out


# ---------------------------------------------------------------- memory


def hungry(limit: int) -> Callable[[Work, tuple[Targets, int, int]], list[float]]:
    """A gradient that asks for more memory than there is where micro-batches have more than ``limit`` tokens."""
    real = Work.gradient
    calls = []

    def gradient(self: Work, part: tuple[Targets, int, int]) -> list[float]:
        calls.append(part)
        if len(calls) > 4 and part[2] > limit:  # in the third update
            torch.empty(1 << 55)
        return real(self, part)

    return gradient


def test_out_of_memory_halves_the_micro_batch_once_and_goes_on_from_the_last_state(
    ppo_parents: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the allocator itself raises. Every update and evaluation is there once; float32 sums in another order."""
    monkeypatch.setattr(Work, "gradient", hungry(1024))
    result = run_stage("ppo", SOME, ppo_parents, tmp_path)
    assert result.status == "done" and "allocate" in result.summary["out_of_memory"]["error"]
    assert result.summary["out_of_memory"]["micro_batch_tokens"] == 1024
    ours, theirs = untimed(tmp_path), untimed(whole)
    assert [(row["type"], row["step"]) for row in ours] == [(row["type"], row["step"]) for row in theirs]
    for name in ("score", "kl_k1", "policy_loss"):
        found, wanted = ([row[name] for row in rows if row["type"] == "update"] for rows in (ours, theirs))
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"sqrt_kl=0.05"}


def test_before_any_state_it_begins_again(
    ppo_parents: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Work, "gradient", hungry(1024))
    run_stage("ppo", config(), ppo_parents, tmp_path)
    assert [(row["type"], row["step"]) for row in untimed(tmp_path)] == [
        (row["type"], row["step"]) for row in untimed(whole)
    ]


def test_a_second_time_it_fails(ppo_parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "gradient", hungry(0))
    with pytest.raises(RuntimeError, match="allocate memory"):
        run_stage("ppo", SOME, ppo_parents, tmp_path)


def test_a_process_of_the_crew_that_the_system_ends_counts_as_out_of_memory(
    ppo_parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux does when memory runs out: by signal 9, here of the second process, which is given the larger budget."""
    real, leader = Work.gradient, os.getpid()

    def gradient(self: Work, part: tuple[Targets, int, int]) -> list[float]:
        if os.getpid() != leader and part[2] > 512:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, part)

    monkeypatch.setattr(Work, "gradient", gradient)
    of = config(Compute(threads=2), n_updates=1, n_eval_prompts=8)
    result = run_stage("ppo", of, ppo_parents, tmp_path)
    assert result.status == "done" and "LostMember" in result.summary["out_of_memory"]["error"]


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as allocator:
        torch.empty(1 << 55)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, dtype=np.uint8)
    no_fork = OSError(errno.ENOMEM, "Cannot allocate memory")
    for error in (allocator.value, numpys.value, torch.OutOfMemoryError("CUDA"), LostMember(), no_fork):
        assert memory.is_out_of_memory(error)
    for other in (RuntimeError("shapes cannot be multiplied"), OSError(errno.ENOSPC, "No space left"), ValueError()):
        assert not memory.is_out_of_memory(other)


def test_half_of_one_token_is_one() -> None:
    of = config(Compute(micro_batch_tokens=1), sample_rows=1)
    assert memory.halved(of) == of
    assert memory.halved(config(Compute(micro_batch_tokens=512), sample_rows=64)) == config(
        Compute(micro_batch_tokens=256), sample_rows=32
    )


# ---------------------------------------------------------------- disk


def test_a_full_disk_ends_the_run_and_the_states_before_are_whole(
    ppo_parents: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third state fills the disk: the error is the system's own, from /dev/full. With room again it goes on."""
    broken, resumed = tmp_path / "broken", tmp_path / "resumed"
    real, saved = training.save_file, []

    def save_file(tensors: Any, path: Path) -> None:
        saved.append(path)
        real(tensors, path)
        if len(saved) == 3:
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(path.read_bytes())

    monkeypatch.setattr(training, "save_file", save_file)
    with pytest.raises(OSError) as error:
        run_stage("ppo", SOME, ppo_parents, broken)
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert sorted(p.name for p in (broken / STATES).iterdir()) == ["00000001", "00000002"]
    run_stage("ppo", SOME, ppo_parents, resumed, [broken])
    assert_same_run(whole, resumed)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one bit": lambda path: flip(path),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
}


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.fixture(scope="module")
def interrupted(ppo_parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed after its third state; the two newest are there."""
    out = tmp_path_factory.mktemp("interrupted")
    patch = pytest.MonkeyPatch()
    killed(4, lambda: run_stage("ppo", SOME, ppo_parents, out), patch)
    assert sorted(p.name for p in (out / STATES).iterdir()) == ["00000002", "00000003"]
    return out


@pytest.mark.parametrize(
    ("name", "how"),
    [("training.safetensors", how) for how in DAMAGE]
    + [("state.json", how) for how in DAMAGE]
    + [("evals.parquet", "one bit"), ("samples.jsonl", "cut short"), ("reference_samples.jsonl", "gone")],
)
def test_a_damaged_state_is_passed_over_for_the_one_before(
    interrupted: Path, tmp_path: Path, name: str, how: str
) -> None:
    broken, out = tmp_path / "broken", tmp_path / "resumed"
    shutil.copytree(interrupted, broken)
    out.mkdir()
    assert resumed_step(out, broken) == 3
    DAMAGE[how](broken / STATES / "00000003" / name)
    assert resumed_step(out, broken) == 2


def resumed_step(out: Path, earlier: Path) -> int:
    found = StageWriter(out, [earlier]).resume(checkpoints_whole)
    assert found is not None
    return int(found[1]["step"])


def test_from_the_state_before_it_ends_with_the_same_bits(
    ppo_parents: dict[str, Path], whole: Path, interrupted: Path, tmp_path: Path
) -> None:
    broken, out = tmp_path / "broken", tmp_path / "resumed"
    shutil.copytree(interrupted, broken)
    flip(broken / STATES / "00000003" / "training.safetensors")
    run_stage("ppo", SOME, ppo_parents, out, [broken])
    assert_same_run(whole, out)


def test_with_both_states_damaged_it_begins_anew(
    ppo_parents: dict[str, Path], whole: Path, interrupted: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(interrupted, broken)
    for state in (broken / STATES).iterdir():
        flip(state / "training.safetensors")
    run_stage("ppo", SOME, ppo_parents, tmp_path / "resumed", [broken])
    assert_same_run(whole, tmp_path / "resumed")


def test_a_damaged_checkpoint_is_made_again(
    ppo_parents: dict[str, Path], whole: Path, interrupted: Path, tmp_path: Path
) -> None:
    """Both states count on the checkpoint that was kept at update 2: the run begins anew and keeps it again."""
    broken = tmp_path / "broken"
    shutil.copytree(interrupted, broken)
    flip(broken / "checkpoints" / "sqrt_kl=0.05" / "model.safetensors")
    run_stage("ppo", SOME, ppo_parents, tmp_path / "resumed", [broken])
    assert_same_run(whole, tmp_path / "resumed")


# ---------------------------------------------------------------- kills and numbers that are none


def test_kill_9_twice_resumes_to_the_same_bits(
    ppo_parents: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First in update 2, then the process that went on from there, after its last update."""
    first, second, last = (tmp_path / name for name in ("first", "second", "last"))
    killed(2, lambda: run_stage("ppo", SOME, ppo_parents, first), monkeypatch)
    killed(4, lambda: run_stage("ppo", SOME, ppo_parents, second, [first]), monkeypatch)
    run_stage("ppo", SOME, ppo_parents, last, [first, second])
    assert_same_run(whole, last)


def test_a_score_that_is_no_number_fails_the_run_by_name_and_step_and_is_never_saved(
    ppo_parents: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the rollout of the third update; once scores are numbers again, the same command ends with the same bits."""
    real, calls = ppo.roll_out, []

    def rolls(*args: Any) -> Any:
        rolled = real(*args)
        calls.append(1)
        if len(calls) == 3:
            rolled.scores[5] = float("nan")
        return rolled

    broken = tmp_path / "broken"
    monkeypatch.setattr(ppo, "roll_out", rolls)
    with pytest.raises(NonFiniteError, match="score is nan at step 2"):
        run_stage("ppo", SOME, ppo_parents, broken)
    monkeypatch.undo()
    assert "NaN" not in (broken / "metrics.jsonl").read_text() and "Inf" not in (broken / "metrics.jsonl").read_text()
    run_stage("ppo", SOME, ppo_parents, tmp_path / "resumed", [broken])
    assert_same_run(whole, tmp_path / "resumed")


def test_weights_that_are_no_numbers_fail_the_run_before_they_are_saved(
    ppo_parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight set to NaN between two updates: no state has it, and the line names what and when."""
    real = ppo.update_policy

    def update_policy(trainer: ppo.Trainer, *args: Any) -> dict[str, float]:
        if args[-1] == 2:
            with torch.no_grad():
                next(trainer.policy.parameters())[0, 0] = float("nan")
                next(iter(trainer.policy.model.norm.parameters()))[0] = float("nan")
        return real(trainer, *args)

    monkeypatch.setattr(ppo, "update_policy", update_policy)
    with pytest.raises(ArithmeticError, match="at step 2"):
        run_stage("ppo", SOME, ppo_parents, tmp_path)
    assert sorted(p.name for p in (tmp_path / STATES).iterdir()) == ["00000001", "00000002"]


def test_a_collapsed_policy_is_a_result_and_not_a_failure(ppo_parents: dict[str, Path], tmp_path: Path) -> None:
    """At a rate far too high; the limits are on KL, entropy and the fall of the score."""
    of = config(schedule={"learning_rate": 0.3, "warmup_fraction": 0.0}, min_entropy=3.0, max_score_drop=20.0)
    result = run_stage("ppo", of, ppo_parents, tmp_path)
    assert result.status == "diverged" and "entropy" in result.summary["note"]
    assert json.loads((tmp_path / "checkpoints.json").read_text())[-1]["name"] == "end"
