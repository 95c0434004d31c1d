"""Reading and checking studies: numbers as people write them, every error at once, at its place."""

# ruff: noqa: E501  (a message on one line is easier to compare with what is printed than its pieces)

from __future__ import annotations

import json
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from hh_scaling.comparisons import Comparison
from hh_scaling.configs import Compute, Schedule
from hh_scaling.splits import SplitIndex, conversation_id
from hh_scaling.world import World
from sweeps import schema
from sweeps.check import LoadedStudy, load_study, shipped_studies
from sweeps.complete import complete, model_at
from sweeps.load import StudyError, nearest
from sweeps.numbers import format_bytes, format_count, format_seconds, parse_number
from sweeps.study import ComputeChoice, Study

MINIMAL = "world: {}\nsizes: [27k]\n"


def write(folder: Path, text: str) -> str:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems(folder: Path, text: str, *assignments: str) -> list[str]:
    """What is wrong with a study, without the path of its folder."""
    with pytest.raises(StudyError) as error:
        load_study(write(folder, text), assignments)
    return [line.replace(f"{folder}/", "") for line in error.value.problems]


def loaded(folder: Path, text: str, *assignments: str) -> LoadedStudy:
    return load_study(write(folder, text), assignments)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("24k", 24_000), ("1.3M", 1_300_000), ("2_000", 2000), ("2,000", 2000), ("3e-6", 3e-6), ("2.8b", 2_800_000_000),
     ("0.5", 0.5), (".5", 0.5), ("1.001M", 1_001_000), ("-3", -3), ("410m", 410_000_000), ("1e3", 1000)],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    number = parse_number(text)
    assert number == value
    assert isinstance(number, type(value)) or number == value


@pytest.mark.parametrize("text", ["", "k", "24x", "one", "1.2.3", "0x10", "1e999", "24 k k", "--3"])
def test_words_are_not_numbers(text: str) -> None:
    assert parse_number(text) is None


def test_counts_and_times_are_short() -> None:
    assert [format_count(n) for n in (42, 24_341, 999_999, 1_300_000, 2.8e9)] == ["42", "24k", "1M", "1.3M", "2.8B"]
    assert [format_seconds(s) for s in (0.34, 59, 61, 7500, 200_000)] == ["0.3 s", "59 s", "1 min 1 s", "2 h 5 min", "2 d 7 h"]  # fmt: skip
    assert [format_bytes(n) for n in (10, 2048, 5 * 2**30)] == ["10 B", "2.0 KiB", "5.0 GiB"]


def test_yaml_numbers_reach_the_study(tmp_path: Path) -> None:
    text = MINIMAL + "base: {n_tokens: 1.5M}\nppo: {schedule: {learning_rate: 3e-6}, batch_size: 2_56}\npm: {n_comparisons: [1k, all]}\n"  # fmt: skip
    study = loaded(tmp_path, text).study
    assert study.base.n_tokens == 1_500_000
    assert study.ppo is not None and study.ppo.schedule.learning_rate == 3e-6 and study.ppo.batch_size == 256
    assert study.pm is not None and study.pm.n_comparisons == (1000, None)
    assert study.sizes[0].n_params == 27_000


def test_a_partial_section_keeps_the_rest_of_its_own_defaults(tmp_path: Path) -> None:
    """width_exponent is 1 in the PM's default schedule and 0.0 in Schedule's."""
    study = loaded(tmp_path, MINIMAL + "pm: {schedule: {learning_rate: 1e-3}}\n").study
    assert study.pm is not None and study.pm.schedule == Schedule(learning_rate=1e-3, width_exponent=1.0)


def test_a_single_value_stands_for_a_list_and_null_for_the_default(tmp_path: Path) -> None:
    study = loaded(tmp_path, "world: {}\nsizes: 27k\nseeds: 3\nshare: base\npm: {n_comparisons: 512, batch_size: null}\n").study  # fmt: skip
    assert (len(study.sizes), study.seeds, study.share) == (1, (3,), ("base",))
    assert study.pm is not None and study.pm.n_comparisons == (512,) and study.pm.batch_size == 32


# ---------------------------------------------------------------- what is wrong, and where


def test_all_errors_come_at_once_with_their_places(tmp_path: Path) -> None:
    text = """world: {n_entitys: 3}
sizes: [27k, {n_parms: 1}]
ppo: {n_update: 3, batch_size: many, schedule: {learning_rate: -3e-6}}
pm: {batch_size: yes}
pm: {}
architecture: lama
wrld: {}
"""
    lines = problems(tmp_path, text)
    assert lines == [
        "study.yaml:1:9: world.n_entitys: unknown key (did you mean 'n_entities'?)",
        "study.yaml:2:15: sizes.1.n_parms: unknown key (did you mean 'n_params'?)",
        "study.yaml:3:7: ppo.n_update: unknown key (did you mean 'n_updates'?)",
        "study.yaml:3:32: ppo.batch_size: is 'many' (allowed: a whole number, such as 24000, 24k or 1.3M)",
        "study.yaml:3:64: ppo.schedule.learning_rate: is -3e-06 (allowed: a number above 0.0)",
        "study.yaml:4:18: pm.batch_size: is 'yes' (allowed: a whole number, such as 24000, 24k or 1.3M)",
        "study.yaml:5:1: pm: duplicate key (first on line 4)",
        "study.yaml:6:15: architecture: is 'lama' (allowed: llama, gpt_neox; did you mean 'llama'?)",
        "study.yaml:7:1: wrld: unknown key (did you mean 'world'?)",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sizes: [27k]\n", "1:1: data: comparisons come from none (allowed: one of data.path, data.hub, world; --set data.path=FOLDER)"),
        ("world: {}\n", "1:1: sizes: missing"),
        ("world: {}\nsizes: []\n", "2:8: sizes: is this (allowed: at least 1 of them)"),
        (MINIMAL + "data: {hub: a/b}\n", "3:7: data: comparisons come from world and data.hub (allowed: one of data.path, data.hub, world; leave out data.hub)"),
        ("world: {}\nsizes: [3]\n", "2:9: sizes.0.n_params: no shape has about 3 non-embedding parameters, allowed: 26,784 to 82,169,667,584"),
        ("world: {}\nsizes: [27k, 27_000]\n", "2:14: sizes.1: is called '27k' like an earlier one; give it another name"),
        ("world: {}\nsizes: [{name: x}]\n", "2:9: sizes.0: has none of n_params, hub, path, gguf (allowed: exactly one)"),
        ("world: {}\nsizes: [{n_params: 27k, hub: a/b}]\n", "2:9: sizes.0: has n_params and hub of n_params, hub, path, gguf (allowed: exactly one)"),
        (MINIMAL + "seeds: [1, 1]\n", "3:8: seeds: is [1, 1]; each seed may occur once"),
        (MINIMAL + "pm: {n_comparisons: [512, 100k]}\n", "3:27: pm.n_comparisons.1: is 100000 (allowed: about 7208, half of what the world makes)"),
        (MINIMAL + "pm: null\n", "1:1: ppo: needs preference models, but pm is null"),
        (MINIMAL + "ppo: {pm: larges}\n", "3:11: ppo.pm: is 'larges' (allowed: same, largest, 27k, {hub: NAME} or {path: FOLDER} of a sequence classifier; did you mean 'largest'?)"),
        (MINIMAL + "ppo: {minibatch_size: 1k}\n", "3:23: ppo.minibatch_size: is 1000 (allowed: at most batch_size, 256)"),
        (MINIMAL + "pm: {sizes: [26k]}\n", "3:14: pm.sizes.0: is '26k' (allowed: 27k; did you mean '27k'?)"),
        (MINIMAL + "pm: {max_length: 1k}\n", "3:18: pm.max_length: is 1000 tokens (allowed: at most base.max_positions, 256)"),
        (MINIMAL + "benchmarks: {tasks: [x], at: [end, 2]}\n", "3:36: benchmarks.at.1: is 2.0 (allowed: end, or one of ppo.keep_sqrt_kl: 1.0)"),
        (MINIMAL + "benchmarks: {tasks: [x], at: [start]}\n", "3:31: benchmarks.at.0: is 'start' (allowed: end, the sqrt(KL) of a checkpoint, such as 1.0, or a point in between, such as alpha=0.5)"),
        (MINIMAL + "benchmarks: {tasks: [local_blimp, world_fact]}\n", "3:35: benchmarks.tasks.1: unknown task 'world_fact'; nearest: world_facts (allowed: "),
        ("data: {path: x}\nsizes: [27k]\nbenchmarks: {tasks: [world_facts]}\n", "3:22: benchmarks.tasks.0: is world_facts, whose items a world makes (allowed without one: local_*, or a task of lm-eval)"),
        ("data: {path: x}\nsizes: [27k]\nbenchmarks: {tasks: [bits_per_byte]}\n", "3:22: benchmarks.tasks.0: is bits_per_byte, which needs held-out text; --set text.held_out='PATTERN' of file names"),
        ("data: {path: x}\nsizes: [27k]\ntext: {held_out: x}\n", "3:18: text.held_out: chooses among the files of text.path, which is not given; --set text.path=FOLDER"),
        (MINIMAL + "base: {rate_factor: [0.5, 2]}\n", "3:21: base.rate_factor: is [0.5, 2.0] (allowed: a list with 1, the rate of all that is built on)"),
        (MINIMAL + "pm: {rate_factor: []}\n", "3:19: pm.rate_factor: is [] (allowed: a list with 1, the rate of all that is built on)"),
        (MINIMAL + "ppo: {rate_factor: [1, 2, 2.0]}\n", "3:20: ppo.rate_factor: names a number twice"),
        (MINIMAL + "ppo: {rate_factor: [1, 0]}\n", "3:24: ppo.rate_factor.1: is 0 (allowed: a number above 0.0)"),
        (MINIMAL + "pm: {schedule: {rate_factor: 2}}\n", "3:30: pm.schedule.rate_factor: is made from pm.rate_factor, the list of those to try"),
        (MINIMAL + "base: {schedule: {rate_factor: 2}}\n", "3:32: base.schedule.rate_factor: is made from base.rate_factor, the list of those to try"),
        (MINIMAL + "ppo: {schedule: {rate_factor: 2}}\n", "3:31: ppo.schedule.rate_factor: is made from ppo.rate_factor, the list of those to try"),
        (MINIMAL + "reference: {schedule: {rate_factor: 2}}\n", "3:37: reference.schedule.rate_factor: cannot be varied (allowed: rate_factor of base, pm or ppo)"),
        ("world: {}\nsizes: [{hub: a/b}]\nbase: {rate_factor: [1, 2]}\n", "3:21: base.rate_factor: varies how rungs are trained, but no size is one (allowed: 1)"),
        (MINIMAL + "pm: {n_comparisons: [8, 8]}\n", "3:21: pm.n_comparisons: names a number twice"),
        (MINIMAL + "pm: {n_comparisons: 8, helpful_share: [0, 0.5, 0.50]}\n", "3:39: pm.helpful_share: names a number twice"),
        (MINIMAL + "pm: {harmless_weight: [1, 1]}\n", "3:23: pm.harmless_weight: names a number twice"),
        (MINIMAL + "pm: {helpful_share: 2}\n", "3:21: pm.helpful_share: is 2 (allowed: a number of at most 1.0)"),
        (MINIMAL + "pm: {harmless_weight: [1, -1]}\n", "3:27: pm.harmless_weight.1: is -1 (allowed: a number above 0.0)"),
        (MINIMAL + "pm: {n_comparisons: [8, all], helpful_share: 0.5}\n", "3:46: pm.helpful_share: needs a number as the largest of pm.n_comparisons, which has all"),
        (MINIMAL + "pm: {learning_curve: true}\n", "3:22: pm.learning_curve: needs at least two numbers in pm.n_comparisons, this is one"),
        (MINIMAL + "pm: {learning_curve: true, n_comparisons: [8, 9], n_epochs: 2}\n", "3:22: pm.learning_curve: follows a single pass, pm.n_epochs is 2 (allowed: 1)"),
        (MINIMAL + "pm: {eval_at: 8}\n", "3:15: pm.eval_at: is made from pm.n_comparisons; --set pm.learning_curve=true"),
        (MINIMAL + "pm: {halves: train}\n", "3:14: pm.halves: is train, but ppo needs those of the test half too (allowed: both; --set ppo=null)"),
        (MINIMAL + "pm: {halves: test}\n", "3:14: pm.halves: is 'test' (allowed: both, train)"),
        (MINIMAL + "pm: {pretrained: true}\n", "3:18: pm.pretrained: has true, but there is no pmp section that says how; --set pmp={}"),
        (MINIMAL + "pm: {pretrained: true}\npmp: {}\n", "3:18: pm.pretrained: needs votes; --set world.n_votes=10k"),
        (MINIMAL + "pm: {extra_share: [0.5]}\n", "3:19: pm.extra_share: needs votes; --set world.n_votes=10k"),
        ("data: {path: x}\nsizes: [27k]\npm: {extra_share: 1}\n", "3:19: pm.extra_share: needs votes; --set data.votes=FILE"),
        ("world: {n_votes: 100}\nsizes: [27k]\npm: {extra_share: 0.5, n_comparisons: 400}\n", "3:19: pm.extra_share: needs 200 votes (allowed: at most world.n_votes, 100)"),
        ("world: {n_votes: 100}\nsizes: [27k]\npm: {pretrained: [false, true]}\npmp: {n_comparisons: 101}\n", "3:18: pm.pretrained: needs 101 votes (allowed: at most world.n_votes, 100)"),
        ("world: {n_votes: 100}\nsizes: [27k]\npm: {extra_share: [0.5, 0.001], n_comparisons: 100}\n", "3:19: pm.extra_share: has 0.001, which is no vote beside 100 (allowed: 0, or 0.01 to 1)"),
        (MINIMAL + "pm: {pretrained: []}\n", "3:18: pm.pretrained: is this (allowed: at least 1 of them)"),
        (MINIMAL + "pm: {pretrained: [true, true]}\n", "3:18: pm.pretrained: names a value twice"),
        (MINIMAL + "pm: {pretrained: maybe}\n", "3:18: pm.pretrained: is 'maybe' (allowed: true or false)"),
        (MINIMAL + "pm: {extra_share: [0.5, 0.50]}\n", "3:19: pm.extra_share: names a number twice"),
        (MINIMAL + "pm: {extra_share: 1.5}\n", "3:19: pm.extra_share: is 1.5 (allowed: a number of at most 1.0)"),
        (MINIMAL + "pmp: {eval_at: 8}\n", "3:16: pmp.eval_at: is for preference models alone, by pm.learning_curve (allowed: an empty list)"),
        (MINIMAL + "pmp: {schedule: {rate_factor: 2}}\n", "3:31: pmp.schedule.rate_factor: cannot be varied (allowed: rate_factor of base, pm or ppo)"),
        (MINIMAL + "pmp: {max_length: 999}\n", "3:19: pmp.max_length: is 999 tokens (allowed: at most base.max_positions, 256)"),
        (MINIMAL + "data: {votes: {path: x, hub: a/b}}\n", "3:15: data.votes: has both of path and hub (allowed: exactly one)"),
        (MINIMAL + "data: {votes: {}}\n", "3:15: data.votes: has neither of path and hub (allowed: exactly one)"),
        ("world: {n_votes: 9}\nsizes: [27k]\ndata: {votes: x}\n", "3:15: data.votes: is given, but the world makes votes too (allowed: one of them; world.n_votes: 0)"),
        (MINIMAL + "pmp: {binarized: true}\n", "3:7: pmp.binarized: unknown key (did you mean 'binarised'?)"),
        (MINIMAL + "name: a b\n", "3:7: name: is 'a b' (allowed: letters, digits, '.', '_' and '-', beginning with a letter or digit)"),
        (MINIMAL + "data: {held_out_fraction: 1.5}\n", "3:27: data.held_out_fraction: is 1.5 (allowed: a number of at most 1.0)"),
        (MINIMAL + "ppo: {kl_coef: .inf}\n", "3:16: ppo.kl_coef: is inf (allowed: a finite number)"),
        (MINIMAL + "description: 7\n", "3:14: description: is 7 (allowed: a word; put a number in quotes)"),
        (MINIMAL + "tokenizer: 1k\n", "3:12: tokenizer: is '1k' (allowed: a mapping of keys to values)"),
    ],
)  # fmt: skip
def test_one_line_says_where_what_and_what_is_allowed(tmp_path: Path, text: str, line: str) -> None:
    assert any(found.startswith(f"study.yaml:{line}") for found in problems(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [\n b: c: d", "study.yaml:2:6: not valid YAML"),
        ("- a\n", "study.yaml:1:1: a study is a mapping of keys to values, this is a list"),
        ("", "study.yaml: empty"),
        ("# nothing\n", "study.yaml: empty"),
        ("a: 1\n---\nb: 1\n", "study.yaml:2:1: not valid YAML"),
        ("a: !!python/object:os.system x\n", "study.yaml:1:4: a: the tag tag:yaml.org,2002:python/object:os.system is not allowed"),
        ("x: &x {a: 1}\n<<: *x\n", "study.yaml:2:1: <<: merge keys are not supported"),
        ("[1, 2]: 3\n", "study.yaml:1:1: a key must be a word, this is a list"),
        ("a: &a [*a]\n", "study.yaml:1:4: more than 20 levels once its aliases are followed"),
        ("a: " + "[" * 5000, "nested more than 20 levels deep"),
        ("a: " + "x" * 300_000, "bytes, a study has at most 262,144"),
        ("\tsizes: [1]\n", "study.yaml:1:1: not valid YAML"),
    ],
)  # fmt: skip
def test_files_that_are_no_studies_are_refused(tmp_path: Path, text: str, part: str) -> None:
    assert any(part in line for line in problems(tmp_path, text))


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(b"sizes: [27k]\nname: \xff\n")
    with pytest.raises(StudyError, match="byte 19 is not UTF-8"):
        load_study(str(path))


def test_an_alias_bomb_is_refused_quickly_and_in_little_memory(tmp_path: Path) -> None:
    """Ten levels of nine aliases stand for 3.5 billion values; the goal is 1 s and 200 MB."""
    names = "abcdefghij"
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip(names, names[1:], strict=False)
    )
    tracemalloc.start()
    started = time.monotonic()
    assert any("once its aliases are followed" in line for line in problems(tmp_path, text))
    assert time.monotonic() - started < 1.0
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


def all_keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every key that a study may have."""
    keys = []
    for name in model.model_fields:
        keys.append((*path, name))
        inner = model_at(model, (name,))
        keys += all_keys(inner, (*path, name)) if inner is not None else []
    return keys


def typo(word: str, rng: random.Random) -> str:
    """``word`` with one letter left out, doubled, changed, or two exchanged."""
    i = rng.randrange(len(word) - 1)
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
    return rng.choice(
        [word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:], word[:i] + letter + word[i + 1 :],
         word[:i] + word[i + 1] + word[i] + word[i + 2 :]]
    )  # fmt: skip


def test_a_typo_of_any_key_is_answered_with_the_key_that_was_meant() -> None:
    """The goal is 95 % of one-edit typos; the siblings of a key compete with it."""
    rng, right, tried = random.Random(7), 0, 0
    for path in all_keys(Study):
        section = model_at(Study, path[:-1])
        assert section is not None
        for _ in range(5):
            if (wrong := typo(path[-1], rng)) not in section.model_fields:
                tried += 1
                right += nearest(wrong, section.model_fields) == f"; did you mean '{path[-1]}'?"
    assert tried > 500
    assert right / tried >= 0.95


# ---------------------------------------------------------------- --set


def test_assignments_replace_add_and_are_checked_like_the_file(tmp_path: Path) -> None:
    study = loaded(
        tmp_path, MINIMAL, "ppo.n_updates=1_0", "sizes=[27k, {n_params: 100k}]", "sizes.1.name=big", "seeds=[4,5]"
    ).study
    assert study.ppo is not None and study.ppo.n_updates == 10
    assert [entry.name for entry in study.sizes] == [None, "big"]
    assert study.seeds == (4, 5)


def test_errors_in_assignments_name_the_assignment(tmp_path: Path) -> None:
    lines = problems(
        tmp_path, MINIMAL, "ppo.n_updates=many", "ppo.batch_size", "pppo.x=3", "sizes.7=1", "seeds=[0", "name.x=1"
    )
    assert (
        "--set ppo.n_updates=many: ppo.n_updates: is 'many' (allowed: a whole number, such as 24000, 24k or 1.3M)"
        in lines
    )
    assert "--set ppo.batch_size: must be KEY=VALUE, such as ppo.n_updates=10" in lines
    assert "--set pppo.x=3: pppo: unknown key (did you mean 'ppo'?)" in lines
    assert "--set sizes.7=1: sizes.7: sizes is a list of 1, '7' is not one of 0 to 0" in lines
    assert any(line.startswith("--set seeds=[0:") and "not valid YAML" in line for line in lines)


def test_a_pattern_that_yaml_could_not_hold_stays_a_word(tmp_path: Path) -> None:
    text = "data: {path: x}\nsizes: [27k]\n"
    study = loaded(tmp_path, text, "text.held_out=*_test.txt", "text.path=there").study
    assert study.text is not None and study.text.held_out == ("*_test.txt",)


# ---------------------------------------------------------------- names, shipped studies, schema


def test_an_unknown_study_is_answered_with_the_nearest() -> None:
    with pytest.raises(StudyError, match="study 'dmeo' is not known .*did you mean 'demo'"):
        load_study("dmeo")
    with pytest.raises(StudyError, match="no such file"):
        load_study("there/is/none.yaml")


def test_more_threads_than_cores_is_a_warning(tmp_path: Path) -> None:
    assert "4096 threads" in loaded(tmp_path, MINIMAL + "compute: {threads: 4096}\n").warnings[0]
    assert loaded(tmp_path, MINIMAL).warnings == []


def test_the_study_chooses_everything_that_compute_has() -> None:
    assert set(ComputeChoice.model_fields) == set(Compute.model_fields)


SHIPPED = {"smoke", "demo", "hh-local", "smollm2", "pythia", "pm-scaling", "pm-mixing", "lr-check"}
SHIPPED |= {"pm-scaling-hh", "pm-mixing-hh", "robustness", "tax"}
LOCAL_FILES = ("data.path", "text.path", "text.held_out")
NEEDED = dict.fromkeys(("hh-local", "pm-scaling-hh", "pm-mixing-hh"), LOCAL_FILES) | {"smollm2": ("data.path",)}


def test_the_shipped_studies_are_all_there() -> None:
    assert set(shipped_studies()) == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_study_is_valid_once_it_knows_its_data(name: str) -> None:
    more = [f"{key}=somewhere" for key in NEEDED.get(name, ())]
    study = load_study(name, more).study
    assert study.description


def test_the_demo_is_as_large_as_promised() -> None:
    study = load_study("demo").study
    n_params = [entry.n_params or 0 for entry in study.sizes]
    assert len(n_params) >= 4 and max(n_params) / min(n_params) >= 30
    assert study.benchmarks is not None and len(study.benchmarks.tasks) >= 3
    assert study.pm is not None and len(study.pm.n_comparisons) >= 2 and len(study.seeds) >= 2


def test_the_studies_of_preference_models_vary_what_they_promise() -> None:
    """Five amounts of data over more than 30x, five shares, five weights; three rates of everything at both ends."""
    scaling, mixing, rates = (load_study(name).study for name in ("pm-scaling", "pm-mixing", "lr-check"))
    assert scaling.pm is not None and mixing.pm is not None and rates.pm is not None and rates.ppo is not None
    counts = sorted(n for n in scaling.pm.n_comparisons if n is not None)
    ratios = [b / a for a, b in zip(counts, counts[1:], strict=False)]
    assert len(counts) == 5 and counts[-1] == 25_600 and max(ratios) / min(ratios) < 1.01
    assert scaling.share == () and scaling.pm.learning_curve and scaling.pm.halves == "both"
    assert mixing.pm.helpful_share == (0, 0.25, 0.5, 0.75, 1) and mixing.pm.harmless_weight == (1, 2, 3, 4, 10)
    assert rates.base.rate_factor == rates.pm.rate_factor == rates.ppo.rate_factor == (0.5, 1, 2)
    assert len(rates.seeds) == 3 and len(rates.sizes) == 2


def test_the_learning_rates_are_checked_on_the_demo_s_recipe() -> None:
    """The ends of its ladder, and its largest number of comparisons; else the same but for rates and benchmarks."""

    def recipe(name: str) -> dict[str, Any]:
        study = load_study(name).study
        return study.model_dump(
            exclude={"name": True, "description": True, "seeds": True, "share": True, "sizes": True, "benchmarks": True}
            | {"base": {"rate_factor"}, "pm": {"rate_factor", "n_comparisons"}, "ppo": {"rate_factor"}}
        )

    assert recipe("lr-check") == recipe("demo")
    demo, rates = load_study("demo"), load_study("lr-check")
    assert rates.size_names == [demo.size_names[0], demo.size_names[-1]]
    assert demo.study.pm is not None and rates.study.pm is not None
    assert rates.study.pm.n_comparisons == (max(n or 0 for n in demo.study.pm.n_comparisons),)


@pytest.mark.parametrize("name", ["pm-scaling", "pm-mixing"])
def test_the_world_of_a_study_of_preference_models_has_as_many_comparisons_as_it_takes(name: str) -> None:
    """Counted in the halves as the data stage splits them: enough in all, and of the class that a share takes alone."""
    study = load_study(name).study
    assert study.world is not None and study.pm is not None
    index = SplitIndex(study.data.split_seed, study.data.held_out_fraction)
    for row in World(study.world).comparisons():
        comparison = Comparison(row.prompt, row.chosen, row.rejected, row.tranche, "world")
        index.add(comparison, conversation_id(row.prompt))
    harmless = index.column("tranche") == index.tranches.index("harmless")
    most = max(n or 0 for n in study.pm.n_comparisons)
    split = index.plan(None, drop_duplicates=False).split
    for half in (0, 1) if study.pm.halves == "both" else (0,):
        assert (split == half).sum() >= most
        for share in study.pm.helpful_share:
            assert (~harmless & (split == half)).sum() >= round(share * most)
            assert (harmless & (split == half)).sum() >= most - round(share * most)


def validator() -> jsonschema.Draft202012Validator:
    content = json.loads(schema.PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def test_the_shipped_schema_is_fresh() -> None:
    assert schema.PATH.read_text(encoding="utf-8") == schema.schema_text(), "run: python -m sweeps.schema"


@pytest.mark.parametrize("path", shipped_studies().values(), ids=lambda path: path.stem)
def test_the_schema_accepts_the_shipped_studies(path: Path) -> None:
    assert list(validator().iter_errors(YAML(typ="safe").load(path))) == []


@pytest.mark.parametrize(
    "study",
    [{"sizes": [1], "ppoo": 1}, {"sizes": [{"n_parms": 1}]}, {"sizes": ["24x"]}, {}, {"sizes": [1], "seeds": -1}],
)
def test_the_schema_refuses_what_the_study_refuses(study: dict[str, Any]) -> None:
    assert list(validator().iter_errors(study))


def test_completing_leaves_what_it_does_not_know() -> None:
    assert complete(Study, {"foo": {"a": "1k"}, "sizes": ["x"]}) == {"foo": {"a": "1k"}, "sizes": [{"n_params": "x"}]}
