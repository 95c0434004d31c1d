"""The preference-model stage: train on one half's comparisons, score the held-out ones.

The score is read on top of the end-of-context token that follows the response (Bai et al. 2022, appendix A.2); the
loss is the Bradley-Terry negative log-likelihood; one pass at a fixed rate unless configured otherwise. What both
responses of a comparison share is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hh_scaling.configs import PMConfig, PMPConfig
from hh_scaling.crew import Crew, balanced, crew_size
from hh_scaling.estimates import clustered_mean
from hh_scaling.losses import binarised_loss, preference_loss
from hh_scaling.models import check_length, describe, load_tokenizer, set_up
from hh_scaling.packing import Tree
from hh_scaling.pairs import PairFile, choose_rows, is_harmless, pair_trees, read_rows, write_pairs
from hh_scaling.pm_model import initial_pm, pretrained_pm
from hh_scaling.pretrain import save_model
from hh_scaling.probes import Probe, read_probes
from hh_scaling.records import StageWriter, check_finite
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training import (
    Stopwatch,
    apply_step,
    learning_rate,
    load_training_state,
    make_optimizer,
    save_training_state,
)
from hh_scaling.training_pairs import chosen_rows, find_pairs
from hh_scaling.tree_scores import TreeScores, batches, score_trees

KEPT = ("comparison_id", "conversation", "tranche", "n_turns")
SIDES = ("chosen", "rejected")
ATTENTION_ROWS = 1000  # length at which attention costs as much as the rest of a layer, on two cores at width 256
SCORED_AT_ONCE = 4096  # held-out comparisons whose token ids are in memory together


@dataclass(frozen=True)
class HeldOut:
    """The held-out comparisons: rows of the table, and their trees."""

    table: Path
    rows: np.ndarray
    trees: PairFile


def run(config: PMConfig, context: StageContext) -> StageResult:
    """Train the preference model, save it, and write its scores of the held-out comparisons and of the probes."""
    set_up(config.compute)
    probes = read_probes(config.probes, context.where)
    tokenizer = load_tokenizer(context.parents["base"])
    data, out, longest = context.parents["data"], context.out, config.training.max_length
    found = find_pairs(chosen_rows(config, data), tokenizer, longest, out.path / "pairs.tmp")
    held_out = find_held_out(data, tokenizer, longest, out.path / "held_out.tmp")
    if config.pretrained:
        model = pretrained_pm(context.parents["pmp"], tokenizer, config)
    else:
        model = initial_pm(context.parents["base"], tokenizer, config)
    check_length(model, longest, "pm.max_length")
    Training(model, found.trees, loss_weights(found.tranche, config.harmless_weight), held_out, config, out).run()
    save_model(model, tokenizer, out.path / "model")
    scorer = TreeScores(model, config.compute)
    scores = score_table(held_out, score_held_out(lambda trees: score_trees(scorer, trees, out), held_out))
    scores.to_parquet(out.path / "scores.parquet", index=False)
    judged = {"probes": judge_probes(scorer, tokenizer, probes, longest, out)} if probes else {}
    for name in ("pairs.tmp", "held_out.tmp"):
        (out.path / name).unlink()
    summary = {"model": describe(model, config.size.name), "half": config.half} | found.counts
    cut = {"held_out_truncated": int(held_out.trees.cut.sum())}
    return StageResult(summary | summarise(scores) | cut | judged)


def find_held_out(data: Path, tokenizer: Any, max_length: int, path: Path) -> HeldOut:
    """Every held-out comparison."""
    table = data / "comparisons.parquet"
    rows = choose_rows(table, "held_out", None).row.to_numpy()
    return HeldOut(table, rows, write_pairs(table, rows, tokenizer, max_length, path))


def loss_weights(tranche: pd.Series, harmless_weight: float) -> Tensor:
    """(n,) float32 weights of L = L_helpful + lambda L_harmless, of mean 1 so that lambda does not change the rate.

    ValueError where all are of one kind: a weight would do nothing.
    """
    harmless = is_harmless(tranche).to_numpy(bool)
    if harmless_weight != 1 and harmless.all() == harmless.any():
        kind = "harmless" if harmless.all() else "other"
        raise ValueError(f"pm.harmless_weight {harmless_weight:g}: all comparisons are {kind}, needed: both kinds")
    weights = np.where(harmless, harmless_weight, 1.0)
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


# ---------------------------------------------------------------- training


class Training:
    """One pass (or ``n_epochs``) over the pairs in a seeded order; resumes from an earlier attempt's state."""

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Sequence[Tree] | PairFile,
        weights: Tensor,
        held_out: HeldOut | None,
        config: PMConfig | PMPConfig,
        out: StageWriter,
    ) -> None:
        self.model, self.pairs, self.weights, self.held_out = model, pairs, weights, held_out
        self.config, self.out = config, out
        self.binarised = isinstance(config, PMPConfig) and config.binarised
        self.scores = TreeScores(model, config.compute)
        self.optimizer = make_optimizer(model.parameters(), config.training.schedule)
        layers = config.training.trainable_layers
        self.trained_share = min(1.0, layers / model.config.num_hidden_layers) if layers else 1.0  # lower ones: forward
        self.curve: dict[int, Tensor] = {}  # pairs seen -> (held-out comparisons, 2) scores
        self.crew = Crew(1, model.parameters(), gradient=self.part_gradient)

    def run(self) -> None:
        """Train to the end; with ``eval_at``, curve.parquet has the held-out scores along the way."""
        tasks = {"gradient": self.part_gradient, "scores": self.part_scores}
        with Crew(crew_size(self.config.compute), self.model.parameters(), **tasks) as self.crew:
            self.train()
        if self.curve:
            self.write_curve()

    def train(self) -> None:
        """The loop over batches."""
        training, schedule = self.config.training, self.config.training.schedule
        batches_ = self.order()
        seen = np.cumsum([len(b) for b in batches_])
        stopwatch = Stopwatch(training.checkpoint_seconds)
        for step in range(self.resume(), len(batches_)):
            stats = self.accumulate_gradient(batches_[step], step)
            rate = learning_rate(schedule, self.model.config.hidden_size, step, len(batches_))
            with self.crew.resting():  # the others wait for the new weights
                norm = apply_step(self.optimizer, schedule, rate, step)
            self.out.log({"step": step, "pairs": int(seen[step]), **stats, "lr": rate, "grad_norm": norm})
            self.evaluate(int(seen[step - 1]) if step else 0, int(seen[step]))
            self.out.progress(step + 1, len(batches_), f"loss {stats['loss']:.3f}")
            if stopwatch.due():
                self.save(step)

    def order(self) -> list[np.ndarray]:
        """The pairs' indices batch by batch: nearly equal batches of about ``batch_size``."""
        training, n = self.config.training, len(self.pairs)
        rng = np.random.default_rng(self.config.seed)
        order = np.concatenate([rng.permutation(n) for _ in range(training.n_epochs)])
        return np.array_split(order, max(1, n // training.batch_size) * training.n_epochs)

    def accumulate_gradient(self, batch: np.ndarray, step: int) -> dict[str, float]:
        """Gradient of the batch's mean weighted loss; returns mean loss (unweighted) and accuracy."""
        trees = [self.pairs[int(i)] for i in batch]
        budget = self.config.compute.micro_batch_tokens // self.crew.n
        parts = [(batch[part], len(batch), budget) for part in balanced([cost(tree) for tree in trees], self.crew.n)]
        results = self.crew.gradient("gradient", parts)
        loss_sum, correct = (sum(column) for column in zip(*results, strict=True))
        check_finite("preference loss", loss_sum, step)
        self.scores.count(trees, self.out, passes=1 + 2 * self.trained_share)
        return {"loss": loss_sum / len(batch), "accuracy": correct / len(batch)}

    def part_gradient(self, part: tuple[np.ndarray, int, int]) -> tuple[float, float]:
        """Gradient of (pairs, size of their batch, tokens at once); summed loss (unweighted) and number correct."""
        rows, n, budget = part
        trees, weights = [self.pairs[int(i)] for i in rows], self.weights[torch.from_numpy(rows)]
        loss_sum = correct = 0.0
        with self.scores.fixed_weights():
            for group in batches(trees, budget):
                chosen, rejected = self.scores([trees[i] for i in group]).unbind(1)
                losses = (binarised_loss if self.binarised else preference_loss)(chosen, rejected)
                ((losses * weights[group].to(losses.device)).sum() / n).backward()
                loss_sum += losses.sum().item()
                correct += (chosen > rejected).sum().item()
        return loss_sum, correct

    def evaluate(self, before: int, after: int) -> None:
        """Score the held-out comparisons where a wanted number of pairs has just been passed."""
        if self.held_out is not None and any(before < n <= after for n in self.config.training.eval_at):
            self.curve[after] = score_held_out(self.score_in_parts, self.held_out)

    def score_in_parts(self, trees: Sequence[Tree]) -> Tensor:
        """(n, 2) scores, every process some of them."""
        parts = balanced([cost(tree) for tree in trees], self.crew.n)
        results = self.crew.do("scores", [[trees[i] for i in part] for part in parts])
        self.scores.count(trees, self.out)
        order = torch.tensor([i for part in parts for i in part])
        return torch.from_numpy(np.concatenate(results))[torch.argsort(order)]

    def part_scores(self, trees: Sequence[Tree]) -> np.ndarray:
        """(n, 2) scores of some trees."""
        found: np.ndarray = score_trees(self.scores, trees).numpy()
        return found

    def save(self, step: int) -> None:
        """A state to resume from."""
        with self.out.save_state(step, {}) as folder:
            curve = {f"curve.{n}": scores for n, scores in self.curve.items()}
            save_training_state(folder, self.model, self.optimizer, **curve)

    def resume(self) -> int:
        """The first step still to be made: 0, or the one after the newest valid state, which is restored."""
        if (found := self.out.resume()) is None:
            return 0
        extra = load_training_state(found[0], self.model, self.optimizer)
        self.curve = {int(name.removeprefix("curve.")): scores for name, scores in extra.items()}
        return int(found[1]["step"]) + 1

    def write_curve(self) -> None:
        """curve.parquet: one row a held-out comparison and number of pairs seen."""
        assert self.held_out is not None
        ids = score_table(self.held_out, next(iter(self.curve.values()))).comparison_id
        parts = [
            pd.DataFrame({"pairs": n, "comparison_id": ids, "score_chosen": s[:, 0], "score_rejected": s[:, 1]})
            for n, s in sorted(self.curve.items())
        ]
        pd.concat(parts).to_parquet(self.out.path / "curve.parquet", index=False)


def cost(tree: Tree) -> float:
    """What a tree's gradient costs, in rows: attention grows with the square of the length."""
    return len(tree) * (1 + len(tree) / ATTENTION_ROWS)


# ---------------------------------------------------------------- held-out scores


def score_held_out(score: Callable[[Sequence[Tree]], Tensor], held_out: HeldOut) -> Tensor:
    """(n, 2) scores of the chosen and the rejected side; none is dropped."""
    parts = []
    for start in range(0, len(held_out.trees), SCORED_AT_ONCE):
        here = range(start, min(start + SCORED_AT_ONCE, len(held_out.trees)))
        parts.append(score([held_out.trees[i] for i in here]))
    return torch.cat(parts)


def score_table(held_out: HeldOut, scores: Tensor) -> pd.DataFrame:
    """One row a comparison: ids, tranche, turns, both scores, both lengths in characters, p(chosen) where known."""
    columns = (*KEPT, "chosen", "rejected", "p_chosen")
    parts = []
    for places, frame in read_rows(held_out.table, held_out.rows, columns):
        lengths = {f"length_{side}": frame[side].str.len().to_numpy() for side in SIDES}
        values = {f"score_{side}": scores.numpy()[places, i] for i, side in enumerate(SIDES)}
        part = frame[list(KEPT)].assign(**values, **lengths, p_chosen=frame.p_chosen.to_numpy(dtype=float))
        parts.append(part.set_index(places))
    return pd.concat(parts).sort_index().reset_index(drop=True)


# ---------------------------------------------------------------- probes


def judge_probes(
    scorer: TreeScores, tokenizer: Any, probes: Sequence[Probe], max_length: int, out: StageWriter
) -> dict[str, Any]:
    """Write probes.parquet, a row a comparison of every probe, and say by name what each came to.

    None is dropped after truncation; ``filled`` counts those that take all of ``max_length``, most of them cut.
    """
    tables, summary = [], {}
    for probe in probes:
        scores, filled = score_comparisons(scorer, tokenizer, probe.comparisons, max_length, out)
        tables.append(probe_table(probe, scores))
        accuracy = clustered_mean(correct_side(tables[-1]), tables[-1].conversation)
        summary[probe.name] = {"accuracy": accuracy, "filled": filled, "dropped": probe.dropped}
    pd.concat(tables).to_parquet(out.path / "probes.parquet", index=False)
    return summary


def score_comparisons(
    scorer: TreeScores, tokenizer: Any, rows: pd.DataFrame, max_length: int, out: StageWriter
) -> tuple[Tensor, int]:
    """(n, 2) scores of the chosen and the rejected side, and how many comparisons take all of ``max_length``."""
    parts, filled = [], 0
    for start in range(0, len(rows), SCORED_AT_ONCE):
        trees = pair_trees(rows.iloc[start : start + SCORED_AT_ONCE], tokenizer, max_length)
        filled += sum(len(tree.trunk) + max(map(len, tree.branches)) >= max_length for tree in trees)
        parts.append(score_trees(scorer, trees, out))
    return torch.cat(parts), filled


def probe_table(probe: Probe, scores: Tensor) -> pd.DataFrame:
    """One row a comparison: probe, line of its file, category, conversation, scores, lengths in characters."""
    rows = probe.comparisons
    values = {f"score_{side}": scores[:, i].numpy() for i, side in enumerate(SIDES)}
    lengths = {f"length_{side}": rows[side].str.len() for side in SIDES}
    table = rows[["row", "category", "conversation"]].assign(**values, **lengths)
    table.insert(0, "probe", probe.name)
    return table


# ---------------------------------------------------------------- summary


def correct_side(scores: pd.DataFrame) -> np.ndarray:
    """(n,) 1 where the chosen side scores higher, one half for a tie."""
    difference = scores.score_chosen.to_numpy(float) - scores.score_rejected.to_numpy(float)
    if bad := int((~np.isfinite(difference)).sum()):
        raise ValueError(f"{bad} of {len(difference)} comparisons have no finite scores")
    correct: np.ndarray = (difference > 0) + 0.5 * (difference == 0)
    return correct


def summarise(scores: pd.DataFrame) -> dict[str, Any]:
    """Accuracy (ties count one half) and log loss, clustered by conversation; mean and spread of the scores."""
    difference = scores.score_chosen.to_numpy(float) - scores.score_rejected.to_numpy(float)
    both = np.concatenate([scores.score_chosen, scores.score_rejected]).astype(float)
    return {
        "accuracy": clustered_mean(correct_side(scores), scores.conversation),
        "log_loss": clustered_mean(np.logaddexp(0, -difference), scores.conversation),
        "mean_score": clustered_mean(both, pd.concat([scores.conversation] * 2)),
        "sd_score": float(both.std()),
    }
