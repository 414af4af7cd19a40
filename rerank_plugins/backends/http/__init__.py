"""Remote rerank servers over HTTP."""

from rerank_plugins.backends.http.backend import HTTPBackend

__all__ = ["HTTPBackend"]
