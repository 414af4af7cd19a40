"""The operators and data files of an ONNX graph, read from its file without the `onnx` package.

The format is protocol buffers; the numbers are those of the fields in onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from rerank_plugins.backends.local.ready_graph import NO_DATA
from rerank_plugins.backends.local.safetensors_header import broken_file
from rerank_plugins.backends.local.shards import check_beside
from rerank_plugins.errors import ConfigError

__all__ = ["check_graph"]

_Message: TypeAlias = Literal[
    "model", "graph", "function", "node", "attribute", "tensor", "sparse tensor", "entry"
]

_PARTS: Mapping[_Message, Mapping[int, _Message]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((22, 23), "sparse tensor"),
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Which fields of a message hold other messages with nodes or tensors in them."""
_OPERATOR = 4
"""The field of a node that names its operator."""
_KEY, _VALUE = 1, 2
"""The fields of an entry about the data of a tensor."""
_TEXTS: Mapping[_Message, tuple[int, ...]] = {"node": (_OPERATOR,), "entry": (_KEY, _VALUE)}
_ENDLESS = frozenset({"BeamSearch", "GreedySearch", "Loop", "Sampling", "WhisperBeamSearch"})
_MOST_FIELDS = 2_000_000
"""A large encoder has a hundred thousand."""
_VARINT, _BITS_64, _BYTES, _BITS_32 = 0, 1, 2, 5
_FIXED = {_BITS_64: 8, _BITS_32: 4}
_LONGEST_VARINT = 70


class _Part(NamedTuple):
    """A message within the file."""

    kind: _Message
    start: int
    end: int


class _Field(NamedTuple):
    number: int
    wire: int
    start: int
    """Where its content begins."""
    end: int


def check_graph(path: Path) -> None:
    """Check that a graph ends, and that its weights are in it or in files that its name covers.

    An operator that repeats others as often as it likes need not end. Weights may be in any file,
    and those in a folder or a hidden file would change without the model's name, or its lock.

    Raises:
        ConfigError: it has such an operator or such weights, or the file is broken.
    """
    endless: str | None = None
    places: list[str] = []
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for kind, texts in _texts(data):
                if kind == "node" and texts.get(_OPERATOR) in _ENDLESS:
                    endless = texts[_OPERATOR]
                    break
                if kind == "entry" and texts.get(_KEY) == "location":
                    places.append(texts.get(_VALUE, ""))
    except OSError as exc:
        raise ConfigError(f"can't read {str(path)!r}: {exc.strerror or exc}") from exc
    except (ValueError, IndexError) as exc:
        raise broken_file(path, "it is no ONNX graph") from exc
    if endless is not None:
        raise ConfigError(
            f"the graph {str(path)!r} has the operator {endless}, which may never end, so this "
            "package doesn't run it; export the model without, or take it in safetensors"
        )
    for place in dict.fromkeys(places):
        check_beside(path, place)
        if place.endswith(NO_DATA):
            raise ConfigError(
                f"the graph {str(path)!r} keeps weights in {place!r}, and files called so hold "
                "something else; save it again with weights in a file such as model.onnx_data"
            )


def _texts(data: mmap.mmap) -> Iterator[tuple[_Message, dict[int, str]]]:
    """Yield each message, with those of its fields that may be the texts looked for."""
    parts = [_Part("model", 0, len(data))]
    fields = 0
    while parts:
        part = parts.pop()
        texts: dict[int, str] = {}
        for field in _fields(data, part):
            fields += 1
            if fields > _MOST_FIELDS:
                raise ValueError("too many fields")
            if field.wire != _BYTES:
                continue
            if field.number in _TEXTS.get(part.kind, ()):
                texts[field.number] = data[field.start : field.end].decode()
            elif (kind := _PARTS.get(part.kind, {}).get(field.number)) is not None:
                parts.append(_Part(kind, field.start, field.end))
        yield part.kind, texts


def _fields(data: mmap.mmap, part: _Part) -> Iterator[_Field]:
    place = part.start
    while place < part.end:
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            start, end = place, _varint(data, place)[1]
        elif wire == _BYTES:
            length, start = _varint(data, place)
            end = start + length
        else:
            start = place
            end = place + _FIXED[wire] if wire in _FIXED else part.end + 1
        if end > part.end:
            raise ValueError("a field ends outside of its message")
        yield _Field(number, wire, start, end)
        place = end


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    value = shift = 0
    while shift < _LONGEST_VARINT:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:  # noqa: PLR2004 - the bit that tells of more
            return value, place
        shift += 7
    raise ValueError("a number has no end")
