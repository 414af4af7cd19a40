"""Our server with a scorer of fixed cost, which logs when it is busy."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from rerank_plugins.backend import Backend
from rerank_plugins.content import Document

__all__ = ["Batch", "Stub", "batches"]


@dataclass(frozen=True, slots=True)
class Batch:
    """When the scorer was busy, and with whose documents; times are those of `Reply`."""

    began: float
    ended: float
    numbers: tuple[int, ...]


class Stub(Backend):
    """Waits a fixed time for each pair without using the CPU, as a separate device does.

    Args:
        seconds: per pair.
        log: a file that gets a line per batch.
    """

    name = "stub"
    scale = "probability"
    cacheable = True

    def __init__(self, seconds: float, log: Path) -> None:
        self._seconds = seconds
        self._log = log

    def score(self, query: str, documents: Sequence[Document]) -> list[float]:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Sequence[tuple[str, Sequence[Document]]]) -> list[list[float]]:
        began = time.monotonic()
        ends = began + self._seconds * sum(len(documents) for _, documents in requests)
        time.sleep(max(0.0, ends - time.monotonic()))
        with self._log.open("a", encoding="utf-8") as log:
            numbers = " ".join(query.partition(" ")[0] for query, _ in requests)
            log.write(f"{began} {time.monotonic()} {numbers}\n")
        return [[1 / (1 + place) for place in range(len(texts))] for _, texts in requests]


def batches(log: Path) -> list[Batch]:
    """Return the batches that a stub has logged, without its warm-up."""
    scored = []
    for row in log.read_text(encoding="utf-8").splitlines():
        began, ended, *numbers = row.split()
        if numbers[0].isdecimal():
            scored.append(Batch(float(began), float(ended), tuple(map(int, numbers))))
    return scored


def _main(port: int, seconds: float, log: Path) -> None:
    """Serve as `rerank-plugins serve` does; `/tasks` tells how many tasks the loop has."""
    from rerank_plugins.server import ServerSettings, create_app  # noqa: PLC0415
    from rerank_plugins.server.isolation import isolate  # noqa: PLC0415
    from rerank_plugins.server.run import serve  # noqa: PLC0415
    from tests.benchmarks.stub import Stub as Importable  # noqa: PLC0415 - by the model's own process

    settings = ServerSettings(port=port)
    app = create_app(isolate(Importable(seconds, log), settings), settings=settings)

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    app.add_api_route("/tasks", tasks)
    if (failure := serve(app)) is not None:
        raise failure


if __name__ == "__main__":
    _main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
