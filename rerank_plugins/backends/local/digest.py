"""What a folder of model files holds, as a short text that changes with it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from rerank_plugins.errors import ConfigError

__all__ = ["digest"]

_SAMPLE = 4096


def digest(folder: Path, weights: Sequence[Path], files: Sequence[str]) -> str:
    """Digest the small files, and samples of every tensor of the large ones.

    Args:
        folder: where the files are.
        weights: the large ones.
        files: small ones in folders below it, by their paths.

    Raises:
        ConfigError: the header of a safetensors file can't be read.
    """
    found = hashlib.sha256()
    for path in [*sorted(folder.iterdir()), *(folder / file for file in files)]:
        if path.suffix in {".jinja", ".json", ".model", ".py", ".txt"}:
            content = hashlib.sha256(path.read_bytes()).digest()
            found.update(path.name.encode() + b"\0" + content)
    for path in weights:
        size = path.stat().st_size
        found.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start, length in _samples(path, size):
                file.seek(start)
                found.update(file.read(length))
    return found.hexdigest()


def _samples(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length): a safetensors header and three blocks per tensor; else 256 blocks."""
    if path.suffix != ".safetensors":
        yield from ((start, _SAMPLE) for start in range(0, size, max(size // 256, _SAMPLE)))
        return
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            header = file.read(min(header_size, size))
        tensors = dict(json.loads(header))
        tensors.pop("__metadata__", None)
        spans = [tuple(map(int, tensor["data_offsets"])) for tensor in tensors.values()]
        places = [(8 + header_size + start, 8 + header_size + end) for start, end in spans]
    except (struct.error, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"{path.name!r} is no safetensors file: its header can't be read; fetch it again"
        ) from exc
    yield 0, 8 + len(header)
    for start, end in places:
        for at in (start, (start + end) // 2, end - _SAMPLE):
            yield max(at, start), min(_SAMPLE, end - max(at, start))
