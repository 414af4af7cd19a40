"""Which text is scored, which queries are accepted, and errors, in threads and in asyncio."""

import asyncio
import base64
import math

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import (
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)

from rerank_plugins import ConfigError, Content, InvalidResponse, Query, UnsupportedInputError
from rerank_plugins.errors import BackendTimeout
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FailingBackend, FakeBackend
from tests.llama_index.nodes import (
    QUERY,
    TEXTS,
    AsyncOnlyBackend,
    HangingBackend,
    LegacyRecorder,
    ScoresBackend,
    both_ways,
    ids,
    span_names,
    wrapped,
)


async def test_metadata_meant_for_embedding_is_scored():
    backend = ScoresBackend(0.5)
    node = TextNode(
        text="text",
        metadata={"title": "Pandas", "secret": "x"},
        excluded_embed_metadata_keys=["secret"],
    )
    await both_ways(RerankPostprocessor(backend=backend), [NodeWithScore(node=node)])

    assert ["title: Pandas\n\ntext"] == backend.documents


async def test_added_metadata_reaches_neither_embeddings_nor_prompts():
    nodes = wrapped("panda", metadata={"title": "T"})
    backend = ScoresBackend(0.5)
    first = await both_ways(RerankPostprocessor(backend=FakeBackend()), nodes)
    await both_ways(RerankPostprocessor(backend=backend), first)

    for mode in (MetadataMode.EMBED, MetadataMode.LLM, MetadataMode.NONE):
        assert nodes[0].get_content(mode) == first[0].get_content(mode)
    assert [nodes[0].get_content(MetadataMode.EMBED)] == backend.documents


async def test_all_nodes_are_scored_in_one_call():
    backend = FakeBackend()
    RerankPostprocessor(backend=backend).postprocess_nodes(wrapped(*TEXTS), query_str=QUERY)

    assert [(QUERY, TEXTS)] == backend.calls


PNG = b"\x89PNG\r\n\x1a\n"
ENCODED = base64.b64encode(PNG)
IMAGES = {
    "bytes": (ImageNode(image=ENCODED.decode()), PNG),
    "wrapped lines": (ImageNode(image=base64.encodebytes(PNG * 20).decode()), PNG * 20),
    "data URI": (ImageNode(image="data:image/png;base64,iVBO"), "data:image/png;base64,iVBO"),
    "path": (ImageNode(image_path="a.png"), "a.png"),
    "resource bytes": (Node(image_resource=MediaResource(data=PNG)), PNG),
    "resource path": (Node(image_resource=MediaResource(path="a.png")), "a.png"),
    "resource url": (
        Node(image_resource=MediaResource(url="https://example.org/a.png")),
        "https://example.org/a.png",
    ),
    "url": (ImageNode(image_url="https://example.org/a.png"), "https://example.org/a.png"),
}


@pytest.mark.parametrize(("node", "image"), IMAGES.values(), ids=IMAGES)
async def test_images_need_a_backend_that_scores_them(node, image):
    """They reach the backend as `Content`; a text backend refuses them."""
    backend = ScoresBackend(0.5)
    await both_ways(RerankPostprocessor(backend=backend), [NodeWithScore(node=node)])

    assert [Content(image=image)] == backend.documents
    with pytest.raises(UnsupportedInputError, match="document 0 holds an image"):
        await both_ways(RerankPostprocessor(backend=FakeBackend()), [NodeWithScore(node=node)])


@pytest.mark.parametrize(
    ("bundle", "query"),
    [
        (QueryBundle("q", image_path="a.png"), Query("q", image="a.png")),
        (QueryBundle("", image_path="a.png"), Query(image="a.png")),
        (QueryBundle("q"), "q"),
    ],
)
async def test_the_image_of_a_query_is_not_dropped(bundle, query):
    """It reaches the backend; a text backend refuses it rather than rank by the text alone."""
    backend = ScoresBackend(0.5)
    RerankPostprocessor(backend=backend).postprocess_nodes(wrapped("a"), bundle)
    await RerankPostprocessor(backend=backend).apostprocess_nodes(wrapped("a"), bundle)

    assert [query, query] == backend.queries
    if isinstance(query, Query):
        with pytest.raises(UnsupportedInputError, match="the query holds an image"):
            RerankPostprocessor(backend=FakeBackend()).postprocess_nodes(wrapped("a"), bundle)


async def test_an_image_keeps_its_caption():
    backend = ScoresBackend(0.5)
    node = ImageNode(text="A panda.", image_path="a.png")
    await both_ways(RerankPostprocessor(backend=backend), [NodeWithScore(node=node)])

    assert [Content(text="A panda.", image="a.png")] == backend.documents


@pytest.mark.parametrize(
    "node",
    [
        ImageNode(text="A panda.", image_path="a.png"),
        ImageNode(text="A panda.", image=ENCODED.decode()),
        Node(
            text_resource=MediaResource(text="A panda."), image_resource=MediaResource(path="a.png")
        ),
    ],
)
async def test_a_text_backend_reads_the_caption_of_an_image_and_says_so(node):
    backend = FakeBackend()
    nodes = [NodeWithScore(node=node), NodeWithScore(node=TextNode(text="A bear."))]
    ranked = await both_ways(RerankPostprocessor(backend=backend), nodes)

    assert ("A panda.", "A bear.") == backend.calls[0][1]
    assert {"A panda.": True, "A bear.": None} == {
        item.node.get_content(): item.node.metadata.get("rerank_truncated") for item in ranked
    }


async def test_metadata_alone_is_no_caption():
    node = ImageNode(image_path="a.png", metadata={"file_name": "a.png"})
    with pytest.raises(UnsupportedInputError, match="document 0 holds an image"):
        await both_ways(RerankPostprocessor(backend=FakeBackend()), [NodeWithScore(node=node)])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (NodeWithScore(node=Node(audio_resource=MediaResource(data=b"RIFF"))), "audio or video"),
        (NodeWithScore(node=Node(video_resource=MediaResource(path="a.mp4"))), "audio or video"),
        (NodeWithScore(node=ImageNode(image="abc")), "not base64"),
        (NodeWithScore(node=ImageNode(image="@@@@")), "not base64"),
        (NodeWithScore(node=ImageNode(image="iVBO*Rw0K")), "not base64"),
        (NodeWithScore(node=ImageNode(image="熊猫熊猫")), "not base64"),
        (TextNode(text="panda"), "must be a `NodeWithScore`"),
        (None, "must be a `NodeWithScore`"),
        (NodeWithScore(node=TextNode(text="broken \ud800")), "lone surrogate"),
    ],
)
async def test_nodes_that_cant_be_scored_are_refused(item, message):
    postprocessor = RerankPostprocessor(backend=FakeBackend())
    nodes = [*wrapped("fine"), item]
    with pytest.raises(UnsupportedInputError, match=message):
        postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    with pytest.raises(UnsupportedInputError, match=message):
        await postprocessor.apostprocess_nodes(nodes, query_str=QUERY)


@pytest.mark.parametrize(
    "nodes", [(node for node in wrapped("panda")), None], ids=["generator", "None"]
)
async def test_nodes_that_are_no_list_are_refused(nodes):
    postprocessor = RerankPostprocessor(backend=FakeBackend())
    with pytest.raises(UnsupportedInputError, match="`nodes` must be a list"):
        postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    with pytest.raises(UnsupportedInputError, match="`nodes` must be a list"):
        await postprocessor.apostprocess_nodes(nodes, query_str=QUERY)


async def test_a_string_in_place_of_a_query_bundle_is_refused():
    postprocessor = RerankPostprocessor(backend=FakeBackend())
    with pytest.raises(UnsupportedInputError, match="pass a string as `query_str`"):
        postprocessor.postprocess_nodes(wrapped("panda"), QUERY)
    with pytest.raises(UnsupportedInputError, match="pass a string as `query_str`"):
        await postprocessor.apostprocess_nodes(wrapped("panda"), QUERY)


@pytest.mark.parametrize("nodes", [[], wrapped("panda")])
async def test_a_query_is_needed(nodes):
    """`ValueError`, as the framework's own rerankers raise, even without nodes."""
    postprocessor = RerankPostprocessor(backend=FakeBackend())
    with pytest.raises(ValueError, match="no query to rank by"):
        postprocessor.postprocess_nodes(nodes)
    with pytest.raises(ConfigError, match="no query to rank by"):
        await postprocessor.apostprocess_nodes(nodes)
    with pytest.raises(ValueError, match="both query_str and query_bundle"):
        postprocessor.postprocess_nodes(nodes, QueryBundle("a"), "b")


async def test_a_blank_query_is_refused():
    with pytest.raises(UnsupportedInputError, match="query is empty"):
        await both_ways(RerankPostprocessor(backend=FakeBackend()), wrapped("a"), " \n")


async def test_without_nodes_the_backend_is_not_called():
    """Engines do call with an empty list; the backend need not even be reachable."""
    backend = FailingBackend(BackendTimeout("down"))

    assert [] == await both_ways(RerankPostprocessor(backend=backend), [])
    assert [] == await both_ways(RerankPostprocessor(backend=backend), [], query="")


@pytest.mark.parametrize(
    "scores", [[0.5], [0.5, 0.5, 0.5], [0.5, math.nan], [math.inf, 0.5], [0.5, None]]
)
async def test_wrong_scores_are_an_error(scores):
    """No node is dropped in silence, and NaN never decides an order."""
    postprocessor = RerankPostprocessor(backend=ScoresBackend(*scores))
    with pytest.raises(InvalidResponse, match="score"):
        postprocessor.postprocess_nodes(wrapped("a", "b"), query_str=QUERY)
    with pytest.raises(InvalidResponse, match="score"):
        await postprocessor.apostprocess_nodes(wrapped("a", "b"), query_str=QUERY)


async def test_async_calls_use_no_thread():
    result = await RerankPostprocessor(backend=AsyncOnlyBackend()).apostprocess_nodes(
        wrapped("a", "bbb", "cc"), query_str=QUERY
    )

    assert [1, 2, 0] == ids(result)


async def test_concurrent_requests_are_not_mixed_up():
    postprocessor = RerankPostprocessor(backend=AsyncOnlyBackend(), top_n=None)
    results = await asyncio.gather(
        *(
            postprocessor.apostprocess_nodes(
                wrapped(*("x" * n for n in range(size))), query_str="q"
            )
            for size in range(1, 9)
        )
    )

    assert [list(reversed(range(size))) for size in range(1, 9)] == [ids(r) for r in results]


async def test_cancelling_ends_the_event_and_the_span(events, spans):
    backend, legacy = HangingBackend(), LegacyRecorder()
    postprocessor = RerankPostprocessor(backend=backend, callback_manager=CallbackManager([legacy]))
    task = asyncio.create_task(postprocessor.apostprocess_nodes(wrapped("a"), query_str=QUERY))
    await backend.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert 1 == len(events.of(ReRankStartEvent)) == len(events.of(ExceptionEvent))
    assert [] == events.of(ReRankEndEvent)
    assert ["start", "end"] == [kind for kind, _ in legacy.calls]
    assert ["RerankPostprocessor._apostprocess_nodes"] == span_names(spans.dropped_spans)
    assert {} == spans.open_spans
