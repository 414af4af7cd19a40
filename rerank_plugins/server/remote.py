"""Whether another server does the scoring."""

from __future__ import annotations

from rerank_plugins.backend import Backend

__all__ = ["is_remote"]


def is_remote(backend: Backend) -> bool:
    """Return whether a backend, or one inside it, asks another server."""
    from rerank_plugins.backends.http import HTTPBackend  # noqa: PLC0415  # it loads httpx

    inside = [*getattr(backend, "backends", ())]
    if isinstance(wrapped := getattr(backend, "wrapped", None), Backend):
        inside.append(wrapped)
    return isinstance(backend, HTTPBackend) or any(is_remote(part) for part in inside)
