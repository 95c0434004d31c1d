"""The best-of-n stage on tiny models: its tables against each other and its scorers, resuming, and a longer pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hh_scaling.best_of_n import build, expected_scores, run
from hh_scaling.configs import BestOfNConfig, BestOfNSampling
from hh_scaling.order_statistics import kl_upper_bound
from hh_scaling.records import StageWriter
from hh_scaling.rollout import generate
from hh_scaling.scorers import stream_seed
from hh_scaling.stages import StageContext, StageResult
from tests.tiny import COMPUTE, SIZE, interrupted, run_stage

Finished = tuple[Path, StageResult]


def config(seed: int = 0, **sampling: Any) -> BestOfNConfig:
    few: dict[str, Any] = {
        "n_samples": 8,
        "n_prompts": 12,
        "max_prompt_tokens": 40,
        "max_response_tokens": 3,
        "temperature": 0.5,
    }
    few |= {"sample_rows": 24}
    return BestOfNConfig(size=SIZE, seed=seed, sampling=BestOfNSampling(**few | sampling), compute=COMPUTE)


@pytest.fixture(scope="module")
def finished(policy_parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("best-of-n")
    return out, run_stage("best_of_n", config(checkpoint_seconds=1e-9), policy_parents, out)


def test_every_prompt_has_its_pool(finished: Finished, policy_parents: dict[str, Path]) -> None:
    """The held-out prompts in their order, as PPO's evaluations take them."""
    samples = pd.read_parquet(finished[0] / "samples.parquet")
    prompts = pd.read_parquet(policy_parents["data"] / "prompts.parquet").sort_values("order")
    wanted = prompts[prompts.split == "held_out"].head(12).prompt_id
    assert list(samples.prompt_id) == list(np.repeat(wanted, 8))
    assert list(samples["sample"]) == list(range(8)) * 12
    assert samples.gold.isna().all() and samples.score_train.notna().all()  # these data know no gold score


def test_scores_are_the_preference_models(finished: Finished, policy_parents: dict[str, Path], tmp_path: Path) -> None:
    """The first block sampled again by its seed, each sample scored alone; 1e-5 for float32 sums over other padding.
    Equal responses to a prompt are equal to the bit."""
    samples = pd.read_parquet(finished[0] / "samples.parquet")
    sampler = build(config(), StageContext(policy_parents, StageWriter(tmp_path), {}))
    drawn = generate(
        sampler.model, [prompt for prompt in sampler.prompts[:3] for _ in range(8)], max_tokens=3, temperature=0.5,
        tokenizer=sampler.tokenizer, stop=sampler.stop,
        generator=torch.Generator().manual_seed(stream_seed(0, 0, "best_of_n")),
    )  # fmt: skip
    assert sampler.tokenizer.batch_decode([s.text_ids for s in drawn]) == list(samples.response[:24])
    for role in ("train", "test"):
        alone = [sampler.measures.pms[f"pm_{role}"]([one])[0] for one in drawn]
        assert samples[f"score_{role}"][:24].to_numpy() == pytest.approx(np.array(alone), abs=1e-5)
    same = samples.groupby(["prompt_id", "response"]).score_train.nunique()
    assert samples.duplicated(["prompt_id", "response"]).any() and same.max() == 1


def test_samples_are_of_the_reference_at_the_temperature(
    finished: Finished, policy_parents: dict[str, Path], tmp_path: Path
) -> None:
    """A cold reference repeats its likeliest response: near temperature 0 every pool holds one text."""
    run_stage("best_of_n", config(temperature=1e-5, n_prompts=4), policy_parents, tmp_path)
    cold, warm = (pd.read_parquet(folder / "samples.parquet") for folder in (tmp_path, finished[0]))
    assert cold.groupby("prompt_id").response.nunique().max() == 1
    assert warm.groupby("prompt_id").response.nunique().min() > 1
    expected = pd.read_parquet(tmp_path / "expected.parquet")
    assert expected.kl.abs().max() < 1e-12  # all tie: the best of any number is the same response


def test_expected_scores_rise_with_n_on_the_proxy_alone(finished: Finished) -> None:
    """n = 1 is the pool's mean and n = N its maximum, by definition; between them the proxy cannot fall."""
    samples, expected = (pd.read_parquet(finished[0] / f"{name}.parquet") for name in ("samples", "expected"))
    assert sorted(expected.n.unique()) == [1, 2, 4, 8]
    pools = samples.groupby("prompt_id").score_train
    by_n = expected.pivot(index="prompt_id", columns="n", values="score_train")
    assert by_n[1].to_numpy() == pytest.approx(pools.mean().to_numpy())
    assert by_n[8].to_numpy() == pytest.approx(pools.max().to_numpy())
    assert (by_n.diff(axis=1).iloc[:, 1:] >= -1e-12).all().all()
    best = samples.loc[pools.idxmax()].set_index("prompt_id")
    only = samples.groupby("prompt_id").score_train.agg(lambda s: (s == s.max()).sum() == 1)
    at_best = expected[expected.n == 8].set_index("prompt_id")
    assert only.any() and np.allclose(at_best.score_test[only], best.score_test[only], atol=1e-12)


def test_the_summary_has_three_kls_and_standard_errors(finished: Finished) -> None:
    result = finished[1]
    expected = pd.read_parquet(finished[0] / "expected.parquet")
    for entry in result.summary["best_of"]:
        part = expected[expected.n == entry["n"]]
        assert entry["kl_upper_bound"] == kl_upper_bound(entry["n"]) <= entry["kl_log_n"] + 1e-12
        assert entry["kl"]["value"] == pytest.approx(part.kl.mean()) and entry["kl"]["n"] == 12
        assert entry["kl"]["value"] <= entry["kl_upper_bound"] + 1e-12
        se = part.score_test.std(ddof=1) / 12**0.5  # every prompt is a conversation of its own here
        assert entry["score_test"]["se"] == pytest.approx(se) and "gold" not in entry
    assert 0 < result.summary["distinct"]["value"] < 1


def test_ties_are_shared_not_won_by_the_first() -> None:
    rows = {"prompt_id": 0, "conversation": "c", "score_train": [1.0, 1.0, 0.0], "score_test": [4.0, 8.0, 0.0]}
    rest = {name: [0.0] * 3 for name in ("gold", "gold_helpful", "gold_harmless", "length", "ended")}
    table = expected_scores(pd.DataFrame(rows | rest))
    assert list(table.score_test) == pytest.approx([4.0, 6.0, 6.0])  # 12 / 3; any pair holds one of the two; both


def test_work_is_counted(finished: Finished, policy_parents: dict[str, Path], tmp_path: Path) -> None:
    """Twice the prompts are about twice the tokens; sampling alone reads every token of every sample once."""
    writers = []
    for n in (4, 8):
        writer = StageWriter(tmp_path / str(n))
        writer.path.mkdir()
        run(config(n_prompts=n), StageContext(policy_parents, writer, {}))
        writers.append(writer)
    samples = pd.read_parquet(tmp_path / "8" / "samples.parquet")
    assert writers[1].tokens > samples.length.sum() and writers[1].flops > 0
    assert writers[1].tokens / writers[0].tokens == pytest.approx(2, rel=0.1)


def test_a_killed_run_resumes_to_the_same_bits(
    policy_parents: dict[str, Path], finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, resumed = tmp_path / "broken", tmp_path / "resumed"
    interrupted(3, lambda: run_stage("best_of_n", config(checkpoint_seconds=1e-9), policy_parents, broken), monkeypatch)
    run_stage("best_of_n", config(checkpoint_seconds=1e-9), policy_parents, resumed, [broken])
    for name in ("samples.parquet", "expected.parquet", "metrics.jsonl"):
        assert (finished[0] / name).read_bytes() == (resumed / name).read_bytes(), name
