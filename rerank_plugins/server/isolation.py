"""Which backends of a chain call another server, and which run a model in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from rerank_plugins.backend import Backend, OwnProcess
from rerank_plugins.backends.local.lockfile import LockedFiles, check_lock
from rerank_plugins.errors import ConfigError
from rerank_plugins.server.parts_backend import DocumentPartsBackend
from rerank_plugins.server.settings import BATCH_SECONDS, ServerSettings
from rerank_plugins.wrappers.batching import BatchingBackend
from rerank_plugins.wrappers.process import ModelProcess

__all__ = ["check_locked_models", "is_remote", "isolate", "model_processes"]


def is_remote(backend: Backend) -> bool:
    """Return whether a backend, or one below it, calls another server."""
    return any(part.endpoint is not None for part in backend.walk())


def model_processes(backend: Backend) -> list[OwnProcess]:
    """Return the processes of their own in which backends of a chain run their models."""
    return [part.process for part in backend.walk() if part.process is not None]


def isolate(
    backend: Backend, settings: ServerSettings, *, on_restart: Callable[[], None] | None = None
) -> Backend:
    """Return a copy of a chain in which each model of this machine has a process of its own.

    Those that have one keep it. `on_restart` is called in a thread whenever another process has to
    start.

    Raises:
        ConfigError: a model has its own process already, which can't check it against the lock.
    """
    if backend.process is not None:
        if settings.model_lock is not None:
            raise ConfigError(
                f"`model_lock` can't be checked in the process of {backend!r}; leave that wrapper "
                "out, because the server runs each model in a process of its own"
            )
        return backend
    if not backend.children:
        if is_remote(backend):
            return backend
        lock = settings.model_lock
        return ModelProcess(
            backend,
            batch_seconds=settings.longest_batch(reloads=backend.reloads),
            load_seconds=settings.load_seconds,
            wait_seconds=settings.queue_seconds,
            prepare=None if lock is None else partial(_check_files, lock),
            on_restart=on_restart,
        )
    children = [isolate(child, settings, on_restart=on_restart) for child in backend.children]
    if len(children) > 1:
        # The chain receives requests concurrently, so those to one model share batches below it.
        children = [
            child if is_remote(child) or not child.pointwise else _in_batches(child)
            for child in children
        ]
    return backend.with_children(children)


def _in_batches(model: Backend) -> Backend:
    batches = BatchingBackend(model, batch_seconds=BATCH_SECONDS)
    return DocumentPartsBackend(batches) if batches.best_part_counts else batches


def check_locked_models(backend: Backend, settings: ServerSettings) -> list[LockedFiles]:
    """Check the files of the models that run in this process, before they load.

    Returns:
        The files of each, to check them again.

    Raises:
        ConfigError: a file of a model differs from the lock.
    """
    if settings.model_lock is None:
        return []
    return [check_lock(settings.model_lock, model) for model in _models_here(backend)]


def _check_files(lock: str, model: Backend) -> Callable[[], None]:
    """Check the files of a model in its own process; what is returned checks them again."""
    return check_lock(lock, model).check


def _models_here(backend: Backend) -> Iterator[Backend]:
    """Yield the models of a chain, except for remote ones and those in other processes."""
    if backend.process is not None:
        return
    if not backend.children and not is_remote(backend):
        yield backend
    for child in backend.children:
        yield from _models_here(child)
