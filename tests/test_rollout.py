"""Generation and log-probabilities against plain full forward passes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hh_scaling import models, rollout
from hh_scaling.configs import Compute
from hh_scaling.losses import kl_k1
from tests.tiny import COMPUTE


@pytest.fixture(scope="module")
def loaded(tiny_stages: dict[str, Path]) -> tuple[Any, Any]:
    return models.load_causal_lm(tiny_stages["base"]), models.load_tokenizer(tiny_stages["base"])


def sample(loaded: tuple[Any, Any], prompts: list[list[int]], seed: int = 0, **options: Any) -> list[rollout.Sample]:
    model, tokenizer = loaded
    arguments: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0} | options
    generator = torch.Generator().manual_seed(seed)
    return rollout.generate(
        model, prompts, tokenizer=tokenizer, stop=rollout.StopText(tokenizer), generator=generator, **arguments
    )


def prompts_of(tokenizer: Any) -> list[list[int]]:
    texts = ["\n\nHuman: tell me cat dog?\n\nAssistant:", "cat", "\n\nHuman: tell me\n\nAssistant: good bad bird"] * 4
    ids: list[list[int]] = tokenizer(texts)["input_ids"]
    return ids


def greedy(model: Any, prompt: list[int], end: int, n: int) -> list[int]:
    """Argmax decoding by whole forward passes, no cache and no padding."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == end:
            break
    return ids[len(prompt) :]


def test_cached_padded_sampling_follows_the_model(loaded: tuple[Any, Any]) -> None:
    """At a vanishing temperature sampling is argmax: padding, the cache and retired rows change nothing."""
    model, tokenizer = loaded
    prompts = prompts_of(tokenizer)
    for got in sample(loaded, prompts, temperature=1e-4):
        want = greedy(model, got.prompt, tokenizer.eos_token_id, 12)
        assert got.response == want
        assert got.ended == (want[-1] == tokenizer.eos_token_id)


def test_sampled_frequencies_match_the_softmax(loaded: tuple[Any, Any]) -> None:
    """Chi-square of 4,000 first tokens against the model's probabilities, rare tokens pooled: p above 1e-4."""
    model, tokenizer = loaded
    prompt = prompts_of(tokenizer)[0]
    drawn = sample(loaded, [prompt] * 4000, max_tokens=1)
    counts = torch.bincount(torch.tensor([s.response[0] for s in drawn]), minlength=len(tokenizer)).double()
    expected = 4000 * torch.softmax(model(torch.tensor([prompt])).logits[0, -1].detach().double(), -1)
    common = expected >= 5
    observed = [*counts[common].tolist(), float(counts[~common].sum())]
    assert chisquare(observed, [*expected[common].tolist(), float(expected[~common].sum())]).pvalue > 1e-4


def test_same_seed_same_samples(loaded: tuple[Any, Any]) -> None:
    prompts = prompts_of(loaded[1])
    assert sample(loaded, prompts, 3) == sample(loaded, prompts, 3) != sample(loaded, prompts, 4)


@pytest.mark.parametrize("budget", [64, 4096])
def test_logprobs_equal_an_unpadded_forward_pass(loaded: tuple[Any, Any], budget: int) -> None:
    """float32 rounding between batch shapes: 1e-5 (logits are of order 10)."""
    model, tokenizer = loaded
    samples = sample(loaded, prompts_of(tokenizer))
    compute = Compute(micro_batch_tokens=budget)
    scored = rollout.score_responses(model, None, samples, 0.7, compute, with_entropy=True)
    for i, s in enumerate(samples):
        logits = model(torch.tensor([s.ids])).logits[0].detach() / 0.7
        at = range(len(s.prompt) - 1, len(s.ids) - 1)
        want = torch.stack([torch.log_softmax(logits[t], -1)[s.ids[t + 1]] for t in at])
        n = len(s.response)
        torch.testing.assert_close(scored.logprobs[i, :n], want, rtol=1e-5, atol=1e-5)
        oracle = torch.stack([torch.distributions.Categorical(logits=logits[t]).entropy() for t in at])
        torch.testing.assert_close(scored.entropy[i, :n], oracle, rtol=1e-4, atol=1e-5)
        assert scored.mask[i].sum() == n and (scored.logprobs[i, n:] == 0).all()


def test_sequence_kl_is_unbiased(loaded: tuple[Any, Any], tiny_stages: dict[str, Path]) -> None:
    """Mean k1 of one-token responses equals the exact KL of the two softmaxes within 4.5 standard errors."""
    model, tokenizer = loaded
    other = models.load_causal_lm(tiny_stages["base"])
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    prompt = prompts_of(tokenizer)[0]
    samples = sample(loaded, [prompt] * 3000, max_tokens=1)
    ours = rollout.score_responses(model, None, samples, 1.0, COMPUTE)
    theirs = rollout.score_responses(other, None, samples, 1.0, COMPUTE)
    k1 = kl_k1(ours.logprobs, theirs.logprobs)[:, 0]
    p, q = (torch.log_softmax(m(torch.tensor([prompt])).logits[0, -1].detach(), -1) for m in (model, other))
    exact = (p.exp() * (p - q)).sum()
    assert exact > 0.01 and abs(k1.mean() - exact) < 4.5 * k1.std() / 3000**0.5


def test_a_new_human_turn_ends_the_response(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    stop = rollout.StopText(tokenizer)
    ids = tokenizer(" good bad\n\nHuman: more")["input_ids"]
    kept = stop.kept(ids)
    assert kept is not None and tokenizer.decode(ids[:kept]) == " good bad"
    assert stop.kept(tokenizer(" good: bad\n\nHum")["input_ids"]) is None
    assert stop.kept(tokenizer("\n\nHuman:")["input_ids"]) == 1  # a response has at least one token
    merged = tokenizer(" good\n\n\nHuman:")["input_ids"]  # the stop text may begin inside a token
    assert (n := stop.kept(merged)) is not None and "Human" not in tokenizer.decode(merged[:n])


def test_what_is_cut_from_a_response_is_kept_beside_it(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop text is in what was drawn and, but for a first token, not in the response."""
    prompts = prompts_of(loaded[1])
    monkeypatch.setattr(rollout, "STOP_TEXT", ":")
    cut = sample(loaded, prompts * 20, 5, temperature=3.0)
    assert any(s.cut for s in cut) and all(s.ended for s in cut if s.cut)
    for s in cut:
        text = loaded[1].decode(s.uncut.response)
        assert (":" in text) == bool(s.cut) or len(s.response) == 1
        assert s.uncut.ids == s.prompt + s.response + s.cut and s.uncut.cut == []


def test_ids_beyond_the_tokenizer_are_only_tokens(loaded: tuple[Any, Any]) -> None:
    """Models pad their vocabulary: a sampled id that the tokenizer does not know must not end the run."""
    model, tokenizer = loaded
    model = copy.deepcopy(model)
    model.resize_token_embeddings(len(tokenizer) + 7, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[len(tokenizer) :] = 0.2 * model.get_output_embeddings().weight[5]
    stop = rollout.StopText(tokenizer, model.config.vocab_size)
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 5.0, "tokenizer": tokenizer, "stop": stop}
    drawn = rollout.generate(model, [[5, 6]] * 64, rows=20, generator=torch.Generator().manual_seed(0), **options)
    assert len(drawn) == 64 and max(t for s in drawn for t in s.response) >= len(tokenizer)


def test_every_end_token_ends_and_is_not_read(loaded: tuple[Any, Any]) -> None:
    """A list of end ids in the generation settings counts; the text is the response without the end token."""
    model, tokenizer = loaded
    model = copy.deepcopy(model)
    likeliest = sample((model, tokenizer), [[5, 6]], temperature=1e-4)[0].response[1]
    model.generation_config.eos_token_id = [likeliest, tokenizer.eos_token_id]
    assert rollout.end_tokens(tokenizer, model) == sorted({likeliest, tokenizer.eos_token_id})
    stop = rollout.StopText(tokenizer, 0, rollout.end_tokens(tokenizer, model))
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 1e-4, "tokenizer": tokenizer, "stop": stop}
    drawn = rollout.generate(model, [[5, 6]], generator=torch.Generator().manual_seed(0), **options)[0]
    assert drawn.ended and drawn.response[-1] == likeliest and drawn.text_ids == drawn.response[:-1]


def test_end_tokens_in_the_prompt_or_as_only_token_are_fine(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    end = tokenizer.eos_token_id
    only_end = rollout.Sample([end, 5, end], [end], True)
    longer = rollout.Sample([7], [8, 9, end], True)
    scored = rollout.score_responses(model, None, [only_end, longer], 1.0, COMPUTE)
    assert scored.mask.tolist() == [[True, False, False], [True, True, True]]
    logits = model(torch.tensor([[end, 5, end]])).logits[0, -1].detach()
    torch.testing.assert_close(scored.logprobs[0, 0], torch.log_softmax(logits, -1)[end], rtol=1e-5, atol=1e-5)


def test_tokens_are_as_frequent_as_the_softmax_says() -> None:
    """Chi-square of 200,000 draws at a temperature, also with a token of probability 0 and a rare one (p > 1e-4)."""
    logits = torch.tensor([2.0, -3.0, 0.5, float("-inf"), 1.0, -1.0])
    n, temperature = 200_000, 0.8
    generator = torch.Generator().manual_seed(0)
    drawn = rollout.sample_tokens(logits.expand(n, -1), temperature, generator)
    expected = torch.softmax(logits / temperature, -1).numpy() * n
    counts = np.bincount(drawn, minlength=6)
    assert counts[3] == 0
    seen = expected > 0
    assert chisquare(counts[seen], expected[seen]).pvalue > 1e-4
