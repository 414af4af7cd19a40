"""The compressor in LangChain's retrievers, and our own retriever."""

import asyncio

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import (
    ConfigurableField,
    RunnableLambda,
)
from langchain_core.tracers.context import collect_runs
from langchain_core.vectorstores import InMemoryVectorStore

from rerank_plugins import (
    BackendOverloaded,
    ConfigError,
)
from rerank_plugins.langchain import RerankRetriever
from rerank_plugins.testing import FailingBackend, FakeBackend
from tests.langchain.retrieval import (
    BEST_FIRST,
    QUERY,
    BM25Retriever,
    documents,
    everything,
    order,
    run_in_two_loops,
    tree,
)


def wrapped(compressor):
    return ContextualCompressionRetriever(
        base_compressor=compressor,
        base_retriever=BM25Retriever(documents=documents()),
    )


def test_contextual_compression_retriever_takes_the_compressor():
    retriever = wrapped(everything(2))

    assert [2, 1] == order(retriever.invoke(QUERY))
    assert [2, 1] == order(asyncio.run(retriever.ainvoke(QUERY)))


def test_contextual_compression_retriever_shows_the_reranking():
    with collect_runs() as runs:
        wrapped(everything(2)).invoke(QUERY)
        asyncio.run(wrapped(everything(2)).ainvoke(QUERY))

    expected = {"ContextualCompressionRetriever": ["BM25Retriever", "RerankCompressor"]}
    assert [expected, expected] == [tree(run) for run in runs.traced_runs]


def test_pipelines_take_the_compressor():
    pipeline = DocumentCompressorPipeline(transformers=[everything(4), everything(2)])

    with collect_runs() as runs:
        assert [2, 1] == order(wrapped(pipeline).invoke(QUERY))
        assert [2, 1] == order(asyncio.run(wrapped(pipeline).ainvoke(QUERY)))
    for run in runs.traced_runs:
        assert ["BM25Retriever", "RerankCompressor", "RerankCompressor"] == [
            child.name for child in run.child_runs
        ]
    assert [] == pipeline.compress_documents([], QUERY)


def test_retriever_reranks_what_it_finds():
    retriever = RerankRetriever(
        BM25Retriever(documents=documents()), backend=FakeBackend(), top_n=2
    )
    ranked = retriever.invoke(QUERY)

    assert [2, 1] == order(ranked)
    assert [1.0, 2 / 3] == [document.metadata["relevance_score"] for document in ranked]
    assert [2, 1] == order(asyncio.run(retriever.ainvoke(QUERY)))
    assert [[2, 1], [0, 3]] == [order(one) for one in retriever.batch([QUERY, "capital of trees"])]


def test_retriever_over_a_vector_store():
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(documents())
    retriever = RerankRetriever(
        store.as_retriever(search_kwargs={"k": 5}), backend=FakeBackend(), top_n=3
    )
    ranked = retriever.invoke(QUERY)

    assert BEST_FIRST[:3] == order(ranked)
    assert ["d2", "d1", "d3"] == [document.id for document in ranked]
    assert "relevance_score" not in store.get_by_ids(["d2"])[0].metadata
    assert (BEST_FIRST[:3], BEST_FIRST[:3]) == tuple(
        order(one) for one in run_in_two_loops(lambda: retriever.ainvoke(QUERY))
    )


def test_retriever_takes_settings_with_the_call():
    retriever = RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend())

    assert [2] == order(retriever.invoke(QUERY, top_n=1))
    assert 4 == len(retriever.invoke(QUERY, top_n=None))
    assert [2, 1] == order(retriever.invoke(QUERY, min_score=0.5))
    assert [2] == order(asyncio.run(retriever.ainvoke(QUERY, top_n=1)))
    assert 3 == len(retriever.invoke(QUERY))
    with pytest.raises(ConfigError, match="top_n"):
        retriever.invoke(QUERY, top_n=-1)


def test_other_keywords_reach_the_inner_retriever():
    retriever = RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend())

    assert 2 == len(retriever.invoke(QUERY, k=2))
    assert 5 == len(asyncio.run(retriever.ainvoke(QUERY, k=5, top_n=None)))


@pytest.mark.parametrize(
    ("name", "answer"), [("top_k", "called `top_n`"), ("score_threshold", "called `min_score`")]
)
def test_misnamed_settings_of_a_call_do_not_reach_the_inner_retriever(name, answer):
    retriever = RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend())

    with pytest.raises(ConfigError, match=answer):
        retriever.invoke(QUERY, **{name: 1})
    with pytest.raises(ConfigError, match=answer):
        asyncio.run(retriever.ainvoke(QUERY, **{name: 1}))


def test_retriever_is_configurable():
    retriever = RerankRetriever(
        BM25Retriever(documents=documents()), backend=FakeBackend(), tags=["t"], metadata={"m": 1}
    ).configurable_fields(top_n=ConfigurableField(id="top_n"))

    with collect_runs() as runs:
        assert [2] == order(retriever.invoke(QUERY, {"configurable": {"top_n": 1}}))
    assert ["t"] == runs.traced_runs[0].tags
    assert 1 == runs.traced_runs[0].metadata["m"]


def test_retriever_shows_both_steps():
    retriever = RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend())

    with collect_runs() as runs:
        retriever.invoke(QUERY)
        asyncio.run(retriever.ainvoke(QUERY))

    expected = {"RerankRetriever": ["BM25Retriever", "RerankCompressor"]}
    assert [expected, expected] == [tree(run) for run in runs.traced_runs]


def test_retriever_does_not_hide_an_outage():
    retriever = RerankRetriever(
        BM25Retriever(documents=documents()), backend=FailingBackend(BackendOverloaded("busy"))
    )

    with collect_runs() as runs, pytest.raises(BackendOverloaded):
        retriever.invoke(QUERY)
    with pytest.raises(BackendOverloaded):
        asyncio.run(retriever.ainvoke(QUERY))
    assert [None, True] == [
        run.error and "busy" in run.error for run in runs.traced_runs[0].child_runs
    ]


def test_retriever_that_finds_nothing_returns_nothing():
    retriever = RerankRetriever(RunnableLambda(lambda query: []), backend=FakeBackend())

    assert [] == retriever.invoke(QUERY)
    assert [] == asyncio.run(retriever.ainvoke(QUERY))


def test_embedded_backend_reranks():
    retriever = RerankRetriever(
        BM25Retriever(documents=documents()), backend="embedded", top_n=2, min_score=0.0
    )

    ranked = retriever.invoke("Which city is the seat of the French government?", k=5)
    assert 0 == order(ranked)[0]
    assert order(ranked) == order(
        asyncio.run(retriever.ainvoke("Which city is the seat of the French government?", k=5))
    )
