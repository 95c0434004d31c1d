"""The byte-level BPE: ids, exact round trips, special tokens typed into data, sizes that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hh_scaling.configs import TokenizerConfig
from hh_scaling.inputs import DataError
from hh_scaling.records import StageWriter
from hh_scaling.stages import StageContext
from hh_scaling.tokenizer import EOS, PAD, bytes_per_token, encode, run, train

TEXTS = [
    f"\n\nHuman: What is {i} plus {i * 7}?\n\nAssistant: That makes {i * 8}, I don't doubt it ." for i in range(200)
]
TYPED = f"He typed {EOS} and {PAD}{EOS} twice"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A tokenizer of 400 entries."""
    return train(iter(TEXTS), 400)


@pytest.fixture(scope="module")
def reloaded(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same tokenizer as others load it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(str(folder))


def test_ids(tokenizer: Any, reloaded: Any) -> None:
    for one in (tokenizer, reloaded):
        assert (one.eos_token, one.eos_token_id, one.pad_token, one.pad_token_id) == (EOS, 0, PAD, 1)
        assert len(one) == 400
        assert encode(one, "") == []


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


@pytest.mark.parametrize(
    "text", ["", " a", "a  ", "\r\n\t\x00", "don't , you ?", "\n\nHuman: é 漢字 👩‍👩‍👧", TYPED, *TEXTS[:3]]
)
def test_awkward_texts_round_trip_after_reloading(tokenizer: Any, reloaded: Any, text: str) -> None:
    ids = encode(reloaded, text)
    assert ids == encode(tokenizer, text)
    assert reloaded.decode(ids) == text


def test_special_tokens_in_data_are_spelled_out(tokenizer: Any, reloaded: Any) -> None:
    for one in (tokenizer, reloaded):
        assert not {0, 1} & set(encode(one, TYPED))
        # also for those who load the folder and know nothing of encode()
        assert not {0, 1} & set(one(TYPED)["input_ids"])
        assert not {0, 1} & set(one([TYPED, TYPED])["input_ids"][1])
        assert not {0, 1} & set(one.encode(TYPED))
        assert one.convert_tokens_to_ids(EOS) == 0


def test_encode_is_safe_with_a_tokenizer_that_is_not(tokenizer: Any) -> None:
    other = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token=EOS, pad_token=PAD, bos_token=EOS
    )
    assert 0 in other(TYPED)["input_ids"]
    assert encode(other, TYPED) == encode(tokenizer, TYPED)
    assert 0 in other(TYPED)["input_ids"]  # and it is left as it was


def test_training_is_deterministic(tokenizer: Any) -> None:
    again = train(iter(TEXTS), 400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_special_tokens_in_the_training_text_are_learned_as_text() -> None:
    tokenizer = train(iter([TYPED] * 50), 280)
    assert not {0, 1} & set(encode(tokenizer, TYPED))
    assert tokenizer.decode(encode(tokenizer, TYPED)) == TYPED


def test_sizes_that_cannot_be() -> None:
    assert len(train(iter(TEXTS), 258)) == 258
    with pytest.raises(DataError) as caught:
        train(iter(TEXTS), 257)
    assert str(caught.value) == "tokenizer.vocab_size: 257 is too small; expected at least 258"
    with pytest.raises(DataError) as caught:
        train(iter(["ababab"]), 1000)
    # the bytes, two special tokens, and the merges ab, abab and ababab
    assert str(caught.value) == (
        "tokenizer.vocab_size: 1000 is more than the training text supports; expected 258 to 261, or more text"
    )


def test_bytes_per_token(tokenizer: Any) -> None:
    texts = ["ab cd", "é" * 50, "\n\nHuman: What is"]
    tokens = np.array([len(encode(tokenizer, text)) for text in texts])
    sizes = np.array([5, 100, 16])
    estimate = bytes_per_token(tokenizer, texts)
    assert estimate is not None
    assert estimate["value"] == pytest.approx(121 / tokens.sum(), rel=1e-12)
    # the textbook ratio estimator: residuals about the ratio, divided by the mean denominator
    residuals = sizes - estimate["value"] * tokens
    assert estimate["se"] == pytest.approx(residuals.std(ddof=1) / np.sqrt(3) / tokens.mean(), rel=1e-9)
    assert estimate["n"] == 3
    assert bytes_per_token(tokenizer, []) is None
    assert bytes_per_token(tokenizer, ["one"])["se"] is None  # type: ignore[index]


def stage(tmp_path: Path, train_texts: list[str], held_out: list[str], config: TokenizerConfig) -> tuple[Any, Path]:
    """The stage run on a data stage that has these texts; its result and folder."""
    text, out = tmp_path / "data" / "text", tmp_path / "out"
    text.mkdir(parents=True)
    out.mkdir()
    for name, texts in (("train", train_texts), ("held_out", held_out)):
        (text / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return run(config, StageContext({"data": tmp_path / "data"}, StageWriter(out), {})), out


def test_stage(tmp_path: Path, tokenizer: Any) -> None:
    result, out = stage(tmp_path, TEXTS, TEXTS[:5], TokenizerConfig(vocab_size=400))
    assert result.summary["vocab_size"] == 400
    assert result.summary["bytes_per_token"] == bytes_per_token(tokenizer, TEXTS[:5])
    loaded = AutoTokenizer.from_pretrained(str(out / "tokenizer"))
    assert encode(loaded, TYPED) == encode(tokenizer, TYPED)


def test_the_sample_is_spread_over_the_whole_text(tmp_path: Path) -> None:
    early, late = ["aaaa bbbb " * 50] * 50, ["xyxyxyxy " * 50] * 50
    result, out = stage(tmp_path, early + late, [], TokenizerConfig(vocab_size=262, max_bytes=10_000))
    merges = json.loads((out / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert {"aa", "xy"} <= set(merges)
    assert result.summary["bytes_per_token"] is None


def test_one_document_larger_than_the_limit_is_cut(tmp_path: Path) -> None:
    result, _ = stage(tmp_path, ["ab " * 10_000], [], TokenizerConfig(vocab_size=260, max_bytes=100))
    assert result.summary["vocab_size"] == 260


def test_stage_without_text(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        stage(tmp_path, [], [], TokenizerConfig())
    assert str(caught.value) == (
        "tokenizer: the study has no training text; expected text files, or models with a tokenizer"
    )
