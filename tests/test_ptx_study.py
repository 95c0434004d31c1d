"""Pretraining text in a study: the policies it adds, what is refused, and the tax of either recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.frames import load_study
from analysis.results import analyze
from hh_scaling.configs import PPOConfig
from sweeps.check import load_study as check_study
from sweeps.costs import stage_cost
from sweeps.graph import expand
from sweeps.load import StudyError
from sweeps.machines import this_cpu
from sweeps.plan import sizing
from sweeps.stage import Graph, Stage
from tests.fake_runs import Shape, make_runs

STUDY = """
world: {n_comparisons: 4k}
sizes: [27k, 100k]
pm: {n_comparisons: 1024}
benchmarks: {tasks: [world_facts], at: [end, 1]}
"""


def graph_of(folder: Path, *assignments: str, text: str = STUDY) -> Graph:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return expand(check_study(str(path), assignments))


def policies(graph: Graph) -> list[Stage]:
    return [stage for stage in graph.values() if stage.kind == "ppo"]


def coefficient(stage: Stage) -> float:
    assert isinstance(stage.config, PPOConfig)
    return stage.config.training.ptx_coef


# ---------------------------------------------------------------- the graph


def test_every_further_coefficient_adds_a_policy_and_its_benchmarks(tmp_path: Path) -> None:
    plain, swept = graph_of(tmp_path), graph_of(tmp_path, "ppo.ptx_coef=[0, 1, 0.5]")
    assert set(plain) < set(swept)  # nothing of the main setting has another id
    assert [coefficient(s) for s in policies(swept)] == [0, 1, 0.5] * 2
    added = [swept[i] for i in swept if i not in plain]
    assert [s.kind for s in added].count("ppo") == 4 and [s.kind for s in added].count("benchmark") == 8
    for stage in (s for s in added if s.kind == "benchmark"):
        policy = swept[stage.parents["model"]]
        assert f"ppo-ptx{coefficient(policy):g}-" in stage.stage_id and policy.size == stage.size


def test_the_first_coefficient_is_the_main_setting(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, "ppo.ptx_coef=2", "ppo.rate_factor=[1, 2]")
    assert [(coefficient(s), "ratex2" in s.stage_id) for s in policies(graph)] == [(2, False), (2, True)] * 2
    assert not any("ptx" in stage_id for stage_id in graph)


def test_text_and_a_critic_cost_and_adapters_save(tmp_path: Path) -> None:
    def cost(*assignments: str) -> tuple[float, float, float]:
        graph = graph_of(tmp_path, *assignments)
        policy = policies(graph)[-1]
        found = stage_cost(policy.config, sizing(policy, graph), this_cpu())
        return found.tokens, found.flops, found.memory_bytes

    plain, text = cost(), cost("ppo.ptx_coef=1")
    # 50 updates of 2 steps, 32 rows of 128 tokens each
    assert text[0] - plain[0] == 50 * 2 * 32 * 128 and text[1] > plain[1] and text[2] == plain[2]
    critic, adapters = cost("ppo.critic=separate"), cost("ppo.lora_rank=8")
    assert critic[1] > plain[1] and critic[2] > plain[2] > adapters[2]


@pytest.mark.parametrize(
    ("assignments", "line"),
    [
        (["ppo.ptx_coef=[0, 0]"], "ppo.ptx_coef: names a number twice"),
        (["ppo.ptx_coef=1", "ppo.ptx_context=256"],
         "ppo.ptx_context: is 257 tokens (allowed: at most base.max_positions, 256)"),
        (["ppo.value_init=pm"],
         "ppo.value_init: is pm, whose head fits its own trunk alone; --set ppo.critic=separate"),
        (["ppo.critic=separate", "ppo.value_init=pm", "ppo.pm={hub: a/b}"],
         "ppo.value_init: is pm, but ppo.pm is somebody else's model (allowed: zero)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_line(tmp_path: Path, assignments: list[str], line: str) -> None:
    with pytest.raises(StudyError) as error:
        graph_of(tmp_path, *assignments)
    assert [problem.split(": ", 1)[-1] for problem in error.value.problems] == [line]


def test_text_is_needed_where_there_is_no_world(tmp_path: Path) -> None:
    text = "data: {hub: a/b}\nsizes: [{hub: c/d}]\nppo: {ptx_coef: [0, 1]}\n"
    with pytest.raises(StudyError, match=r"ppo\.ptx_coef: mixes in pretraining text, but there is none"):
        graph_of(tmp_path, text=text)


# ---------------------------------------------------------------- the tax


def test_the_tax_has_a_row_of_either_recipe_and_claims_are_of_the_main_one(tmp_path: Path) -> None:
    """Policies with text pay half of the tax: their rows say so, under a name of their own; the rest stays."""
    shape = Shape(comparisons=(500,), held_out=60, prompts=24, items=400, steps=(0, 20, 50), at=("end",))
    sizes, seeds = (12_000, 300_000), (0, 1, 2)
    plain = analyze(make_runs(tmp_path / "plain", sizes=sizes, seeds=seeds, shape=shape))
    with_text = Shape(**{**shape.__dict__, "ptx_coef": (1.0,)})
    runs = make_runs(tmp_path / "text", sizes=sizes, seeds=seeds, shape=with_text)
    results = analyze(runs)
    (main,) = {row["recipe"] for row in plain["tax"]}
    assert {row["recipe"] for row in results["tax"]} == {main, f"{main}:ptx1"}
    study = load_study(runs)
    assert sum(study.is_recipe(r) for r in study.of_kind("ppo")) == 12
    assert len(study.main_of_kind("ppo")) == 6 == len({row["stage_id"] for row in results["frontier"]})
    means = {
        name: [row["value"] for row in results["pooled"] if (row["recipe"], row["at"]) == (name, "end")]
        for name in (main, f"{main}:ptx1")
    }
    assert len(means[main]) == len(means[f"{main}:ptx1"]) == 2
    assert sum(means[f"{main}:ptx1"]) / sum(means[main]) == pytest.approx(0.5, abs=0.15)
    assert not any("ptx" in str(claim) for claim in results["claims"])
