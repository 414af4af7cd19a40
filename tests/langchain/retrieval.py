"""Documents, a retriever and backends that the tests of the LangChain adapter share."""

import asyncio
import threading

import bm25s
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from rerank_plugins import (
    Backend,
)
from rerank_plugins.langchain import RerankCompressor
from rerank_plugins.testing import FakeBackend

QUERY = "giant panda bear"
TEXTS = (
    "Paris is the capital of France.",
    "A panda is a bear.",
    "The giant panda is a bear of China.",
    "The sun bear lives in trees.",
    "Nothing at all.",
)
BEST_FIRST = [2, 1, 3, 0, 4]
SCORES = [1.0, 2 / 3, 1 / 3, 0.0, 0.0]


class BM25Retriever(BaseRetriever):
    """A real retriever of a few lines; it takes `k` with the call."""

    documents: list[Document]
    k: int = 4

    def _get_relevant_documents(self, query, *, run_manager, k=None):
        index = bm25s.BM25()
        texts = [document.page_content for document in self.documents]
        index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
        tokens = bm25s.tokenize(query, show_progress=False)
        rows, _ = index.retrieve(tokens, k=k or self.k, show_progress=False)
        return [self.documents[position] for position in rows[0]]

    async def _aget_relevant_documents(self, query, *, run_manager, k=None):
        return self._get_relevant_documents(query, run_manager=run_manager, k=k)


class Gold(Document):
    """A subclass with a field of its own."""

    grade: int


class AsyncBackend(FakeBackend):
    """Answers on the event loop; its sync method must not be used."""

    def score(self, query, documents):
        raise AssertionError

    async def ascore(self, query, documents):
        self.thread = threading.current_thread()
        await asyncio.sleep(0)
        return FakeBackend.score(self, query, documents)


class WrittenBackend(FakeBackend):
    """Says that it is the embedded backend."""

    def to_spec(self):
        return {"kind": "embedded"}


class Answers(Backend):
    """Answers with the same list, right or wrong."""

    name = "answers"

    def __init__(self, scores, scale="unknown"):
        self.scores = scores
        self.scale = scale

    def score(self, query, documents):
        return self.scores


def documents():
    return [Document(text, id=f"d{n}", metadata={"n": n}) for n, text in enumerate(TEXTS)]


def request(**settings):
    return {"documents": documents(), "query": QUERY, **settings}


def order(ranked):
    return [document.metadata["n"] for document in ranked]


def everything(top_n=None, **settings):
    return RerankCompressor(backend=FakeBackend(), top_n=top_n, **settings)


def tree(run):
    """The names of a run and of the runs under it."""
    return {run.name: [tree(child) for child in run.child_runs]} if run.child_runs else run.name


def run_in_two_loops(make):
    return asyncio.run(make()), asyncio.run(make())
