"""A model's results in lm-eval's own output format: ``results_*.json`` and ``samples_*.jsonl``, by lm-eval's writer."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from lm_eval.loggers import EvaluationTracker

MERGED = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks", "groups")


def write_lm_eval(folder: Path, model: str, n_params: int, found: Sequence[dict[str, Any]]) -> None:
    """Write what ``evaluate`` gave, one entry a question, to a folder of ``folder`` named like the model.

    OSError where lm-eval could not write it: its writer only logs what went wrong.
    """
    arguments = {"pretrained": model}
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.log_experiment_args(
        model_source="hh-scaling", model_args=arguments, system_instruction=None, chat_template=None,
        fewshot_as_multiturn=False,
    )  # fmt: skip
    results: dict[str, Any] = {"config": {"model": "hh-scaling", "model_args": arguments}}
    results["config"]["model_num_parameters"] = n_params
    for key in MERGED:
        parts = [part.get(key) or {} for part in found]
        results[key] = {name: value for part in parts for name, value in part.items()}
    samples = {task: deepcopy(rows) for part in found for task, rows in part["samples"].items()}
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    written = list(folder.rglob("samples_*.jsonl"))
    if len(written) != len(samples) or not list(folder.rglob("results_*.json")):
        raise OSError(f"{folder}: lm-eval wrote {len(written)} of {len(samples)} tasks' samples")
