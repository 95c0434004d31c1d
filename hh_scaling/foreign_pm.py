"""The foreign_pm stage: a sequence classifier that somebody else trained, found, pinned and tried; never trained."""

from __future__ import annotations

import json
import math
from pathlib import Path

from hh_scaling.comparisons import ASSISTANT, HUMAN
from hh_scaling.configs import Compute, ForeignPMConfig
from hh_scaling.models import ModelError, count_params, load_options, set_up
from hh_scaling.pretrain import fetch_model, pin_revision
from hh_scaling.score import TextScorer, load_scorer
from hh_scaling.stages import StageContext, StageResult

TRIAL = f"{HUMAN} Hello.{ASSISTANT} Hello."


def run(config: ForeignPMConfig, context: StageContext) -> StageResult:
    """Write ``model.json``; the summary says how many parameters the model has and how texts become its tokens.

    ModelError when it is no sequence classifier with one label, or cannot score a plain text.
    """
    set_up(Compute())
    fetch_model(config, context)
    scorer = scorer_of(context.out.path, Compute())
    pin_revision(context.out.path, scorer.model)
    score = float(scorer([TRIAL])[0])
    if not math.isfinite(score):
        raise ModelError(f"{config.size.name}: its score of a plain text is {score}, needed: a number")
    n_params, n_params_total = count_params(scorer.model)
    counts = {"n_params": n_params, "n_params_total": n_params_total}
    return StageResult({"foreign": {"name": config.size.name, **counts}, "format": scorer.format})


def scorer_of(stage: Path, compute: Compute) -> TextScorer:
    """The scorer that the stage's ``model.json`` names."""
    source = json.loads((stage / "model.json").read_text(encoding="utf-8"))["source"]
    return load_scorer(source, compute, **load_options(stage))
