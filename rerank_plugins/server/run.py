"""Running the server: signals, draining, and the code it exits with."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from socket import socket
from time import monotonic
from types import FrameType

import uvicorn
from fastapi import FastAPI

from rerank_plugins.server.connections import limited_http_protocol
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.settings import ServerSettings

__all__ = ["serve"]

_log = logging.getLogger(__name__)

_TICK = 0.05


def serve(app: FastAPI) -> Exception | None:
    """Serve an application of `create_app()` until a signal ends it.

    The first SIGTERM makes `/readyz` say 503; requests are taken for `shutdown_delay` seconds
    more, and those in progress end within `drain_seconds`. A second signal ends the process at
    once. SIGINT (Ctrl-C) is a SIGTERM without the delay.

    Returns:
        What kept the server from going on, if anything; None after a signal.
    """
    settings: ServerSettings = app.state.settings
    lifecycle: Lifecycle = app.state.lifecycle
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=limited_http_protocol(settings),
        ws="none",
        loop="auto",
        lifespan="on",
        proxy_headers=False,  # `AdmissionMiddleware` reads them, from trusted proxies only
        server_header=False,
        access_log=False,  # `AdmissionMiddleware` writes it, with the client and the request's id
        log_config=None,
        timeout_keep_alive=int(settings.keep_alive_seconds),
    )
    server = _Server(config, lifecycle, settings)
    lifecycle.on_failure = server.end_soon
    lifecycle.on_loaded = _spare_the_collector
    server.run()
    if lifecycle.failure is None and not server.started:
        return OSError(f"can't listen on {settings.host}:{settings.port}")
    if not lifecycle.is_alive or server.is_forced:
        _flush()
        os._exit(0 if server.is_forced and lifecycle.is_alive else 1)  # a thread hangs in the model
    return lifecycle.failure


class _Server(uvicorn.Server):
    """uvicorn's server, which stays open while it drains."""

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, settings: ServerSettings
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._settings = settings
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_forced = False

    async def startup(self, sockets: list[socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving, and don't raise them again afterwards."""
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # of uvicorn
        if self._lifecycle.draining:
            self.is_forced = self.force_exit = self.should_exit = True
            return
        self._lifecycle.draining = True
        delay = self._settings.shutdown_delay if sig == signal.SIGTERM else 0.0
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain_soon, delay)

    def end_soon(self) -> None:
        """Stop serving: there is nothing to serve with."""
        self._lifecycle.draining = self._lifecycle.refusing = True
        self.should_exit = True

    def _drain_soon(self, delay: float) -> None:
        self._ending = asyncio.ensure_future(self._drain(delay))

    async def _drain(self, delay: float) -> None:
        _log.info("ending: new requests are taken for %g s more", delay)
        await asyncio.sleep(delay)
        self._lifecycle.refusing = True
        until = monotonic() + self._settings.drain_seconds
        while self.server_state.tasks and monotonic() < until:  # noqa: ASYNC110  # uvicorn's set
            await asyncio.sleep(_TICK)
        self.config.timeout_graceful_shutdown = 1
        self.should_exit = True


def _spare_the_collector() -> None:
    """Keep garbage collections from what was loaded: they would stop all requests for 0.2 s."""
    gc.collect()
    gc.freeze()


def _flush() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
