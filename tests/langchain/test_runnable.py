"""The compressor as a Runnable: chains, batches, settings of one call, asyncio."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.documents import BaseDocumentCompressor
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableLambda,
    RunnablePassthrough,
)
from langchain_core.tracers.context import collect_runs

from rerank_plugins import (
    ConfigError,
)
from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.testing import FakeBackend
from tests.langchain.retrieval import (
    BEST_FIRST,
    QUERY,
    AsyncBackend,
    documents,
    everything,
    order,
    request,
    run_in_two_loops,
)


def test_is_a_compressor_and_a_runnable():
    assert isinstance(everything(), BaseDocumentCompressor)
    assert isinstance(everything(), Runnable)


def test_works_in_a_chain():
    retrieve = RunnableLambda(lambda query: documents())
    chain = {"documents": retrieve, "query": RunnablePassthrough()} | everything(2) | order

    assert [2, 1] == chain.invoke(QUERY)
    assert [2, 1] == asyncio.run(chain.ainvoke(QUERY))
    assert [[2, 1], [0, 2]] == chain.batch([QUERY, "capital of trees"])
    assert [2, 1] == list(chain.stream(QUERY))[-1]
    assert "RerankCompressor" in chain.get_graph().draw_mermaid()


@pytest.mark.parametrize(
    "others",
    [
        {"chat_history": [], "answer": ""},
        {"question": "another", "context": "text", "k": 1},
        {"messages": [object()], "steps": 3, "config": {"model": "gpt"}},
    ],
)
def test_the_rest_of_a_state_is_ignored(others):
    state = others | request(top_n=1)
    before = dict(state)

    with collect_runs() as runs:
        assert BEST_FIRST[:1] == order(everything().invoke(state))
    assert BEST_FIRST[:1] == order(asyncio.run(everything().ainvoke(state)))
    assert before == state
    assert {"documents", "query", "top_n", "min_score"} == set(runs.traced_runs[0].inputs)


@pytest.mark.parametrize("name", ["top_k", "score_threshold", "similarity_cutoff"])
def test_a_misnamed_setting_in_a_state_is_refused(name):
    with pytest.raises(ConfigError, match=f"`{name}` is called `(top_n|min_score)` here"):
        everything().invoke(request(**{name: 1}))


def test_describes_its_input_and_output():
    assert {"documents", "query", "top_n", "min_score"} == set(
        everything().get_input_jsonschema()["$defs"]["RerankInput"]["properties"]
    )
    assert "array" == everything().get_output_jsonschema()["type"]


def test_settings_for_one_call():
    compressor = everything(top_n=4)

    assert BEST_FIRST[:1] == order(compressor.invoke(request(top_n=1)))
    assert BEST_FIRST[:1] == order(compressor.invoke(request(top_n=3), top_n=1))
    assert BEST_FIRST[:1] == order(compressor.bind(top_n=1).invoke(request()))
    assert BEST_FIRST == order(compressor.invoke(request(top_n=None)))
    assert [] == order(compressor.invoke(request(top_n=0)))
    assert BEST_FIRST[:2] == order(compressor.invoke(request(min_score=0.5)))
    assert BEST_FIRST[:4] == order(compressor.invoke(request()))


def test_configurable_fields():
    compressor = everything(top_n=4).configurable_fields(
        top_n=ConfigurableField(id="top_n"), min_score=ConfigurableField(id="min_score")
    )

    def found(**configurable):
        return order(compressor.invoke(request(), {"configurable": configurable}))

    assert BEST_FIRST[:4] == found()
    assert BEST_FIRST[:1] == found(top_n=1)
    assert BEST_FIRST[:2] == found(top_n=None, min_score=0.5)
    with pytest.raises(ConfigError, match="top_n"):
        found(top_n=-1)


def test_configurable_alternatives_swap_local_for_remote():
    compressor = everything(1).configurable_alternatives(
        ConfigurableField(id="where"), default_key="here", there=everything(2)
    )

    assert [2] == order(compressor.invoke(request()))
    assert [2, 1] == order(compressor.invoke(request(), {"configurable": {"where": "there"}}))


def test_batch_keeps_requests_apart():
    requests = [request(top_n=n % 6) for n in range(40)]
    compressor = everything()
    expected = [BEST_FIRST[: n % 6] for n in range(40)]

    async def gather():
        return await asyncio.gather(*(compressor.ainvoke(one) for one in requests))

    assert expected == [order(ranked) for ranked in compressor.batch(requests)]
    assert expected == [order(ranked) for ranked in asyncio.run(compressor.abatch(requests))]
    assert expected == [order(ranked) for ranked in asyncio.run(gather())]
    with ThreadPoolExecutor(8) as pool:
        assert expected == [order(ranked) for ranked in pool.map(compressor.invoke, requests)]


def test_batch_can_return_exceptions():
    good, bad = everything().batch([request(), request(top_n=-1)], return_exceptions=True)

    assert BEST_FIRST == order(good)
    assert isinstance(bad, ConfigError)


def test_async_calls_use_the_backends_own():
    backend = AsyncBackend()
    compressor = RerankCompressor(backend)

    async def ask():
        ranked = await compressor.acompress_documents(documents(), QUERY)
        assert backend.thread is threading.current_thread()
        return order(ranked)

    assert (BEST_FIRST[:3], BEST_FIRST[:3]) == run_in_two_loops(ask)


def test_the_name_of_the_backend_is_not_read():
    """It may load a model: too early for empty input, and not on the event loop."""

    class Slow(AsyncBackend):
        name = property(lambda self: pytest.fail("asked for the name"))

        def __repr__(self):
            return "<Slow>"

    compressor = RerankCompressor(Slow())

    assert [] == compressor.compress_documents([], QUERY)
    assert BEST_FIRST[:3] == order(asyncio.run(compressor.ainvoke(request())))
    assert "<Slow>" in repr(compressor)


def test_cancelling_reaches_the_backend_and_the_caller():
    outcome = []
    scoring = asyncio.Event()

    class Endless(FakeBackend):
        async def ascore(self, query, documents):
            scoring.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                outcome.append("backend")
                raise

    async def ask():
        with collect_runs() as runs:
            task = asyncio.create_task(RerankCompressor(Endless()).ainvoke(request()))
            await scoring.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            (run,) = runs.traced_runs
            assert "CancelledError" in run.error

    asyncio.run(ask())

    assert ["backend"] == outcome


def test_timeout_around_a_call_is_a_timeout():
    class Endless(FakeBackend):
        async def ascore(self, query, documents):
            await asyncio.sleep(3600)

    async def ask():
        retriever = RerankRetriever(RunnableLambda(lambda q: documents()), backend=Endless())
        async with asyncio.timeout(0.01):
            await retriever.ainvoke(QUERY)

    with pytest.raises(TimeoutError):
        asyncio.run(ask())
