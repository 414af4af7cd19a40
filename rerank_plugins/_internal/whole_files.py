"""Text files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(texts: Mapping[Path, str]) -> None:
    """Write text files in UTF-8; each that was there stays until all new ones are complete.

    A link stays one: what it leads to is written. What is no file, such as a pipe or `/dev/stdout`,
    is written as it comes, and so is a file in a folder where no other can be made.

    Args:
        texts: the content of each file by its path.

    Raises:
        OSError: one can't be written; all are as they were.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            target = path.resolve()
            if path.exists() and not _is_replaceable(path, target):
                path.write_text(text, encoding="utf-8")
            else:
                part = target.with_name(f".{secrets.token_hex(8)}.part")
                parts[part] = target
                _write(part, text, target)
        for part, target in parts.items():
            part.replace(target)
    except BaseException:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        raise


def _is_replaceable(path: Path, target: Path) -> bool:
    if path.absolute().parts[1:2] in (("dev",), ("proc",)):  # what this process writes to already
        return False
    return target.is_file() and os.access(target.parent, os.W_OK | os.X_OK)


def _write(part: Path, text: str, target: Path) -> None:
    """Write a file with the permissions of another, if there is one."""
    with part.open("x", encoding="utf-8") as file:
        if target.exists():
            part.chmod(target.stat().st_mode & 0o777)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
