"""The one reader of TOML files."""

from __future__ import annotations

import os
import tomllib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
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
        content = Path(path).read_bytes()
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as exc:
        raise ConfigError(f"can't read {os.fspath(path)!r}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        encoding = "UTF-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "not UTF-8"
        raise ConfigError(
            f"{os.fspath(path)!r} is not valid TOML: it is {encoding}; save it as UTF-8"
        ) from exc
    except ValueError as exc:  # broken TOML, or NUL in the path
        raise ConfigError(f"{os.fspath(path)!r} is not valid TOML: {exc}") from exc
    except RecursionError:
        pass
    # Outside of the handler, because the parser's error has a frame for each level.
    raise ConfigError(f"{os.fspath(path)!r} is not valid TOML: it is nested too deeply")
