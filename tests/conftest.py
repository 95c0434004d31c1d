"""What every test shares: no hub, one thread, and where real data lie when they do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked slow unless ``-m`` asks for them."""
    if not config.option.markexpr:
        skip = pytest.mark.skip(reason="slow: run with -m slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real comparisons, texts and benchmarks beside the checkout, or a skip."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny data stage, tokenizer and trained base, made once."""
    from tests.tiny import make_base

    return make_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def policy_parents(tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a tiny policy is made from, by role: data, policy (the base) and a preference model of each half."""
    from hh_scaling.configs import Half, PMConfig, PMTraining
    from tests.tiny import COMPUTE, SIZE, run_stage

    root, training = tmp_path_factory.mktemp("pms"), PMTraining(max_length=64, batch_size=16)
    halves: tuple[Half, ...] = ("train", "test")
    for half in halves:
        pm = PMConfig(size=SIZE, seed=0, half=half, n_comparisons=200, training=training, compute=COMPUTE)
        run_stage("pm", pm, tiny_stages, root / half)
    scorers = {f"pm_{half}": root / half for half in halves}
    return {"data": tiny_stages["data"], "policy": tiny_stages["base"], **scorers}


@pytest.fixture(scope="session")
def ppo_parents(tiny_stages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The parents of a PPO stage: the tiny data, base and two preference models, made once."""
    from tests.tiny_ppo import make_pms

    return make_pms(tiny_stages, tmp_path_factory.mktemp("pms"))
