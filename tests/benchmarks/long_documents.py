"""What reading long documents in windows is worth: books with the answer anywhere.

    python -m tests.benchmarks.long_documents DATA -b embedded --words 5000 --queries 200

DATA is a folder with `corpus.jsonl`, `queries.jsonl` and `qrels.tsv`, as BEIR has them. Its
documents are shuffled and joined into books of so many words (of Chinese: characters); a query's
book is the one with its relevant documents. Every book is ranked for every query, without a first
search. Printed for each setting: nDCG@10; how often the best passage lies in a relevant document
or holds half of one; which share of the book it is; and the seconds per query, the first of which
makes the vectors of models that keep them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank_plugins import Backend, Passage, load_backend
from rerank_plugins.evaluation.statistics import estimates

SETTINGS = {
    "truncate": {"long_documents": "truncate"},
    "best": {},
    "mean of 2": {"best_windows": 2},
    "mean of 3": {"best_windows": 3},
}
JOINT = "\n\n"


@dataclass(frozen=True)
class Book:
    """Documents in one text, and where each of them stands."""

    text: str
    places: dict[str, tuple[int, int]]


def size(text: str) -> int:
    """Return the words of a text; of Chinese, the characters."""
    return len(text.split()) if text.isascii() or text.count(" ") > len(text) / 20 else len(text)


def books(corpus: dict[str, str], words: int, seed: int) -> list[Book]:
    """Join the documents, shuffled, into books of at least so many words."""
    ids = sorted(corpus)
    random.Random(seed).shuffle(ids)
    found: list[Book] = []
    parts: list[str] = []
    places: dict[str, tuple[int, int]] = {}
    start = length = 0
    for name in ids:
        text = corpus[name]
        parts.append(text)
        places[name] = (start, start + len(text))
        start += len(text) + len(JOINT)
        length += size(text)
        if length >= words:
            found.append(Book(JOINT.join(parts), places))
            parts, places, start, length = [], {}, 0, 0
    if parts:
        found.append(Book(JOINT.join(parts), places))
    return found


def read(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    """Return the texts of the documents and of the queries, and the relevant documents of each."""

    def texts(name: str) -> dict[str, str]:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        return {item["_id"]: item["text"] for item in map(json.loads, lines)}

    relevant: dict[str, set[str]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        if int(score) > 0:
            relevant.setdefault(query, set()).add(document)
    return texts("corpus.jsonl"), texts("queries.jsonl"), relevant


def holds(passage: Passage, place: tuple[int, int]) -> bool:
    """Whether a passage has half of a document, or lies in it by half of its own length."""
    shared = min(passage.end, place[1]) - max(passage.start, place[0])
    return 2 * shared >= min(place[1] - place[0], passage.end - passage.start)


def ndcg(scores: Sequence[float], relevant: set[int]) -> float:
    """Return nDCG@10; ties count as ranked by chance: last of those that are equal."""
    gain = ideal = 0.0
    places = sorted(sum(scores[i] <= other for other in scores) for i in relevant)
    for rank, place in enumerate(places, start=1):
        ideal += 1 / math.log2(rank + 1) if rank <= 10 else 0
        gain += 1 / math.log2(place + 1) if place <= 10 else 0
    return gain / ideal


def measure(
    backend: Backend, library: Sequence[Book], queries: Sequence[tuple[str, set[str]]]
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return nDCG, whether the passage answers, its share, and the seconds, of each query."""
    texts = [book.text for book in library]
    gains, held, shares, seconds = [], [], [], []
    for query, answers in queries:
        begun = time.perf_counter()
        scores = backend.score(query, texts)
        seconds.append(time.perf_counter() - begun)
        found = {i for i, book in enumerate(library) if answers & book.places.keys()}
        gains.append(ndcg(list(scores), found))
        best = max(found, key=scores.__getitem__)
        passage = scores.passages.get(best, Passage(0, 0))
        places = [library[best].places[name] for name in answers & library[best].places.keys()]
        held.append(float(any(passage != (0, 0) and holds(passage, place) for place in places)))
        shares.append((passage.end - passage.start) / len(texts[best]))
    return gains, held, shares, seconds


def main() -> None:
    """Print one line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-b", "--backend", default="embedded")
    parser.add_argument("--words", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--books", type=int, help="take only so many, and the queries of these")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    options = parser.parse_args()
    corpus, texts, relevant = read(options.data)
    library = books(corpus, options.words, options.seed)[: options.books]
    held = {name for book in library for name in book.places}
    asked = sorted(name for name in set(texts) & set(relevant) if relevant[name] <= held)
    random.Random(options.seed).shuffle(asked)
    queries = [(texts[name], relevant[name]) for name in asked[: options.queries]]
    sys.stdout.write(
        f"{options.data.name}: {len(library)} books of {options.words}, {len(queries)} queries\n"
    )
    for name in options.settings:
        spec = load_backend(options.backend).to_spec()
        with load_backend({**spec, **SETTINGS[name]}) as backend:
            gains, held, shares, seconds = measure(backend, library, queries)
        gain, hold = estimates([gains, held], seed=options.seed)
        sys.stdout.write(
            f"{options.backend} | {name} | {gain.mean:.3f} ({gain.low:.3f}-{gain.high:.3f}) | "
            f"{hold.mean:.3f} ({hold.low:.3f}-{hold.high:.3f}) | "
            f"{statistics.median(shares):.2%} of the book | first {seconds[0]:.1f} s, then "
            f"{statistics.median(seconds[1:]):.3f} s\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
