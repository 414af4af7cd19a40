"""Stages: the overhead of our HTTP client over a bare POST, and of a cached score."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from rerank_plugins.backend import Backend
from rerank_plugins.bench.speed import Speed, compare_speed
from rerank_plugins.bench.workload import Shape, Workload
from rerank_plugins.content import Document, Query, check_texts
from rerank_plugins.scores import Scores
from rerank_plugins.spec import load_backend
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.cache import CachedBackend
from tests.benchmarks.loopback import serving
from tests.support.ports import free_port

__all__ = ["measure_cache", "measure_http"]


class BarePost(Backend):
    """A hand-written client: a POST, and the scores by index, unchecked."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(trust_env=False)
        self._url = url

    @property
    def name(self) -> str:
        return "httpx"

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        query, texts = check_texts(query, documents)
        reply = self._client.post(
            self._url, json={"model": "m", "query": query, "documents": texts}
        )
        scores = [0.0] * len(texts)
        for item in reply.json()["results"]:
            scores[item["index"]] = item["relevance_score"]
        return Scores(scores)

    def close(self) -> None:
        self._client.close()


def measure_http(*, calls: int) -> dict[str, Any]:
    """Compare our client with a bare one, on a server that answers at once."""
    shape = Shape(1, 20)
    with (
        serving() as url,
        BarePost(f"{url}/v1/rerank") as bare,
        load_backend(f"xinference+{url}?model=m") as ours,
    ):
        speeds = compare_speed(
            {"httpx": bare, "rerank-plugins": ours}, shape, Workload(), calls=calls, warm_up=20
        )
    return {"shape": str(shape), "calls": calls, **{n: _row(s) for n, s in speeds.items()}}


def measure_cache(*, calls: int) -> dict[str, Any]:
    """Time cached scores in each kind of store; count the commands that Redis gets."""
    (request,) = Workload().requests(Shape(1, 100))
    figures: dict[str, Any] = {"pairs": len(request[1]), "ms": {}}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stores = {"memory": "memory", "sqlite": f"sqlite:{folder}/scores.db"}
        redis = stack.enter_context(_redis()) if shutil.which("redis-server") else None
        if redis is not None:
            port = redis.connection_pool.connection_kwargs["port"]
            stores["redis"] = f"redis://127.0.0.1:{port}/0?timeout=5"
        for kind, store in stores.items():
            with CachedBackend(FakeBackend(), store=store) as cached:
                cached.score(*request)
                before = redis.info("stats")["total_commands_processed"] if redis else 0
                figures["ms"][kind] = round(
                    1000 * _median(lambda: cached.score(*request), calls), 3
                )
                if redis is not None and kind == "redis":
                    after = redis.info("stats")["total_commands_processed"] - 1  # this one
                    figures["redis_commands_per_call"] = round((after - before) / calls, 3)
    return figures


def _median(function: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextmanager
def _redis() -> Iterator[Any]:
    """Give a client of a Redis server that runs until the block ends."""
    import redis  # noqa: PLC0415 - an extra
    from redis.backoff import ConstantBackoff  # noqa: PLC0415 - an extra
    from redis.retry import Retry  # noqa: PLC0415 - an extra

    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port, retry=Retry(ConstantBackoff(0.05), 200)) as client:
                client.ping()
                yield client
        finally:
            process.kill()


def _row(speed: Speed) -> dict[str, float]:
    cpu = sorted(speed.cpu_seconds)
    return {
        "wall_ms": round(1000 * speed.percentile(50), 3),
        "cpu_ms": round(1000 * cpu[len(cpu) // 2], 3),
    }
