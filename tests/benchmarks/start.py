"""Stage: how long a fresh process takes to import the package, and to its first score."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from rerank_plugins.errors import RerankError
from tests.benchmarks.contenders import CONTENDERS, REFERENCE, Contender, open_peer
from tests.benchmarks.models import MODELS

__all__ = ["measure_first_score", "measure_import"]

_EMBEDDED = Contender(
    "rerank-plugins, embedded", "backend", {"spec": "embedded"}, ours=True, exact=False
)
_STARTED = (
    REFERENCE,
    "rerank-plugins, onnx",
    "rerank-plugins, onnx int8",
    "rerank-plugins, torch packed",
    "FlashRank",
    "fastembed",
)

_IMPORT = """
import time
began = time.perf_counter()
import rerank_plugins
print(time.perf_counter() - began)
"""


def measure_first_score(
    model: str, models: Path, peers: Path | None, log: IO[str], *, times: int
) -> dict[str, Any]:
    """Start fresh processes in turns; the files are in the system's cache after the first."""
    folder = MODELS[model].build(models)
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    memory: dict[str, int] = {}
    for turn in range(times + 1):
        for contender in (_EMBEDDED, *(CONTENDERS[name] for name in _STARTED)):
            try:
                with open_peer(contender, folder, peers, log) as peer:
                    began = time.perf_counter()
                    peer.score("what is a panda?", ["The giant panda is a bear.", "hi"])
                    seconds = time.perf_counter() - began
            except (RuntimeError, RerankError):
                continue  # the stage of speed says why
            if turn:
                wall.setdefault(contender.name, []).append(round(seconds, 4))
                cpu.setdefault(contender.name, []).append(round(peer.processor_seconds, 4))
                memory[contender.name] = peer.memory["now"]
    return {"model": model, "wall": wall, "cpu": cpu, "memory": memory}


def measure_import(*, times: int) -> dict[str, float]:
    """Return milliseconds: of `import rerank_plugins`, and of Python without it; medians."""
    inside, empty = [], []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True
        )
        inside.append(float(done.stdout))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        empty.append(time.perf_counter() - began)
    return {
        "import_ms": round(1000 * statistics.median(inside), 1),
        "import_ms_least": round(1000 * min(inside), 1),
        "python_ms": round(1000 * statistics.median(empty), 1),
    }
