"""Human/Assistant comparisons: reading and checking them, from files or from the hub, one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hh_scaling.inputs import DataError, json_kind, numbered_objects, plain_name, require_unicode

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
KEYS = ("chosen", "rejected")

PROMPTS_DIFFER = "prompts_differ"
EQUAL_RESPONSES = "equal_responses"
ENDS_WITH_HUMAN = "ends_with_human"

# Without a folder the hub merges all of a data set and forgets which tranche a row is from.
HUB_TRANCHES = {
    "Anthropic/hh-rlhf": ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"),
}
_PART_NAMES = ("train", "test", "validation", "valid", "data")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One labelled pair of responses to one prompt."""

    prompt: str  # ends with "\n\nAssistant:"
    chosen: str  # as in the source, with its leading space
    rejected: str
    tranche: str
    source: str  # "file:line" or "world"
    gold_chosen: float | None = None
    gold_rejected: float | None = None
    p_chosen: float | None = None  # the probability that ``chosen`` wins, known in the world alone


@dataclass(frozen=True, slots=True)
class Dropped:
    """A well-formed row that is no usable comparison, and why."""

    reason: str


Parser = Callable[[Mapping[str, Any], str, str, str], Iterable[Comparison | Dropped]]  # row, place, tranche, source


def first_human_turn(transcript: str) -> str:
    """The text of the first Human turn, stripped; the whole transcript where that turn is empty.

    Rows without a first question are no common conversation, so they must not be thrown together.
    """
    body = transcript.removeprefix(HUMAN)
    ends = [place for mark in (HUMAN, ASSISTANT) if (place := body.find(mark)) >= 0]
    return body[: min(ends, default=len(body))].strip() or transcript


def n_turns(prompt: str) -> int:
    """How many Assistant turns there are, counting the response that ``prompt`` asks for."""
    return prompt.count(ASSISTANT)


def tranche_of(name: str) -> str:
    """The tranche that a file's name stands for: its stem, or its folder's name where the stem is train, test, …"""
    path = Path(plain_name(name))
    stem = path.name.split(".")[0]
    return path.parent.name if stem in _PART_NAMES and path.parent.name else stem


def check_row(row: Mapping[str, Any], at: str, tranche: str, source: str) -> Comparison | Dropped:
    """The comparison in a row ``{"chosen", "rejected"}`` of transcripts, or the reason to drop it.

    The prompt is everything up to and including the last ``\\n\\nAssistant:``. DataError, starting with ``at``, when a
    key is missing or a transcript is not made of Human and Assistant turns.
    """
    for key in KEYS:
        _check_transcript(row, key, at)
    (prompt, chosen), (other, rejected) = (_parted(row[key]) for key in KEYS)
    if prompt != other:
        return Dropped(PROMPTS_DIFFER)
    if HUMAN in chosen or HUMAN in rejected:
        return Dropped(ENDS_WITH_HUMAN)
    if chosen.strip() == rejected.strip():
        return Dropped(EQUAL_RESPONSES)
    return Comparison(prompt, chosen, rejected, tranche, source)


def one_pair(row: Mapping[str, Any], at: str, tranche: str, source: str) -> Iterable[Comparison | Dropped]:
    """``check_row`` of a row that is one comparison."""
    return (check_row(row, at, tranche, source),)


def _parted(transcript: str) -> tuple[str, str]:
    """Prompt and response, parted after the last ``\\n\\nAssistant:``."""
    place = transcript.rindex(ASSISTANT) + len(ASSISTANT)
    return transcript[:place], transcript[place:]


def _check_transcript(row: Mapping[str, Any], key: str, at: str) -> None:
    if key not in row:
        has = ", ".join(sorted(map(repr, row))) or "no keys"
        raise DataError(f"{at}: no key {key!r} (has {has}); expected 'chosen' and 'rejected'")
    text = row[key]
    if not isinstance(text, str):
        raise DataError(f"{at}: {key!r} is of type {json_kind(text)}; expected a transcript as one string")
    require_unicode(text, at, repr(key))
    if not text.startswith(HUMAN):
        raise DataError(f"{at}: {key!r} starts with {text[:20]!r}; expected {HUMAN!r} first")
    if ASSISTANT not in text:
        raise DataError(f"{at}: {key!r} has no Assistant turn; expected {ASSISTANT!r} before the response")


def read_file(
    path: Path, name: str, tell: Callable[[int], None] | None = None, parse: Parser = one_pair
) -> Iterator[Comparison | Dropped]:
    """What ``parse`` finds in the rows of one JSONL file, plain or compressed; ``name`` gives tranche and source.

    DataError names the file and the line of the first row that is malformed.
    """
    tranche = tranche_of(name)
    for at, row in numbered_objects(path, tell):
        yield from parse(row, at, tranche, f"{name}:{at.rpartition(':')[2]}")


def read_hub(
    hub: str, revision: str | None = None, tell: Callable[[int], None] | None = None, parse: Parser = one_pair
) -> Iterator[Comparison | Dropped]:
    """What ``parse`` finds in the rows of a hub data set, all its published splits one after the other.

    ``hub`` is ``owner/name`` or ``owner/name/folder``; the folder is the tranche, ``all`` where there is none.
    DataError when the data set cannot be reached or read.
    """
    owner, _, rest = hub.partition("/")
    name, _, folder = rest.partition("/")
    known = HUB_TRANCHES.get(f"{owner}/{name}", ())
    n_read = 0
    parts: list[str | None] = [folder] if folder else list(known) or [None]
    for part in parts:
        for split, rows in _load_hub(f"{owner}/{name}" if name else owner, part, revision).items():
            place = "/".join(filter(None, (owner, name, part, split)))
            for number, row in enumerate(rows, 1):
                n_read += 1
                if tell is not None and n_read % 1000 == 0:
                    tell(n_read)
                yield from parse(row, f"{place}:{number}", part or "all", f"{place}:{number}")


def _load_hub(name: str, folder: str | None, revision: str | None) -> Mapping[str, Any]:
    import datasets  # slow to import, and not needed for files
    from datasets.exceptions import DatasetsError

    datasets.disable_progress_bars()
    try:
        loaded: Mapping[str, Any] = datasets.load_dataset(name, data_dir=folder, revision=revision)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f"{name}/{folder}" if folder else name
        raise DataError(
            f"hub data set {where!r}: cannot be loaded ({reason}); "
            "expected a data set that can be reached, or local files (data.path=FOLDER)"
        ) from error
    return loaded
