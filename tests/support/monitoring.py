"""A server's metrics, and the resources of its processes (Linux only)."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from tests.support.memory import resident

__all__ = ["ProcessResources", "children", "get", "metric", "process_resources", "wait_until"]


def get(url: str, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return the status and the text of a reply."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", path, headers=headers or {})
    reply = connection.getresponse()
    response = reply.status, reply.read().decode()
    connection.close()
    return response


def metric(url: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of a metric that have these labels."""
    families = text_string_to_metric_families(get(url, "/metrics")[1])
    samples = (sample for family in families for sample in family.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def wait_until(reached: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until the condition holds; fail if that takes too long."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(process: int) -> list[int]:
    """Return the ids of the children of a process, also of ended ones that it did not wait for."""
    files = Path(f"/proc/{process}/task").glob("*/children")  # by thread
    return [int(pid) for file in files for pid in file.read_text().split()]


@dataclass(frozen=True)
class ProcessResources:
    """The resources of a process."""

    threads: int
    files: int
    """Open ones, sockets and pipes included."""
    resident: int
    """Bytes in RAM."""


def process_resources(process: int) -> ProcessResources:
    """Count the resources of a process."""
    folder = Path(f"/proc/{process}")
    counts = (len(os.listdir(folder / name)) for name in ("task", "fd"))  # noqa: PTH208  # quick
    return ProcessResources(*counts, resident(process))
