"""What both adapters do when a backend fails or a fallback answers."""

import asyncio
import copy
import logging
import pickle
import warnings

import pytest

pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")

from langchain_core.documents import Document
from langchain_core.load import dumps, loads
from langchain_core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
    MissingDependencyError,
    Scores,
    UnsupportedInputError,
    _adapter,
)
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FailingBackend, FakeBackend
from rerank_plugins.wrappers.fallback import FallbackBackend

QUERY = "panda"
TEXTS = ["a cat", "a panda", "a dog"]
DOWN = BackendUnavailable("down")


def probable(error):
    backend = FailingBackend(error)
    backend.scale = "probability"
    return backend


def compress(call, **settings):
    """Return (text, score, metadata) of what the LangChain adapter keeps."""
    compressor = RerankCompressor(**settings)
    documents = [Document(page_content=text, metadata={"source": "here"}) for text in TEXTS]
    if call == "sync":
        ranked = compressor.compress_documents(documents, QUERY)
    else:
        ranked = asyncio.run(compressor.acompress_documents(documents, QUERY))
    return [(d.page_content, d.metadata.get("relevance_score"), d.metadata) for d in ranked]


def postprocess(call, **settings):
    """Return the same of the LlamaIndex adapter."""
    postprocessor = RerankPostprocessor(**settings)
    nodes = [
        NodeWithScore(node=TextNode(text=text, metadata={"source": "here"}), score=0.5)
        for text in TEXTS
    ]
    if call == "sync":
        ranked = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    else:
        ranked = asyncio.run(postprocessor.apostprocess_nodes(nodes, query_str=QUERY))
    return [(n.node.text, n.score, n.node.metadata) for n in ranked]


@pytest.fixture(params=["sync", "async"])
def call(request):
    return request.param


@pytest.fixture(params=[compress, postprocess], ids=["langchain", "llama_index"])
def adapter(request):
    return request.param


FAILURES = [
    BackendError("out of memory"),
    BackendOverloaded("busy", retry_after=3.0),
    BackendTimeout("slow"),
    DOWN,
    InvalidResponse("nonsense"),
]
NEVER_HIDDEN = [
    AuthenticationError("key"),
    BackendRejected("too long"),
    ConfigError("c"),
    KeyError("bug"),
    KeyboardInterrupt(),
    MissingDependencyError("extra"),
    UnsupportedInputError("u"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_failures_are_raised_by_default(adapter, call, error):
    with pytest.raises(type(error)) as caught:
        adapter(call, backend=FailingBackend(error))

    assert error is caught.value


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_the_original_order_has_no_scores(adapter, call, error):
    """And no `min_score` cuts what has no score."""
    ranked = adapter(
        call, backend=probable(error), top_n=2, min_score=0.9, on_error="original_order"
    )

    assert [("a cat", None), ("a panda", None)] == [(text, score) for text, score, _ in ranked]
    assert {f"fallback:{type(error).__name__}"} == {m["rerank_status"] for *_, m in ranked}
    assert [1, 2] == [metadata["retriever_rank"] for *_, metadata in ranked]
    assert {"here"} == {metadata["source"] for *_, metadata in ranked}


@pytest.mark.parametrize("error", NEVER_HIDDEN, ids=lambda error: type(error).__name__)
def test_errors_that_the_caller_must_fix_are_never_hidden(adapter, error):
    with pytest.raises(type(error)) as caught:
        adapter("sync", backend=FailingBackend(error), on_error="original_order")

    assert error is caught.value


@pytest.mark.parametrize("scores", [[0.5], [0.1, 0.2, float("nan")], None])
def test_invalid_scores_are_a_failure(adapter, call, scores):
    class Lying(FakeBackend):
        def score(self, query, documents):
            return scores

    ranked = adapter(call, backend=Lying(), on_error="original_order")

    assert TEXTS == [text for text, *_ in ranked]
    assert "fallback:InvalidResponse" == ranked[0][2]["rerank_status"]


@pytest.mark.parametrize("make", [RerankCompressor, RerankPostprocessor])
def test_cancellation_is_never_hidden(make):
    class Hanging(FakeBackend):
        async def ascore(self, query, documents):
            await asyncio.sleep(60)

    reranker = make(backend=Hanging(), on_error="original_order")

    async def cancel():
        if make is RerankCompressor:
            call = reranker.acompress_documents([Document(page_content="a")], QUERY)
        else:
            nodes = [NodeWithScore(node=TextNode(text="a"))]
            call = reranker.apostprocess_nodes(nodes, query_str=QUERY)
        task = asyncio.create_task(call)
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())


def test_the_status_names_the_backend_of_a_chain_that_scored(adapter, call):
    chain = FallbackBackend([probable(DOWN), FakeBackend(name="second")])
    ranked = adapter(call, backend=chain, min_score=0.5)

    assert [("a panda", 1.0)] == [(text, score) for text, score, _ in ranked]
    assert "scored:second" == ranked[0][2]["rerank_status"]


def test_a_failed_chain_keeps_the_original_order(adapter, call):
    chain = FallbackBackend([probable(DOWN), probable(BackendTimeout("slow"))])
    ranked = adapter(call, backend=chain, on_error="original_order")

    assert TEXTS == [text for text, *_ in ranked]
    assert "fallback:BackendTimeout" == ranked[0][2]["rerank_status"]


def test_without_a_choice_there_is_no_status(adapter, call):
    ranked = adapter(call, backend=FakeBackend(), on_error="original_order")

    assert ["a panda", "a cat", "a dog"] == [text for text, *_ in ranked]
    assert not [metadata for *_, metadata in ranked if "rerank_status" in metadata]


class Cutting(FakeBackend):
    """Reads a part of the second document only."""

    def score(self, query, documents):
        return Scores(super().score(query, documents), truncated=[1])


def test_truncated_documents_are_marked_in_the_metadata(adapter, call):
    ranked = adapter(call, backend=Cutting())

    assert {"a panda": True} == {
        text: metadata["rerank_truncated"]
        for text, _, metadata in ranked
        if "rerank_truncated" in metadata
    }


def test_the_truncation_by_an_earlier_reranker_is_not_reported_again():
    first = RerankCompressor(Cutting()).compress_documents(
        [Document(page_content=text) for text in TEXTS], QUERY
    )
    second = RerankCompressor(FakeBackend()).compress_documents(first, QUERY)

    assert "rerank_truncated" in first[0].metadata
    assert not [document for document in second if "rerank_truncated" in document.metadata]


def test_the_status_is_that_of_the_last_reranker():
    chain = RerankCompressor(FallbackBackend([FakeBackend(name="chain"), FakeBackend()]))
    failing = RerankCompressor(FailingBackend(DOWN), on_error="original_order")
    plain = RerankCompressor(FakeBackend())
    first = chain.compress_documents([Document(page_content="panda")], QUERY)
    second = failing.compress_documents(first, QUERY)
    (third,) = plain.compress_documents(second, QUERY)

    assert "scored:chain" == first[0].metadata["rerank_status"]
    assert "fallback:BackendUnavailable" == second[0].metadata["rerank_status"]
    assert "relevance_score" not in second[0].metadata
    assert {"relevance_score": 1.0, "retriever_rank": 1} == third.metadata


def test_prompts_and_embeddings_do_not_show_the_status():
    reranker = RerankPostprocessor(backend=FailingBackend(DOWN), on_error="original_order")
    (ranked,) = reranker.postprocess_nodes(
        [NodeWithScore(node=TextNode(text="a"))], query_str=QUERY
    )

    assert "rerank_status" in ranked.node.metadata
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert "a" == ranked.node.get_content(metadata_mode=mode)


def test_the_callers_documents_do_not_change(adapter):
    node = NodeWithScore(node=TextNode(text="a", metadata={}), score=0.5)
    document = Document(page_content="a", metadata={"relevance_score": 0.5})
    settings = {"backend": FailingBackend(DOWN), "on_error": "original_order"}
    RerankPostprocessor(**settings).postprocess_nodes([node], query_str=QUERY)
    RerankCompressor(**settings).compress_documents([document], QUERY)

    assert (0.5, {}) == (node.score, node.node.metadata)
    assert {"relevance_score": 0.5} == document.metadata


def test_an_outage_is_one_line_in_the_log(adapter, caplog, monkeypatch):
    """Without a word of the query or a document."""
    monkeypatch.setattr(_adapter, "_may_warn", Throttle())
    with caplog.at_level(logging.WARNING, logger="rerank_plugins"):
        for _ in range(9):
            adapter("sync", backend=FailingBackend(DOWN), on_error="original_order")

    assert ["reranking failed, documents keep their order: down"] == caplog.messages


def test_an_outage_is_logged_again_after_a_while(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("rerank_plugins._internal.throttle.monotonic", lambda: now[0])
    may = Throttle(60.0)
    first = [may(), may()]
    now[0] += 60.0

    assert [True, False, True] == [*first, may()]


@pytest.mark.parametrize("make", [RerankCompressor, RerankPostprocessor])
def test_other_values_of_on_error_are_refused(make):
    with pytest.raises(ConfigError, match="'ignore'; valid: raise, original_order"):
        make(backend=FakeBackend(), on_error="ignore")


class Found(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(page_content=text) for text in TEXTS]


def test_the_retriever_keeps_the_order_too():
    retriever = RerankRetriever(
        Found(), backend=FailingBackend(DOWN), top_n=2, on_error="original_order"
    )

    assert TEXTS[:2] == [document.page_content for document in retriever.invoke(QUERY)]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("make", [RerankCompressor, RerankPostprocessor])
def test_copies_keep_the_setting(make, copied):
    assert "original_order" == copied(make(backend="embedded", on_error="original_order")).on_error


def test_serialised_adapters_keep_the_setting():
    compressor = RerankCompressor("embedded", on_error="original_order")
    postprocessor = RerankPostprocessor(backend="embedded", on_error="original_order")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `loads` is marked as beta
        read = loads(
            dumps(compressor),
            allowed_objects=[RerankCompressor],
            valid_namespaces=["rerank_plugins"],
        )

    assert "original_order" == read.on_error
    assert "original_order" == RerankPostprocessor.from_dict(postprocessor.to_dict()).on_error
