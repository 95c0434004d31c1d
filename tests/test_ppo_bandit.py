"""PPO against policies that are known in closed form, on a bandit: one prompt, one token, a fixed score an action.

The policy that maximises E[r(a)] - lambda KL(pi || pi_0) is pi*(a) = pi_0(a) exp(r(a) / lambda) / Z.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hh_scaling import ppo
from hh_scaling.bench_ppo import NoStop
from hh_scaling.configs import Compute, PPOConfig, PPOTraining, Schedule
from hh_scaling.critic import zero_critic
from hh_scaling.ppo_work import Models, Work
from hh_scaling.records import StageWriter
from hh_scaling.training import make_optimizer
from tests.tiny import SIZE

SCORES = np.array([1.0, -0.5, 0.3, -0.6, 0.6])
KL_COEF = 1.0
PROMPT = [1] * 32  # as long as rows are padded to: short passes
ANNEALED = Schedule(learning_rate=2e-2, decay="linear", final_fraction=0.0, eps=1e-5, max_grad_norm=10.0)


def small_policy() -> LlamaForCausalLM:
    """A Llama over five tokens whose first distribution is not uniform."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(SCORES), tie_word_embeddings=False, **sizes))
    with torch.no_grad():
        model.lm_head.weight.mul_(3)  # log-probabilities then differ by up to a half
    return model.eval()


def distribution(policy: Any) -> np.ndarray:
    """(5,) probabilities of the answer, by transformers' own forward pass."""
    with torch.no_grad():
        found: np.ndarray = torch.softmax(policy(torch.tensor([PROMPT])).logits[0, -1].double(), -1).numpy()
    return found


def trained_on_bandit(out: Path, **training: Any) -> tuple[np.ndarray, np.ndarray]:
    """The distribution before and after."""
    settings = {
        "n_updates": 60, "batch_size": 64, "minibatch_size": 64, "max_prompt_tokens": len(PROMPT),
        "max_response_tokens": 1, "kl_coef": KL_COEF, "value_clip_range": 10.0, "schedule": ANNEALED,
    }  # fmt: skip
    config = PPOConfig(size=SIZE, seed=0, training=PPOTraining(**settings | training), compute=Compute())
    policy, reference = small_policy(), small_policy().requires_grad_(False)
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    models = Models(
        config, policy, zero_critic(16, "cpu"), reference,
        lambda samples: SCORES[[s.response[0] for s in samples]].astype(np.float32), tokenizer, NoStop(len(SCORES)),
    )  # fmt: skip
    trainer = ppo.Trainer(models, Work(models, StageWriter(out)), [PROMPT], StageWriter(out))
    optimizer = make_optimizer(models.parameters(), config.training.schedule)
    before = distribution(policy)
    with trainer.work.crew() as crew:
        for update in range(config.training.n_updates):
            ppo.update_policy(trainer, optimizer, crew, update)
    return before, distribution(policy)


def optimum(start: np.ndarray) -> np.ndarray:
    weights = start * np.exp(SCORES / KL_COEF)
    return np.asarray(weights / weights.sum())


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(p - q).sum() / 2)


@pytest.mark.parametrize(("n_epochs", "minibatch_size", "n_updates"), [(1, 64, 60), (2, 32, 30)])
def test_it_reaches_the_known_optimum(tmp_path: Path, n_epochs: int, minibatch_size: int, n_updates: int) -> None:
    """Within .01 in total variation. Unwhitened, the advantages r - lambda ln(pi / pi_0) - V vanish for every action
    at the optimum, so that nothing is left there which a falling rate would have to average out."""
    steps = {"n_epochs": n_epochs, "minibatch_size": minibatch_size, "n_updates": n_updates}
    before, after = trained_on_bandit(tmp_path, whiten_advantages=False, **steps)
    wanted = optimum(before)
    assert wanted.min() > 0.05  # where PPO still samples every action often
    assert total_variation(before, wanted) > 0.15
    assert total_variation(after, wanted) < 0.01


def test_whitening_keeps_it_near_the_optimum(tmp_path: Path) -> None:
    """Whitened advantages have variance 1 however near the optimum is: what is left of them there is noise of that
    size, so that a step has its full length and the policy wanders until the rate has fallen. Hence .03."""
    before, after = trained_on_bandit(tmp_path)
    assert total_variation(after, optimum(before)) < 0.03


def test_without_a_penalty_the_best_action_takes_nearly_all(tmp_path: Path) -> None:
    """The penalty and nothing else holds the policy at the optimum."""
    before, after = trained_on_bandit(tmp_path, kl_coef=0.0, whiten_advantages=False, n_updates=30)
    assert after[0] > 0.9 and total_variation(after, optimum(before)) > 0.3
