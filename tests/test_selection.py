"""How many documents both adapters, `rerank()` and the command line keep, and what they say."""

import asyncio
import json
import logging

import pytest

pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")

from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.runnables import RunnableLambda
from llama_index.core.schema import (
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    TextNode,
)
from typer.testing import CliRunner

from rerank_plugins import (
    BackendUnavailable,
    ConfigError,
    RerankResult,
    Scores,
    UnsupportedInputError,
    _adapter,
    rerank,
)
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.cli import app
from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FailingBackend, FakeBackend
from tests.llama_index.nodes import ScoresBackend

QUERY = "what is a panda"
TEXTS = ["a panda", "what is a panda", "nothing at all", "what is a panda"]
# Share of the query's words: 2/4, 4/4, 0, 4/4.


def words(text):
    return len(text.split())


def compress(**settings):
    documents = [Document(page_content=text) for text in TEXTS]
    request = {"documents": documents, "query": QUERY}
    ranked = RerankCompressor(**settings).invoke(request)
    return [(document.page_content, document.metadata) for document in ranked]


def compress_per_call(**settings):
    backend = settings.pop("backend")
    request = {"documents": [Document(page_content=text) for text in TEXTS], "query": QUERY}
    ranked = asyncio.run(RerankCompressor(backend=backend).ainvoke(request, **settings))
    return [(document.page_content, document.metadata) for document in ranked]


def retrieve(**settings):
    found = RunnableLambda(lambda _: [Document(page_content=text) for text in TEXTS])
    ranked = RerankRetriever(found, backend=settings.pop("backend")).invoke(QUERY, **settings)
    return [(document.page_content, document.metadata) for document in ranked]


def postprocess(**settings):
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    ranked = RerankPostprocessor(**settings).postprocess_nodes(nodes, query_str=QUERY)
    return [(item.node.text, item.node.metadata) for item in ranked]


WAYS = [compress, compress_per_call, retrieve, postprocess]


@pytest.mark.parametrize("call", WAYS)
@pytest.mark.parametrize(
    ("settings", "texts", "cutoff", "duplicates"),
    [
        ({}, [TEXTS[1], TEXTS[3], TEXTS[0], TEXTS[2]], None, {}),
        ({"distinct": 0.9}, [TEXTS[1], TEXTS[2]], None, {TEXTS[1]: [4, 1]}),
        ({"min_gap": 0.5}, [TEXTS[1], TEXTS[3]], "min_gap", {}),
        ({"max_tokens": 6, "count_tokens": words}, [TEXTS[1]], "max_tokens", {}),
        ({"max_tokens": 7, "count_tokens": words, "distinct": 1.0}, None, None, None),
        ({"max_tokens": 10}, [TEXTS[1], TEXTS[3]], "max_tokens", {}),
    ],
)
def test_every_way_keeps_the_same_and_says_why(call, settings, texts, cutoff, duplicates):
    kept = call(backend=FakeBackend(), top_n=None, **settings)
    if texts is None:
        assert [4, 3] == [words(text) for text, _ in kept]
        return

    assert texts == [text for text, _ in kept]
    assert {cutoff} == {metadata.get("rerank_cutoff") for _, metadata in kept}
    told = {text: metadata.get("rerank_duplicates") for text, metadata in kept}
    assert duplicates == {text: ranks for text, ranks in told.items() if ranks}


@pytest.mark.parametrize("backend", [FakeBackend(), ScoresBackend(*[0.5] * 5)])
def test_images_are_no_near_duplicates_and_have_no_tokens(backend):
    """Whether the backend reads their captions, of which many are alike, or the images, too."""
    resources = {"text": MediaResource(text="Fig."), "image": MediaResource(path="c.png")}
    nodes = [
        NodeWithScore(node=node)
        for node in (
            ImageNode(text="Fig.", image_path="a.png"),
            ImageNode(text="Fig.", image_path="b.png"),
            Node(text_resource=resources["text"], image_resource=resources["image"]),
            TextNode(text="Fig."),
            TextNode(text="Fig."),
        )
    ]

    kept = RerankPostprocessor(backend, top_n=None, distinct=0.9).postprocess_nodes(
        nodes, query_str=QUERY
    )

    assert 4 == len(kept)
    assert [5] == kept[3].node.metadata["rerank_duplicates"]
    with pytest.raises(UnsupportedInputError, match="can't count the tokens"):
        RerankPostprocessor(backend, max_tokens=99).postprocess_nodes(nodes, query_str=QUERY)


@pytest.mark.parametrize("call", [compress, postprocess])
def test_a_failure_leaves_the_order_within_the_budget(call):
    kept = call(
        backend=FailingBackend(BackendUnavailable("down")),
        on_error="original_order",
        max_tokens=6,
        count_tokens=words,
        distinct=0.9,
    )

    assert TEXTS[:2] == [text for text, _ in kept]


@pytest.mark.parametrize("call", WAYS)
def test_a_budget_that_keeps_nothing_is_logged(call, monkeypatch, caplog):
    monkeypatch.setattr(_adapter, "_may_warn", Throttle())
    with caplog.at_level(logging.WARNING, "rerank_plugins._adapter"):
        assert [] == call(backend=FakeBackend(), max_tokens=3, count_tokens=words)

    assert ["max_tokens=3 keeps no document: the best one is longer"] == caplog.messages


@pytest.mark.parametrize("call", WAYS)
@pytest.mark.parametrize(
    "wrong", [{"min_gap": -1}, {"max_tokens": 1.5}, {"distinct": 2}, {"count_tokens": words}]
)
def test_wrong_settings_are_refused(call, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        call(backend=FakeBackend(), **wrong)


@pytest.mark.parametrize("call", WAYS)
def test_a_gap_needs_a_scale(call):
    with pytest.raises(ConfigError, match=r"min_gap=0\.1 has no meaning"):
        call(backend=FakeBackend(scale="unknown"), min_gap=0.1)
    with pytest.raises(ConfigError, match="min_gap=2 is outside 0 to 1"):
        call(backend=FakeBackend(), min_gap=2)


def test_the_state_of_a_chain_does_not_set_the_budget():
    """Its `max_tokens` is most likely meant for a language model."""
    documents = [Document(page_content=text) for text in TEXTS]
    state = {"documents": documents, "query": QUERY, "max_tokens": 1, "distinct": 1}

    assert 4 == len(RerankCompressor(FakeBackend(), top_n=None).invoke(state))


def test_the_budget_counts_what_the_language_model_reads():
    node = TextNode(text="a panda", metadata={"source": "a zoo"})
    read = words(node.get_content(metadata_mode=MetadataMode.LLM))
    for most, kept in ((read, 1), (read - 1, 0)):
        postprocessor = RerankPostprocessor(
            backend=FakeBackend(), max_tokens=most, count_tokens=words
        )

        assert kept == len(postprocessor.postprocess_nodes([NodeWithScore(node=node)], None, QUERY))


def test_settings_are_written_down_but_no_function(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    settings = {"min_gap": 0.25, "max_tokens": 9, "count_tokens": path, "distinct": 0.5}
    expected = {**settings, "count_tokens": str(path)}
    compressor = RerankCompressor("embedded", **settings)
    dumped = RerankPostprocessor("embedded", **settings).to_dict()
    counting = {"max_tokens": 9, "count_tokens": words}

    assert expected.items() <= dumpd(compressor)["kwargs"].items()
    assert expected.items() <= RerankPostprocessor.from_dict(dumped).to_dict().items()
    assert "not_implemented" == dumpd(RerankCompressor("embedded", **counting))["type"]
    with pytest.raises(ConfigError, match="`count_tokens` is a function"):
        RerankPostprocessor("embedded", **counting).to_dict()


def test_a_result_says_why_it_ends():
    result = rerank(QUERY, TEXTS, backend=FakeBackend(), max_tokens=7, distinct=0.9)
    facts = "2 of 4 documents · about 10 tokens kept · 2 near-duplicates left out"

    assert "1 of 4 documents · ended by max_tokens at about 5 tokens kept" in str(result)
    result = rerank(QUERY, TEXTS, backend=FakeBackend(), max_tokens=10, distinct=0.9)
    assert facts in str(result)
    assert facts in result._repr_html_()
    assert {3: 1, 0: 1} == result.cutoff.duplicates
    assert RerankResult("q", (), (), Scores(()), "b").cutoff.by is None


def test_the_command_line_says_why_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("rerank_plugins.result.load_backend", lambda spec: FakeBackend())
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(TEXTS))
    command = ["rank", QUERY, str(path), "--json"]
    done = CliRunner().invoke(app, [*command, "--distinct", "0.9", "--max-tokens", "7"])
    none = CliRunner().invoke(app, [*command, "--max-tokens", "1"])
    wrong = CliRunner().invoke(app, [*command, "--min-gap", "0"])

    assert {
        "by": "max_tokens",
        "tokens": 5,
        "tokens_estimated": True,
        "duplicates": [{"index": 3, "of": 1}, {"index": 0, "of": 1}],
    } == json.loads(done.stdout)["cutoff"]
    assert (1, True) == (none.exit_code, "more tokens than --max-tokens allows" in none.stderr)
    assert (2, True) == (wrong.exit_code, "--min-gap must be" in wrong.stderr)
