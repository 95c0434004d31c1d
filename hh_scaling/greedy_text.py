"""Greedy continuations of prompts, each up to its own stop strings and length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.models import autocast
from hh_scaling.tree_logprobs import Batch

Job = tuple[list[int], int, list[str]]  # prompt tokens, most new tokens, stop strings
FEWER = 0.75  # of the rows still writing: below it the finished ones leave the batch


class GreedyText:
    """Writes with one causal LM, which it leaves as it is (its caller sees to evaluation mode)."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        compute: Compute,
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.compute = compute
        self.on_batch = on_batch

    @torch.no_grad()
    def write(self, jobs: Sequence[Job]) -> list[str]:
        """Each job's text, without what follows its first stop string or the end token."""
        texts = [""] * len(jobs)
        batch: list[int] = []
        for i in sorted(range(len(jobs)), key=lambda i: -len(jobs[i][0])):
            wider = [*batch, i]
            width = len(jobs[wider[0]][0]) + max(jobs[j][1] for j in wider)
            if batch and width * len(wider) > self.compute.micro_batch_tokens:
                self._write_batch(batch, jobs, texts)
                wider = [i]
            batch = wider
        if batch:
            self._write_batch(batch, jobs, texts)
        return texts

    def _write_batch(self, batch: list[int], jobs: Sequence[Job], texts: list[str]) -> None:
        """Fill in ``texts`` of the jobs in ``batch``; padding is on the left, so that all write at the same column."""
        inputs, attention = self._left_padded([jobs[i][0] for i in batch])
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        written: dict[int, list[int]] = {i: [] for i in batch}
        rows, done = list(batch), set[int]()
        while len(done) < len(batch):
            with autocast(self.compute):
                output = self.model(
                    input_ids=inputs, attention_mask=attention, position_ids=positions, past_key_values=cache,
                    use_cache=True, logits_to_keep=1,
                )  # fmt: skip
            chosen = output.logits[:, -1].argmax(-1)
            for i, token in zip(rows, chosen.tolist(), strict=True):
                if i not in done:
                    written[i].append(token)
                    if self._finished(written[i], jobs[i]):
                        done.add(i)
            inputs, positions = chosen[:, None], positions[:, -1:] + 1
            attention = torch.cat([attention, torch.ones_like(inputs)], dim=1)
            alive = [k for k, i in enumerate(rows) if i not in done]
            if alive and len(alive) <= FEWER * len(rows):
                keep = torch.tensor(alive, device=self.model.device)
                cache.batch_select_indices(keep)
                inputs, positions, attention = inputs[keep], positions[keep], attention[keep]
                rows = [rows[k] for k in alive]
        for i in batch:
            texts[i] = self._text(written[i], jobs[i][2])
        n_new = sum(map(len, written.values()))
        n_read = sum(len(jobs[i][0]) for i in batch)
        self.on_batch(Batch(len(batch) / len(jobs), n_read + n_new, n_new, (n_read + n_new) / len(batch)))

    def _left_padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        attention = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return tokens.to(self.model.device), attention.to(self.model.device)

    def _finished(self, tokens: list[int], job: Job) -> bool:
        _, n_new, stops = job
        if len(tokens) >= n_new or tokens[-1] == self.tokenizer.eos_token_id:
            return True
        return bool(stops) and any(stop in self.tokenizer.decode(tokens) for stop in stops if stop)

    def _text(self, tokens: list[int], stops: Sequence[str]) -> str:
        end = self.tokenizer.eos_token_id
        if end in tokens:
            tokens = tokens[: tokens.index(end)]
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        for stop in stops:
            text = text.split(stop)[0] if stop else text
        return text
