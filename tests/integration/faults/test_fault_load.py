"""A thousand callers share one backend: all get their own scores, and nothing is left over."""

import asyncio
import time

import pytest

from rerank_plugins import BackendTimeout
from rerank_plugins._internal import context as _context
from tests.benchmarks.loopback import score_of, serving
from tests.integration.faults.census import other_tasks, resident, sockets
from tests.integration.faults.surfaces import TEXTS, chain

CALLERS = 1_000
CONNECTIONS = 100
"""As many as a backend opens at most."""


@pytest.mark.parametrize(
    ("calls", "growth"),
    [
        (1_200, 16 * 2**20),
        pytest.param(50_000, 8 * 2**20, marks=[pytest.mark.nightly, pytest.mark.timeout(1800)]),
    ],
)
async def test_a_thousand_callers_at_once_leave_nothing(calls, growth):
    """Memory is compared after a quarter of the calls and at the end."""
    max_sockets = memory = 0
    with serving() as url:
        before = sockets()
        spec = {"kind": "cohere", "base_url": url, "model": "m", "timeout": 120.0}
        backend = chain(spec, retry={"deadline": 120.0}, breaker={})
        numbers = iter(range(calls))

        async def work():
            nonlocal max_sockets, memory
            for number in numbers:
                query = f"panda {number}"
                scores = await backend.ascore(query, TEXTS)
                assert [score_of(query, text) for text in TEXTS] == scores
                if number == calls // 4:
                    memory = resident()
                if number % (calls // 10) == 0:
                    max_sockets = max(max_sockets, sockets())

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(work())
        grown = resident() - memory

        assert set() == other_tasks()
        assert 1 < max_sockets - before <= CONNECTIONS
        assert grown <= growth
        await backend.aclose()
        assert sockets() <= before


async def test_callers_are_served_in_the_order_in_which_they_came():
    """Those who wait for a connection do not overtake each other."""
    ended = []
    with serving(delay=0.05) as url:
        spec = {"kind": "cohere", "base_url": url, "model": "m", "timeout": 60.0}
        async with chain(spec) as backend:

            async def call(number):
                await backend.ascore(f"panda {number}", TEXTS)
                ended.append(number)

            await asyncio.gather(*[call(number) for number in range(2 * CONNECTIONS)])

    rounds = [number // CONNECTIONS for number in ended]
    early = [late - one for one, late in zip(sorted(rounds), rounds, strict=True)]
    assert max(early) <= 1


async def test_the_wait_for_a_connection_ends_with_the_deadline():
    with serving(delay=600.0) as url:
        spec = {"kind": "cohere", "base_url": url, "model": "m", "timeout": 600.0}
        async with chain(spec) as backend:
            calls = [backend.ascore(f"panda {n}", TEXTS) for n in range(CONNECTIONS)]
            others = [asyncio.create_task(call) for call in calls]
            await asyncio.sleep(0)
            with (
                _context.until(time.monotonic() + 0.1),
                pytest.raises(BackendTimeout, match="stage: queue"),
            ):
                await backend.ascore("panda", TEXTS)
            for call in others:
                call.cancel()
            await asyncio.wait(others)
