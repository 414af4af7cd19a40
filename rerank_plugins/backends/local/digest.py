"""A digest of a model's folder: equal digests mean equal files, for all practical purposes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rerank_plugins.backends.local.safetensors_header import read_header

__all__ = ["digest"]

_SAMPLE = 4096
_SMALL_SUFFIXES = {".jinja", ".json", ".metadata", ".model", ".py", ".txt"}


def digest(folder: Path, weights: Sequence[Path], files: Sequence[str]) -> str:
    """Digest the small files whole, and samples of every tensor of the large ones.

    Args:
        folder: where the files are.
        weights: the large files.
        files: small files in subfolders, by their paths below `folder`.

    Raises:
        ConfigError: a safetensors file is broken.
    """
    total = hashlib.sha256()
    for path in [*sorted(folder.iterdir()), *(folder / file for file in files)]:
        if path.suffix in _SMALL_SUFFIXES:
            content = hashlib.sha256(path.read_bytes()).digest()
            total.update(path.name.encode() + b"\0" + content)
    for path in weights:
        size = path.stat().st_size
        total.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start, length in _samples(path, size):
                file.seek(start)
                total.update(file.read(length))
    return total.hexdigest()


def _samples(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length): a safetensors header and three blocks per tensor; else 256 blocks."""
    if path.suffix != ".safetensors":
        yield from ((start, _SAMPLE) for start in range(0, size, max(size // 256, _SAMPLE)))
        return
    header = read_header(path)
    yield 0, header.size
    for tensor in header.tensors.values():
        middle = (tensor.start + tensor.end) // 2
        last = max(tensor.end - _SAMPLE, tensor.start)
        for start in (tensor.start, middle, last):
            yield start, min(_SAMPLE, tensor.end - start)
