"""Evaluations of a policy along training: fresh samples on fixed held-out prompts.

Per response: sequence KL(policy || reference) by k1 and k3, summed over response tokens at the sampling temperature,
the scores of the train and the test PM, the gold score where there is one, length, and whether it ended.
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

from hh_scaling.configs import PPOConfig
from hh_scaling.estimates import clustered_mean
from hh_scaling.losses import kl_k1, kl_k3
from hh_scaling.records import StageWriter, check_finite
from hh_scaling.rollout import Sample, StopText, count_generation, generate, score_responses
from hh_scaling.scorers import ForeignPMScorer, PMScorer, stream_seed
from hh_scaling.world import Gold

GOLD = {"gold": "total", "gold_helpful": "helpful", "gold_harmless": "harmless"}  # column -> what of the exact score
N_SAMPLES_SHOWN = 8


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: the update it was made at, the samples drawn so far, and its means."""

    step: int
    samples: int
    sqrt_kl: float  # sqrt(max(mean k1, 0))
    metrics: dict[str, Any]

    def kl_entry(self) -> dict[str, Any]:
        return {"sqrt_kl": self.sqrt_kl, "kl_k1": self.metrics["kl_k1"]}

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
        self._tables: list[pd.DataFrame] = []

    def has(self, step: int) -> bool:
        return bool(self.history) and self.history[-1].step >= step

    def table(self) -> pd.DataFrame:
        """All evaluations so far, one row a step and prompt."""
        return pd.concat(self._tables, ignore_index=True)

    def restore(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """Go on from the evaluations that a saved state holds."""
        self.history = [Evaluation(**entry) for entry in extra["history"]]
        self.kept = list(extra["kept"])
        self._tables = [pd.read_parquet(folder / "evals.parquet")]
        self.sample_lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)

    def evaluate(self, policy: PreTrainedModel, sampler: PreTrainedModel, step: int) -> Evaluation:
        """Sample once a prompt, measure, log a row of metrics; training's random streams are not touched."""
        training, compute = self.config.training, self.config.compute
        generator = torch.Generator(compute.device).manual_seed(stream_seed(self.config.seed, step, "evaluation"))
        samples = generate(
            sampler,
            self.prompts,
            rows=training.sample_rows,
            max_tokens=training.max_response_tokens,
            temperature=training.temperature,
            tokenizer=self.tokenizer,
            stop=self.stop,
            generator=generator,
        )
        count_generation(policy, samples, self.out)
        own = score_responses(policy, None, samples, training.temperature, compute, self.out, with_entropy=True)
        other = score_responses(self.reference, None, samples, training.temperature, compute, self.out)
        rows = self.measure(samples, step).assign(
            kl_k1=(kl_k1(own.logprobs, other.logprobs) * own.mask).sum(1).cpu().numpy(),
            kl_k3=(kl_k3(own.logprobs, other.logprobs) * own.mask).sum(1).cpu().numpy(),
            entropy=((own.entropy * own.mask).sum(1) / own.mask.sum(1)).cpu().numpy(),
        )
        self._tables.append(rows)
        names = [n for n in rows.columns if n not in ("step", "samples", "prompt_id", "conversation")]
        metrics = {n: clustered_mean(rows[n], rows.conversation) for n in names if rows[n].notna().all()}
        check_finite("KL", metrics["kl_k1"]["value"], step)
        evaluation = Evaluation(step, int(rows.samples.iloc[0]), max(metrics["kl_k1"]["value"], 0.0) ** 0.5, metrics)
        self.history.append(evaluation)
        spent = {"tokens": self.out.tokens, "flops": self.out.flops, "seconds": round(self.out.seconds(), 3)}
        self.out.log({"type": "eval", "step": step, "samples": evaluation.samples, **spent, **metrics})
        return evaluation

    def measure(self, samples: list[Sample], step: int) -> pd.DataFrame:
        """Scores, lengths and texts of the samples; a few texts are kept for the report."""
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
        texts = self.tokenizer.batch_decode([s.text_ids for s in samples])
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
