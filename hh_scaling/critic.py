"""Where values come from: a head on the policy's own trunk, or a model of its own (Schulman et al. 2017, section 5).

A critic of its own is a trunk and a head that start from the reference's trunk and zero, or from the train PM and its
head, so that a value at first is the score that the text so far would have if it ended there.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hh_scaling.configs import Compute, PPOTraining
from hh_scaling.models import ModelError, forward_flops
from hh_scaling.records import StageWriter
from hh_scaling.rollout import Sample, response_hidden
from hh_scaling.scorers import PMScorer
from hh_scaling.tree_scores import score_head


class Critic(nn.Module):
    """(the policy's hidden states (N, d), samples) -> (N,) values before every response token."""

    def __init__(self, head: nn.Linear, trunk: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.head, self.trunk = head, trunk  # without a trunk of its own it reads the policy's

    def forward(self, hidden: Tensor, samples: Sequence[Sample], compute: Compute) -> Tensor:
        """float32."""
        if self.trunk is not None:
            hidden = response_hidden(self.trunk, samples, compute)
        values: Tensor = self.head(hidden.float()).squeeze(-1)
        return values

    def count(self, n_tokens: int, n_samples: int, out: StageWriter, passes: float = 1) -> None:
        """Add the operations of its own trunk; tokens are counted with the policy."""
        if self.trunk is not None:
            out.count(0, passes * forward_flops(self.trunk, n_tokens, n_tokens / n_samples, logits=0))


def make_critic(training: PPOTraining, reference: PreTrainedModel, train_pm: Any, device: str) -> Critic:
    """The critic as the configuration wants it."""
    if training.critic == "shared":
        return zero_critic(reference.config.hidden_size, device)
    if training.value_init == "zero":
        return zero_critic(reference.config.hidden_size, device, own_copy(reference))
    if not isinstance(train_pm, PMScorer) or train_pm.reencodes:
        raise ModelError(
            "ppo.value_init: the train preference model does not read the policy's tokens (allowed here: zero)"
        )
    return critic_from(train_pm.scores.model, device)


def zero_critic(width: int, device: str, trunk: PreTrainedModel | None = None) -> Critic:
    """A value of 0 for every token, until it is trained."""
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return Critic(head.to(device), trunk)


@torch.no_grad()
def critic_from(pm: PreTrainedModel, device: str) -> Critic:
    """A copy of the preference model: its trunk, and its score as the value."""
    score = score_head(pm)
    critic = zero_critic(score.in_features, device, own_copy(pm))
    critic.head.weight.copy_(score.weight)
    if score.bias is not None:
        critic.head.bias.copy_(score.bias)
    return critic


def own_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The model's trunk in memory of its own, to be trained."""
    trunk: PreTrainedModel = copy.deepcopy(model.base_model).requires_grad_(True)
    return trunk
