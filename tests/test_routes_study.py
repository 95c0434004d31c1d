"""Best of n and interpolation in a study: wiring, ids, what may not be asked for, and what they cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from hh_scaling.configs import BestOfNConfig, InterpolationConfig, PPOConfig
from sweeps.check import load_study
from sweeps.graph import expand
from sweeps.load import StudyError
from sweeps.machines import this_cpu
from sweeps.plan import make_plan
from sweeps.stage import Stage
from tests.test_graph import STUDY, graph_of, kinds, only

BOTH = ("best_of_n=16", "interpolation={alphas: [0, 0.5, 1], keep: [0.5]}")


def of_kind(graph: dict[str, Stage], kind: str) -> list[Stage]:
    return [stage for stage in graph.values() if stage.kind == kind]


def test_asking_for_them_changes_no_other_stage(tmp_path: Path) -> None:
    plain, asked = graph_of(tmp_path), graph_of(tmp_path, STUDY, *BOTH)
    assert plain.keys() < asked.keys() and {asked[i].kind for i in asked.keys() - plain} == {
        "best_of_n",
        "interpolation",
    }
    assert kinds(asked)["best_of_n"] == kinds(asked)["interpolation"] == 4  # 2 sizes x 2 seeds


def test_they_stand_beside_the_main_policy(tmp_path: Path) -> None:
    text = STUDY + "reference: {kind: sft}\n"
    graph = graph_of(tmp_path, text, "ppo.rate_factor=[0.5,1]", "ppo.n_eval_prompts=99", "ppo.temperature=0.9", *BOTH)
    pool, line = (only(graph, kind, size="27k", seed=1) for kind in ("best_of_n", "interpolation"))
    policies = [s for s in of_kind(graph, "ppo") if s.size == "27k" and getattr(s.config, "seed", None) == 1]
    policy = next(s for s in policies if "ratex" not in s.stage_id)
    assert pool.parents == policy.parents and pool.parents["policy"].startswith("reference-27k-s1")
    assert line.parents == {**policy.parents, "policy": policy.stage_id, "reference": policy.parents["policy"]}
    assert isinstance(pool.config, BestOfNConfig) and isinstance(line.config, InterpolationConfig)
    sampling = pool.config.sampling
    assert (sampling.n_samples, sampling.n_prompts, sampling.temperature) == (16, 99, 0.9)
    assert isinstance(policy.config, PPOConfig)
    assert PPOConfig(**{k: getattr(line.config, k) for k in PPOConfig.model_fields}) == policy.config
    assert len(of_kind(graph, "ppo")) == 8 and len(of_kind(graph, "interpolation")) == 4


def test_sizes_without_a_policy_have_neither(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, "ppo.sizes=[100k]", *BOTH)
    assert {s.size for kind in ("best_of_n", "interpolation") for s in of_kind(graph, kind)} == {"100k"}


def test_kept_weights_are_benchmarked(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, *BOTH, 'benchmarks.at=[end, "alpha=0.50"]')
    line = only(graph, "interpolation", size="27k", seed=0)
    (at_half,) = [s for s in of_kind(graph, "benchmark") if s.parents["model"] == line.stage_id]
    assert getattr(at_half.config, "at", None) == "alpha=0.5"
    assert kinds(graph)["benchmark"] == 4 * 3  # the base, the policy's end, the point in between


def test_defaults_are_five_points_and_ppo_s_prompts(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, "interpolation={}", "best_of_n={}")
    pool, line = (only(graph, kind, size="27k", seed=0).config for kind in ("best_of_n", "interpolation"))
    assert isinstance(pool, BestOfNConfig) and isinstance(line, InterpolationConfig)
    assert line.alphas == (0, 0.25, 0.5, 0.75, 1) and line.keep == () and pool.sampling.n_samples == 64
    assert pool.sampling.n_prompts == 256


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (["best_of_n=1"], "best_of_n.n_samples: is 1 (allowed: a number of at least 2)"),
        (["best_of_n={n_sample: 4}"], "best_of_n.n_sample: unknown key (did you mean 'n_samples'?)"),
        (["interpolation={alphas: [0, 1.5]}"], "interpolation.alphas.1: is 1.5 (allowed: a number of at most 1.0)"),
        (["interpolation={alphas: [0, 0.5, 0.5]}"], "interpolation.alphas: names a number twice"),
        (["interpolation={keep: [0.3]}"], "is 0.3 (allowed: interpolation.alphas, each once: 0.0, 0.25, 0.5, 0.75, 1"),
        (['benchmarks.at=["alpha=0.5"]'], "or alpha= one of interpolation.keep: none)"),
        (["interpolation={}", "benchmarks.at=[2]"], "1.0, or alpha= one of interpolation.keep: none)"),
        (["best_of_n=4", "ppo=null"], "best_of_n: stands beside policies, on their prompts, but ppo is null"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, assignments: list[str], problem: str) -> None:
    with pytest.raises(StudyError) as error:
        graph_of(tmp_path, STUDY, *assignments)
    assert any(problem in str(line) for line in error.value.problems), error.value.problems


def test_costs_follow_samples_prompts_and_alphas() -> None:
    """Twice the samples or prompts are twice the work, without a start; as many alphas as PPO has evaluations cost
    the evaluations' part of a run without training."""

    def cost(kind: str, *assignments: str) -> float:
        graph = expand(load_study("smoke", ["sizes=100k", *assignments]))
        plan = make_plan(graph, this_cpu())
        return sum(plan.costs[s.stage_id].flops for s in of_kind(graph, kind))

    once = cost("best_of_n", "best_of_n=16")
    assert cost("best_of_n", "best_of_n=32") == pytest.approx(2 * once)
    assert cost("best_of_n", "best_of_n={n_samples: 16, n_prompts: 128}") == pytest.approx(2 * once)
    two, four = (cost("interpolation", f"interpolation={{alphas: {a}}}") for a in ([0, 1], [0, 0.3, 0.6, 1]))
    assert four == pytest.approx(2 * two)
    untrained = ["ppo.n_updates=3", "ppo.eval_every=1", "ppo.batch_size=1", "ppo.minibatch_size=1"]
    assert four == pytest.approx(cost("ppo", *untrained), rel=0.1)  # four evaluations; three updates of one prompt
