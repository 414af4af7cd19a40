"""Stage: the machine, and its peak speed of matrix products."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rerank_plugins._internal.cpu import usable_cpus

__all__ = ["describe_machine", "instructions", "measure_peak"]

_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
_PACKAGES = ("numpy", "onnxruntime", "tokenizers", "torch", "transformers", "sentence-transformers")

_PEAK = """
import json, sys, time
import numpy as np
import torch
threads, seconds = int(sys.argv[1]), float(sys.argv[2])
torch.set_num_threads(threads)

def best(multiply, flops):
    multiply()
    most, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        multiply()
        most = max(most, flops / (time.perf_counter() - began))
    return round(most / 1e9)

n, small = 2048, 256
square = np.ones((n, n), np.float32)
tensor = torch.ones(n, n)
half = torch.ones(small, small).bfloat16()
began = time.perf_counter()
half @ half
if time.perf_counter() - began < 0.01:  # else this processor has no such products: minutes at 2048
    half = tensor.bfloat16()
tall, wide = torch.ones(180, 384), torch.ones(384, 1536)
print(json.dumps({
    "numpy float32": best(lambda: square @ square, 2 * n**3),
    "torch float32": best(lambda: tensor @ tensor, 2 * n**3),
    "torch bfloat16": best(lambda: half @ half, 2 * len(half)**3),
    "torch float32, 180 × 384 × 1536": best(lambda: tall @ wide, 2 * 180 * 384 * 1536),
}))
"""


def describe_machine() -> dict[str, Any]:
    """Return the processor, its instruction sets, and the versions of the libraries."""
    processor = _cpu_info()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor.get("model name", platform.processor()),
        "cores": usable_cpus(),
        "flags": instructions(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in _PACKAGES},
        "load": round(os.getloadavg()[0], 2),
    }


def instructions() -> list[str]:
    """Return the instruction sets of the processor that matter here."""
    flags = _cpu_info().get("flags", "").split()
    return [flag for flag in _FLAGS if flag in flags]


def measure_peak(*, seconds: float) -> dict[str, dict[str, int]]:
    """Return the fastest matrix products in GFLOP/s, by the number of threads."""
    return {
        str(threads): json.loads(
            subprocess.run(
                [sys.executable, "-c", _PEAK, str(threads), str(seconds)],
                env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for threads in range(1, usable_cpus() + 1)
    }


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in lines)}
