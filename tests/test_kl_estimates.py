"""KL estimators against the exact KL between two tiny models, by enumeration of everything they can say."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoConfig, AutoModelForCausalLM

from hh_scaling import kl_estimates
from hh_scaling.configs import Compute
from hh_scaling.kl_estimates import ResponseKL, read, response_kl, token_terms
from hh_scaling.rollout import Sample, StopText, generate
from tests.tiny import COMPUTE

PIECES = ("", "\n\nHuman", ":")  # the first is the end token; the others together are the stop text
LIMIT, TEMPERATURE = 4, 0.7
PROMPTS = ([2, 0, 1], [1])  # of different lengths, so that one is padded; an end token inside
NAMES = ("k1", "k3", "exact")


class ThreeTokens:
    """A tokenizer whose padding is its end token."""

    eos_token_id = pad_token_id = 0

    def __len__(self) -> int:
        return len(PIECES)

    def decode(self, ids: list[int]) -> str:
        return "".join(PIECES[i] for i in ids)

    def batch_decode(self, rows: list[list[int]]) -> list[str]:
        return [self.decode(row) for row in rows]


def tiny_model(seed: int, sharpness: float = 1.0, start: Any = None, hidden_act: str = "silu") -> Any:
    """A random Llama over three tokens; from ``start`` its output matrix is moved by ``sharpness`` instead."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "hidden_act": hidden_act}
    config = AutoConfig.for_model("llama", vocab_size=3, initializer_range=0.3, **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if start is not None:
        noise = sharpness * torch.randn(3, 16)
        model = copy.deepcopy(start)
        with torch.no_grad():
            model.get_output_embeddings().weight.add_(noise)
    return model


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return tiny_model(0), tiny_model(1)


def everything(prompt: list[int], so_far: tuple[int, ...] = ()) -> list[Sample]:
    """Every response that sampling can end with: by the end token, by the stop text, or at the limit."""
    ended = bool(so_far) and (so_far[-1] == 0 or "\n\nHuman:" in ThreeTokens().decode(list(so_far)))
    if ended or len(so_far) == LIMIT:
        return [Sample(prompt, list(so_far), ended)]
    return [sample for token in range(3) for sample in everything(prompt, (*so_far, token))]


def probability(model: Any, sample: Sample) -> float:
    """Of the whole response, from one unpadded forward pass in float64."""
    logits = model(torch.tensor([sample.ids])).logits[0].detach().double() / TEMPERATURE
    logprobs = torch.log_softmax(logits, -1)
    places = range(len(sample.prompt) - 1, len(sample.ids) - 1)
    return float(sum(logprobs[t, sample.ids[t + 1]] for t in places).exp())


def true_kl(p: Any, q: Any, prompt: list[int]) -> float:
    """The sum over all responses of p ln(p / q)."""
    both = [(probability(p, s), probability(q, s)) for s in everything(prompt)]
    assert sum(x for x, _ in both) == pytest.approx(1, abs=1e-6)
    return sum(x * np.log(x / y) for x, y in both)


def kl_of(p: Any, q: Any, samples: list[Sample], compute: Compute = COMPUTE) -> ResponseKL:
    readings = [read(model, samples, compute) for model in (p, q)]
    return response_kl(*readings, samples, TEMPERATURE, compute)


def moments(p: Any, q: Any, prompt: list[int]) -> dict[str, tuple[float, float]]:
    """Mean and variance of each estimator over all responses, weighted by their probabilities."""
    samples = everything(prompt)
    weights = np.array([probability(p, s) for s in samples])
    found = kl_of(p, q, samples, COMPUTE)
    means = {name: float(weights @ getattr(found, name)) for name in NAMES}
    return {name: (mean, float(weights @ (getattr(found, name) - mean) ** 2)) for name, mean in means.items()}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_estimator_is_unbiased_by_enumeration(pair: tuple[Any, Any], prompt: list[int]) -> None:
    """No sampling: float32 logits of order 1 leave errors below 1e-5. Both directions; they differ."""
    for p, q in (pair, pair[::-1]):
        found, truth = moments(p, q, prompt), true_kl(p, q, prompt)
        assert truth > 0.05
        for name in NAMES:
            assert found[name][0] == pytest.approx(truth, abs=1e-5)
        assert found["exact"][1] < found["k1"][1]
    assert abs(true_kl(*pair, prompt) - true_kl(*pair[::-1], prompt)) > 0.01


def test_k3_has_the_smaller_spread_near_and_the_larger_far_away() -> None:
    """Why all are reported: at a small KL k3 is the better of the two sampled ones, at a large one it is the worse."""
    start = tiny_model(0)
    near, far = (moments(tiny_model(8, sharpness, start), start, [1]) for sharpness in (0.03, 1.0))
    assert near["k1"][0] < 0.05 and near["k3"][1] < near["k1"][1] / 10
    assert far["k1"][0] > 1 and far["k3"][1] > 10 * far["k1"][1]
    assert all(found["exact"][1] < min(found["k1"][1], found["k3"][1]) for found in (near, far))


def drawn(model: Any, n: int, seed: int) -> list[Sample]:
    options: dict[str, Any] = {"tokenizer": ThreeTokens(), "stop": StopText(ThreeTokens(), 3, [0])}
    options |= {"max_tokens": LIMIT, "temperature": TEMPERATURE, "rows": 2000}
    prompts = [prompt for prompt in PROMPTS for _ in range(n)]
    return generate(model, prompts, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("forward", [True, False])
def test_estimates_from_samples_agree_with_the_truth(pair: tuple[Any, Any], forward: bool) -> None:
    """Each on the sampler's own 1,500 responses a prompt: within 4.5 standard errors, which a right estimator leaves
    once in 150,000; and the exact one spreads least. Responses end in all three ways."""
    p, q = pair if forward else pair[::-1]
    n = 1500
    samples = drawn(p, n, seed=3)
    assert any(s.cut for s in samples) and any(not s.ended for s in samples) and any(s.end_emitted for s in samples)
    found = kl_of(p, q, samples, COMPUTE)
    for i, prompt in enumerate(PROMPTS):
        rows, truth = slice(i * n, (i + 1) * n), true_kl(p, q, prompt)
        values = {name: getattr(found, name)[rows] for name in NAMES}
        for x in values.values():
            assert abs(x.mean() - truth) < 4.5 * x.std() / n**0.5
        assert values["exact"].var() < values["k1"].var()


@pytest.mark.parametrize("hidden_act", ["silu", "gelu"])
def test_what_is_drawn_is_as_frequent_as_the_model_says(hidden_act: str) -> None:
    """Whole responses, what was cut included, by either decoder: chi-square of 4,000 against enumeration, p above 1e-4.

    Prompts of other lengths lie in the same batch, and rows leave it when they end.
    """
    model = tiny_model(0, hidden_act=hidden_act)
    outcomes = {tuple(s.response): probability(model, s) for s in everything(PROMPTS[0])}
    counts = Counter(tuple(s.uncut.response) for s in drawn(model, 4000, seed=5)[:4000])
    assert set(counts) <= set(outcomes)  # a stop text that is not kept would leave responses that cannot be
    assert chisquare([counts[o] for o in outcomes], [4000 * p for p in outcomes.values()]).pvalue > 1e-4


def test_a_stop_text_left_out_would_bias_every_estimator(pair: tuple[Any, Any]) -> None:
    """By enumeration: over the kept tokens alone the three means differ from the truth, and from one another."""
    p, q = pair[::-1]
    stop = StopText(ThreeTokens(), 3, [0])
    samples = everything([1])
    weights = np.array([probability(p, s) for s in samples])
    cut = [s if (n := stop.kept(s.response)) is None else replace(s, response=s.response[:n]) for s in samples]
    found = kl_of(p, q, cut, COMPUTE)
    means = [float(weights @ getattr(found, name)) for name in NAMES]
    truth = true_kl(p, q, [1])
    assert all(abs(mean - truth) > 0.01 for mean in means) and np.ptp(means) > 0.01
    whole = [replace(kept, cut=s.response[len(kept.response) :]) for kept, s in zip(cut, samples, strict=True)]
    assert weights @ kl_of(p, q, whole, COMPUTE).k1 == pytest.approx(truth, abs=1e-5)


def test_equal_models_give_exactly_zero(pair: tuple[Any, Any]) -> None:
    """Not nearly: at the start of a run, however sequences are grouped."""
    samples = drawn(pair[0], 30, seed=0)
    for compute in (COMPUTE, Compute(micro_batch_tokens=16)):
        found = kl_of(pair[0], copy.deepcopy(pair[0]), samples, compute)
        assert not any(getattr(found, name).any() for name in NAMES) and (found.entropy > 0).all()


@pytest.mark.parametrize("hidden_act", ["silu", "gelu"])
def test_bf16_stages_are_read_in_float32(hidden_act: str) -> None:
    """Bit for bit, by packed and by padded passes: rounding to bf16 would be a KL of its own."""
    p, q = (tiny_model(seed, hidden_act=hidden_act) for seed in (0, 1))
    samples = drawn(p, 30, seed=0)
    ours, theirs = (kl_of(p, q, samples, Compute(dtype=dtype)) for dtype in ("bf16", "float32"))
    assert all((getattr(ours, name) == getattr(theirs, name)).all() for name in (*NAMES, "entropy"))


def test_nothing_depends_on_the_grouping_and_few_logits_are_held(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding between batch shapes: 1e-5. Logits exist for response tokens alone, at most a chunk at a time."""
    samples = [s for i in range(10) for prompt in PROMPTS for s in everything(prompt)[i::10]]
    whole = kl_of(*pair, samples, COMPUTE)
    shapes: list[tuple[int, ...]] = []

    def watched(logits: torch.Tensor, *rest: Any) -> torch.Tensor:
        shapes.append(tuple(logits.shape))
        return token_terms(logits, *rest)

    monkeypatch.setattr(kl_estimates, "token_terms", watched)
    monkeypatch.setattr(kl_estimates, "CHUNK", 64 * 3)
    grouped = kl_of(*pair, samples[::-1], Compute(micro_batch_tokens=600))
    for name in (*NAMES, "entropy"):
        np.testing.assert_allclose(getattr(whole, name), getattr(grouped, name)[::-1], rtol=1e-5, atol=1e-5)
    assert whole.tokens.tolist() == [len(s.response) for s in samples]
    assert max(n for n, _ in shapes) == 64 and sum(n for n, _ in shapes) == whole.tokens.sum()


def test_terms_of_a_token_against_torch_distributions() -> None:
    """Temperature on both sides, float32 rounding; k1 is signed and nothing is clamped."""
    generator = torch.Generator().manual_seed(0)
    logits, other = (3 * torch.randn(50, 7, generator=generator) for _ in range(2))
    tokens = torch.randint(7, (50,), generator=generator)
    p, q = (torch.distributions.Categorical(logits=x / 0.7) for x in (logits, other))
    k1, k3, exact, entropy = token_terms(logits, other, tokens, 0.7)
    torch.testing.assert_close(k1, p.log_prob(tokens) - q.log_prob(tokens), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(k3, torch.exp(-k1) - 1 + k1, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exact, torch.distributions.kl_divergence(p, q), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, p.entropy(), rtol=1e-5, atol=1e-5)
    assert k1.min() < -10 and k1.max() > 10
