"""What a server says of itself, and what its processes hold of the machine (Linux only)."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from tests.support.memory import resident

__all__ = ["Held", "children", "get", "held", "metric", "wait_until"]


def get(url: str, path: str) -> tuple[int, str]:
    """Return the status and the text of a reply."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", path)
    reply = connection.getresponse()
    found = reply.status, reply.read().decode()
    connection.close()
    return found


def metric(url: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of a metric that have these labels."""
    families = text_string_to_metric_families(get(url, "/metrics")[1])
    samples = (sample for family in families for sample in family.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def wait_until(reached: Callable[[], bool], seconds: float = 30) -> None:
    """Wait, and fail if it takes too long."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(process: int) -> list[int]:
    """Return the ids of the processes that a process started, ended ones too if nobody asked."""
    files = Path(f"/proc/{process}/task").glob("*/children")  # by thread
    return [int(pid) for file in files for pid in file.read_text().split()]


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    threads: int
    files: int
    """Open ones, sockets and pipes included."""
    resident: int
    """Bytes in RAM."""


def held(process: int) -> Held:
    """Count what a process holds."""
    folder = Path(f"/proc/{process}")
    counts = (len(os.listdir(folder / name)) for name in ("task", "fd"))  # noqa: PTH208  # quick
    return Held(*counts, resident(process))
