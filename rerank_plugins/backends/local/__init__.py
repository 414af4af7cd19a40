"""Models in this process: torch and ONNX."""

from rerank_plugins.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]
