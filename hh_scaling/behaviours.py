"""The behaviour stage: the paper's other evaluations that need no people, of one model or checkpoint of a policy.

Occupations (figure 40), good and bad answers (figures 34 and 37), harmful requests by activations (figures 22, 23, 39)
and, where a classifier is given, sentiment (figure 17). Each writes its items as a table of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hh_scaling import answers, occupations, outliers, sentiment
from hh_scaling.benchmarks import find_checkpoint
from hh_scaling.configs import BehaviourConfig, BehaviourTasks
from hh_scaling.lm import CausalLM
from hh_scaling.models import (
    ModelError,
    autocast,
    describe,
    forward_flops,
    load_causal_lm,
    load_pretrained,
    load_tokenizer,
    micro_batches,
    pad_right,
    set_up,
)
from hh_scaling.pairs import encode
from hh_scaling.records import StageWriter, check_finite, read_record
from hh_scaling.splits import HELD_OUT, SPLITS
from hh_scaling.stages import StageContext, StageResult
from hh_scaling.tree_logprobs import Batch


def run(config: BehaviourConfig, context: StageContext) -> StageResult:
    """Writes a parquet table for each evaluation; the summary has its numbers with standard errors.

    A policy that never reached the wanted distance gives ``not_reached`` and nothing else.
    """
    set_up(config.compute)
    stage, out = context.parents["model"], context.out
    checkpoint = find_checkpoint(stage, config.at)
    place = {"at": config.at, "at_sqrt_kl": (checkpoint or {}).get("sqrt_kl"), "not_reached": checkpoint is None}
    if checkpoint is None:
        return StageResult({"model": read_record(stage / "record.json").summary["model"], **place})
    model = load_causal_lm(stage, config.at, config.compute)

    def on_batch(batch: Batch) -> None:
        out.count(batch.n_tokens, forward_flops(model, batch.n_tokens, batch.mean_length, batch.n_logits))

    lm = CausalLM(model, load_tokenizer(stage, config.at), config.compute, on_batch=on_batch)
    data, tasks = context.parents["data"], config.tasks
    wanted: dict[str, Callable[[], dict[str, Any]]] = {
        "occupations": lambda: measure_occupations(lm, out),
        "answers": lambda: measure_answers(lm, data, tasks, out),
        "outliers": lambda: measure_outliers(lm, data, tasks, out),
    }
    steps: dict[str, Callable[[], dict[str, Any]]] = {name: wanted[name] for name in tasks.of}
    if config.classifier is not None:
        classify = load_classifier(config, context)
        steps["sentiment"] = lambda: measure_sentiment(lm, classify, out)
    summary: dict[str, Any] = {"model": describe(model, config.size.name), **place}
    with lm.by_processes():
        for i, (name, step) in enumerate(steps.items()):
            out.progress(i, len(steps), name)
            summary[name] = step()
    return StageResult(summary | {"truncated": {name: len(cut) for name, cut in lm.truncated.items()}})


# ---------------------------------------------------------------- one evaluation each


def measure_occupations(lm: CausalLM, out: StageWriter) -> dict[str, Any]:
    """Writes occupations.parquet: the log ratio of every occupation, pair and tense."""
    asked = requests("occupations", occupations.questions())
    table = occupations.log_ratios([score for score, _ in lm.loglikelihood(asked)])
    check_finite("log ratio", float(table.log_ratio.sum()), 0)
    table.to_parquet(out.path / "occupations.parquet", index=False)
    return occupations.bias(table)


def measure_answers(lm: CausalLM, data: Path, tasks: BehaviourTasks, out: StageWriter) -> dict[str, Any]:
    """Writes answers.parquet: log-likelihoods of the chosen and rejected responses of held-out comparisons."""
    table = pd.read_parquet(data / "comparisons.parquet")
    table = table[table.split == SPLITS[HELD_OUT]].sort_values("order").head(tasks.n_comparisons)
    if table.empty:
        return {"entries": [], "note": "no held-out comparisons"}
    sides = zip(table.prompt, table.chosen, table.rejected, strict=True)
    pairs = [(prompt, response) for prompt, *both in sides for response in both]
    asked = requests("answers", pairs)
    n_tokens = [sequence.n_scored for sequence in lm.sequences(asked)]
    scored = answers.with_logprobs(table, [score for score, _ in lm.loglikelihood(asked)], n_tokens)
    check_finite("log-likelihood", float(scored[[f"loglikelihood_{side}" for side in answers.SIDES]].sum().sum()), 0)
    scored.to_parquet(out.path / "answers.parquet", index=False)
    return {"entries": answers.summarise(scored), "note": None}


def measure_outliers(lm: CausalLM, data: Path, tasks: BehaviourTasks, out: StageWriter) -> dict[str, Any]:
    """Writes outliers.parquet: how well each layer tells harmful from helpful prompts, by split and method; and the
    first split's distances in outlier_scores.parquet."""
    prompts = pd.read_parquet(data / "prompts.parquet").sort_values("order")
    kinds = [prompts[prompts.tranche.str.startswith(kind)].head(tasks.n_prompts) for kind in ("helpful", "harmless")]
    if min(map(len, kinds)) < outliers.FEWEST:
        note = f"{len(kinds[0])} prompts of helpful and {len(kinds[1])} of harmless tranches; needed: {outliers.FEWEST}"
        return {"entries": [], "note": note}
    with lm.scorer.alone():
        helpful, harmful = (last_activations(lm, encode(lm.tokenizer, list(part.prompt)), out) for part in kinds)
        table = outliers.separations(
            helpful, harmful, n_outliers=tasks.n_outliers, n_splits=tasks.n_splits, seed=tasks.seed
        )
    table.to_parquet(out.path / "outliers.parquet", index=False)
    outliers.first_scores(helpful, harmful, tasks.seed).to_parquet(out.path / "outlier_scores.parquet", index=False)
    return {"entries": outliers.summarise(table), "note": None}


def measure_sentiment(lm: CausalLM, classify: sentiment.Classifier, out: StageWriter) -> dict[str, Any]:
    """Writes sentiment.parquet: every completed sentence with its probability of being positive."""
    table = sentiment.sentences()
    options = {"until": ["\n"], "max_gen_toks": sentiment.NEW_TOKENS}
    asked = [
        Instance("generate_until", {}, (sentiment.prompt(text), options), 0, metadata=("sentiment", i, 1))
        for i, text in enumerate(table.beginning)
    ]
    table["sentence"] = sentiment.completed(list(table.beginning), lm.generate_until(asked))
    table["positive"] = list(classify(list(table.sentence)))
    table.to_parquet(out.path / "sentiment.parquet", index=False)
    return {"entries": sentiment.summarise(table)}


def requests(task: str, pairs: Sequence[tuple[str, str]]) -> list[Instance]:
    """lm-eval's requests for log-likelihoods of continuations."""
    return [Instance("loglikelihood", {}, pair, 0, metadata=(task, i, 1)) for i, pair in enumerate(pairs)]


# ---------------------------------------------------------------- models


@torch.no_grad()
def last_activations(lm: CausalLM, sequences: Sequence[list[int]], out: StageWriter) -> np.ndarray:
    """(layers + 1, n, d) float32 activations at the last token, of the embedding and after every layer.

    A prompt longer than the model's context loses its beginning.
    """
    model, compute = lm.model, lm.compute
    rows = [row[-lm.max_length :] for row in sequences]
    result: list[Any] = [None] * len(rows)
    for group in micro_batches([len(row) for row in rows], compute.micro_batch_tokens):
        tokens, lengths = pad_right([rows[i] for i in group], model.config.pad_token_id or 0, compute.device)
        with autocast(compute):
            output = model.base_model(input_ids=tokens[:, : lm.max_length], use_cache=False, output_hidden_states=True)
        places = torch.arange(len(group), device=lengths.device)
        last = torch.stack([layer[places, lengths - 1].float() for layer in output.hidden_states]).cpu().numpy()
        n_tokens = int(lengths.sum())
        out.count(n_tokens, forward_flops(model, n_tokens, n_tokens / len(group), logits=0))
        for k, i in enumerate(group):
            result[i] = last[:, k]
    return np.stack(result, axis=1)


def load_classifier(config: BehaviourConfig, context: StageContext) -> sentiment.Classifier:
    """The sentiment classifier that the configuration names; ModelError where it is none."""
    size = config.classifier
    assert size is not None
    source = size.hub or context.where["classifier.path"]
    options = {"revision": size.revision} if size.revision else {}
    model = load_pretrained(
        AutoModelForSequenceClassification, source, size.trust_remote_code, new_head=False, **options
    )
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=size.trust_remote_code, **options)
    try:
        positive = sentiment.positive_label(model.config.id2label)
    except ValueError as error:
        raise ModelError(f"{size.name}: {error}") from error
    model = model.to(config.compute.device)

    @torch.no_grad()
    def classify(texts: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(texts), 32):
            inputs = tokenizer(list(texts[start : start + 32]), padding=True, truncation=True, return_tensors="pt")
            logits = model(**inputs.to(model.device)).logits.float()
            found += logits.softmax(-1)[:, positive].tolist()
        return found

    return classify
