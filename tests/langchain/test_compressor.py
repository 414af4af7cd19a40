"""The compressor: order, limits, copies, input, and backends that fail."""

import asyncio
import copy
import json
import math
from decimal import Decimal

import numpy as np
import pytest
from langchain_core.documents import Document

from rerank_plugins import (
    BackendOverloaded,
    InvalidResponse,
    UnsupportedInputError,
)
from rerank_plugins.langchain import RerankCompressor
from rerank_plugins.testing import FailingBackend, FakeBackend
from tests.langchain.retrieval import (
    BEST_FIRST,
    QUERY,
    SCORES,
    Answers,
    Gold,
    documents,
    everything,
    order,
    request,
)


def test_best_documents_come_first():
    ranked = everything().compress_documents(documents(), QUERY)

    assert BEST_FIRST == order(ranked)
    assert SCORES == [document.metadata["relevance_score"] for document in ranked]
    assert [3, 2, 4, 1, 5] == [document.metadata["retriever_rank"] for document in ranked]
    assert all(type(document.metadata["relevance_score"]) is float for document in ranked)


def test_equal_scores_keep_their_order():
    compressor = RerankCompressor(backend=FakeBackend(lambda q, d: 0.5), top_n=None)

    assert [0, 1, 2, 3, 4] == order(compressor.compress_documents(documents(), QUERY))


@pytest.mark.parametrize(("top_n", "count"), [(None, 5), (0, 0), (1, 1), (5, 5), (99, 5)])
def test_top_n_limits_the_documents(top_n, count):
    assert BEST_FIRST[:count] == order(everything(top_n).compress_documents(documents(), QUERY))


def test_three_documents_are_kept_by_default():
    assert BEST_FIRST[:3] == order(RerankCompressor(FakeBackend()).invoke(request()))


def test_min_score_drops_documents_below_it():
    assert BEST_FIRST[:2] == order(everything(min_score=0.5).compress_documents(documents(), QUERY))


def test_min_score_applies_to_logits():
    compressor = RerankCompressor(Answers([3.0, -1.0, 0.5], "logit"), min_score=0)

    assert [0, 2] == order(compressor.compress_documents(documents()[:3], QUERY))


def test_id_subclass_and_metadata_survive():
    gold = Gold(page_content=QUERY, id="g", metadata={"source": "s", "score": 7}, grade=4)
    (ranked,) = everything().compress_documents([gold], QUERY)

    assert Gold is type(ranked)
    assert ("g", 4, QUERY) == (ranked.id, ranked.grade, ranked.page_content)
    assert {"source": "s", "score": 7, "relevance_score": 1.0, "retriever_rank": 1} == (
        ranked.metadata
    )


def test_the_callers_documents_do_not_change():
    originals = documents()
    before = copy.deepcopy(originals)
    ranked = everything().compress_documents(originals, QUERY)
    for document in ranked:
        document.metadata["mine"] = True

    assert before == originals
    assert not {id(document) for document in ranked} & {id(document) for document in originals}


def test_new_score_wins_over_a_stale_one():
    stale = Document(QUERY, metadata={"relevance_score": 0.01})
    (ranked,) = everything().compress_documents([stale], QUERY)

    assert 1.0 == ranked.metadata["relevance_score"]
    assert 0.01 == ranked.metadata["retriever_score"]


@pytest.mark.parametrize("score", [np.float32(0.5), np.float64(0.5), np.array(0.5), Decimal("0.5")])
def test_a_retrievers_score_of_another_library_becomes_json(score):
    document = Document(QUERY, metadata={"relevance_score": score})
    (ranked,) = everything().compress_documents([document], QUERY)

    assert "0.5" == json.dumps(ranked.metadata["retriever_score"])


@pytest.mark.parametrize("score", [np.float32(0.5), np.float16(0.5), np.array(0.5)])
def test_a_score_that_the_retriever_wrote_under_our_key_becomes_json(score):
    document = Document(QUERY, metadata={"retriever_score": score, "page": 7})
    (ranked,) = everything().compress_documents([document], QUERY)

    expected = {"retriever_score": 0.5, "page": 7, "retriever_rank": 1, "relevance_score": 1.0}
    assert expected == json.loads(json.dumps(ranked.metadata))
    assert score is document.metadata["retriever_score"]


@pytest.mark.parametrize("score", ["high", [0.1, 0.2], np.array([0.1, 0.2]), True])
def test_a_retrievers_score_that_is_no_number_stays(score):
    document = Document(QUERY, metadata={"relevance_score": score})
    (ranked,) = everything().compress_documents([document], QUERY)

    assert score is ranked.metadata["retriever_score"]


def test_a_second_reranker_keeps_the_retrievers_rank():
    originals = documents()
    for document in originals:
        document.metadata["relevance_score"] = 10.0 - document.metadata["n"]
    backwards = RerankCompressor(Answers([0.0, 1.0, 2.0, 3.0, 4.0]), top_n=None)
    once = everything().compress_documents(originals, QUERY)
    twice = backwards.compress_documents(once, QUERY)

    assert BEST_FIRST[::-1] == order(twice)
    for document in twice:
        n = document.metadata["n"]
        assert n + 1 == document.metadata["retriever_rank"]
        assert 10.0 - n == document.metadata["retriever_score"]


def test_results_can_be_written_as_json():
    ranked = everything().compress_documents(documents(), QUERY)

    assert json.loads(json.dumps([document.metadata for document in ranked]))


@pytest.mark.parametrize("empty", [[], ()])
def test_no_documents_give_none_without_work(empty):
    backend = FakeBackend()
    compressor = RerankCompressor(backend)

    assert [] == compressor.compress_documents(empty, QUERY)
    assert [] == asyncio.run(compressor.acompress_documents(empty, ""))
    assert [] == backend.calls


BAD_INPUT = {
    "blank query": (documents(), " \n", "white space"),
    "bytes for documents": (b"text", QUERY, "not `bytes`"),
    "dictionary": ([{"page_content": "x"}], QUERY, "document 0 must be"),
    "lone surrogate in the query": (documents(), "\ud800", "lone surrogate"),
    "none among documents": ([*documents(), None], QUERY, "document 5 must be .*NoneType"),
    "none for documents": (None, QUERY, "not `NoneType`"),
    "none query": (documents(), None, "the query must be a string"),
    "number": (documents(), 3, "the query must be a string"),
    "one document": (documents()[0], QUERY, "must be a list"),
    "one string": ("text", QUERY, "not `str`"),
    "strings": (["text"], QUERY, "document 0 must be a LangChain `Document`, not `str`"),
    "text missing": (
        [Document.model_construct(page_content=None, metadata={})],
        QUERY,
        "0 must be",
    ),
    "lone surrogate": (
        [Document.model_construct(page_content="\udfff", metadata={})],
        QUERY,
        "lone surrogate",
    ),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_refused(kind):
    value, query, message = BAD_INPUT[kind]
    compressor = everything()

    with pytest.raises(UnsupportedInputError, match=message):
        compressor.compress_documents(value, query)
    with pytest.raises(UnsupportedInputError, match=message):
        asyncio.run(compressor.acompress_documents(value, query))
    with pytest.raises(UnsupportedInputError, match=message):
        compressor.invoke({"documents": value, "query": query})


def test_unusual_text_is_scored():
    odd = ["", " ", "nul \x00", "大熊猫", "الباندا", "panda " * 175_000, "giant"]
    ranked = everything().compress_documents([Document(text) for text in odd], QUERY)

    assert len(odd) == len(ranked)
    assert {"panda " * 175_000, "giant"} == {document.page_content for document in ranked[:2]}


def test_ten_thousand_documents_are_scored():
    ranked = everything(5).compress_documents(documents() * 2_000, QUERY)

    assert [2] * 5 == order(ranked)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (documents(), r"must be a mapping \{.*not `list`"),
        (QUERY, "not `str`"),
        ({"documents": []}, "lacks `query`"),
        ({"query": QUERY}, "lacks `documents`"),
        (
            {"documents": [], "question": "q"},
            r"has `question`; pass .*'query': state\['question'\]",
        ),
        ({"documents": [], "input": "q"}, r"has `input`; pass .*'query': state\['input'\]"),
        ({"query": QUERY, "context": []}, r"has `context`; .*'documents': state\['context'\]"),
        ({"query": QUERY, "docs": []}, r"has `docs`; pass {'documents': state\['docs'\]"),
    ],
)
def test_input_of_a_wrong_shape_is_refused(value, message):
    with pytest.raises(UnsupportedInputError, match=message):
        everything().invoke(value)


@pytest.mark.parametrize(
    "scores", [[1.0], [1.0] * 6, [1.0, math.nan, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, math.inf], []]
)
def test_invalid_scores_are_errors(scores):
    """Not fewer documents, not a random order."""
    compressor = RerankCompressor(Answers(scores))

    with pytest.raises(InvalidResponse):
        compressor.compress_documents(documents(), QUERY)
    with pytest.raises(InvalidResponse):
        asyncio.run(compressor.acompress_documents(documents(), QUERY))


def test_outage_is_an_error():
    """A reranker that is down is not the same as nothing found."""
    compressor = RerankCompressor(FailingBackend(BackendOverloaded("busy", retry_after=2.0)))

    with pytest.raises(BackendOverloaded) as caught:
        compressor.compress_documents(documents(), QUERY)
    assert 2.0 == caught.value.retry_after
    with pytest.raises(BackendOverloaded):
        asyncio.run(compressor.acompress_documents(documents(), QUERY))


def test_numpy_scores_become_floats():
    numpy = pytest.importorskip("numpy")
    compressor = RerankCompressor(Answers(numpy.array([0.5, 0.25], dtype=numpy.float32)))
    ranked = compressor.compress_documents(documents()[:2], QUERY)

    assert [float, float] == [type(document.metadata["relevance_score"]) for document in ranked]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"query": "q", "retrieved": [Document("a")]},
            r"has `retrieved`; pass .*state\['retrieved'\]",
        ),
        ({"query": "q", "top": (Document("a"),), "chat_history": []}, "has `top`; pass"),
        ({"query": "q", "chat_history": ["a"]}, "lacks `documents`; pass"),
        ({"query": "q", "documents": ["a"]}, r"not `str`; pass Document\(page_content=text\)"),
        ({"query": "q", "documents": [(Document("a"), 0.5)]}, "pass .document for document, _ in"),
    ],
)
def test_documents_in_other_places_and_forms_are_answered(state, message):
    with pytest.raises(UnsupportedInputError, match=message):
        RerankCompressor(backend="embedded").invoke(state)
