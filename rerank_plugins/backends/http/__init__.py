"""Remote rerank servers over HTTP."""

from typing import TYPE_CHECKING, Any

from rerank_plugins.backends.http.dialect import Dialect

if TYPE_CHECKING:
    from rerank_plugins.backends.http.backend import HTTPBackend

__all__ = ["Dialect", "HTTPBackend"]


def __getattr__(name: str) -> Any:  # `spec` reads the dialects, which need no HTTP client
    if name == "HTTPBackend":
        from rerank_plugins.backends.http.backend import HTTPBackend  # noqa: PLC0415 - see above

        return HTTPBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
