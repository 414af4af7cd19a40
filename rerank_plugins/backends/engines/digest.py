"""What a folder of model files holds, as a short text that changes with it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["digest"]

_SAMPLE = 4096


def digest(folder: Path, weights: Sequence[Path], files: Sequence[str]) -> str:
    """Digest the small files, and samples of every tensor of the large ones.

    Args:
        folder: where the files are.
        weights: the large ones.
        files: small ones in folders below it, by their paths.
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
    with path.open("rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        header = file.read(min(header_size, size))
    yield 0, 8 + len(header)
    for name, tensor in json.loads(header).items():
        if name != "__metadata__":
            start, end = (8 + header_size + offset for offset in tensor["data_offsets"])
            for at in (start, (start + end) // 2, end - _SAMPLE):
                yield max(at, start), min(_SAMPLE, end - max(at, start))
