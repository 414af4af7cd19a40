"""What the model should judge: set once, for one call, or in the query."""

import asyncio

import pytest

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.testing import FakeBackend
from tests.langchain.retrieval import BEST_FIRST, QUERY, BM25Retriever, documents, order, request
from tests.support.instructed import InstructedBackend, asked


@pytest.fixture
def backend():
    return InstructedBackend()


def compressor(backend, **settings):
    return RerankCompressor(backend, top_n=None, **settings)


def test_the_setting_reaches_the_model(backend):
    reranker = compressor(backend, instruction="find bears")

    assert BEST_FIRST == order(reranker.compress_documents(documents(), QUERY))
    assert BEST_FIRST == order(asyncio.run(reranker.acompress_documents(documents(), QUERY)))
    assert ["find bears"] * 2 == backend.given


def test_a_call_may_have_its_own(backend):
    reranker = compressor(backend, instruction="find bears")
    reranker.invoke(request(), instruction="find trees")
    reranker.invoke(request(), instruction=None)
    reranker.bind(instruction="find towns").invoke(request())

    assert ["find trees", None, "find towns"] == backend.given


def test_that_of_the_query_comes_first(backend):
    reranker = compressor(backend, instruction="find bears")
    reranker.invoke({"documents": documents(), "query": asked(QUERY, "find cities")})

    assert ["find cities"] == backend.given


def test_one_in_the_state_of_a_chain_is_not_ours(backend):
    compressor(backend).invoke({**request(), "instruction": "answer politely"})

    assert [None] == backend.given


def test_a_retriever_passes_it_on(backend):
    retriever = RerankRetriever(
        BM25Retriever(documents=documents()), backend=backend, instruction="find bears"
    )
    retriever.invoke(QUERY)
    retriever.invoke(QUERY, instruction="find trees")
    asyncio.run(retriever.ainvoke(QUERY, instruction="find towns"))

    assert ["find bears", "find trees", "find towns"] == backend.given


def test_it_survives_being_written_down():
    reranker = RerankCompressor("vllm+http://gpu:8000?model=m", instruction="find bears")

    assert "find bears" == RerankCompressor.model_validate(reranker.model_dump()).instruction


@pytest.mark.parametrize("wrong", ["", "  ", 3])
def test_a_blank_one_is_refused(backend, wrong):
    with pytest.raises(ConfigError, match="`instruction` must be a string that is not blank"):
        compressor(backend, instruction=wrong)


@pytest.mark.parametrize(
    ("backend", "label"),
    [(FakeBackend(), "fake"), ("tei+http://gpu:8080", "tei"), ("cohere:m", "cohere:m")],
)
def test_a_backend_that_can_not_send_one_refuses_by_name(backend, label):
    with pytest.raises(ConfigError, match=f"backend '{label}' can't tell its model"):
        RerankCompressor(backend, instruction="find bears")
    reranker = RerankCompressor(load_backend(backend))
    with pytest.raises(ConfigError, match=f"backend '{label}' can't tell its model"):
        reranker.invoke(request(), instruction="find bears")
