"""A causal LM as lm-eval's evaluator wants it: log-likelihoods, rolling log-likelihoods, greedy text.

Tokenization is that of lm-eval's own Hugging Face model, so that scores are too; the computing is in tree_logprobs.
Neither the model, its mode, the tokenizer nor any random state is changed.
"""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.crew import crew_size
from hh_scaling.greedy_text import GreedyText
from hh_scaling.token_trees import Scorable
from hh_scaling.tree_logprobs import Batch, TreeScorer, evaluating

MAX_NEW_TOKENS = 256  # where a task does not say


class CausalLM(LM):
    """A transformers causal LM and its tokenizer behind lm-eval's interface.

    ``on_batch`` hears of every forward pass. ``truncated`` holds, by task, the documents that lost their beginning to
    the limit of ``max_length`` tokens (the model's own unless given).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        compute: Compute | None = None,
        *,
        max_length: int | None = None,
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = copy.deepcopy(tokenizer)  # calling one sets its padding and truncation
        self.max_length = max_length or resolve_max_length(model.config, tokenizer)
        self.on_batch = on_batch
        self.compute = compute or Compute()
        self.scorer = TreeScorer(model, self.compute)
        bos = self.tokenizer.bos_token_id
        self.prefix_token = self.tokenizer.eos_token_id if bos is None else bos  # what stands before a first token
        self.prefix_text = self.tokenizer.decode([self.prefix_token])
        self.truncated: dict[str, set[Any]] = defaultdict(set)

    def by_processes(self) -> contextlib.AbstractContextManager[None]:
        """Within it one process a thread does the scoring; the model must not change."""
        return self.scorer.by_processes(crew_size(self.compute))

    # ------------------------------------------------------------ lm-eval's interface

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Per (context, continuation): the continuation's log-likelihood in nats, and whether it is the greedy one."""
        return list(self.scorer.score(self.sequences(requests), self.on_batch))

    def sequences(self, requests: list[Instance]) -> list[Scorable]:
        """What is scored of each (context, continuation)."""
        pairs = self._encode_pairs([request.args for request in requests])
        return [self._fitted(c, t, request) for (c, t), request in zip(pairs, requests, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Per text: its log-likelihood in nats, every token predicted once with as much before it as windows allow.

        Unlike lm-eval's own model, a begin-of-text token that the tokenizer adds is context and not predicted.
        """
        texts = [request.args[0] for request in requests]
        sequences, owners = [], []
        for owner, tokens in enumerate(self._encode(texts, special=False)):
            for window in get_rolling_token_windows(tokens, self.prefix_token, self.max_length, context_len=1):
                context, scored = make_disjoint_window(window)
                sequences.append(Scorable(context + scored, len(scored)))
                owners.append(owner)
        scores = self.scorer.score(sequences, self.on_batch)
        totals = [0.0] * len(texts)
        for owner, score in zip(owners, scores, strict=True):
            totals[owner] += score.loglikelihood
        return totals

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Per (context, options): the greedy continuation up to a stop string of ``until`` or ``max_gen_toks``."""
        writer = GreedyText(self.model, self.tokenizer, self.compute, self.on_batch)
        contexts = self._encode([request.args[0] for request in requests])
        jobs = []
        for request, context in zip(requests, contexts, strict=True):
            options = request.args[1]
            if options.get("do_sample") and options.get("temperature", 0) != 0:
                raise ValueError(f"task {request.task_name} samples its answers; only greedy answers are scored here")
            n_new = min(int(options.get("max_gen_toks", MAX_NEW_TOKENS)), self.max_length // 2)
            room = self.max_length - n_new
            if len(context) > room:
                self._note_truncated(request)
            until = options.get("until") or []
            jobs.append((context[-room:], n_new, [until] if isinstance(until, str) else list(until)))
        with self.scorer.alone(), evaluating(self.model):
            return writer.write(jobs)

    # ------------------------------------------------------------ tokens

    def _encode(self, texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        """Token ids of each text, each different text encoded once; ``special`` None is the tokenizer's own habit.

        A text that already starts with the begin-of-text token gets no second one.
        """
        ids: dict[str, list[int]] = {}
        for bare, group in groupby(sorted(set(texts), key=self._is_bare), key=self._is_bare):
            part = list(group)
            habit = False if bare and special is None else special
            options = {} if habit is None else {"add_special_tokens": habit}
            encoded = self.tokenizer(part, return_attention_mask=False, verbose=False, **options)["input_ids"]
            ids.update(zip(part, encoded, strict=True))
        return [ids[text] for text in texts]

    def _is_bare(self, text: str) -> bool:
        return text.startswith(self.prefix_text)

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """(context, continuation) ids as lm-eval has them: spaces that end a context belong to the continuation,
        and the continuation is what the whole has beyond the context's own tokens."""
        moved = [(c.rstrip(), c[len(c.rstrip()) :] + t) for c, t in pairs]
        contexts = iter(self._encode([c for c, _ in moved if c]))
        wholes = iter(self._encode([c + t for c, t in moved if c]))
        alone = iter(self._encode([t for c, t in moved if not c], special=False))
        encoded = []
        for context, _ in moved:
            if context:
                given = next(contexts)
                encoded.append((given, next(wholes)[len(given) :]))
            else:
                tokens = next(alone)
                given = tokens[:1] if tokens[:1] == [self.prefix_token] else []  # it may be there already
                encoded.append((given or [self.prefix_token], tokens[len(given) :]))
        return encoded

    def _fitted(self, context: list[int], continuation: list[int], request: Instance) -> Scorable:
        """The pair as one sequence; what exceeds the model's length is cut from the left, and noted."""
        whole = context + continuation
        if len(whole) > self.max_length + 1:
            self._note_truncated(request)
            whole = whole[-(self.max_length + 1) :]
        return Scorable(whole, min(len(continuation), len(whole) - 1))

    def _note_truncated(self, request: Instance) -> None:
        self.truncated[str(request.task_name)].add(request.doc_id)
