"""The passage that answers: in the metadata, and in place of its document."""

import json

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumpd

from rerank_plugins import ConfigError
from rerank_plugins.langchain import RerankCompressor
from rerank_plugins.testing import FakeBackend
from tests.support.passages import ANSWER, LONG, PassageBackend

START = LONG.index(ANSWER)
SPAN = [START, START + len(ANSWER)]


def test_the_passage_is_told_and_the_document_stays_whole():
    given = [Document(page_content="short", id="a"), Document(page_content=LONG, id="b")]

    best, other = RerankCompressor(PassageBackend()).compress_documents(given, "panda")

    assert SPAN == best.metadata["rerank_passage"]
    assert LONG == best.page_content
    assert "rerank_passage" not in other.metadata
    assert json.loads(json.dumps(best.metadata)) == best.metadata


def test_the_passage_takes_the_documents_place_and_points_into_it():
    given = [Document(page_content="short"), Document(page_content=LONG, id="b")]

    kept = RerankCompressor(PassageBackend(), keep="passage").compress_documents(given, "panda")

    assert [ANSWER, "short"] == [document.page_content for document in kept]
    start, end = kept[0].metadata["rerank_passage"]
    assert ANSWER == LONG[start:end]
    assert (LONG, {}) == (given[1].page_content, given[1].metadata)
    assert "b" == kept[0].id


def test_a_second_reranker_still_points_into_the_whole():
    compressor = RerankCompressor(PassageBackend(), keep="passage")
    once = compressor.compress_documents([Document(page_content="xx " + LONG)], "panda")

    twice = RerankCompressor(FakeBackend()).compress_documents(once, "panda")
    again = compressor.compress_documents(twice, "panda")

    assert [START + 3, START + 3 + len(ANSWER)] == twice[0].metadata["rerank_passage"]
    assert twice[0].metadata["rerank_passage"] == again[0].metadata["rerank_passage"]


def test_a_tokens_budget_counts_what_is_kept():
    given = [Document(page_content=LONG)] * 2
    settings = {"max_tokens": 2 * len(ANSWER), "count_tokens": len}

    whole = RerankCompressor(PassageBackend(), **settings)
    passages = RerankCompressor(PassageBackend(), keep="passage", **settings)

    assert 0 == len(whole.compress_documents(given, "panda"))
    assert 2 == len(passages.compress_documents(given, "panda"))


def test_the_setting_is_checked_and_written_down():
    with pytest.raises(ConfigError, match="unknown `keep`"):
        RerankCompressor("embedded", keep="sentence")
    assert "passage" == dumpd(RerankCompressor("embedded", keep="passage"))["kwargs"]["keep"]


def test_fields_that_are_scored_too_shift_nothing():
    given = [Document(page_content=LONG, metadata={"title": "Pandas"})]
    compressor = RerankCompressor(
        PassageBackend(), keep="passage", rank_fields=["title", "page_content"]
    )

    (kept,) = compressor.compress_documents(given, "panda")

    assert SPAN == kept.metadata["rerank_passage"]
    assert ANSWER == kept.page_content
