"""One backend in many threads, event loops and processes, through every interface."""

import asyncio
import copy
import gc
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_plugins import rank
from tests.benchmarks.loopback import score_of, serving
from tests.integration.faults.surfaces import QUERY, TEXTS, chain
from tests.integration.faults.surfaces import surfaces as on

THREADS, CALLS = 32, 200


@pytest.fixture(scope="module")
def server():
    with serving() as url:
        yield url


@pytest.fixture
def backend(server):
    spec = {
        "kind": "cohere",
        "base_url": server,
        "model": "m",
        "timeout": 60.0,
        "connect_timeout": 60.0,
    }
    with chain(spec, retry={"deadline": 60.0}, breaker={}) as backend:
        yield backend


def right(query, texts, ranked):
    """Whether these are the scores of this query and these texts, not of another caller's."""
    scores = [score_of(query, text) for text in texts]
    expected = [(texts[item.index], item.score) for item in rank(scores)]
    return expected == [(text, score) for text, score, _ in ranked]


@pytest.mark.parametrize("surface", on(modes=["sync"]))
def test_32_threads_do_not_get_each_others_scores(backend, surface):
    calls = CALLS if surface.name == "bare" else CALLS // 10

    def work(thread):
        for call in range(calls):
            texts = [f"{thread} {call} {number}" for number in range(1 + call % 5)]
            query = f"{QUERY} {thread} {call}"
            if not right(query, texts, surface.sync(backend, texts, query=query)):
                return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert [True] * THREADS == list(pool.map(work, range(THREADS)))


@pytest.mark.parametrize("surface", on(modes=["async"]))
def test_loops_in_threads_do_not_get_each_others_scores(backend, surface):
    async def call(loop, number):
        texts, query = [f"{loop} {number} {n}" for n in range(3)], f"{QUERY} {loop} {number}"
        return right(query, texts, await surface.in_loop(backend, texts, query=query))

    async def main(loop):
        return await asyncio.gather(*[call(loop, number) for number in range(25)])

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda loop: asyncio.run(main(loop)), range(8)):
            assert [True] * 25 == results


@pytest.mark.parametrize("surface", on(modes=["sync"]))
async def test_the_sync_interface_works_inside_a_running_loop(backend, surface):
    """As in a notebook."""
    assert right(QUERY, TEXTS, surface.sync(backend))


@pytest.mark.parametrize("surface", on(modes=["async"]))
def test_one_loop_after_another_also_after_one_that_was_closed_by_hand(backend, surface):
    assert right(QUERY, TEXTS, asyncio.run(surface.in_loop(backend)))
    loop = asyncio.new_event_loop()
    assert right(QUERY, TEXTS, loop.run_until_complete(surface.in_loop(backend)))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert right(QUERY, TEXTS, asyncio.run(surface.in_loop(backend)))
    gc.collect()  # a socket left open would be a warning, which fails tests


@pytest.mark.parametrize("surface", on(modes=["async"]))
async def test_both_interfaces_share_a_backend_in_one_loop(backend, surface):
    waiting = asyncio.create_task(surface.in_loop(backend))
    await asyncio.sleep(0)

    assert right(QUERY, TEXTS, surface.sync(backend))
    assert right(QUERY, TEXTS, await waiting)
    await backend.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("surface", on())
def test_parent_and_child_go_on_after_a_fork(backend, surface):
    """Each on connections of its own; a shared one would mix up their answers."""

    def works(who):
        texts, query = [f"{who} {n}" for n in range(3)], f"{QUERY} {who}"
        return all(right(query, texts, surface.ask(backend, texts, query=query)) for _ in range(20))

    assert works("before")
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if works("child") else 1)
        finally:
            os._exit(2)

    assert works("parent")
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("surface", on())
def test_a_copy_of_a_used_backend_works_independently(backend, surface, copied):
    assert right(QUERY, TEXTS, surface.ask(backend))
    twin = copied(backend)
    backend.close()

    assert right(QUERY, TEXTS, surface.ask(twin))
    twin.close()
