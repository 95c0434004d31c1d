"""Scores of trees by a preference model: what responses share is computed once, and padding hardly at all.

Three ways give the same numbers up to rounding, and the first that fits the model is taken: packed Llama layers
(processors), transformers' layers with packed attention (any architecture that heeds it, tried once), or plain padded
passes over the sequences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hh_scaling.configs import Compute
from hh_scaling.models import ModelError, autocast, forward_flops, pad_right
from hh_scaling.packed_llama import PackedLlama, can_pack
from hh_scaling.packing import Packed, Tree, pack
from hh_scaling.records import StageWriter
from hh_scaling.tree_attention import hidden_at_ends

BY_LENGTH = ("dynamic", "longrope")  # rotary embeddings that depend on the longest sequence of a batch
TOLERANCE = 1e-3  # of a score in float32; a model that does not heed blocks or positions is off by more


def score_head(model: PreTrainedModel) -> nn.Linear:
    """The linear layer on the trunk that gives the score."""
    head = next((getattr(model, name) for name in ("score", "classifier") if hasattr(model, name)), None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise ModelError(f"{type(model).__name__}: no scalar score layer, needed: a sequence classifier with one label")
    return head


class TreeScores:
    """(trees) -> (trees, branches) float32 scores at the last token of every branch, gradients included."""

    def __init__(self, model: PreTrainedModel, compute: Compute) -> None:
        self.model, self.compute, self.head = model, compute, score_head(model)
        dtype = torch.bfloat16 if compute.dtype == "bf16" else torch.float32
        on_cpu = torch.device(compute.device).type == "cpu"
        self.packed = PackedLlama(model, dtype) if on_cpu and can_pack(model.base_model) else None
        self.alone = depends_on_length(model)
        self.heeds_blocks: bool | None = False if self.alone else None  # None: not tried yet
        self.longest_tried = 0

    def __call__(self, trees: Sequence[Tree]) -> Tensor:
        """Scores in the given order; all trees have as many branches."""
        if self.packed is None and not self.shares(trees):
            return self.plain(trees)
        packed = pack(trees, self.compute.device)
        if self.packed is not None:
            trunk: Any = self.model.base_model
            hidden = trunk.norm(self.packed(packed, packed.ends))
        else:
            with autocast(self.compute):
                hidden = hidden_at_ends(self.model, packed)
        return self.in_order(packed, hidden)

    def fixed_weights(self) -> contextlib.AbstractContextManager[None]:
        """Within it the model's weights must not change, which saves time."""
        return contextlib.nullcontext() if self.packed is None else self.packed.fixed_weights()

    def in_order(self, packed: Packed, hidden: Tensor) -> Tensor:
        """(trees, branches) scores from the hidden states at the ends, trees as they were given."""
        scores = self.head(hidden.float()).view(len(packed.order), -1)
        return scores[torch.argsort(packed.order).to(scores.device)]

    def plain(self, trees: Sequence[Tree]) -> Tensor:
        """The same by padded passes over every sequence, one by one where a model needs that."""
        if self.alone and len(trees) * len(trees[0].branches) > 1:
            lone = [Tree(tree.trunk, (branch,)) for tree in trees for branch in tree.branches]
            return torch.cat([self.plain([chain]) for chain in lone]).view(len(trees), -1)
        sequences = [tree.trunk + branch for tree in trees for branch in tree.branches]
        tokens, lengths = pad_right(sequences, self.model.config.pad_token_id or 0, self.compute.device)
        with autocast(self.compute):
            hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(sequences), device=hidden.device), lengths - 1]
        return self.head(last.float()).view(len(trees), -1)

    @torch.no_grad()
    def shares(self, trees: Sequence[Tree]) -> bool:
        """Whether transformers' layers score this model's packed trees as its sequences alone; tried in float32.

        Models whose forward pass makes its own mask or positions would silently give other numbers, some of them on
        long sequences alone: it is tried again where a tree is longer than all that were tried.
        """
        in_order = sorted(trees, key=len)
        if self.heeds_blocks is not False and len(in_order[-1]) > self.longest_tried:
            few = [*in_order[:1], in_order[-1]]
            self.longest_tried = len(in_order[-1])
            packed = pack(few, self.compute.device)
            with torch.autocast(torch.device(self.compute.device).type, enabled=False):
                try:
                    together = self.in_order(packed, hidden_at_ends(self.model, packed))
                except (TypeError, ValueError, IndexError, RuntimeError, AttributeError):
                    self.heeds_blocks = False
                else:
                    plain = TreeScores(self.model, self.compute.model_copy(update={"dtype": "float32"})).plain(few)
                    self.heeds_blocks = torch.allclose(together, plain, rtol=TOLERANCE, atol=TOLERANCE)
        return bool(self.heeds_blocks)

    def count(self, trees: Sequence[Tree], out: StageWriter, passes: float = 1) -> None:
        """Add the trees' tokens and ``passes`` times a forward pass's operations to the stage's counters.

        Counted is what is computed: shared beginnings once, and in packed Llama layers the last one's queries and MLP
        at the ends alone.
        """
        if self.packed is None and not self.heeds_blocks:
            lengths = [len(tree.trunk) + len(branch) for tree in trees for branch in tree.branches]
        else:
            lengths = [len(tree) for tree in trees]
        n_tokens = sum(lengths)
        flops = forward_flops(self.model, n_tokens, n_tokens / len(lengths), logits=0)
        if self.packed is not None:
            n_ends = sum(len(tree.branches) for tree in trees)
            flops -= 2 * (n_tokens - n_ends) * self.packed.n_skipped
        out.count(n_tokens, passes * flops)


def depends_on_length(model: PreTrainedModel) -> bool:
    """Whether a sequence's positions are turned by angles that depend on what else is in its batch."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    return any(kind.get("rope_type") in BY_LENGTH for kind in kinds)


def batches(trees: Sequence[Tree], budget: int) -> Iterator[list[int]]:
    """Indices of trees, similar lengths together, at most ``budget`` tokens (or one tree) at a time."""
    group: list[int] = []
    used = 0
    for i in sorted(range(len(trees)), key=lambda i: -len(trees[i])):
        if group and used + len(trees[i]) > budget:
            yield group
            group, used = [], 0
        group.append(i)
        used += len(trees[i])
    if group:
        yield group


@torch.no_grad()
def score_trees(scores: TreeScores, trees: Sequence[Tree], out: StageWriter | None = None) -> Tensor:
    """(trees, branches) float32 scores on the processor, computed in batches."""
    result = torch.zeros(len(trees), len(trees[0].branches) if trees else 0)
    with scores.fixed_weights():
        for group in batches(trees, scores.compute.micro_batch_tokens):
            part = [trees[i] for i in group]
            result[torch.tensor(group)] = scores(part).cpu()
            if out is not None:
                scores.count(part, out)
    return result


def chains(sequences: Sequence[list[int]]) -> list[Tree]:
    """Each sequence as a tree of one branch, its last token."""
    return [Tree(row[:-1], (row[-1:],)) for row in sequences]
