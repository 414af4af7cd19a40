"""Proxies of the environment: which requests go through them, and errors that name them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rerank_plugins import BackendError, BackendUnavailable, ConfigError, RerankError
from rerank_plugins.backends.http import HTTPBackend
from rerank_plugins.backends.http.discovery import probe
from rerank_plugins.backends.http.proxies import EnvironmentProxies
from rerank_plugins.testing import FakeServer
from tests.support.asking import score

PASSWORD = "s3cret-of-the-proxy"
NAMES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """Be a proxy that answers every connection with these bytes; give its host and port."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(100_000)
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def http(status: str, body: bytes = b"", kind: str = "text/html") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def failure(ask: Any, url: str) -> str:
    with pytest.raises(RerankError) as raised:
        ask(HTTPBackend(url, dialect="tei", timeout=5, connect_timeout=1))
    message = str(raised.value)
    assert PASSWORD not in message
    assert "base_url" not in message
    return message


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("form", [str, str.upper])
@pytest.mark.parametrize("kind", ["own", "all"])
def test_a_proxy_that_refuses_connections_is_named_with_its_variable(
    scheme: str, form: Callable[[str], str], kind: str, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = form(f"{scheme if kind == 'own' else 'all'}_proxy")
    port = closed_port()
    monkeypatch.setenv(variable, f"http://user:{PASSWORD}@127.0.0.1:{port}")
    message = failure(ask, f"{scheme}://gpu.example")

    assert f"no connection to the proxy http://127.0.0.1:{port} of {variable}: " in message
    assert "add the server's host to NO_PROXY" in message
    assert "doctor" not in message


def test_a_proxy_without_an_address_is_named(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@proxy.invalid:3128")

    assert "no connection to the proxy http://proxy.invalid:3128 of HTTPS_PROXY" in failure(
        ask, "https://gpu.example"
    )


@pytest.mark.parametrize(
    ("status", "kind", "advice"),
    [
        ("407 Proxy Authentication Required", BackendError, "the user and password in HTTPS_PROXY"),
        ("403 Forbidden", BackendError, "add the server's host to NO_PROXY"),
        ("502 Bad Gateway", BackendUnavailable, "add the server's host to NO_PROXY"),
        ("503 Service Unavailable", BackendUnavailable, "add the server's host to NO_PROXY"),
    ],
)
def test_a_tunnel_that_is_refused_names_the_proxy(
    status: str, kind: type[Exception], advice: str, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(http(status)) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@{address}")
        with pytest.raises(BackendError) as raised:
            ask(HTTPBackend("https://gpu.example", dialect="tei"))

    assert kind is type(raised.value)
    assert f"the proxy http://{address} of HTTPS_PROXY answered {status[:3]}; " in str(raised.value)
    assert advice in str(raised.value)
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize(
    "reply",
    [
        http("502 Bad Gateway", b"<title>Bad Gateway</title>"),
        http("503 Service Unavailable", b'{"error": "down"}', "application/json"),
        http("403 Forbidden", b"<title>Blocked by policy</title>"),
        http("404 Not Found", b"<title>Unknown host</title>"),
        http("200 OK", b"<title>Sign in</title>"),
        http("407 Proxy Authentication Required"),
    ],
    ids=lambda reply: reply[9:12].decode(),
)
def test_an_answer_that_may_be_the_proxys_names_it(
    reply: bytes, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(reply) as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{PASSWORD}@{address}")
        with pytest.raises(RerankError) as raised:
            ask(HTTPBackend("http://gpu.example", dialect="tei"))
        with pytest.raises(RerankError) as probed:
            probe("http://gpu.example")
    for message in (str(raised.value), str(probed.value)):
        assert f"the proxy http://{address} of HTTP_PROXY" in message
        assert PASSWORD not in message


def test_an_error_of_the_server_behind_a_proxy_is_its_own(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(http("422 Bad", b'{"error": "too long"}', "application/json")) as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://{address}")

        assert "proxy" not in failure(ask, "http://gpu.example")


def test_what_is_no_http_is_the_proxys(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as address:
        monkeypatch.setenv("http_proxy", address)

        assert f"what came through the proxy http://{address} of http_proxy is not HTTP" in failure(
            ask, "http://gpu.example"
        )


def test_a_proxy_that_does_not_speak_tls_is_told_so(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A common slip: the scheme of the servers in place of the proxy's."""
    with answering(http("400 Bad Request")) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"https://{address}")
        message = failure(ask, "https://gpu.example")

    assert f"through the proxy https://{address} of HTTPS_PROXY" in message
    assert "most proxies want http:// in that variable" in message


def test_a_certificate_that_a_proxy_may_have_replaced_names_it(
    ask: Any, authority: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority)

    def intercept() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            try:
                context.wrap_socket(connection, server_side=True)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=intercept, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")
        message = failure(ask, "https://gpu.example")

    assert f"no trusted encryption through the proxy http://{address} of HTTPS_PROXY" in message
    assert "set `verify`" in message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (f"http://user:{PASSWORD}/x@proxy:3128", "HTTP_PROXY holds no URL of a proxy; .*%40"),
        ("http://proxy:port", "HTTP_PROXY holds no URL of a proxy"),
        ("http://", "HTTP_PROXY holds no URL of a proxy"),
        (f"ftp://user:{PASSWORD}@proxy", "HTTP_PROXY names a proxy of the scheme 'ftp'"),
    ],
)
def test_a_variable_that_names_no_proxy_is_the_fault_of_that_variable(
    value: str, message: str, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", value)
    with pytest.raises(ConfigError, match=message) as raised:
        ask(HTTPBackend("http://gpu.example", dialect="tei"))

    assert PASSWORD not in str(raised.value)


def test_a_proxy_that_is_not_needed_harms_nobody(
    fake_server: FakeServer, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another scheme, or for other hosts, or one for which a package is missing."""
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    assert 2 == len(ask(HTTPBackend(fake_server.url, dialect="tei")))


@pytest.mark.parametrize(
    "entries",
    ["[::1]", "fe80::/10", "[fe80::1]/64", "::1", "a b c", "://", "[", "1.2.3.4/99", "%%,::ffff:/"],
)
def test_entries_of_no_proxy_break_nothing(
    entries: str, fake_server: FakeServer, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other entries keep their meaning, and the proxy is used for the rest."""
    monkeypatch.setenv("HTTP_PROXY", fake_server.url)
    monkeypatch.setenv("NO_PROXY", f"{entries},127.0.0.0/8")
    ask(HTTPBackend("http://gpu.example", dialect="tei"))

    assert "http://gpu.example/rerank" == fake_server.requests[-1].path

    ask(HTTPBackend(fake_server.url, dialect="tei"))

    assert "/rerank" == fake_server.requests[-1].path


@pytest.mark.parametrize(
    ("entry", "around", "through"),
    [
        ("example.com", ["example.com", "a.example.com", "EXAMPLE.com."], ["notexample.com"]),
        (".example.com", ["a.example.com", "a.b.example.com"], ["example.com", "xexample.com"]),
        ("*.example.com", ["a.example.com"], ["example.com"]),
        ("*", ["example.com", "10.0.0.1", "[::1]"], []),
        ("localhost", ["localhost", "localhost:8080"], ["example.com"]),
        ("127.0.0.0/8", ["127.0.0.1", "127.9.9.9:80"], ["128.0.0.1", "localhost", "[::1]"]),
        ("10.1.0.0/16", ["10.1.255.1"], ["10.2.0.1"]),
        ("10.0.0.1", ["10.0.0.1", "10.0.0.1:81"], ["10.0.0.10", "10.0.0.2"]),
        ("fe80::/10", ["[fe80::1]", "[febf::1]:8080"], ["[fec0::1]", "10.0.0.1"]),
        ("[fe80::]/10", ["[fe80::1]"], ["[fec0::1]"]),
        ("[::1]", ["[::1]", "[::1]:9"], ["[::2]", "127.0.0.1"]),
        ("::1", ["[::1]", "[0:0::1]"], ["[::2]"]),
        ("[::1]:8080", ["[::1]:8080"], ["[::1]:8081", "[::1]"]),
        ("gpu:8080", ["gpu:8080", "a.gpu:8080"], ["gpu", "gpu:80"]),
        ("gpu:80", ["gpu", "gpu:80"], ["gpu:81"]),
        ("http://gpu", ["gpu"], ["other"]),
        ("https://gpu", [], ["gpu"]),
        (" a.example , gpu ", ["gpu", "a.example"], ["b.example"]),
        ("a.example gpu", ["gpu", "a.example"], ["b.example"]),
        ("", [], ["gpu", "127.0.0.1"]),
    ],
)
def test_no_proxy_is_read_as_usual(
    entry: str, around: list[str], through: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "proxy:3128")
    monkeypatch.setenv("no_proxy", entry)
    proxies = EnvironmentProxies()

    assert [] == [host for host in around if proxies.find(f"http://{host}/rerank") is not None]
    assert [] == [host for host in through if proxies.find(f"http://{host}/rerank") is None]


def test_small_letters_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Python and curl."""
    monkeypatch.setenv("HTTP_PROXY", "http://big:1")
    monkeypatch.setenv("http_proxy", f"http://user:{PASSWORD}@small:2")
    found = EnvironmentProxies().find("http://gpu")

    assert found is not None
    assert ("http_proxy", "http://small:2") == (found.variable, found.address)
    assert PASSWORD not in repr(found)


def test_servers_of_one_backend_go_their_own_ways(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two servers is behind the proxy."""
    monkeypatch.setenv("HTTP_PROXY", fake_server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    backend = HTTPBackend(endpoints=["http://gpu.example", fake_server.url], dialect="tei")
    for _ in range(40):
        score(backend)

    assert {"http://gpu.example/rerank", "/rerank"} == {
        request.path for request in fake_server.requests
    }
