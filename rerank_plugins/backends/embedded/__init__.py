"""The reranker that ships with the package: late interaction over a small encoder."""

from rerank_plugins.backends.embedded.backend import EmbeddedBackend

__all__ = ["EmbeddedBackend"]
