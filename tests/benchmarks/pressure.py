"""Stages: our server with a scorer of fixed cost, below capacity and far above it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rerank_plugins._internal.rank_statistics import percentile
from tests.benchmarks.flatness import slope
from tests.benchmarks.generator import Load, Reply, generate
from tests.benchmarks.stub import Batch, batches
from tests.integration.servers.launch import Server, serving
from tests.support.memory import resident
from tests.support.ports import free_port

__all__ = ["measure_flood", "measure_soak", "measure_steady", "percentiles"]

_DOCUMENTS = 20
_TEXTS = [("what is a panda?", [f"snippet {n} about a bear" for n in range(_DOCUMENTS)])]


def measure_steady(*, seconds: float, pair_seconds: float = 0.00025) -> dict[str, Any]:
    """Send 60 % of the scorer's capacity as 64 clients; measure the time that the server adds.

    The time added is that of a reply minus the time for which the scorer was busy meanwhile.
    """
    rate = 0.6 / (pair_seconds * _DOCUMENTS)
    with _stub(pair_seconds) as (server, log):
        load = Load(
            url=f"{server.url}/v1/rerank", texts=_TEXTS, clients=64, rate=rate, seconds=seconds
        )
        replies = generate(load)
        scored_batches = batches(log)
    good = [reply for reply in replies if reply.status == 200]  # of HTTP
    added = [1000 * (reply.seconds - _busy(reply, scored_batches)) for reply in good]
    return {
        "clients": 64,
        "rate": round(rate, 1),
        "requests": len(replies),
        "errors": len(replies) - len(good),
        "added_ms": percentiles(added),
        "reply_ms": _milliseconds(good),
    }


def measure_flood(*, seconds: float, pair_seconds: float = 0.001) -> dict[str, Any]:
    """Send ten times the scorer's capacity, whether or not requests are answered."""
    capacity = 1 / (pair_seconds * _DOCUMENTS)
    with _stub(pair_seconds) as (server, _):
        before = _mib(server)
        load = Load(
            url=f"{server.url}/v1/rerank", texts=_TEXTS, rate=10 * capacity, seconds=seconds
        )
        replies = generate(load)
        grown = _mib(server) - before
        after = generate(
            Load(url=load.url, texts=_TEXTS, clients=8, rate=0.3 * capacity, seconds=3)
        )
    by_status = {
        status: [reply for reply in replies if reply.status == status] for status in (200, 503)
    }
    began, ended = min(r.sent for r in replies), max(r.ended for r in by_status[200])
    return {
        "capacity": capacity,
        "rate": 10 * capacity,
        "statuses": dict(Counter(str(reply.status) for reply in replies)),
        "goodput": round(len(by_status[200]) / (ended - began) / capacity, 3),
        "accepted_ms": _milliseconds(by_status[200]),
        "refused_ms": _milliseconds(by_status[503]),
        "without_retry_after": sum(not reply.retry_after for reply in by_status[503]),
        "grown_mib": round(grown, 1),
        "afterwards_ms": _milliseconds(after),
    }


def measure_soak(*, seconds: float, pair_seconds: float = 0.0005) -> dict[str, Any]:
    """Send 70 % of the scorer's capacity for a long time; measure the server's resources.

    The first fifth of the time is a warm-up and does not count.
    """
    rate = 0.7 / (pair_seconds * _DOCUMENTS)
    rows: list[tuple[float, float, int, int]] = []
    with _stub(pair_seconds) as (server, _), ThreadPoolExecutor(1) as pool:
        load = Load(
            url=f"{server.url}/v1/rerank", texts=_TEXTS, clients=32, rate=rate, seconds=seconds
        )
        began = time.monotonic()
        running = pool.submit(generate, load)
        while not running.done():
            wait([running], timeout=max(0.2, seconds / 500))
            passed = time.monotonic() - began
            if seconds / 5 < passed < seconds:
                held = Path(f"/proc/{server.process.pid}")
                counts = [len(list((held / name).iterdir())) for name in ("fd", "task")]
                rows.append((passed, _mib(server), counts[0], counts[1]))
    replies = running.result()
    files, threads = ([row[n] for row in rows] for n in (2, 3))
    return {
        "seconds": seconds,
        "requests": len(replies),
        "errors": sum(reply.status != 200 for reply in replies),
        "mib_per_10_minutes": round(600 * slope([row[:2] for row in rows]), 3),
        "files": [min(files), max(files)],
        "threads": [min(threads), max(threads)],
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the 50th, 95th and 99th percentile, rounded; 0 each without any value."""
    return {
        str(share): round(percentile(values, share), 1) if values else 0.0 for share in (50, 95, 99)
    }


def _milliseconds(replies: Sequence[Reply]) -> dict[str, float]:
    return percentiles([1000 * reply.seconds for reply in replies])


def _busy(reply: Reply, scored_batches: Sequence[Batch]) -> float:
    return sum(
        min(batch.ended, reply.ended) - max(batch.began, reply.sent)
        for batch in scored_batches
        if batch.began < reply.ended and batch.ended > reply.sent
    )


def _mib(server: Server) -> float:
    return resident(server.process.pid) / 2**20


@contextmanager
def _stub(pair_seconds: float) -> Iterator[tuple[Server, Path]]:
    port, stub = free_port(), Path(__file__).with_name("stub.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "batches"
        command = [sys.executable, stub, str(port), str(pair_seconds), log]
        with serving("stub", command, port=port, health="/readyz", folder=folder) as server:
            yield server, log
