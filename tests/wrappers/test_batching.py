"""The backend whose callers share batches."""

import asyncio

import pytest

from rerank_plugins import BackendUnavailable, ConfigError
from rerank_plugins.testing import BackendContract, FailingBackend, FakeBackend
from rerank_plugins.wrappers.batching import BatchingBackend


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


def test_it_is_named_and_scaled_as_what_it_wraps():
    with BatchingBackend(FakeBackend(name="inner", scale="logit")) as backend:
        assert ("inner", "logit") == (backend.name, backend.scale)
        assert 16_384 == backend.describe()["batching"]["batch_tokens"]


def test_errors_of_the_wrapped_backend_pass():
    with (
        BatchingBackend(FailingBackend(BackendUnavailable("down"))) as backend,
        pytest.raises(BackendUnavailable, match="down"),
    ):
        backend.score("q", ["a"])


def test_a_listwise_backend_is_refused():
    listwise = FakeBackend()
    listwise.cacheable = False

    with pytest.raises(ConfigError, match="by its neighbours"):
        BatchingBackend(listwise)


@pytest.mark.parametrize("option", ["batch_tokens", "queue_tokens", "max_length"])
def test_limits_are_positive(option):
    with pytest.raises(ConfigError, match=f"`{option}` must be at least 1, not 0"):
        BatchingBackend(FakeBackend(), **{option: 0})


def test_closing_closes_what_it_wraps():
    wrapped = FakeBackend()
    BatchingBackend(wrapped).close()

    assert 1 == wrapped.closed
