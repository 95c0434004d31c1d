"""Numbers as people write and read them: ``24k``, ``1.3M``, ``2_000``, ``3e-6``; ``1 h 20 min``; ``3.1 GiB``."""

from __future__ import annotations

import math
import re

SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
NUMBER = re.compile(r"^([+-]?[0-9][0-9_,]*(?:\.[0-9]*)?|[+-]?\.[0-9]+)(e[+-]?[0-9]+)?\s*([kmbgt]?)$", re.IGNORECASE)
# The same in the dialect of JSON Schema, which knows no flags.
NUMBER_PATTERN = r"^[+-]?([0-9][0-9_,]*(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*[kKmMbBgGtT]?$"


def parse_number(text: str) -> int | float | None:
    """The number that ``text`` writes, an int where it is whole; None when it writes none."""
    match = NUMBER.match(text.strip())
    if match is None:
        return None
    digits, exponent, suffix = match.group(1).replace("_", "").replace(",", ""), match.group(2) or "", match.group(3)
    value = float(digits + exponent) * SUFFIXES[suffix.lower()]
    if not math.isfinite(value):
        return None
    # Rounding takes back what the product added: 1.3 * 10**6 is 1300000.0, but 1.001 * 10**6 is 1000999.9999999999.
    whole = round(value)
    return whole if math.isclose(value, whole, rel_tol=1e-12) and (suffix or "." not in digits) else value


def format_count(value: float) -> str:
    """A count in two or three digits with a suffix: 24k, 1.3M, 410M, 2.8B; a small one as it is."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:.0f}{suffix}" if scaled >= 9.95 else f"{scaled:.2g}{suffix}"
    return f"{value:.0f}"


def format_flops(value: float) -> str:
    """Floating-point operations as 1.2e15."""
    return "0" if value == 0 else f"{value:.1e}".replace("e+", "e")


def format_bytes(value: float) -> str:
    """Bytes in binary units: 512 MiB, 3.1 GiB."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if value >= 1024**power:
            scaled = value / 1024**power
            return f"{scaled:.0f} {unit}" if scaled >= 9.95 else f"{scaled:.1f} {unit}"
    return f"{value:.0f} B"


def format_seconds(value: float) -> str:
    """A time in its two largest units: 40 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    seconds = round(value)
    if seconds < 60:
        return f"{value:.1f} s" if value < 9.95 else f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
