"""A hub's model in outline: its small files, and empty ones in place of the large."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any

from rerank_plugins.backends.local.hub import ListedFiles, fetch, fetch_header, list_files
from rerank_plugins.backends.local.modelscope import (
    fetch_from_modelscope,
    list_files_on_modelscope,
)
from rerank_plugins.errors import ConfigError

__all__ = ["outlined"]

_SMALL = 1 << 18
"""Bytes of the largest file that is fetched; vocabularies are larger, and say nothing."""
_SMALL_WEIGHTS = 16 << 20
"""The same of the weights of one module, where a hub gives no header alone."""
_MOST_HEADERS = 40
_TEXTS = ("*.jinja", "*.json", "*.metadata", "*.md", "*.py", "*.txt")
_NO_TENSORS = b"\x02" + bytes(7) + b"{}"
"""A safetensors file without tensors."""


@contextmanager
def outlined(
    model: str, *, hub: str, revision: str | None
) -> Iterator[tuple[Path, ListedFiles, bool]]:
    """Give a folder that looks like the model's, as long as nobody reads its large files.

    Small files are there. In place of weights are sparse files with their headers, and in place of
    all others empty ones. Nothing of it stays.

    Yields:
        The folder, what the hub has, and whether the headers are those of the model.

    Raises:
        RerankError: the hub has no such model, or can't be reached.
    """
    is_modelscope = hub == "modelscope"
    listed = (list_files_on_modelscope if is_modelscope else list_files)(model, revision=revision)
    listed = replace(
        listed, sizes={name: size for name, size in listed.sizes.items() if _is_inside(name)}
    )
    pinned = listed.commit or revision
    small = [name for name, size in listed.sizes.items() if _is_small(name, size)]
    if is_modelscope:
        small += [name for name, size in listed.sizes.items() if _is_module(name, size)]
    with TemporaryDirectory(prefix="rerank-outline-", ignore_cleanup_errors=True) as place:
        folder = (fetch_from_modelscope if is_modelscope else fetch)(
            model, revision=pinned, cache_folder=place, local_files_only=False, patterns=small
        )
        for name in listed.sizes:
            path = folder / name
            if path.exists() or name.count("/") > 1:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        weights = [
            name
            for name in sorted(listed.sizes)
            if name.endswith(".safetensors") and name not in small and (folder / name).exists()
        ]
        for name in weights[:_MOST_HEADERS]:
            if is_modelscope:
                (folder / name).write_bytes(_NO_TENSORS)
            else:
                _write_outline(folder / name, fetch_header(model, name, revision=pinned))
        yield folder, listed, not is_modelscope


def _is_inside(name: str) -> bool:
    """Whether a file that a hub lists lies in the model's folder, on any system."""
    return not any(
        path.is_absolute() or path.drive or path.root or ".." in path.parts
        for path in (PurePosixPath(name), PureWindowsPath(name))
    )


def _is_small(name: str, size: int) -> bool:
    if name.endswith(".index.json"):  # of many shards, it is long
        return size <= _SMALL_WEIGHTS
    return size <= _SMALL and name.count("/") <= 1 and any(fnmatch(name, each) for each in _TEXTS)


def _is_module(name: str, size: int) -> bool:
    return name.count("/") == 1 and name.endswith(".safetensors") and size <= _SMALL_WEIGHTS


def _write_outline(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a safetensors file of which only the header takes space."""
    header = json.dumps(entries).encode()
    ends: Sequence[int] = [entry["data_offsets"][1] for entry in entries.values()]
    size = 8 + len(header) + max(ends, default=0)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(size)
        except (OSError, OverflowError, TypeError, ValueError) as exc:
            raise ConfigError(
                f"the header of {path.name!r} tells of {size!r} bytes, which no file has; it is "
                "damaged"
            ) from exc
