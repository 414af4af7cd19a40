"""LlamaIndex's events and spans as its handlers receive them, and an index."""

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.schema import (
    TextNode,
)

from tests.llama_index.nodes import TEXTS, LetterEmbedding, Recorder


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
