"""The header of a safetensors file: the dtype, the shape and the place of each tensor.

The format: https://huggingface.co/docs/safetensors#format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_plugins.errors import ConfigError

__all__ = ["Header", "TensorEntry", "broken_file", "parse_json_object", "read_header"]

_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000
"""Bytes; the limit of the format."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file."""

    dtype: str
    """As the format names it, such as `"BF16"`."""
    shape: tuple[int, ...]
    start: int
    """Where its bytes start in the file."""
    end: int
    """Where they end."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one file."""

    size: int
    """Bytes of the file before the first tensor."""
    tensors: dict[str, TensorEntry]
    """By name, in the order of the file's header."""


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        ConfigError: the file can't be read, or its tensors do not fill it one after the other, as
            the format wants it: two that overlap would share their numbers.
    """
    try:
        file_size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(_MAX_HEADER, file_size - _LENGTH_BYTES):
                raise broken_file(path, f"its header claims {length} bytes")
            entries = parse_json_object(file.read(length), path)
    except OSError as exc:
        raise ConfigError(f"can't read {str(path)!r}: {exc.strerror or exc}") from exc
    size = _LENGTH_BYTES + length
    entries.pop("__metadata__", None)
    tensors = {name: _entry(name, entry, size, path) for name, entry in entries.items()}
    end = size
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if not size <= tensor.start <= tensor.end <= file_size:
            raise broken_file(path, f"{name!r} lies outside the file")
        if tensor.start != end:
            kind = "overlaps another tensor" if tensor.start < end else "leaves a gap before it"
            raise broken_file(path, f"{name!r} {kind}")
        end = tensor.end
    if end != file_size:
        raise broken_file(path, f"{file_size - end} bytes belong to no tensor")
    return Header(size, tensors)


def _entry(name: str, entry: Any, header_size: int, path: Path) -> TensorEntry:
    try:
        start, end = (_count(offset) for offset in entry["data_offsets"])
        shape = tuple(_count(axis) for axis in entry["shape"])
        return TensorEntry(str(entry["dtype"]), shape, header_size + start, header_size + end)
    except (KeyError, TypeError, ValueError) as exc:
        raise broken_file(path, f"the entry of {name!r} is malformed") from exc


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value


def parse_json_object(text: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object that stands in a file.

    Raises:
        ConfigError: it is not valid JSON, or not an object, or an object has a name twice.
    """
    try:
        parsed = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as exc:
        raise broken_file(path, "its JSON is invalid") from exc
    if not isinstance(parsed, dict):
        raise broken_file(path, "its JSON is not an object")
    return parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object of which each reader would take another value."""
    parsed = dict(pairs)
    if len(parsed) < len(pairs):
        raise ValueError
    return parsed


def broken_file(path: Path, reason: str) -> ConfigError:
    """Return the error that tells of a broken file."""
    return ConfigError(f"{str(path)!r} is broken: {reason}; download it again")
