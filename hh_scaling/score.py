"""Scores of transcripts and comparisons in a JSONL file by any preference model: ours, or a foreign classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from hh_scaling.comparisons import ASSISTANT, HUMAN
from hh_scaling.configs import Compute
from hh_scaling.estimates import clustered_mean
from hh_scaling.inputs import DataError
from hh_scaling.models import ModelError, autocast, load_pretrained, micro_batches, set_up, with_pad_token
from hh_scaling.pairs import encode
from hh_scaling.pm_folder import own_folder, stored_mean
from hh_scaling.pm_model import MAX_LENGTH, longest_text
from hh_scaling.splits import conversation_id
from hh_scaling.texts_to_score import LEFT_OUT, Row, read_texts
from hh_scaling.tree_scores import TreeScores, chains, score_trees

OWN, CHAT, PLAIN = "transcript and end-of-context token", "chat template", "transcript with the tokenizer's own marks"
AT_ONCE = 1024  # rows of the file


def score_file(pm: str, file: Path, compute: Compute) -> dict[str, Any]:
    """Scores of every row of ``file``, in order, and what they say together.

    A row is a comparison ``{chosen, rejected}`` of transcripts, or of responses with their ``prompt`` beside them,
    ``{prompt, response}``, or ``{text}``. ``held_out_mean`` is the mean score that the PM's own stage has stored (None
    where there is none); scores less it are given too. DataError names the line of a row that is none of these;
    ModelError says why a model cannot serve.
    """
    set_up(compute)
    scorer, mean = load_scorer(pm, compute), stored_mean(pm)
    rows = [row for part in in_parts(read_texts(file), AT_ONCE) for row in score_rows(scorer, part, mean)]
    return {
        "schema": 1, "pm": pm, "format": scorer.format, "n": len(rows), "truncated": scorer.n_truncated,
        "held_out_mean": mean, "summary": summarise(rows), "rows": rows,
    }  # fmt: skip


# ---------------------------------------------------------------- rows


def in_parts(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Lists of at most ``size`` rows."""
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def score_rows(scorer: TextScorer, rows: Sequence[Row], mean: float | None) -> list[dict[str, Any]]:
    """``{line, score}`` or ``{line, score_chosen, score_rejected, conversation}`` of each row.

    With ``mean`` every score comes again less it, as ``…_less_mean``; ``problems`` are what is wrong with the row.
    """
    try:
        scores = iter(scorer.together([row.texts for row in rows]).tolist())
    except DataError:
        for row in rows:  # which of them it was
            try:
                scorer.together([row.texts])
            except DataError as error:
                raise DataError(f"{row.at}: {error}") from error
        raise
    found: list[dict[str, Any]] = []
    for row in rows:
        names = ("score",) if len(row.texts) == 1 else ("score_chosen", "score_rejected")
        values = {name: next(scores) for name in names}
        if mean is not None:
            values |= {f"{name}_less_mean": values[name] - mean for name in names}
        extra: dict[str, Any] = {"conversation": conversation_id(row.texts[0])} if len(names) == 2 else {}
        problems = {"problems": list(row.problems)} if row.problems else {}
        found.append({"line": row.line} | values | extra | problems)
    return found


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread of all scores; accuracy (ties one half) and log loss over comparisons, by conversation.

    ``problems`` counts rows by what is wrong with them. Comparisons with one of LEFT_OUT are in neither accuracy nor
    log loss; ``comparisons_left_out`` is how many. A row can have two problems.
    """
    every = [row[key] for row in rows for key in ("score", "score_chosen", "score_rejected") if key in row]
    summary: dict[str, Any] = {"n_texts": len(every), "mean": float(np.mean(every)), "sd": float(np.std(every))}
    summary["problems"] = dict(Counter(problem for row in rows for problem in row.get("problems", ())))
    pairs = [row for row in rows if "score_chosen" in row]
    usable = [row for row in pairs if not set(row.get("problems", ())) & set(LEFT_OUT)]
    if pairs:
        summary["comparisons_left_out"] = len(pairs) - len(usable)
    if usable:
        difference = np.array([row["score_chosen"] - row["score_rejected"] for row in usable])
        conversation = [row["conversation"] for row in usable]
        summary["ties"] = int((difference == 0).sum())
        summary["accuracy"] = clustered_mean((difference > 0) + 0.5 * (difference == 0), conversation)
        summary["log_loss"] = clustered_mean(np.logaddexp(0, -difference), conversation)
    return summary


# ---------------------------------------------------------------- models


class TextScorer:
    """(texts) -> (n,) scores. ``format`` says how a text becomes tokens; texts too long lose their beginning.

    A PM of this project reads a text as it read those it was trained on: cut to the same length in the same way.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, compute: Compute) -> None:
        self.model, self.tokenizer, self.compute = model, tokenizer, compute
        self.max_length = longest_text(model)
        self.n_truncated = 0
        self.prepare()

    def prepare(self) -> None:
        """What this kind of scorer needs besides its model."""
        self.format = OWN
        self.scores = TreeScores(self.model, self.compute)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return self.together([(text,) for text in texts])

    def together(self, groups: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Scores of all texts, group by group; what a prompt loses is decided by the longest response of its group."""
        encoded = encode(self.tokenizer, [part for group in groups for text in group for part in parted(text)])
        sides = list(zip(encoded[::2], encoded[1::2], strict=True))
        ids, place = [], 0
        for group in groups:
            ids += self.fitted(sides[place : place + len(group)])
            place += len(group)
        scores: np.ndarray = score_trees(self.scores, chains(ids)).squeeze(1).numpy()
        return finite(scores)

    def fitted(self, sides: Sequence[tuple[list[int], list[int]]]) -> list[list[int]]:
        """(prompt, response) pairs with their end token within the PM's length; what was too long is counted."""
        end, most = self.tokenizer.eos_token_id, self.max_length
        longest = max(len(response) for _, response in sides)
        self.n_truncated += sum(len(prompt) + longest + 1 > most for prompt, _ in sides)
        room = max(0, most - 1 - longest)  # for the prompt
        return [prompt[max(0, len(prompt) - room) :] + response[: most - 1] + [end] for prompt, response in sides]

    def cut(self, ids: Sequence[list[int]]) -> list[list[int]]:
        """Token ids within the model's context; what was too long is counted."""
        self.n_truncated += sum(len(row) > self.max_length for row in ids)
        return [row[-self.max_length :] for row in ids]


class ForeignScorer(TextScorer):
    """A classifier that somebody else trained, through its own forward pass and its chat template where it has one."""

    def prepare(self) -> None:
        self.format = CHAT if self.tokenizer.chat_template else PLAIN
        self.max_length = min(self.max_length, int(self.tokenizer.model_max_length))
        self.pad = padding(self.model, self.tokenizer)

    def together(self, groups: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Scores of all texts, each by itself."""
        return self.score_ids([self.tokens(text) for group in groups for text in group])

    @torch.no_grad()
    def score_ids(self, ids: Sequence[list[int]]) -> np.ndarray:
        """(n,) scores of token ids with the model's own marks, by its own forward pass."""
        kept = self.cut(ids)
        known = self.model.get_input_embeddings().num_embeddings
        if kept and (largest := max(max(row, default=0) for row in kept)) >= known:
            raise ModelError(f"the tokenizer gives token id {largest}, allowed: below {known}, the model's embeddings")
        scores = np.zeros(len(kept), dtype=np.float32)
        budget = self.compute.micro_batch_tokens if self.pad is not None else 1  # without padding each goes alone
        for group in micro_batches([len(row) for row in kept], budget):
            rows = [torch.tensor(kept[i]) for i in group]
            tokens, mask = (
                pad_sequence(side, batch_first=True, padding_value=fill).to(self.compute.device)
                for side, fill in ((rows, self.pad or 0), ([torch.ones_like(row) for row in rows], 0))
            )
            with autocast(self.compute):
                logits = self.model(input_ids=tokens, attention_mask=mask).logits
            scores[group] = logits[:, 0].float().cpu().numpy()
        return finite(scores)

    @cached_property
    def marks(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after a text of its own accord."""
        plain, marked = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        before = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
        return marked[:before], marked[before + len(plain) :]

    def cut(self, ids: Sequence[list[int]]) -> list[list[int]]:
        """Token ids within the model's context; what was too long loses its beginning, but for the mark before it."""
        before, _ = self.marks
        n = len(before)
        whole = [n > 0 and row[:n] == before for row in ids]
        kept = super().cut(ids)
        return [before + row[n:] if marked and len(row) > n else row for row, marked in zip(kept, whole, strict=True)]

    def tokens(self, text: str) -> list[int]:
        """A transcript by the model's chat template, or as plain text where it has none."""
        if not self.tokenizer.chat_template:
            ids: list[int] = self.tokenizer(text)["input_ids"]
            return ids
        messages = messages_of(text)
        if not messages:
            raise DataError(f"a text starts with {text[:20]!r}; expected {HUMAN!r} first, for the chat template")
        return self.chat_tokens(messages)

    def chat_tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """Chat messages by the model's template."""
        try:
            chat: list[int] = self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        except TemplateError as error:
            raise DataError(f"the model's chat template refuses this text ({error})") from error
        return chat


def finite(scores: np.ndarray) -> np.ndarray:
    """The scores; ModelError where one is not a finite number."""
    if bad := int((~np.isfinite(scores)).sum()):
        raise ModelError(f"{bad} of {len(scores)} scores by the model are not finite numbers")
    return scores


def parted(transcript: str) -> tuple[str, str]:
    """What comes before the last response, and the response: encoded apart, as in training."""
    place = transcript.rfind(ASSISTANT)
    cut = place + len(ASSISTANT) if place >= 0 else 0
    return transcript[:cut], transcript[cut:]


def messages_of(transcript: str) -> list[dict[str, str]]:
    """The turns of a Human/Assistant transcript as chat messages; empty where it does not start with a Human turn."""
    if not transcript.startswith(HUMAN):
        return []
    messages = []
    for part in transcript.split(HUMAN)[1:]:
        human, *assistant = part.split(ASSISTANT)
        messages.append({"role": "user", "content": human.strip()})
        messages += [{"role": "assistant", "content": turn.strip()} for turn in assistant]
    return messages


def last_turn(prompt: str, response: str) -> list[dict[str, str]]:
    """Chat messages of a prompt and the whole response as one turn, whatever marks a policy put into it.

    A prompt that lost its beginning starts at its first whole turn, or as a turn where none is whole.
    """
    start = prompt.find(HUMAN)
    messages = messages_of(prompt[start:] if start >= 0 else f"{HUMAN} {prompt}")
    if messages[-1]["role"] == "assistant":  # the open turn at the prompt's end
        messages.pop()
    return [*messages, {"role": "assistant", "content": response.strip()}]


def padding(model: PreTrainedModel, tokenizer: Any) -> int | None:
    """The id that a classifier passes over at the end of a row; None where it would score padding like text.

    Its own, even where that is the end token: then it scores the token before the end, padded or not.
    """
    config = model.config.get_text_config()
    if config.pad_token_id is None and tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        config.pad_token_id = tokenizer.pad_token_id
    known: int | None = config.pad_token_id
    return known


def load_scorer(pm: str, compute: Compute, **options: Any) -> TextScorer:
    """The scorer of a stage's folder, of its model folder, or of a foreign folder or hub name.

    Options: revision, trust_remote_code. ModelError when it is no sequence classifier with one label.
    """
    folder, own = own_folder(pm)
    try:
        model = load_pretrained(AutoModelForSequenceClassification, folder, new_head=False, **options)
    except ModelError as error:
        where = "" if Path(pm).exists() else "no such folder; as a name on the hub: "
        raise ModelError(f"{where}{error}") from error
    if model.config.num_labels != 1:
        raise ModelError(f"{pm}: a classifier with {model.config.num_labels} labels, needed: one with a single score")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{pm}: no tokenizer that can be loaded ({str(error).strip().splitlines()[0]})") from error
    n_known, n_pieces = model.get_input_embeddings().num_embeddings, tokenizer.vocab_size
    if n_pieces > n_known:
        raise ModelError(f"{pm}: its tokenizer has {n_pieces} pieces, its embeddings {n_known} rows; needed: one each")
    model = model.to(compute.device)
    own = own or hasattr(model.config, MAX_LENGTH)
    return TextScorer(model, with_pad_token(tokenizer), compute) if own else ForeignScorer(model, tokenizer, compute)
