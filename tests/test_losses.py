"""The mathematics against definitions and closed forms. Tolerances: float32 rounding (1e-6) unless said."""

from __future__ import annotations

import math

import pytest
import torch

from hh_scaling import losses


def test_kl_estimators_are_unbiased_and_signed() -> None:
    """Summed exactly over a three-word vocabulary, k1 and k3 both equal KL(p || q); k3 is never negative."""
    p, q = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.5, 0.3]).log()
    exact = (p.exp() * (p - q)).sum()
    torch.testing.assert_close((p.exp() * losses.kl_k1(p, q)).sum(), exact, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close((p.exp() * losses.kl_k3(p, q)).sum(), exact, rtol=1e-6, atol=1e-7)
    assert (losses.kl_k3(p, q) >= 0).all()
    assert losses.kl_k1(p, q).min() < 0
    reversed_k3 = (p.exp() * losses.kl_k3(q, p)).sum()
    assert abs(float(reversed_k3 - exact)) > 0.01  # the wrong direction is another quantity


def brute_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum_l (gamma lam)^l d_{t+l}, straight from the definition, on one unpadded response."""
    n = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0) - values[t] for t in range(n)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t)) for t in range(n)]


def test_gae_is_the_double_sum_and_ignores_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(3, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5]).bool()
    got = losses.gae(rewards * mask, values, mask, 0.9, 0.8)
    for row, n in enumerate((6, 4, 1)):
        want = brute_gae(rewards[row, :n].tolist(), values[row, :n].tolist(), 0.9, 0.8)
        torch.testing.assert_close(got[row, :n], torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        assert (got[row, n:] == 0).all()
    changed = values.clone()
    changed[~mask] = 1e6
    assert torch.equal(got, losses.gae(rewards * mask, changed, mask, 0.9, 0.8))


def test_undiscounted_gae_gives_rewards_to_go() -> None:
    rewards = torch.tensor([[0.0, -1.0, 2.0]])
    values = torch.tensor([[0.3, 0.1, -0.2]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    returns = losses.gae(rewards, values, mask, 1.0, 1.0) + values
    torch.testing.assert_close(returns, torch.tensor([[1.0, 1.0, 2.0]]), rtol=1e-6, atol=1e-6)


def test_score_enters_once_at_the_last_token() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    kl = torch.tensor([[0.1, -0.2, 0.3], [0.5, 9.0, 9.0]])
    rewards = losses.token_rewards(torch.tensor([2.0, -1.0]), kl, mask, 0.1)
    torch.testing.assert_close(rewards.sum(1), torch.tensor([2.0 - 0.1 * 0.2, -1.0 - 0.1 * 0.5]), rtol=1e-6, atol=1e-6)
    assert rewards[0, 2] == pytest.approx(2.0 - 0.03) and (rewards[1, 1:] == 0).all()


def test_the_adaptive_coefficient_by_hand() -> None:
    """Ziegler et al.: error kl / target - 1, clipped at 0.2 either way, times responses over horizon."""
    args = {"target": 6.0, "n": 500, "horizon": 10_000}
    assert losses.adapted_kl_coef(0.1, 6.0, **args) == 0.1
    assert losses.adapted_kl_coef(0.1, 6.6, **args) == pytest.approx(0.1 * (1 + 0.1 * 0.05), rel=1e-12)
    assert losses.adapted_kl_coef(0.1, 600.0, **args) == pytest.approx(0.1 * 1.01, rel=1e-12)
    assert losses.adapted_kl_coef(0.1, -3.0, **args) == pytest.approx(0.1 * 0.99, rel=1e-12)


def test_whitening_uses_masked_entries_only() -> None:
    x = torch.tensor([[1.0, 2.0, 99.0], [4.0, -99.0, 99.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    white = losses.masked_whiten(x, mask)
    inside = white[mask]
    torch.testing.assert_close(inside.mean(), torch.tensor(0.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(inside.var(unbiased=False), torch.tensor(1.0), rtol=1e-6, atol=1e-6)
    assert (white[~mask] == 0).all()


def test_policy_loss_at_ratio_one_and_past_the_clip() -> None:
    old = torch.zeros(4)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert torch.equal(losses.policy_loss(old, old, advantages, 0.2), -advantages)
    new = torch.tensor([math.log(2.0), math.log(2.0), math.log(0.5), math.log(0.5)])
    # min(ratio A, clip(ratio) A): gains are clipped, losses are not
    torch.testing.assert_close(
        losses.policy_loss(new, old, advantages, 0.2), torch.tensor([-1.2, 2.0, -0.5, 0.8]), rtol=1e-6, atol=1e-6
    )


def test_value_loss_takes_the_larger_error_and_has_its_half() -> None:
    old, returns = torch.zeros(3), torch.ones(3)
    values = torch.tensor([0.1, 0.5, -0.5])
    want = 0.5 * torch.tensor([0.81, 0.64, 2.25])  # clipped values .1, .2, -.2: errors .81, .64, 1.44
    torch.testing.assert_close(losses.value_loss(values, old, returns, 0.2), want, rtol=1e-6, atol=1e-6)


def test_preference_loss_is_ln_2_for_equal_scores_and_stable() -> None:
    equal = losses.preference_loss(torch.tensor([3.0]), torch.tensor([3.0]))
    torch.testing.assert_close(equal, torch.tensor([math.log(2)]), rtol=1e-6, atol=0)
    far = losses.preference_loss(torch.tensor([-500.0, 500.0]), torch.tensor([500.0, -500.0]))
    assert torch.equal(far, torch.tensor([1000.0, 0.0]))


def test_binarised_loss_by_hand() -> None:
    """sigma(ln 3) = 3/4 and sigma(-ln 3) = 1/4: right on both sides 2 ln(4/3), wrong on both 2 ln 4; 2 ln 2 at 0."""
    x = math.log(3)
    found = losses.binarised_loss(torch.tensor([x, -x, 0.0, x]), torch.tensor([-x, x, 0.0, x]))
    by_hand = [2 * math.log(4 / 3), 2 * math.log(4), 2 * math.log(2), math.log(4 / 3) + math.log(4)]
    torch.testing.assert_close(found, torch.tensor(by_hand), rtol=1e-6, atol=0)
    far = losses.binarised_loss(torch.tensor([500.0, -500.0]), torch.tensor([-500.0, 500.0]))
    assert torch.equal(far, torch.tensor([0.0, 1000.0]))


def test_token_logprobs_and_entropy_match_categorical() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([0, 6, 3, 2, 2])
    oracle = torch.distributions.Categorical(logits=logits / 0.7)
    torch.testing.assert_close(
        losses.token_logprobs(logits, tokens, 0.7), oracle.log_prob(tokens), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(losses.entropy(logits, 0.7), oracle.entropy(), rtol=1e-6, atol=1e-6)
    assert losses.token_logprobs(logits.bfloat16(), tokens).dtype == torch.float32
