"""A server in this process, ready for requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from rerank_plugins.backend import Backend
from rerank_plugins.server import ServerSettings, create_app
from rerank_plugins.server.connections import http_protocol

__all__ = ["listening", "ready", "serving"]


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


@contextmanager
def listening(backend: Backend, **settings: Any) -> Iterator[str]:
    """Give the URL of a server that is ready and listens on a port of its own."""
    app = create_app(backend, settings=ServerSettings(**settings))
    http = http_protocol(app.state.settings, app.state.metrics)
    config = uvicorn.Config(app, port=0, http=http, loop="asyncio", log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started or app.state.lifecycle.why_not_ready() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (listener,) = [socket for each in server.servers for socket in each.sockets]
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
