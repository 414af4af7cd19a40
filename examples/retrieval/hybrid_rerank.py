"""Hybrid search, reranked: BM25 and dense vectors, fused by reciprocal rank, as a LangChain chain.

    pip install 'rerank-plugins[examples]'
    python examples/retrieval/hybrid_rerank.py [BACKEND]

BM25 finds names and codes, vectors find paraphrases. Reciprocal rank fusion (Cormack, Clarke and
Büttcher 2009) sums 1 / (60 + rank) over both lists, because their scores are not comparable.
"""

import bm25s  # type: ignore[import-untyped]  # it ships no types
import numpy as np
from common import BACKEND, DEPTH, embed, english, measure
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from rerank_plugins.langchain import RerankRetriever

CONSTANT = 60

documents, judged = english()
ids, texts = list(documents), list(documents.values())

matrix = bm25s.BM25()
matrix.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
vectors = embed(texts)


def by_words(question: str) -> list[int]:
    """Find rows by BM25, best first."""
    words = bm25s.tokenize(question, stopwords="en", show_progress=False)
    rows, _ = matrix.retrieve(words, k=DEPTH, show_progress=False)
    return [int(row) for row in rows[0]]


def by_vectors(question: str) -> list[int]:
    """Find rows by cosine, best first."""
    cosines = vectors @ embed([question], role="query")[0]
    return [int(row) for row in np.argsort(-cosines, kind="stable")[:DEPTH]]


def fused(*rankings: list[int]) -> list[int]:
    """Fuse rankings by reciprocal rank, best first."""
    scores: dict[int, float] = {}
    for rows in rankings:
        for rank, row in enumerate(rows, 1):
            scores[row] = scores.get(row, 0.0) + 1 / (CONSTANT + rank)
    return sorted(scores, key=scores.__getitem__, reverse=True)[:DEPTH]


class Hybrid(BaseRetriever):
    """Finds documents by BM25 and by the cosine of their vectors."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
    ) -> list[Document]:
        rows = fused(by_words(query), by_vectors(query))
        return [Document(texts[row], id=ids[row]) for row in rows]


if __name__ == "__main__":
    for name, search in (("BM25", by_words), ("dense vectors", by_vectors)):
        measure(
            lambda question, search=search: [(ids[row], texts[row]) for row in search(question)],
            judged,
            name=f"{name} alone, English",
        )
    measure(Hybrid(), judged, name="hybrid (RRF), English")

    # In a chain: the hybrid retriever and the reranker are one retriever.
    question = judged[0][0]
    for document in RerankRetriever(Hybrid(), backend=BACKEND, top_n=3).invoke(question):
        print(f"{document.metadata['relevance_score']:.3f}  {document.page_content[:70]}…")
