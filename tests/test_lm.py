"""Log-likelihoods, rolling log-likelihoods and greedy text against lm-eval's own Hugging Face model and brute force.

Tolerance 1e-4 nats a sequence: float32 logits of these models are right to about 1e-6 relative, and at most some
hundred log-probabilities of size 10 are summed; a wrong mask, position or token is off by 1e-2 and more.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import processors
from transformers import PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.lm import CausalLM
from hh_scaling.token_trees import Rule, Scorable, Tree, grow, seen
from hh_scaling.tree_logprobs import TreeScorer
from tests.tiny_eval import CONTEXT, make_model, make_tokenizer, sentences

TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module", params=["llama-sdpa", "llama-eager", "gpt_neox-sdpa", "gpt_neox-eager"])
def model(request: pytest.FixtureRequest, tokenizer: Any) -> PreTrainedModel:
    return make_model(*request.param.split("-"), len(tokenizer))


@pytest.fixture(scope="module")
def llama(tokenizer: Any) -> PreTrainedModel:
    return make_model("llama", "sdpa", len(tokenizer))


def requests(questions: list[list[tuple[str, str]]]) -> list[Instance]:
    """lm-eval's requests of questions, each a list of (context, continuation)."""
    return [
        Instance("loglikelihood", {}, pair, k, metadata=("task", i, 1))
        for i, pairs in enumerate(questions)
        for k, pair in enumerate(pairs)
    ]


def four_choices(n: int = 12) -> list[list[tuple[str, str]]]:
    return [
        [(f"Question: {text}\nAnswer:", f" {answer}") for answer in sentences(4, 1 + i % 4, seed=i)]
        for i, text in enumerate(sentences(n, 5, seed=1))
    ]


def minimal_pairs(n: int = 12) -> list[list[tuple[str, str]]]:
    return [[("", f"{text} {end}") for end in ("mat near it", "house")] for text in sentences(n, 4, seed=2)]


def odd_ones() -> list[list[tuple[str, str]]]:
    """Spaces at a context's end, one-letter choices, contexts that differ, a single question, long documents.

    No two requests are the same tokens split at different places: there lm-eval's own model (0.4.13) reads the second
    from the wrong positions of its cache of logits, and brute force agrees with ours.
    """
    long = " ".join(sentences(20, seed=5))
    return [
        [("the cat ", "sat"), ("the cat ", "ran on")],
        [("Answer:", f" ({letter})") for letter in "ABCD"],
        [("the red cat", " sat on the mat"), ("the old dog", " sat on the mat")],
        [("the cat sat on the", " mat")],
        [(long, " mat"), (long, " the old house near the river")],
        [("<|endoftext|>the cat", " sat"), ("<|endoftext|>the cat", " ran")],
        [("", "<|endoftext|>an old dog ran")],
    ]


def theirs(model: PreTrainedModel, tokenizer: Any) -> HFLM:
    return HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=4)


def assert_same(ours: list[Any], stock: list[Any]) -> None:
    assert [score[1] for score in ours] == [score[1] for score in stock]
    assert [score[0] for score in ours] == pytest.approx([score[0] for score in stock], abs=TOLERANCE)


@pytest.mark.parametrize("make", [four_choices, minimal_pairs, odd_ones])
def test_loglikelihoods_equal_lm_evals(make: Any, model: PreTrainedModel, tokenizer: Any) -> None:
    asked = requests(make())
    lm = CausalLM(model, tokenizer)
    assert_same(lm.loglikelihood(asked), theirs(model, tokenizer).loglikelihood(asked, disable_tqdm=True))
    assert lm.scorer.packed or lm.scorer.may_share  # what is compared did share beginnings


def test_one_continuation_is_greedy(model: PreTrainedModel, tokenizer: Any) -> None:
    """Of all single tokens as continuations of one context, lm-eval and we call the same one greedy."""
    pieces = [piece for i in range(2, len(tokenizer)) if len(tokenizer.encode(piece := tokenizer.decode([i]))) == 1]
    asked = requests([[("the cat sat", piece) for piece in pieces], [("<|endoftext|>", piece) for piece in pieces]])
    ours = CausalLM(model, tokenizer).loglikelihood(asked)
    assert_same(ours, theirs(model, tokenizer).loglikelihood(asked, disable_tqdm=True))
    assert 1 <= sum(greedy for _, greedy in ours) <= 2


def test_scores_do_not_depend_on_the_token_budget(model: PreTrainedModel, tokenizer: Any) -> None:
    asked = requests(four_choices() + minimal_pairs() + odd_ones())
    first, *others = (
        CausalLM(model, tokenizer, Compute(micro_batch_tokens=n)).loglikelihood(asked) for n in (1, 97, 8192)
    )
    for other in others:
        assert_same(other, first)


def test_forward_passes_keep_to_the_budget_and_share_contexts(llama: PreTrainedModel, tokenizer: Any) -> None:
    asked, seen = requests(four_choices()), []
    CausalLM(llama, tokenizer, Compute(micro_batch_tokens=100), on_batch=seen.append).loglikelihood(asked)
    alone = sum(len(tokenizer.encode(c + t)) - 1 for c, t in (request.args for request in asked))
    assert sum(batch.n_tokens for batch in seen) < 0.6 * alone
    assert sum(batch.share for batch in seen) == pytest.approx(1)
    assert len(seen) > 1 and all(batch.n_tokens <= 100 for batch in seen)
    assert sum(batch.n_logits for batch in seen) < sum(batch.n_tokens for batch in seen)


def test_a_tree_holds_its_sequences() -> None:
    sequences = [
        Scorable([5, 6, 9, 4, 3], 3),
        Scorable([5, 6, 7, 8], 2),
        Scorable([8, 5], 1),
        Scorable([5, 6, 7, 1], 1),
    ]
    (tree,) = grow(sequences, Rule())
    assert (tree.tokens, tree.positions) == ([5, 6, 7, 9, 4, 8], [0, 1, 2, 2, 3, 0])
    assert tree.ends == [5, 5, 3, 5, 5, 6]
    assert {t.index: (t.places, t.tokens) for t in tree.targets} == {
        0: ([1, 3, 4], [9, 4, 3]),
        1: ([1, 2], [7, 8]),
        2: ([5], [5]),
        3: ([2], [1]),
    }
    assert not tree.is_chain and tree.places == [1, 2, 3, 4, 5]
    assert len(grow(sequences, Rule(least_shared=0.5))) == 2  # [8] has nothing in common with the others
    assert len(grow(sequences, Rule(most=4))) == 3


def random_sequences(n: int, seed: int) -> list[Scorable]:
    """Of few different tokens, so that many begin alike and some are others' beginnings."""
    dice = random.Random(seed)
    rows = [[dice.randrange(3) for _ in range(dice.randint(2, 9))] for _ in range(n)]
    return [Scorable(row, dice.randint(0, len(row) - 1)) for row in rows]


@pytest.mark.parametrize("rule", [Rule(), Rule(most=20), Rule(least_shared=0.5), Rule(deepest=5)])
def test_every_token_sees_its_sequence_and_no_other(rule: Rule) -> None:
    """By brute force: what a place sees, read in order, is the sequence up to it."""
    sequences = random_sequences(200, seed=4)
    found: dict[int, int] = {}
    for tree in grow(sequences, rule):
        sees = seen(torch.tensor([tree.ends]))[0]
        for target in tree.targets:
            sequence = sequences[target.index]
            assert target.tokens == sequence.tokens[-sequence.n_scored :]
            for back, place in enumerate(reversed(target.places)):
                before = [tree.tokens[i] for i in sees[place].nonzero().flatten()]
                assert before == sequence.tokens[: len(sequence.tokens) - 1 - back]
                assert tree.positions[place] == len(before) - 1
            found[target.index] = found.get(target.index, 0) + 1
    assert found == {i: 1 for i, sequence in enumerate(sequences) if sequence.n_scored}


def test_rows_lay_every_different_beginning_once() -> None:
    """In one row there are as many tokens as the sequences have different beginnings."""
    sequences = random_sequences(60, seed=5)
    beginnings = {tuple(s.tokens[:n]) for s in sequences if s.n_scored for n in range(1, len(s.tokens))}
    tree = Tree()
    path: list[int] = []
    last: list[int] = []
    for i, s in sorted(enumerate(sequences), key=lambda pair: pair[1].tokens[:-1]):
        if s.n_scored:
            n = next((k for k, pair in enumerate(zip(last, s.tokens[:-1], strict=False)) if len(set(pair)) > 1), None)
            tree.lay(i, s, path, min(len(last), len(s.tokens) - 1) if n is None else n)
            last = s.tokens[:-1]
    assert len(tree) == len(beginnings)


@pytest.fixture(scope="module")
def pythia(tokenizer: Any) -> PreTrainedModel:
    """A model that is computed by its own forward pass."""
    return make_model("gpt_neox", "sdpa", len(tokenizer))


def test_a_model_that_ignores_the_mask_is_found_out(
    pythia: PreTrainedModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(four_choices())
    right = CausalLM(pythia, tokenizer).loglikelihood(asked)
    original = pythia.forward

    def careless(input_ids: Any, attention_mask: Any = None, position_ids: Any = None, use_cache: bool = False) -> Any:
        return original(input_ids=input_ids, use_cache=use_cache)

    monkeypatch.setattr(pythia, "forward", careless)
    lm = CausalLM(pythia, tokenizer)
    assert_same(lm.loglikelihood(asked), right)
    assert lm.scorer.may_share is False


def test_packed_layers_are_for_llamas_as_they_come(
    llama: PreTrainedModel, pythia: PreTrainedModel, tokenizer: Any
) -> None:
    """Not for another architecture, and not where an adapter changes a product."""
    assert TreeScorer(llama, Compute()).packed and not TreeScorer(pythia, Compute()).packed
    adapted = copy.deepcopy(llama)
    layer: Any = adapted.base_model.layers[1].self_attn

    class Adapted(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + x

    layer.q_proj.__class__ = Adapted
    asked = requests(four_choices())
    ours = CausalLM(adapted, tokenizer).loglikelihood(asked)
    assert_same(ours, theirs(adapted, tokenizer).loglikelihood(asked, disable_tqdm=True))
    assert not TreeScorer(adapted, Compute()).packed


@pytest.mark.parametrize("kind", ["llama", "pythia"])
def test_several_processes_give_the_same_scores(kind: str, tokenizer: Any, request: pytest.FixtureRequest) -> None:
    """One process a thread: the same scores in the same order, every batch counted, progress to the end."""
    model, asked, seen_batches = request.getfixturevalue(kind), requests(four_choices() + minimal_pairs()), []
    alone: list[Any] = []
    first = CausalLM(model, tokenizer, on_batch=alone.append).loglikelihood(asked)
    lm = CausalLM(model, tokenizer, Compute(threads=3, micro_batch_tokens=100), on_batch=seen_batches.append)
    with lm.by_processes():
        assert_same(lm.loglikelihood(asked), first)
        assert lm.loglikelihood([]) == []
        assert lm.generate_until([Instance("generate_until", {}, ("a", {"max_gen_toks": 2}), 0, ("g", 0, 1))])
    seen_batches.pop()  # the written text
    assert sum(batch.share for batch in seen_batches) == pytest.approx(1)
    assert sum(batch.n_logits for batch in seen_batches) >= sum(batch.n_logits for batch in alone)
    assert lm.scorer.crew is None


def test_weights_may_change_between_scorings(tokenizer: Any) -> None:
    """Working weights are made anew: an evaluation in the middle of training sees the model as it is."""
    model, asked = make_model("llama", "sdpa", len(tokenizer)), requests(four_choices())
    lm = CausalLM(model, tokenizer)
    first = lm.loglikelihood(asked)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    second = lm.loglikelihood(asked)
    assert first != second
    assert_same(second, theirs(model, tokenizer).loglikelihood(asked, disable_tqdm=True))


def test_nothing_asked_and_nothing_to_score(llama: PreTrainedModel, tokenizer: Any) -> None:
    lm = CausalLM(llama, tokenizer)
    assert lm.loglikelihood([]) == []
    assert lm.loglikelihood(requests([[("the cat", "")]])) == [(0.0, True)]


def test_a_sliding_window_limits_trees(pythia: PreTrainedModel) -> None:
    scorer = TreeScorer(pythia, Compute())
    sequences = [Scorable([5, 6, 7, 8], 2), Scorable([5, 6, 9, 4, 3], 3)]
    assert [tree.tokens for tree in scorer.trees(sequences)] == [[5, 6, 7, 9, 4]]
    scorer.deepest_shared = 3
    assert [tree.tokens for tree in scorer.trees(sequences)] == [[5, 6, 7], [5, 6, 9, 4]]


def test_documents_cut_from_the_left_are_counted(llama: PreTrainedModel, tokenizer: Any) -> None:
    lm = CausalLM(llama, tokenizer)
    lm.loglikelihood(requests(odd_ones()))
    assert lm.truncated == {"task": {4}}  # one document, though two of its requests were cut


def test_a_continuation_longer_than_the_context_keeps_its_end(llama: PreTrainedModel, tokenizer: Any) -> None:
    text = " ".join(sentences(30, seed=6))
    ((score, _),) = CausalLM(llama, tokenizer).loglikelihood(requests([[("the cat", f" {text}")]]))
    tokens = tokenizer.encode(f"the cat {text}")[-(CONTEXT + 1) :]
    assert score == pytest.approx(brute_force(llama, tokens, CONTEXT), abs=TOLERANCE)


def brute_force(model: PreTrainedModel, tokens: list[int], n_scored: int) -> float:
    """Log-likelihood of the last tokens, from one plain forward pass."""
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return float(sum(logprobs[i - 1, tokens[i]] for i in range(len(tokens) - n_scored, len(tokens))))


def test_rolling_loglikelihood_is_the_sum_over_windows(model: PreTrainedModel, tokenizer: Any) -> None:
    texts = [" ".join(sentences(n, seed=n)) for n in (1, 9, 20)] + [""]
    asked = [Instance("loglikelihood_rolling", {}, (text,), 0, metadata=("bits", i, 1)) for i, text in enumerate(texts)]
    ours = CausalLM(model, tokenizer).loglikelihood_rolling(asked)
    for value, text in zip(ours, texts, strict=True):
        tokens = tokenizer.encode(text)
        total = brute_force(model, [0, *tokens[:CONTEXT]], min(CONTEXT, len(tokens)))
        for start in range(CONTEXT, len(tokens), CONTEXT):  # later windows end with theirs and are filled up before
            end = min(start + CONTEXT, len(tokens))
            total += brute_force(model, tokens[end - CONTEXT - 1 : end], end - start)
        assert value == pytest.approx(total, abs=TOLERANCE)
    assert len(tokens := tokenizer.encode(texts[2])) > 2 * CONTEXT, len(tokens)
    stock = theirs(model, tokenizer).loglikelihood_rolling(asked[:3], disable_tqdm=True)
    assert ours[:3] == pytest.approx(stock, abs=TOLERANCE)


def test_greedy_text_equals_lm_evals(model: PreTrainedModel, tokenizer: Any) -> None:
    contexts = [f"Q: {text}\nA:" for text in sentences(7, 5, seed=8)] + ["the", " ".join(sentences(20, seed=9))]
    longest = {"until": [], "max_gen_toks": 20}
    free = [Instance("generate_until", {}, (c, longest), 0, metadata=("g", i, 1)) for i, c in enumerate(contexts)]
    lm = CausalLM(model, tokenizer, Compute(micro_batch_tokens=150))
    texts = lm.generate_until(free)
    assert texts == theirs(model, tokenizer).generate_until(free, disable_tqdm=True)
    assert lm.truncated == {"g": {len(contexts) - 1}}
    stops = {"until": [texts[0][3:5], texts[2][6:8]], "max_gen_toks": 20}
    stopped = [Instance("generate_until", {}, (c, stops), 0, metadata=("g", i, 1)) for i, c in enumerate(contexts)]
    assert lm.generate_until(stopped) == theirs(model, tokenizer).generate_until(stopped, disable_tqdm=True)
    assert lm.generate_until(stopped)[0] == texts[0].split(stops["until"][0])[0].split(stops["until"][1])[0]


def test_sampled_answers_are_refused(llama: PreTrainedModel, tokenizer: Any) -> None:
    options = {"do_sample": True, "temperature": 0.7, "until": []}
    with pytest.raises(ValueError, match="task g samples its answers"):
        CausalLM(llama, tokenizer).generate_until([Instance("generate_until", {}, ("a", options), 0, ("g", 0, 1))])


def test_a_tokenizer_that_adds_a_beginning(llama: PreTrainedModel, tokenizer: Any) -> None:
    """Contexts get the begin-of-text token once, as lm-eval has it; rolling text is not charged for it."""
    adding = copy.deepcopy(tokenizer)
    adding.bos_token = "<|endoftext|>"
    adding.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]),
        ]
    )
    assert adding.encode("the")[0] == 0
    asked = requests(four_choices() + minimal_pairs() + odd_ones())
    assert_same(CausalLM(llama, adding).loglikelihood(asked), theirs(llama, adding).loglikelihood(asked, True))
    rolling = [Instance("loglikelihood_rolling", {}, ("the cat sat",), 0, metadata=("bits", 0, 1))]
    (value,) = CausalLM(llama, adding).loglikelihood_rolling(rolling)
    tokens = adding.encode("the cat sat")
    assert value == pytest.approx(brute_force(llama, tokens, len(tokens) - 1), abs=TOLERANCE)


def test_bf16_changes_little(model: PreTrainedModel, tokenizer: Any) -> None:
    """bf16 has 8 bits: logits of size 5 are off by .02, and at most some ten independent errors add up."""
    asked = requests(four_choices())
    exact = CausalLM(model, tokenizer).loglikelihood(asked)
    rough = CausalLM(model, tokenizer, Compute(dtype="bf16")).loglikelihood(asked)
    assert [score[0] for score in rough] == pytest.approx([score[0] for score in exact], abs=0.3, rel=0.01)
    assert [score[0] for score in rough] != [score[0] for score in exact]


def test_evaluating_leaves_everything_as_it_was(tokenizer: Any) -> None:
    model = make_model("gpt_neox", "sdpa", len(tokenizer)).train()
    model.base_model.layers[1].eval()  # a mixture of modes has to come back as it was
    own = copy.deepcopy(tokenizer)
    own.backend_tokenizer.enable_truncation(7)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002 (the global state is what is tested)

    def state() -> list[Any]:
        weights = [value.clone() for value in model.state_dict().values()]
        modes = [module.training for module in model.modules()]
        numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
        tokens = own.backend_tokenizer.to_str()
        return [weights, modes, tokens, random.getstate(), numpy_state, torch.get_rng_state().tolist()]

    before = state()
    lm = CausalLM(model, own)
    first = lm.loglikelihood(requests(four_choices()))
    lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("the cat",), 0, metadata=("b", 0, 1))])
    lm.generate_until([Instance("generate_until", {}, ("the", {"until": ["x"], "max_gen_toks": 4}), 0, ("g", 0, 1))])
    after = state()
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]
    assert lm.loglikelihood(requests(four_choices())) == first  # dropout was off although the model trains
