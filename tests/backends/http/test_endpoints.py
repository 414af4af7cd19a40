"""Several servers of one model: balancing, circuits and recovery, without losing requests."""

import asyncio
import contextlib
import copy
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_plugins import (
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
    load_backend,
)
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.backends.http.endpoints import Endpoint, Endpoints
from rerank_plugins.hooks import BreakerChanged, CallStarted
from rerank_plugins.hooks._dispatch import observe_call
from rerank_plugins.testing import (
    BackendContract,
    FakeBackend,
    FakeResponse,
    FakeServer,
    serve_dialect,
    silence,
    word_overlap,
)
from rerank_plugins.wrappers.instrument import InstrumentedBackend
from tests.backends.http.remote import DOCUMENTS, EXPECTED, QUERY

DEAD = "http://127.0.0.1:9"  # nobody listens on the port "discard"


@pytest.fixture
def three():
    """Three servers that work."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakeServer(serve_dialect("tei"))) for _ in range(3)]


def backend_of(endpoints, **options):
    urls = [getattr(fake_server, "url", fake_server) for fake_server in endpoints]
    return HTTPBackend(dialect="tei", endpoints=urls, **options)


def states(backend):
    return [server["state"] for server in backend.describe()["endpoints"]]


class TestSeveral(BackendContract):
    @pytest.fixture(autouse=True)
    def _serve(self, three):
        self.three = three

    def make_backend(self):
        return backend_of(self.three)


# Whom to ask.


class World:
    """Servers without a network, on a manual clock."""

    def __init__(self, count=2):
        self.now = 1000.0
        self.servers = [
            Endpoint(f"http://h{number}/rerank", dialect="tei", clock=self.clock)
            for number in range(count)
        ]
        self.group = Endpoints(self.servers, self.clock)

    def clock(self):
        return self.now

    def ask(self, error=None, *, seconds=0.0, status=None, tried=()):
        """Choose a server, end its request with `error`, and return the server."""
        with contextlib.suppress(BackendError), self.group.attempt(tried, 1) as (server, facts):
            self.now += seconds
            facts.status_code = status
            if callable(error):
                error = error(server)
            if error is not None:
                raise error
        return server

    def fail(self, server, error, **facts):
        """Record a failure of one server."""
        others = [other for other in self.servers if other is not server]
        assert server is self.ask(error, tried=others, **facts)

    def asked(self, count=200):
        return {self.ask() for _ in range(count)}


@pytest.fixture
def world():
    return World()


def test_requests_are_spread_over_all_servers():
    world = World(3)
    counts = Counter(world.ask().label for _ in range(900))

    assert 3 == len(counts)
    assert min(counts.values()) > 200


def test_the_less_busy_of_two_servers_is_chosen(world):
    busy, idle = world.servers
    busy.in_flight = 3

    assert {idle} == world.asked()


def test_requests_in_flight_spread_evenly():
    """Power of two choices: no server is far behind the others."""
    random.seed(0)
    world = World(10)
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(world.group.attempt((), 1))
        in_flight = [server.in_flight for server in world.servers]

        assert max(in_flight) - min(in_flight) <= 6
    assert [0] * 10 == [server.in_flight for server in world.servers]


REFUSED = BackendUnavailable("refused")
AT_ONCE = {
    "it can't be reached": (REFUSED, {}),
    "it hangs": (BackendTimeout("silent"), {"seconds": 5.0}),
}


@pytest.mark.parametrize("case", AT_ONCE)
def test_a_dead_server_opens_its_circuit_at_once(world, case):
    dead, alive = world.servers
    error, facts = AT_ONCE[case]
    world.fail(dead, error, **facts)

    assert ("open", "closed") == (dead.circuit.state, alive.circuit.state)
    assert {alive} == world.asked()


IN_A_ROW = {
    "500": (BackendUnavailable("500"), {"status": 500}),
    "504": (BackendTimeout("504"), {"status": 504}),
    "a caller in a hurry": (BackendTimeout("late"), {"seconds": 0.01}),
    "nonsense": (InvalidResponse("no JSON"), {"status": 200}),
}


@pytest.mark.parametrize("case", IN_A_ROW)
def test_three_consecutive_error_responses_open_a_servers_circuit(world, case):
    broken, alive = world.servers
    error, facts = IN_A_ROW[case]
    for _ in range(2):
        world.fail(broken, error, **facts)
        assert "closed" == broken.circuit.state
    world.fail(broken, None)
    for _ in range(3):
        assert "closed" == broken.circuit.state
        world.fail(broken, error, **facts)

    assert "open" == broken.circuit.state
    assert {alive} == world.asked()


NEUTRAL = [
    *(BackendRejected("400"), BackendError("424"), BackendOverloaded("429")),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("error", NEUTRAL, ids=repr)
def test_errors_that_are_not_the_servers_leave_its_circuit_closed(world, error):
    server, _ = world.servers
    for _ in range(5):
        with contextlib.suppress(asyncio.CancelledError):
            world.fail(server, error, status=400)

    assert "closed" == server.circuit.state
    assert 0 == server.in_flight


@pytest.mark.parametrize(("wish", "rest"), [(5.0, 5.0), (31_536_000.0, 30.0)])
def test_retry_after_pauses_a_server(world, wish, rest):
    busy, idle = world.servers
    world.fail(busy, BackendOverloaded("429", retry_after=wish), status=429)
    assert {idle} == world.asked()
    world.now += rest

    assert busy in world.asked()


def test_one_successful_probe_brings_a_server_back(world):
    dead, alive = world.servers
    world.fail(dead, REFUSED)
    world.now += 1.0

    def look(server):
        if server is dead:
            assert "half_open" == dead.circuit.state
            assert {alive} == world.asked(50)

    while world.ask(look) is not dead:
        pass
    assert "closed" == dead.circuit.state


def test_a_dead_server_is_probed_less_and_less_often(world):
    dead, _ = world.servers
    rests = []
    for _ in range(7):
        world.fail(dead, REFUSED)
        rests.append(dead.circuit.retry_after)
        world.now += dead.circuit.retry_after

    assert [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0] == rests


LATE = {
    "a cancellation": asyncio.CancelledError(),
    "a failure": REFUSED,
    "a refusal": BackendRejected("400"),
    "a success": None,
    "an overload": BackendOverloaded("429", retry_after=5.0),
}


@pytest.mark.parametrize("case", LATE)
def test_the_result_of_an_old_request_is_not_that_of_the_probe(world, case):
    """It was sent before the circuit opened, so it says nothing about its current state."""
    dead, alive = world.servers
    with contextlib.ExitStack() as old, contextlib.ExitStack() as probe:
        old.enter_context(world.group.attempt([alive], 1))
        world.fail(dead, REFUSED)
        world.now += 1.0
        probe.enter_context(world.group.attempt([alive], 1))
        assert ("half_open", 2) == (dead.circuit.state, dead.in_flight)
        with contextlib.suppress(BackendError, asyncio.CancelledError), old:
            if LATE[case] is not None:
                raise LATE[case]

        assert ("half_open", 1) == (dead.circuit.state, dead.in_flight)
        assert {alive} == world.asked()
    assert "closed" == dead.circuit.state


@pytest.mark.parametrize("error", [None, REFUSED, BackendRejected("400")], ids=repr)
@pytest.mark.parametrize("count", [1, 2])
def test_requests_in_flight_are_counted_whatever_the_number_of_servers(count, error):
    world = World(count)
    server, *others = world.servers
    with contextlib.suppress(BackendError), contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(world.group.attempt(others, 1))
        assert 3 == server.in_flight == server.describe()["in_flight"]
        if error is not None:
            raise error

    assert 0 == server.in_flight


def test_requests_that_fail_together_count_as_one_failure(world):
    dead, alive = world.servers
    with contextlib.suppress(BackendError), contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(world.group.attempt([alive], 1))
        assert 8 == dead.in_flight
        raise REFUSED

    assert 0 == dead.in_flight
    assert 1.0 == dead.circuit.retry_after


def test_if_all_circuits_are_open_all_servers_are_used(world):
    for server in world.servers:
        world.fail(server, REFUSED)
    with contextlib.ExitStack() as stack:
        asked = [stack.enter_context(world.group.attempt((), 1))[0] for _ in range(20)]

        assert set(world.servers) == set(asked)


def test_hooks_receive_changes_of_state(world):
    dead, _ = world.servers
    events = []

    class Asking(FakeBackend):
        def score(self, query, documents):
            world.fail(dead, REFUSED)
            world.now += 1.0
            world.fail(dead, None)
            return super().score(query, documents)

    InstrumentedBackend(Asking(), hooks=[events.append]).score("q", ["a"])
    changes = [event for event in events if isinstance(event, BreakerChanged)]

    assert ["open", "half_open", "closed"] == [event.state for event in changes]
    assert {"h0:80"} == {event.endpoint for event in changes}


def test_an_interrupted_hook_leaves_no_request_in_flight(world):
    """Ctrl-C while a hook receives the event of the probe."""

    def interrupt(event):
        if isinstance(event, BreakerChanged):
            raise KeyboardInterrupt

    dead, alive = world.servers
    world.fail(dead, REFUSED)
    world.now += 1.0
    with (
        observe_call((interrupt,), CallStarted("library", "", None, 1, 1)),
        pytest.raises(KeyboardInterrupt),
    ):
        world.ask(tried=[alive])

    assert ("open", 0) == (dead.circuit.state, dead.in_flight)
    world.fail(dead, None)
    assert "closed" == dead.circuit.state


def test_the_circuit_of_a_single_server_never_opens():
    world = World(1)
    for _ in range(10):
        world.fail(world.servers[0], REFUSED)

    assert "closed" == world.servers[0].circuit.state


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_count_the_parents_requests(world):
    with world.group.attempt((), 1) as (server, _):
        pid = os.fork()
        if pid == 0:
            world.ask()
            os._exit(server.in_flight)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Nothing is lost.


def test_a_dead_server_costs_one_attempt(three, ask):
    backend = backend_of([DEAD, three[0]])
    for _ in range(5):
        assert EXPECTED == ask(backend)

    assert 5 == len(three[0].requests)


@pytest.mark.parametrize("status", [424, 429, 500, 502, 503])
def test_another_server_is_tried_when_one_fails(three, ask, status):
    three[0].response = FakeResponse({"error": "no"}, status)
    backend = backend_of(three[:2])

    assert [EXPECTED] * 8 == [ask(backend) for _ in range(8)]


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_raised_at_once(three, ask, status):
    for fake_server in three:
        fake_server.response = FakeResponse({"error": "no"}, status)

    with pytest.raises(BackendRejected):
        ask(backend_of(three))

    assert 1 == sum(len(fake_server.requests) for fake_server in three)


def test_a_silent_server_gets_half_of_the_deadline(three, ask):
    three[0].response = silence
    backend = backend_of(three[:2], timeout=2.5)
    for _ in range(4):
        assert EXPECTED == ask(backend)

    assert len(three[0].requests) <= 2  # it is left alone then, and tried out at most once


def test_each_part_may_go_to_another_server(three, ask):
    three[0].response = FakeResponse({"error": "no"}, 500)
    documents = [f"panda {number}" if number % 3 else "hi" for number in range(320)]

    assert [word_overlap(QUERY, text) for text in documents] == ask(backend_of(three), documents)


def test_if_all_servers_are_dead_one_error_names_the_attempts(ask):
    with pytest.raises(BackendUnavailable, match="no connection") as caught:
        ask(backend_of([DEAD, "http://127.0.0.1:10", "http://localhost:9"]))

    assert 2 == len([note for note in caught.value.__notes__ if note.startswith("before that")])


def test_a_request_goes_to_three_servers_at_most(ask):
    """A request that crashes servers must not crash them all."""
    with contextlib.ExitStack() as stack:
        five = [stack.enter_context(FakeServer(FakeResponse(b"", 500))) for _ in range(5)]
        with pytest.raises(BackendUnavailable):
            ask(backend_of(five))

        assert 3 == sum(len(fake_server.requests) for fake_server in five)


def test_many_threads_share_the_servers(three):
    with backend_of(three) as backend, ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: backend.score(QUERY, DOCUMENTS), range(300)))
        in_flight = [server["in_flight"] for server in backend.describe()["endpoints"]]

    assert [EXPECTED] * 300 == results
    assert [0, 0, 0] == in_flight
    assert min(len(fake_server.requests) for fake_server in three) > 50


def test_cancelled_calls_are_no_longer_in_flight(three):
    for fake_server in three:
        fake_server.response = silence

    async def cancel():
        async with backend_of(three) as backend:
            tasks = [asyncio.create_task(backend.ascore(QUERY, DOCUMENTS)) for _ in range(30)]
            await asyncio.sleep(0.2)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            return done, backend.describe()["endpoints"]

    done, servers = asyncio.run(cancel())

    assert {asyncio.CancelledError} == {type(result) for result in done}
    assert [(0, "closed")] * 3 == [(server["in_flight"], server["state"]) for server in servers]


# Real processes, killed for real.

SERVER = """
import sys, time
from rerank_plugins.testing import FakeServer, serve_dialect
answer = serve_dialect("tei")
with FakeServer(lambda received: (time.sleep(0.002), answer(received))[1]) as fake_server:
    print(fake_server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def processes():
    """Three servers in processes of their own."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in started:
        process.url = process.stdout.readline().strip()
    yield started
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_nothing_is_lost_when_a_server_dies_under_load(processes, how, way):
    number = getattr(signal, how)
    attempts = []
    remote = backend_of(processes, timeout=8)
    backend = InstrumentedBackend(remote, hooks=[attempts.append])
    documents = [f"panda {number}" if number % 3 else "hi" for number in range(20)]
    expected = [word_overlap(QUERY, text) for text in documents]
    calls = 150

    def in_threads():
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda _: backend.score(QUERY, documents), range(calls)))

    async def in_tasks():
        gate = asyncio.Semaphore(8)

        async def one():
            async with gate:
                return await backend.ascore(QUERY, documents)

        async with backend:
            return await asyncio.gather(*(one() for _ in range(calls)))

    killer = threading.Timer(0.1, processes[0].send_signal, [number])
    killer.start()
    results = in_threads() if way == "threads" else asyncio.run(in_tasks())
    killer.join()
    backend.close()

    assert calls == len(results)
    assert all(scores == expected for scores in results)
    opened = [e for e in attempts if isinstance(e, BreakerChanged) and e.state == "open"]
    assert {processes[0].url.removeprefix("http://")} == {event.endpoint for event in opened}
    assert "open" == states(backend)[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_restarted_server_is_used_again(processes):
    with backend_of(processes[:2], timeout=4) as backend:
        processes[0].send_signal(signal.SIGSTOP)
        for _ in range(20):
            backend.score(QUERY, DOCUMENTS)
        assert "open" == states(backend)[0]
        processes[0].send_signal(signal.SIGCONT)
        give_up = time.monotonic() + 30
        while "closed" != states(backend)[0] and time.monotonic() < give_up:
            backend.score(QUERY, DOCUMENTS)
            time.sleep(0.01)

        assert ["closed", "closed"] == states(backend)


# How it is written.


def test_the_name_does_not_depend_on_which_server_answers(three):
    urls = [fake_server.url for fake_server in three]
    one, other = backend_of(urls), backend_of(urls[::-1])

    assert one.name == other.name
    assert all(url in one.name for url in urls)


def test_strings_mappings_and_copies_are_equal(three):
    urls = [fake_server.url for fake_server in three]
    spec = {"kind": "tei", "endpoints": urls, "timeout": 5.0}
    backend = load_backend(spec)

    assert spec == backend.to_spec()
    assert spec == load_backend(f"tei+{','.join(urls)}?timeout=5").to_spec()
    assert spec == pickle.loads(pickle.dumps(backend)).to_spec()
    assert spec == copy.deepcopy(backend).to_spec()


def test_a_file_lists_them(three, tmp_path, ask):
    urls = [fake_server.url for fake_server in three]
    file = tmp_path / "rerank.toml"
    file.write_text(f'[backend]\nkind = "tei"\nendpoints = {urls}\n')

    assert EXPECTED == ask(load_backend(file))


WRONG = {
    "both": {"base_url": "http://a", "endpoints": ["http://b"]},
    "no list": {"endpoints": "http://b"},
    "none": {"endpoints": []},
    "no URL": {"endpoints": ["http://a", "b:80"]},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_lists_are_refused(case):
    with pytest.raises(ConfigError, match=r"base_url|endpoints"):
        HTTPBackend(dialect="tei", **WRONG[case])
