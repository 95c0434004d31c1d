"""What computes: this processor, and accelerators by name, with the rates that plans are made from."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from hh_scaling.configs import Dtype
from sweeps.load import StudyError, nearest

GIB = 1024**3


@dataclass(frozen=True)
class Machine:
    """A device as a plan sees it. Rates are those that training reaches, not the peak."""

    name: str
    memory_bytes: float
    flops_bf16: float  # a second, of one thread (processor) or the whole device (accelerator)
    flops_float32: float
    bytes_per_second: float  # of memory; what sampling one token at a time is bound by
    layer_seconds: float  # launch cost of one layer of one pass, whatever its size
    note: str
    is_gpu: bool = False


def gpu(name: str, peak_tflops: float, memory_gib: float, terabytes_per_second: float) -> Machine:
    """An accelerator from its data sheet: dense bf16 peak, memory and memory bandwidth."""
    return Machine(
        name=name,
        memory_bytes=memory_gib * GIB,
        flops_bf16=peak_tflops * 1e12 * UTILISATION,
        flops_float32=peak_tflops * 1e12 * UTILISATION / 8,
        bytes_per_second=terabytes_per_second * 1e12 * 0.6,
        layer_seconds=60e-6,
        note=f"{peak_tflops:g} TFLOP/s bf16 peak at {UTILISATION:.0%} utilisation",
        is_gpu=True,
    )


UTILISATION = 0.3  # of the bf16 peak in training at these sizes; an assumption, stated with every plan
GPUS = {
    machine.name: machine
    for machine in (
        gpu("H200", 989, 141, 4.8),
        gpu("H100", 989, 80, 3.35),
        gpu("H100-PCIe", 756, 80, 2.0),
        gpu("A100-80GB", 312, 80, 2.0),
        gpu("A100-40GB", 312, 40, 1.55),
        gpu("L40S", 362, 48, 0.86),
        gpu("A10", 125, 24, 0.6),
        gpu("L4", 121, 24, 0.3),
        gpu("RTX4090", 165, 24, 1.0),
        gpu("RTX3090", 71, 24, 0.94),
        gpu("V100", 112, 32, 0.9),
        gpu("T4", 65, 16, 0.32),
    )
}


def find_gpu(word: str) -> Machine:
    """The accelerator called ``word`` (case, spaces and hyphens aside); StudyError names the nearest."""
    plain = {plain_name(name): machine for name, machine in GPUS.items()}
    if plain_name(word) in plain:
        return plain[plain_name(word)]
    raise StudyError([f"--gpu {word}: not known (allowed: {', '.join(GPUS)}{nearest(word, GPUS)})"])


DEFAULT_GPU = "H100"  # planned for where a study wants an accelerator and none is named


def plain_name(name: str) -> str:
    """A device's name without case, punctuation and maker."""
    return "".join(c for c in name.lower() if c.isalnum()).removeprefix("nvidia")


# ---------------------------------------------------------------- this machine


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags as Linux names them; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split())


def native_dtype() -> Dtype:
    """bf16 where the processor multiplies it in hardware, else float32."""
    return "bf16" if cpu_flags() & {"amx_bf16", "avx512_bf16"} else "float32"


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def this_cpu() -> Machine:
    """This machine's processor; its rates are those of one thread of an x86 server core with and without AMX."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bf16 = 100e9 if "amx_bf16" in cpu_flags() else 60e9 if "avx512_bf16" in cpu_flags() else 10e9
    note = f"{cores()} cores, {bf16 / 1e9:.0f} GFLOP/s a thread in {native_dtype()} assumed"
    if native_dtype() == "float32":
        note = f"{cores()} cores, 30 GFLOP/s a thread in float32 assumed"
    return Machine("this machine", float(memory), bf16, 30e9, 8e9, 0.7e-3, note)
