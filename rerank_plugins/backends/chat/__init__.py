"""Language models behind a chat or completions server, as judges of relevance."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank_plugins.backends.chat.backend import ChatBackend

__all__ = ["ChatBackend"]


def __getattr__(name: str) -> Any:  # `doctor` reads the servers, which need no HTTP client
    if name == "ChatBackend":
        from rerank_plugins.backends.chat.backend import ChatBackend  # noqa: PLC0415 - see above

        return ChatBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
