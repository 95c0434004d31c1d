"""Preference-model pretraining, preference models that start from it, and votes mixed in."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hh_scaling import models, pm, pm_model
from hh_scaling.configs import PMConfig, PMPConfig, PMTraining
from hh_scaling.packing import tree_of
from hh_scaling.records import StageWriter, read_jsonl
from hh_scaling.training_pairs import chosen_rows, find_pairs
from tests.tiny import COMPUTE, SIZE, kill_at, run_stage

N_VOTES = 280
TRAINING = PMTraining(max_length=64, batch_size=16)


def pmp_config(n: int | None = None, binarised: bool = False) -> PMPConfig:
    return PMPConfig(size=SIZE, seed=0, n_comparisons=n, binarised=binarised, training=TRAINING, compute=COMPUTE)


def pm_config(n: int = 32, **more: object) -> PMConfig:
    known = {"size": SIZE, "seed": 0, "half": "train", "n_comparisons": n, "training": TRAINING, "compute": COMPUTE}
    return PMConfig(**known | more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stages(tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny stages with votes beside their comparisons: rows of the test half, in an order of their own."""
    data = tmp_path_factory.mktemp("votes") / "data"
    shutil.copytree(tiny_stages["data"], data)
    table = pd.read_parquet(data / "comparisons.parquet")
    votes = table[table.split == "test"].head(N_VOTES).assign(split="votes", order=range(N_VOTES - 1, -1, -1))
    votes.reset_index(drop=True).to_parquet(data / "votes.parquet")
    return tiny_stages | {"data": data}


@pytest.fixture(scope="module")
def pretrained(stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pmp")
    run_stage("pmp", pmp_config(), stages, out)
    return out


# ---------------------------------------------------------------- pretraining


def test_votes_teach_what_held_out_comparisons_ask(stages: dict[str, Path], tmp_path: Path) -> None:
    """Both losses: above chance on comparisons that are no votes, by more than four standard errors."""
    for binarised in (False, True):
        summary = run_stage("pmp", pmp_config(binarised=binarised), stages, tmp_path / str(binarised)).summary
        assert (summary["n_comparisons"], summary["binarised"]) == (N_VOTES, binarised)
        assert summary["accuracy"]["value"] - 4 * summary["accuracy"]["se"] > 0.5 and summary["accuracy"]["n"] == 300
        scores = pd.read_parquet(tmp_path / str(binarised) / "scores.parquet")
        assert (scores.score_chosen > scores.score_rejected).mean() == pytest.approx(summary["accuracy"]["value"])


def test_the_binarised_gradient_is_that_of_two_labels(stages: dict[str, Path], tmp_path: Path) -> None:
    """Against binary cross-entropy of torch on the two sides' scores, labels 1 and 0."""
    tokenizer = models.load_tokenizer(stages["base"])
    trees = [tree_of([[5, 6, 7, 0], [5, 9, 0]]), tree_of([[8, 6, 0], [8, 7, 9, 0]])]
    of, gradients = pmp_config(binarised=True), []
    for by_hand in (False, True):
        model = pm_model.initial_pm(stages["base"], tokenizer, of)
        training = pm.Training(model, trees, torch.ones(2), None, of, StageWriter(tmp_path))
        if by_hand:
            scores = torch.cat([
                model(input_ids=torch.tensor([tree.trunk + branch])).logits[0]
                for side in (0, 1) for tree in trees for branch in (tree.branches[side],)
            ])  # fmt: skip
            labels = torch.tensor([1.0, 1.0, 0.0, 0.0])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="sum") / 2
            loss.backward()
        else:
            stats = training.accumulate_gradient(torch.arange(2).numpy(), 0)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert stats["loss"] == pytest.approx(loss.item(), abs=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_the_first_votes_in_their_order(stages: dict[str, Path], tmp_path: Path) -> None:
    assert run_stage("pmp", pmp_config(40), stages, tmp_path).summary["n_comparisons"] == 40
    assert list(read_jsonl(tmp_path / "metrics.jsonl"))[-1]["pairs"] == 40
    with pytest.raises(ValueError, match=f"{N_VOTES} comparisons among the votes, wanted: 1000"):
        run_stage("pmp", pmp_config(1000), stages, tmp_path / "more")


def test_data_without_votes_are_told(tiny_stages: dict[str, Path], tmp_path: Path) -> None:
    for kind, of in (("pmp", pmp_config()), ("pm", pm_config(extra_share=0.5))):
        with pytest.raises(ValueError, match="the data have no votes; expected some"):
            run_stage(kind, of, tiny_stages, tmp_path / kind)


# ---------------------------------------------------------------- what starts from it


def test_before_its_first_step_it_is_the_pretrained_model(
    stages: dict[str, Path], pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and head, whatever the seed; without pretraining both are others."""
    wanted = load_file(pretrained / "model" / "model.safetensors")
    assert any(name.startswith("score.") for name in wanted)
    monkeypatch.setattr(pm.Training, "run", lambda self: None)
    run_stage("pm", pm_config(pretrained=True, seed=7), stages | {"pmp": pretrained}, tmp_path / "pmp")
    run_stage("pm", pm_config(), stages, tmp_path / "fresh")
    found = load_file(tmp_path / "pmp" / "model" / "model.safetensors")
    fresh = load_file(tmp_path / "fresh" / "model" / "model.safetensors")
    assert found.keys() == wanted.keys() == fresh.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not any(torch.equal(fresh[name], wanted[name]) for name in wanted)
    scores = [pd.read_parquet(folder / "scores.parquet") for folder in (pretrained, tmp_path / "pmp")]
    pd.testing.assert_frame_equal(scores[0], scores[1], check_exact=True)


def test_it_goes_on_from_there(stages: dict[str, Path], pretrained: Path, tmp_path: Path) -> None:
    """The loss of its first batch is the pretrained model's of those pairs; then every weight moves."""
    of = pm_config(160, pretrained=True)
    run_stage("pm", of, stages | {"pmp": pretrained}, tmp_path)
    first = next(iter(read_jsonl(tmp_path / "metrics.jsonl")))
    tokenizer = models.load_tokenizer(stages["base"])
    found = find_pairs(chosen_rows(of, stages["data"]), tokenizer, 64, tmp_path / "pairs")
    model = pm_model.pretrained_pm(pretrained, tokenizer, of)
    training = pm.Training(model, found.trees, torch.ones(160), None, of, StageWriter(tmp_path / "again"))
    assert training.accumulate_gradient(training.order()[0], 0)["loss"] == pytest.approx(first["loss"], abs=1e-6)
    assert abs(first["loss"] - math.log(2)) > 0.01
    before, after = (load_file(p / "model" / "model.safetensors") for p in (pretrained, tmp_path))
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_low_layers_can_stay_as_pretrained(stages: dict[str, Path], pretrained: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"trainable_layers": 1})
    run_stage("pm", pm_config(64, pretrained=True, training=training), stages | {"pmp": pretrained}, tmp_path)
    before, after = (load_file(p / "model" / "model.safetensors") for p in (pretrained, tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("model.layers.1.", "model.norm.", "score.")) for name in changed)


@pytest.mark.parametrize("kind", ["pmp", "pm"])
def test_killed_stages_resume_to_the_same_bits(
    kind: str, stages: dict[str, Path], pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pretraining, and a model that starts from one and has votes mixed in, each killed after a state."""
    training = TRAINING.model_copy(update={"checkpoint_seconds": 1e-9})
    whole = pmp_config(160).model_copy(update={"training": training})
    of = whole if kind == "pmp" else pm_config(80, pretrained=True, extra_share=1.0, training=training)
    undisturbed, broken, resumed = (tmp_path / name for name in ("undisturbed", "broken", "resumed"))
    parents = stages | {"pmp": pretrained}
    run_stage(kind, of, parents, undisturbed)
    kill_at(6, monkeypatch, lambda: run_stage(kind, of, parents, broken))
    run_stage(kind, of, parents, resumed, [broken])
    assert list(read_jsonl(undisturbed / "metrics.jsonl")) == list(read_jsonl(resumed / "metrics.jsonl"))
    weights = [(p / "model" / "model.safetensors").read_bytes() for p in (undisturbed, resumed)]
    assert weights[0] == weights[1]


# ---------------------------------------------------------------- a second set


def test_votes_are_added_to_the_comparisons(stages: dict[str, Path], tmp_path: Path) -> None:
    """n counts the comparisons alone: 32 of them and 16 votes are 48 pairs in one pass."""
    summary = run_stage("pm", pm_config(32, extra_share=0.5), stages, tmp_path).summary
    assert (summary["n_comparisons"], summary["n_extra"]) == (32, 16)
    assert summary["dropped"] == {"equal_after_truncation": 0}
    assert list(read_jsonl(tmp_path / "metrics.jsonl"))[-1]["pairs"] == 48
    rows = chosen_rows(pm_config(32, extra_share=0.5), stages["data"])
    votes = pd.read_parquet(stages["data"] / "votes.parquet").sort_values("order")
    assert rows["n_extra"][1].row.tolist() == votes.head(16).index.tolist()
    alone = chosen_rows(pm_config(32), stages["data"])
    assert list(alone) == ["n_comparisons"]
    assert alone["n_comparisons"][1].row.tolist() == rows["n_comparisons"][1].row.tolist()


def test_votes_are_learned_from(stages: dict[str, Path], tmp_path: Path) -> None:
    """Eight comparisons and eight votes: the model differs from that of eight comparisons alone."""
    for share in (0.0, 1.0):
        run_stage("pm", pm_config(8, extra_share=share), stages, tmp_path / str(share))
    weights = [load_file(tmp_path / str(share) / "model" / "model.safetensors") for share in (0.0, 1.0)]
    assert not torch.equal(weights[0]["score.weight"], weights[1]["score.weight"])


def test_shares_are_nested_and_never_of_no_vote(stages: dict[str, Path], tmp_path: Path) -> None:
    rows = [chosen_rows(pm_config(32, extra_share=s), stages["data"])["n_extra"][1].row.tolist() for s in (0.25, 1.0)]
    assert rows[1][:8] == rows[0] and len(rows[1]) == 32
    with pytest.raises(ValueError, match="pm.extra_share 0.01 of 32 comparisons is no vote, needed: one"):
        run_stage("pm", pm_config(32, extra_share=0.01), stages, tmp_path)
    with pytest.raises(ValueError, match=f"{N_VOTES} comparisons among the votes, wanted: 300"):
        run_stage("pm", pm_config(300, extra_share=1.0), stages, tmp_path / "more")
