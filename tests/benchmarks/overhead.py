"""Stage: what our HTTP client adds to a bare POST, and what a remembered score costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from rerank_plugins.backend import Backend, Document, check_texts
from rerank_plugins.evaluation.speed import Speed, compare_speed
from rerank_plugins.evaluation.workload import Shape, Workload
from rerank_plugins.spec import load_backend
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.cache import CachedBackend

__all__ = ["measure_cache", "measure_http"]

_SERVER = Path(__file__).with_name("loopback.py")


class BarePost(Backend):
    """What one would write by hand: a POST, and the scores by index, unchecked."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(trust_env=False)
        self._url = url

    @property
    def name(self) -> str:
        return "httpx"

    def score(self, query: str, documents: Sequence[Document]) -> list[float]:
        texts = check_texts(query, documents)
        reply = self._client.post(
            self._url, json={"model": "m", "query": query, "documents": texts}
        )
        scores = [0.0] * len(texts)
        for item in reply.json()["results"]:
            scores[item["index"]] = item["relevance_score"]
        return scores

    def close(self) -> None:
        self._client.close()


def measure_http(*, calls: int) -> dict[str, Any]:
    """Time our client beside a bare one on a server that answers at once."""
    shape = Shape(1, 20)
    with (
        _serving() as url,
        BarePost(f"{url}/v1/rerank") as bare,
        load_backend(f"xinference+{url}?model=m") as ours,
    ):
        speeds = compare_speed(
            {"httpx": bare, "rerank-plugins": ours}, shape, Workload(), calls=calls, warm_up=20
        )
    return {"shape": str(shape), "calls": calls, **{n: _row(s) for n, s in speeds.items()}}


def measure_cache(*, calls: int) -> dict[str, Any]:
    """Time scores that are known already, in each kind of store."""
    (request,) = Workload().requests(Shape(1, 100))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, store in (("memory", "memory"), ("sqlite", f"sqlite:{folder}/scores.db")):
            with CachedBackend(FakeBackend(), store=store) as cached:
                cached.score(*request)
                seconds = []
                for _ in range(calls):
                    began = time.perf_counter()
                    cached.score(*request)
                    seconds.append(time.perf_counter() - began)
            found[kind] = round(1000 * statistics.median(seconds), 3)
    return {"pairs": len(request[1]), "ms": found}


def _row(speed: Speed) -> dict[str, float]:
    cpu = sorted(speed.cpu_seconds)
    return {
        "wall_ms": round(1000 * speed.percentile(50), 3),
        "cpu_ms": round(1000 * cpu[len(cpu) // 2], 3),
    }


@contextmanager
def _serving() -> Any:
    with subprocess.Popen(
        [sys.executable, str(_SERVER)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"  # type: ignore[union-attr]
        finally:
            process.kill()
