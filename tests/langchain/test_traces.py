"""The runs that LangChain traces for a call."""

import asyncio

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.runnables import (
    RunnableLambda,
)
from langchain_core.tracers.context import collect_runs

from rerank_plugins import (
    BackendOverloaded,
)
from rerank_plugins.langchain import RerankCompressor
from rerank_plugins.testing import FailingBackend
from tests.langchain.retrieval import (
    QUERY,
    documents,
    everything,
    order,
    request,
    tree,
)


def test_each_call_is_one_run():
    compressor = everything(2)

    async def ask():
        await compressor.ainvoke(request())
        await compressor.acompress_documents(documents(), QUERY)

    with collect_runs() as runs:
        compressor.invoke(request())
        compressor.compress_documents(documents(), QUERY)
        asyncio.run(ask())

    assert ["RerankCompressor"] * 4 == [tree(run) for run in runs.traced_runs]
    for run in runs.traced_runs:
        assert {**request(), "top_n": 2, "min_score": None} == run.inputs
        assert [2, 1] == order(run.outputs["output"])
        assert "fake" == run.metadata["rerank_backend"]
        assert "probability" == run.metadata["rerank_scale"]


def test_run_can_be_named():
    with collect_runs() as runs:
        everything(name="second stage").invoke(request())
        everything().invoke(
            request(), {"run_name": "this time", "tags": ["t"], "metadata": {"m": 1}}
        )

    assert ["second stage", "this time"] == [run.name for run in runs.traced_runs]
    assert ["t"] == runs.traced_runs[1].tags
    assert 1 == runs.traced_runs[1].metadata["m"]
    assert "fake" == runs.traced_runs[1].metadata["rerank_backend"]


def test_failing_call_is_a_failed_run():
    compressor = RerankCompressor(FailingBackend(BackendOverloaded("busy")))

    with collect_runs() as runs:
        with pytest.raises(BackendOverloaded):
            compressor.compress_documents(documents(), QUERY)
        with pytest.raises(BackendOverloaded):
            asyncio.run(compressor.acompress_documents(documents(), QUERY))

    assert 2 == len(runs.traced_runs)
    assert all("busy" in run.error for run in runs.traced_runs)
    assert all(run.end_time for run in runs.traced_runs)


def test_callbacks_given_to_the_compressor_are_called():
    seen = []

    class Sync(BaseCallbackHandler):
        def on_chain_start(self, serialized, inputs, **kwargs):
            seen.append(("start", kwargs["name"]))

        def on_chain_end(self, outputs, **kwargs):
            seen.append(("end", order(outputs)))

    class Async(AsyncCallbackHandler):
        async def on_chain_end(self, outputs, **kwargs):
            seen.append(("async end", order(outputs)))

    everything(1).compress_documents(documents(), QUERY, [Sync()])
    assert [("start", "RerankCompressor"), ("end", [2])] == seen

    seen.clear()
    asyncio.run(everything(1).acompress_documents(documents(), QUERY, callbacks=[Async()]))
    assert [("async end", [2])] == seen


def test_call_without_callbacks_joins_the_run_around_it():
    """A compressor called by hand in a chain's function is seen too."""
    compressor = everything()
    outer = RunnableLambda(lambda q: compressor.compress_documents(documents(), q)).with_config(
        run_name="outer"
    )

    with collect_runs() as runs:
        outer.invoke(QUERY)

    assert [{"outer": ["RerankCompressor"]}] == [tree(run) for run in runs.traced_runs]


def test_events_can_be_streamed():
    async def events():
        return [
            (event["event"], order(event["data"]["output"]) if "output" in event["data"] else None)
            async for event in everything(1).astream_events(request(), version="v2")
            if event["name"] == "RerankCompressor"
        ]

    assert ("on_chain_start", None) == asyncio.run(events())[0]
    assert ("on_chain_end", [2]) == asyncio.run(events())[-1]
