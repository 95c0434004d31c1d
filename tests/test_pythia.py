"""The ``pythia`` study: planned without a hub, and its whole graph run on tiny random GPT-NeoX folders."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from hh_scaling.models import load_tokenizer
from tests.conftest import ROOT
from tests.tiny import WORDS, comparison


def hh_scaling(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hh_scaling", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False)


def test_the_plan_needs_no_hub_and_names_its_gpu() -> None:
    done = hh_scaling("plan", "pythia", "--gpu", "H100", "--json", "-")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    sizes = {stage["config"]["size"]["name"] for stage in plan["stages"] if stage["kind"] == "ppo"}
    assert len(sizes) == 6 and any("2.8b" in size for size in sizes)
    assert all(stage["flops"] > 0 and stage["memory_bytes"] > 0 for stage in plan["stages"] if stage["kind"] == "ppo")
    assert "H100" in json.dumps(plan["machine"])


def tiny_neox(folder: Path, width: int, tokenizer: Any) -> Path:
    """A random GPT-NeoX of two layers with rotary fractions and parallel residuals as Pythia's."""
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=4 * width, max_position_embeddings=256, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(width)
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_comparisons(folder: Path, n: int) -> Path:
    """An HH file of ``n`` comparisons in the released format."""
    rng = random.Random(1)
    folder.mkdir()
    with gzip.open(folder / "helpful-base.jsonl.gz", "wt") as stream:
        for i in range(n):
            row = comparison(i, rng)
            prompt = f"\n\nHuman: {i} {row['prompt'].removeprefix(chr(10) * 2 + 'Human: ')}"
            stream.write(json.dumps({side: prompt + row[side] for side in ("chosen", "rejected")}) + "\n")
    return folder


def write_questions(folder: Path, n: int) -> Path:
    """A local ARC-Easy file of ``n`` made-up questions."""
    folder.mkdir()
    with gzip.open(folder / "arc_easy.jsonl.gz", "wt") as stream:
        for i in range(n):
            row = {"query": f"Question: which is {WORDS[i % 9]}?", "choices": list(WORDS[:4]), "gold": i % 4}
            stream.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped study with tiny folders in place of its models, and every number scaled down."""
    root = tmp_path_factory.mktemp("pythia")
    tokenizer = load_tokenizer(tiny_stages["base"])
    sizes = [{"path": str(tiny_neox(root / f"w{w}", w, tokenizer)), "name": f"w{w}"} for w in (16, 32)]
    settings = {
        "sizes": sizes,
        "data.hub": None,
        "data.path": str(write_comparisons(root / "hh", 200)),
        "data.max_held_out": 40,
        "data.held_out_fraction": 0.2,
        "reference": {"kind": "sft", "n_examples": 32, "batch_size": 16, "max_length": 96},
        "pm.n_comparisons": [16, 64],
        "pm.max_length": 96,
        "ppo.n_updates": 2,
        "ppo.batch_size": 16,
        "ppo.minibatch_size": 8,
        "ppo.max_prompt_tokens": 48,
        "ppo.max_response_tokens": 8,
        "ppo.n_eval_prompts": 16,
        "ppo.eval_every": 1,
        "ppo.keep_sqrt_kl": [50.0],
        "benchmarks": {
            "tasks": ["local_arc_easy"],
            "path": str(write_questions(root / "bench", 24)),
            "at": ["end", 50],
        },
        "compute": {"device": "cpu", "dtype": "float32", "threads": 1},
    }
    assignments = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    done = hh_scaling("run", "pythia", "--runs", str(root / "runs"), *assignments)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "runs"


def test_the_whole_graph_runs_on_gpt_neox(finished: Path) -> None:
    """2 sizes x (base, reference, 3 PMs, PPO, benchmarks of base, reference and two of the policy), and the data."""
    kinds = [json.loads(path.read_text())["kind"] for path in (finished / "stages").glob("*/record.json")]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {"data": 1, "base": 2, "reference": 2, "pm": 6, "ppo": 2, "benchmark": 8}
    assert (finished / "report" / "report.html").stat().st_size > 10_000


def test_its_results_start_at_zero_kl_from_the_sft_reference(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    start = [row for row in results["frontier"] if row["step"] == 0]
    assert len(start) == 2 and all(row["kl"]["value"] == 0 for row in start)
    assert {row["before"] for row in results["tax"]} == {"base", "reference"}


def test_an_unreached_distance_is_left_out_by_name(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert any("50" in json.dumps(row) for row in results["excluded"])
    assert all("50" not in json.dumps(row["at"]) for row in results["tax"])
