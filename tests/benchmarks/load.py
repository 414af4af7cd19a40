"""Stage: a thousand callers at once, through our client and through a bare one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from rerank_plugins.bench.workload import Shape, Workload
from rerank_plugins.spec import load_backend
from tests.benchmarks.loopback import serving

__all__ = ["measure_load"]

CONNECTIONS = 100
"""As many as our client opens at most; the bare one gets the same."""

_Ask = Callable[[str, Sequence[str]], Awaitable[object]]


def measure_load(*, callers: int, calls: int, rounds: int = 3) -> dict[str, Any]:
    """Time the clients in turns, on a server that answers at once; the median round counts."""
    (request,) = Workload().requests(Shape(1, 20))
    measured: dict[str, list[dict[str, float]]] = {"httpx": [], "rerank-plugins": []}
    with serving() as url:
        for turn in range(rounds):
            for name in sorted(measured, reverse=bool(turn % 2)):
                run = _bare if name == "httpx" else _ours
                measured[name].append(asyncio.run(run(url, request[1], callers, calls)))
    middle = {
        name: sorted(figures, key=lambda one: one["p99_ms"])[rounds // 2]
        for name, figures in measured.items()
    }
    return {"callers": callers, "calls": calls, "rounds": rounds, **middle}


async def _bare(url: str, documents: Sequence[str], callers: int, calls: int) -> dict[str, float]:
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=600) as client:

        async def ask(query: str, texts: Sequence[str]) -> None:
            body = {"model": "m", "query": query, "documents": texts}
            reply = await client.post(f"{url}/v1/rerank", json=body)
            sorted(reply.json()["results"], key=lambda item: int(item["index"]))

        return await _timed(ask, documents, callers, calls)


async def _ours(url: str, documents: Sequence[str], callers: int, calls: int) -> dict[str, float]:
    async with load_backend(f"xinference+{url}?model=m&timeout=600") as backend:
        return await _timed(backend.ascore, documents, callers, calls)


async def _timed(ask: _Ask, documents: Sequence[str], callers: int, calls: int) -> dict[str, float]:
    numbers, seconds = iter(range(calls)), []

    async def work() -> None:
        for number in numbers:
            began = time.perf_counter()
            await ask(f"panda {number}", documents)
            seconds.append(time.perf_counter() - began)

    wall, processor = time.perf_counter(), time.process_time()
    await asyncio.gather(*[work() for _ in range(callers)])
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    seconds.sort()
    return {
        "p50_ms": round(1000 * seconds[len(seconds) // 2], 1),
        "p99_ms": round(1000 * seconds[min(len(seconds) - 1, len(seconds) * 99 // 100)], 1),
        "cpu_ms": round(1000 * processor / calls, 3),
        "per_second": round(calls / wall, 1),
    }
