"""Evaluations of a policy along training: fresh samples on fixed held-out prompts.

Per response: KL(policy || reference) by the estimators of ``kl_estimates`` at the sampling temperature, KL(reference ||
policy) on the reference's own responses to the same prompts, the scores of the train and the test PM, the gold score
where there is one, length, entropy, and whether it ended. The distance of a policy is the square root of the mean
exact KL. At the first evaluation the policy still is the reference, so the responses drawn then are the reference's;
they are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel

from hh_scaling.configs import PPOConfig, PPOTraining
from hh_scaling.estimates import clustered_mean, distinct, length_controlled_change, ratio, square_root
from hh_scaling.kl_estimates import Reading, ResponseKL, read, response_kl
from hh_scaling.records import StageWriter, atomic_write, check_finite, read_jsonl
from hh_scaling.rollout import Sample, StopText, count_generation, generate
from hh_scaling.scorers import ForeignPMScorer, PMScorer, stream_seed
from hh_scaling.world import Gold

GOLD = {"gold": "total", "gold_helpful": "helpful", "gold_harmless": "harmless"}  # column -> what of the exact score
SCORES = ("score_train", "score_test", "gold")
NOT_MEASURED = ("step", "samples", "prompt_id", "conversation")  # columns that name a row
REFERENCE_SAMPLES = "reference_samples.jsonl"
N_SAMPLES_SHOWN = 8


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: the update it was made at, the samples drawn so far, and its means."""

    step: int
    samples: int
    metrics: dict[str, Any]  # name -> {"value", "se", "n"}

    @property
    def sqrt_kl(self) -> float:
        """sqrt(max(mean exact KL, 0))."""
        return float(self.metrics["sqrt_kl"]["value"])

    def kl_entry(self) -> dict[str, Any]:
        """What ``checkpoints.json`` says of the distance."""
        kls = {name: self.metrics[name] for name in ("kl_exact", "kl_k1")}
        return {"sqrt_kl": self.sqrt_kl, "sqrt_kl_se": self.metrics["sqrt_kl"]["se"], **kls}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measures:
    """What scores responses. The gold score is that of ``pm_gold`` where there is one, else the world's, else none."""

    pms: Mapping[str, PMScorer | ForeignPMScorer]  # by role: pm_train, pm_test, perhaps pm_test_<size>s and pm_gold
    stages: Mapping[str, Path]  # role -> the stage's folder, which is called by its id
    exact: Callable[[str, str], Gold] | None

    def scores(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """(B,) columns score_train, score_test and, for each test PM of a further size, score_test_<size>."""
        roles = [role for role in self.pms if role != "pm_gold"]
        return {role.replace("pm_", "score_", 1): self.pms[role](samples).astype(float) for role in roles}

    def gold(self, samples: Sequence[Sample], prompts: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        """(B,) columns gold, gold_helpful and gold_harmless; the last two are known to the world alone."""
        unknown = [float("nan")] * len(samples)
        columns: dict[str, Any] = {name: unknown for name in GOLD}
        if "pm_gold" in self.pms:
            return columns | {"gold": self.pms["pm_gold"](samples).astype(float)}
        if self.exact is None:
            return columns
        golds = [self.exact(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        return {name: [getattr(gold, part) for gold in golds] for name, part in GOLD.items()}

    def describe(self) -> dict[str, Any]:
        """Where the gold score is from, and how each preference model is given the policy's tokens."""
        source = "world" if self.exact is not None else None
        pms = {
            role.removeprefix("pm_"): {
                "stage_id": self.stages[role].name,
                "format": pm.format,
                "tokens": "decoded and encoded again" if pm.reencodes else "as sampled",
            }
            for role, pm in self.pms.items()
        }
        return {"gold_source": pms["gold"]["stage_id"] if "gold" in pms else source, "scored_by": pms}


class Evaluator:
    """Evaluates a policy on fixed held-out prompts and remembers every evaluation."""

    def __init__(
        self,
        config: PPOConfig,
        tokenizer: Any,
        stop: StopText,
        table: pd.DataFrame,
        prompts: list[list[int]],
        reference: PreTrainedModel,
        measures: Measures,
        out: StageWriter,
    ) -> None:
        self.config, self.tokenizer, self.stop, self.out = config, tokenizer, stop, out
        self.prompts, self.reference, self.measures = prompts, reference, measures
        self.prompt_table = table.reset_index(drop=True)
        self.history: list[Evaluation] = []
        self.kept: list[dict[str, Any]] = []
        self.sample_lines: list[str] = []
        self.reference_samples: list[Sample] = []
        self._tables: list[pd.DataFrame] = []
        self._start: pd.DataFrame | None = None  # rows of another stage's first evaluation, see go_by
        self._reference_reading: Reading | None = None

    def has(self, step: int) -> bool:
        return bool(self.history) and self.history[-1].step >= step

    def table(self) -> pd.DataFrame:
        """All evaluations so far, one row a step and prompt."""
        return pd.concat(self._tables, ignore_index=True)

    def save(self, folder: Path) -> None:
        """Write all evaluations so far into ``folder``: their table, texts, and the reference's responses."""
        self.table().to_parquet(folder / "evals.parquet", index=False)
        (folder / "samples.jsonl").write_text("".join(self.sample_lines), encoding="utf-8")
        lines = "".join(json.dumps(asdict(sample)) + "\n" for sample in self.reference_samples)
        atomic_write(folder / REFERENCE_SAMPLES, lines)

    def restore(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """Go on from the evaluations that a saved state holds."""
        self.history = [Evaluation(**entry) for entry in extra["history"]]
        self.kept = list(extra["kept"])
        self._tables = [pd.read_parquet(folder / "evals.parquet")]
        self.sample_lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        self.reference_samples = [Sample(**row) for row in read_jsonl(folder / REFERENCE_SAMPLES)]

    def go_by(self, policy: Path) -> None:
        """Measure as that finished policy was measured: KL(reference || ·) on the reference's responses that it kept,
        and changes from the scores of its first evaluation."""
        self.reference_samples = [Sample(**row) for row in read_jsonl(policy / REFERENCE_SAMPLES)]
        self._start = pd.read_parquet(policy / "evals.parquet").head(len(self.prompts))

    def evaluate(self, policy: PreTrainedModel, sampler: PreTrainedModel, step: int) -> Evaluation:
        """Sample once a prompt, measure, log a row of metrics; training's random streams are not touched."""
        samples = self.draw(sampler, step)
        count_generation(policy, samples, self.out)
        starts = not self.history and self._start is None
        if starts:
            self.reference_samples = samples
        forward, reverse = self.both_kls(policy, samples)
        if starts and (forward.k1.any() or forward.exact.any()):
            raise ValueError(f"step {step}: KL is {forward.exact.mean():g} before training, it must be exactly 0")
        texts = self.tokenizer.batch_decode([s.text_ids for s in samples])
        rows = self.measure(samples, texts, step).assign(**kl_columns(forward, reverse))
        self._tables.append(rows)
        metrics = curve_metrics(rows, self.first(), texts)
        check_finite("KL", metrics["kl_exact"]["value"], step)
        evaluation = Evaluation(step, int(rows.samples.iloc[0]), metrics)
        self.history.append(evaluation)
        spent = {"tokens": self.out.tokens, "flops": self.out.flops, "seconds": round(self.out.seconds(), 3)}
        self.out.log({"type": "eval", "step": step, "samples": evaluation.samples, **spent, **metrics})
        return evaluation

    def draw(self, sampler: PreTrainedModel, step: int) -> list[Sample]:
        """One response to every prompt, from a random stream of the step's own."""
        training = self.config.training
        seed = stream_seed(self.config.seed, step, "evaluation")
        return generate(
            sampler,
            self.prompts,
            rows=training.sample_rows,
            max_tokens=training.max_response_tokens,
            temperature=training.temperature,
            tokenizer=self.tokenizer,
            stop=self.stop,
            generator=torch.Generator(self.config.compute.device).manual_seed(seed),
        )

    def both_kls(self, policy: PreTrainedModel, samples: list[Sample]) -> tuple[ResponseKL, ResponseKL]:
        """KL(policy || reference) on the policy's samples, KL(reference || policy) on the reference's own.

        What the frozen reference makes of its own samples is kept in memory, response tokens times d_model.
        """
        temperature, compute, out = self.config.training.temperature, self.config.compute, self.out
        own, ours = self.reference_samples, read(policy, samples, compute, out)
        if self._reference_reading is None:  # after resuming it was counted by the attempt before
            self._reference_reading = read(self.reference, own, compute, None if self.history else out)
        first = samples is own
        theirs = self._reference_reading if first else read(self.reference, samples, compute, out)
        policy_there = ours if first else read(policy, own, compute, out)
        forward = response_kl(ours, theirs, samples, temperature, compute)
        reverse = response_kl(self._reference_reading, policy_there, own, temperature, compute)
        return forward, reverse

    def why_diverged(self) -> str | None:
        """Which limit the newest evaluation is past; see the function."""
        return why_diverged(self.history, self.first().score_train, self.config.training)

    def first(self) -> pd.DataFrame:
        """The rows of the first evaluation."""
        return (self._tables[0] if self._start is None else self._start).head(len(self.prompts))

    def measure(self, samples: list[Sample], texts: list[str], step: int) -> pd.DataFrame:
        """Scores, lengths and ends of the samples; a few texts are kept for the report."""
        rows = pd.DataFrame(
            {
                "step": step,
                "samples": step * self.config.training.batch_size,
                "prompt_id": self.prompt_table.prompt_id,
                "conversation": self.prompt_table.conversation,
                **self.measures.scores(samples),
                "length": [float(len(s.response)) for s in samples],
                "ended": [float(s.ended) for s in samples],
            }
        )
        rows = rows.assign(**self.measures.gold(samples, list(self.prompt_table.prompt), texts))
        for i in range(min(N_SAMPLES_SHOWN, len(texts))):
            shown = {"step": step, "prompt_id": int(rows.prompt_id[i]), "prompt": self.prompt_table.prompt[i]}
            shown |= {
                "response": texts[i],
                "score_train": float(rows.score_train[i]),
                "score_test": float(rows.score_test[i]),
            }
            shown["gold"] = None if pd.isna(rows.gold[i]) else float(rows.gold[i])
            self.sample_lines.append(json.dumps(shown, ensure_ascii=False, allow_nan=False) + "\n")
        return rows


# ---------------------------------------------------------------- numbers of one evaluation


def kl_columns(forward: ResponseKL, reverse: ResponseKL) -> dict[str, Any]:
    """(B,) columns: KL both ways, the policy's mean entropy a token, and how many tokens were sampled."""
    both = {"kl": forward, "reverse_kl": reverse}
    columns = {f"{way}_{name}": getattr(kl, name) for way, kl in both.items() for name in ("k1", "k3", "exact")}
    return columns | {
        "entropy": forward.entropy / forward.tokens,
        "sampled_tokens": forward.tokens,
        "reverse_sampled_tokens": reverse.tokens,
    }


def curve_metrics(rows: pd.DataFrame, first: pd.DataFrame, texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Estimates over the prompts of one evaluation, name -> {"value", "se", "n"}, errors clustered by conversation.

    ``first`` holds the same prompts at the first evaluation, from which scores change. What was not measured is absent.
    """
    cluster, before = rows.conversation, first.set_index(rows.index)
    measured = [name for name in rows.columns if name not in NOT_MEASURED and rows[name].notna().all()]
    metrics = {name: clustered_mean(rows[name], cluster) for name in measured}
    found: dict[str, dict[str, Any] | None] = {
        "sqrt_kl": square_root(metrics["kl_exact"]),
        "kl_per_token": ratio(rows.kl_exact, rows.sampled_tokens, cluster),
        "reverse_kl_per_token": ratio(rows.reverse_kl_exact, rows.reverse_sampled_tokens, cluster),
        "entropy": ratio(rows.entropy * rows.sampled_tokens, rows.sampled_tokens, cluster),  # all tokens alike
        "truncated": clustered_mean(1 - rows.ended, cluster),
    }
    for name in (name for name in SCORES if name in metrics):
        found[f"{name}_change"] = clustered_mean(rows[name] - before[name], cluster)
        found[f"{name}_controlled"] = length_controlled_change(
            rows[name], rows.length, before[name], before.length, cluster
        )
    words = [text.split() for text in texts]
    found |= {f"distinct_{n}": distinct(words, n, list(cluster)) for n in (1, 2)}
    return metrics | {name: estimate for name, estimate in found.items() if estimate is not None}


def why_diverged(history: Sequence[Evaluation], first_scores: pd.Series, training: PPOTraining) -> str | None:
    """Which of the configuration's limits the newest evaluation is past, or None.

    The mean train score falls from its best so far, in standard deviations of the scores at the first evaluation.
    """
    now, place = history[-1], f"at step {history[-1].step}"
    if training.max_sqrt_kl is not None and now.sqrt_kl > training.max_sqrt_kl:
        return f"√KL {now.sqrt_kl:.2f} past the limit of {training.max_sqrt_kl:g} {place}"
    entropy = now.metrics["entropy"]["value"]
    if training.min_entropy is not None and entropy < training.min_entropy:
        return f"entropy of {entropy:.3g} nats a token below the limit of {training.min_entropy:g} {place}"
    if training.max_score_drop is not None:
        scores = [evaluation.metrics["score_train"]["value"] for evaluation in history]
        drop = (max(scores) - scores[-1]) / max(float(first_scores.std()), 1e-12)
        if drop > training.max_score_drop:
            return f"train score {drop:.2f} sd below its best, past the limit of {training.max_score_drop:g}, {place}"
    return None
