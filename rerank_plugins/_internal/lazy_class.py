"""A class that is imported when it is needed."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

__all__ = ["LazyClass"]


class LazyClass(NamedTuple):
    """Where a class is defined."""

    module: str
    name: str

    def load(self) -> type[Any]:
        """Import the class."""
        loaded: type[Any] = getattr(importlib.import_module(self.module), self.name)
        return loaded
