"""The server's process: signals, draining and exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Iterator
from errno import EADDRINUSE
from socket import SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, getaddrinfo, socket
from time import monotonic
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from rerank_plugins.errors import ConfigError
from rerank_plugins.server.connections import http_protocol
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.open_files import within_open_files
from rerank_plugins.server.settings import ServerSettings

__all__ = ["serve"]

_log = logging.getLogger(__name__)

_TICK = 0.05
_QUEUED_CONNECTIONS = 2048
"""How many connections wait to be accepted; the system may allow fewer."""


def serve(app: FastAPI, *, greet: bool = False) -> Exception | None:
    """Serve an application of `create_app()` until a signal ends it.

    At the first SIGTERM `/readyz` responds 503; the server takes requests for `shutdown_delay`
    seconds more, and those in progress have `drain_seconds` to finish. A second signal ends the
    process at once. SIGINT (Ctrl-C) is a SIGTERM without the delay.

    Args:
        app: what to serve.
        greet: whether the log also holds a command that tries the server.

    Returns:
        The error that ended the server; None after a signal.

    Raises:
        ConfigError: the address can't be listened on, because another program does.
    """
    settings, accepted_at_once = within_open_files(app.state.settings)
    _check_address(settings.host, settings.port)
    lifecycle: Lifecycle = app.state.lifecycle
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=http_protocol(settings, app.state.metrics),
        backlog=accepted_at_once,  # that is what asyncio makes of it, too
        ws="none",
        loop="asyncio",  # uvloop accepts one connection after each round of reads: floods delay all
        lifespan="on",
        proxy_headers=False,  # the middleware reads them, from trusted proxies only
        server_header=False,
        access_log=False,  # the middleware logs the client and the request's id too
        log_config=None,
    )
    server = _UvicornServer(config, lifecycle, settings, greet=greet)
    lifecycle.on_failure = server.stop_after_failure
    lifecycle.on_loaded = _freeze_loaded_objects
    server.run()
    if lifecycle.failure is None and not server.started:
        return OSError(f"can't listen on {settings.host}:{settings.port}")
    hangs = not lifecycle.is_alive
    if hangs or (lifecycle.is_loading and lifecycle.failure is None):
        _exit_now(int(hangs))  # a thread is busy in the model, and Python would wait for it
    return lifecycle.failure


class _UvicornServer(uvicorn.Server):
    """uvicorn's server, which goes on listening while it drains."""

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        settings: ServerSettings,
        *,
        greet: bool,
    ) -> None:
        super().__init__(config)
        self._greet = greet
        self._lifecycle = lifecycle
        self._settings = settings
        self._drain_task: asyncio.Task[None] | None = None
        self._shutdown_delay = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        if self._lifecycle.draining:  # the signal came before there was a loop to tell
            self._start_draining()
        await super().startup(sockets)
        for listener in [each for server in self.servers for each in server.sockets]:
            _lengthen_queue(listener.fileno())
        for server in self.servers[:1] if self.started else ():
            url = _url(self._settings.host, server.sockets[0].getsockname()[1])
            page = f"; in a browser: {url}/ui" if self._settings.ui else ""
            _log.info("serving at %s%s", url, page)
            if self._greet:
                _log.info("to try it: %s", _curl(url, with_key=self._settings.has_keys))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving, and don't raise them again afterwards, as uvicorn does."""
        handled = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # of uvicorn
        if self._lifecycle.draining:
            self._lifecycle.kill()
            _exit_now(int(not self._lifecycle.is_alive))
        self._lifecycle.draining = True
        self._shutdown_delay = self._settings.shutdown_delay if sig == signal.SIGTERM else 0.0
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._start_draining)

    def stop_after_failure(self) -> None:
        """Stop at once: the backend can't score any more."""
        self._lifecycle.draining = self._lifecycle.refusing = True
        self.should_exit = True

    def _start_draining(self) -> None:
        if self._drain_task is None:
            self._drain_task = asyncio.ensure_future(self._drain(self._shutdown_delay))

    async def _drain(self, delay: float) -> None:
        _log.info("ending: taking requests for %g s more", delay)
        await asyncio.sleep(delay)
        self._lifecycle.refusing = True
        deadline = monotonic() + self._settings.drain_seconds
        while self.server_state.tasks and monotonic() < deadline:  # noqa: ASYNC110  # uvicorn's set
            await asyncio.sleep(_TICK)
        self.config.timeout_graceful_shutdown = 1
        self.should_exit = True


def _lengthen_queue(listener: int) -> None:
    """Let connections wait for their turn to be accepted, however few are at once.

    A client that meets a full queue waits for a second or more.
    """
    if os.name == "posix":
        with socket(fileno=os.dup(listener)) as same:
            same.listen(_QUEUED_CONNECTIONS)


def _check_address(host: str, port: int) -> None:
    """Find out before a model loads, and in one line, whether the address is free.

    Raises:
        ConfigError: it is not, or there is no such address.
    """
    try:
        for family, kind, _, _, address in getaddrinfo(host, port, type=SOCK_STREAM):
            with socket(family, kind) as probe:
                if os.name == "posix":  # as asyncio does; elsewhere it would share the port
                    probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as exc:
        hint = "; choose another `port`, or 0 for a free one" if exc.errno == EADDRINUSE else ""
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc)
        raise ConfigError(f"can't listen on {host}:{port}: {reason}{hint}") from exc


def _url(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104  # for messages
    return f"http://[{name}]:{port}" if ":" in name and "[" not in name else f"http://{name}:{port}"


def _curl(url: str, *, with_key: bool) -> str:
    body = """{"query": "what is a panda?", "documents": ["hi", "a bear"]}"""
    key = ' -H "Authorization: Bearer $KEY"' if with_key else ""
    return f"curl {url}/v1/rerank{key} -H 'Content-Type: application/json' -d '{body}'"


def _freeze_loaded_objects() -> None:
    """Keep garbage collections off the loaded objects: they would stop all requests for 0.2 s."""
    gc.collect()
    gc.freeze()


def _exit_now(code: int) -> NoReturn:
    """End this process, whatever its threads do; the logs have a moment to be written."""
    with contextlib.suppress(Exception):  # of a handler that a signal has interrupted
        logging.shutdown()
    os._exit(code)
