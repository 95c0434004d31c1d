"""Plans: known shapes and counts, sums that add up, and estimates that learn from what is finished."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from hh_scaling.configs import SizeSpec
from hh_scaling.records import Record, RunStore
from hh_scaling.shapes import shape_for
from sweeps.check import load_study
from sweeps.costs import Cost, forward
from sweeps.graph import expand
from sweeps.known_models import KNOWN, ModelShape, guessed, shape_in_config, shape_of
from sweeps.load import StudyError
from sweeps.machines import GPUS, find_gpu, this_cpu
from sweeps.plan import chain_seconds, longest_chain, make_plan, plan_json
from sweeps.stage import Graph
from tests.toy import graph_of, toy


def smoke() -> Graph:
    return expand(load_study("smoke"))


# Non-embedding parameters as the Pythia paper's table 1 gives them (Biderman et al. 2023, arXiv:2304.01373).
PYTHIA = {
    "70m": 18_915_328,
    "160m": 85_056_000,
    "410m": 302_311_424,
    "1b": 805_736_448,
    "1.4b": 1_208_602_624,
    "2.8b": 2_517_652_480,
    "6.9b": 6_444_163_072,
    "12b": 11_327_027_200,
}


@pytest.mark.parametrize(("name", "n_params"), PYTHIA.items())
def test_pythia_has_the_published_number_of_parameters(name: str, n_params: int) -> None:
    assert KNOWN[f"EleutherAI/pythia-{name}"].n_params == n_params


def test_smollm2_has_its_published_total() -> None:
    """134,515,008 parameters with tied embeddings (the model card's safetensors count)."""
    assert KNOWN["HuggingFaceTB/SmolLM2-135M-Instruct"].n_params_total == 134_515_008


def test_a_rung_s_shape_comes_from_the_rule() -> None:
    shape = shape_of(SizeSpec(name="x", n_params=390_000), 1024)
    assert shape is not None and shape.n_params == shape_for(390_000, "llama").n_params
    assert shape.n_params_total == shape.n_params + 1024 * shape.d_model


def test_a_folder_s_shape_comes_from_its_configuration(tmp_path: Path) -> None:
    """Llama: 4 d^2 + 3 d d_ff a layer, less for grouped keys and values; GPT-NeoX: 12 d^2 a layer."""
    path = tmp_path / "config.json"
    llama = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "vocab_size": 100,
        "intermediate_size": 160,
    }
    path.write_text(
        json.dumps(llama | {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False})
    )
    shape = shape_in_config(path)
    assert shape is not None and shape.n_params == 3 * (3 * 64**2 + 3 * 64 * 160) and not shape.tied
    path.write_text(json.dumps({"model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 100, "intermediate_size": 256}))  # fmt: skip  # noqa: E501
    shape = shape_in_config(path)
    assert shape is not None and shape.n_params == 3 * 12 * 64**2
    path.write_text("{")
    assert shape_in_config(path) is None


@pytest.mark.parametrize(("name", "n_params"), [("org/thing-410m", 410e6), ("Llama-3.2-1B", 1e9), ("nothing", None)])
def test_a_name_with_a_number_gives_a_guess(name: str, n_params: float | None) -> None:
    shape = guessed(name)
    assert (shape is None) if n_params is None else (shape is not None and shape.n_params == n_params)


def test_a_forward_pass_counts_two_a_parameter_and_its_attention_and_logits() -> None:
    shape = KNOWN["EleutherAI/pythia-70m"]
    assert forward(shape, 0, logits=False) == 2 * shape.n_params
    assert forward(shape, 100, logits=False) - forward(shape, 0, logits=False) == 2 * 6 * 512 * 100
    assert forward(shape, 0, logits=True) - forward(shape, 0, logits=False) == 2 * 512 * 50304


def test_pretraining_costs_six_a_parameter_and_token() -> None:
    """Within the attention's and output projection's share, which is small for a large model and short context."""
    text = ["sizes=[100M]", "base.n_tokens=1M", "base.context=64", "tokenizer.vocab_size=256", "base.eval_tokens=1"]
    graph = expand(load_study("smoke", text))
    base = next(stage for stage in graph.values() if stage.kind == "base")
    cost = make_plan(graph, this_cpu()).costs[base.stage_id]
    n_params = shape_for(100_000_000, "llama").n_params
    assert cost.flops == pytest.approx(6 * n_params * 1e6, rel=0.03)


def test_costs_grow_with_what_they_should() -> None:
    def flops(kind: str, *assignments: str) -> float:
        graph = expand(load_study("smoke", assignments))
        plan = make_plan(graph, this_cpu())
        return sum(plan.costs[i].flops for i, stage in graph.items() if stage.kind == kind)

    assert flops("ppo", "ppo.n_updates=8") > 1.8 * flops("ppo")
    assert flops("pm", "pm.trainable_layers=1") < flops("pm")
    assert flops("benchmark", "benchmarks.limit=80") == pytest.approx(2 * flops("benchmark"))
    assert flops("base", "base.n_tokens=120k") == pytest.approx(2 * flops("base"), rel=0.05)


def test_a_pm_costs_its_pass_and_its_held_out_scores_with_each_prompt_once() -> None:
    """384 pairs, three passes each, and 240 held-out pairs (a fifth of 1200), which the learning curve scores twice.
    A side has 0.6 * 128 = 76.8 tokens, 51.2 of them the prompt: 51.2 + 2 * 25.6 = 102.4 a pair."""

    def cost(*assignments: str) -> Cost:
        graph = expand(load_study("smoke", ["sizes=100k", *assignments]))
        stage_id = next(i for i in graph if i.startswith("pm-100k-s0-train-384"))
        return make_plan(graph, this_cpu()).costs[stage_id]

    rung = shape_for(100_000, "llama")
    per_token = forward(ModelShape(rung.d_model, rung.n_layers, rung.n_params, 512), 76.8, logits=False)
    once, curve = cost(), cost("pm.learning_curve=true")
    assert once.tokens == pytest.approx(102.4 * (384 + 240))
    assert once.flops == pytest.approx(102.4 * per_token * (3 * 384 + 240))
    assert curve.tokens == pytest.approx(102.4 * (384 + 2 * 240))
    assert curve.flops == pytest.approx(102.4 * per_token * (3 * 384 + 2 * 240))


def test_extra_stages_cost_what_the_main_one_does() -> None:
    """Another rate, share or weight is the same work."""
    varied = ["pm.helpful_share=0.5", "pm.harmless_weight=3", "pm.rate_factor=[1, 2]", "base.rate_factor=[1, 2]"]
    graph = expand(load_study("smoke", [*varied, "ppo.rate_factor=[1, 2]", "sizes=27k"]))
    costs = make_plan(graph, this_cpu()).costs
    for main, n_stages in (("base-27k-s0", 2), ("pm-27k-s0-train-384", 4), ("ppo-27k-s0", 2)):
        found = {costs[stage_id].flops for stage_id in graph if stage_id.startswith(f"{main}-")}
        assert len(found) == 1 and sum(stage_id.startswith(f"{main}-") for stage_id in graph) == n_stages


def test_the_plan_adds_up_and_is_json() -> None:
    graph = smoke()
    content = plan_json(make_plan(graph, this_cpu()), "smoke", [])
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["totals"]["stages"] == content["totals"]["remaining"] == len(graph)
    assert content["totals"]["flops"] == pytest.approx(sum(stage["flops"] for stage in content["stages"]))
    assert all(stage["seconds"] > 0 and stage["memory_bytes"] > 0 for stage in content["stages"])
    assert content["totals"]["wall_seconds"] <= content["totals"]["stage_seconds"]


def test_finished_stages_correct_the_estimates_of_their_kind_and_size(tmp_path: Path) -> None:
    """One PM of a size took three times as long as estimated, so the size's other PMs are expected to."""
    graph, store = smoke(), RunStore(tmp_path)
    pms = [stage for stage in graph.values() if stage.kind == "pm" and stage.size == "27k"]
    before = make_plan(graph, this_cpu(), store)
    took = 3 * before.costs[pms[0].stage_id].seconds
    record = Record(pms[0].stage_id, "pm", "done", {}, {}, provenance={"seconds": took})
    store.commit(store.new_attempt(pms[0].stage_id), record)
    after = make_plan(graph, this_cpu(), store)
    assert not before.refined and after.refined
    assert after.costs[pms[1].stage_id].seconds == pytest.approx(3 * before.costs[pms[1].stage_id].seconds)
    assert set(before.remaining()) - set(after.remaining()) == {pms[0].stage_id}
    assert asdict(after.costs[pms[1].stage_id])["flops"] == before.costs[pms[1].stage_id].flops


def test_chains_are_the_sum_along_the_longest_path() -> None:
    a, b = toy("a"), toy("b")
    c = toy("c", {"left": a, "right": b})
    d = toy("d", {"up": c})
    graph = graph_of(a, b, c, d)
    seconds = dict(zip(graph, (5.0, 1.0, 2.0, 3.0), strict=True))
    assert chain_seconds(graph, seconds) == dict(zip(graph, (10.0, 6.0, 5.0, 3.0), strict=True))
    assert longest_chain(graph, seconds) == 10.0


@pytest.mark.parametrize("word", ["H100", "h100", "NVIDIA H100", "nvidia-h100"])
def test_an_accelerator_is_found_by_its_usual_names(word: str) -> None:
    assert find_gpu(word) is GPUS["H100"]


def test_an_unknown_accelerator_is_answered_with_the_nearest() -> None:
    with pytest.raises(StudyError, match="--gpu A1000: not known .*did you mean 'A10"):
        find_gpu("A1000")


def test_a_faster_device_takes_less_time_for_the_same_work() -> None:
    graph = expand(load_study("pythia"))
    slow, fast = (make_plan(graph, GPUS[name]) for name in ("L4", "H100"))
    for stage_id in graph:
        assert slow.costs[stage_id].flops == fast.costs[stage_id].flops
        assert slow.costs[stage_id].seconds >= fast.costs[stage_id].seconds


def test_what_does_not_fit_is_said() -> None:
    content = plan_json(make_plan(expand(load_study("pythia")), GPUS["L4"]), "pythia", [])
    fits = {stage["stage_id"]: stage["fits_memory"] for stage in content["stages"]}
    large = next(i for i in fits if i.startswith("ppo-pythia-2.8b"))
    small = next(i for i in fits if i.startswith("ppo-pythia-70m"))
    assert fits[small] and not fits[large]
