"""Numbers and foreign text as people read them: counts, estimates with intervals, harmless strings."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Estimate = Mapping[str, Any]  # {"value", "se", "low", "high", "n"}, each possibly null
MISSING = "not measured"
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


def format_count(count: float | None) -> str:
    """A count in two or three digits with its scale: 512, 8.2k, 24k, 1.3M, 2.8B."""
    if count is None or not math.isfinite(count):
        return MISSING
    for scale, suffix in _SCALES:
        if abs(count) >= 0.9995 * scale:
            scaled = count / scale
            digits = 1 if abs(scaled) < 9.95 else 0
            return f"{scaled:.{digits}f}".removesuffix(".0") + suffix
    return f"{count:.0f}"


def says_count(name: str, count: float) -> bool:
    """Whether a model's name is its number of parameters to 5 %, as 100k is for 100,672."""
    found = re.fullmatch(r"([\d.,]+)([kmbt]?)", name.strip().casefold())
    if found is None or not re.fullmatch(r"\d[\d,]*(\.\d+)?", found[1]):
        return False
    scale = {"": 1.0, **{suffix.casefold(): scale for scale, suffix in _SCALES}}[found[2]]
    return abs(float(found[1].replace(",", "")) * scale / count - 1) <= 0.05 if count else False


def size_label(name: str, count: float) -> str:
    """A size on an axis: the model's name where that says the count, else the count."""
    return plain_label(name, 12) if says_count(name, count) else format_count(count)


def format_number(value: float | None, decimals: int = 3, signed: bool = False) -> str:
    """A number with a true minus sign, thousands separated; "not measured" where it is missing."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    if re.fullmatch(r"[-+]?0(\.0+)?", text):
        text = text.lstrip("-+")
    return text.replace("-", "\N{MINUS SIGN}")


def estimate_decimals(estimate: Estimate) -> int:
    """Decimals that show two digits of the interval's half width, between 1 and 4; 3 without an interval."""
    low, high = estimate.get("low"), estimate.get("high")
    if low is None or high is None or not math.isfinite(high - low) or high <= low:
        return 3
    return min(4, max(1, 1 - math.floor(math.log10((high - low) / 2))))


def format_interval(estimate: Estimate, decimals: int | None = None, signed: bool = False, scale: float = 1.0) -> str:
    """``[0.620, 0.642]``, each end times ``scale``; an end that is not finite is named in words."""
    low, high = estimate.get("low"), estimate.get("high")
    if low is None and high is None:
        return "[no interval]"
    digits = estimate_decimals(_scaled(estimate, scale)) if decimals is None else decimals
    ends = [
        unbounded if end is None or not math.isfinite(end) else format_number(end * scale, digits, signed)
        for end, unbounded in ((low, "\N{MINUS SIGN}∞"), (high, "+∞"))
    ]
    return f"[{ends[0]}, {ends[1]}]"


def format_estimate(estimate: Estimate | None, signed: bool = False, scale: float = 1.0, unit: str = "") -> str:
    """``0.631 [0.620, 0.642] (n=2,000)``: value, 95 % interval and n; "not measured" where it is missing."""
    if estimate is None or estimate.get("value") is None:
        return MISSING
    digits = estimate_decimals(_scaled(estimate, scale))
    value = format_number(estimate["value"] * scale, digits, signed)
    text = f"{value}{unit} {format_interval(estimate, digits, signed, scale)}"
    return text if estimate.get("n") is None else f"{text} (n={estimate['n']:,.0f})"


def format_detectable(difference: Estimate) -> str:
    """The smallest true difference that would be found with 80 % power, to the decimals of its interval."""
    mde = difference.get("mde")
    return MISSING if mde is None else format_number(mde, estimate_decimals(difference))


def format_difference(difference: Estimate | None) -> str:
    """A signed estimate and beside it the smallest true difference that would be found with 80 % power."""
    text = format_estimate(difference, signed=True)
    if difference is None or difference.get("value") is None or difference.get("mde") is None:
        return text
    return f"{text}, detectable {format_detectable(difference)}"


def format_p(p: float) -> str:
    """A p value with two digits; below .001 as a bound."""
    return "< 0.001" if p < 0.001 else format_number(p, 3 if p < 0.1 else 2)


def format_seconds(seconds: float | None) -> str:
    """A duration as ``48 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_flops(flops: float | None) -> str:
    """Floating-point operations as ``3.1e12``; "not measured" where missing."""
    return MISSING if flops is None or not math.isfinite(flops) else f"{flops:.1e}".replace("e+", "e")


def format_span(values: Sequence[float], decimals: int) -> str:
    """``0.91 to 0.97``: the least and the greatest, once where they read the same."""
    ends = [format_number(value, decimals) for value in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def plural(count: int, word: str, words: str | None = None) -> str:
    """``1 run``, ``2 runs``, ``no runs``; ``words`` where the plural is not ``word`` + s."""
    return f"{count} {word}" if count == 1 else f"{f'{count:,}' if count else 'no'} {words or word + 's'}"


def join_words(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"


def visible(text: str) -> str:
    """``text`` with every character that would act instead of show (controls, bidi marks) made a visible sign.

    Line feed and tab are kept. C0 controls become their control pictures (ESC is ␛), the rest ⟨U+202E⟩.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible_character, text))


def plain_label(text: str, limit: int = 32) -> str:
    """A short one-line form of a foreign name for a figure: escape sequences removed, controls shown, cut."""
    line = " ".join(visible(_ESCAPE_SEQUENCE.sub("", text)).split()) or "(no name)"
    cut = line if len(line) <= limit else line[: limit - 1] + "…"
    return f" {cut}" if cut.startswith("_") else cut  # matplotlib hides labels that begin with an underscore


def _visible_character(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or not unicodedata.category(character).startswith(("C", "Zl", "Zp")):
        return character
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)
    return f"⟨U+{code:04X}⟩"


def _scaled(estimate: Estimate, scale: float) -> dict[str, Any]:
    return {end: None if estimate.get(end) is None else estimate[end] * scale for end in ("low", "high")}
