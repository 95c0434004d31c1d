"""What to do when memory runs out: once more, in smaller pieces."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from hh_scaling.configs import PPOConfig
from hh_scaling.crew import LostMember

T = TypeVar("T")
ALLOCATOR = "can't allocate memory"  # torch's processor allocator has no exception of its own


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, here or in another process of the crew (which then is lost without a word)."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | LostMember):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and ALLOCATOR in str(error)


def halved(config: PPOConfig) -> PPOConfig:
    """The configuration with half as many tokens in a forward pass and half as many responses sampled together."""
    compute, training = config.compute, config.training
    fewer = {"micro_batch_tokens": max(1, compute.micro_batch_tokens // 2)}
    rows = {"sample_rows": max(1, training.sample_rows // 2)}
    return config.model_copy(
        update={"compute": compute.model_copy(update=fewer), "training": training.model_copy(update=rows)}
    )


def in_smaller_pieces(run: Callable[[PPOConfig, str | None], T], config: PPOConfig) -> T:
    """``run(config, None)``; where memory runs out once more with a halved configuration and what went wrong before.

    Sums then are added up in another order, so that such a run is not the same to the last bit.
    """
    try:
        return run(config, None)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    gc.collect()  # what the failed attempt held is free only now that its traceback is gone
    return run(halved(config), reason)
