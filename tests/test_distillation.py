"""Context distillation: the bucketed divergence, what a prompted teacher says where, and what a student learns."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hh_scaling import training
from hh_scaling.configs import (
    Compute,
    Config,
    DataConfig,
    DistillationTargets,
    InputFile,
    ReferenceConfig,
    ReferenceTraining,
    Schedule,
    TeacherConfig,
    WorldConfig,
)
from hh_scaling.distillation import (
    bucketed_kl,
    bucketed_logprobs,
    counts,
    divergences,
    over,
    prompted,
    top_k_logprobs,
)
from hh_scaling.fine_tuning import train
from hh_scaling.inputs import DataError, input_file
from hh_scaling.models import ModelError, load_causal_lm, load_tokenizer
from hh_scaling.prompt import HHH, HUMAN, prompt_text, world_prompt
from hh_scaling.records import Record, StageWriter, read_jsonl, write_json
from hh_scaling.splits import TRAIN, conversation_id, split_of
from hh_scaling.stages import KINDS, StageContext
from hh_scaling.targets import Example, Target, TargetFiles, write_shard
from hh_scaling.teacher import Teacher, dialogue_examples
from hh_scaling.world import World
from tests.tiny import COMPUTE, SIZE, base_config

N, V = 40, 30
PROMPT = "\n\nHuman: tell me good good?\n\nAssistant: good good good good good good"


def random_logits(seed: int, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(N, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def full_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """(N,) KL over all V tokens of (N, V) logits, by torch's own function."""
    return F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(-1)


# ---------------------------------------------------------------- the divergence


@pytest.mark.parametrize("k", [1, 5, V - 1])
def test_the_bucketed_divergence_is_that_of_the_summed_distributions(k: int) -> None:
    """By hand in numpy from probabilities; float64, so 1e-9 is far above rounding."""
    p, q = random_logits(0), random_logits(1)
    ids, target = top_k_logprobs(p, k, V)
    got = bucketed_kl(target, bucketed_logprobs(q, ids)).numpy()
    for i in range(N):
        p_i, q_i = (np.exp(x[i].numpy()) / np.exp(x[i].numpy()).sum() for x in (p, q))
        top = np.argsort(-p_i)[:k]
        a, b = (np.append(x[top], np.delete(x, top).sum()) for x in (p_i, q_i))
        assert got[i] == pytest.approx((a * np.log(a / b)).sum(), rel=1e-9, abs=1e-12)


def test_it_is_a_lower_bound_that_grows_with_k_and_is_exact_for_the_whole_vocabulary() -> None:
    p, q = random_logits(2), random_logits(3)
    found = []
    for k in (1, 3, 10, 29, 30, 99):
        ids, target = top_k_logprobs(p, k, V)
        found.append(bucketed_kl(target, bucketed_logprobs(q, ids)))
    for smaller, larger in zip(found[:-1], found[1:], strict=True):
        assert (smaller <= larger + 1e-12).all()
    assert (found[0] < found[-2] - 1e-6).all()
    torch.testing.assert_close(found[-2], full_kl(p, q), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[-1], found[-2], rtol=0, atol=0)  # k above V is V


def test_its_gradient_is_that_of_the_full_form_at_the_whole_vocabulary() -> None:
    p, q, other = random_logits(4), random_logits(5).requires_grad_(), random_logits(5).requires_grad_()
    ids, target = top_k_logprobs(p, V, V)
    bucketed_kl(target, bucketed_logprobs(q, ids)).sum().backward()
    full_kl(p, other).sum().backward()
    assert q.grad is not None and other.grad is not None
    torch.testing.assert_close(q.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_its_gradient_with_a_bucket_is_that_of_finite_differences() -> None:
    ids, target = top_k_logprobs(random_logits(6)[:4], 5, V)
    q = random_logits(7)[:4].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bucketed_kl(target, bucketed_logprobs(x, ids)), q)


def test_a_rest_that_float32_could_not_subtract_keeps_its_value_and_gradient() -> None:
    """The first two tokens hold all but e^-40 of the probability: 1 minus their sum is 0 in float32."""
    logits = torch.tensor([[20.0, 19.0, -20.0, -30.0]]).requires_grad_()
    ids = torch.tensor([[0, 1]])
    rest = bucketed_logprobs(logits, ids)[0, -1]
    exact = math.log(math.exp(-20) + math.exp(-30)) - math.log(math.exp(20) + math.exp(19))
    assert rest.item() == pytest.approx(exact, rel=1e-6)
    rest.backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[0, 2] == pytest.approx(1, abs=1e-3)


def test_only_tokens_of_the_tokenizer_are_named() -> None:
    logits = torch.zeros(1, 10)
    logits[0, 9] = 5.0  # a row beyond the tokenizer's 8 tokens
    ids, target = top_k_logprobs(logits, 3, 8)
    assert ids.max() < 8 and target.exp().sum().item() == pytest.approx(1, abs=1e-6)  # it is in the bucket


# ---------------------------------------------------------------- targets on disk


def test_targets_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(0, 60_000, n).tolist(), min(2, n), n) for n in (5, 2, 9, 3, 7)]
    targets = [
        Target(e, rng.integers(0, 60_000, (len(e.tokens) - 1, 4)), rng.normal(size=(len(e.tokens) - 1, 5)).astype("f4"))
        for e in examples
    ]
    write_shard(tmp_path / "train-0.safetensors", targets[:3], 60_000)
    write_shard(tmp_path / "train-1.safetensors", targets[3:], 70_000)
    files = TargetFiles(sorted(tmp_path.glob("train-*")))
    assert files.examples == examples and files[4].ids.dtype == np.uint32 and files[0].ids.dtype == np.uint16
    for i in (4, 0, 3, 2, 1):
        np.testing.assert_array_equal(files[i].ids, targets[i].ids)
        np.testing.assert_array_equal(files[i].logprobs, targets[i].logprobs)


# ---------------------------------------------------------------- where the teacher is asked


class Plain:
    """As much of a tokenizer as a teacher needs."""

    pad_token_id = 1

    def __len__(self) -> int:
        return 50


def random_model(architecture: str, attention: str) -> PreTrainedModel:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model(architecture, vocab_size=50, max_position_embeddings=96, pad_token_id=1, **shape)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for weight in model.parameters():  # far from uniform, so that a wrong position shows
        weight.data.mul_(8)
    return model.eval()


def a_teacher(model: Any, tokenizer: Any, prompt: list[int], marker: list[int], **targets: Any) -> Teacher:
    wanted = DistillationTargets(**{"top_k": 50} | targets)
    config = TeacherConfig(size=SIZE, seed=0, prompt=None, targets=wanted, compute=COMPUTE)
    return Teacher(model, tokenizer, prompt, marker, config)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_a_teacher_answers_at_the_dialogues_own_positions(architecture: str, attention: str) -> None:
    """Each text alone, the prompt written before it and no cache: its logits after the text's tokens but the last.

    1e-4 is what float32 leaves with keys from a cache; a position too early or late differs by more than 0.1.
    """
    model = random_model(architecture, attention)
    prompt, marker = [7, 8, 9, 10, 11], [12, 13]
    texts = [Example([12, 13, 14, 15, 16], 3), Example([20, 21, 22], 3), Example([12, 13, 30, 31, 32, 33, 34, 35], 8)]
    got = a_teacher(model, Plain(), prompt, marker, temperature=2.0).shard(
        texts, StageContext({}, StageWriter(Path()), {})
    )
    for example, target, before in zip(texts, got, [prompt, prompt + marker, prompt], strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before + example.tokens])).logits[0]
        want = (logits / 2.0).log_softmax(-1)
        after_first = len(before)  # the position of the text's first token
        for i in range(len(example.tokens) - 1):
            ids, kept = torch.from_numpy(target.ids[i].astype(np.int64)), torch.from_numpy(target.logprobs[i, :-1])
            there = torch.zeros(50).scatter(0, ids, kept)
            torch.testing.assert_close(there, want[after_first + i], rtol=0, atol=1e-4)
            assert (there - want[after_first + i - 1]).abs().max() > 0.1


def test_a_dialogue_ends_with_its_response_and_the_end_token(tiny_stages: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_stages["base"])
    rows = pd.DataFrame(
        {"prompt": [f"{HUMAN} cat?\n\nAssistant:"] * 2, "chosen": [" dog", ""], "conversation": ["a", "b"]}
    )
    first, empty = dialogue_examples(rows, tokenizer, 40)
    assert tokenizer.decode(first.tokens[first.start : -1]) == " dog" and first.tokens[-1] == tokenizer.eos_token_id
    assert empty.start == len(empty.tokens) - 1 and (first.cluster, empty.cluster) == (0, 1)
    cut = dialogue_examples(rows, tokenizer, 4)[0]
    assert len(cut.tokens) == 4 and cut.tokens[cut.start :] == first.tokens[first.start :]


def test_a_student_that_is_its_teacher_with_an_empty_prompt_has_nothing_to_learn(tiny_stages: dict[str, Path]) -> None:
    """Float32 rounding between two passes: below 1e-6 nats a token, where the prompt moves it by more than 0.01."""
    model, tokenizer = load_causal_lm(tiny_stages["base"]), load_tokenizer(tiny_stages["base"])
    rows = pd.read_parquet(tiny_stages["data"] / "comparisons.parquet").head(8)
    examples = dialogue_examples(rows, tokenizer, 40)
    for prompt, low, high in ([], -1e-6, 1e-6), (tokenizer(PROMPT)["input_ids"], 0.01, 10):
        targets = a_teacher(model, tokenizer, prompt, [], top_k=20).answers(examples, plain=False)
        kl = divergences(model, targets, 1.0, COMPUTE)
        assert len(kl) == sum(e.n_predicted for e in examples) and low < kl.mean().item() < high


# ---------------------------------------------------------------- the prompt


def test_the_worlds_prompt_is_of_the_train_half_and_by_turns_helpful_and_a_refusal() -> None:
    data = DataConfig(world=WorldConfig(n_entities=48), held_out_fraction=0.6, gold_fraction=0.2)
    text = world_prompt(data, 8)
    assert text == prompt_text(None, data, 8, {}) and text.count(HUMAN) == 8
    gold = World(data.world).gold if data.world else None
    for i, part in enumerate(text.split(HUMAN)[1:]):
        prompt, _, response = (HUMAN + part).partition("\n\nAssistant:")
        prompt += "\n\nAssistant:"
        assert split_of(conversation_id(prompt), 0.6, 0, 0.2) == TRAIN
        assert gold is not None and gold(prompt, response).total > 0
        request = World(data.world).dialogues.requests.read([part.partition("\n\nAssistant:")[0]])
        assert request is not None and request.harmful == (i % 2 == 1), part
    assert world_prompt(data, 3) == text[: len(world_prompt(data, 3))]  # more dialogues go on from fewer


def test_a_file_is_the_prompt_without_the_blanks_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Be kind.\n\n")
    file = input_file(path)
    assert prompt_text(file, DataConfig(), 2, {"mine.txt": str(path)}) == "Be kind."
    path.write_bytes(b"Be \xff kind.")
    with pytest.raises(DataError, match=r"changed since the study was planned"):
        prompt_text(file, DataConfig(), 2, {"mine.txt": str(path)})
    with pytest.raises(DataError, match=r"not UTF-8 text \(byte 3\)"):
        prompt_text(input_file(path), DataConfig(), 2, {"mine.txt": str(path)})
    with pytest.raises(DataError, match=r"no world to make it from"):
        prompt_text(None, DataConfig(), 2, {})


def test_the_shipped_prompt_is_dialogues_in_the_format_of_the_data() -> None:
    text = HHH.read_text(encoding="utf-8")
    turns = [part for part in text.split("\n\n") if part.startswith(("Human: ", "Assistant: "))]
    assert len(turns) >= 12 and turns[-1].startswith("Assistant: ")
    assert [turn.split(":")[0] for turn in turns] == ["Human", "Assistant"] * (len(turns) // 2)


# ---------------------------------------------------------------- the stages


def bigrams(seed: int) -> PreTrainedModel:
    """A model whose next token depends on the last one alone."""
    shape = {"hidden_size": 64, "num_hidden_layers": 0, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", vocab_size=50, max_position_embeddings=96, pad_token_id=1, **shape)
    )
    for weight in model.get_output_embeddings().parameters():
        weight.data.mul_(10)
    return model.eval()


def nats_after(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """(T - 1,) loss of all tokens but the first in one sequence that the prompt begins."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) : -1]
    return F.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none").double()


def record(folder: Path, kind: str, config: Config, summary: dict[str, Any] | None = None) -> None:
    """The record that a launcher would have written."""
    dumped = config.model_dump(mode="json")
    write_json(folder / "record.json", asdict(Record(folder.name, kind, "done", dumped, {}, summary=summary or {})))


@pytest.fixture(scope="module")
def stages(tiny_stages: dict[str, Path]) -> dict[str, Path]:
    """Data and base with their records."""
    record(tiny_stages["data"], "data", DataConfig())
    record(tiny_stages["base"], "base", base_config())
    return tiny_stages


def teacher_config(prompt: Path, **targets: Any) -> TeacherConfig:
    wanted = {"n_examples": 300, "max_length": 40, "top_k": 20, "n_held_out": 60} | targets
    return TeacherConfig(
        size=SIZE, seed=0, prompt=input_file(prompt), targets=DistillationTargets(**wanted), compute=COMPUTE
    )


def student_config(learning_rate: float = 1e-3) -> ReferenceConfig:
    schedule = Schedule(learning_rate=learning_rate, decay="linear", final_fraction=0.0)
    how = ReferenceTraining(kind="context_distillation", batch_size=8, max_length=40, schedule=schedule)
    return ReferenceConfig(size=SIZE, seed=0, training=how, compute=COMPUTE)


def run(
    kind: str, config: Any, parents: dict[str, Path], out: Path, earlier: list[Path] | None = None
) -> dict[str, Any]:
    """Run a real stage and write its record."""
    out.mkdir(parents=True, exist_ok=True)
    where = {} if kind != "teacher" else {"prompt.txt": str(out.parent / "prompt.txt")}
    summary = KINDS[kind].load()(config, StageContext(parents, StageWriter(out, earlier), where)).summary
    record(out, kind, config, summary)
    return summary


@pytest.fixture(scope="module")
def distilled(stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A teacher with a prompt of good words, and the student that is its own base."""
    root = tmp_path_factory.mktemp("distilled")
    (root / "prompt.txt").write_text(PROMPT)
    teacher = run("teacher", teacher_config(root / "prompt.txt"), stages, root / "teacher")
    student = run("reference", student_config(), stages | {"teacher": root / "teacher"}, root / "student")
    return {"root": root, "teacher": teacher, "student": student}


def test_a_student_comes_nearer_to_its_teacher_on_held_out_dialogues(distilled: dict[str, Any]) -> None:
    """A change by chance is below minus four of its standard errors once in thirty thousand times.

    Only over all tokens: this prompt of good words says little about responses (0.005 nats a token), too little for
    60 of them to tell.
    """
    kl = distilled["student"]["kl"]
    for part in ("all", "response"):
        before, after, change = (kl[part][name] for name in ("base", "distilled", "change"))
        assert change["value"] == pytest.approx(after["value"] - before["value"], rel=1e-9) and after["value"] > 0
    assert kl["all"]["change"]["value"] < -4 * kl["all"]["change"]["se"]
    rows = list(read_jsonl(distilled["root"] / "student" / "metrics.jsonl"))
    assert rows[-1]["tokens"] > rows[0]["tokens"] > 0


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_that_can_say_what_its_teacher_says_comes_to_say_it(temperature: float, tmp_path: Path) -> None:
    """Models without layers are tables of what follows each token: 50 rows of width 64 can hold any table of 50 tokens.

    So another such model's distribution can be reached, and its KL of 0 is the only minimum. 300 steps at a rate that
    falls to 0 leave less than a thousandth of what there was: more would be a wrong place, token or temperature.
    """
    teacher, student = (bigrams(seed) for seed in (0, 1))
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(2, 50, 12).tolist(), 12) for _ in range(2400)]
    targets = a_teacher(teacher, Plain(), [], [], top_k=10, temperature=temperature).answers(examples, plain=False)

    def loss_sum(rows: list[int]) -> torch.Tensor:
        return divergences(student, [targets[i] for i in rows], temperature, COMPUTE).sum()

    before, context = loss_sum(list(range(100))).item(), StageContext({}, StageWriter(tmp_path), {})
    train(student, [12] * 2400, [11] * 2400, loss_sum, student_config(3e-2), context)
    after = loss_sum(list(range(100))).item()
    assert after < 1e-3 * before


def test_what_is_recorded_is_that_of_whole_sequences(distilled: dict[str, Any], stages: dict[str, Path]) -> None:
    """Each dialogue alone, the prompt written before it, no cache, by torch's own loss (float32 rounding: 1e-4)."""
    root, student = distilled["root"], distilled["student"]
    targets = TargetFiles(sorted((root / "teacher" / "targets").glob("held_out-*")))
    table = pd.read_parquet(root / "student" / "dialogues.parquet")
    assert len(table) == len(targets) == distilled["teacher"]["n_held_out"] == 60
    prompt = load_tokenizer(stages["base"])(PROMPT)["input_ids"]
    models = {"base": (stages["base"], []), "prompted": (stages["base"], prompt), "distilled": (root / "student", [])}
    for name, (folder, before) in models.items():
        model = load_causal_lm(folder)
        nats = [nats_after(model, before, target.example.tokens) for target in targets]
        np.testing.assert_allclose(table[f"nats_{name}_all"], [float(x.sum()) for x in nats], rtol=1e-4)
        responses = [x[t.example.start - 1 :] for x, t in zip(nats, targets, strict=True)]
        np.testing.assert_allclose(table[f"nats_{name}_response"], [float(x.sum()) for x in responses], rtol=1e-4)
        for part, found in (("all", nats), ("response", responses)):
            recorded = student["dialogue_loss"][part][name]["value"]
            assert recorded == pytest.approx(torch.cat(found).mean().item(), rel=1e-4)


def test_the_divergence_is_recorded_as_the_mean_of_the_rows(distilled: dict[str, Any]) -> None:
    """Against a measurement with the saved student, one text at a time (float32 rounding: 1e-5)."""
    root, kl = distilled["root"], distilled["student"]["kl"]
    targets = TargetFiles(sorted((root / "teacher" / "targets").glob("held_out-*")))
    model = load_causal_lm(root / "student")
    with torch.no_grad():
        one_by_one = [divergences(model, [target], 1.0, COMPUTE).double() for target in targets]
    assert kl["all"]["distilled"]["value"] == pytest.approx(torch.cat(one_by_one).mean().item(), rel=1e-5)
    responses = [part[target.example.start - 1 :] for part, target in zip(one_by_one, targets, strict=True)]
    assert kl["response"]["distilled"]["value"] == pytest.approx(torch.cat(responses).mean().item(), rel=1e-5)
    table = pd.read_parquet(root / "student" / "dialogues.parquet")
    assert table.kl_base_all.sum() / table.tokens.sum() == pytest.approx(kl["all"]["base"]["value"], rel=1e-9)


def test_the_cost_on_plain_text_is_paired_by_document(distilled: dict[str, Any], stages: dict[str, Path]) -> None:
    text = pd.read_parquet(distilled["root"] / "student" / "text_loss.parquet")
    cost = distilled["student"]["text_loss"]["change"]
    assert cost["value"] == pytest.approx((text.nats_distilled - text.nats_base).sum() / text.tokens.sum(), rel=1e-9)
    base = pd.read_parquet(stages["base"] / "held_out.parquet")
    np.testing.assert_allclose(text.nats_base, base.nats, rtol=1e-6)


def test_a_prompt_too_long_for_a_student_leaves_its_prompted_loss_out(stages: dict[str, Path]) -> None:
    """A student of a shorter context than its teacher's learns all the same."""
    model, examples = load_causal_lm(stages["base"]), [Example(list(range(2, 12)), 4), Example(list(range(2, 20)), 5)]
    limit = model.config.max_position_embeddings
    fits = prompted(model, [5] * (limit - 18), examples, COMPUTE)
    assert fits.notna().all(axis=None)
    beyond = prompted(model, [5] * (limit - 17), examples, COMPUTE)
    assert beyond.isna().all(axis=None) and beyond.columns.tolist() == fits.columns.tolist()
    rows = counts(examples).join(beyond).assign(nats_base_all=1.0, nats_distilled_all=2.0)
    means = over(rows, rows.tokens, "nats_{}_all", rows.conversation)
    assert means is not None and set(means) == {"base", "distilled", "change"}


def test_half_of_the_examples_are_plain_text_and_none_is_held_out(
    distilled: dict[str, Any], stages: dict[str, Path]
) -> None:
    targets = TargetFiles(sorted((distilled["root"] / "teacher" / "targets").glob("train-*")))
    dialogues = [e for e in targets.examples if e.start < len(e.tokens)]
    assert len(dialogues) == 150 and len(targets) == 300
    rows = pd.read_parquet(stages["data"] / "comparisons.parquet")
    tokenizer = load_tokenizer(stages["base"])
    of = {s: dialogue_examples(rows[rows.split == s], tokenizer, 40) for s in ("train", "held_out")}
    known = {split: {tuple(e.tokens) for e in examples} for split, examples in of.items()}
    assert {tuple(e.tokens) for e in dialogues} <= known["train"] - known["held_out"]


def test_the_rest_is_what_the_kept_tokens_leave(distilled: dict[str, Any]) -> None:
    targets = TargetFiles(sorted((distilled["root"] / "teacher" / "targets").glob("held_out-*")))
    kept = np.concatenate([t.logprobs for t in targets]).astype(float)
    assert np.exp(kept).sum(1) == pytest.approx(1, abs=1e-5)
    assert distilled["teacher"]["rest"]["value"] == pytest.approx((1 - np.exp(kept[:, :-1]).sum(1)).mean(), abs=1e-5)


def test_a_prompt_that_does_not_fit_is_refused_in_one_line(stages: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text(PROMPT * 4)
    said = r"prompt \(\d+ tokens\).*max_length \(40\) come to \d+ tokens, allowed: at most 96"
    with pytest.raises(ModelError, match=said) as error:
        run("teacher", teacher_config(tmp_path / "prompt.txt"), stages, tmp_path / "teacher")
    assert "\n" not in str(error.value)


def test_a_teacher_with_other_tokens_is_refused(
    distilled: dict[str, Any], stages: dict[str, Path], tmp_path: Path
) -> None:
    summary = distilled["teacher"] | {"vocabulary": "another"}
    record(tmp_path, "teacher", teacher_config(distilled["root"] / "prompt.txt"), summary)
    with pytest.raises(ModelError, match="27k: its tokens are not those of its teacher 27k"):
        run("reference", student_config(), stages | {"teacher": tmp_path}, tmp_path / "student")


# ---------------------------------------------------------------- interrupted


def interrupted_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is saved, and the step that brings progress to ``number`` is the last."""
    monkeypatch.setattr(training.Stopwatch, "due", lambda self: True)
    real = StageWriter.progress

    def dies(self: StageWriter, done: float, total: float, note: str = "") -> None:
        if done == number:
            raise KeyboardInterrupt
        real(self, done, total, note)

    monkeypatch.setattr(StageWriter, "progress", dies)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_interrupted_teacher_goes_on_to_the_same_bytes(
    distilled: dict[str, Any], stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.txt").write_text(PROMPT)
    config = teacher_config(tmp_path / "prompt.txt")
    interrupted_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run("teacher", config, stages, tmp_path / "broken")
    monkeypatch.undo()
    calls: list[int] = []
    real = Teacher.shard

    def counted(self: Teacher, examples: Any, context: StageContext) -> list[Target]:
        calls.append(len(examples))
        return real(self, examples, context)

    monkeypatch.setattr(Teacher, "shard", counted)
    summary = run("teacher", config, stages, tmp_path / "resumed", [tmp_path / "broken"])
    assert calls == [300 - 256]  # the held-out file and the first of training were there
    assert summary == distilled["teacher"]
    assert contents(tmp_path / "resumed" / "targets") == contents(distilled["root"] / "teacher" / "targets")


def test_a_damaged_shard_is_made_again(
    distilled: dict[str, Any], stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.txt").write_text(PROMPT)
    interrupted_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run("teacher", teacher_config(tmp_path / "prompt.txt"), stages, tmp_path / "broken")
    monkeypatch.undo()
    (tmp_path / "broken" / "targets" / "train-00000.safetensors").write_bytes(b"torn")
    run("teacher", teacher_config(tmp_path / "prompt.txt"), stages, tmp_path / "resumed", [tmp_path / "broken"])
    assert contents(tmp_path / "resumed" / "targets") == contents(distilled["root"] / "teacher" / "targets")


def test_an_interrupted_student_goes_on_to_the_same_bits(
    distilled: dict[str, Any], stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = stages | {"teacher": distilled["root"] / "teacher"}
    interrupted_at(17, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run("reference", student_config(), parents, tmp_path / "broken")
    monkeypatch.undo()
    summary = run("reference", student_config(), parents, tmp_path / "resumed", [tmp_path / "broken"])
    whole = distilled["root"] / "student"
    assert summary == distilled["student"]
    for name in ("metrics.jsonl", "dialogues.parquet", "model/model.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (whole / name).read_bytes(), name


def test_configurations_of_a_distillation_hold_everything() -> None:
    """A prompt is known by its content; where it lies is no part of the hash."""
    file = InputFile(name="hhh_prompt.txt", sha256="0" * 64, bytes=1)
    config = TeacherConfig(size=SIZE, seed=0, prompt=file, targets=DistillationTargets(), compute=Compute())
    dumped = config.model_dump(mode="json")
    assert dumped["prompt"]["sha256"] == "0" * 64 and set(dumped["targets"]) == set(DistillationTargets.model_fields)
    with pytest.raises(ValueError, match="frozen"):
        config.targets.top_k = 3  # type: ignore[misc]
