"""Votes: a second set of comparisons, noisier than the first or about other things, for preference models to be
pretrained on or to be mixed in.

A row is a pair ``{chosen, rejected}`` of transcripts, or a question with ranked answers ``{question, answers}``, each
answer of them a ``text`` and a ``score`` (or ``pm_score``, as Stack Exchange preferences on the hub call it). Any two
answers with different scores are a pair, at most ten a question.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from hh_scaling import comparison_table
from hh_scaling.comparisons import ASSISTANT, HUMAN, KEYS, Comparison, Dropped, check_row
from hh_scaling.inputs import DataError, json_kind, require_unicode
from hh_scaling.splits import DUPLICATE, conversation_id, first_of_each, seeded_code

SPLIT = "votes"  # what the table's column calls them all
FILE = "votes.parquet"
MOST_PAIRS = 10  # of one question
SCORES = ("score", "pm_score")

BLANK_ANSWER = "blank_answer"
BLANK_QUESTION = "blank_question"
EQUAL_SCORES = "equal_scores"
NO_OTHER_ANSWER = "no_other_answer"
OVER_MOST_PAIRS = "over_10_pairs_of_a_question"
RESERVED = "question_of_held_out_or_gold_comparisons"


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Answer:
    """One answer to a question; a higher score is better."""

    text: str
    score: float


def vote_pairs(row: Mapping[str, Any], at: str, tranche: str, source: str) -> Iterator[Comparison | Dropped]:
    """The comparisons of a row, and for everything in it that is none the reason; DataError when it is malformed."""
    if any(key in row for key in KEYS):
        yield check_row(row, at, tranche, source)
        return
    question, answers = _ranked(row, at)
    if not question.strip():
        yield Dropped(BLANK_QUESTION)
        return
    shown = [answer for answer in answers if answer.text.strip()]
    yield from [Dropped(BLANK_ANSWER)] * (len(answers) - len(shown))
    for pair in chosen_pairs(question, shown):
        if isinstance(pair, Dropped):
            yield pair
            continue
        sides = (f"{HUMAN} {question.strip()}{ASSISTANT} {answer.text.strip()}" for answer in pair)
        yield check_row(dict(zip(KEYS, sides, strict=True)), at, tranche, source)


def chosen_pairs(question: str, answers: list[Answer]) -> list[tuple[Answer, Answer] | Dropped]:
    """(better, worse) of any two answers whose scores differ, ten of them by a choice that the question decides."""
    if len(answers) < 2:
        return [Dropped(NO_OTHER_ANSWER)]
    places = list(combinations(range(len(answers)), 2))
    apart = [(i, j) for i, j in places if answers[i].score != answers[j].score]
    kept = heapq.nsmallest(MOST_PAIRS, apart, key=lambda pair: seeded_code(0, question, *map(str, pair)))
    found = [tuple(sorted((answers[i], answers[j]), key=lambda a: -a.score)) for i, j in kept]
    equal = [Dropped(EQUAL_SCORES)] * (len(places) - len(apart))
    return [*((a, b) for a, b in found), *equal, *[Dropped(OVER_MOST_PAIRS)] * (len(apart) - len(kept))]


def _ranked(row: Mapping[str, Any], at: str) -> tuple[str, list[Answer]]:
    """The question and its answers."""
    if not {"question", "answers"} <= row.keys():
        has = ", ".join(sorted(map(repr, row))) or "no keys"
        raise DataError(f"{at}: has {has}; expected 'chosen' and 'rejected', or 'question' and 'answers'")
    answers = row["answers"]
    if not isinstance(answers, list) or not all(isinstance(answer, Mapping) for answer in answers):
        raise DataError(f"{at}: 'answers' is no list of objects; expected [{{text, score}}, …]")
    return _text(row["question"], at, "'question'"), [_answer(a, f"answer {i}", at) for i, a in enumerate(answers, 1)]


def _answer(answer: Mapping[str, Any], name: str, at: str) -> Answer:
    score = next((answer[key] for key in SCORES if key in answer), None)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise DataError(f"{at}: the score of {name} is {score!r}; expected a number")
    return Answer(_text(answer.get("text"), at, f"the text of {name}"), float(score))


def _text(value: Any, at: str, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{at}: {what} is of type {json_kind(value)}; expected a string")
    return require_unicode(value, at, what)


# ---------------------------------------------------------------- the table


def votes_table(data_stage: Path) -> Path:
    """The data stage's votes.parquet; ValueError where it made none."""
    path = data_stage / FILE
    if not path.is_file():
        raise ValueError("the data have no votes; expected some (data.votes, or world.n_votes above 0)")
    return path


def write_votes(
    rows: Iterable[Comparison | Dropped], reserved: Container[int], seed: int, wanted: int | None, out: Path
) -> dict[str, Any]:
    """Write ``votes.parquet`` into ``out``, in the columns of comparisons.parquet, and return what the summary says.

    ``order`` is a random rank that content and seed decide. Votes on a conversation in ``reserved`` are left out. Of a
    world's rows as many as ``wanted`` are kept, equal ones too; of others (None) all but duplicates. DataError when
    fewer are left.
    """
    staged = out / "votes.tmp"
    content, rank, tranches = array("Q"), array("Q"), []
    tally: Counter[str] = Counter(empty_responses=0)
    with comparison_table.staging(staged) as write:
        for row in rows:
            if isinstance(row, Dropped):
                tally[row.reason] += 1
                continue
            conversation = conversation_id(row.prompt)
            if int(conversation, 16) in reserved:
                tally[RESERVED] += 1
                continue
            tally["empty_responses"] += not row.chosen.strip() or not row.rejected.strip()
            code = seeded_code(seed, row.prompt, row.chosen, row.rejected)
            number = "" if wanted is None else str(len(content))  # equal rows are not to stand side by side
            content.append(code)
            rank.append(seeded_code(seed, "votes", str(code), number))
            tranches.append(row.tranche)
            write(row, conversation)
            if len(content) == wanted:
                break
    kept = first_of_each(np.asarray(content)) if wanted is None else np.ones(len(content), dtype=bool)
    tally[DUPLICATE] += int((~kept).sum())
    if kept.sum() < (wanted or 1):
        raise DataError(f"votes: {_found(int(kept.sum()), _dropped(tally))}; expected {wanted or 'at least one'}")
    comparison_table.write_part(staged, out / FILE, SPLIT, kept, _ranks(np.asarray(rank), kept))
    staged.unlink()
    by_tranche = Counter(name for name, keep in zip(tranches, kept, strict=True) if keep)
    return {
        "n_kept": int(kept.sum()),
        "dropped": _dropped(tally),
        "empty_responses": tally["empty_responses"],
        "tranches": dict(sorted(by_tranche.items())),
    }


def _ranks(codes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(n,) the place of each kept row among them by its code, from 0; -1 elsewhere."""
    ranks, rows = np.full(len(codes), -1, dtype=np.int64), np.flatnonzero(kept)
    ranks[rows[np.argsort(codes[rows], kind="stable")]] = np.arange(len(rows))
    return ranks


def _dropped(tally: Counter[str]) -> dict[str, int]:
    return {reason: n for reason, n in tally.items() if n and reason != "empty_responses"}


def _found(n: int, dropped: Mapping[str, int]) -> str:
    """``2 comparisons are left (left out: 3 equal_scores)``."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    return f"{n} {'comparison is' if n == 1 else 'comparisons are'} left" + (
        f" (left out: {reasons})" if reasons else ""
    )
