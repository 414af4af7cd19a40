"""The files of the embedded model, and their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

__all__ = ["DIGESTS", "FOLDER", "MODEL", "PIECES", "SCORES", "VERSION", "WORDS"]

FOLDER = Path(__file__).parent

MODEL = "model.onnx"
"""From word embeddings to token vectors."""
WORDS = "words.npy"
"""The word embeddings in blocks of 4 bits, a row for each piece."""
PIECES = "pieces.txt"
"""The vocabulary, a piece per line, the likeliest first."""
SCORES = "scores.npy"
"""The log-probability of each piece."""

DIGESTS: Mapping[str, str] = {
    MODEL: "06e28016f5e875b293afcce997ad2eb9ecb1520d681f85c77dea3ca2ce2a9189",
    WORDS: "2e8a204a4494e90c347a92ac0ec56351d97a3966c30922b8cc9dcf2502e8b978",
    PIECES: "16a0cc9dbdf98dc6f69d48a6de2f39f67fb76eff6780bab96ce33b8909932e49",
    SCORES: "c22dc342744e222c58eb1a3c5f8b949a2a8f38a904ce5f538f5578bf0e16d25a",
}
"""File → its SHA-256."""

VERSION = hashlib.sha256("".join(DIGESTS.values()).encode()).hexdigest()[:12]
"""Of all files together."""
