"""Stage: whether memory stays flat over many pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rerank_plugins.bench.workload import Shape, Workload
from tests.benchmarks.contenders import CONTENDERS, open_peer
from tests.benchmarks.models import MODELS

__all__ = ["measure_flatness", "slope"]

_SAMPLES = 40


def measure_flatness(name: str, models: Path, log: IO[str], *, pairs: int) -> dict[str, Any]:
    """Score new texts with a tiny model, and sample the memory of the process."""
    shape = Shape(1, 250)
    calls = max(1, pairs // shape.pairs)
    workload = Workload("natural", seed=1)
    folder = MODELS["tiny"].build(models)
    samples: list[tuple[int, int]] = []
    with open_peer(CONTENDERS[name], folder, None, log) as peer:
        for call in range(calls):
            peer.score_many(workload.requests(shape))
            if call % max(1, calls // _SAMPLES) == 0 or call == calls - 1:
                samples.append(((call + 1) * shape.pairs, peer.memory["anonymous"]))
    later = samples[len(samples) // 4 :]
    return {
        "pairs": samples[-1][0],
        "mib": [mib for _, mib in samples],
        "mib_per_10k_pairs": round(slope(later) * 10_000, 3),
    }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line; 0 for a single point."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
