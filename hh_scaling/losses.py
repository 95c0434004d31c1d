"""The mathematics of preference models and PPO: pure functions of tensors.

Letters in shapes: B sequences, R response tokens, V vocabulary. A mask is True where a token counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` where ``mask`` is True."""
    return (x * mask).sum() / mask.sum()


def masked_whiten(x: Tensor, mask: Tensor) -> Tensor:
    """``x`` shifted and scaled to mean 0 and variance 1 over the masked entries (biased variance); 0 elsewhere."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """(N,) log-probability of each token under its (N, V) logits at a temperature; float32 whatever the input."""
    scaled = logits.float() / temperature
    return scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(N,) entropy in nats of the softmax of (N, V) logits at a temperature."""
    logprobs = F.log_softmax(logits.float() / temperature, dim=-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def kl_k1(logprobs: Tensor, other: Tensor) -> Tensor:
    """Per-token estimator of KL(sampler || other), the sampler's log-probabilities first: -log r; unbiased, signed."""
    return logprobs - other


def kl_k3(logprobs: Tensor, other: Tensor) -> Tensor:
    """Per-token estimator r - 1 - log r with r = other / sampler: unbiased, never negative (Schulman 2020)."""
    log_ratio = other - logprobs
    return torch.expm1(log_ratio) - log_ratio


def kl_exact_and_entropy(logprobs: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) KL(p || q) = sum_v p ln(p / q), not clamped, and entropy -sum_v p ln p, in nats.

    Of next-token distributions, from their (N, V) log-probabilities ln p and ln q.
    """
    p = logprobs.exp()
    return (p * (logprobs - other)).sum(-1), -(p * logprobs).sum(-1)


def preference_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(B,) -log sigmoid(r_chosen - r_rejected), the Bradley-Terry negative log-likelihood; ln 2 for equal scores."""
    return F.softplus(rejected - chosen)


def binarised_loss(good: Tensor, bad: Tensor) -> Tensor:
    """(B,) -log sigmoid(r_good) - log sigmoid(-r_bad): an absolute label for either side; 2 ln 2 where both score 0.

    After the binarisation of Askell et al. (2021, section 4.1), who write the label as a word before the text and rank
    GOOD: A over BAD: A and BAD: B over GOOD: B; here the score itself is the log-odds of GOOD, so no word is added.
    """
    return F.softplus(-good) + F.softplus(bad)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """(B, R) per-token rewards: -kl_coef * kl everywhere, plus the score once, at each response's last token."""
    rewards = -kl_coef * kl * mask
    last = mask.sum(1) - 1
    return rewards.scatter_add(1, last.unsqueeze(1), scores.unsqueeze(1).to(rewards.dtype))


def adapted_kl_coef(kl_coef: float, kl: float, target: float, n: int, horizon: int) -> float:
    """kl_coef * (1 + clip(kl / target - 1, -0.2, 0.2) * n / horizon), n the responses that ``kl`` is the mean of.

    ``kl`` and ``target`` in nats a response (Ziegler et al. 2019, section 2.2).
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * n / horizon)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """(B, R) advantages A_t = d_t + gamma * lambda * A_{t+1} with d_t = r_t + gamma * V_{t+1} - V_t.

    The response ends at its last masked token: values and advantages after it count as 0
    (Schulman et al. 2016, equations 11 and 16).
    """
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = mask[:, t] * (delta + gamma * gae_lambda * next_advantage)
        next_value = mask[:, t] * values[:, t]
        advantages[:, t] = next_advantage
    return advantages


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """(N,) clipped surrogate -min(ratio A, clip(ratio, 1 - c, 1 + c) A) per token (Schulman et al. 2017, eq. 7)."""
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.min(ratio * advantages, clipped * advantages)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """(N,) half the larger of the squared errors of the value and of the value clipped to the old one's range."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2)
