"""Tensors of a checkpoint, mapped from its safetensors files without a copy."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.safetensors_header import (
    TensorEntry,
    broken_file,
    read_header,
)
from rerank_plugins.backends.local.shards import shards

__all__ = ["Array", "Tensors"]

Array: TypeAlias = NDArray[Any]

_DTYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}
"""Dtypes of the format → how NumPy reads them; the halves of bfloat16 as integers."""


class Tensors(Mapping[str, Array]):
    """The tensors of `model.safetensors`, or of the shards its index names, by name.

    Each look-up maps that tensor alone, so its memory is released with the array. float16 stays as
    it is; bfloat16, which NumPy lacks, becomes float32.

    Raises:
        UnsupportedByEngine: there is no such file.
        ConfigError: a file is broken.
        KeyError: on looking up a name that is not there.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        if single.exists():
            files = [single]
        elif index.exists():
            files = shards(index)
        else:
            raise UnsupportedByEngine(
                f"{str(folder)!r} holds no model.safetensors; save the model in that format, "
                'or use engine="torch"'
            )
        self._entries: dict[str, tuple[Path, TensorEntry]] = {}
        for file in files:
            for name, entry in _readable(file):
                if name in self._entries:
                    raise broken_file(file, f"{name!r} is in {self._entries[name][0].name!r} too")
                self._entries[name] = entry

    def __getitem__(self, name: str) -> Array:
        file, entry = self._entries[name]
        length = entry.end - entry.start
        if length == 0:
            return np.zeros(entry.shape, np.float32)
        page_offset = entry.start % mmap.ALLOCATIONGRANULARITY
        with file.open("rb") as opened:
            mapped = mmap.mmap(
                opened.fileno(),
                length + page_offset,
                access=mmap.ACCESS_READ,
                offset=entry.start - page_offset,
            )
        numbers = np.frombuffer(mapped, _DTYPES[entry.dtype], offset=page_offset)
        if entry.dtype == "BF16":  # the upper half of a float32
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        return numbers.reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _readable(file: Path) -> Iterator[tuple[str, tuple[Path, TensorEntry]]]:
    """Yield the name, the file and the entry of each tensor whose dtype NumPy can hold."""
    for name, entry in read_header(file).tensors.items():
        if entry.dtype not in _DTYPES:
            continue  # looking it up is a KeyError
        if (
            entry.end - entry.start
            != math.prod(entry.shape) * np.dtype(_DTYPES[entry.dtype]).itemsize
        ):
            raise broken_file(file, f"{name!r} has a wrong size")
        yield name, (file, entry)
