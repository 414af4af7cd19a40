"""The public API as its users type it: checked by mypy, never run."""

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

from langchain_core.retrievers import BaseRetriever

from rerank_plugins import (
    Backend,
    Content,
    Document,
    Query,
    Ranking,
    RerankResult,
    Scale,
    Scores,
    arerank,
    load_backend,
    rank,
    rerank,
)
from rerank_plugins.evaluation import Evaluation, evaluate, from_retriever, load_dataset
from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import BackendContract, FailingBackend, FakeBackend
from rerank_plugins.wrappers.breaker import CircuitBreakingBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.retry import RetryingBackend


class Mine(Backend):
    """A minimal backend."""

    scale: Scale = "logit"

    @property
    def name(self) -> str:
        """Name the scores."""
        return "mine"

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        """Score nothing in particular."""
        return Scores([0.5 for _ in documents])


class TestMine(BackendContract):
    """How users test their backend."""

    def make_backend(self) -> Backend:
        """Build it."""
        return Mine()


def specs() -> list[Backend]:
    """Every form of a spec."""
    return [
        load_backend(),
        load_backend("local:BAAI/bge-reranker-v2-m3"),
        load_backend({"kind": "tei", "base_url": "http://gpu:8080", "timeout": 3}),
        load_backend("rerank.toml"),
        load_backend(Path("rerank.toml")),
        load_backend(Mine()),
    ]


async def scores(backend: Backend) -> None:
    """Everything a backend gives back."""
    documents: list[Document] = ["a", Content(text="b"), Content(image=b"")]
    scored = backend.score("q", documents)
    assert_type(scored, Scores)
    assert_type(await backend.ascore("q", ("a", "b")), Scores)
    assert_type(backend.score_many([("q", ["a"]), ("r", documents)]), list[Scores])
    assert_type(rank(scored, top_n=3, min_score=0.5), Ranking)
    assert_type(rank(scored)[0].index, int)
    assert_type(rank(scored)[0].score, float)
    texts = ["a", "b"]
    assert_type(rerank("q", texts, backend=backend, top_n=1), RerankResult[str])
    assert_type(rerank("q", texts)[0].document, str)
    assert_type([item.document for item in rerank("q", ("a", "b"))[:2]], list[str])
    assert_type((await arerank("q", [Content(text="b")])).documents, tuple[Content, ...])
    assert_type(rerank("q", documents)[0].document, Document)
    result: RerankResult = rerank("q", texts)
    assert_type(result[0].document, Document)


def adapters(backend: Backend, retriever: BaseRetriever) -> None:
    """Both frameworks take the same settings."""
    compressor = RerankCompressor(backend, top_n=5, min_score=0.2, on_error="original_order")
    RerankRetriever(retriever, backend=compressor.backend, top_n=5)
    RerankPostprocessor(backend="embedded", top_n=5, min_score=0.2, on_error="raise")


def wrapped(backend: Backend) -> Backend:
    """Wrappers are backends."""
    careful = CircuitBreakingBackend(RetryingBackend(backend, attempts=2, deadline=5), cooldown=3)
    fake = FakeBackend(lambda query, document: 1.0, scale="probability")
    return FallbackBackend([careful, fake, FailingBackend(ValueError())])


def evaluations() -> list[Evaluation]:
    """Every form of a dataset and of backends."""
    data = from_retriever(lambda query: [("id", query)], [("query", ["id"]), ("other", {"id": 2})])
    evaluation = evaluate(load_dataset("demo:covidqa"), {"mine": Mine(), "default": None}, depth=20)
    assert_type(evaluation.compared("mine", "BM25").p_value, float)
    assert_type(evaluation.backends[0].figures["MRR@10"].mean, float)
    return [
        evaluation,
        evaluate(data, ["embedded", Mine()], metrics=["nDCG@5"], scores=Path("scores")),
    ]
