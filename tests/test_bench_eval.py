"""The race of benchmark items: both sides answer the same items and agree; rates are items over seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hh_scaling import bench_eval
from hh_scaling.bench_eval import Race, compare
from hh_scaling.configs import Compute
from hh_scaling.tasks import TaskError
from tests.tiny_eval import save_model, sentences, write_rows


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer, and benchmark files."""
    root = tmp_path_factory.mktemp("bench")
    save_model(root / "model", seed=3)
    rows = [{"query": text, "choices": sentences(4, 2, seed=i), "gold": i % 4} for i, text in enumerate(sentences(12))]
    write_rows(root / "files" / "arc_easy.jsonl.gz", rows)
    return root


def test_both_sides_agree(folder: Path) -> None:
    """1e-4 nats: float32 rounding of some ten log-probabilities (see test_lm)."""
    model = folder / "model"
    names = ["local_arc_easy", "world_facts"]
    found = bench_eval.bench_eval(model, model, names, folder / "files", 10, 2, Compute(), (3, 5))
    assert list(found["tasks"]) == names and found["n_items"] == 20
    assert 0 < found["max_difference"] < 1e-4  # two ways of computing: equal to the last bit would be no comparison
    for entry in found["tasks"].values():
        assert entry["n_items"] == 10 and entry["n_rounds"] == 2 and entry["n_scores_differ"] == 0
        assert entry["stock_batch"] in (3, 5) and set(entry["stock_seconds"]) == {"3", "5"}
        assert entry["ratio_low"] <= entry["ratio_high"]
        assert entry["score"]["ours"] == entry["score"]["stock"] and entry["score"]["ours"]["n"] == 10
        assert min(entry["items_per_s"].values()) > 0


def test_unknown_tasks_and_missing_files_are_refused(folder: Path) -> None:
    model = folder / "model"
    with pytest.raises(TaskError, match="nearest: local_arc_easy"):
        bench_eval.bench_eval(model, model, ["local_arc_eazy"], folder / "files", 4, 1, Compute())
    with pytest.raises(TaskError, match=r"no piqa.jsonl"):
        bench_eval.bench_eval(model, model, ["local_piqa"], folder / "files", 4, 1, Compute())


def test_the_fastest_batch_is_raced() -> None:
    run = Race(10, ours=[1.0, 2.0, 4.0], stock={8: [3.0], 16: [2.5, 6.0, 10.0], 32: [2.6]})
    assert run.batch == 16
    entry = run.describe()
    assert (entry["ratio_low"], entry["ratio"], entry["ratio_high"]) == (2.5, 2.5, 3.0)
    assert entry["items_per_s"] == {"ours": 10.0, "stock": 4.0}


def test_differences_are_noted() -> None:
    run = Race(2)
    mine = [{"loglikelihoods": [-1.0, -2.0], "score": 1.0}, {"loglikelihoods": [-3.0], "score": 0.0}]
    theirs = [{"loglikelihoods": [-1.0, -2.5], "score": 1.0}, {"loglikelihoods": [-3.25], "score": 1.0}]
    compare(run, mine, theirs)
    assert (run.max_difference, run.n_scores_differ) == (0.5, 1)
    compare(run, mine, mine)
    assert (run.max_difference, run.n_scores_differ) == (0.5, 1)
