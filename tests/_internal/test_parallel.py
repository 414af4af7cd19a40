"""Threads hand back whatever a model raises as an error that loops and futures can carry."""

import asyncio
import concurrent.futures

import pytest

from rerank_plugins import BackendError
from rerank_plugins._internal.parallel import as_error, in_daemon_thread, in_thread


class PanicException(BaseException):
    """As pyo3 raises it for a panic in Rust."""


MISUNDERSTOOD = [
    StopIteration(),
    SystemExit(3),
    GeneratorExit(),
    PanicException("called `Option::unwrap()` on a `None` value"),
    asyncio.CancelledError(),
    concurrent.futures.CancelledError(),
]
"""What would end a loop, or look like the end of something else."""


def raising(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize("raised", MISUNDERSTOOD, ids=lambda error: type(error).__name__)
def test_what_a_loop_would_misunderstand_is_an_error_of_the_backend(raised):
    async def in_a_loop():
        await asyncio.wait_for(in_thread(raising(raised)), 30)

    message = f"the model failed with {type(raised).__name__}"
    with pytest.raises(BackendError, match=message):
        asyncio.run(in_a_loop())
    with pytest.raises(BackendError, match=message):
        in_daemon_thread(raising(raised), name="test").result(30)


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), StopAsyncIteration()])
def test_other_errors_stay_as_they_are(error):
    assert error is as_error(error)


def test_a_thread_goes_on_when_nobody_waits_for_it_any_more():
    async def leave():
        asyncio.wrap_future(future).cancel()

    release = concurrent.futures.Future()
    future = in_daemon_thread(release.result, name="test")
    asyncio.run(leave())
    release.set_result("done")

    assert "done" == future.result(30)
