"""Imports of packages that come with an extra."""

from __future__ import annotations

import importlib
from types import ModuleType

from rerank_plugins._internal.locks import hold_forks
from rerank_plugins.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Raises:
        MissingDependencyError: `module` is not installed. A package that is installed but
            fails to import one of its own needs raises its own `ImportError` instead.
    """
    try:
        with hold_forks():
            return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingDependencyError(
            f"`{module}` is not installed; run: pip install 'rerank-plugins[{extra}]'"
        ) from exc
