"""The texts that are dearest by their shape, and the processor time that they take per kilobyte.

python -m tests.benchmarks.worst_texts
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from rerank_plugins.backends.embedded import EmbeddedBackend, files
from rerank_plugins.backends.embedded.unigram import SPACE, UnigramTokenizer, normalize
from rerank_plugins.server.body import parse
from rerank_plugins.server.errors import APIError
from rerank_plugins.server.schemas import AnyRerankRequest

__all__ = ["ENGLISH", "PIECES", "STAGES", "Stage", "measure", "text_of"]

ENGLISH = "The giant panda is a bear that lives in the mountains of China. "
PIECES = {
    "English": ENGLISH,
    "one letter": "a",
    "single letters": "a ",
    "white space": " ",
    "line breaks": "\r\n",
    "digits": "0123456789 ",
    "punctuation": "!?;:",
    "commas": "a,",
    "quotes and backslashes": '"\\',
    "words that are just not too long": "x" * 99 + " ",
    "Chinese": "熊猫是一种生活在中国的动物",
    "4,096 Chinese characters": "".join(map(chr, range(0x4E00, 0x5E00))),
    "rare characters": "\U00020000",
    "Hangul": "대왕판다는",
    "Hangul in letters": "\u1112\u1161\u11ab",
    "Thai": "หมีแพนด้ายักษ์",
    "marks that alternate": "\u0316\u0301",
    "marks that are decomposed": "\u0f73",
    "marks that are letters": "\uff9e\u0301",
    "30 marks a letter": "a" + "\u0316\u0301" * 15,
    "31 marks a letter": "a" + "\u0316\u0301" * 16,
    "ligatures of 18 letters": "\ufdfa",
    "families of emoji": "👩‍👩‍👧‍👦",
    "zero width": "\u200b",
    "NUL": "\0",
    "scripts that alternate": "aжa猫",
}
"""Name → what is repeated."""

_LETTERS = 32_768  # the longest document of a server


class Stage(NamedTuple):
    """A part of the work that a text makes."""

    name: str
    run: Callable[[str], object]
    size: Callable[[str], int]
    """How many bytes of a text it is given."""


def text_of(piece: str, letters: int = _LETTERS) -> str:
    """Return so many letters of a repeated piece."""
    return (piece * (letters // len(piece) + 1))[:letters]


def _length(text: str) -> int:
    return len(text.encode())


def _body(text: str, *, escaped: bool = False) -> bytes:
    return json.dumps({"query": "q", "documents": [text]}, ensure_ascii=escaped).encode()


def _parse(body: bytes) -> None:
    with contextlib.suppress(APIError):
        parse(AnyRerankRequest, body, max_documents=1000)


def _stages() -> Iterator[Stage]:
    pieces = (files.FOLDER / files.PIECES).read_text("utf-8").split("\n")
    unigram = UnigramTokenizer(pieces, np.load(files.FOLDER / files.SCORES).tolist())
    backend = EmbeddedBackend(cached_tokens=0, threads=1)
    yield Stage("parsing a body", lambda text: _parse(_body(text)), lambda t: len(_body(t)))
    yield Stage(
        "parsing a body in escapes",
        lambda text: _parse(_body(text, escaped=True)),
        lambda text: len(_body(text, escaped=True)),
    )
    yield Stage(
        "normalizing and tokenizing for the embedded model",
        lambda text: unigram.encode(normalize(text), len(text)),
        _length,
    )
    yield Stage("tokenizing (WordPiece)", _word_piece(pieces).encode, _length)
    yield Stage(
        "scoring with the embedded model, a document of 32,768 letters",
        lambda text: backend.score("what is a panda?", [text]),
        _length,
    )
    yield Stage(
        "scoring with the embedded model, a document of 300 letters",
        lambda text: backend.score("what is a panda?", [text[:300]]),
        lambda text: _length(text[:300]),
    )


def _word_piece(pieces: list[str]) -> Tokenizer:
    """Return a tokenizer of BERT's kind, with the embedded model's words."""
    words = dict.fromkeys(
        piece[1:] if piece.startswith(SPACE) else f"##{piece}" for piece in pieces[4:]
    )
    vocabulary = {word: index for index, word in enumerate(("[UNK]", *words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


STAGES = tuple(_stages())


def measure(stage: Stage, text: str, *, rounds: int = 3) -> float:
    """Return the milliseconds of one processor per kilobyte, in the best of some rounds."""
    stage.run(text[:100])
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        stage.run(text)
        best = min(best, time.process_time() - began)
    return best * 1e6 / stage.size(text)


def main() -> None:
    """Print a table."""
    lines = ["| work | English, ms/kB | the dearest | ms/kB |", "|---|---|---|---|"]
    for stage in STAGES:
        found = {name: measure(stage, text_of(piece)) for name, piece in PIECES.items()}
        worst = max(found, key=found.__getitem__)
        lines.append(f"| {stage.name} | {found['English']:.3f} | {worst} | {found[worst]:.3f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
