"""Stage: how much memory a process takes beyond the weights of its model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from rerank_plugins.bench.workload import Shape, Workload
from tests.benchmarks.contenders import CONTENDERS, REFERENCE
from tests.benchmarks.models import MODELS
from tests.benchmarks.speed import opened

__all__ = ["measure_footprint"]

_MEASURED = (
    REFERENCE,
    "rerank-plugins, onnx",
    "rerank-plugins, onnx int8",
    "rerank-plugins, torch packed",
)
_LONGEST = "word " * 600
"""Cut to 512 tokens, the most of any pair."""


def measure_footprint(
    names: Sequence[str], models: Path, peers: Path | None, log: IO[str], *, queries: int
) -> dict[str, Any]:
    """Return MiB by model: its weights, and each process once loaded and at its peak.

    Each scores 50 documents a query and, in one call, 20 of the greatest length.
    """
    requests = Workload("natural", seed=2).requests(Shape(queries, 50))
    asked = [CONTENDERS[contender] for contender in _MEASURED]
    rows: dict[str, Any] = {}
    for name in names:
        folder = MODELS[name].build(models)
        weights = (folder / "model.safetensors").stat().st_size
        rows[name] = {"weights": weights // 2**20, "processes": {}}
        with ExitStack() as stack:
            scorers, _ = opened(asked, folder, peers, log, stack)
            for contender, peer in scorers.items():
                loaded = peer.memory["now"]
                peer.score_many(requests)
                peer.score("what is a panda?", [_LONGEST] * 20)
                figures = {"loaded": loaded, "peak": peer.memory["peak"]}
                rows[name]["processes"][contender] = figures
    return {"documents": queries * 50, "models": rows}
