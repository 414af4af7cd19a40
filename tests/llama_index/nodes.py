"""Nodes, backends and recorders that the tests of the LlamaIndex adapter share."""

import asyncio
import math
import threading

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CBEventType
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import (
    NodeWithScore,
    TextNode,
)
from pydantic import ConfigDict, Field

from rerank_plugins import Backend
from rerank_plugins.testing import FakeBackend

QUERY = "what is a panda"
TEXTS = ("hi", "The panda is a bear.", "what panda", "a panda is what it is", "nothing")
# Share of the query's words in each text: 0, 3/4, 2/4, 4/4, 0.
BEST_FIRST = [3, 1, 2, 0, 4]


class ScoresBackend(Backend):
    """Returns fixed scores and records its requests."""

    name = "scores"
    inputs = frozenset({"text", "image"})

    def __init__(self, *scores, scale="unknown"):
        self.scores = list(scores)
        self.scale = scale
        self.documents = None
        self.queries = []

    def score(self, query, documents):
        self.queries.append(query)
        self.documents = list(documents)
        return self.scores


class AsyncOnlyBackend(Backend):
    """Has an async method only; its sync method fails."""

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
