"""Writes the ONNX file format, which is protocol buffers, without the `onnx` package.

Each function returns one encoded message of https://onnx.ai/onnx/api/classes.html; the numbers are
those of the fields in onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["Attribute", "external_tensor", "model", "node", "number_of", "tensor", "value"]

Attribute: TypeAlias = int | float | str | Sequence[int]

_NUMBERS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "float16": 10}
_EXTERNAL = 1


def model(
    nodes: Iterable[bytes],
    constants: Iterable[bytes],
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
    *,
    opsets: Mapping[str, int],
    ir_version: int,
) -> bytes:
    """Encode a `ModelProto` with one graph; `opsets` maps domains to versions."""
    graph = b"".join(
        [
            *(_bytes(1, part) for part in nodes),
            _bytes(2, b"encoder"),
            *(_bytes(5, part) for part in constants),
            *(_bytes(11, part) for part in inputs),
            *(_bytes(12, part) for part in outputs),
        ]
    )
    versions = (_text(1, domain) + _int(2, version) for domain, version in opsets.items())
    return _int(1, ir_version) + _bytes(7, graph) + b"".join(_bytes(8, v) for v in versions)


def node(
    kind: str,
    inputs: Iterable[str],
    outputs: Iterable[str],
    *,
    name: str,
    domain: str,
    attributes: Mapping[str, Attribute],
) -> bytes:
    """Encode a `NodeProto`."""
    return b"".join(
        [
            *(_text(1, text) for text in inputs),
            *(_text(2, text) for text in outputs),
            _text(3, name),
            _text(4, kind),
            *(_bytes(5, _attribute(key, attributes[key])) for key in sorted(attributes)),
            _text(7, domain),
        ]
    )


def tensor(name: str, array: Array) -> bytes:
    """Encode a `TensorProto` with its numbers."""
    raw = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes()
    return _declared(array) + _text(8, name) + _bytes(9, raw)


def external_tensor(name: str, array: Array) -> bytes:
    """Encode a `TensorProto` whose numbers the runtime gets separately."""
    place = {"location": "memory", "offset": "0", "length": str(array.nbytes)}
    entries = (_bytes(13, _text(1, key) + _text(2, text)) for key, text in place.items())
    return _declared(array) + _text(8, name) + b"".join(entries) + _int(14, _EXTERNAL)


def value(name: str, kind: int, shape: Iterable[int | str]) -> bytes:
    """Encode a `ValueInfoProto`; a string in `shape` names an axis of any size."""
    axes = (_text(2, axis) if isinstance(axis, str) else _int(1, axis) for axis in shape)
    tensor_type = _int(1, kind) + _bytes(2, b"".join(_bytes(1, axis) for axis in axes))
    return _text(1, name) + _bytes(2, _bytes(1, tensor_type))


def number_of(dtype: DTypeLike) -> int:
    """Return ONNX's number for a type."""
    return _NUMBERS[np.dtype(dtype).name]


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, float):
        return _text(1, name) + _key(2, 5) + struct.pack("<f", value) + _int(20, 1)
    if isinstance(value, int):
        return _text(1, name) + _int(3, value) + _int(20, 2)
    if isinstance(value, str):
        return _text(1, name) + _text(4, value) + _int(20, 3)
    return _text(1, name) + b"".join(_int(8, number) for number in value) + _int(20, 7)


def _declared(array: Array) -> bytes:
    dims = b"".join(_int(1, size) for size in array.shape)
    return dims + _int(2, number_of(array.dtype))


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, 2) + _varint(len(content)) + content


def _int(field: int, number: int) -> bytes:
    return _key(field, 0) + _varint(number % (1 << 64))


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(number: int) -> bytes:
    """Encode 7 bits per byte, lowest first; the top bit says that more follow."""
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - all that 7 bits hold
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
