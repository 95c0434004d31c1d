"""Recipes of several studies at equal gold reward: truths put in, closed forms, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.compare import compare, equal_reward_table
from analysis.compare_reward import REFUSED, Side, compared, couples, gold_of, independent, sides_of
from analysis.crossed import mean_term
from analysis.estimates import t_quantile
from analysis.frames import load_study
from analysis.frontier import load_curves
from reports.compare_figures import SAVED, equal_reward_figure_table, short_names, write_equal_reward
from tests.fake_runs import Shape, Truth, make_runs
from tests.test_tax_reward import recipe_paths, score_items

SHAPE = Shape(comparisons=(500,), held_out=40, at=("sqrt_kl=1.0", "end"), prompts=100, items=150)
TRUTH = Truth(gold_beta=0.1, seed_sd_tax=0.0)
WORLD = "the world of seed 0"
SIZES = (12_000, 60_000)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two studies of two sizes and three seeds: the second, with another recipe besides, pays .16 less."""
    root = tmp_path_factory.mktemp("across")
    cheap = replace(TRUTH, tax_at_smallest=0.04)
    with_ptx = replace(SHAPE, ptx_coef=(1.0,))
    return [
        make_runs(root / "dear", sizes=SIZES, seeds=(0, 1, 2), shape=SHAPE, truth=TRUTH),
        make_runs(root / "cheap", sizes=SIZES, seeds=(0, 1, 2), shape=with_ptx, truth=cheap, rng_seed=1),
    ]


@pytest.fixture(scope="module")
def content(folders: list[Path]) -> dict[str, Any]:
    return compare(folders)


def sides(runs: Path, ptx_loss: float = 0.1) -> list[Side]:
    """Plain RLHF, which loses 30 % of right answers at reward 2, and another study's recipe on the same four chains."""
    paths, befores = recipe_paths(runs, ptx_loss)
    by_recipe = {name: {p.chain: p for p in paths if p.recipe == name} for name in ("plain", "with ptx")}
    model = paths[0].model
    return [
        Side(study, recipe, model, by_recipe[recipe], WORLD, befores)
        for study, recipe in (("one", "plain"), ("two", "with ptx"))
    ]


def apart(side: Side) -> Side:
    """The same runs from other base models."""
    return replace(
        side, paths={f"other {chain}": replace(p, chain=f"other {chain}") for chain, p in side.paths.items()}
    )


# ---------------------------------------------------------------- two sides


def test_runs_on_common_bases_are_paired_and_others_are_not(folders: list[Path]) -> None:
    """The difference is the same either way, .2 of right answers over 1 - chance less what the way to reward costs."""
    one, two = sides(folders[0])
    (paired,), (free,) = compared(one, two), compared(one, apart(two))
    assert paired["paired_runs"] and not free["paired_runs"]
    assert paired["difference"]["value"] == pytest.approx(free["difference"]["value"])
    assert paired["difference"]["value"] == pytest.approx(paired["reward"] / 2 * 0.2 / 0.75, abs=0.04)
    assert paired["verdict"] == free["verdict"] == "two/with ptx" and (free["n_seeds"], free["other_n_seeds"]) == (4, 4)
    assert compared(one, sides(folders[0], 0.3)[1])[0]["verdict"] == "inconclusive"
    assert compared(one, sides(folders[0], 0.6)[1])[0]["verdict"] == "one/plain"


def test_gold_scores_of_different_worlds_are_refused_by_name(folders: list[Path]) -> None:
    one, two = sides(folders[0])
    (row,) = compared(one, replace(two, gold="the world of seed 1"))
    assert row["verdict"] == REFUSED and row["difference"] is None and row["reward"] is None
    assert row["refused"] == ["gold scores on different scales: the world of seed 0; the world of seed 1"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (lambda t: replace(t, document=np.roll(t.document, 1)), "items differ (400 of one/plain, 400 of two/with ptx"),
        (lambda t: replace(t, prompt=np.array(["x"] * 400, dtype=object)), "prompts differ on 400 of 400 items"),
        (lambda t: None, "taken by one/plain alone"),
    ],
)
def test_other_items_are_refused_by_name(folders: list[Path], changed: Any, reason: str) -> None:
    one, two = sides(folders[0])
    paths = {}
    for chain, path in two.paths.items():
        start = {key: new for key, task in path.start.items() if (new := changed(task)) is not None}
        paths[chain] = replace(path, start=start)
    (row,) = compared(one, replace(two, paths=paths))
    assert row["verdict"] == REFUSED and row["tasks"] == [] and len(row["refused"]) == 1
    assert reason in row["refused"][0] and row["refused"][0].startswith("t (cloze, 0-shot, acc)")


def test_a_reward_that_one_side_never_had(folders: list[Path]) -> None:
    one, two = sides(folders[0])
    flat = {c: replace(p, places=(replace(p.places[0], rise=np.zeros(4)),)) for c, p in two.paths.items()}
    (row,) = compared(one, replace(two, paths=flat))
    assert row["verdict"] == REFUSED and row["reward"] is None and "did not rise measurably" in row["note"]


def test_a_task_at_chance_before_is_no_part_of_it(folders: list[Path]) -> None:
    one, two = sides(folders[0])
    floor = [("base", score_items((np.arange(400) % 4 == 0).astype(float)))]
    (row,) = compared(one, replace(two, befores=lambda policy: floor))
    assert row["verdict"] == REFUSED and "well above chance" in row["note"]
    (row,) = compared(one, replace(two, befores=lambda policy: [("reference", floor[0][1])]))
    assert row["verdict"] == REFUSED and "no origin in common" in row["refused"][0]


def test_who_stands_beside_whom(folders: list[Path]) -> None:
    one, two = sides(folders[0])
    every = [one, replace(one, recipe="a ptx"), two, replace(two, recipe="b ptx")]
    found = [(a.name, b.name) for a, b in couples(every)]
    assert found == [
        ("one/plain", "one/a ptx"), ("one/plain", "two/with ptx"), ("one/plain", "two/b ptx"),
        ("two/with ptx", "two/b ptx"),
    ]  # fmt: skip
    assert list(couples([])) == [] == list(couples([one]))


# ---------------------------------------------------------------- independent runs


def draw(rng: np.random.Generator, item: Any, effects: Any, name: str, noise: float) -> Any:
    """A mean over ``item`` effects crossed with runs of these effects."""
    runs = len(effects)
    values = np.add.outer(effects, item) + noise * rng.normal(size=(runs, len(item)))
    items = np.tile(np.array([f"i{k}" for k in range(len(item))], dtype=object), runs)
    return mean_term(values.ravel(), items, np.repeat([f"{name}{k}" for k in range(runs)], len(item)).astype(object))


def test_shared_items_fall_out_and_runs_add_up() -> None:
    """Without noise items cancel: V = s1^2 / 3 + s2^2 / 5, as of two independent samples of runs; t between 2 and 6."""
    rng = np.random.default_rng(0)
    item, first, second = rng.normal(size=50), np.array([0.1, 0.3, 0.5]), np.array([0.0, 0.1, -0.1, 0.2, 0.3])
    found = independent(draw(rng, item, first, "a", 0.0), draw(rng, item, second, "b", 0.0)).estimate
    assert found is not None and found.value == pytest.approx(0.3 - 0.1)
    assert found.se == pytest.approx(np.sqrt(first.var(ddof=1) / 3 + second.var(ddof=1) / 5))
    low, high = t_quantile(0.975, 4), t_quantile(0.975, 2)
    assert found.half_width() is not None and low < found.half_width() / found.se < high  # type: ignore[operator]


def test_one_run_on_a_side_is_said() -> None:
    rng = np.random.default_rng(0)
    terms = [draw(rng, np.zeros(30), np.zeros(n), str(n), 1.0) for n in (1, 3)]
    found = independent(*terms)
    assert found.estimate is not None and found.note is not None and "one run on a side" in found.note
    assert independent(None, terms[0]).estimate is None


def test_differences_of_independent_runs_cover() -> None:
    """300 draws, three runs a side: at least 95 % less three Monte Carlo errors of 1.3."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(300):
        item = rng.normal(0, 0.4, 100)
        terms = [draw(rng, item, true + rng.normal(0, 0.03, 3), name, 0.3) for name, true in (("a", 0.2), ("b", 0.1))]
        low, high = independent(*terms).estimate.interval()  # type: ignore[union-attr]
        inside += low <= 0.1 <= high
    assert inside / 300 >= 0.91


# ---------------------------------------------------------------- whole studies


def rows_between(content: dict[str, Any], couple: Sequence[str]) -> list[dict[str, Any]]:
    return [row for row in content["at_equal_reward"] if (row["recipe"], row["other"]) == tuple(couple)]


def test_the_cheaper_study_is_found(folders: list[Path], content: dict[str, Any]) -> None:
    """Names agree, so that directories tell them apart. At the end the second pays .16 less; at the common reward, well
    past the first checkpoint, where half was paid, between half and all of that."""
    studies = content["studies"]
    assert studies == [str(folder) for folder in folders] and content["notes"] == []
    rows = [row for row in content["at_equal_reward"] if row["study"] != row["other_study"] and row["other"] == "fake"]
    assert [row["model"] for row in rows] == ["12k", "60k"]
    for row in rows:
        assert row["verdict"] == f"{folders[1]}/fake" and row["paired_runs"] and row["n_seeds"] == 3
        assert row["difference"]["low"] < 0.16 and row["difference"]["high"] > 0.08
        assert row["difference"]["value"] == pytest.approx(row["tax"]["value"] - row["other_tax"]["value"])
        assert row["tasks"] == ["world_agreement (cloze)", "world_facts (cloze)"] and row["refused"] == []


def test_recipes_within_a_study_and_across(folders: list[Path], content: dict[str, Any]) -> None:
    couples_found = {
        (row["study"], row["recipe"], row["other_study"], row["other"]) for row in content["at_equal_reward"]
    }
    dear, cheap = map(str, folders)
    assert couples_found == {
        (dear, "fake", cheap, "fake"), (dear, "fake", cheap, "fake:ptx1"), (cheap, "fake", cheap, "fake:ptx1"),
    }  # fmt: skip
    assert len(equal_reward_table(content)) == len(content["at_equal_reward"]) == 6
    json.dumps(content, allow_nan=False)


def test_the_figure_has_the_rows(content: dict[str, Any], tmp_path: Path) -> None:
    table = equal_reward_figure_table(content)
    couple = rows_between(content, ("fake", "fake:ptx1"))[-1]
    assert sorted(set(table["panel"])) == [
        "A: cheap/fake\nB: cheap/fake:ptx1", "A: dear/fake\nB: cheap/fake", "A: dear/fake\nB: cheap/fake:ptx1",
    ]  # fmt: skip
    assert len(table) == 3 * 6 and 100 * couple["difference"]["value"] in table[table["series"] == SAVED]["y"].tolist()
    assert short_names(["x/a/runs", "x/b/runs"]) == {"x/a/runs": "a/runs", "x/b/runs": "b/runs"}
    assert short_names(["tax", "demo"]) == {"tax": "tax", "demo": "demo"} and short_names([]) == {}
    paths = write_equal_reward(content, tmp_path)
    assert [path.name for path in paths] == ["equal_reward.png", "equal_reward.svg", "equal_reward.csv"]
    assert b"synthetic world" in paths[1].read_bytes()
    assert write_equal_reward({**content, "at_equal_reward": []}, tmp_path) == []


def test_the_world_of_a_gold_score_is_what_is_true_in_it(folders: list[Path]) -> None:
    """More comparisons leave the truth as it is, another seed does not; a model is known by its stage."""
    study = load_study(folders[0])
    curve = load_curves(study)[0]
    data = study.parent(curve.record, "data")
    assert data is not None
    said = []
    for world in ({"seed": 0, "n_comparisons": 1}, {"seed": 0, "n_comparisons": 2}, {"seed": 1, "n_comparisons": 1}):
        study.records[data.stage_id] = replace(data, config=data.config | {"world": world})
        said.append(gold_of(study, curve))
    assert said[0] == said[1] != said[2]
    judged = replace(curve, record=replace(curve.record, summary=curve.record.summary | {"gold_source": "gold-pm"}))
    assert gold_of(study, judged) == "the gold model gold-pm"


def test_results_without_stages_take_no_part_and_it_is_said(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes((folders[0] / "results.json").read_bytes())
    assert sides_of("x", tmp_path) == []
    content = compare([folders[0], tmp_path])
    assert content["tax"] and len(content["notes"]) == 1 and str(tmp_path) in content["notes"][0]
