"""Language models behind a chat or completions server, as judges of relevance."""

from rerank_plugins.backends.chat.backend import ChatBackend

__all__ = ["ChatBackend"]
