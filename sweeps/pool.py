"""Worker processes: forked from a server that has imported torch once, or spawned where torch is not needed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from hh_scaling.records import RunStore
from sweeps.stage import Stage
from sweeps.worker import work

# Imported once, before the first fork. Of the stages only what they use: a fault in one is to fail that stage alone.
WORKER_MODULES = ("sweeps.worker", "hh_scaling.configs")
MODEL_MODULES = (
    "torch",
    "safetensors.torch",
    "pandas",
    "pyarrow.parquet",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.gpt_neox.modeling_gpt_neox",
)
BENCHMARK_MODULES = ("lm_eval.evaluator", "lm_eval.models.huggingface")
MODEL_KINDS = frozenset(
    {"base", "teacher", "reference", "pmp", "pm", "foreign_pm", "ppo", "best_of_n", "interpolation", "pilot"}
    | {"benchmark", "behaviour"}
)
LIGHT_KINDS = frozenset({"data"})  # needs no torch, so it starts while the server is still importing


@dataclass
class Running:
    """A stage's process."""

    stage: Stage
    process: BaseProcess
    since: float  # time.monotonic()
    attempts_before: int


class Pool:
    """Starts workers: forked from a server that has torch loaded, or spawned where torch is not needed."""

    def __init__(self, kinds: Iterable[str]) -> None:
        me = psutil.Process()
        self.launcher = (me.pid, me.create_time())
        self.spawn: Any = multiprocessing.get_context("spawn")
        self.server: Any = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(preloaded(set(kinds)))
        resource_tracker.ensure_running()  # it unblocks signals, so it comes first
        with sigint_blocked():
            forkserver.ensure_running()  # returns at once; the imports go on while light stages run

    def start(self, stage: Stage, store: RunStore) -> Running:
        """Start the stage's process."""
        before = len(store.attempt_paths(stage.stage_id))
        if stage.kind in LIGHT_KINDS:
            process = self.launch(self.spawn, stage, store)
        else:
            try:
                process = self.launch(self.server, stage, store)
            except (EOFError, ConnectionError):  # the server could not import something; the stage will say what
                self.server = self.spawn
                process = self.launch(self.spawn, stage, store)
        return Running(stage, process, time.monotonic(), before)

    def launch(self, context: Any, stage: Stage, store: RunStore) -> BaseProcess:
        """Start the stage's process in one of the two ways."""
        args = (json.dumps(stage.to_json()), str(store.root.resolve()), self.launcher)
        process: BaseProcess = context.Process(target=work, args=args, name=stage.stage_id)
        # The server blocks Ctrl-C itself, and may answer only after its imports: that wait can be interrupted.
        with sigint_blocked() if context is self.spawn else contextlib.nullcontext():
            process.start()
        return process


def preloaded(kinds: set[str]) -> list[str]:
    """The modules that stages of these kinds need and that take seconds to import."""
    modules = MODEL_MODULES if kinds & MODEL_KINDS else ()
    asks = kinds & {"pilot", "benchmark", "behaviour"}
    return [*WORKER_MODULES, *modules, *(BENCHMARK_MODULES if asks else ())]


@contextlib.contextmanager
def sigint_blocked() -> Iterator[None]:
    """Within, Ctrl-C waits; processes started here never get it (the launcher ends them)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_workers(running: Iterable[Running]) -> None:
    """Terminate what still runs, and wait until it is gone."""
    running = list(running)
    for r in running:
        r.process.terminate()
    for r in running:
        r.process.join(5)
        if r.process.is_alive():
            r.process.kill()
            r.process.join(5)
