"""Adapters: peft's own forward pass, switching off and merging are the truth."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from hh_scaling import lora, models, ppo
from hh_scaling.configs import Compute, ReferenceConfig, ReferenceTraining
from hh_scaling.ppo_work import minibatch_gradient
from hh_scaling.records import Record, write_json
from hh_scaling.response_logprobs import packs
from hh_scaling.rollout import response_forward
from hh_scaling.training import apply_step, make_optimizer
from tests.tiny import COMPUTE, SIZE, base_config, run_stage
from tests.tiny_ppo import OFTEN, assert_same_run, build, built, config, killed

peft = pytest.importorskip("peft")
RANK = {"lora_rank": 4, "lora_alpha": 8.0}
TOKENS = torch.tensor([[5, 9, 40, 41, 7, 100]])


@pytest.fixture(scope="module")
def on_sft(
    tiny_stages: dict[str, Path], ppo_parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The parents of a policy that starts from a fine-tuned model."""
    base, out = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("sft")
    shutil.copytree(tiny_stages["base"], base, dirs_exist_ok=True)
    record = Record("base", "base", "done", base_config().model_dump(mode="json"), {})
    write_json(base / "record.json", asdict(record))  # it says how its held-out loss was measured
    training = ReferenceTraining(kind="sft", n_examples=128, max_length=64)
    of = ReferenceConfig(size=SIZE, seed=0, training=training, compute=COMPUTE)
    run_stage("reference", of, tiny_stages | {"base": base}, out)
    return ppo_parents | {"policy": out}


def moved(parents: dict[str, Path], out: Path) -> ppo.Trainer:
    """A policy whose adapters are far from where they start."""
    trainer = built(parents, out, **RANK)
    with torch.no_grad():
        for p in trainer.models.trained.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05)
    return trainer


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
@pytest.mark.parametrize("start", ["base", "sft"])
def test_kl_is_exactly_zero_at_the_start_and_not_at_the_end(
    ppo_parents: dict[str, Path], on_sft: dict[str, Path], tmp_path: Path, start: str, dtype: str
) -> None:
    """All estimates, every response; the reference of a policy that starts from a fine-tuned model is that model."""
    parents = on_sft if start == "sft" else ppo_parents
    of = config(Compute(dtype=dtype), n_updates=2, schedule={"learning_rate": 1e-2}, **RANK)  # type: ignore[arg-type]
    run_stage("ppo", of, parents, tmp_path)
    rows = pd.read_parquet(tmp_path / "evals.parquet")
    first, last = rows[rows.step == 0], rows[rows.step == 2]
    names = [f"{way}_{name}" for way in ("kl", "reverse_kl") for name in ("k1", "k3", "exact")]
    assert (first[names] == 0).all(axis=None) and last.kl_exact.mean() > 0


def test_the_reference_is_the_fine_tuned_model_not_its_base(
    ppo_parents: dict[str, Path], on_sft: dict[str, Path], tmp_path: Path
) -> None:
    trainer = moved(on_sft, tmp_path)
    tuned, base = (models.load_causal_lm(p["policy"])(TOKENS).logits for p in (on_sft, ppo_parents))
    assert torch.equal(trainer.models.reference(TOKENS).logits, tuned) and not torch.equal(tuned, base)


def test_the_reference_is_the_policy_with_its_adapter_switched_off(
    ppo_parents: dict[str, Path], tmp_path: Path
) -> None:
    """Bit for bit as peft switches it off, from the same memory."""
    trainer = moved(ppo_parents, tmp_path)
    policy, reference = trainer.policy, trainer.models.reference
    weights = {p.data_ptr() for p in policy.parameters() if not p.requires_grad}
    assert {p.data_ptr() for p in reference.parameters()} == weights
    changed = policy(TOKENS).logits
    layers = [m for m in policy.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    switched_off = policy(TOKENS).logits
    assert torch.equal(reference(TOKENS).logits, switched_off) and not torch.equal(changed, switched_off)
    assert len(layers) == 7 * policy.config.num_hidden_layers


def test_the_packed_passes_read_the_adapters_as_peft_does(ppo_parents: dict[str, Path], tmp_path: Path) -> None:
    """Log-probabilities and the adapters' gradients, float32: W + s B A against x W + s (x A) B."""
    trainer = moved(ppo_parents, tmp_path)
    batch = ppo.collect(trainer, trainer.work.crew(), 0)
    assert packs(trainer.policy, COMPUTE)
    packed, _, _ = response_forward(trainer.policy, None, batch.samples, 1.0, COMPUTE)
    packed.sum().backward()
    found = [p.grad.clone() for p in trainer.models.trained.parameters() if p.grad is not None]
    trainer.policy.zero_grad()
    singly = []
    for sample in batch.samples:
        logits = trainer.policy(torch.tensor([sample.ids])).logits[0, len(sample.prompt) - 1 : -1]
        singly.append(torch.log_softmax(logits, -1).gather(-1, torch.tensor(sample.response)[:, None])[:, 0])
    theirs = torch.cat(singly)
    theirs.sum().backward()
    torch.testing.assert_close(packed, theirs, rtol=1e-4, atol=1e-5)
    for ours, p in zip(found, trainer.models.trained.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad, rtol=1e-3, atol=1e-4)


def test_first_minibatch_has_ratio_one_and_only_adapters_and_value_move(
    ppo_parents: dict[str, Path], tmp_path: Path
) -> None:
    trainer = built(ppo_parents, tmp_path, temperature=0.7, **RANK)
    frozen = [p for p in trainer.policy.parameters() if not p.requires_grad]
    before = [p.clone() for p in frozen]
    optimizer = make_optimizer(trainer.models.parameters(), trainer.config.training.schedule)
    crew, batch = trainer.work.crew(), ppo.collect(trainer, trainer.work.crew(), 0)
    for step in range(2):  # B moves first: at B = 0 the gradient of A is 0
        stats = minibatch_gradient(crew, trainer.work, batch.targets(list(range(16))), 0)
        if step == 0:
            assert stats["clip_fraction"] == 0 and abs(stats["kl_old_new"]) < 1e-9
            assert all(p.grad is None for p in frozen)
        apply_step(optimizer, trainer.config.training.schedule, 1e-3, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
    fresh = built(ppo_parents, tmp_path, temperature=0.7, **RANK).models
    trained = zip(trainer.models.trained.parameters(), fresh.trained.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in trained)


def test_checkpoints_are_merged_models_that_load_without_peft(ppo_parents: dict[str, Path], tmp_path: Path) -> None:
    """Equal to what peft merges itself."""
    trainer = moved(ppo_parents, tmp_path)
    trainer.models.plain_policy().save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    unmerged = trainer.policy(TOKENS).logits
    for layer in [m for m in trainer.policy.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]:
        layer.merge()
    torch.testing.assert_close(loaded(TOKENS).logits, trainer.policy(TOKENS).logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loaded(TOKENS).logits, unmerged, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name, _ in loaded.named_parameters())


def test_a_killed_run_resumes_to_the_same_bits(
    on_sft: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with the first evaluation before the kill: step 0 of the resumed run is 0 as it was."""
    whole, broken, resumed = (tmp_path / name for name in ("whole", "broken", "resumed"))
    of = config(checkpoint_seconds=OFTEN, schedule={"learning_rate": 1e-2}, **RANK)
    run_stage("ppo", of, on_sft, whole)
    killed(3, lambda: run_stage("ppo", of, on_sft, broken), monkeypatch)
    run_stage("ppo", of, on_sft, resumed, [broken])
    assert_same_run(whole, resumed)
    state = sorted((whole / "states").iterdir())[-1] / "training.safetensors"
    assert state.stat().st_size < 1.5 * (whole / "model" / "model.safetensors").stat().st_size  # adapters, not weights


def test_an_architecture_that_is_not_packed() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    policy = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=120, **sizes)).eval()
    reference = lora.shared_copy(policy)
    policy = lora.add_adapters(policy, 2, 4.0, seed=0)
    assert torch.equal(policy(TOKENS).logits, reference(TOKENS).logits)
    with torch.no_grad():
        for p in lora.adapters(policy).parameters():
            p.add_(0.02)
    merged = lora.merged(policy, reference)
    torch.testing.assert_close(merged(TOKENS).logits, policy(TOKENS).logits, rtol=1e-4, atol=1e-4)
    again = lora.add_adapters(lora.shared_copy(reference), 2, 4.0, seed=0)
    other = lora.add_adapters(lora.shared_copy(reference), 2, 4.0, seed=1)
    first = [next(lora.adapters(model).parameters()) for model in (again, other)]
    assert not torch.equal(*first)


def test_without_peft_the_line_says_how_to_get_it(
    ppo_parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(models.ModelError, match=r"ppo\.lora_rank: needs peft.*pip install"):
        build(ppo_parents, tmp_path, config(**RANK))
