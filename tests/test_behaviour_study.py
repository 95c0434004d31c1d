"""Behaviours in a study: which stages, with what, what they cost, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hh_scaling.configs import BehaviourConfig
from sweeps.load import StudyError
from sweeps.machines import this_cpu
from sweeps.plan import make_plan
from tests.test_graph import STUDY, graph_of, kinds, model_folder, only

BEHAVIOURS = STUDY + "behaviours: {at: [end, 1], n_comparisons: 64}\n"


def test_every_model_and_wanted_checkpoint_has_one(tmp_path: Path) -> None:
    """Two sizes, two seeds: the base, and the policy at two places; all else is as it was."""
    plain, graph = graph_of(tmp_path), graph_of(tmp_path, BEHAVIOURS)
    assert kinds(graph)["behaviour"] == 2 * 2 * 3 == kinds(graph)["benchmark"]
    assert set(plain) <= set(graph)
    stage = only(graph, "behaviour", size="27k", seed=1, at="sqrt_kl=1.0")
    assert graph[stage.parents["model"]].kind == "ppo" and graph[stage.parents["data"]].kind == "data"
    assert isinstance(stage.config, BehaviourConfig)
    assert stage.config.tasks.n_comparisons == 64 and stage.config.classifier is None and stage.where == {}


def test_fewer_evaluations_cost_less(tmp_path: Path) -> None:
    few = graph_of(tmp_path, BEHAVIOURS, "behaviours.of=[occupations]")
    stages = [only(graph, "behaviour", size="27k", seed=0, at="end") for graph in (graph_of(tmp_path, BEHAVIOURS), few)]
    plans = [make_plan(graph, this_cpu()) for graph in (graph_of(tmp_path, BEHAVIOURS), few)]
    costs = [plan.costs[stage.stage_id] for plan, stage in zip(plans, stages, strict=True)]
    assert costs[0].tokens > costs[1].tokens > 0 and costs[0].flops > costs[1].flops > 0


def test_a_local_classifier_is_known_by_its_content(tmp_path: Path) -> None:
    folder, text = model_folder(tmp_path / "mood"), BEHAVIOURS.replace("{at:", "{sentiment: {path: mood}, at:")
    stage = only(graph_of(tmp_path, text), "behaviour", size="27k", seed=0, at="end")
    assert isinstance(stage.config, BehaviourConfig) and stage.config.classifier is not None
    assert stage.where == {"classifier.path": str(folder)}
    assert str(tmp_path) not in json.dumps(stage.config.model_dump())
    assert stage.config.classifier.name == "mood" and stage.config.classifier.weights_sha256
    (folder / "model.safetensors").write_bytes(b"other")
    changed = only(graph_of(tmp_path, text), "behaviour", size="27k", seed=0, at="end")
    assert changed.stage_id != stage.stage_id


def test_a_classifier_from_the_hub_by_its_name_alone(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, BEHAVIOURS, "behaviours.sentiment=org/mood")
    config = only(graph, "behaviour", size="27k", seed=0, at="end").config
    assert isinstance(config, BehaviourConfig) and config.classifier is not None
    assert (config.classifier.name, config.classifier.hub) == ("mood", "org/mood")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("behaviours.at=[2]", r"behaviours.at.0: is 2.0 \(allowed: end, or one of ppo.keep_sqrt_kl: 0.5, 1.0\)"),
        ("behaviours.of=[occupation]", r"behaviours.of.0: is 'occupation' .*did you mean 'occupations'"),
        (
            "behaviours.sentiment={hub: a/b, path: c}",
            r"behaviours.sentiment: has hub and path \(allowed: one of hub, path",
        ),
        ("behaviours.sentiment.path=nowhere", r"behaviours.sentiment.path: .*nowhere"),
        ("behaviours.n_prompts=10", r"behaviours.n_prompts: .*20"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, assignment: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        graph_of(tmp_path, BEHAVIOURS, assignment)
