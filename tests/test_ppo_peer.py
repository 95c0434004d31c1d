"""The loss and its gradient against TRL 1.12's PPO trainer, whose formulas are written here again from its source.

Where TRL is right. It averages values over one position more than a response has wherever one is padded, and puts the
score there; so values are averaged over responses alone here, and rewards are compared on responses of equal length.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hh_scaling import losses, ppo
from hh_scaling.ppo_work import Targets, minibatch_gradient
from tests.tiny_ppo import built


def moved_targets(trainer: ppo.Trainer) -> Targets:
    """A rollout's targets with older log-probabilities and values than the policy's, so that clipping matters."""
    batch = ppo.collect(trainer, trainer.work.crew(), 0)
    targets = batch.targets(list(range(16)))
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.3, len(x)).astype(np.float32) for x in targets.arrays()]
    old, values, advantages, returns = (x + e for x, e in zip(targets.arrays(), noise, strict=True))
    return Targets(targets.samples, old, values, advantages, returns)


def peer_loss(trainer: ppo.Trainer, targets: Targets) -> tuple[torch.Tensor, dict[str, float]]:
    """trl/experimental/ppo/ppo_trainer.py, "Do multiple epochs of PPO training": one micro-batch's loss."""
    training, head = trainer.config.training, trainer.models.critic.head
    logprobs, values = [], []
    for sample in targets.samples:  # one by one: no padding
        context = len(sample.prompt)
        output = trainer.policy(torch.tensor([sample.ids]), output_hidden_states=True)
        logits = output.logits[0, context - 1 : -1] / (training.temperature + 1e-7)
        logprobs.append(torch.log_softmax(logits, -1).gather(-1, torch.tensor(sample.response)[:, None])[:, 0])
        values.append(head(output.hidden_states[-1][0, context - 1 : -1])[:, 0])
    new_logprobs, vpred = torch.cat(logprobs), torch.cat(values)
    old_logprobs, old_values, advantage, returns = map(torch.from_numpy, targets.arrays())
    vpredclipped = torch.clamp(vpred, old_values - training.value_clip_range, old_values + training.value_clip_range)
    vf_loss = 0.5 * torch.max((vpred - returns) ** 2, (vpredclipped - returns) ** 2).mean()
    ratio = torch.exp(new_logprobs - old_logprobs)
    clipped_ratio = torch.clamp(ratio, 1.0 - training.clip_range, 1.0 + training.clip_range)
    pg_losses, pg_losses2 = -advantage * ratio, -advantage * clipped_ratio
    pg_loss = torch.max(pg_losses, pg_losses2).mean()
    stats = {"policy_loss": pg_loss.item(), "value_loss": vf_loss.item()}
    assert 0.1 < (pg_losses2 > pg_losses).float().mean() < 0.9  # some are clipped
    return pg_loss + training.value_coef * vf_loss, stats


def test_loss_and_gradient_are_the_peers(ppo_parents: dict[str, Path], tmp_path: Path) -> None:
    """Float32, at a temperature that is not 1 (TRL adds 1e-7 to it), from a value head that is not zero."""
    ours, theirs = (built(ppo_parents, tmp_path, temperature=0.7, value_coef=0.3) for _ in range(2))
    for trainer in (ours, theirs):
        torch.nn.init.normal_(trainer.models.critic.head.weight, generator=torch.Generator().manual_seed(0))
    targets = moved_targets(ours)
    found = minibatch_gradient(ours.work.crew(), ours.work, targets, 0)
    loss, stats = peer_loss(theirs, targets)
    loss.backward()
    assert {name: found[name] for name in stats} == pytest.approx(stats, rel=1e-5)
    for a, b in zip(ours.models.parameters(), theirs.models.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_advantages_are_the_peers_but_for_their_unbiased_variance() -> None:
    """On responses of equal length: TRL's loops for rewards, GAE and whitening, with gamma and lambda below 1."""
    generator = torch.Generator().manual_seed(0)
    kl, values = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    scores = torch.randn(5, generator=generator, dtype=torch.float64)
    rewards = -0.2 * kl
    rewards[[range(5)], [6] * 5] += scores
    last, backwards = torch.zeros(5, dtype=torch.float64), []
    for t in reversed(range(7)):
        next_values = values[:, t + 1] if t < 6 else 0.0
        last = rewards[:, t] + 0.9 * next_values - values[:, t] + 0.9 * 0.8 * last
        backwards.append(last)
    advantages = torch.stack(backwards[::-1], dim=1)
    whitened = (advantages - advantages.mean()) * torch.rsqrt(advantages.var(unbiased=True) + 1e-8)
    mask = torch.ones(5, 7, dtype=torch.bool)
    found = losses.gae(losses.token_rewards(scores, kl, mask, 0.2), values, mask, 0.9, 0.8)
    torch.testing.assert_close(found, advantages, rtol=1e-12, atol=1e-12)
    biased = (35 / 34) ** 0.5
    torch.testing.assert_close(losses.masked_whiten(found, mask), biased * whitened, rtol=1e-7, atol=1e-9)
