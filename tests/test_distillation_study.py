"""Context distillation in study files, and from a study through stages and analysis to the report."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.distillation import CHANGES, MEASURES, Text
from analysis.estimates import paired_difference
from analysis.results import SCHEMA_FILE, analyze
from hh_scaling.configs import ReferenceConfig, TeacherConfig
from hh_scaling.records import RunStore
from reports import distillation_sentences
from reports.figures import FIGURES
from reports.report import write_report
from sweeps import worker
from sweeps.check import load_study
from sweeps.graph import expand
from sweeps.launch import write_study
from sweeps.load import StudyError
from sweeps.machines import this_cpu
from sweeps.plan import make_plan
from tests.fake_pm_tables import difference, estimate
from tests.test_graph import STUDY, graph_of, hh_files, kinds, only

DISTILLED = STUDY + "reference: {kind: context_distillation}\n"
SIZES = {"12k": 12_000, "60k": 60_000}
FILES = "data: {hub: a/b}\nsizes: [27k]\n"
TINY = """
world: {n_entities: 48, n_text_tokens: 60k, n_comparisons: 400, n_items: 20}
data: {held_out_fraction: 0.2}
sizes: [27k, 60k]
tokenizer: {vocab_size: 384}
base: {n_tokens: 30k, eval_tokens: 1k, context: 64, max_positions: 384}
reference: {kind: context_distillation, teacher: 60k, n_examples: 64, n_held_out: 16, top_k: 10, max_length: 64}
pm: {n_comparisons: 64, max_length: 96}
ppo: {n_updates: 1, batch_size: 32, minibatch_size: 32, n_eval_prompts: 16, max_prompt_tokens: 64,
      max_response_tokens: 16, gold: null}
"""
Results = dict[str, Any]


# ---------------------------------------------------------------- the graph


def test_a_student_has_its_own_base_and_a_teacher_of_the_same(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, DISTILLED)
    assert kinds(graph)["teacher"] == kinds(graph)["reference"] == 4
    teacher, student = (only(graph, kind, size="27k", seed=1) for kind in ("teacher", "reference"))
    base = only(graph, "base", size="27k", seed=1)
    assert teacher.parents == {"data": only(graph, "data").stage_id, "base": base.stage_id}
    assert student.parents == teacher.parents | {"teacher": teacher.stage_id}
    assert only(graph, "ppo", size="27k", seed=1).parents["policy"] == student.stage_id
    assert isinstance(teacher.config, TeacherConfig) and teacher.config.prompt is None  # the world's own dialogues
    assert isinstance(student.config, ReferenceConfig) and student.config.training.kind == "context_distillation"


def test_one_large_teacher_teaches_every_size(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, DISTILLED, "reference.teacher=100k")
    assert kinds(graph)["teacher"] == 2  # one a seed
    for seed in (0, 1):
        teacher = only(graph, "teacher", seed=seed)
        students = [only(graph, "reference", size=size, seed=seed) for size in ("27k", "100k")]
        assert teacher.size == "100k" and {s.parents["teacher"] for s in students} == {teacher.stage_id}


def test_other_kinds_of_reference_keep_their_ids(tmp_path: Path) -> None:
    for kind in ("none", "sft"):
        plain = graph_of(tmp_path, STUDY + f"reference: {{kind: {kind}}}\n")
        assert list(graph_of(tmp_path, STUDY + f"reference: {{kind: {kind}, top_k: 7}}\n")) == list(plain)
        assert kinds(plain)["teacher"] == 0


def test_the_shipped_prompt_is_the_default_outside_a_world(tmp_path: Path) -> None:
    hh_files(tmp_path / "hh")
    (tmp_path / "mine.txt").write_text("Be kind.")
    study = "data: {path: hh}\nsizes: [27k]\nreference: {kind: context_distillation, text_share: 0}\n"
    names = {}
    for value in ("null", "hhh", "mine.txt"):
        teacher = only(
            graph_of(tmp_path, study, f"reference.prompt={tmp_path / value if '.' in value else value}"), "teacher"
        )
        assert isinstance(teacher.config, TeacherConfig) and teacher.config.prompt is not None
        names[value] = teacher.config.prompt.name
        assert Path(teacher.where[names[value]]).is_file()
    assert names == {"null": "hhh_prompt.txt", "hhh": "hhh_prompt.txt", "mine.txt": "mine.txt"}


def test_transcripts_are_training_text_too(tmp_path: Path) -> None:
    """A study of files without text has none; with ``text: {}`` the chosen transcripts are its text."""
    hh_files(tmp_path / "hh")
    study = "data: {path: hh}\nsizes: [27k]\nreference: {kind: context_distillation}\n"
    assert kinds(graph_of(tmp_path, study + "text: {}\n"))["teacher"] == 1
    with pytest.raises(StudyError, match=r"text_share: is 0.5, but the study has no text"):
        graph_of(tmp_path, study + "text: {include_transcripts: false}\n")


@pytest.mark.parametrize(
    ("study", "told", "line"),
    [
        (DISTILLED, "reference.teacher=10k",
         "reference.teacher: is '10k' (allowed: same, 27k, 100k; did you mean '100k'?)"),
        (DISTILLED, "reference.max_length=4096", "reference.max_length: is 4096"),
        (DISTILLED, "reference.prompt=nowhere.txt", "nowhere.txt: cannot be read (No such file or directory)"),
        (FILES + "reference: {kind: context_distillation, text_share: 0}\n", "reference.prompt=world",
         "reference.prompt: is world, but the study has none (allowed: hhh, or a text file)"),
        (FILES + "reference: {kind: context_distillation}\n", "reference.text_share=0.5",
         "reference.text_share: is 0.5, but the study has no text (--set reference.text_share=0)"),
        ("world: {}\nsizes: [27k, {hub: org/m}]\nreference: {kind: context_distillation}\n", "reference.teacher=27k",
         "mixes rungs with models that exist, whose tokens differ (allowed: same)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(tmp_path: Path, study: str, told: str, line: str) -> None:
    with pytest.raises(StudyError) as error:
        graph_of(tmp_path, study, told)
    (message,) = [m for m in str(error.value).splitlines() if "reference" in m]
    assert line in message


def test_a_teacher_costs_a_forward_pass_and_its_student_three(tmp_path: Path) -> None:
    """Three passes for one, but for attention to the prompt, which the student does not have."""
    graph = graph_of(tmp_path, DISTILLED, "reference.n_held_out=1")
    costs = make_plan(graph, this_cpu()).costs
    teacher, student = (costs[only(graph, kind, size="100k", seed=0).stage_id] for kind in ("teacher", "reference"))
    assert 2.5 < student.flops / teacher.flops < 3
    longer = graph_of(tmp_path, DISTILLED, "reference.n_held_out=1", "reference.top_k=100")
    kept = make_plan(longer, this_cpu()).costs[only(longer, "teacher", size="100k", seed=0).stage_id]
    assert kept.disk_bytes == 2 * teacher.disk_bytes and kept.flops == teacher.flops


# ---------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study, every stage run here."""
    root = tmp_path_factory.mktemp("distilled_study")
    (root / "study.yaml").write_text(TINY)
    loaded = load_study(str(root / "study.yaml"), ())
    graph, store = expand(loaded), RunStore(root / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "redirect_output", lambda path: None)
        for stage in graph.values():
            assert worker.run_stage(stage.to_json(), store) == 0, stage.stage_id
    write_study(store.root, loaded, graph)
    return store.root


@pytest.fixture(scope="module")
def results(runs: Path) -> Results:
    return analyze(runs)


def test_a_study_gives_rows_for_every_size_and_part(results: Results, runs: Path) -> None:
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    assert not list(schema.iter_errors(json.loads((runs / "results.json").read_text())))
    rows = results["distillation"]
    assert [(r["model"], r["part"]) for r in rows] == [
        (m["name"], part) for m in results["models"] for part in ("responses", "dialogues", "text")
    ]
    assert {(r["teacher"], r["prompt"], r["n_runs"]) for r in rows} == {("60k", "world", 1)}
    assert not results["excluded"]
    assert len(pd.read_csv(runs / "tables" / "distillation.csv")) == len(rows)


def test_rows_are_what_the_stages_measured(results: Results, runs: Path) -> None:
    """With one run each, the analysis' estimates are the stage's own, which it computes by another function."""
    store = RunStore(runs)
    for stage in json.loads((runs / "study.json").read_text())["stages"]:
        if stage["kind"] != "reference":
            continue
        record = store.record(stage["stage_id"])
        assert record is not None
        (row,) = [
            r
            for r in results["distillation"]
            if r["model"] == stage["config"]["size"]["name"] and r["part"] == "responses"
        ]
        said = record.summary
        pairs = [("kl_base", said["kl"]["response"]["base"]), ("kl_change", said["kl"]["response"]["change"])]
        pairs += [(f"nats_{n}", said["dialogue_loss"]["response"][n]) for n in ("base", "prompted", "distilled")]
        for name, wanted in pairs:
            assert row[name]["value"] == pytest.approx(wanted["value"], rel=1e-9), name
            assert row[name]["se"] == pytest.approx(wanted["se"], rel=1e-9), name


def test_the_prompted_teacher_is_nearest_to_itself(results: Results) -> None:
    """The teacher's own size without the prompt is as far from it as the prompt takes it; another base is farther."""
    own, other = (
        next(r for r in results["distillation"] if r["model"] == m and r["part"] == "dialogues") for m in ("60k", "27k")
    )
    assert 0 < own["kl_base"]["value"] < other["kl_base"]["value"]


def test_a_policy_starts_from_the_distilled_model(results: Results) -> None:
    starts = [row for row in results["frontier"] if row["step"] == 0]
    assert len(starts) == 2 and all(row["kl"]["value"] == 0 for row in starts)


def test_the_curve_is_the_training_loss_in_parts(results: Results, runs: Path) -> None:
    rows = [row for row in results["distillation_curve"] if row["model"] == "27k"]
    metrics = pd.DataFrame(
        map(json.loads, (runs / "stages" / rows[0]["stage_id"] / "metrics.jsonl").read_text().splitlines())
    )
    assert sum(row["loss"]["n"] for row in rows) == metrics.n_loss.sum()
    whole = sum(row["loss"]["value"] * row["loss"]["n"] for row in rows) / metrics.n_loss.sum()
    assert whole == pytest.approx((metrics.loss * metrics.n_loss).sum() / metrics.n_loss.sum())
    assert rows[-1]["tokens"] == metrics.tokens.iloc[-1]


def test_the_report_has_its_section_and_figures(results: Results, runs: Path, tmp_path: Path) -> None:
    page = write_report(runs, tmp_path).read_text()
    assert "The reference: context distillation" in page and "Context distillation minimises KL" in page
    for name in ("figure-30-distillation", "distillation-losses"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000
    for line in distillation_sentences.distillation_sentences(results):
        assert line in html.unescape(page)


# ---------------------------------------------------------------- numbers and words by hand


def test_changes_are_paired_by_conversation_over_tokens() -> None:
    """The ratio of sums, clustered by conversation: what a paired weighted mean of differences gives."""
    rng = np.random.default_rng(0)
    tokens, item = rng.integers(3, 20, 40).astype(float), np.repeat(np.arange(20), 2).astype(object)
    sums = pd.DataFrame({name: tokens * rng.normal(1, 0.3, 40) for name in MEASURES})
    text = Text("responses", sums, tokens, item, np.array(["run"] * 40, dtype=object))
    change = text.change(("nats_distilled", "nats_prompted"))
    assert change is not None
    wanted = paired_difference(sums.nats_distilled / tokens, sums.nats_prompted / tokens, item, tokens)
    assert change.value == pytest.approx((sums.nats_distilled - sums.nats_prompted).sum() / tokens.sum())
    by_item = pd.Series(change.rows).groupby(np.concatenate([item, item])).sum()
    assert np.sqrt((by_item**2).sum() * 20 / 19) == pytest.approx(wanted.se)
    sums.loc[3, "nats_prompted"] = np.nan  # a prompt that did not fit one run is no number for the size
    assert text.term("nats_prompted") is None and text.change(("nats_distilled", "nats_prompted")) is None


def distillation_by_hand(
    sizes: Mapping[str, int], change: float = -0.05, teacher: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Every measure 1 and every change that given, with a standard error of 0.01; a curve of four points a size."""
    rows, curve = [], []
    for name, n in sizes.items():
        labels: dict[str, Any] = {"model": name, "n_params": n, "teacher": teacher or name}
        for part in ("responses", "dialogues", "text"):
            lacks = ("kl", "nats_prompted", "prompted", "distilled_minus_prompted") if part == "text" else ()
            row = labels | {"prompt": "hhh_prompt.txt", "n_prompt_tokens": 100, "n_runs": 2, "part": part}
            row |= {m: None if m.startswith(lacks) else estimate(1.0, 0.1) for m in MEASURES}
            row |= {m: None if m.startswith(lacks) else difference(change, 0.01) for m in CHANGES}
            rows.append(row | {"note": None})
        for i in range(4):
            at = {"seed": 0, "stage_id": f"reference-{name}-s0", "tokens": 1000 * (i + 1)}
            curve.append(labels | at | {"loss": estimate(0.1 / (i + 1), 0.005)})
    return {"distillation": rows, "distillation_curve": curve}


@pytest.mark.parametrize(("change", "word"), [(0.5, "higher"), (-0.5, "lower"), (0.001, "not measurably different")])
def test_sentences_can_come_out_every_way(change: float, word: str) -> None:
    teachers, left, *changed = distillation_sentences.distillation_sentences(distillation_by_hand(SIZES, change))
    assert "12k and 60k from the same base with the prompt (hhh_prompt.txt, 100 tokens)" in teachers
    assert "1.0000 before and 1.0000 after at 12k" in left and len(changed) == 4
    others = {"higher", "lower", "not measurably different"} - {word}
    assert all(word in line and not any(f"{o} at" in line for o in others) for line in changed)


def test_a_large_teacher_is_named_and_nothing_is_said_of_nothing() -> None:
    (teachers, *_) = distillation_sentences.distillation_sentences(distillation_by_hand(SIZES, 0.5, "60k"))
    assert "60k from the same base with the prompt; 12k from 60k with the prompt" in teachers
    assert distillation_sentences.distillation_sentences({}) == distillation_sentences.distillation_tables({}) == []


def test_rows_by_hand_are_as_the_schema_says() -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    for name, rows in distillation_by_hand(SIZES).items():
        table = {**schema["properties"][name], "$defs": schema["$defs"]}
        assert not list(jsonschema.Draft202012Validator(table).iter_errors(rows)), name


def test_the_figure_of_losses_has_a_panel_a_measure() -> None:
    (spec,) = [spec for spec in FIGURES if spec.name == "distillation-losses"]
    table, figure = spec.table(distillation_by_hand(SIZES, -0.5)), Figure()
    spec.draw(figure, table)
    figure.draw_without_rendering()
    assert len(figure.axes) == 4 and len(table) == 2 * (2 + 3 + 2 + 1)
    assert table[table.panel == "text"].y.tolist() == [-0.5, -0.5]
