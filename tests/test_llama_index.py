"""The postprocessor inside LlamaIndex's own engines, with its own handlers listening."""

import asyncio
import base64
import copy
import json
import math
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.tools import RetrieverTool
from pydantic import ConfigDict, Field, ValidationError

from rerank_plugins import Backend, ConfigError, Content, InvalidResponse, UnsupportedInputError
from rerank_plugins.errors import BackendTimeout
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FailingBackend, FakeBackend

QUERY = "what is a panda"
TEXTS = ("hi", "The panda is a bear.", "what panda", "a panda is what it is", "nothing")
# Share of the query's words in each text: 0, 3/4, 2/4, 4/4, 0.
BEST_FIRST = [3, 1, 2, 0, 4]


class ScoresBackend(Backend):
    """Answers with the scores it was given, and remembers the documents."""

    name = "scores"

    def __init__(self, *scores, scale="unknown"):
        self.scores = list(scores)
        self.scale = scale
        self.documents = None

    def score(self, query, documents):
        self.documents = list(documents)
        return self.scores


class AsyncOnlyBackend(Backend):
    """Can be asked without a thread only."""

    name = "async-only"

    def score(self, query, documents):
        raise AssertionError("`score` blocks the event loop")

    async def ascore(self, query, documents):
        await asyncio.sleep(0)
        return [float(len(document)) for document in documents]


class HangingBackend(AsyncOnlyBackend):
    """Never answers."""

    def __init__(self):
        self.asked = asyncio.Event()

    async def ascore(self, query, documents):
        self.asked.set()
        await asyncio.Event().wait()


class UnloadedBackend(FakeBackend):
    """Has a name only once it has scored, as a local model has."""

    @property
    def name(self):
        assert self.calls, "`name` would load the model"
        return "known now"

    @property
    def label(self):
        return "local:some/model"


class LetterEmbedding(BaseEmbedding):
    """Counts letters: a deterministic embedding without a model."""

    def _get_text_embedding(self, text):
        counts = [1.0 + text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
        norm = math.hypot(*counts)
        return [count / norm for count in counts]

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


class NothingRetriever(BaseRetriever):
    """Finds nothing."""

    def _retrieve(self, query_bundle):
        return []


class Recorder(BaseEventHandler):
    """Keeps every instrumentation event."""

    model_config = ConfigDict(extra="allow")
    events: list = Field(default_factory=list)

    def handle(self, event, **kwargs):
        self.events.append(event)

    def of(self, *kinds):
        return [event for event in self.events if isinstance(event, kinds)]


class LegacyRecorder(BaseCallbackHandler):
    """Keeps every legacy `RERANKING` callback; holds a lock, so it can't be pickled."""

    def __init__(self):
        super().__init__([], [])
        self.calls = []
        self.lock = threading.Lock()

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **kwargs):
        if event_type == CBEventType.RERANKING:
            self.calls.append(("start", payload))
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **kwargs):
        if event_type == CBEventType.RERANKING:
            self.calls.append(("end", payload))

    def start_trace(self, trace_id=None):
        pass

    def end_trace(self, trace_id=None, trace_map=None):
        pass


@pytest.fixture
def events():
    """Every instrumentation event of the test, as a user's handler sees it."""
    root, recorder = get_dispatcher(), Recorder()
    before = root.event_handlers
    root.event_handlers = [*before, recorder]
    yield recorder
    root.event_handlers = before


@pytest.fixture
def spans():
    """Every finished and every dropped span of the test."""
    root, handler = get_dispatcher(), SimpleSpanHandler()
    before = root.span_handlers
    root.span_handlers = [*before, handler]
    yield handler
    root.span_handlers = before


@pytest.fixture
def index():
    nodes = [TextNode(text=text, id_=str(n), metadata={"page": n}) for n, text in enumerate(TEXTS)]
    return VectorStoreIndex(nodes, embed_model=LetterEmbedding())


def wrapped(*texts, **fields):
    """Nodes as a retriever returns them, with falling scores."""
    return [
        NodeWithScore(node=TextNode(text=text, id_=str(n), **fields), score=0.9 - n / 10)
        for n, text in enumerate(texts)
    ]


def ids(nodes):
    return [int(item.node_id) for item in nodes]


def dumped(nodes):
    return [item.to_dict() for item in nodes]


async def both_ways(postprocessor, nodes, query=QUERY):
    """Rerank synchronously and asynchronously; both must agree."""
    result = postprocessor.postprocess_nodes(nodes, query_str=query)
    assert dumped(result) == dumped(await postprocessor.apostprocess_nodes(nodes, query_str=query))
    return result


def span_names(spans):
    return [span.id_.partition("-")[0] for span in spans]


# What comes out


async def test_nodes_come_back_best_first():
    """All words of the query first; equal scores keep the retriever's order."""
    result = await both_ways(
        RerankPostprocessor(backend=FakeBackend(), top_n=None), wrapped(*TEXTS)
    )

    assert BEST_FIRST == ids(result)
    assert [1.0, 0.75, 0.5, 0.0, 0.0] == [item.score for item in result]


@pytest.mark.parametrize(
    ("top_n", "expected"),
    [(None, BEST_FIRST), (0, []), (2, [3, 1]), (5, BEST_FIRST), (99, BEST_FIRST)],
)
async def test_top_n_keeps_the_best(top_n, expected):
    postprocessor = RerankPostprocessor(backend=FakeBackend(), top_n=top_n)

    assert expected == ids(await both_ways(postprocessor, wrapped(*TEXTS)))


async def test_top_n_is_three_unless_told():
    assert [3, 1, 2] == ids(
        await both_ways(RerankPostprocessor(backend=FakeBackend()), wrapped(*TEXTS))
    )


async def test_min_score_keeps_the_bound_itself():
    postprocessor = RerankPostprocessor(backend=FakeBackend(), min_score=0.75)

    assert [3, 1] == ids(await both_ways(postprocessor, wrapped(*TEXTS)))


async def test_negative_logits_and_zeros_sort_as_numbers():
    """The framework's own sort key takes 0.0 and None for the same."""
    backend = ScoresBackend(-4.0, 0.0, -1.0, 2.0, scale="logit")
    result = await both_ways(RerankPostprocessor(backend=backend, top_n=None), wrapped(*"abcd"))

    assert [3, 1, 2, 0] == ids(result)


async def test_nodes_without_a_retriever_score_are_ranked_too():
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(n))) for n, text in enumerate(TEXTS)]
    result = await both_ways(RerankPostprocessor(backend=FakeBackend()), nodes)

    assert [3, 1, 2] == ids(result)
    assert {"retriever_rank": 4} == result[0].metadata


async def test_the_retrievers_view_is_in_the_metadata():
    result = await both_ways(RerankPostprocessor(backend=FakeBackend()), wrapped(*TEXTS))

    assert [
        {"retriever_rank": 4, "retriever_score": pytest.approx(0.6)},
        {"retriever_rank": 2, "retriever_score": pytest.approx(0.8)},
        {"retriever_rank": 3, "retriever_score": pytest.approx(0.7)},
    ] == [item.metadata for item in result]


async def test_a_second_pass_keeps_the_first_retrievers_view():
    nodes = wrapped(*TEXTS)
    nodes[2].score = None
    first = await both_ways(RerankPostprocessor(backend=FakeBackend(), top_n=None), nodes)
    second = await both_ways(
        RerankPostprocessor(backend=FakeBackend(lambda _, text: -len(text)), top_n=None), first
    )

    assert {item.node_id: item.metadata for item in first} == {
        item.node_id: item.metadata for item in second
    }
    assert "retriever_score" not in next(i for i in second if i.node_id == "2").metadata


async def test_scores_are_python_floats():
    """NumPy's scalars would break `json.dumps`."""
    nodes = wrapped("a", "b")
    nodes[0].score = np.float32(0.5)
    backend = ScoresBackend(np.float32(0.25), np.float64(0.5))
    result = await both_ways(RerankPostprocessor(backend=backend), nodes)

    assert [float, float] == [type(item.score) for item in result]
    assert 0.25 == json.loads(json.dumps(result[1].to_dict()))["score"]
    assert 0.5 == result[1].metadata["retriever_score"]


async def test_nothing_of_the_callers_changes():
    metadata = {"page": 7, "tags": ["x"]}
    nodes = wrapped(*TEXTS, metadata=metadata, excluded_llm_metadata_keys=["tags"])
    before = copy.deepcopy(nodes)
    result = await both_ways(RerankPostprocessor(backend=FakeBackend()), nodes)
    for item in result:
        item.score = -1.0
        item.node.metadata["added"] = True
        item.node.excluded_llm_metadata_keys.append("added")
        item.node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="x")

    assert before == nodes


@pytest.mark.parametrize(
    "node",
    [
        LlamaDocument(text="panda", id_="0", metadata={"page": 1}),
        IndexNode(text="panda", id_="0", index_id="i", embedding=[0.5]),
        Node(text_resource=MediaResource(text="panda"), id_="0"),
        TextNode(
            text="panda",
            id_="0",
            start_char_idx=3,
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")},
        ),
    ],
    ids=lambda node: type(node).__name__,
)
async def test_nodes_keep_all_but_their_score(node):
    """Class, id, text, embedding and relationships stay; two metadata keys are added."""
    result = await both_ways(
        RerankPostprocessor(backend=FakeBackend()), [NodeWithScore(node=node, score=0.5)]
    )
    expected = {
        **node.to_dict(),
        "metadata": {**node.metadata, "retriever_rank": 1, "retriever_score": 0.5},
        "excluded_embed_metadata_keys": [
            "retriever_rank",
            "retriever_score",
            "rerank_status",
            "rerank_truncated",
        ],
        "excluded_llm_metadata_keys": [
            "retriever_rank",
            "retriever_score",
            "rerank_status",
            "rerank_truncated",
        ],
    }

    assert type(node) is type(result[0].node)
    assert expected == result[0].node.to_dict()
    assert node.ref_doc_id == result[0].node.ref_doc_id


async def test_a_subclass_of_the_wrapper_is_kept():
    class Marked(NodeWithScore):
        mark: str

    result = await both_ways(
        RerankPostprocessor(backend=FakeBackend()),
        [Marked(node=TextNode(text="panda"), score=0.1, mark="m")],
    )

    assert ("m", 0.25) == (result[0].mark, result[0].score)


async def test_equal_calls_give_equal_results_from_threads():
    postprocessor = RerankPostprocessor(backend=FakeBackend())
    nodes = wrapped(*TEXTS)
    expected = dumped(postprocessor.postprocess_nodes(nodes, query_str=QUERY))
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(
            lambda _: postprocessor.postprocess_nodes(nodes, query_str=QUERY), range(32)
        ):
            assert expected == dumped(result)


async def test_ten_thousand_nodes_are_ranked():
    backend = FakeBackend(lambda _, text: int(text) / 10_000)
    nodes = wrapped(*map(str, range(10_000)))

    assert [9999, 9998, 9997] == ids(await both_ways(RerankPostprocessor(backend=backend), nodes))


async def test_the_model_in_the_package_finds_the_answer():
    nodes = wrapped("hi", "Paris is the capital of France.", "The panda is a bear of China.")
    result = await both_ways(RerankPostprocessor(backend="embedded", top_n=1), nodes, "pandas?")

    assert [2] == ids(result)
    json.dumps(result[0].to_dict())


# What is scored


async def test_metadata_meant_for_embedding_is_scored():
    backend = ScoresBackend(0.5)
    node = TextNode(
        text="text",
        metadata={"title": "Pandas", "secret": "x"},
        excluded_embed_metadata_keys=["secret"],
    )
    await both_ways(RerankPostprocessor(backend=backend), [NodeWithScore(node=node)])

    assert ["title: Pandas\n\ntext"] == backend.documents


async def test_what_is_added_reaches_neither_embeddings_nor_prompts():
    nodes = wrapped("panda", metadata={"title": "T"})
    backend = ScoresBackend(0.5)
    first = await both_ways(RerankPostprocessor(backend=FakeBackend()), nodes)
    await both_ways(RerankPostprocessor(backend=backend), first)

    for mode in (MetadataMode.EMBED, MetadataMode.LLM, MetadataMode.NONE):
        assert nodes[0].get_content(mode) == first[0].get_content(mode)
    assert [nodes[0].get_content(MetadataMode.EMBED)] == backend.documents


async def test_the_model_is_asked_once_for_all_nodes():
    backend = FakeBackend()
    RerankPostprocessor(backend=backend).postprocess_nodes(wrapped(*TEXTS), query_str=QUERY)

    assert [(QUERY, TEXTS)] == backend.calls


PNG = b"\x89PNG\r\n\x1a\n"
ENCODED = base64.b64encode(PNG)
IMAGES = {
    "bytes": (ImageNode(image=ENCODED.decode()), PNG),
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
async def test_images_are_for_backends_that_see(node, image):
    """They reach the backend as `Content`; a text backend says no instead of guessing."""
    backend = ScoresBackend(0.5)
    await both_ways(RerankPostprocessor(backend=backend), [NodeWithScore(node=node)])

    assert [Content(image=image)] == backend.documents
    with pytest.raises(UnsupportedInputError, match="document 0 holds an image"):
        await both_ways(RerankPostprocessor(backend=FakeBackend()), [NodeWithScore(node=node)])


async def test_an_image_keeps_its_caption():
    backend = ScoresBackend(0.5)
    node = ImageNode(text="A panda.", image_path="a.png")
    await both_ways(RerankPostprocessor(backend=backend), [NodeWithScore(node=node)])

    assert [Content(text="A panda.", image="a.png")] == backend.documents


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (NodeWithScore(node=Node(audio_resource=MediaResource(data=b"RIFF"))), "audio or video"),
        (NodeWithScore(node=Node(video_resource=MediaResource(path="a.mp4"))), "audio or video"),
        (NodeWithScore(node=ImageNode(image="abc")), "not base64"),
        (TextNode(text="panda"), "must be a `NodeWithScore`"),
        (None, "must be a `NodeWithScore`"),
        (NodeWithScore(node=TextNode(text="broken \ud800")), "lone surrogate"),
    ],
)
async def test_what_cant_be_scored_is_refused(item, message):
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


# Queries and errors


async def test_a_string_is_no_query_bundle():
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


async def test_no_nodes_need_no_backend():
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


async def test_an_outage_is_an_error_not_an_empty_answer(index):
    engine = query_engine(index, backend=FailingBackend(BackendTimeout("no answer in 10 s")))
    with pytest.raises(BackendTimeout, match="no answer in 10 s"):
        engine.query(QUERY)
    with pytest.raises(BackendTimeout, match="no answer in 10 s"):
        await engine.aquery(QUERY)


# Asynchronous use


async def test_async_calls_use_no_thread():
    result = await RerankPostprocessor(backend=AsyncOnlyBackend()).apostprocess_nodes(
        wrapped("a", "bbb", "cc"), query_str=QUERY
    )

    assert [1, 2, 0] == ids(result)


async def test_requests_in_flight_together_stay_apart():
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


async def test_cancelling_ends_what_was_begun(events, spans):
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


# Settings


def test_building_one_loads_nothing():
    """The spec is checked; no connection is opened and no model is loaded."""
    postprocessor = RerankPostprocessor(backend="xinference+http://127.0.0.1:9?model=absent")

    assert "absent" == postprocessor.backend.to_spec()["model"]
    assert 3 == postprocessor.top_n
    assert postprocessor.min_score is None


def test_a_backend_is_shared_not_copied():
    backend = FakeBackend()

    assert RerankPostprocessor(backend=backend).backend is backend


def test_the_environment_names_the_default(monkeypatch):
    monkeypatch.setenv("RERANK_BACKEND", "tei+http://127.0.0.1:9")

    assert "tei" == RerankPostprocessor().backend.to_spec()["kind"]


def test_a_mapping_and_a_file_say_the_same_as_a_string(tmp_path):
    file = tmp_path / "rerank.toml"
    file.write_text('[backend]\nkind = "xinference"\nbase_url = "http://127.0.0.1:9"\nmodel = "m"')
    specs = (
        "xinference+http://127.0.0.1:9?model=m",
        {"kind": "xinference", "base_url": "http://127.0.0.1:9", "model": "m"},
        file,
        str(file),
    )
    first, *others = [RerankPostprocessor(backend=spec).to_dict() for spec in specs]

    assert [first] * 3 == others


@pytest.mark.parametrize("top_n", [-1, True, 2.5, "3", math.nan])
def test_a_wrong_top_n_is_refused(top_n):
    with pytest.raises(ConfigError, match="`top_n` must be"):
        RerankPostprocessor(backend=FakeBackend(), top_n=top_n)


@pytest.mark.parametrize("min_score", [math.nan, math.inf, "0.5", True])
def test_a_wrong_min_score_is_refused(min_score):
    with pytest.raises(ConfigError, match="`min_score` must be"):
        RerankPostprocessor(backend=FakeBackend(), min_score=min_score)


def test_min_score_needs_a_scale():
    """A threshold on scores of unknown range would cut at random."""
    with pytest.raises(ConfigError, match=r"min_score=0.5 has no meaning .* cut with `top_n`"):
        RerankPostprocessor(backend=ScoresBackend(), min_score=0.5)
    for scale in ("probability", "logit"):
        RerankPostprocessor(backend=ScoresBackend(scale=scale), min_score=0.5)


@pytest.mark.parametrize("backend", ["nonsense", {"kind": "nonsense"}, 3, "absent.toml"])
def test_a_wrong_spec_is_refused(backend):
    with pytest.raises(ConfigError):
        RerankPostprocessor(backend=backend)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("api_key", "api_key_env"),
        ("base_url", r"xinference\+http"),
        ("batch_size", "batch_tokens"),
        ("device", r"\?device="),
        ("keep_retrieval_score", "`retriever_score`"),
        ("model", "backend='local:"),
        ("model_name", "backend='local:"),
        ("model_uid", r"\?model=UID"),
        ("score_threshold", "`min_score`"),
        ("server_url", r"xinference\+http"),
        ("top_k", "`top_n`"),
        ("topn", "did you mean 'top_n'"),
        ("trust_remote_code", r"\?trust_remote_code=true"),
        ("unheard_of", "valid: backend, callback_manager, min_score, on_error, top_n"),
    ],
)
def test_other_names_are_answered_with_the_right_one(name, answer):
    """The base class would ignore them in silence; no message repeats the value."""
    with pytest.raises(ConfigError, match=answer) as caught:
        RerankPostprocessor(**{"backend": FakeBackend(), name: "hunter2"})

    assert "hunter2" not in str(caught.value)


def test_settings_can_be_assigned():
    postprocessor = RerankPostprocessor(backend=FakeBackend())
    postprocessor.top_n = 1
    postprocessor.backend = ScoresBackend(0.25, 0.5)

    assert [1] == ids(postprocessor.postprocess_nodes(wrapped("a", "b"), query_str=QUERY))


def test_wrong_assignments_are_refused():
    """At once for a wrong type, before the backend is asked for a wrong value."""
    backend = FakeBackend()
    postprocessor = RerankPostprocessor(backend=backend)
    with pytest.raises(ValidationError):
        postprocessor.backend = "hunter2"
    with pytest.raises(ValidationError):
        postprocessor.top_k = 3
    postprocessor.top_n = -1
    with pytest.raises(ConfigError, match="`top_n` must be"):
        postprocessor.postprocess_nodes(wrapped("a"), query_str=QUERY)

    assert [] == backend.calls


# Writing down


@pytest.mark.parametrize(
    "spec",
    [
        "embedded",
        "local:some/model?device=cpu",
        "xinference+http://127.0.0.1:9?model=m&timeout=5",
    ],
)
def test_settings_survive_every_round_trip(spec):
    postprocessor = RerankPostprocessor(backend=spec, top_n=None)
    written = postprocessor.to_dict()

    assert "RerankPostprocessor" == written["class_name"] == RerankPostprocessor.class_name()
    assert {"backend", "top_n", "min_score", "on_error", "class_name"} == written.keys()
    for again in (
        RerankPostprocessor.from_dict(written),
        RerankPostprocessor.from_json(postprocessor.to_json()),
        RerankPostprocessor.model_validate(postprocessor.model_dump()),
        pickle.loads(pickle.dumps(postprocessor)),
        copy.deepcopy(postprocessor),
        copy.copy(postprocessor),
    ):
        assert written == again.to_dict()
    assert 7 == RerankPostprocessor.from_dict(written, top_n=7).top_n


def test_keys_are_never_written_down(monkeypatch):
    monkeypatch.setenv("MY_KEY", "hunter2")
    postprocessor = RerankPostprocessor(
        backend="xinference+http://127.0.0.1:9?model=m&api_key_env=MY_KEY"
    )

    assert "MY_KEY" in postprocessor.to_json()
    for text in (
        postprocessor.to_json(),
        repr(postprocessor),
        str(postprocessor.model_dump()),
        str(pickle.dumps(postprocessor)),
    ):
        assert "hunter2" not in text


def test_a_backend_without_a_spec_says_so():
    with pytest.raises(ConfigError, match="`FakeBackend` can't be written as a spec"):
        RerankPostprocessor(backend=FakeBackend()).to_dict()


def test_pickling_leaves_handlers_behind():
    """A worker gets all settings and a working postprocessor, without a warning."""
    postprocessor = RerankPostprocessor(
        backend=FakeBackend(), top_n=1, callback_manager=CallbackManager([LegacyRecorder()])
    )
    again = pickle.loads(pickle.dumps(postprocessor))

    assert [] == again.callback_manager.handlers
    assert [3] == ids(again.postprocess_nodes(wrapped(*TEXTS), query_str=QUERY))


def test_copies_share_the_backend():
    """No model is loaded twice; settings are the copy's own."""
    postprocessor = RerankPostprocessor(
        backend=FakeBackend(), callback_manager=CallbackManager([LegacyRecorder()])
    )
    for again in (copy.deepcopy(postprocessor), postprocessor.model_copy(deep=True)):
        again.top_n = 1
        assert again.backend is postprocessor.backend
    assert 3 == postprocessor.top_n


def test_it_is_one_of_the_frameworks_own():
    assert isinstance(RerankPostprocessor(backend=FakeBackend()), BaseNodePostprocessor)


# Traces


async def test_events_tell_what_happened(events):
    nodes = wrapped(*TEXTS)
    await both_ways(RerankPostprocessor(backend=FakeBackend(), top_n=2), nodes)
    kinds = [type(event) for event in events.of(ReRankStartEvent, ReRankEndEvent)]
    start, end = events.of(ReRankStartEvent, ReRankEndEvent)[:2]

    assert [ReRankStartEvent, ReRankEndEvent] * 2 == kinds
    assert (QUERY, 2, "fake") == (start.query.query_str, start.top_n, start.model_name)
    assert dumped(nodes) == dumped(start.nodes)
    assert [3, 1] == ids(end.nodes)
    assert start.span_id is not None
    assert start.span_id == end.span_id
    json.dumps([start.model_dump(mode="json"), end.model_dump(mode="json")])


async def test_no_nodes_have_balanced_events(events, spans):
    await both_ways(RerankPostprocessor(backend=FakeBackend(), top_n=None), [])

    assert [(ReRankStartEvent, []), (ReRankEndEvent, [])] * 2 == [
        (type(event), event.nodes) for event in events.of(ReRankStartEvent, ReRankEndEvent)
    ]
    assert 2 == len(spans.completed_spans)


async def test_without_top_n_the_event_counts_the_nodes(events):
    await both_ways(RerankPostprocessor(backend=FakeBackend(), top_n=None), wrapped(*TEXTS))

    assert [5, 5] == [event.top_n for event in events.of(ReRankStartEvent)]


async def test_events_keep_what_they_saw(events):
    """Later changes of nodes and metadata do not rewrite history."""
    nodes = wrapped(*TEXTS, metadata={"page": 1})
    result = await both_ways(RerankPostprocessor(backend=FakeBackend()), nodes)
    start, end = events.of(ReRankStartEvent, ReRankEndEvent)[:2]
    seen = dumped(start.nodes), dumped(end.nodes)
    for item in [*nodes, *result]:
        item.score = -1.0
        item.node.metadata["page"] = 2

    assert seen == (dumped(start.nodes), dumped(end.nodes))


@pytest.mark.parametrize("error", [BackendTimeout("down"), UnsupportedInputError("odd")])
async def test_an_error_ends_what_was_begun(events, spans, error):
    """An `ExceptionEvent` stands where the end would be, and the span is dropped."""
    legacy = LegacyRecorder()
    postprocessor = RerankPostprocessor(
        backend=FailingBackend(error), callback_manager=CallbackManager([legacy])
    )
    with pytest.raises(type(error)):
        postprocessor.postprocess_nodes(wrapped("a"), query_str=QUERY)
    with pytest.raises(type(error)):
        await postprocessor.apostprocess_nodes(wrapped("a"), query_str=QUERY)

    kinds = (ReRankStartEvent, ReRankEndEvent, ExceptionEvent)
    assert [ReRankStartEvent, ExceptionEvent] * 2 == [type(e) for e in events.of(*kinds)]
    assert [error, error] == [event.exception for event in events.of(ExceptionEvent)]
    assert ["start", "end"] * 2 == [kind for kind, _ in legacy.calls]
    assert error is legacy.calls[1][1][EventPayload.EXCEPTION]
    assert [
        "RerankPostprocessor._postprocess_nodes",
        "RerankPostprocessor._apostprocess_nodes",
    ] == span_names(spans.dropped_spans)
    assert {} == spans.open_spans


async def test_both_ways_have_one_span(spans):
    """The base class wraps the synchronous method only."""
    await both_ways(RerankPostprocessor(backend=FakeBackend()), wrapped(*TEXTS))

    assert [
        "RerankPostprocessor._postprocess_nodes",
        "RerankPostprocessor._apostprocess_nodes",
    ] == span_names(spans.completed_spans)


async def test_legacy_callbacks_carry_their_payload():
    legacy = LegacyRecorder()
    postprocessor = RerankPostprocessor(
        backend=FakeBackend(), top_n=2, callback_manager=CallbackManager([legacy])
    )
    await both_ways(postprocessor, wrapped(*TEXTS))
    (first, start), (last, end) = legacy.calls[:2]

    assert 4 == len(legacy.calls)
    assert ("start", "end") == (first, last)
    assert [0, 1, 2, 3, 4] == ids(start[EventPayload.NODES])
    assert (QUERY, 2, "fake") == (
        start[EventPayload.QUERY_STR],
        start[EventPayload.TOP_K],
        start[EventPayload.MODEL_NAME],
    )
    assert [3, 1] == ids(end[EventPayload.NODES])


async def test_traces_name_the_model_without_loading_it(events):
    """Reading `Backend.name` could load a model inside the event loop, or for no nodes."""
    postprocessor = RerankPostprocessor(backend=UnloadedBackend())
    for nodes in ([], wrapped("a")):
        await postprocessor.apostprocess_nodes(nodes, query_str=QUERY)

    assert ["local:some/model"] * 2 == [e.model_name for e in events.of(ReRankStartEvent)]


# The framework's engines


def query_engine(index, *, backend=None, postprocessors=None, **options):
    postprocessor = RerankPostprocessor(backend=backend or FakeBackend(), top_n=2)
    return RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=5),
        llm=MockLLM(),
        node_postprocessors=postprocessors or [postprocessor],
        **options,
    )


async def test_a_query_engine_answers_from_the_best(index):
    """The mock model repeats its prompt: the best nodes and nothing that we added."""
    engine = query_engine(index)
    for response in (engine.query(QUERY), await engine.aquery(QUERY)):
        assert [3, 1] == ids(response.source_nodes)
        assert TEXTS[3] in str(response)
        assert TEXTS[2] not in str(response)
        assert "page: 3" in str(response)
        assert "retriever_" not in str(response)


async def test_a_streaming_query_engine_answers_from_the_best(index):
    engine = query_engine(index, streaming=True)
    response = engine.query(QUERY)
    text = "".join(response.response_gen)
    aresponse = await engine.aquery(QUERY)

    assert [3, 1] == ids(response.source_nodes) == ids(aresponse.source_nodes)
    assert TEXTS[3] in text


async def test_reranking_leaves_the_index_as_it_was(index):
    before = copy.deepcopy(index.docstore.docs)
    engine = query_engine(index)
    first = dumped(engine.query(QUERY).source_nodes)
    second = dumped((await engine.aquery(QUERY)).source_nodes)

    assert before == index.docstore.docs
    assert first == second


async def test_an_engine_without_hits_gets_an_empty_answer():
    engine = RetrieverQueryEngine.from_args(
        NothingRetriever(),
        llm=MockLLM(),
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend())],
    )

    assert [] == engine.query(QUERY).source_nodes
    assert [] == (await engine.aquery(QUERY)).source_nodes


async def test_it_works_beside_other_postprocessors(index):
    """A cutoff after us means what it says: our scores are probabilities."""
    engine = query_engine(
        index,
        postprocessors=[
            RerankPostprocessor(backend=FakeBackend(), top_n=None),
            SimilarityPostprocessor(similarity_cutoff=0.75),
        ],
    )

    assert [3, 1] == ids(engine.query(QUERY).source_nodes)
    assert [3, 1] == ids((await engine.aquery(QUERY)).source_nodes)


@pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
async def test_chat_engines_answer_from_the_best(index, kind):
    engine = kind.from_defaults(
        retriever=index.as_retriever(similarity_top_k=5),
        llm=MockLLM(),
        memory=ChatMemoryBuffer.from_defaults(token_limit=4000),  # the default leaves SQLite open
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend(), top_n=2)],
    )
    answers = [engine.chat(QUERY)]
    engine.reset()
    answers.append(await engine.achat(QUERY))
    engine.reset()
    stream = engine.stream_chat(QUERY)
    text = "".join(stream.response_gen)
    engine.reset()
    astream = await engine.astream_chat(QUERY)
    atext = "".join([token async for token in astream.async_response_gen()])

    for answer in (*answers, stream, astream):
        assert [3, 1] == ids(answer.source_nodes)
    for said in (*map(str, answers), text, atext):
        assert TEXTS[3] in said
        assert "retriever_" not in said


async def test_a_citation_engine_cites_the_best(index):
    engine = CitationQueryEngine.from_args(
        index,
        llm=MockLLM(),
        similarity_top_k=5,
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend(), top_n=1)],
    )
    for response in (engine.query(QUERY), await engine.aquery(QUERY)):
        assert [f"Source 1:\n{TEXTS[3]}\n"] == [
            item.node.get_content(MetadataMode.NONE) for item in response.source_nodes
        ]


async def test_a_retriever_tool_returns_the_best(index):
    tool = RetrieverTool.from_defaults(
        index.as_retriever(similarity_top_k=5),
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend(), top_n=1)],
    )
    for output in (tool.call(QUERY), await tool.acall(QUERY)):
        assert [3] == ids(output.raw_output)
        assert "retriever_" not in output.content


async def test_the_frameworks_evaluator_measures_it(index):
    """It calls the synchronous method inside the running loop."""
    retriever = VectorIndexRetriever(index, similarity_top_k=5)
    evaluator = RetrieverEvaluator.from_metric_names(
        ["mrr"],
        retriever=retriever,
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend(), top_n=2)],
    )

    assert 1.0 == (await evaluator.aevaluate(QUERY, ["3"])).metric_vals_dict["mrr"]
    assert 0.5 == evaluator.evaluate(QUERY, ["1"]).metric_vals_dict["mrr"]


# Installations


def test_without_the_framework_the_extra_is_named():
    code = (
        "import sys; sys.modules['llama_index.core'] = None\n"
        "try:\n    import rerank_plugins.llama_index\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "MissingDependencyError" in done.stdout
    assert "pip install 'rerank-plugins[llama-index]'" in done.stdout
