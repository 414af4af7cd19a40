"""What clients may know of files: their names, not the folders of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

__all__ = ["without_folders", "without_folders_in"]

_FOLDERS = re.compile(
    r"""
    (?<![\w./~-]) / (?!/) (?: [^/\s'"|<>?&]+ / )+  # as in local:/srv/models/bert, not in BAAI/bge
    | (?<![A-Za-z]) [A-Za-z]: \\ (?: [^\\\s'"|<>?&]+ \\ )+
    """,
    re.VERBOSE,
)


def without_folders(text: str) -> str:
    """Return a text with the last part of each absolute path in it instead of the path."""
    for flavour in (PurePosixPath, PureWindowsPath):
        if flavour(text).is_absolute():
            return flavour(text).name  # whatever characters its folders have
    return _FOLDERS.sub("", text)


def without_folders_in(value: Any) -> Any:
    """Return JSON-ready facts with the last part of each absolute path instead of the path."""
    match value:
        case str():
            return without_folders(value)
        case Mapping():
            return {key: without_folders_in(each) for key, each in value.items()}
        case list() | tuple():
            return [without_folders_in(each) for each in value]
        case _:
            return value
