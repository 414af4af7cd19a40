"""The one reader of TOML files."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from rerank_plugins.errors import ConfigError

__all__ = ["read_toml"]


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the tables of a TOML file in UTF-8, with or without a byte order mark.

    Raises:
        ConfigError: the file can't be read, or is not valid TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise ConfigError(f"can't read {os.fspath(path)!r}: {exc.strerror or exc}") from exc
    except ValueError as exc:  # broken TOML or UTF-8, or NUL in the path
        raise ConfigError(f"{os.fspath(path)!r} is not valid TOML: {exc}") from exc
