"""The key of a server: given, or read from the environment at each request."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from rerank_plugins.errors import ConfigError

__all__ = ["Credentials", "Key"]

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class Key(NamedTuple):
    """A key, and where it comes from."""

    value: str
    """The key; "" if there is none."""
    source: str
    """Where it comes from, or what to do about its absence, in words."""


class Credentials:
    """Where to find the key.

    Args:
        literal: the key itself.
        variable: the environment variable that holds it.
        usual: the variables that hold it by custom, for want of both.

    Raises:
        ConfigError: both are given, or `variable` can't be the name of one.
    """

    def __init__(self, literal: str | None, variable: str | None, usual: Sequence[str]) -> None:
        if literal is not None and variable is not None:
            raise ConfigError("give either `api_key` or `api_key_env`, not both")
        if variable is not None and not _VARIABLE.fullmatch(variable):
            raise ConfigError(  # without the value, which may be a key
                "`api_key_env` must be the name of an environment variable in capitals, such as "
                f"{usual[0]}, and never the key itself"
            )
        self._literal = literal
        self._variable = variable
        self._usual = usual

    def key(self) -> Key:
        """Read the key.

        Raises:
            ConfigError: the variable is not set, or no header can hold the key.
        """
        if self._literal is not None:
            return Key(_header_safe(self._literal, "`api_key`"), "the key is the `api_key` given")
        if self._variable is not None:
            key = _header_safe(os.environ.get(self._variable, ""), self._variable)
            if not key:
                raise ConfigError(
                    f"the environment variable {self._variable!r}, named by `api_key_env`, is "
                    "not set"
                )
            return Key(key, f"the key is that of the environment variable {self._variable}")
        for variable in self._usual:
            if key := _header_safe(os.environ.get(variable, ""), variable):
                return Key(key, f"the key is that of the environment variable {variable}")
        hint = f"set {self._usual[0]}, or name your variable with `api_key_env`"
        return Key("", f"no key was sent: {hint}")


def _header_safe(key: str, source: str) -> str:
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {source} holds characters that no HTTP header may hold")
    return key
