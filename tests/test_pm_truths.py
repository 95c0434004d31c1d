"""Preference models against truths from elsewhere: the temperature that drew the world's labels, a bootstrap over
clusters, transformers' own classifier on token ids, and the memory that a large table takes."""

from __future__ import annotations

import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from analysis.calibration import calibration_slope
from hh_scaling import pairs
from hh_scaling.configs import WorldConfig
from hh_scaling.estimates import clustered_mean
from hh_scaling.pm_model import MAX_LENGTH
from hh_scaling.score import load_scorer
from hh_scaling.tokenizer import EOS, train
from hh_scaling.world import World
from tests.tiny import COMPUTE


@pytest.mark.parametrize("temperature", [1.25, 3.0])
def test_gold_differences_over_their_temperature_are_calibrated(temperature: float) -> None:
    """The label's log-odds are the gold difference over the temperature: logistic regression of the drawn label on it,
    sides in random order, has slope 1 (3 standard errors); the slope that tables give is that of the same regression.
    """
    config = WorldConfig(temperature=temperature, n_comparisons=2500)
    rows = list(islice(World(config).comparisons(), config.n_comparisons))
    difference = np.array([row.gold_chosen - row.gold_rejected for row in rows]) / temperature
    side = np.random.default_rng(0).choice([-1.0, 1.0], len(rows))
    fitted = sm.GLM(side > 0, side * difference, family=sm.families.Binomial()).fit()
    slope, error = float(fitted.params[0]), float(fitted.bse[0])
    assert abs(slope - 1) < 3 * error < 0.3
    ours = calibration_slope(difference, np.arange(len(rows)))
    assert ours is not None and ours.value == pytest.approx(slope, rel=1e-6)
    low, high = ours.interval(0.997)
    assert low is not None and high is not None and low < 1 < high


def test_clustered_errors_are_those_of_a_bootstrap_over_clusters() -> None:
    """Clusters of one to five rows with a common part; 4,000 draws know an error to 1.1 %, three of that and the
    bootstrap's factor (G - 1) / G."""
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(300), rng.integers(1, 6, 300))
    values = rng.normal(0, 1, 300)[cluster] + rng.normal(0, 1, len(cluster))
    sums, sizes = np.bincount(cluster, values), np.bincount(cluster)
    draws = rng.multinomial(300, np.full(300, 1 / 300), size=4000)
    drawn = (draws @ sums) / (draws @ sizes)
    assert clustered_mean(values, cluster)["se"] == pytest.approx(drawn.std(ddof=1), rel=0.035)
    assert clustered_mean(values)["se"] < 0.8 * drawn.std(ddof=1)  # rows are not independent


# ---------------------------------------------------------------- interchange


@pytest.fixture(scope="module")
def own_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random PM with the tokenizer that rungs are trained with."""
    folder = tmp_path_factory.mktemp("own")
    asked = [(a, b) for a in ("cat", "lamp") for b in ("red", "wet")]
    texts = [f"\n\nHuman: Is the {a} {b}?\n\nAssistant: The {a} is {b}." for a, b in asked]
    tokenizer = train(iter(texts * 50), 280)
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=128, num_labels=1, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    setattr(config, MAX_LENGTH, 128)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def test_token_ids_with_the_end_token_give_our_scores(own_model: Path) -> None:
    """As the README says: prompt and response apart, then the end token's id; padded, in float32, to 1e-4."""
    prompt, responses = "\n\nHuman: Is the cat red?\n\nAssistant:", [" The cat is red.", " The lamp is wet, I think."]
    tokenizer = AutoTokenizer.from_pretrained(str(own_model))
    model = AutoModelForSequenceClassification.from_pretrained(own_model, dtype=torch.float32).eval()
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    rows = [before + tokenizer(r, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for r in responses]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.no_grad():
        theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].numpy()
    ours = load_scorer(str(own_model), COMPUTE)([prompt + response for response in responses])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_the_end_token_s_spelling_is_not_the_end_token(own_model: Path) -> None:
    """The trap: text that ends with the token's name is spelled out, and scores otherwise."""
    text = "\n\nHuman: Is the cat red?\n\nAssistant: The cat is red."
    tokenizer = AutoTokenizer.from_pretrained(str(own_model))
    spelled = tokenizer(text + EOS)["input_ids"]
    assert tokenizer.eos_token_id not in spelled and tokenizer.decode(spelled) == text + EOS
    scorer = load_scorer(str(own_model), COMPUTE)
    plain, forged = scorer([text, text + EOS])
    assert abs(plain - forged) > 1e-3


# ---------------------------------------------------------------- streaming


class Lengths:
    """A tokenizer without work: three tokens a text."""

    eos_token_id = 0

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1 + len(text) % 7, 2, 3] for text in texts]}


def peak_of(folder: Path, n: int) -> int:
    """The most bytes that Python and numpy hold while the trees of ``n`` comparisons are written."""
    table = folder / f"{n}.parquet"
    text = [f"{i:06}" * 80 for i in range(n)]
    pd.DataFrame({"prompt": text, "chosen": text, "rejected": text}).to_parquet(table, row_group_size=500)
    del text
    tracemalloc.start()
    found = pairs.write_pairs(table, np.arange(n), Lengths(), 64, folder / "pairs.tmp")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == n
    return peak


def test_memory_grows_with_the_row_group_and_not_with_the_table(tmp_path: Path) -> None:
    """Of another pair, 1,440 characters, only its places, lengths and marks stay: less than 150 bytes."""
    small, large = (peak_of(tmp_path, n) for n in (2000, 12_000))
    assert (large - small) / 10_000 < 150
