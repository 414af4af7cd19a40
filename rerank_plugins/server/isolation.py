"""What a backend is made of: which parts ask another server, and which run a model here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rerank_plugins.backend import Backend
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.backends.local.lockfile import check_lock
from rerank_plugins.server.settings import ServerSettings
from rerank_plugins.wrappers.batching import BatchingBackend
from rerank_plugins.wrappers.process import ModelProcess

__all__ = ["check_locked_models", "is_remote", "isolate", "model_processes"]


def is_remote(backend: Backend) -> bool:
    """Return whether a backend, or one inside it, asks another server."""
    return any(isinstance(part, HTTPBackend) for part in _innermost(backend))


def model_processes(backend: Backend) -> list[ModelProcess]:
    """Return the parts that run in a process of their own."""
    return [part for part in _innermost(backend) if isinstance(part, ModelProcess)]


def isolate(backend: Backend, settings: ServerSettings) -> Backend:
    """Give each model inside a fresh chain a process of its own; return the chain."""
    children = backend.children
    if len(children) > 1:
        # Asked side by side; the concurrent requests to a model share batches here.
        return backend.with_children(
            [
                child if is_remote(child) else BatchingBackend(isolate(child, settings))
                for child in children
            ]
        )
    if children:
        return backend.with_children([isolate(child, settings) for child in children])
    if is_remote(backend):
        return backend
    lock = settings.model_lock
    return ModelProcess(
        backend,
        batch_seconds=settings.watchdog_seconds,
        prepare=None if lock is None else partial(check_lock, lock),
    )


def check_locked_models(backend: Backend, settings: ServerSettings) -> None:
    """Do what must be done before the models that run in this process are loaded.

    Raises:
        ConfigError: a file of a model is not as it was locked.
    """
    for part in _innermost(backend):
        if settings.model_lock is not None and not isinstance(part, HTTPBackend | ModelProcess):
            check_lock(settings.model_lock, part)


def _innermost(backend: Backend) -> Iterator[Backend]:
    if isinstance(backend, ModelProcess) or not backend.children:
        yield backend
    else:
        for child in backend.children:
            yield from _innermost(child)
