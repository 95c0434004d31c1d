"""What a stage computes with: the study's choices over each other, and what ``auto`` means on this machine."""

from __future__ import annotations

from collections.abc import Iterable

from hh_scaling.configs import Compute
from sweeps.machines import native_dtype
from sweeps.study import ComputeChoice

SMALL_RUNG = 300_000  # non-embedding parameters below which bf16 costs more in casts than it saves


def resolve_compute(choices: Iterable[ComputeChoice], n_params: int | None) -> Compute:
    """The last choice over those before it, with ``auto`` resolved; ``n_params`` are a rung's, None of other models.

    On a processor a small rung is faster in float32, and in bf16 a rung is faster with eager attention (the fused
    kernel's backward pass is slow there at short lengths): measured with this package's own stages.
    """
    merged = Compute().model_dump() | {"dtype": "auto", "attention": None}
    for choice in choices:
        merged |= choice.model_dump(exclude_none=True)
    on_cpu = merged["device"] == "cpu"
    small = n_params is not None and n_params < SMALL_RUNG
    if merged["dtype"] == "auto":
        merged["dtype"] = "bf16" if not on_cpu else "float32" if small else native_dtype()
    if merged["attention"] is None:
        eager = on_cpu and n_params is not None and merged["dtype"] == "bf16"
        merged["attention"] = "eager" if eager else "sdpa"
    return Compute(**merged)
