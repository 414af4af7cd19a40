"""Tensors of a checkpoint, mapped from its safetensors files without copying them."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.errors import ConfigError

__all__ = ["Array", "Tensors"]

Array: TypeAlias = NDArray[Any]

_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}
_LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the format, https://huggingface.co/docs/safetensors#format."""


@dataclass(frozen=True)
class _Place:
    """Where one tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


class Tensors(Mapping[str, Array]):
    """The tensors of `model.safetensors`, or of the shards its index names, by name.

    Each look-up maps just that tensor, so its memory goes when the array goes. 16-bit floats
    stay as they are, except bfloat16, which NumPy lacks and which becomes float32.

    Raises:
        UnsupportedByEngine: there is no such file.
        ConfigError: a file is broken. Looking a name up that is not there
            raises `KeyError`.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        if single.exists():
            files = [single]
        elif index.exists():
            shards = _read_json(index.read_bytes(), index).get("weight_map", {})
            files = [folder / Path(name).name for name in sorted(set(shards.values()))]
        else:
            raise UnsupportedByEngine(
                f"{str(folder)!r} holds no model.safetensors; save the model in that format, "
                'or use engine="torch"'
            )
        self._places = {name: place for file in files for name, place in _places(file)}

    def __getitem__(self, name: str) -> Array:
        place = self._places[name]
        if place.length == 0:
            return np.zeros(place.shape, np.float32)
        page = place.offset % mmap.ALLOCATIONGRANULARITY
        with place.file.open("rb") as file:
            mapped = mmap.mmap(
                file.fileno(),
                place.length + page,
                access=mmap.ACCESS_READ,
                offset=place.offset - page,
            )
        if place.dtype == "BF16":  # the upper half of a float32
            halves = np.frombuffer(mapped, "<u2", offset=page).astype(np.uint32)
            return (halves << 16).view(np.float32).reshape(place.shape)
        return np.frombuffer(mapped, _DTYPES[place.dtype], offset=page).reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _places(file: Path) -> Iterator[tuple[str, _Place]]:
    """Yield the name and the place of each tensor of one file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= min(_LARGEST_HEADER, size - 8):
                raise _broken(file, f"its header claims {length} bytes")
            header = _read_json(opened.read(length), file)
    except OSError as exc:
        raise ConfigError(f"can't read {str(file)!r}: {exc.strerror or exc}") from exc
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape = tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
            dtype = str(entry["dtype"])
        except (KeyError, TypeError, ValueError) as exc:
            raise _broken(file, f"the entry of {name!r} is malformed") from exc
        if dtype not in {*_DTYPES, "BF16"}:
            continue  # asked for, it is missing; else it does not matter
        width = 2 if dtype == "BF16" else np.dtype(_DTYPES[dtype]).itemsize
        if end - begin != math.prod(shape) * width or begin < 0 or 8 + length + end > size:
            raise _broken(file, f"{name!r} lies outside the file or has a wrong size")
        yield name, _Place(file, dtype, shape, 8 + length + begin, end - begin)


def _read_json(text: bytes, file: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError as exc:
        raise _broken(file, "it holds no valid JSON") from exc
    if not isinstance(parsed, dict):
        raise _broken(file, "its JSON is no object")
    return parsed


def _broken(file: Path, why: str) -> ConfigError:
    return ConfigError(f"{str(file)!r} is broken: {why}; download it again")
