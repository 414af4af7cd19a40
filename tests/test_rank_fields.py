"""Which metadata are scored: by names and templates in LangChain, by a mode in LlamaIndex."""

import asyncio

import pytest

pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")

from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.runnables import RunnableLambda
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from rerank_plugins import ConfigError, UnsupportedInputError
from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FakeBackend

DOCUMENTS = [
    Document("black and white", metadata={"title": "panda", "year": 2024, "text": "stale"}),
    Document("a panda", metadata={"title": None, "draft": True}),
]


def compress(backend, **settings):
    compressor = RerankCompressor(backend, **settings)
    request = {"documents": DOCUMENTS, "query": "panda"}
    assert compressor.invoke(request) == asyncio.run(compressor.ainvoke(request))
    return compressor.invoke(request)


def retrieve(backend, **settings):
    found = RunnableLambda(lambda _: DOCUMENTS)
    return RerankRetriever(found, backend=backend, **settings).invoke("panda")


@pytest.mark.parametrize("call", [compress, retrieve])
@pytest.mark.parametrize(
    ("rank_fields", "texts"),
    [
        (None, ["black and white", "a panda"]),
        (["text"], ["black and white", "a panda"]),
        (["title", "page_content"], ["panda\nblack and white", "a panda"]),
        (("year", "title", "text"), ["2024\npanda\nblack and white", "a panda"]),
        ("{title}: {text}", ["panda: black and white", ": a panda"]),
        ("{{{year}}} {text}{text}", ["{2024} black and whiteblack and white", "{} a pandaa panda"]),
    ],
)
def test_langchain_scores_the_named_fields(call, rank_fields, texts):
    backend = FakeBackend()
    kept = call(backend, rank_fields=rank_fields)

    assert {("panda", tuple(texts))} == {(query, tuple(d)) for query, d in backend.calls}
    assert {d.page_content for d in DOCUMENTS} == {d.page_content for d in kept}


@pytest.mark.parametrize("rank_fields", [["year"], "{year}", ["draft"], "{text} {draft}"])
def test_a_document_without_text_in_them_is_refused(rank_fields):
    with pytest.raises(UnsupportedInputError, match=r"document \d: each document must hold"):
        compress(FakeBackend(), rank_fields=rank_fields)


@pytest.mark.parametrize(
    ("rank_fields", "message"),
    [
        ([], "each of them once"),
        (["text", "text"], "each of them once"),
        ([""], "must be a list of names"),
        ([3], "must be a list of names"),
        (3, "must be a list of names"),
        ("title", "names no field; write a list"),
        ("{title", "is no template"),
        ("{}", "is no plain name"),
        ("{0}", "is no plain name"),
        ("{text.upper}", "is no plain name"),
        ("{text[0]}", "is no plain name"),
        ("{text!r}", "is no plain name"),
        ("{text:>10}", "is no plain name"),
    ],
)
def test_wrong_fields_are_refused(rank_fields, message):
    for call in (compress, retrieve):
        with pytest.raises(ConfigError, match=message):
            call(FakeBackend(), rank_fields=rank_fields)


@pytest.mark.parametrize("rank_fields", [["title", "text"], "{title}: {text}"])
def test_fields_are_written_down(rank_fields):
    compressor = RerankCompressor("embedded", rank_fields=rank_fields)

    assert rank_fields == dumpd(compressor)["kwargs"]["rank_fields"]


NODE = TextNode(
    text="a bear",
    metadata={"title": "panda", "secret": "x", "noise": "y"},
    excluded_embed_metadata_keys=["secret"],
    excluded_llm_metadata_keys=["noise"],
)


@pytest.mark.parametrize("mode", [*MetadataMode, *(mode.value for mode in MetadataMode)])
def test_llama_index_scores_the_metadata_of_a_mode(mode):
    backend = FakeBackend()
    postprocessor = RerankPostprocessor(backend=backend, metadata_mode=mode)
    postprocessor.postprocess_nodes([NodeWithScore(node=NODE)], query_str="panda")

    assert [NODE.get_content(metadata_mode=MetadataMode(mode))] == [*backend.calls[0][1]]


def test_the_mode_is_written_down_and_checked():
    dumped = RerankPostprocessor("embedded", metadata_mode="none").to_dict()

    assert "none" == dumped["metadata_mode"]
    assert MetadataMode.NONE is RerankPostprocessor.from_dict(dumped).metadata_mode
    with pytest.raises(ConfigError, match="unknown `metadata_mode` 'full'; valid: all, embed"):
        RerankPostprocessor("embedded", metadata_mode="full")
