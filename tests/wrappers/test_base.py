"""Flows and their two drivers."""

import asyncio
import threading
from concurrent.futures import Future

import pytest

from rerank_plugins import BackendUnavailable, UnsupportedInputError
from rerank_plugins.testing import BackendContract, FailingBackend, FakeBackend
from rerank_plugins.wrappers.base import Blocking, Call, Sleep, Wait, WrapperBackend
from tests.support.asking import ascore


class Passing(WrapperBackend):
    def flow(self, requests):
        return (yield Call(self.wrapped, requests))


class Stepping(WrapperBackend):
    """Takes every kind of step, and notes what it gets."""

    def __init__(self, wrapped, future):
        super().__init__(wrapped)
        self.future = future
        self.seen = []

    def flow(self, requests):
        self.seen.append((yield Sleep(0.0)))
        self.seen.append((yield Wait(self.future)))
        self.seen.append((yield Blocking(threading.get_ident)))
        try:
            yield Call(FailingBackend(BackendUnavailable("down")), requests)
        except BackendUnavailable as error:
            self.seen.append(str(error))
        return (yield Call(self.wrapped, requests))


class TestPassing(BackendContract):
    def make_backend(self):
        return Passing(FakeBackend())


def test_a_flow_gets_the_result_of_each_step(ask):
    done = Future()
    done.set_result("done")
    backend = Stepping(FakeBackend(), done)

    assert [1.0, 0.0] == ask(backend)
    slept, waited, thread, caught = backend.seen
    assert (None, "done", "down") == (slept, waited, caught)
    assert (ask is ascore) == (thread != threading.get_ident())


def test_an_error_the_flow_does_not_catch_reaches_the_caller(ask):
    with pytest.raises(BackendUnavailable, match="down"):
        ask(Passing(FailingBackend(BackendUnavailable("down"))))


def test_input_is_checked_before_the_flow_starts():
    wrapped = FakeBackend()
    with pytest.raises(UnsupportedInputError):
        Passing(wrapped).score("q", [None])
    with pytest.raises(UnsupportedInputError):
        asyncio.run(Passing(wrapped).ascore("q", [None]))

    assert [] == wrapped.calls


def test_cancellation_reaches_the_flow():
    seen = []

    class Sleeping(WrapperBackend):
        def flow(self, requests):
            try:
                yield Sleep(60.0)
            finally:
                seen.append("cleaned up")
            return (yield Call(self.wrapped, requests))

    async def cancel():
        task = asyncio.create_task(Sleeping(FakeBackend()).ascore("q", ["a"]))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())
    assert ["cleaned up"] == seen


def test_cancelling_a_waiting_caller_does_not_cancel_the_shared_call():
    shared = Future()

    async def give_up():
        task = asyncio.create_task(Stepping(FakeBackend(), shared).ascore("q", ["a"]))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(give_up())
    assert not shared.cancelled()


def test_other_attributes_are_those_of_the_wrapped_backend():
    wrapped = FakeBackend(name="inner", scale="logit")
    wrapped.cacheable = False
    with Passing(wrapped) as backend:
        assert ("inner", "logit", False) == (backend.name, backend.scale, backend.cacheable)
        assert wrapped.describe() == backend.describe()
        assert "<Passing <FakeBackend inner>>" == repr(backend)
    assert 1 == wrapped.closed
