"""Values from a model of their own: where they start, what they read, what moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hh_scaling import ppo
from hh_scaling.critic import critic_from
from hh_scaling.models import ModelError
from hh_scaling.ppo_work import minibatch_gradient
from hh_scaling.rollout import Sample, score_responses
from hh_scaling.training import apply_step, make_optimizer
from tests.tiny import COMPUTE, run_stage
from tests.tiny_ppo import OFTEN, assert_same_run, build, built, config, killed, untimed

SEPARATE = {"critic": "separate"}
FROM_PM = {"critic": "separate", "value_init": "pm"}


def test_from_the_pm_a_value_is_first_the_pm_s_score_at_the_end_of_text(
    ppo_parents: dict[str, Path], tmp_path: Path
) -> None:
    """The value before a token that would follow the end token, which the PM scores texts at; float32, two packings."""
    trainer = built(ppo_parents, tmp_path, **FROM_PM)
    samples = ppo.collect(trainer, trainer.work.crew(), 0).samples
    end = trainer.models.tokenizer.eos_token_id
    longer = [Sample(s.prompt, [*s.text_ids, end, 5], ended=False) for s in samples]
    read = score_responses(trainer.policy, trainer.models.critic, longer, 1.0, COMPUTE)
    last = read.values[torch.arange(len(longer)), read.mask.sum(1) - 1]
    np.testing.assert_allclose(last.numpy(), trainer.models.train_pm(samples), rtol=1e-5, atol=1e-5)


def test_from_zero_all_values_are_zero(ppo_parents: dict[str, Path], tmp_path: Path) -> None:
    batch = ppo.collect(trainer := built(ppo_parents, tmp_path, **SEPARATE), trainer.work.crew(), 0)
    assert (batch.values == 0).all()


@pytest.mark.parametrize("start", [SEPARATE, FROM_PM], ids=["zero", "pm"])
def test_the_policy_s_gradient_knows_nothing_of_the_values_and_theirs_nothing_of_the_policy(
    ppo_parents: dict[str, Path], tmp_path: Path, start: dict[str, str]
) -> None:
    """Against autograd through transformers' own passes: the mean of the two halves' losses, each to its own model."""
    trainer = built(ppo_parents, tmp_path, value_coef=0.3, **start)
    critic = trainer.models.critic
    with torch.no_grad():
        critic.head.weight.add_(0.1)
    batch = ppo.collect(trainer, trainer.work.crew(), 0)
    minibatch_gradient(trainer.work.crew(), trainer.work, batch.targets(list(range(16))), 0)
    found = [p.grad for p in trainer.models.parameters()]
    trainer.policy.zero_grad()
    critic.zero_grad()
    assert critic.trunk is not None
    policy_sum, value_sum = torch.zeros(()), torch.zeros(())
    for i, s in enumerate(batch.samples):
        at, n = slice(len(s.prompt) - 1, -1), len(s.response)
        logits = trainer.policy(torch.tensor([s.ids])).logits[0, at]
        new = torch.log_softmax(logits, -1).gather(-1, torch.tensor(s.response)[:, None])[:, 0]
        policy_sum = policy_sum - ((new - batch.logprobs[i, :n]).exp() * batch.advantages[i, :n]).sum()
        values = critic.head(critic.trunk(torch.tensor([s.ids])).last_hidden_state[0, at])[:, 0]
        value_sum = value_sum + 0.5 * ((values - batch.returns[i, :n]) ** 2).sum()
    n_tokens = batch.mask.sum()
    (policy_sum / n_tokens).backward()
    assert all(p.grad is None for p in critic.parameters())
    (0.3 * value_sum / n_tokens).backward()
    for ours, p in zip(found, trainer.models.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad, rtol=1e-3, atol=1e-6)


def test_critic_and_policy_move_and_the_pm_does_not(ppo_parents: dict[str, Path], tmp_path: Path) -> None:
    trainer = built(ppo_parents, tmp_path, **FROM_PM)
    frozen = [*trainer.models.reference.parameters(), *trainer.models.train_pm.scores.model.parameters()]
    before, before_frozen = ([p.clone() for p in group] for group in (trainer.models.parameters(), frozen))
    optimizer = make_optimizer(trainer.models.parameters(), trainer.config.training.schedule)
    batch = ppo.collect(trainer, trainer.work.crew(), 0)
    minibatch_gradient(trainer.work.crew(), trainer.work, batch.targets(list(range(16))), 0)
    apply_step(optimizer, trainer.config.training.schedule, 1e-4, 0)
    assert all(torch.equal(a, b) for a, b in zip(before_frozen, frozen, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, trainer.models.parameters(), strict=True))


def test_values_of_a_pm_that_reads_other_tokens_are_refused(ppo_parents: dict[str, Path], tmp_path: Path) -> None:
    trainer, _ = build(ppo_parents, tmp_path, config(**FROM_PM))
    scorer = trainer.models.train_pm
    scorer.reencodes = True
    with pytest.raises(ModelError, match=r"ppo\.value_init: .* \(allowed here: zero\)"):
        ppo.make_critic(trainer.config.training, trainer.models.reference, scorer, "cpu")


def test_a_bias_of_the_score_is_kept() -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    pm = GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, num_labels=1)).eval()
    pm.score = torch.nn.Linear(16, 1)
    tokens = torch.tensor([[3, 4, 5, 6]])
    critic = critic_from(pm, "cpu")
    assert critic.trunk is not None
    hidden = critic.trunk(tokens).last_hidden_state[0, -1:]
    torch.testing.assert_close(critic(hidden, [Sample([3, 4, 5, 6], [7], False)], COMPUTE)[0], pm.score(hidden)[0, 0])


def test_a_killed_run_resumes_to_the_same_bits(
    ppo_parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a critic of its own, text mixed in and a KL coefficient that moves, several epochs: all at once."""
    whole, broken, resumed = (tmp_path / name for name in ("whole", "broken", "resumed"))
    of = config(
        checkpoint_seconds=OFTEN, ptx_coef=1.0, ptx_rows=4, ptx_context=24, kl_target=0.05, kl_horizon=100,
        n_epochs=2, **FROM_PM,
    )  # fmt: skip
    run_stage("ppo", of, ppo_parents, whole)
    killed(3, lambda: run_stage("ppo", of, ppo_parents, broken), monkeypatch)
    run_stage("ppo", of, ppo_parents, resumed, [broken])
    assert_same_run(whole, resumed)
    coefs = [row["kl_coef"] for row in untimed(resumed) if row["type"] == "update"]
    assert len(set(coefs)) == 4
