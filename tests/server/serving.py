"""A server in this process, ready to be asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.testclient import TestClient

from rerank_plugins.backend import Backend
from rerank_plugins.server import ServerSettings, create_app

__all__ = ["ready", "serving"]


@contextmanager
def serving(backend: Backend, **settings: Any) -> Iterator[TestClient]:
    """Give a client of a server that is ready."""
    app = create_app(backend, settings=ServerSettings(**settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        ready(client)
        yield client


def ready(client: Any, seconds: float = 30.0) -> None:
    """Wait until a server is ready."""
    deadline = time.monotonic() + seconds
    while (reply := client.get("/readyz")).status_code != 200:
        assert time.monotonic() < deadline, reply.text
        time.sleep(0.01)
