"""One pass over examples in a seeded order with a loss that is a mean over the batch's counted tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from hh_scaling.configs import ReferenceConfig
from hh_scaling.models import forward_flops, micro_batches
from hh_scaling.pretrain import resume
from hh_scaling.records import check_finite
from hh_scaling.stages import StageContext
from hh_scaling.training import Stopwatch, apply_step, learning_rate, make_optimizer, save_training_state

CHECKPOINT_SECONDS = 120.0


def train(
    model: PreTrainedModel,
    lengths: Sequence[int],
    n_counted: Sequence[int],
    loss_sum: Callable[[list[int]], Tensor],
    config: ReferenceConfig,
    context: StageContext,
) -> None:
    """Train in place; ``loss_sum`` gives the summed loss of some examples, ``n_counted`` over how many tokens each is.

    ``lengths`` are those of the examples in tokens. Resumes from an earlier attempt's state.
    """
    training, out = config.training, context.out
    order = np.random.default_rng(config.seed).permutation(len(lengths))
    batches = np.array_split(order, max(1, len(lengths) // training.batch_size))
    optimizer = make_optimizer(model.parameters(), training.schedule)
    first, stopwatch = resume(out, model, optimizer), Stopwatch(CHECKPOINT_SECONDS)
    for step in range(first, len(batches)):
        batch = batches[step].tolist()
        n_loss, total = sum(n_counted[i] for i in batch), 0.0
        for group in micro_batches([lengths[i] for i in batch], config.compute.micro_batch_tokens):
            loss = loss_sum([batch[i] for i in group])
            (loss / n_loss).backward()
            total += check_finite("fine-tuning loss", loss.item(), step)
        n_tokens = sum(lengths[i] for i in batch)
        out.count(n_tokens, 3 * forward_flops(model, n_tokens, n_tokens / len(batch), logits=n_loss))
        rate = learning_rate(training.schedule, model.config.hidden_size, step, len(batches))
        apply_step(optimizer, training.schedule, rate, step)
        out.log({"step": step, "tokens": out.tokens, "loss": total / n_loss, "n_loss": n_loss, "lr": rate})
        out.progress(step + 1, len(batches))
        if stopwatch.due():
            with out.save_state(step, {}) as folder:
                save_training_state(folder, model, optimizer)
