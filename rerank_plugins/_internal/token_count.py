"""How many tokens a text has: by a function, by a tokenizer's file, or estimated."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from rerank_plugins._internal.plain_numbers import plain_integer
from rerank_plugins.errors import ConfigError

__all__ = ["TokenCount", "check_count_tokens", "counter", "estimated_length", "file_digest"]

TokenCount: TypeAlias = Callable[[str], int] | str | os.PathLike[str] | None
"""A function; or the path of a `tokenizer.json`, or of a folder with one; or None: an estimate."""

_FILE = "tokenizer.json"
_ASCII_PER_TOKEN = 3
_BYTES_PER_TOKEN = 2


def estimated_length(text: str) -> int:
    """Estimate the tokens of a text, rather too many than too few.

    One for 3 ASCII characters, or for 2 bytes of others in UTF-8.
    """
    characters = len(text)
    if text.isascii():
        return math.ceil(characters / _ASCII_PER_TOKEN)
    plain = len(text.encode("ascii", "ignore"))
    other = len(text.encode("utf-8", "surrogatepass")) - plain
    return math.ceil(plain / _ASCII_PER_TOKEN + other / _BYTES_PER_TOKEN)


def check_count_tokens(value: object) -> None:
    """Check the setting `count_tokens`; reads no file.

    Raises:
        ConfigError: it is no function, and there is no such file.
    """
    if value is None or callable(value):
        return
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(
            "`count_tokens` must be a function from a text to a number, or the path of a "
            f"`{_FILE}`, not {value!r}"
        )
    if not _file(value).is_file():
        raise ConfigError(
            f"`count_tokens`: there is no file {os.fspath(_file(value))!r}; give the path of a "
            f"`{_FILE}` or of a folder with one, or a function, as in "
            "count_tokens=lambda text: len(tokenizer.encode(text))"
        )


def counter(value: TokenCount) -> Callable[[str], int]:
    """Return the function that counts the tokens of a text.

    Raises:
        ConfigError: the tokenizer can't be read. The function raises it, too, if that of the user
            returns anything but a number of at least 0.
    """
    if value is None:
        return estimated_length
    if not callable(value):
        tokenizer = _tokenizer(os.fspath(_file(value)))
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
    function = value

    def checked(text: str) -> int:
        count = plain_integer(function(text))
        if count is None or count < 0:
            raise ConfigError(
                f"`count_tokens` must return an integer of at least 0, not {function(text)!r}"
            )
        return count

    return checked


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return a short hash of a tokenizer's file, so that a name can say which it is.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return hashlib.sha256(_file(path).read_bytes()).hexdigest()[:12]
    except OSError as exc:
        raise ConfigError(f"`count_tokens`: can't read {os.fspath(path)!r}: {exc}") from exc


def _file(path: str | os.PathLike[str]) -> Path:
    return Path(path) / _FILE if os.path.isdir(path) else Path(path)  # noqa: PTH112  # takes both


@lru_cache(maxsize=4)
def _tokenizer(path: str) -> Any:
    """Read a tokenizer, and let it count whole texts."""
    tokenizers = importlib.import_module("tokenizers")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(path)
    except Exception as exc:  # the library has no class of its own
        raise ConfigError(f"`count_tokens`: can't read {path!r} as a tokenizer: {exc}") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
