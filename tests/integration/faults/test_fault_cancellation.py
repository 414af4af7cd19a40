"""Cancelled calls leave nothing behind, through every interface."""

import asyncio
import random

import pytest

from rerank_plugins import rank
from tests.benchmarks.loopback import score_of, serving
from tests.integration.faults.census import other_tasks, sockets
from tests.integration.faults.surfaces import QUERY, TEXTS, chain
from tests.integration.faults.surfaces import surfaces as on

CALLS, AT_ONCE = 3_000, 100
RANKED = [TEXTS[item.index] for item in rank([score_of(QUERY, text) for text in TEXTS])]


@pytest.fixture(scope="module")
def slow_server():
    """A server that answers after 20 ms, in a process of its own."""
    with serving(delay=0.02) as url:
        yield url


def backend_of(url):
    """With everything around it that counts: a retry budget, a circuit, a cache."""
    spec = {"kind": "cohere", "base_url": url, "model": "m"}
    return chain(spec, retry={}, breaker={"failures": 2}, cache={"store": "memory"})


@pytest.mark.parametrize("surface", on(modes=["async"]))
async def test_thousands_of_cancelled_calls_leave_nothing(slow_server, surface):
    """No task, no socket, no open circuit, and no caller that waits forever."""
    chance = random.Random(0)
    cancelled = 0
    backend = backend_of(slow_server)
    before = sockets()
    calls = CALLS if surface.name == "bare" else CALLS // 5
    for turn in range(calls // AT_ONCE):
        # Every other call is one that others make too, so that some wait for each other.
        queries = [f"{QUERY} {turn} {number * (number % 2)}" for number in range(AT_ONCE)]
        tasks = [
            asyncio.create_task(surface.in_loop(backend, TEXTS, query=query)) for query in queries
        ]
        await asyncio.sleep(chance.uniform(0, 0.03))
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled += sum(isinstance(one, asyncio.CancelledError) for one in ended)
        assert not [one for one in ended if isinstance(one, Exception)]

    assert cancelled > calls / 3
    assert set() == other_tasks()
    ranked = await surface.in_loop(backend)  # the circuit is closed, the pool has room
    assert RANKED == [text for text, *_ in ranked]
    await backend.aclose()
    assert sockets() <= before


@pytest.mark.parametrize("surface", on("langchain", "llama_index", modes=["async"]))
async def test_the_original_order_does_not_hide_a_cancellation(slow_server, surface):
    backend = backend_of(slow_server)
    call = asyncio.create_task(surface.in_loop(backend, on_error="original_order"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await backend.aclose()


@pytest.mark.parametrize("surface", on(modes=["async"]))
async def test_a_caller_with_less_time_than_we_have_gets_its_own_error(slow_server, surface):
    """`asyncio.timeout` around a call is the caller's, and stays a `TimeoutError` of Python."""
    backend = backend_of(slow_server)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await surface.in_loop(backend)
    await backend.aclose()
