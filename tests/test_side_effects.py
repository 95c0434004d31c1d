"""An evaluation in the middle of training changes nothing: the run is the same to the last bit with and without it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hh_scaling import harness, ppo
from hh_scaling.configs import BenchmarkTasks, Compute, PMConfig, PMTraining, PPOConfig, PPOTraining
from hh_scaling.harness import Question, ask, own_question, undisturbed
from hh_scaling.lm import CausalLM
from hh_scaling.records import read_jsonl
from hh_scaling.tasks import OWN_TASKS, Doc
from tests.tiny import COMPUTE, SIZE, WORDS, run_stage

TRAINING = PPOTraining(
    n_updates=1, batch_size=16, minibatch_size=8, max_prompt_tokens=40, max_response_tokens=10, eval_every=1,
    n_eval_prompts=4, keep_sqrt_kl=(50.0,),
)  # fmt: skip


@pytest.fixture(scope="module")
def parents(tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("pm")
    training = PMTraining(max_length=64, batch_size=16)
    pm = PMConfig(size=SIZE, seed=0, half="train", n_comparisons=64, training=training, compute=COMPUTE)
    run_stage("pm", pm, tiny_stages, out)
    return {"data": tiny_stages["data"], "policy": tiny_stages["base"], "pm_train": out, "pm_test": out}


def questions() -> list[Question]:
    """One task of each kind: choices with worked examples (drawn at random), running text, a word to produce."""
    config = BenchmarkTasks(limit=6, num_fewshot=1)
    choices: list[Doc] = [
        {"query": f"tell me {word}", "choices": [" good", " bad"], "gold": i % 2, "cluster": word}
        for i, word in enumerate(WORDS)
    ]
    texts: list[Doc] = [{"text": f"tell me {word} {word}", "cluster": word} for word in WORDS]
    words: list[Doc] = [{"query": f"tell me {word}", "target": " apple", "cluster": word} for word in WORDS]
    tasks = (("world_facts", choices), ("bits_per_byte", texts), ("local_lambada", words))
    return [own_question(OWN_TASKS[name], docs, config) for name, docs in tasks]


def ppo_run(parents: dict[str, Path], out: Path, threads: int) -> dict[str, Any]:
    """Weights, metrics (without their seconds) and evaluations of a run."""
    config = PPOConfig(size=SIZE, seed=0, training=TRAINING, compute=Compute(threads=threads))
    run_stage("ppo", config, parents, out)
    metrics = [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(out / "metrics.jsonl")]
    return {"weights": load_file(out / "model" / "model.safetensors"), "metrics": metrics,
            "evals": (out / "evals.parquet").read_bytes()}  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
def test_training_is_bit_identical_with_evaluations(
    threads: int, parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where several processes compute, of training and of the evaluation in its middle."""
    plain = ppo_run(parents, tmp_path / "plain", threads)
    asked: list[list[dict[str, Any]]] = []
    real = ppo.evaluate

    def evaluated(trainer: Any, evaluator: Any, crew: Any, update: int) -> Any:
        result = real(trainer, evaluator, crew, update)
        vocabulary = copy.deepcopy(trainer.models.tokenizer.get_vocab())
        trainer.policy.train()  # the mode is to come back as it was, whatever it was
        with crew.resting(), undisturbed():
            lm = CausalLM(trainer.policy, trainer.models.tokenizer, Compute(threads=threads))
            with lm.by_processes():
                asked.append([item for question in questions() for item in ask(lm, question, seed=0)])
        assert trainer.policy.training and trainer.models.tokenizer.get_vocab() == vocabulary
        trainer.policy.eval()
        return result

    monkeypatch.setattr(ppo, "evaluate", evaluated)
    with_evaluations = ppo_run(parents, tmp_path / "evaluated", threads)
    assert len(asked) == TRAINING.n_updates + 1 and asked[0] != asked[-1]  # they saw a policy that moved
    assert plain.pop("evals") == with_evaluations.pop("evals")
    ours, theirs = plain.pop("weights"), with_evaluations.pop("weights")
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert plain == with_evaluations


def test_lm_evals_index_is_built_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    class Counted:
        def __init__(self) -> None:
            built.append(1)

    monkeypatch.setattr(harness, "TaskManager", Counted)
    harness.task_manager.cache_clear()
    try:
        assert harness.task_manager() is harness.task_manager()
        assert len(built) == 1
    finally:
        harness.task_manager.cache_clear()
