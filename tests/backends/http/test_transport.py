"""Connections: broken, encrypted, shared, forked, cancelled, closed."""

import asyncio
import gc
import json
import os
import socket
import ssl
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_plugins import (
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
)
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.testing import (
    FakeResponse,
    FakeServer,
    cut_short,
    drip,
    faults,
    hang_up,
    reset,
    silence,
)
from tests.backends.http.remote import DOCUMENTS, EXPECTED, GOOD, QUERY, make
from tests.support.ports import free_port

FAULTS = {
    "a dripping body": (
        drip(),
        BackendTimeout,
        "stage: total",
    ),
    "a dripping head": (drip(head=True), BackendTimeout, "stage: read"),
    "a reset": (reset, BackendUnavailable, "no connection"),
    "a reply cut short": (cut_short, BackendUnavailable, "no connection"),
    "a server that hangs up": (hang_up, BackendUnavailable, "disconnected"),
    "another protocol": (faults()["not HTTP"], InvalidResponse, "not HTTP"),
    "silence": (
        silence,
        BackendTimeout,
        r"^xinference at http://.*no complete response in 0\.\d+ s \(stage: read\); .*`timeout`",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_broken_connections_are_one_error(fake_server, ask, case):
    fake_server.response, kind, reason = FAULTS[case]

    with pytest.raises(BackendError, match=reason) as caught:
        ask(make(fake_server, timeout=0.3))

    assert kind is type(caught.value)
    assert fake_server.wait_until_idle()


def test_endless_headers_end(fake_server, ask):
    def write(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-More: 1\r\n" * 100_000)

    fake_server.response = lambda received: write

    with pytest.raises(BackendError, match="headers of the response are too long"):
        ask(make(fake_server, timeout=60))


def test_a_closed_port_is_unavailable(ask):
    port = free_port()

    url = f"http://127.0.0.1:{port}"
    reason = rf"tei at {url}/rerank: no connection.* running\? .*rerank-plugins doctor {url}$"
    with pytest.raises(BackendUnavailable, match=reason) as caught:
        ask(HTTPBackend(f"http://127.0.0.1:{port}", dialect="tei"))

    assert BackendUnavailable is type(caught.value)


def test_an_unknown_host_is_unavailable(ask):
    with pytest.raises(BackendUnavailable, match="no connection"):
        ask(HTTPBackend("http://rerank.invalid", dialect="tei"))


def test_a_server_that_does_not_accept_times_out(ask):
    """Its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(address)

        backend = HTTPBackend(f"http://127.0.0.1:{address[1]}", dialect="tei", connect_timeout=0.2)
        with pytest.raises(BackendTimeout, match=r"0.2 s \(stage: connect\).*`connect_timeout`"):
            ask(backend)

        for other in waiting:
            other.close()


def test_a_server_without_tls_is_an_error(fake_server, ask):
    """Another try would fail alike; another server may not."""
    url = fake_server.url.replace("http", "https")

    with pytest.raises(BackendError, match="no trusted encryption") as caught:
        ask(HTTPBackend(url, dialect="tei"))

    assert BackendError is type(caught.value)


def test_only_a_trusted_certificate_is_accepted(authority, ask):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority)
    with FakeServer(FakeResponse(GOOD), tls=context) as fake_server:
        with pytest.raises(BackendError, match=r"CERTIFICATE_VERIFY.*`verify`.*verify=ca.pem"):
            ask(make(fake_server))

        assert EXPECTED == ask(make(fake_server, verify=str(authority[0])))
        assert EXPECTED == ask(make(fake_server, verify=False))


@pytest.mark.parametrize("content", [None, "nothing"])
def test_unreadable_certificates_are_a_config_error(ask, tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match="can't read certificates"):
        ask(HTTPBackend("https://localhost", dialect="tei", verify=str(path)))


def test_cookies_are_not_kept(fake_server):
    fake_server.response = FakeResponse(GOOD, headers={"Set-Cookie": "session=1; Path=/"})
    with make(fake_server) as backend:
        backend.score(QUERY, DOCUMENTS)
        backend.score(QUERY, DOCUMENTS)

    assert "Cookie" not in fake_server.requests[1].headers


def test_the_proxy_of_the_environment_is_used(fake_server, ask, monkeypatch):
    """And it keeps the deadline too."""
    monkeypatch.setenv("HTTP_PROXY", fake_server.url)
    backend = HTTPBackend("http://rerank.example", dialect="xinference", model="m", timeout=0.3)

    assert EXPECTED == ask(backend)
    assert "http://rerank.example/v1/rerank" == fake_server.requests[0].path
    fake_server.response = drip(head=True)
    with pytest.raises(BackendTimeout):
        ask(backend)


def test_an_unusable_proxy_is_a_config_error(fake_server, ask, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "ftp://user:secret@proxy")

    with pytest.raises(ConfigError, match="proxy") as caught:
        ask(make(fake_server))

    assert "secret" not in str(caught.value)


def test_connections_are_reused(fake_server):
    with make(fake_server) as backend:
        for _ in range(5):
            backend.score(QUERY, DOCUMENTS)
    assert 1 == fake_server.connections

    async def main():
        async with make(fake_server) as backend:
            for _ in range(5):
                await backend.ascore(QUERY, DOCUMENTS)

    asyncio.run(main())
    assert 2 == fake_server.connections


@pytest.fixture(params=["sync", "async"])
def ask_often(request):
    """Score again and again over the same connections, with a pause in between."""

    def sync(backend, pauses):
        with backend:
            for pause in pauses:
                assert EXPECTED == backend.score(QUERY, DOCUMENTS)
                time.sleep(pause)

    def in_loop(backend, pauses):
        async def main():
            async with backend:
                for pause in pauses:
                    assert EXPECTED == await backend.ascore(QUERY, DOCUMENTS)
                    await asyncio.sleep(pause)

        asyncio.run(main())

    return sync if request.param == "sync" else in_loop


LENGTH = {"Content-Length": str(len(json.dumps(GOOD)))}


def once(then):
    """Answer the first request of each connection, and do `then` at the second."""

    def behave(received):
        def write(handler):
            if handler in served:
                then(received)(handler)
            else:
                served.add(handler)
                FakeResponse(GOOD).send(handler)

        return write

    served = set()
    return behave


@pytest.mark.parametrize("death", [hang_up, reset])
def test_a_used_connection_that_died_is_replaced(fake_server, ask_often, death):
    """No caller notices; each request that met a dead connection is sent once more."""
    fake_server.response = once(death)
    ask_often(make(fake_server), [0.0] * 6)

    assert 6 + 3 == len(fake_server.requests)
    assert fake_server.wait_until_idle()


def test_a_server_that_closes_idle_connections_is_no_failure(fake_server, ask_often):
    """It closes them after 5 ms, and we ask again after about 5 ms."""

    def write(handler):
        FakeResponse(GOOD).send(handler)
        handler.connection.settimeout(0.005)

    fake_server.response = lambda received: write
    ask_often(make(fake_server), [0.004 + 0.00001 * step for step in range(200)])


def test_the_replacement_is_not_replaced(fake_server, ask_often):
    backend = make(fake_server)

    def die(received):
        return hang_up(received) if len(fake_server.requests) > 1 else FakeResponse(GOOD)

    fake_server.response = die
    with pytest.raises(BackendUnavailable, match="disconnected"):
        ask_often(backend, [0.0, 0.0])

    assert 3 == len(fake_server.requests)


def test_a_new_connection_that_dies_is_a_failure(fake_server, ask):
    fake_server.response = hang_up
    with pytest.raises(BackendUnavailable):
        ask(make(fake_server))

    assert 1 == len(fake_server.requests)


def test_bytes_beyond_the_content_length_are_not_the_next_response(fake_server, ask_often):
    """It is still on the connection when the next request uses that."""
    rest = FakeResponse(json.dumps(GOOD).encode() + b"HTTP/1.1 pandas", headers=LENGTH)
    fake_server.response = lambda received: (
        rest if len(fake_server.requests) % 2 else FakeResponse(GOOD)
    )
    ask_often(make(fake_server), [0.0] * 4)

    assert 2 <= fake_server.connections


@pytest.mark.parametrize(
    "start",
    [
        b"pandas",
        b"HTTP/1.1 OK pandas\r\n\r\n",
        b"connection closed by pandas",
        b"HTTP/1.1 200 OK\r\npeer closed; pandas disconnected\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nReceive buffer too long: pandas\r\n",
    ],
)
def test_invalid_responses_are_not_quoted(fake_server, ask, start):
    """They may contain anything, also the query."""

    def write(handler):
        handler.wfile.write(start + b"\r\n\r\n")
        handler.close_connection = True

    fake_server.response = lambda received: write
    with pytest.raises(InvalidResponse, match="not HTTP") as caught:
        ask(make(fake_server))

    assert "pandas" not in "".join(traceback.format_exception(caught.value))


def test_a_truncated_response_is_not_sent_again(fake_server, ask_often):
    fake_server.response = once(cut_short)
    with pytest.raises(BackendError):
        ask_often(make(fake_server), [0.0, 0.0])

    assert 2 == len(fake_server.requests)


def test_one_backend_serves_several_loops_and_leaves_no_socket(fake_server):
    """Also if nobody closes it: a socket left open would be a warning, which fails tests."""
    backend = make(fake_server)
    for _ in range(3):
        assert EXPECTED == asyncio.run(backend.ascore(QUERY, DOCUMENTS))
        assert fake_server.wait_until_idle()
    gc.collect()


def test_loops_in_several_threads_use_their_own_connections(fake_server):
    backend = make(fake_server)

    async def main():
        return await asyncio.gather(*[backend.ascore(QUERY, DOCUMENTS) for _ in range(5)])

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: asyncio.run(main()), range(8)):
            assert [EXPECTED] * 5 == results


def test_the_client_of_a_closed_loop_is_dropped(fake_server):
    """Nothing tells us when such a loop ends; its connections go with its client."""
    backend = make(fake_server)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(backend.ascore(QUERY, DOCUMENTS))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()

    assert EXPECTED == asyncio.run(backend.ascore(QUERY, DOCUMENTS))


def test_a_dropped_backend_closes_its_connections(fake_server):
    backend = make(fake_server)
    backend.score(QUERY, DOCUMENTS)
    del backend
    gc.collect()

    assert fake_server.wait_until_idle()


async def test_aclose_closes_everything(fake_server):
    backend = make(fake_server)
    for _ in range(2):  # it can be used again
        await backend.ascore(QUERY, DOCUMENTS)
        backend.score(QUERY, DOCUMENTS)
        await backend.aclose()

        assert await asyncio.to_thread(fake_server.wait_until_idle)


def test_closing_waits_for_the_calls_of_other_threads(fake_server):
    backend = make(fake_server)
    done = threading.Event()

    def work():
        while not done.is_set():
            assert EXPECTED == backend.score(QUERY, DOCUMENTS)

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work) for _ in range(4)]
        for _ in range(50):
            backend.close()
            time.sleep(0.002)
        done.set()
        for future in futures:
            future.result()
    backend.close()

    assert fake_server.wait_until_idle()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_its_own_connections(fake_server):
    with make(fake_server) as backend:
        backend.score(QUERY, DOCUMENTS)
        child = os.fork()
        if child == 0:
            try:
                right = all(backend.score(QUERY, DOCUMENTS) == EXPECTED for _ in range(20))
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        for _ in range(20):
            assert EXPECTED == backend.score(QUERY, DOCUMENTS)

        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert 2 == fake_server.connections


@pytest.mark.parametrize("count", [2, 200])
async def test_a_cancelled_call_leaves_no_connection_or_task(fake_server, count):
    fake_server.response = silence
    async with make(fake_server, "tei", timeout=60) as backend:
        call = asyncio.create_task(backend.ascore(QUERY, ["panda"] * count))
        assert await asyncio.to_thread(fake_server.wait_for_requests, min(4, count // 32 or 1))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert await asyncio.to_thread(fake_server.wait_until_idle)
        assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_many_cancelled_calls_leave_a_working_backend(fake_server):
    answer = fake_server.response

    def slow(received):
        time.sleep(0.02)
        return answer

    fake_server.response = slow
    async with make(fake_server) as backend:
        for delay in range(60):
            call = asyncio.create_task(backend.ascore(QUERY, DOCUMENTS))
            await asyncio.sleep(delay / 2_000)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

        calls = [backend.ascore(QUERY, DOCUMENTS) for _ in range(20)]
        assert [EXPECTED] * 20 == await asyncio.gather(*calls)


async def test_other_work_goes_on_during_a_call(fake_server):
    """The event loop is not blocked."""
    turns = 0

    def slow(received):
        while turns < 10:  # ends only because the loop turns
            time.sleep(0.005)
        return FakeResponse(GOOD)

    fake_server.response = slow
    async with make(fake_server) as backend:
        call = asyncio.create_task(backend.ascore(QUERY, DOCUMENTS))
        while not call.done():
            turns += 1
            await asyncio.sleep(0.005)

        assert EXPECTED == call.result()
