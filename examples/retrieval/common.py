"""Shared parts of the recipes: the data, the embedding model, and the table at the end.

Replace them with your own documents, embedding model and judged questions.
"""

import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins import Backend, load_backend
from rerank_plugins.backends.embedded.embedder import Role, TokenEmbedder
from rerank_plugins.backends.embedded.lengths import WINDOW
from rerank_plugins.evaluation import Evaluation, evaluate, from_retriever, load_dataset

BACKEND = sys.argv[1] if len(sys.argv) > 1 else "embedded"
"""The reranker: any backend spec, such as "local:BAAI/bge-reranker-v2-m3"."""

DEPTH = 30
"""How many documents the first stage passes to the reranker."""

Judged = list[tuple[str, list[str]]]
"""Pairs of a question and the ids of the documents that answer it."""


def english() -> tuple[dict[str, str], Judged]:
    """Return 605 biomedical passages by id, and 40 questions with the ids of their answers."""
    return _parts("demo:covidqa")


def chinese() -> tuple[dict[str, str], Judged]:
    """Return 237 paragraphs of Wikipedia by id, and 60 questions with the ids of their answers."""
    return _parts("demo:xquad-zh")


def _parts(name: str) -> tuple[dict[str, str], Judged]:
    data = load_dataset(name)
    judged = [(text, list(data.qrels[query])) for query, text in data.queries.items()]
    return dict(data.documents), judged


@cache
def _embedder() -> TokenEmbedder:
    """multilingual-e5-small, from the files of this package: no torch, no download.

    In your program this is `SentenceTransformer("intfloat/multilingual-e5-small")`.
    """
    return TokenEmbedder(max_length=WINDOW, threads=1, cached_tokens=0)


@cache
def _embedded(text: str, *, role: Role) -> NDArray[np.float32]:
    """Return the mean of the token vectors, scaled to length 1."""
    mean = _embedder().vectors(text, role).vectors().mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


def embed(texts: Iterable[str], *, role: Role = "passage") -> NDArray[np.float32]:
    """Return one unit vector of 384 dimensions per text, cached for the next recipe."""
    return np.stack([_embedded(text, role=role) for text in texts])


@cache
def _backend() -> Backend:
    """Load the model once for all recipes."""
    return load_backend(BACKEND)


def measure(retriever: Any, judged: Judged, *, name: str) -> Evaluation:
    """Retrieve documents for every question, rerank them, and print the gain."""
    evaluation = evaluate(
        from_retriever(retriever, judged, name=name, depth=DEPTH),
        {"reranked": _backend()},
        metrics=("nDCG@10", "MRR@10"),
        depth=DEPTH,
        depths=[],
    )
    for line in table(name, evaluation):
        print(line)
    return evaluation


def table(name: str, evaluation: Evaluation) -> Sequence[str]:
    """Lay out nDCG@10 and MRR@10 before and after, and the gain with its 95 % interval."""
    lines = [f"{name}, {len(evaluation.dataset.queries)} questions", f"{'':24}nDCG@10   MRR@10"]
    for label, system in (("as found", evaluation.baseline), ("reranked", evaluation.backends[0])):
        values = "".join(f"{system.figures[metric].mean:9.3f}" for metric in evaluation.metrics)
        lines.append(f"  {label:20}{values}")
    gain = evaluation.compared("reranked", evaluation.baseline.label).difference
    lines.append(f"  gain in nDCG@10        {gain.mean:+.3f}  [{gain.low:+.3f}, {gain.high:+.3f}]")
    return lines
