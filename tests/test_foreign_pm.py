"""Preference models that somebody else trained, and the gold PM: scores against the models' own forward passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hh_scaling import foreign_pm, models, ppo
from hh_scaling.configs import DataConfig, ForeignPMConfig, PMConfig, PMTraining, PPOConfig, PPOTraining, SizeSpec
from hh_scaling.configs import WorldConfig as World
from hh_scaling.models import ModelError
from hh_scaling.records import StageWriter, write_json
from hh_scaling.rollout import Sample
from hh_scaling.score import last_turn, load_scorer
from hh_scaling.scorers import ForeignPMScorer, PMScorer, load_pm_scorer
from hh_scaling.stages import StageContext, StageResult
from tests.tiny import COMPUTE, SIZE, make_tokenizer, run_stage

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TRANSCRIPT = "\n\nHuman: tell me cat?\n\nAssistant: good cat\n\nHuman: and dog?\n\nAssistant: bad dog"


def classifier(folder: Path, tokenizer: Any, n_labels: int = 1, pad: int | None = -1, positions: int = 96) -> Path:
    """A random GPT-NeoX classifier with a tokenizer, as somebody else would publish it; scores are far apart."""
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=positions, num_labels=n_labels,
        pad_token_id=tokenizer.pad_token_id if pad == -1 else pad,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        model.score.weight.mul_(50)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def own_tokenizer(stages: dict[str, Path], template: str | None = None) -> Any:
    """The policy's tokenizer, perhaps with a chat template."""
    tokenizer = models.load_tokenizer(stages["base"])
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def other_tokenizer(tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of another vocabulary: learnt from the held-out text alone."""
    root = tmp_path_factory.mktemp("other")
    (root / "text").mkdir()
    (root / "text" / "train.jsonl").write_text((tiny_stages["data"] / "text" / "held_out.jsonl").read_text())
    return AutoTokenizer.from_pretrained(make_tokenizer(root, root) / "tokenizer")


def foreign_stage(folder: Path, out: Path) -> StageResult:
    out.mkdir(parents=True, exist_ok=True)
    config = ForeignPMConfig(size=SizeSpec(name="theirs", weights_sha256="0" * 64))
    return foreign_pm.run(config, StageContext({}, StageWriter(out), {"size.path": str(folder)}))


def by_hand(folder: Path, text: str) -> float:
    """The classifier's own forward pass on one text, alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids])).logits.item())


# ---------------------------------------------------------------- the stage


def test_the_stage_says_what_it_found(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    folder = classifier(tmp_path / "theirs", own_tokenizer(tiny_stages, TEMPLATE))
    result = foreign_stage(folder, tmp_path / "stage")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert result.summary["foreign"]["n_params_total"] == sum(p.numel() for p in model.parameters())
    assert result.summary["format"] == "chat template" and "model" not in result.summary  # it is no size of the study
    assert json.loads((tmp_path / "stage" / "model.json").read_text())["source"] == str(folder)


@pytest.mark.parametrize(("n_labels", "said"), [(3, "3 labels, needed: one with a single score"), (None, "missing")])
def test_what_cannot_score_is_one_line(
    tiny_stages: dict[str, Path], tmp_path: Path, n_labels: int | None, said: str
) -> None:
    """A classifier of several classes, and a language model."""
    folder = tmp_path / "language model"
    shutil.copytree(tiny_stages["base"] / "model", folder)
    if n_labels is not None:
        folder = classifier(tmp_path / "theirs", own_tokenizer(tiny_stages), n_labels)
    with pytest.raises(ModelError, match=said) as error:
        foreign_stage(folder, tmp_path / "stage")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- scores of responses


def scorer_for(folder: Path, stages: dict[str, Path], root: Path) -> PMScorer | ForeignPMScorer:
    foreign_stage(folder, root / "stage")
    return load_pm_scorer(root / "stage", models.load_tokenizer(stages["base"]), COMPUTE, StageWriter(root))


def test_token_ids_go_straight_in_where_tokenizers_agree(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """A response in single bytes, which no encoder would give: its score is that of these very ids."""
    tokenizer = own_tokenizer(tiny_stages)
    folder = classifier(tmp_path / "theirs", tokenizer)
    scorer = scorer_for(folder, tiny_stages, tmp_path)
    prompt = tokenizer("\n\nHuman: tell me cat?\n\nAssistant:")["input_ids"]
    response = [i for letter in "Ġgood" for i in tokenizer.convert_tokens_to_ids([letter])]
    assert len(response) > len(tokenizer(" good")["input_ids"])
    samples = [Sample(prompt, [*response, tokenizer.eos_token_id], True, True), Sample(prompt, response[:2], False)]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = [model(input_ids=torch.tensor([prompt + ids])).logits.item() for ids in (response, response[:2])]
    np.testing.assert_allclose(scorer(samples), expected, rtol=1e-4, atol=1e-4)
    assert not scorer.reencodes and scorer.out.tokens == len(prompt) * 2 + len(response) + 2


def test_marks_that_the_tokenizer_sets_stand_around_the_ids(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """A tokenizer that begins with one mark and ends with another; what is too long loses its text, not the mark."""
    tokenizer = own_tokenizer(tiny_stages)
    end, pad = tokenizer.eos_token, tokenizer.pad_token
    pieces = [(end, tokenizer.eos_token_id), (pad, tokenizer.pad_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A {end} {end}", special_tokens=pieces
    )
    folder = classifier(tmp_path / "theirs", tokenizer, positions=24)
    scorer = load_scorer(str(folder), COMPUTE)
    assert scorer.marks == ([tokenizer.eos_token_id], [tokenizer.eos_token_id] * 2)  # type: ignore[attr-defined]
    assert float(scorer(["a b"])[0]) == pytest.approx(by_hand(folder, "a b"), abs=1e-4)
    long = tokenizer(TRANSCRIPT)["input_ids"]
    kept = scorer.cut([long])[0]
    assert len(kept) == 24 and kept[0] == tokenizer.eos_token_id and kept[1:] == long[-23:]
    sample = Sample(tokenizer("\n\nHuman: a", add_special_tokens=False)["input_ids"], [5, 6], False)
    straight = scorer_for(folder, tiny_stages, tmp_path)
    assert isinstance(straight, ForeignPMScorer)
    assert straight.marked(sample) == [tokenizer.eos_token_id, *sample.prompt, 5, 6, *[tokenizer.eos_token_id] * 2]


@pytest.mark.parametrize("pad", ["end", "none", "tokenizer"])
def test_a_batch_scores_as_each_text_alone(tiny_stages: dict[str, Path], tmp_path: Path, pad: str) -> None:
    """Also where the model's padding is its end token, where only its tokenizer has one, or neither."""
    tokenizer = own_tokenizer(tiny_stages)
    if pad != "tokenizer":
        tokenizer.pad_token = tokenizer.eos_token if pad == "end" else None
    folder = classifier(tmp_path / "theirs", tokenizer, pad=tokenizer.eos_token_id if pad == "end" else None)
    texts = [TRANSCRIPT, TRANSCRIPT[:20], TRANSCRIPT[:61] + tokenizer.eos_token]
    scores = load_scorer(str(folder), COMPUTE)(texts)
    np.testing.assert_allclose(scores, [by_hand(folder, text) for text in texts], rtol=1e-4, atol=1e-4)


def test_the_last_turn_is_the_whole_response() -> None:
    """Marks that a policy writes make no turns, and a prompt that lost its beginning starts at a whole one."""
    prompt = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d\n\nAssistant: e")]
    found = last_turn(prompt, " d\n\nAssistant: e ")
    assert [(m["role"], m["content"]) for m in found] == turns
    assert [m["content"] for m in last_turn(prompt[5:], " d")] == ["c", "d"]
    assert [m["content"] for m in last_turn("tail of a\n\nAssistant:", "")] == ["tail of a", ""]


def test_a_folder_that_this_project_made_is_scored_as_its_own(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    training = PMTraining(max_length=64)
    pm = PMConfig(size=SIZE, seed=0, half="train", n_comparisons=32, training=training, compute=COMPUTE)
    run_stage("pm", pm, tiny_stages, tmp_path / "pm")
    write_json(tmp_path / "pm" / "record.json", {"kind": "pm"})
    own = load_pm_scorer(tmp_path / "pm", own_tokenizer(tiny_stages), COMPUTE, StageWriter(tmp_path))
    found = scorer_for(tmp_path / "pm" / "model", tiny_stages, tmp_path)
    sample = Sample([40, 41, 42], [50, 51], False)
    assert isinstance(found, PMScorer) and found([sample]) == own([sample])


# ---------------------------------------------------------------- a policy scored by them


@pytest.fixture(scope="module")
def foreign_run(
    tiny_stages: dict[str, Path], other_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, StageResult, dict[str, Path]]:
    """Train PM: theirs, by ids; test PM: theirs, by a chat template; gold PM: theirs, of another tokenizer."""
    root = tmp_path_factory.mktemp("foreign")
    tokenizers = {
        "train": own_tokenizer(tiny_stages), "test": own_tokenizer(tiny_stages, TEMPLATE), "gold": other_tokenizer,
    }  # fmt: skip
    folders = {role: classifier(root / role, tokenizer) for role, tokenizer in tokenizers.items()}
    for role, folder in folders.items():
        foreign_stage(folder, root / f"stage-{role}")
    parents = {"data": tiny_stages["data"], "policy": tiny_stages["base"]}
    parents |= {f"pm_{role}": root / f"stage-{role}" for role in folders}
    training = PPOTraining(
        n_updates=1, batch_size=16, minibatch_size=8, max_prompt_tokens=40, max_response_tokens=10, eval_every=1,
        n_eval_prompts=12, keep_sqrt_kl=(),
    )  # fmt: skip
    config = PPOConfig(size=SIZE, seed=0, training=training, compute=COMPUTE)
    return root / "ppo", run_stage("ppo", config, parents, root / "ppo"), folders


def test_the_frontier_s_scores_are_their_own_forward_passes(
    foreign_run: tuple[Path, StageResult, dict[str, Path]],
) -> None:
    """Of the decoded texts that samples.jsonl shows, by the chat template (test) or as they are (gold)."""
    out, _, folders = foreign_run
    rows = pd.read_parquet(out / "evals.parquet").set_index(["step", "prompt_id"])
    shown = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(shown) == 2 * 8
    for sample in shown:
        row = rows.loc[(sample["step"], sample["prompt_id"])]
        question = sample["prompt"].removeprefix("\n\nHuman:").removesuffix("\n\nAssistant:").strip()
        chat = f"<user>{question}<assistant>{sample['response'].strip()}"
        assert row.score_test == pytest.approx(by_hand(folders["test"], chat), abs=1e-3)
        assert row.gold == pytest.approx(by_hand(folders["gold"], sample["prompt"] + sample["response"]), abs=1e-3)
        assert sample["gold"] == row.gold
    assert rows.gold.std() > 0.01 and rows.gold_helpful.isna().all() and rows.gold_harmless.isna().all()


def test_the_summary_says_who_scored_and_how(foreign_run: tuple[Path, StageResult, dict[str, Path]]) -> None:
    summary = foreign_run[1].summary
    assert summary["gold_source"] == "stage-gold" and summary["final"]["gold"]["n"] == 12
    tokens = {role: entry["tokens"] for role, entry in summary["scored_by"].items()}
    again = "decoded and encoded again"
    assert tokens == {"train": "as sampled", "test": again, "gold": again}
    assert summary["scored_by"]["test"]["format"] == "chat template"


# ---------------------------------------------------------------- where gold is from


@pytest.mark.parametrize(
    ("world_gold", "with_pm", "source"), [(True, False, "world"), (False, False, None), (False, True, "stage-gold")]
)
def test_gold_is_from_what_the_configuration_names(
    foreign_run: tuple[Path, StageResult, dict[str, Path]],
    tiny_stages: dict[str, Path], tmp_path: Path, world_gold: bool, with_pm: bool, source: str | None,
) -> None:  # fmt: skip
    write_json(tmp_path / "world.json", World(n_entities=40).model_dump())
    stages = foreign_run[0].parent
    parents = {"data": tmp_path} | {f"pm_{role}": stages / "stage-train" for role in ("train", "test")}
    parents |= {"pm_gold": stages / "stage-gold"} if with_pm else {}
    config = PPOConfig(size=SIZE, seed=0, training=PPOTraining(), compute=COMPUTE, world_gold=world_gold)
    context = StageContext(parents, StageWriter(tmp_path), {})
    measures = ppo.load_measures(config, context, own_tokenizer(tiny_stages))
    assert measures.describe()["gold_source"] == source
    assert measures.pms["pm_train"] is measures.pms["pm_test"]  # one stage is loaded once
    prompt = "\n\nHuman: a?\n\nAssistant:"
    gold = measures.gold([Sample([5, 6], [7], False)], [prompt], [" b"])
    assert pd.isna(gold["gold"][0]) == (source is None) and pd.isna(gold["gold_helpful"][0]) == (source != "world")


def test_the_configuration_says_nothing_of_gold_unless_asked() -> None:
    """Stages keep the ids that they had before there was a choice."""
    config = PPOConfig(size=SIZE, seed=0, training=PPOTraining(), compute=COMPUTE)
    assert config.model_dump(mode="json").keys() == {"size", "seed", "training", "compute"}
    told = config.model_copy(update={"world_gold": False}).model_dump(mode="json")
    assert told["world_gold"] is False and PPOConfig(**told).world_gold is False


# ---------------------------------------------------------------- the gold part


def test_gold_comparisons_share_no_conversation_with_the_rest_and_give_no_prompts(tmp_path: Path) -> None:
    world = World(n_entities=40, n_text_tokens=2000, n_comparisons=800, n_items=10)
    config = DataConfig(world=world, held_out_fraction=0.2, gold_fraction=0.3)
    tables = {}
    for name, one in (("with", config), ("without", config.model_copy(update={"gold_fraction": 0.0}))):
        result = run_stage("data", one, {}, tmp_path / name)
        tables[name] = pd.read_parquet(tmp_path / name / "comparisons.parquet")
        assert list(result.summary["splits"]) == ["train", "test", "held_out", *(["gold"] if name == "with" else [])]
    parts = {part: set(rows.conversation) for part, rows in tables["with"].groupby("split")}
    assert parts["gold"] and not parts["gold"] & (parts["train"] | parts["test"] | parts["held_out"])
    assert set(pd.read_parquet(tmp_path / "with" / "prompts.parquet").split) == {"train", "held_out"}
    held_out = [set(table[table.split == "held_out"].comparison_id) for table in tables.values()]
    assert held_out[0] == held_out[1]


def test_the_gold_pm_is_trained_on_the_gold_part_alone(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    """Every sixth comparison is moved there; those of the other parts are wiped out, which would stop any training."""
    table = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet")
    table.loc[table.comparison_id % 6 == 0, "split"] = "gold"
    table.loc[table.split.isin(["train", "test"]), ["chosen", "rejected"]] = None
    (tmp_path / "data").mkdir()
    table.to_parquet(tmp_path / "data" / "comparisons.parquet")
    config = PMConfig(
        size=SIZE, seed=0, half="gold", n_comparisons=None, training=PMTraining(max_length=64), compute=COMPUTE
    )
    result = run_stage("pm", config, tiny_stages | {"data": tmp_path / "data"}, tmp_path / "pm")
    n_dropped = sum(result.summary["dropped"].values())
    assert result.summary["half"] == "gold" and result.summary["n_comparisons"] + n_dropped == 150
    assert result.summary["accuracy"]["n"] == (table.split == "held_out").sum()
