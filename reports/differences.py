"""Differences in words: which are measured, on which side, and how large the others would have to be to be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.formats import format_detectable, format_estimate, join_words
from reports.sentences import sign

Row = Mapping[str, Any]
Named = Sequence[tuple[str, Row]]


def changes(named: Named, up: str, down: str) -> str:
    """``measurably up at A (+0.03 [...]); not measurably different at B (0.05 would have been found ...)``."""
    known = [(name, change) for name, change in named if change.get("low") is not None]
    parts = []
    for side, word in ((1, up), (-1, down)):
        here = [f"{name} ({value_words(change)})" for name, change in known if sign(change) == side]
        parts += [f"measurably {word} at {join_words(here)}"] if here else []
    flat = [(name, change) for name, change in known if sign(change) == 0]
    if flat:
        found = detectable([change for _, change in flat])
        where = join_words([name for name, _ in flat])
        parts.append(f"not measurably different at {where}" + (f" ({found})" if found else ""))
    unknown = [name for name, change in named if change.get("low") is None]
    parts += [f"of unknown interval at {join_words(unknown)}"] if unknown else []
    return "; ".join(parts)


def detectable(differences: Sequence[Row]) -> str:
    """How large a difference would have been found, the least and the greatest over ``differences``; may be empty."""
    known = sorted((d for d in differences if d.get("mde") is not None), key=lambda d: float(d["mde"]))
    if not known:
        return ""
    ends = list(dict.fromkeys(format_detectable(d) for d in (known[0], known[-1])))
    return f"a true difference of {' to '.join(ends)} would have been found with 80 % power"


def tally(differences: Sequence[Row], above: str, below: str) -> str:
    """How many of several differences lie measurably on each side: "2 of 9 are measurably lower and 0 higher"; those of
    unknown interval are not among them."""
    known = [d for d in differences if d.get("low") is not None]
    count = {side: sum(sign(d) == side for d in known) for side in (1, -1)}
    unknown = len(differences) - len(known)
    more = f" ({unknown} more of unknown interval)" if unknown else ""
    verb = "is" if count[-1] == 1 else "are"
    return f"{count[-1]} of {len(known)} {verb} measurably {below} and {count[1]} {above}{more}"


def value_words(change: Row) -> str:
    """A difference with its sign and interval, without n."""
    return format_estimate({**change, "n": None}, signed=True)
