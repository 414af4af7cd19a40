"""The backend whose callers share batches."""

import asyncio
import threading

import pytest

from rerank_plugins import BackendUnavailable, ConfigError
from rerank_plugins.hooks import Truncated
from rerank_plugins.hooks._dispatch import emit
from rerank_plugins.testing import BackendContract, FailingBackend, FakeBackend
from rerank_plugins.wrappers.batching import BatchingBackend
from rerank_plugins.wrappers.instrument import InstrumentedBackend


class TestBatchingBackend(BackendContract):
    def make_backend(self):
        return BatchingBackend(FakeBackend())


def test_concurrent_calls_share_calls_of_the_wrapped_backend():
    class Counting(FakeBackend):
        batches = 0

        def score_many(self, requests):
            self.batches += 1
            return super().score_many(requests)

    wrapped = Counting()

    async def gather():
        calls = (backend.ascore(f"q{n}", ["a", "b"]) for n in range(50))
        return await asyncio.gather(*calls)

    with BatchingBackend(wrapped) as backend:
        assert 50 == len(asyncio.run(gather()))
    assert 50 == len(wrapped.calls)
    assert wrapped.batches < 50


def test_name_and_scale_are_those_of_the_wrapped_backend():
    with BatchingBackend(FakeBackend(name="inner", scale="logit")) as backend:
        assert ("inner", "logit") == (backend.name, backend.scale)
        assert 16_384 == backend.describe()["batching"]["batch_tokens"]


def test_errors_of_the_wrapped_backend_are_raised():
    with (
        BatchingBackend(FailingBackend(BackendUnavailable("down"))) as backend,
        pytest.raises(BackendUnavailable, match="down"),
    ):
        backend.score("q", ["a"])


def test_hooks_of_each_call_receive_the_events_of_its_batch():
    """To each hook once, however many of its calls share the batch; to no others."""
    begun, go_on = threading.Event(), threading.Event()

    class Telling(FakeBackend):
        def score_many(self, requests):
            begun.set()
            assert go_on.wait(30)
            emit(Truncated(len(requests)))
            return super().score_many(requests)

    shared = BatchingBackend(Telling())
    heard = {"first": [], "one": [], "other": [], "silent": []}
    first, one, other, _ = (
        InstrumentedBackend(shared, hooks=[events.append]) for events in heard.values()
    )

    async def gather():
        calls = [asyncio.create_task(first.ascore("q", ["a"]))]
        assert await asyncio.to_thread(begun.wait, 30)
        calls += [asyncio.create_task(each.ascore("q", ["a"])) for each in (one, one, other)]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*calls)

    with shared:
        asyncio.run(gather())
        shared.score("q", ["a"])  # nobody listens

    cut = {
        name: [event.documents for event in events if isinstance(event, Truncated)]
        for name, events in heard.items()
    }
    assert {"first": [1], "one": [3], "other": [3], "silent": []} == cut


def test_a_listwise_backend_is_refused():
    listwise = FakeBackend()
    listwise.pointwise = False

    with pytest.raises(ConfigError, match="in view of the others"):
        BatchingBackend(listwise)


@pytest.mark.parametrize("option", ["batch_tokens", "queue_tokens", "max_length"])
def test_limits_are_positive(option):
    with pytest.raises(ConfigError, match=f"`{option}` must be an integer of at least 1, not 0"):
        BatchingBackend(FakeBackend(), **{option: 0})


def test_closing_closes_the_wrapped_backend():
    wrapped = FakeBackend()
    BatchingBackend(wrapped).close()

    assert 1 == wrapped.closed
