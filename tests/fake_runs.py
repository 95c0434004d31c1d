"""Synthetic RUNS directories with known truths, written through ``hh_scaling.records`` as the stages write them.

``make_runs`` needs no model: every score is drawn from the formulas of ``Truth``, so that a test can compare what
the analysis says with what was put in.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from hh_scaling.configs import (
    BaseConfig,
    BaseTraining,
    BenchmarkConfig,
    BenchmarkTasks,
    Compute,
    Config,
    DataConfig,
    PMConfig,
    PMTraining,
    PPOConfig,
    PPOTraining,
    ReferenceConfig,
    ReferenceTraining,
    SizeSpec,
    TokenizerConfig,
    WorldConfig,
)
from hh_scaling.records import Record, RunStore, StageWriter, Status, config_hash, manifest, write_json
from tests.fake_ways import add_ways

SIZES = (12_000, 60_000, 300_000, 1_500_000)


@dataclass(frozen=True)
class Truth:
    """What the fake study is drawn from; logarithms are natural."""

    accuracy_at: float = 0.60  # PM accuracy at the smallest size and fewest comparisons
    accuracy_per_ln_n_params: float = 0.02
    accuracy_per_ln_n_comparisons: float = 0.03
    slope: float = 1.2  # score per sqrt(nat), train PM, smallest size
    slope_per_ln_n_params: float = 0.1
    test_bend: float = 0.06  # test score = slope * d * (1 - test_bend * d)
    gold_alpha: float = 1.0  # gold = d * (alpha - beta * d)
    gold_beta: float = 0.3
    seed_sd: float = 0.04  # relative, of a run's slope
    max_sqrt_kl: float = 3.0
    tax_at_smallest: float = 0.20  # chance-normalised loss, every multiple-choice task
    tax_per_ln_n_params: float = -0.06  # the crossover is where the tax is zero
    bits_tax: float = 0.03  # bits per byte
    seed_sd_tax: float = 0.01  # normalised, of a run's tax
    one_sided_loss: float = 0.25  # accuracy lost on the kind of comparison not trained on, smallest size
    one_sided_per_ln_n_params: float = -0.02
    weight_cost: float = 0.05  # helpful accuracy lost per ln(harmless weight), smallest size
    weight_cost_per_ln_n_params: float = -0.008
    rate_cost: float = 0.06  # of ln(rate factor)^2: nats a token, accuracy, and relative slope of a policy
    curve_lag: float = 0.02  # accuracy along the pass below that of a separate pass over as many


@dataclass(frozen=True)
class Shape:
    """How much of everything."""

    comparisons: tuple[int, ...] = (500, 2000, 8000)
    held_out: int = 400
    prompts: int = 96
    steps: tuple[int, ...] = (0, 5, 10, 15, 20, 30, 40, 50)
    items: int = 240
    at: tuple[str, ...] = ("end", "sqrt_kl=1.0")
    reference: bool = False  # an SFT reference between base and policy
    failed: bool = False  # the largest size's last benchmark failed
    diverged: bool = False  # the smallest size's last policy collapsed
    shared_base: bool = False  # all seeds descend from the first seed's base model
    n_bases: int | None = None  # so many seeds have bases and mitigations; later ones descend from those in turn
    helpful_share: tuple[float, ...] = ()  # additional PMs of the train half, one thing changed at a time
    harmless_weight: tuple[float, ...] = ()
    rate_factor: tuple[float, ...] = ()  # additional bases, PMs and policies
    documents: bool = False  # bases keep their held-out loss by document
    ptx_coef: tuple[float, ...] = ()  # additional policies with benchmarks; they pay half of the tax
    ptx_at: tuple[str, ...] = ("end",)  # where these are benchmarked
    ways: bool = False  # a pool of samples and an interpolation beside every main policy
    line_at: tuple[float, ...] = ()  # alphas of interpolations that are benchmarked; they pay half of that share
    learning_curve: bool = False  # the PM of the most comparisons is also scored at the other numbers along its pass


# task, format, metric, chance, share of the above-chance score at the smallest size and its growth per ln N
TASKS: tuple[tuple[str, str, str, float | None, float, float], ...] = (
    ("world_facts", "cloze", "acc", 0.25, 0.40, 0.03),
    ("world_agreement", "cloze", "acc", 0.5, 0.50, 0.03),
    ("world_facts_choice", "choice", "acc", 0.25, 0.0, 0.0),  # every size is at chance
    ("held_out_text", "loss", "bits_per_byte", None, 2.0, -0.15),
)
TRANCHES = ("helpful-base", "harmless-base")
PARENT_VERSION = {"python": "3.11", "hh-scaling": "0"}


def estimate(values: np.ndarray) -> dict[str, Any]:
    """``{"value", "se", "n"}`` of a mean."""
    n = len(values)
    return {"value": float(np.mean(values)), "se": float(np.std(values, ddof=1) / math.sqrt(n)), "n": n}


@dataclass(frozen=True)
class PMChange:
    """What tells a PM from the main one of its size, seed, half and number of comparisons."""

    helpful_share: float | None = None
    harmless_weight: float = 1.0
    rate_factor: float = 1.0
    eval_at: tuple[int, ...] = ()


T = TypeVar("T", BaseTraining, PMTraining, PPOTraining)


def at_rate(training: T, factor: float) -> T:
    """The training at ``factor`` times the rule's rate."""
    return training.model_copy(update={"schedule": training.schedule.model_copy(update={"rate_factor": factor})})


class Builder:
    """Writes stages one by one and remembers them for study.json."""

    def __init__(self, path: Path, sizes: Sequence[int], rng: np.random.Generator, truth: Truth, shape: Shape) -> None:
        self.path, self.sizes, self.rng, self.truth, self.shape = path, list(sizes), rng, truth, shape
        self.store = RunStore(path)
        self.stages: list[dict[str, Any]] = []
        self.bases: dict[tuple[int, int], str] = {}  # of each size, by number
        n = shape.held_out
        self.conversation = [f"c{i // 2:04d}" for i in range(n)]  # two comparisons a conversation
        self.tranche = [TRANCHES[(i // 2) % 2] for i in range(n)]
        self.difficulty = np.repeat(rng.normal(size=(n + 1) // 2), 2)[:n]
        self.p_chosen = 1 / (1 + np.exp(-np.abs(rng.normal(1.2, 1.0, n))))
        self.lengths = rng.integers(40, 400, size=(n, 2))

    def stage(
        self,
        kind: str,
        slug: str,
        config: Config,
        parents: Mapping[str, str],
        fill: Any,
        status: Status = "done",
        error: str | None = None,
    ) -> str:
        """Write one stage: ``fill(folder, writer)`` returns its summary. Returns the stage's id."""
        plain = config.model_dump(mode="json")
        key = {"kind": kind, "version": 1, "config": plain, "parents": dict(parents)}
        stage_id = f"{slug}-{config_hash(key)}"
        self.stages.append({"stage_id": stage_id, "kind": kind, "parents": dict(parents), "config": plain})
        attempt = self.store.new_attempt(stage_id)
        writer = StageWriter(attempt)
        writer.count(tokens=100_000, flops=1e9)
        summary = fill(attempt, writer) if error is None else {}
        provenance = {
            "versions": PARENT_VERSION, "started": "2025-01-01T00:00:00", "seconds": 1.5, "tokens": writer.tokens,
            "flops": writer.flops, "peak_rss_bytes": 10**8, "host_threads": 1, "attempt": 1, "resumed_from_step": None,
        }  # fmt: skip
        record = Record(
            stage_id, kind, "failed" if error else status, plain, dict(parents),
            files=manifest(attempt), summary=summary, provenance=provenance, error=error,
        )  # fmt: skip
        if error:
            write_json(attempt / "record.json", record.__dict__)
        else:
            self.store.commit(attempt, record)
        return stage_id

    # ------------------------------------------------------------ stages

    def data(self) -> str:
        def fill(folder: Path, writer: StageWriter) -> dict[str, Any]:
            longer = np.where(self.lengths[:, 0] == self.lengths[:, 1], 0.5, self.lengths[:, 0] > self.lengths[:, 1])
            split = {t: self.tranche.count(t) for t in TRANCHES}
            return {
                "source": "synthetic world", "synthetic": True, "n_rows": 20_000, "n_kept": 19_990,
                "dropped": {"equal responses": 10},
                "splits": {
                    "train": {"n": 8000, "n_conversations": 4000, "tranches": {t: 4000 for t in TRANCHES}},
                    "test": {"n": 8000, "n_conversations": 4000, "tranches": {t: 4000 for t in TRANCHES}},
                    "held_out": {"n": self.shape.held_out, "n_conversations": len(set(self.conversation)),
                                 "tranches": split},
                },
                "length_baseline": {"all": estimate(longer)},
                "bayes_accuracy": estimate(np.maximum(self.p_chosen, 1 - self.p_chosen)),
                "text": {"train_bytes": 6_000_000, "held_out_bytes": 100_000},
                "n_prompts": {"train": 4000, "held_out": 300},
            }  # fmt: skip

        return self.stage("data", "data-world", DataConfig(world=WorldConfig()), {}, fill)

    def model(self, n_params: int) -> dict[str, Any]:
        return {"name": size_name(n_params), "n_params": n_params, "n_params_total": n_params + 32_768}

    def base(self, n_params: int, seed: int, data: str, tokenizer: str, factor: float = 1.0) -> str:
        cost = self.truth.rate_cost * math.log(factor) ** 2

        def fill(folder: Path, writer: StageWriter) -> dict[str, Any]:
            bits = 2.0 - 0.15 * math.log(n_params / self.sizes[0])
            held_out = {
                "loss": {"value": bits * 2 + cost, "se": 0.01, "n": 100},
                "bits_per_byte": {"value": bits + cost / 2, "se": 0.005, "n": 100},
            }
            if self.shape.documents:
                self.documents(folder, bits * 2 + cost, [n_params, seed, round(100 * factor)])
            return {"model": self.model(n_params), "n_tokens": 1_500_000, "held_out": held_out, "note": ""}

        training = at_rate(BaseTraining(), factor)
        config = BaseConfig(size=spec(n_params), seed=seed, training=training, compute=Compute())
        parents = {"data": data, "tokenizer": tokenizer}
        return self.stage("base", f"base-{size_name(n_params)}-s{seed}", config, parents, fill)

    def documents(self, folder: Path, loss: float, seed: list[int]) -> None:
        """Nats and tokens of 100 documents: documents differ by 0.1 nats a token, models on a document by 0.01."""
        of_all = np.random.default_rng(5)
        tokens = of_all.integers(50, 500, 100)
        own = of_all.normal(0, 0.1, 100) + np.random.default_rng(seed).normal(0, 0.01, 100)
        frame = pd.DataFrame({"document": np.arange(100), "nats": (loss + own) * tokens, "tokens": tokens})
        frame.to_parquet(folder / "held_out.parquet", index=False)

    def reference(self, n_params: int, seed: int, data: str, base: str) -> str:
        config = ReferenceConfig(
            size=spec(n_params), seed=seed, training=ReferenceTraining(kind="sft"), compute=Compute()
        )
        parents = {"data": data, "base": base}
        return self.stage(
            "reference", f"reference-{size_name(n_params)}-s{seed}", config, parents,
            lambda folder, writer: {"model": self.model(n_params)},
        )  # fmt: skip

    def accuracy(self, n_params: int, n: int, change: PMChange) -> np.ndarray:
        """(held out,) the true accuracy on each comparison, by its kind."""
        truth, growth = self.truth, math.log(n_params / self.sizes[0])
        accuracy = (
            truth.accuracy_at
            + truth.accuracy_per_ln_n_params * growth
            + truth.accuracy_per_ln_n_comparisons * math.log(n / self.shape.comparisons[0])
            - truth.rate_cost * math.log(change.rate_factor) ** 2
        )
        helpful = np.array([name.startswith("helpful") for name in self.tranche])
        if change.helpful_share is not None:
            own = np.where(helpful, change.helpful_share, 1 - change.helpful_share)
            accuracy = accuracy - (truth.one_sided_loss + truth.one_sided_per_ln_n_params * growth) * (1 - own) ** 2
        cost = (truth.weight_cost + truth.weight_cost_per_ln_n_params * growth) * math.log(change.harmless_weight)
        return np.asarray(accuracy + np.where(helpful, -cost, cost / 2))

    def pm(
        self, n_params: int, seed: int, half: str, n: int, data: str, base: str, change: PMChange | None = None
    ) -> str:
        change, count = change or PMChange(), self.shape.held_out
        accuracy = self.accuracy(n_params, n, change) + self.rng.normal(0, 0.004)
        # correct with probability `accuracy`, and items of one conversation share their difficulty
        margin = stats.norm.ppf(accuracy) + 0.6 * self.difficulty + 0.8 * self.rng.normal(size=count)
        level = self.rng.normal(0, 1, count)

        def fill(folder: Path, writer: StageWriter) -> dict[str, Any]:
            frame = pd.DataFrame({
                "comparison_id": np.arange(count), "conversation": self.conversation, "tranche": self.tranche,
                "n_turns": 1 + np.arange(count) % 3, "score_chosen": level + margin / 2,
                "score_rejected": level - margin / 2, "length_chosen": self.lengths[:, 0],
                "length_rejected": self.lengths[:, 1], "p_chosen": self.p_chosen,
            })  # fmt: skip
            frame.to_parquet(folder / "scores.parquet", index=False)
            if change.eval_at:
                self.curve(folder, n_params, change)
            for step in range(0, 50, 10):
                writer.log({"step": step, "pairs": step * 32, "loss": 0.69, "accuracy": 0.5, "lr": 4e-4})
            scores = np.concatenate([frame.score_chosen, frame.score_rejected])
            return {
                "model": self.model(n_params), "half": half, "n_comparisons": n, "dropped": {},
                "accuracy": estimate((margin > 0).astype(float)), "log_loss": estimate(np.log1p(np.exp(-margin))),
                "mean_score": float(scores.mean()), "sd_score": float(scores.std(ddof=1)),
            }  # fmt: skip

        training = at_rate(PMTraining(eval_at=change.eval_at), change.rate_factor)
        config = PMConfig(
            size=spec(n_params), seed=seed, half=half, n_comparisons=n, helpful_share=change.helpful_share,
            harmless_weight=change.harmless_weight, training=training, compute=Compute(),
        )  # type: ignore[arg-type]  # fmt: skip
        slug = f"pm-{size_name(n_params)}-{half}-n{n}-s{seed}"
        return self.stage("pm", slug, config, {"data": data, "base": base}, fill)

    def curve(self, folder: Path, n_params: int, change: PMChange) -> None:
        """Held-out scores along the pass, each evaluation a few pairs after what was asked for."""
        parts, count = [], self.shape.held_out
        for n in change.eval_at:
            accuracy = self.accuracy(n_params, n, change) - self.truth.curve_lag
            margin = stats.norm.ppf(accuracy) + 0.6 * self.difficulty + 0.8 * self.rng.normal(size=count)
            parts.append(pd.DataFrame({
                "pairs": n + 3, "comparison_id": np.arange(count), "score_chosen": margin, "score_rejected": 0.0,
            }))  # fmt: skip
        pd.concat(parts).to_parquet(folder / "curve.parquet", index=False)

    def ppo(
        self, n_params: int, seed: int, parents: Mapping[str, str], status: Status = "done", factor: float = 1.0,
        ptx_coef: float = 0.0,
    ) -> str:  # fmt: skip
        truth, shape, rng = self.truth, self.shape, self.rng
        slope = (truth.slope + truth.slope_per_ln_n_params * math.log(n_params / self.sizes[0])) * (
            1 + truth.seed_sd * rng.normal() - truth.rate_cost * math.log(factor) ** 2
        )
        prompts = np.arange(shape.prompts)
        level = rng.normal(0, 1, (3, shape.prompts))
        rows: list[pd.DataFrame] = []
        own = np.random.default_rng([n_params, seed, 11])  # of what was added later, so that all else stays
        for step in shape.steps:
            d = truth.max_sqrt_kl * (step / shape.steps[-1]) ** 0.7
            noise = rng.normal(0, 0.3, (3, shape.prompts))
            kl = d**2 + rng.normal(0, 0.3 * d, shape.prompts)
            gold_alpha = truth.gold_alpha - truth.rate_cost * math.log(factor) ** 2
            bend = [slope * d, slope * d * (1 - truth.test_bend * d), d * (gold_alpha - truth.gold_beta * d)]
            train, test, gold = (bend[j] + level[j] + (noise[j] if step else 0) for j in range(3))
            rows.append(pd.DataFrame({
                "step": step, "samples": step * 256, "prompt_id": prompts, "conversation": [f"p{i}" for i in prompts],
                "kl_k1": kl, "kl_k3": np.abs(kl), "score_train": train, "score_test": test, "gold": gold,
                "gold_helpful": gold / 2, "gold_harmless": gold / 2, "length": 20 + rng.integers(0, 8, shape.prompts),
                "ended": rng.random(shape.prompts) < 0.9,
            }).assign(**later_columns(own, d, shape.prompts)))  # fmt: skip
        evals = pd.concat(rows, ignore_index=True)

        def fill(folder: Path, writer: StageWriter) -> dict[str, Any]:
            evals.to_parquet(folder / "evals.parquet", index=False)
            write_samples(folder, evals)
            checkpoints = write_metrics(folder, writer, evals)
            names = {c["name"]: c["step"] for c in checkpoints}
            last = evals[evals.step == shape.steps[-1]]
            final = {name: estimate(last[name].to_numpy()) for name in ("kl_k1", "score_train", "score_test", "gold")}
            return {
                "model": self.model(n_params), "n_updates": shape.steps[-1], "samples": shape.steps[-1] * 256,
                "final": final, "reached": {"1.0": names.get("sqrt_kl=1.0")},
                "note": "collapsed" if status == "diverged" else "",
            }  # fmt: skip

        training = at_rate(PPOTraining(ptx_coef=ptx_coef), factor)
        config = PPOConfig(size=spec(n_params), seed=seed, training=training, compute=Compute())
        return self.stage("ppo", f"ppo-{size_name(n_params)}-s{seed}", config, parents, fill, status)

    def benchmark(
        self, n_params: int, seed: int, data: str, model: str, at: str | None, share: float, error: str | None = None
    ) -> str:
        """``share``: the part of the run's true tax that this model pays (0 before, 1 at the end)."""
        truth, count = self.truth, self.shape.items
        growth = math.log(n_params / self.sizes[0])
        run_effect = self.rng.normal(0, truth.seed_sd_tax) if at else 0.0
        tax = share * (truth.tax_at_smallest + truth.tax_per_ln_n_params * growth + run_effect)

        def fill(folder: Path, writer: StageWriter) -> dict[str, Any]:
            parts, scores = [], []
            for number, (task, form, metric, chance, start, rate) in enumerate(TASKS):
                item = np.random.default_rng(1000 + number)  # items are the same for every model
                threshold = item.random(count)
                weight = np.ones(count)
                flip = np.random.default_rng([number, n_params, seed, int(share * 10)]).random(count)
                if chance is None:
                    size = item.integers(200, 2000, count)
                    weight = size / size.mean()
                    score = (
                        start + rate * growth + share * truth.bits_tax + 0.2 * (threshold - 0.5) + 0.02 * (flip - 0.5)
                    )
                else:
                    normalised = start + rate * growth - (tax if start > 0 else 0.0)
                    p = chance + (1 - chance) * min(max(normalised, 0.0), 1.0)
                    # an item's outcome is mostly its own, partly the model's
                    own = np.where(
                        flip < 0.1,
                        np.random.default_rng([7, number, n_params, seed, int(share * 10)]).random(count),
                        threshold,
                    )
                    score = (own < p).astype(float)
                parts.append(pd.DataFrame({
                    "task": task, "format": form, "k_shot": 0, "metric": metric, "higher_is_better": chance is not None,
                    "chance": chance, "doc_id": np.arange(count),
                    "doc_hash": [hashlib.sha256(f"{task}{i}".encode()).hexdigest()[:16] for i in range(count)],
                    "prompt_hash": [hashlib.sha256(f"p{task}{i}".encode()).hexdigest()[:16] for i in range(count)],
                    "cluster": [f"{task}-{i // 3}" for i in range(count)], "score": score, "weight": weight,
                    "loglikelihoods": [[-1.0, -2.0]] * count,
                }))  # fmt: skip
                mean = {"value": float(np.average(score, weights=weight)), "se": 0.02, "n": count}
                scores.append(
                    {"task": task, "format": form, "k_shot": 0, "metric": metric, "score": mean, "chance": chance}
                )
            frame = pd.concat(parts, ignore_index=True)
            frame["chance"] = frame["chance"].astype(float)
            frame.to_parquet(folder / "items.parquet", index=False)
            at_kl = None if at is None else truth.max_sqrt_kl if at == "end" else float(at.split("=")[1]) + 0.05
            return {"model": self.model(n_params), "at": at, "at_sqrt_kl": at_kl, "not_reached": False,
                    "scores": scores, "truncated": {t[0]: 0 for t in TASKS}}  # fmt: skip

        tasks = BenchmarkTasks(tasks=tuple(t[0] for t in TASKS), limit=count)
        config = BenchmarkConfig(size=spec(n_params), seed=seed, at=at, tasks=tasks, compute=Compute())
        slug = f"benchmark-{size_name(n_params)}-{at or 'model'}-s{seed}"
        return self.stage("benchmark", slug, config, {"data": data, "model": model}, fill, error=error)

    def chain(self, n_params: int, seed: int, data: str, tokenizer: str, last: bool, number: int) -> None:
        """Base, PMs, policy and benchmarks of one size and seed, the ``number``-th."""
        shape = self.shape
        place = (n_params, number % (1 if shape.shared_base else shape.n_bases or number + 1))
        fresh = place not in self.bases
        if fresh:
            self.bases[place] = self.base(n_params, seed, data, tokenizer)
        base = self.bases[place]
        most = shape.comparisons[-1]
        curve = PMChange(eval_at=shape.comparisons[:-1] if shape.learning_curve else ())
        pms = {
            (half, n): self.pm(n_params, seed, half, n, data, base, curve if (half, n) == ("train", most) else None)
            for half in ("train", "test")
            for n in shape.comparisons
        }
        policy = self.reference(n_params, seed, data, base) if shape.reference else base
        parents = {"data": data, "policy": policy, "pm_train": pms["train", most], "pm_test": pms["test", most]}
        collapsed = shape.diverged and last and n_params == self.sizes[0]
        ppo = self.ppo(n_params, seed, parents, "diverged" if collapsed else "done")
        beside = fresh or shape.n_bases is None
        line = add_ways(self, spec(n_params), seed, parents, ppo) if shape.ways and beside else None
        if fresh:
            self.benchmark(n_params, seed, data, base, None, 0.0)
        if shape.reference:
            self.benchmark(n_params, seed, data, policy, None, 0.1)
        for at in shape.at:
            fails = shape.failed and last and n_params == self.sizes[-1] and at == shape.at[-1]
            share = 1.0 if at == "end" else 0.5
            error = "no disk space left on /data" if fails else None
            self.benchmark(n_params, seed, data, ppo, at, share, error)
        for alpha in shape.line_at if line is not None else ():
            self.benchmark(n_params, seed, data, line, f"alpha={alpha}", alpha / 2)
        if beside:
            self.changed(n_params, seed, {"data": data, "tokenizer": tokenizer, "base": base} | parents, fresh)

    def changed(self, n_params: int, seed: int, made: Mapping[str, str], fresh: bool) -> None:
        """PMs, bases and policies with one thing changed."""
        shape, most = self.shape, self.shape.comparisons[-1]
        changes = [PMChange(helpful_share=share) for share in shape.helpful_share]
        changes += [PMChange(harmless_weight=weight) for weight in shape.harmless_weight if weight != 1]
        changes += [PMChange(rate_factor=factor) for factor in shape.rate_factor]
        for change in changes:
            self.pm(n_params, seed, "train", most, made["data"], made["base"], change)
        for factor in shape.rate_factor:
            if fresh:
                self.base(n_params, seed, made["data"], made["tokenizer"], factor)
            parents = {role: made[role] for role in ("data", "policy", "pm_train", "pm_test")}
            self.ppo(n_params, seed, parents, factor=factor)
        for coef in shape.ptx_coef:
            parents = {role: made[role] for role in ("data", "policy", "pm_train", "pm_test")}
            policy = self.ppo(n_params, seed, parents, ptx_coef=coef)
            for at in shape.ptx_at:
                self.benchmark(n_params, seed, made["data"], policy, at, 0.5 if at == "end" else 0.25)


def write_samples(folder: Path, evals: pd.DataFrame) -> None:
    """Three texts at the first and last step."""
    steps = (evals.step.min(), evals.step.max())
    with open(folder / "samples.jsonl", "w", encoding="utf-8") as stream:
        for row in evals[(evals.prompt_id < 3) & evals.step.isin(steps)].to_dict("records"):
            texts = {
                "prompt": f"\n\nHuman: question {row['prompt_id']}?\n\nAssistant:",
                "response": f" answer at step {row['step']}",
            }
            kept = {k: row[k] for k in ("step", "prompt_id", "score_train", "score_test", "gold")}
            stream.write(json.dumps(kept | texts) + "\n")


def later_columns(rng: np.random.Generator, d: float, prompts: int) -> dict[str, Any]:
    """The exact KL (a third of k1's spread), that of the reference (1.2 times the policy's), entropy and tokens."""
    exact, reverse = d**2 + rng.normal(0, 0.1 * d, prompts), 1.2 * d**2 + rng.normal(0, 0.1 * d, prompts)
    return {
        "kl_exact": exact, "reverse_kl_exact": reverse, "reverse_kl_k1": reverse + rng.normal(0, 0.3 * d, prompts),
        "reverse_kl_k3": np.abs(reverse), "entropy": 2.0 - 0.3 * d + rng.normal(0, 0.1, prompts),
        "sampled_tokens": rng.integers(20, 28, prompts).astype(float),
        "reverse_sampled_tokens": np.full(prompts, 24.0),
    }  # fmt: skip


def write_metrics(folder: Path, writer: StageWriter, evals: pd.DataFrame) -> list[dict[str, Any]]:
    """Evaluation rows in metrics.jsonl and checkpoints.json: the first step past sqrt(KL) = 1, and the end."""
    measured = (
        "kl_k1",
        "kl_k3",
        "kl_exact",
        "score_train",
        "score_test",
        "gold",
        "gold_helpful",
        "gold_harmless",
        "length",
    )
    checkpoints: list[dict[str, Any]] = []
    for step, part in evals.groupby("step"):
        means = {name: estimate(part[name].to_numpy(float)) for name in (*measured, "ended")}
        at = {"step": int(step), "samples": int(step) * 256}  # type: ignore[call-overload]
        spent = {"tokens": at["step"] * 7000, "flops": at["step"] * 1e7, "seconds": 0.1 * at["step"]}
        first = evals[evals.step == evals.step.min()]
        change = {
            n: estimate(part[n].to_numpy(float) - first[n].to_numpy(float)) for n in ("score_train", "score_test")
        }
        late = {f"{n}_controlled": values for n, values in change.items()}  # lengths do not change
        late |= {f"distinct_{n}": {"value": 0.1 * n, "se": 0.01, "n": len(part)} for n in (1, 2)}
        writer.log({"type": "eval", **at, **means, **late, "entropy": {"value": 2.0, "se": 0.01, "n": 96}, **spent})
        root = math.sqrt(max(means["kl_exact"]["value"], 0))
        at |= {"sqrt_kl": root, "kl_k1": means["kl_k1"], "kl_exact": means["kl_exact"]}
        if root >= 1.0 and not checkpoints:
            checkpoints.append({"name": "sqrt_kl=1.0", **at, "path": "checkpoints/sqrt_kl=1.0"})
    checkpoints.append({"name": "end", **at, "path": "model"})
    write_json(folder / "checkpoints.json", checkpoints)
    return checkpoints


def size_name(n_params: int) -> str:
    """``12k``, ``1.5m``: what tables call a size."""
    if n_params >= 1_000_000:
        return f"{n_params / 1e6:g}m"
    return f"{n_params / 1e3:g}k"


def spec(n_params: int) -> SizeSpec:
    return SizeSpec(name=size_name(n_params), n_params=n_params)


def make_runs(
    path: Path,
    sizes: Sequence[int] = SIZES,
    seeds: Sequence[int] = (0, 1),
    rng_seed: int = 0,
    truth: Truth | None = None,
    shape: Shape | None = None,
) -> Path:
    """A RUNS directory at ``path`` as a finished study leaves it; the same arguments give the same numbers."""
    truth, shape = truth or Truth(), shape or Shape()
    builder = Builder(path, sizes, np.random.default_rng(rng_seed), truth, shape)
    data = builder.data()
    tokenizer = builder.stage(
        "tokenizer", "tokenizer", TokenizerConfig(), {"data": data},
        lambda folder, writer: {"vocab_size": 1024, "bytes_per_token": {"value": 3.1, "se": 0.02, "n": 100}},
    )  # fmt: skip
    for n_params in sizes:
        for number, seed in enumerate(seeds):
            builder.chain(n_params, seed, data, tokenizer, last=seed == seeds[-1], number=number)
    study = {
        "name": "fake", "sizes": [size_name(n) for n in sizes], "seeds": list(seeds),
        "pm": {"n_comparisons": list(shape.comparisons)},
    }  # fmt: skip
    described = {
        "name": "fake", "description": "drawn from formulas, for tests", "study": study, "stages": builder.stages,
        "synthetic": True,
    }  # fmt: skip
    write_json(path / "study.json", described)
    return path
