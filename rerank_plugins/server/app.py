"""A backend as a web application."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from http import HTTPStatus

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import rerank_plugins
from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError
from rerank_plugins.server.auth import Authenticator
from rerank_plugins.server.body import BodyReader
from rerank_plugins.server.errors import APIError, api_error_of, error_response
from rerank_plugins.server.isolation import isolate
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.server.middleware import AdmissionMiddleware
from rerank_plugins.server.openapi import complete_openapi
from rerank_plugins.server.paths import PathMiddleware, public_paths
from rerank_plugins.server.routes import routes
from rerank_plugins.server.settings import ServerSettings
from rerank_plugins.server.shares import TextMemory
from rerank_plugins.server.ui import ui_routes
from rerank_plugins.spec import BackendSpec, load_backend

__all__ = ["create_app", "isolated_app"]

_log = logging.getLogger(__name__)


def create_app(backend: BackendSpec = None, *, settings: ServerSettings | None = None) -> FastAPI:
    """Return the rerank server of a backend, as an ASGI application.

    The model loads when the application starts, not here. Run it with one worker: a process owns
    the model, the queue, the rate limits and the metrics. Mounted into another application, whose
    lifespan is not this one's, it starts with its first request, and so with the first probe.

    Args:
        backend: a backend, or a spec for `load_backend()`.
        settings: limits, keys and timeouts; None is the defaults.

    Raises:
        ConfigError: the spec or a setting is wrong, or a file of keys can't be read.
        MissingDependencyError: the backend needs an extra that is not installed.
    """
    return _app(load_backend(backend), settings or ServerSettings(), ServerMetrics())


def isolated_app(backend: Backend, settings: ServerSettings) -> FastAPI:
    """Return the rerank server of a backend, each model of this machine in a process of its own.

    Raises:
        ConfigError: a setting is wrong, or a file of keys can't be read.
    """
    metrics = ServerMetrics()
    return _app(isolate(backend, settings, on_restart=metrics.restarts.inc), settings, metrics)


def _app(backend: Backend, settings: ServerSettings, metrics: ServerMetrics) -> FastAPI:
    auth = Authenticator(settings)
    lifecycle = Lifecycle(backend, settings, metrics)
    lifecycles = [lifecycle, *_compared_backends(settings, lifecycle)]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for each in lifecycles:
            each.start()
        try:
            yield
        finally:
            for each in lifecycles:
                await each.stop()

    app = FastAPI(
        title="rerank-plugins",
        description="Errors are `ErrorResponse`, also for what is not valid HTTP (400) and for "
        "headers larger than 64 KiB or more than 100 (431).",
        version=rerank_plugins.__version__,
        lifespan=lifespan,
        docs_url=None,  # both pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _send_error},
    )
    app.state.bodies = BodyReader(settings)
    app.state.lifecycle = lifecycle
    app.state.metrics = metrics
    app.state.settings = settings
    app.state.texts = TextMemory(settings.buffer_bytes)
    app.include_router(routes(lifecycle, settings, metrics, needs_keys=not auth.is_open))
    if settings.ui:
        app.include_router(ui_routes(lifecycles, settings))
    app.add_middleware(AdmissionMiddleware, settings=settings, auth=auth, metrics=metrics)
    app.add_middleware(PathMiddleware)
    app.add_middleware(_StartMiddleware, lifecycles=lifecycles)
    complete_openapi(app, lifecycle, settings, needs_keys=not auth.is_open)
    return app


class _StartMiddleware:
    """Starts to load the models at the first request if no lifespan did, as in a mounted app."""

    def __init__(self, app: ASGIApp, *, lifecycles: Sequence[Lifecycle]) -> None:
        self._app = app
        self._lifecycles = lifecycles
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._started and scope["type"] == "http":
            self._started = True
            for lifecycle in self._lifecycles:
                lifecycle.start()
        await self._app(scope, receive, send)


def _compared_backends(settings: ServerSettings, main: Lifecycle) -> list[Lifecycle]:
    """Return the backends that the page compares with, each with metrics of its own."""
    own_settings = replace(settings, model_names=(), cache_warm_up=None)
    lifecycles = []
    for spec in settings.compare:
        lifecycle = Lifecycle(load_backend(spec), own_settings, ServerMetrics())
        lifecycle.on_failure = partial(
            _log_failure, spec, lifecycle, None if settings.model_lock is None else main
        )
        lifecycles.append(lifecycle)
    return lifecycles


def _log_failure(spec: str, lifecycle: Lifecycle, main: Lifecycle | None) -> None:
    """Log why a compared backend can't score; the server goes on without it.

    With a lock of models, one whose files differ from the lock ends the server.
    """
    error = lifecycle.failure
    _log.error("can't compare with %s: %s: %s", spec, type(error).__name__, error)
    if main is not None and isinstance(error, ConfigError):
        main.fail(error)


async def _send_error(request: Request, error: Exception) -> Response:
    if isinstance(error, APIError):
        request.app.state.metrics.rejected.labels(error.type).inc()
    else:
        error = api_error_of(error)
        paths = public_paths(request.app.openapi())
        if error.status_code == HTTPStatus.NOT_FOUND:
            error.detail += f": {', '.join(paths)}"
        elif others := [path for path in paths if path.startswith(f"{request.method} ")]:
            error.detail += f"; there are {', '.join(others)}"
    return error_response(error, request.state.request_id)
