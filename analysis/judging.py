"""What a verdict on a claim is, and how an interval gives one."""

from __future__ import annotations

from typing import Any

from analysis.estimates import Estimate

Judgement = tuple[str, dict[str, Any]]


def missing(what: str) -> Judgement:
    return "inconclusive", {"missing": what}


def by_sign(low: float | None, high: float | None) -> str:
    """supported where an interval lies above 0, contradicted where below, else inconclusive."""
    if low is not None and low > 0:
        return "supported"
    return "contradicted" if high is not None and high < 0 else "inconclusive"


def by_estimate(estimate: Estimate) -> str:
    """``by_sign`` of its 95 % interval."""
    return by_sign(*estimate.interval())
