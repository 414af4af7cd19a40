"""Headers that a user adds to each request, such as those that a gateway needs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from rerank_plugins._internal.secret import Secret
from rerank_plugins.backends.http.credentials import can_be_sent
from rerank_plugins.errors import ConfigError

__all__ = ["HeaderValues", "check_headers", "read_headers"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REFERENCE = re.compile(r"\$([A-Z_][A-Z0-9_]*)")
_RESERVED = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host"}
    | {"transfer-encoding"}
)
_SECRET = re.compile("auth|cookie|key|password|secret|token", re.IGNORECASE)


class HeaderValues(NamedTuple):
    """Headers as they are sent, and which of their values are secret."""

    headers: Mapping[str, str | Secret]
    secrets: tuple[Secret, ...]
    """The values that come from the environment."""


def check_headers(headers: Mapping[str, str], *, key_header: str) -> None:
    """Check the option `headers`; a value `"$NAME"` stands for an environment variable.

    Raises:
        ConfigError: a header can't be sent, is set by the backend itself, or holds a secret. The
            message is without the value.
    """
    if not isinstance(headers, Mapping):
        raise ConfigError(f"`headers` must be a table of names and values, not {headers!r}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"`headers` holds {name!r}, which is not the name of a header")
        if name.lower() in _RESERVED or name.lower() == key_header.lower():
            raise ConfigError(f"`headers` can't set {name!r}: the backend sets it itself")
        if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
            raise ConfigError(f"the value of the header {name!r} must be a string that HTTP allows")
        if _SECRET.search(name) and not _REFERENCE.fullmatch(value):
            raise ConfigError(
                f"the header {name!r} looks like a secret; put its value in an environment "
                f'variable and write "$NAME_OF_THE_VARIABLE"'
            )


def read_headers(headers: Mapping[str, str]) -> HeaderValues:
    """Return the headers with the values of the environment, as it is now.

    Raises:
        ConfigError: a variable is not set, or no header can hold its value.
    """
    values: dict[str, str | Secret] = {}
    secrets: list[Secret] = []
    for name, value in headers.items():
        reference = _REFERENCE.fullmatch(value)
        if reference is None:
            values[name] = value
            continue
        secret = Secret(os.environ.get(reference[1], "").strip())
        if not secret:
            raise ConfigError(
                f"the environment variable {reference[1]!r}, named by the header {name!r}, is not "
                "set"
            )
        if not can_be_sent(secret):
            raise ConfigError(f"the value of {reference[1]} can't stand in an HTTP header")
        values[name] = secret
        secrets.append(secret)
    return HeaderValues(values, tuple(secrets))
