"""Hosts that are not found in time, and connections out of step with the requests."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
import time

import pytest

from rerank_plugins import BackendError, BackendTimeout, BackendUnavailable
from rerank_plugins._internal import resolver
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.testing import FakeResponse, FakeServer
from rerank_plugins.testing.faults import reset
from rerank_plugins.wrappers.fallback import FallbackBackend
from tests.backends.http.remote import DOCUMENTS, EXPECTED, GOOD, QUERY, make, results

REAL = socket.getaddrinfo


@pytest.fixture
def hosts(monkeypatch):
    """Addresses of hosts that a test sets; a host without any hangs."""
    hosts, over = {}, threading.Event()

    def getaddrinfo(host, *rest, **options):
        if isinstance(host, str) and host.endswith(".test"):
            if host not in hosts:
                over.wait(30)
            return [(2, 1, 6, "", (address, 0)) for address in hosts.get(host, ())]
        return REAL(host, *rest, **options)

    monkeypatch.setattr(resolver, "_look_ups", resolver._LookUps())
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield hosts
    over.set()


def test_a_look_up_that_hangs_keeps_the_deadline(hosts, ask):
    began = time.monotonic()
    with pytest.raises(BackendTimeout, match=r"look-up of 'gpu\.test'.*stage: connect"):
        ask(HTTPBackend("http://gpu.test:80", dialect="tei", connect_timeout=0.2))

    assert time.monotonic() - began < 10


def test_no_fallback_pays_for_it_again(hosts, fake_server, ask):
    servers = [HTTPBackend(f"http://gpu-{n}.test:80", dialect="tei", timeout=30) for n in range(2)]
    first = HTTPBackend("http://gpu.test:80", dialect="tei", timeout=0.1)
    began = time.monotonic()

    last = make(fake_server, server_scale="probability")
    assert EXPECTED == ask(FallbackBackend([first, *servers, last]))
    assert time.monotonic() - began < 10


def test_a_host_with_several_addresses_is_reached_by_any(hosts, fake_server, ask):
    hosts["gpu.test"] = ["127.0.0.2", "127.0.0.1"]  # nobody listens at the first
    port = fake_server.url.rpartition(":")[2]

    backend = HTTPBackend(f"http://gpu.test:{port}", dialect="xinference", model="m")
    assert EXPECTED == ask(backend)
    assert f"gpu.test:{port}" == fake_server.requests[0].headers["Host"]


@pytest.mark.parametrize("addresses", [[], ["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]])
def test_a_host_that_none_of_its_addresses_reaches_is_unavailable(
    hosts, fake_server, ask, addresses
):
    hosts["gpu.test"] = addresses
    port = fake_server.url.rpartition(":")[2]

    with pytest.raises(BackendUnavailable, match="no connection"):
        ask(HTTPBackend(f"http://gpu.test:{port}", dialect="xinference", model="m"))


WRONG = json.dumps(results(0.125, 0.625)).encode()
UNASKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
    WRONG
)
UNASKED += WRONG
EXTRA = {
    "a reply": UNASKED,
    "a reply, and half of another": UNASKED + UNASKED[:-5],
    "an early hint": b"HTTP/1.1 103 Early Hints\r\n\r\n" + UNASKED,
    "half a head": UNASKED[:30],
    "half a reply": UNASKED[:-10],
    "no reply": b"panda\r\n\r\n",
    "two replies": UNASKED * 2,
}


@pytest.fixture(params=["sync", "async"])
def ask_thrice(request):
    def sync(backend, pause):
        with backend:
            return [(backend.score(QUERY, DOCUMENTS), time.sleep(pause))[0] for _ in range(3)]

    def in_loop(backend, pause):
        async def main():
            results = []
            async with backend:
                for _ in range(3):
                    results.append(await backend.ascore(QUERY, DOCUMENTS))
                    await asyncio.sleep(pause)
            return results

        return asyncio.run(main())

    return sync if request.param == "sync" else in_loop


def reply(extra, *, pause=None):
    """Reply, and send `extra` at once in the same packet or a moment later in another."""

    def write(handler):
        body = json.dumps(GOOD).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        whole = head % len(body) + body
        if pause is None:
            handler.connection.sendall(whole + extra)
        else:
            handler.connection.sendall(whole)
            time.sleep(pause)
            handler.connection.sendall(extra)

    return lambda received: write


@pytest.mark.parametrize("case", EXTRA)
@pytest.mark.parametrize("pause", [None, 0.0, 0.005], ids=["at once", "in two packets", "later"])
def test_what_was_sent_unasked_is_no_reply(fake_server, ask_thrice, case, pause):
    fake_server.response = reply(EXTRA[case], pause=pause)

    assert [EXPECTED] * 3 == ask_thrice(make(fake_server), 0.02)


@pytest.fixture(scope="module")
def encryption(tmp_path_factory, authority):
    certificate, key = authority
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, str(certificate)


@pytest.mark.parametrize("case", EXTRA)
@pytest.mark.parametrize("pause", [None, 0.0], ids=["at once", "in two records"])
def test_what_was_sent_unasked_is_no_reply_with_encryption_either(
    encryption, ask_thrice, case, pause
):
    """It waits where no socket shows it."""
    context, certificate = encryption
    with FakeServer(reply(EXTRA[case], pause=pause), tls=context) as fake_server:
        assert [EXPECTED] * 3 == ask_thrice(make(fake_server, verify=certificate), 0.02)


def test_an_encrypted_connection_in_step_is_kept(encryption, ask_thrice):
    context, certificate = encryption
    with FakeServer(FakeResponse(GOOD), tls=context) as fake_server:
        assert [EXPECTED] * 3 == ask_thrice(make(fake_server, verify=certificate), 0.0)
        assert 1 == fake_server.connections


def reset_after(data):
    """Send this, and reset the connection, as a killed server does."""

    def write(handler):
        handler.connection.sendall(data)
        reset(None)(handler)

    return lambda received: write


RESETS = {
    "no reply": b"",
    "half a head": UNASKED[:30],
    "half a reply": UNASKED[:-10],
    "a reply without an end": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{",
}


@pytest.mark.parametrize("case", RESETS)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_server_that_is_killed_is_unavailable(encryption, ask, case, encrypted):
    """With encryption as without: another try may reach the next one."""
    context, certificate = encryption
    with FakeServer(reset_after(RESETS[case]), tls=context if encrypted else None) as fake_server:
        with pytest.raises(BackendUnavailable) as caught:
            ask(make(fake_server, verify=certificate))

        assert BackendUnavailable is type(caught.value)
        assert "trusted" not in str(caught.value)


def test_a_server_that_is_killed_during_the_handshake_is_unavailable(ask):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reset_each():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(10)
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()

        threading.Thread(target=reset_each, daemon=True).start()
        port = server.getsockname()[1]
        with pytest.raises(BackendUnavailable):
            ask(HTTPBackend(f"https://127.0.0.1:{port}", dialect="xinference", model="m"))
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("piece", [b"\x16\x03\x03\x00\x04\x00\x00\x00\x00" * 1000, b""])
def test_a_handshake_without_end_ends(ask, piece):
    """A socket of the `ssl` module reads on as long as something arrives that TLS ignores."""
    end, hung_up = time.monotonic() + 5, threading.Event()

    def never_shake_hands():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            while time.monotonic() < end and (piece or connection.recv(10_000)):
                connection.sendall(piece)
        if time.monotonic() < end:
            hung_up.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=never_shake_hands, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        backend = HTTPBackend(url, dialect="xinference", model="m", timeout=0.3)
        with pytest.raises(BackendTimeout):
            ask(backend)

        assert hung_up.wait(4)


def endless(start, piece, count=20_000):
    """Send a start, then pieces without end."""

    def write(handler):
        handler.connection.sendall(start)
        for _ in range(count):
            handler.connection.sendall(piece * 100)

    return lambda received: write


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "chunks of a byte": endless(CHUNKED, b"1\r\n \r\n"),
    "chunks without data": endless(CHUNKED, b"1;" + b"x" * 1000 + b"\r\n \r\n"),
    "early hints": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "an extension of a chunk": endless(CHUNKED + b"1;", b"x" * 100),
    "trailers": endless(CHUNKED + b"0\r\n", b"X-More: 1\r\n"),
    "a body without a length": endless(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b" " * 100
    ),
    "the page of an error": endless(b"HTTP/1.1 500 Oops\r\n\r\n", b"<title>"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_endless_replies_end(fake_server, ask, case):
    """Within the time or the size of a reply, whichever comes first."""
    fake_server.response = ENDLESS[case]
    began = time.monotonic()
    with pytest.raises(BackendError):
        ask(make(fake_server, timeout=0.5))

    assert time.monotonic() - began < 20
    assert fake_server.wait_until_idle()
