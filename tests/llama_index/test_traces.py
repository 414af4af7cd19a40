"""LlamaIndex's events, spans and callbacks of a call."""

import json

import pytest
from llama_index.core.callbacks import CallbackManager, EventPayload
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent

from rerank_plugins import UnsupportedInputError
from rerank_plugins.errors import BackendTimeout
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FailingBackend, FakeBackend
from tests.llama_index.nodes import (
    QUERY,
    TEXTS,
    LegacyRecorder,
    UnloadedBackend,
    both_ways,
    dumped,
    ids,
    span_names,
    wrapped,
)


async def test_events_hold_model_query_and_nodes(events):
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


async def test_events_do_not_change_with_later_mutations(events):
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
async def test_an_error_ends_the_event_and_the_span(events, spans, error):
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
