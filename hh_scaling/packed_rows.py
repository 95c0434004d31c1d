"""Logits of trees by a Llama's packed layers: rows lie in blocks of equal length, and only wanted rows are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel

from hh_scaling.packed_llama import PackedLlama, can_pack
from hh_scaling.packing import MULTIPLE, Block, Packed, grouped, round_up
from hh_scaling.token_trees import Tree, padded, seen

PRODUCTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


def can_pack_lm(model: PreTrainedModel) -> bool:
    """Whether ``PackedLogits`` computes what this model computes: on a processor, a Llama as transformers builds it."""
    if type(model) is not LlamaForCausalLM or model.device.type != "cpu" or not can_pack(model.base_model):
        return False
    products = [module for name, module in model.named_modules() if name.rpartition(".")[2] in PRODUCTS]
    return all(type(product) is nn.Linear for product in products)  # adapters wrap them


class PackedLogits:
    """(trees) -> (N, V) logits, and the rows of them that predict the trees' targets, one target after another."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.layers = PackedLlama(model, dtype)
        self.output: Tensor | None = None

    def __call__(self, trees: Sequence[Tree]) -> tuple[Tensor, Tensor]:
        packed, rows = pack_trees(trees)
        trunk: Any = self.model.base_model
        hidden = trunk.norm(self.layers(packed, packed.ends))
        return F.linear(hidden.to(self.dtype), self.output_weight()), rows

    @contextlib.contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Within it the model must not change: working weights are made once, here, before any process forks."""
        trunk: Any = self.model.base_model
        with self.layers.fixed_weights():
            self.output = self.output_weight()
            for i, layer in enumerate(trunk.layers):
                self.layers.weights(i, layer)
            try:
                yield
            finally:
                self.output = None

    def output_weight(self) -> Tensor:
        """(V, d) output matrix in the dtype of the products."""
        if self.output is not None:
            return self.output
        weight: Tensor = self.model.get_output_embeddings().weight.detach()
        return weight.to(self.dtype)


def pack_trees(trees: Sequence[Tree]) -> tuple[Packed, Tensor]:
    """The trees as one packed row whose ``ends`` are the places that predict something, and for every target token of
    every tree, one after another, which of these predicts it.
    """
    groups = list(grouped(list(map(len, trees))))
    blocks: list[Block] = []
    tokens, positions, ends = [], [], []
    found: list[dict[int, int]] = [{} for _ in trees]  # by tree: place -> number among all that are asked for
    start = n_ends = 0
    for group in groups:
        part = [trees[i] for i in group]
        length = round_up(len(part[0]), MULTIPLE)
        asked = places_asked(part)
        for row, (i, tree) in enumerate(zip(group, part, strict=True)):
            found[i] = {place: n_ends + row * asked.shape[1] + k for k, place in enumerate(tree.places)}
        mask = seen(padded([tree.ends for tree in part], length, length))
        end_mask = mask.gather(1, asked[:, :, None].expand(-1, -1, length))
        blocks.append(Block(start, len(part), length, n_ends, asked.shape[1], mask, end_mask))
        tokens.append(padded([tree.tokens for tree in part], length, 0).flatten())
        positions.append(padded([tree.positions for tree in part], length, 0).flatten())
        ends.append((asked + start + torch.arange(len(part))[:, None] * length).flatten())
        start, n_ends = start + len(part) * length, n_ends + asked.numel()
    rows = [found[i][place] for i, tree in enumerate(trees) for target in tree.targets for place in target.places]
    order, n_tokens = torch.tensor([i for group in groups for i in group]), sum(map(len, trees))
    whole = torch.cat(tokens), torch.cat(positions), tuple(blocks), torch.cat(ends)
    return Packed(*whole, lasts=torch.empty(0), order=order, n_tokens=n_tokens), torch.tensor(rows)


def places_asked(trees: Sequence[Tree]) -> Tensor:
    """(trees, places) where something is predicted; a tree with fewer places than another repeats its last one."""
    places = [tree.places for tree in trees]
    most = max(map(len, places))
    return torch.tensor([row + row[-1:] * (most - len(row)) for row in places])
