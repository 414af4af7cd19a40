"""How the embedded model was made; run it to make it again.

    python -m rerank_plugins.backends.embedded.recipe FOLDER            # model.onnx, tokenizer.json
    python -m rerank_plugins.backends.embedded.recipe --fit GROUPS...   # the calibration

FOLDER holds sentence-transformers/all-MiniLM-L6-v2 (`config.json`, `model.safetensors`,
`tokenizer.json`); needs `rerank-plugins[onnx]`. GROUPS are JSON lines, `{"q": query, "pos":
document, "negs": [documents]}`, plain or `.xz`.
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
from tokenizers import Tokenizer

from rerank_plugins.backends.embedded.embedder import WINDOW, TokenEmbedder
from rerank_plugins.backends.embedded.scorer import LateInteractionScorer
from rerank_plugins.backends.local.onnx.build.build import build_encoder
from rerank_plugins.backends.scale import to_probability

__all__ = ["build", "fit"]

_HERE = Path(__file__).parent


def build(source: Path, target: Path) -> None:
    """Write `model.onnx` and `tokenizer.json` into `target`."""
    model = build_encoder(source, output="tokens", dtype="int8", max_length=WINDOW + 2)
    (target / "model.onnx").write_bytes(model)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(target / "tokenizer.json"), pretty=False)


def fit(groups: Iterable[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Fit log-odds = slope x match + offset, for queries of words and of other scripts."""
    scorer = LateInteractionScorer(TokenEmbedder(max_length=WINDOW, threads=2, cached_tokens=0))
    rows: dict[str, list[tuple[float, bool]]] = {"words": [], "ngrams": []}
    for group in groups:
        documents = [group["pos"], *group["negs"]]
        for position, match in enumerate(scorer.matches(group["q"], documents)):
            kind = "ngrams" if match.ngram_weight > 0.5 else "words"  # noqa: PLR2004 - the larger share
            rows[kind].append((getattr(match, kind), position == 0))
    return {kind: _logistic(np.array(pairs, float)) for kind, pairs in rows.items() if pairs}


def _logistic(pairs: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and offset of the likeliest logistic curve, by Newton's method."""
    x = np.stack([pairs[:, 0], np.ones(len(pairs))], axis=1)
    weights = np.zeros(2)
    for _ in range(50):
        p = np.array(to_probability(x @ weights))
        step = np.linalg.solve((x * (p * (1.0 - p))[:, None]).T @ x, x.T @ (pairs[:, 1] - p))
        weights += step
    return float(weights[0]), float(weights[1])


def _groups(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        opened = lzma.open if file.suffix == ".xz" else open
        with opened(file, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, nargs="+")
    parser.add_argument("--fit", action="store_true", help="fit the calibration to groups")
    options = parser.parse_args()
    if options.fit:
        for kind, (slope, offset) in fit(_groups(options.source)).items():
            print(f"{kind}: slope {slope:.2f}, offset {offset:.2f}")  # noqa: T201 - a script
        return
    build(options.source[0], _HERE)
    for name in ("model.onnx", "tokenizer.json"):
        content = (_HERE / name).read_bytes()
        print(hashlib.sha256(content).hexdigest(), len(content), name)  # noqa: T201 - a script


if __name__ == "__main__":
    main()
