"""The shape of a rung from its wanted size: one stated rule, no torch.

Depth follows width as in the paper's family (about one layer per 80 to 128 units of width): a width d, a multiple
of 16, gets max(2, round(d / 80)) layers. Among the widths the one whose number of non-embedding parameters is
nearest (in ratio) to the wanted number is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ARCHITECTURES = ("llama", "gpt_neox")
WIDTHS = (*range(32, 512, 16), *range(512, 1024, 64), *range(1024, 8193, 256))


@dataclass(frozen=True)
class Shape:
    """A decoder's shape and its number of non-embedding parameters."""

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_params: int


def head_dim(d_model: int) -> int:
    """The even divisor of the width nearest to 16 (narrow models), 32, or 64 (from width 512 on)."""
    wanted = 16 if d_model < 96 else 32 if d_model < 512 else 64
    return min((h for h in range(8, 129, 2) if d_model % h == 0), key=lambda h: abs(h - wanted))


def shape_of_width(d_model: int, architecture: str) -> Shape:
    """The rule's shape at a width: 4d^2 + 3 d d_ff + 2d a Llama layer, 12d^2 + 13d a GPT-NeoX layer, a norm last."""
    n_layers = max(2, round(d_model / 80))
    if architecture == "llama":
        d_ff = math.ceil(8 * d_model / 3 / 16) * 16
        n_params = n_layers * (4 * d_model**2 + 3 * d_model * d_ff + 2 * d_model) + d_model
    else:
        d_ff = 4 * d_model
        n_params = n_layers * (12 * d_model**2 + 13 * d_model) + 2 * d_model
    return Shape(d_model, n_layers, d_model // head_dim(d_model), d_ff, n_params)


def shape_for(n_params: int, architecture: str) -> Shape:
    """The shape nearest to ``n_params`` non-embedding parameters; ValueError when none is within a quarter."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r}, allowed: {', '.join(ARCHITECTURES)}")
    shapes = [shape_of_width(width, architecture) for width in WIDTHS]
    best = min(shapes, key=lambda shape: abs(math.log(shape.n_params / n_params)))
    if abs(math.log(best.n_params / n_params)) > math.log(1.25):
        low, high = shapes[0].n_params, shapes[-1].n_params
        raise ValueError(f"no shape has about {n_params:,} non-embedding parameters, allowed: {low:,} to {high:,}")
    return best
