"""Chains that share bases in turn, and the shipped study of the tax that they were made for."""

from __future__ import annotations

from pathlib import Path

import pytest

from hh_scaling.configs import BenchmarkConfig, DataConfig, PPOConfig
from hh_scaling.world import World
from sweeps.check import load_study
from sweeps.graph import expand
from sweeps.load import StudyError
from sweeps.stage import Graph, Stage
from tests.test_graph import STUDY, graph_of, kinds

SEEDS = "seeds=[5, 3, 8, 4, 0]"
REFERENCE = STUDY + "reference: {kind: context_distillation, prompt: world}\n"
MITIGATIONS = (
    "ppo.rate_factor=[1, 2]", "ppo.ptx_coef=[0, 1]", "interpolation={keep: [0.5]}", "best_of_n=4",
    'benchmarks.at=[end, "alpha=0.5"]',
)  # fmt: skip


def seed_of(stage: Stage) -> int:
    return int(getattr(stage.config, "seed", -1))


def base_seed(graph: Graph, policy: Stage) -> int:
    """The seed of the base that a policy descends from."""
    start = graph[policy.parents["policy"]]
    return seed_of(start if start.kind == "base" else graph[start.parents["base"]])


# ---------------------------------------------------------------- the key


def test_later_chains_start_from_the_first_bases_in_turn(tmp_path: Path) -> None:
    """Of five seeds in this order two have bases: the chains of 5, 8 and 0 start from that of 5, 3 and 4 from 3's."""
    graph = graph_of(tmp_path, REFERENCE, SEEDS, "base_seeds=2")
    policies = [s for s in graph.values() if s.kind == "ppo"]
    assert len(policies) == 2 * 5
    wanted = {5: 5, 3: 3, 8: 5, 4: 3, 0: 5}
    for policy in policies:
        first = wanted[seed_of(policy)]
        assert base_seed(graph, policy) == first
        for role in ("policy", "pm_train", "pm_test"):
            parent = graph[policy.parents[role]]
            assert (seed_of(parent), parent.size) == (first, policy.size)
    assert len({s.stage_id for s in policies}) == len(policies)


def test_what_has_a_base_of_its_own_is_as_many(tmp_path: Path) -> None:
    """2 sizes: 2 bases, teachers and references each, 3 PMs a base; 5 policies; benchmarks of all but PMs and
    teachers, of policies at 2 checkpoints."""
    counts = kinds(graph_of(tmp_path, REFERENCE, SEEDS, "base_seeds=2"))
    assert counts == {
        "data": 1, "tokenizer": 1, "base": 4, "teacher": 4, "reference": 4, "pm": 12, "ppo": 10,
        "benchmark": 4 + 4 + 20,
    }  # fmt: skip


def test_only_the_first_chains_have_mitigations(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, STUDY, SEEDS, "base_seeds=2", *MITIGATIONS)
    beside = [
        s for i, s in graph.items()
        if s.kind in ("best_of_n", "interpolation") or (s.kind == "ppo" and ("ptx" in i or "ratex" in i))
    ]  # fmt: skip
    assert len(beside) == 2 * 2 * 4 and {seed_of(s) for s in beside} == {5, 3}
    assert sum(s.kind == "ppo" for s in graph.values()) == 2 * (5 + 2 * 2)


def test_the_chains_that_have_their_own_base_stay_as_they_are(tmp_path: Path) -> None:
    """Two more chains on the bases that are there add two policies a size and their benchmarks, and change nothing."""
    first = graph_of(tmp_path, STUDY, "seeds=[5, 3]", *MITIGATIONS)
    more = graph_of(tmp_path, STUDY, "seeds=[5, 3, 8, 4]", "base_seeds=2", *MITIGATIONS)
    assert first.keys() < more.keys()
    added = [more[i] for i in more.keys() - first.keys()]
    assert sorted(s.kind for s in added) == ["benchmark"] * 4 + ["ppo"] * 4


def test_as_many_bases_as_seeds_are_what_null_means(tmp_path: Path) -> None:
    plain = graph_of(tmp_path, STUDY, *MITIGATIONS)
    assert list(plain) == list(graph_of(tmp_path, STUDY, "base_seeds=2", *MITIGATIONS))
    assert list(plain) == list(graph_of(tmp_path, STUDY, "base_seeds=null", *MITIGATIONS))


def test_one_base_for_all_goes_with_a_shared_one(tmp_path: Path) -> None:
    one = graph_of(tmp_path, STUDY, "share=[base, reference, pm]", "base_seeds=1")
    assert list(one) == list(graph_of(tmp_path, STUDY, "base_seeds=1"))


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (["base_seeds=3"], "base_seeds: is 3 (allowed: at most the number of seeds, 2)"),
        (["base_seeds=0"], "base_seeds: is 0 (allowed: a number above 0)"),
        (["base_seeds=1.5"], "base_seeds: is 1.5 (allowed: a whole number"),
        (["base_seeds=2", "share=base"], "base_seeds: is 2, but share has base, made once (allowed: 1, or share"),
        (["base_seed=2"], "base_seed: unknown key (did you mean 'base_seeds'?)"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, assignments: list[str], problem: str) -> None:
    with pytest.raises(StudyError) as error:
        graph_of(tmp_path, STUDY, *assignments)
    assert len(error.value.problems) == 1 and problem in error.value.problems[0]


# ---------------------------------------------------------------- the shipped study


@pytest.fixture(scope="module")
def shipped() -> Graph:
    return expand(load_study("tax"))


def test_the_study_has_the_chains_it_says(shipped: Graph) -> None:
    """4 sizes, 3 bases and 5 policies each, 3 with pretraining text and 3 lines. Benchmarks, without and with examples,
    of the bases, of policies at 4 places and of lines at 3."""
    assert kinds(shipped) == {
        "data": 1, "tokenizer": 1, "base": 12, "pm": 24, "ppo": 4 * (5 + 3), "interpolation": 12,
        "benchmark": 2 * 4 * (3 + (5 + 3) * 4 + 3 * 3),
    }  # fmt: skip


def test_each_size_has_five_policies_on_three_bases_and_three_of_either_mitigation(shipped: Graph) -> None:
    for size in ("27k", "100k", "400k", "885k"):
        of_size = [s for s in shipped.values() if s.size == size]
        policies = [s for s in of_size if isinstance(s.config, PPOConfig) and s.kind == "ppo"]
        chains: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for policy in policies:
            assert isinstance(policy.config, PPOConfig)
            chains[policy.config.training.ptx_coef > 0].append((seed_of(policy), base_seed(shipped, policy)))
        assert chains[False] == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1)]
        assert chains[True] == [(0, 0), (1, 1), (2, 2)]
        lines = [s for s in of_size if s.kind == "interpolation"]
        assert [seed_of(line) for line in lines] == [0, 1, 2]
        assert all(shipped[line.parents["policy"]] in policies for line in lines)


def test_every_model_takes_the_same_tasks_without_and_with_examples(shipped: Graph) -> None:
    asked: dict[tuple[str, str | None], set[tuple[int, tuple[str, ...]]]] = {}
    for stage in (s for s in shipped.values() if s.kind == "benchmark"):
        assert isinstance(stage.config, BenchmarkConfig)
        key = (stage.parents["model"], stage.config.at)
        asked.setdefault(key, set()).add((stage.config.tasks.num_fewshot, stage.config.tasks.tasks))
    assert len({frozenset(forms) for forms in asked.values()}) == 1
    assert {shots for shots, _ in next(iter(asked.values()))} == {0, 2}
    places = {at for _, at in asked}
    assert places == {
        None, "end", "sqrt_kl=0.5", "sqrt_kl=1.0", "sqrt_kl=1.5", "alpha=0.25", "alpha=0.5", "alpha=0.75",
    }  # fmt: skip


def test_its_items_fit_the_texts_that_bases_are_trained_on(shipped: Graph) -> None:
    """A task's longest item with its longest examples before it, two bytes a token (measured: 2.14 and more)."""
    n_shots, context = 2, 128
    tasks = ("world_facts", "world_facts_choice", "world_arithmetic", "world_agreement")
    (data,) = (s for s in shipped.values() if s.kind == "data")
    assert isinstance(data.config, DataConfig) and data.config.world is not None
    for name, items in World(data.config.world).tasks().items():
        if name in tasks:
            longest = max(len(item["query"] + max(item["choices"], key=len)) for item in items)
            assert (1 + n_shots) * (longest + 2) / 2 <= context, name


def test_its_models_are_those_of_the_demo(shipped: Graph) -> None:
    """The first chain's bases and preference models are stages of the demo too, which a store has once."""
    demo = expand(load_study("demo"))
    shared = [s for i, s in shipped.items() if i in demo]
    assert {s.kind for s in shared} == {"data", "tokenizer", "base", "pm"} and sum(
        s.kind == "base" for s in shared
    ) == 4
