"""PPO: what must hold at the first step, what must not move, and resuming to the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from hh_scaling import models, ppo, scorers
from hh_scaling.configs import Compute, Dtype, PPOTraining
from hh_scaling.crew import Crew
from hh_scaling.policy_eval import Evaluation, why_diverged
from hh_scaling.ppo_work import minibatch_gradient
from hh_scaling.records import StageWriter, read_jsonl
from hh_scaling.rollout import response_forward
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training import apply_step, make_optimizer
from tests.tiny import COMPUTE, run_stage
from tests.tiny_ppo import assert_same_run, built, config, untimed

WAYS: dict[str, dict[str, Any]] = {
    "all weights": {}, "adapters": {"lora_rank": 4, "lora_alpha": 8.0}, "critic": {"critic": "separate"},
}  # fmt: skip


@pytest.fixture(scope="module")
def parents(ppo_parents: dict[str, Path]) -> dict[str, Path]:
    return ppo_parents


@pytest.fixture(scope="module")
def finished(parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageResult]:
    out = tmp_path_factory.mktemp("ppo")
    return out, run_stage("ppo", config(checkpoint_seconds=1e-9), parents, out)


def test_kl_is_exactly_zero_before_training_and_positive_after(finished: tuple[Path, StageResult]) -> None:
    rows = pd.read_parquet(finished[0] / "evals.parquet")
    start, end = rows[rows.step == 0], rows[rows.step == 4]
    names = [f"{way}_{name}" for way in ("kl", "reverse_kl") for name in ("k1", "k3", "exact")]
    assert (start[names] == 0).all(axis=None) and len(start) == 24
    assert (rows[["kl_k3", "reverse_kl_k3"]] >= 0).all(axis=None)
    assert (end[["kl_k3", "kl_exact", "reverse_kl_k3", "reverse_kl_exact"]].mean() > 0).all()


def test_a_policy_that_does_not_start_as_the_reference_is_refused(parents: dict[str, Path], tmp_path: Path) -> None:
    trainer, evaluator = ppo.build(config(), StageContext(parents, StageWriter(tmp_path), {}))
    with torch.no_grad():
        trainer.policy.get_output_embeddings().weight[5] += 0.1
    with pytest.raises(ValueError, match="step 0: KL is .* must be exactly 0"):
        evaluator.evaluate(trainer.policy, trainer.policy, 0)


def test_metrics_are_those_of_the_table(finished: tuple[Path, StageResult]) -> None:
    """Against plain numpy on the last evaluation's rows; one prompt a conversation, so errors are sd / sqrt(n)."""
    rows = pd.read_parquet(finished[0] / "evals.parquet")
    first, last = (rows[rows.step == step].reset_index(drop=True) for step in (0, 4))
    got = [row for row in read_jsonl(finished[0] / "metrics.jsonl") if row["type"] == "eval"][-1]
    plain = {name: last[name] for name in ("kl_k1", "kl_k3", "kl_exact", "reverse_kl_exact", "score_train", "length")}
    plain |= {"truncated": 1 - last.ended, "score_test_change": last.score_test - first.score_test}
    for name, values in plain.items():
        assert got[name]["value"] == pytest.approx(values.mean(), abs=1e-12) and got[name]["n"] == 24
        assert got[name]["se"] == pytest.approx(values.std() / 24**0.5, abs=1e-12)
    d = last.kl_exact.mean() ** 0.5
    assert got["sqrt_kl"]["value"] == pytest.approx(d)
    assert got["sqrt_kl"]["se"] == pytest.approx(got["kl_exact"]["se"] / (2 * d))
    assert got["kl_per_token"]["value"] == pytest.approx(last.kl_exact.sum() / last.sampled_tokens.sum())
    assert got["entropy"]["value"] == pytest.approx(np.average(last.entropy, weights=last.sampled_tokens))
    slope = np.polyfit(last.length, last.score_train, 1)[0]
    held = (last.score_train - slope * (last.length - first.length.mean())).mean() - first.score_train.mean()
    assert got["score_train_controlled"]["value"] == pytest.approx(held)
    assert 0 < got["distinct_1"]["value"] < got["distinct_2"]["value"] <= 1
    assert "gold" not in got and "gold_change" not in got  # not measured, so absent


def test_the_reference_keeps_its_own_samples(finished: tuple[Path, StageResult]) -> None:
    kept = list(read_jsonl(finished[0] / "reference_samples.jsonl"))
    rows = pd.read_parquet(finished[0] / "evals.parquet")
    drawn = [len(row["response"]) + len(row["cut"]) for row in kept]
    assert [list(group.reverse_sampled_tokens) for _, group in rows.groupby("step")] == [drawn] * 3
    assert list(rows[rows.step == 0].sampled_tokens) == drawn != list(rows[rows.step == 4].sampled_tokens)


def test_evaluations_use_the_same_prompts_every_time(finished: tuple[Path, StageResult]) -> None:
    rows = pd.read_parquet(finished[0] / "evals.parquet")
    prompts = [list(group.prompt_id) for _, group in rows.groupby("step")]
    assert sorted(rows.step.unique()) == [0, 2, 4] and all(p == prompts[0] for p in prompts)


def test_checkpoints_load_and_unreached_ones_are_absent(finished: tuple[Path, StageResult]) -> None:
    out, result = finished
    kept = json.loads((out / "checkpoints.json").read_text())
    assert [entry["name"] for entry in kept] == ["sqrt_kl=0.05", "end"]
    assert kept[0]["wanted"] == 0.05 <= kept[0]["sqrt_kl"] and kept[0]["sqrt_kl_se"] > 0
    assert kept[0]["sqrt_kl"] == pytest.approx(kept[0]["kl_exact"]["value"] ** 0.5)  # what was reached, not wanted
    assert result.summary["reached"]["50.0"] is None and result.summary["reached"]["0.05"] == kept[0]["step"]
    policy = models.load_causal_lm(out, "sqrt_kl=0.05")
    plain = AutoModelForCausalLM.from_pretrained(out / kept[0]["path"], dtype=torch.float32)
    tokens = torch.tensor([[3, 4, 5]])
    assert torch.equal(policy(tokens).logits, plain(tokens).logits)


def step(trainer: ppo.Trainer, batch: ppo.Batch) -> dict[str, float]:
    """The gradient of all 16 samples by one process."""
    return minibatch_gradient(trainer.work.crew(), trainer.work, batch.targets(list(range(16))), 0)


def test_first_minibatch_has_ratio_one(parents: dict[str, Path], tmp_path: Path) -> None:
    """Log-ratio below 1e-5 in float32 though micro-batches and padding differ, at a temperature that is not 1."""
    trainer = built(parents, tmp_path, temperature=0.7)
    batch = ppo.collect(trainer, trainer.work.crew(), 0)
    for indices in ([0, 1, 2, 3], [15, 3, 9]):
        samples = [batch.samples[i] for i in indices]
        logprobs, values, _ = response_forward(trainer.policy, trainer.models.critic, samples, 0.7, COMPUTE)
        old = batch.logprobs[indices][batch.mask[indices]]
        assert (logprobs - old).abs().max() < 1e-5
        assert (values == 0).all()  # the value head starts at zero
    stats = step(trainer, batch)
    assert stats["clip_fraction"] == 0 and abs(stats["kl_old_new"]) < 1e-9


def test_rewards_sum_to_score_minus_kl(parents: dict[str, Path], tmp_path: Path) -> None:
    """Undiscounted returns at the first token, with zero values, are score - kl_coef * sequence KL (here 0)."""
    trainer = built(parents, tmp_path, gae_lambda=1.0)
    batch = ppo.collect(trainer, trainer.work.crew(), 0)
    scores = torch.from_numpy(trainer.models.train_pm(batch.samples))
    torch.testing.assert_close(batch.returns[:, 0], scores, rtol=1e-5, atol=1e-5)


def test_the_penalty_hits_exactly_the_responses_that_the_limit_cut(parents: dict[str, Path], tmp_path: Path) -> None:
    """Undiscounted returns of the first token fall by it, of the others not at all; the raw score is logged."""
    free, fined = (
        ppo.collect(trainer := built(parents, tmp_path, gae_lambda=1.0, missing_eos_penalty=x), trainer.work.crew(), 0)
        for x in (0.0, 3.0)
    )
    cut = torch.tensor([not s.ended for s in free.samples])
    assert 0 < cut.sum() < 16
    torch.testing.assert_close(free.returns[:, 0] - fined.returns[:, 0], 3.0 * cut, rtol=1e-5, atol=1e-5)
    assert free.stats["score"] == fined.stats["score"]


def test_the_kl_coefficient_follows_its_target_and_stays_without_one(
    parents: dict[str, Path], finished: tuple[Path, StageResult], tmp_path: Path
) -> None:
    """KL far above the target: up by 0.2 * 16 / 32 an update from the second on (the first has KL 0: down by that)."""
    run_stage("ppo", config(kl_coef=1.0, kl_target=1e-9, kl_horizon=32), parents, tmp_path)
    coefs = [row["kl_coef"] for row in untimed(tmp_path) if row["type"] == "update"]
    kls = [row["kl_k1"] for row in untimed(tmp_path) if row["type"] == "update"]
    steps = [1.1 if kl > 0 else 0.9 for kl in kls[:3]]
    assert coefs == pytest.approx(np.cumprod([1.0, *steps]).tolist(), rel=1e-12) and steps[0] == 0.9
    assert {row["kl_coef"] for row in untimed(finished[0]) if row["type"] == "update"} == {0.001}


def test_gradient_does_not_depend_on_micro_batches(parents: dict[str, Path], tmp_path: Path) -> None:
    gradients = []
    for budget in (64, 100_000):
        compute = Compute(micro_batch_tokens=budget)
        trainer, _ = ppo.build(config(compute), StageContext(parents, StageWriter(tmp_path), {}))
        batch = ppo.collect(trainer, trainer.work.crew(), 0)
        step(trainer, batch)
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.models.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_policy_and_value_move_and_nothing_else(parents: dict[str, Path], tmp_path: Path) -> None:
    """Even at a learning rate of 1e-6 the float32 weights change; reference and preference model do not."""
    trainer = built(parents, tmp_path)
    frozen = [*trainer.models.reference.parameters(), *trainer.models.train_pm.scores.model.parameters()]
    before_frozen = [p.clone() for p in frozen]
    before = [p.clone() for p in trainer.models.parameters()]
    schedule = trainer.config.training.schedule
    optimizer = make_optimizer(trainer.models.parameters(), schedule)
    step(trainer, ppo.collect(trainer, trainer.work.crew(), 0))
    apply_step(optimizer, schedule, 1e-6, 0)
    assert all(torch.equal(a, b) for a, b in zip(before_frozen, frozen, strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.models.parameters(), strict=True)]
    assert all(moved)


def test_each_epoch_covers_each_sample_once() -> None:
    parts = ppo.minibatches(16, 5, 3, 0, 7)
    flat = np.concatenate(parts).reshape(3, 16)
    assert all(sorted(row) == list(range(16)) for row in flat.tolist())
    assert parts == ppo.minibatches(16, 5, 3, 0, 7) != ppo.minibatches(16, 5, 3, 0, 8)


def test_all_prompts_are_used_before_one_comes_again() -> None:
    prompts = [[i] for i in range(10)]
    drawn = [p[0] for update in range(2) for p in ppo.update_prompts(prompts, 5, 0, update)]
    assert sorted(drawn) == list(range(10))
    assert len(ppo.update_prompts(prompts, 16, 0, 0)) == 16


def test_a_limit_on_kl_ends_the_run_as_diverged(parents: dict[str, Path], tmp_path: Path) -> None:
    result = run_stage("ppo", config(max_sqrt_kl=1e-6), parents, tmp_path)
    assert result.status == "diverged" and "past the limit" in result.summary["note"]
    assert result.summary["n_updates"] == 2  # the evaluation at 0 has KL 0, the next is past it


def test_collapse_ends_the_run(parents: dict[str, Path], tmp_path: Path) -> None:
    result = run_stage("ppo", config(min_entropy=100.0), parents, tmp_path)
    assert result.status == "diverged" and "nats a token below the limit of 100" in result.summary["note"]
    assert result.summary["n_updates"] == 0


def test_a_score_that_falls_far_below_its_best_is_a_collapse() -> None:
    """Best 2.0, now 0.9, first scores of sd 1: a drop of 1.1 sd. Nothing is a limit that is not set."""
    estimate = lambda value: {"value": value, "se": 0.1, "n": 3}  # noqa: E731
    history = [
        Evaluation(step, step, {"sqrt_kl": estimate(1.0), "entropy": estimate(0.5), "score_train": estimate(score)})
        for step, score in enumerate((0.0, 2.0, 0.9))
    ]
    first = pd.Series([-1.0, 0.0, 1.0])
    reason = why_diverged(history, first, PPOTraining(max_score_drop=1.0))
    assert reason == "train score 1.10 sd below its best, past the limit of 1, at step 2"
    for kept in (PPOTraining(), PPOTraining(max_score_drop=1.2), PPOTraining(min_entropy=0.4, max_sqrt_kl=1.5)):
        assert why_diverged(history, first, kept) is None


def test_limits_that_are_not_set_leave_the_configuration_as_it_was() -> None:
    assert not {"min_entropy", "max_score_drop"} & config().model_dump()["training"].keys()
    assert config(min_entropy=0.1).model_dump()["training"]["min_entropy"] == 0.1


def test_a_killed_run_resumes_to_the_same_bits(
    parents: dict[str, Path], finished: tuple[Path, StageResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the third update's state: metrics, evaluations, texts and weights equal the undisturbed run's."""
    broken, resumed = tmp_path / "broken", tmp_path / "resumed"
    real = StageWriter.save_state

    def dies(self: StageWriter, step: int, extra: Any) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return real(self, step, extra)

    monkeypatch.setattr(StageWriter, "save_state", dies)
    with pytest.raises(KeyboardInterrupt):
        run_stage("ppo", config(checkpoint_seconds=1e-9), parents, broken)
    monkeypatch.undo()
    run_stage("ppo", config(checkpoint_seconds=1e-9), parents, resumed, [broken])
    assert_same_run(finished[0], resumed)


@pytest.mark.parametrize("more", WAYS.values(), ids=WAYS)
def test_two_processes_give_the_gradient_of_one(parents: dict[str, Path], tmp_path: Path, more: dict[str, Any]) -> None:
    """Float32: the same samples read and differentiated in two parts."""
    if "lora_rank" in more:
        pytest.importorskip("peft")
    one, two = (built(parents, tmp_path, **more) for _ in range(2))
    batch = ppo.collect(one, one.work.crew(), 0)
    expected = step(one, batch)
    with Crew(2, two.models.parameters(), gradient=two.work.gradient) as crew:
        found = minibatch_gradient(crew, two.work, batch.targets(list(range(16))), 0)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    for ours, theirs in zip(two.models.parameters(), one.models.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
@pytest.mark.parametrize("more", WAYS.values(), ids=WAYS)
def test_two_processes_make_a_run_that_repeats(
    parents: dict[str, Path], tmp_path: Path, more: dict[str, Any], dtype: Dtype
) -> None:
    """Bit for bit; every prompt of an update is answered, and tokens are counted where they are spent."""
    if "lora_rank" in more:
        pytest.importorskip("peft")
    of = config(Compute(threads=2, micro_batch_tokens=1024, dtype=dtype), n_updates=2, **more)
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        run_stage("ppo", of, parents, folder)
    assert untimed(folders[0]) == untimed(folders[1])
    assert (folders[0] / "model/model.safetensors").read_bytes() == (
        folders[1] / "model/model.safetensors"
    ).read_bytes()


def shifted(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """Every score higher by a constant, which says nothing of any response."""
    score_trees = scorers.score_trees
    monkeypatch.setattr(scorers, "score_trees", lambda *args, **more: score_trees(*args, **more) + by)


@pytest.mark.parametrize("centered", [True, False])
def test_a_constant_added_to_all_scores_changes_nothing_where_they_are_centered(
    parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, centered: bool
) -> None:
    """Up to float32 rounding of scores near 8. Without centering the values, which start from 0, miss it."""
    of = config(center_scores=centered, schedule={"learning_rate": 1e-3})
    folders = [tmp_path / name for name in ("as it is", "shifted")]
    for folder, by in zip(folders, (0.0, 8.0), strict=True):
        folder.mkdir()
        shifted(monkeypatch, by)
        run_stage("ppo", of, parents, folder)
        monkeypatch.undo()
    as_it_is, moved = (pd.read_parquet(folder / "evals.parquet") for folder in folders)
    assert np.allclose(moved.score_train[:24] - as_it_is.score_train[:24], 8, atol=1e-5)
    same = np.allclose(moved.kl_exact, as_it_is.kl_exact, rtol=0.02, atol=1e-4)
    assert same == centered
