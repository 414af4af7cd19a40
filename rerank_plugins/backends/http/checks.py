"""Checks of the settings of remote backends."""

from __future__ import annotations

import math

from rerank_plugins._internal.options import unknown
from rerank_plugins.errors import ConfigError

__all__ = ["check_choices", "check_counts", "check_seconds"]

_SCALES = ("probability", "logit", "unknown")


def check_choices(*, scale: str, server_scale: str | None) -> None:
    """Raise `ConfigError` unless both scales exist."""
    if scale not in _SCALES[:2]:
        raise ConfigError(unknown("`scale`", str(scale), _SCALES[:2]))
    if server_scale not in (None, *_SCALES):
        raise ConfigError(unknown("`server_scale`", str(server_scale), _SCALES))


def check_seconds(**seconds: float) -> None:
    """Raise `ConfigError` unless each value is a number of seconds above 0."""
    for name, value in seconds.items():
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"`{name}` must be a number of seconds above 0, not {value!r}")


def check_counts(**counts: int | None) -> None:
    """Raise `ConfigError` unless each value is None or an integer of at least 1."""
    for name, value in counts.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise ConfigError(f"`{name}` must be an integer of at least 1, not {value!r}")
