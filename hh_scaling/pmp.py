"""Preference-model pretraining: a preference model of the votes, which other preference models start from.

Trained as those are (Askell et al. 2021, section 4; Bai et al. 2022, appendix A.1): one pass, the score at the end
token, the ranked or the binarised loss. The held-out comparisons are scored too: what the votes alone have taught.
"""

from __future__ import annotations

import torch

from hh_scaling.configs import PMPConfig
from hh_scaling.models import check_length, describe, load_tokenizer, set_up
from hh_scaling.pairs import choose_rows
from hh_scaling.pm import Training, find_held_out, score_held_out, score_table, summarise
from hh_scaling.pm_model import initial_pm
from hh_scaling.pretrain import save_model
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.training_pairs import find_pairs
from hh_scaling.tree_scores import TreeScores, score_trees
from hh_scaling.votes import SPLIT, votes_table


def run(config: PMPConfig, context: StageContext) -> StageResult:
    """Train on the votes, save the model with its head, and write its scores of the held-out comparisons."""
    set_up(config.compute)
    tokenizer = load_tokenizer(context.parents["base"])
    data, out, longest = context.parents["data"], context.out, config.training.max_length
    table = votes_table(data)
    chosen = {"n_comparisons": (table, choose_rows(table, SPLIT, config.n_comparisons))}
    found = find_pairs(chosen, tokenizer, longest, out.path / "pairs.tmp")
    held_out = find_held_out(data, tokenizer, longest, out.path / "held_out.tmp")
    model = initial_pm(context.parents["base"], tokenizer, config)
    check_length(model, longest, "pmp.max_length")
    Training(model, found.trees, torch.ones(len(found.trees)), None, config, out).run()
    save_model(model, tokenizer, out.path / "model")
    scorer = TreeScores(model, config.compute)
    scores = score_table(held_out, score_held_out(lambda trees: score_trees(scorer, trees, out), held_out))
    scores.to_parquet(out.path / "scores.parquet", index=False)
    for name in ("pairs.tmp", "held_out.tmp"):
        (out.path / name).unlink()
    summary = {"model": describe(model, config.size.name), "binarised": config.binarised}
    cut = {"held_out_truncated": int(held_out.trees.cut.sum())}
    return StageResult(summary | found.counts | summarise(scores) | cut)
