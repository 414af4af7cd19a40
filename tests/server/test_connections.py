"""What a connection decides: invalid HTTP, endless headers, too many connections."""

import http.client
import json
import socket
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.testing import FakeBackend
from tests.support.serving import listening

BODY = json.dumps({"query": "q", "documents": ["a"]})
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def url():
    with listening(FakeBackend()) as url:
        yield url


@contextmanager
def connected(url):
    """Give a connection that has been answered once, so the server knows of it."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        assert exchange(connection, "GET", "/livez").status == 200
        yield connection
    finally:
        connection.close()


def exchange(connection, method, path, body=None):
    """Return the reply, read to its end."""
    connection.request(method, path, body, JSON)
    reply = connection.getresponse()
    reply.text = reply.read().decode()
    return reply


INVALID_HTTP = {
    "no request line": (400, b"hello\r\n\r\n"),
    "another protocol": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "a header without a colon": (400, b"GET /livez HTTP/1.1\r\nhost\r\n\r\n"),
    "two lengths": (400, b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
    "a path with bytes": (400, b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n"),
    "endless headers": (431, b"GET /livez HTTP/1.1\r\n" + b"x-header: yes\r\n" * 5000),
}


@pytest.mark.parametrize("case", INVALID_HTTP)
def test_invalid_http_gets_json_and_the_end_of_the_connection(url, case):
    expected, sent = INVALID_HTTP[case]
    with socket.create_connection(urlsplit(url).netloc.split(":"), timeout=60) as raw:
        raw.sendall(sent)
        reply = http.client.HTTPResponse(raw)
        reply.begin()
        error = json.loads(reply.read())
        assert b"" == raw.recv(1)  # the server has closed it

    assert expected == reply.status
    assert "application/json" == reply.headers["content-type"]
    assert "close" == reply.headers["connection"]
    assert error["error"]["request_id"] == reply.headers["x-request-id"]
    assert error["error"]["message"] == error["detail"] == error["message"]
    assert "hello" not in error["message"]


def test_too_many_connections_are_refused_except_probes():
    """Else a crowd of idle clients would have the server killed by its liveness probe."""
    with listening(FakeBackend(), max_connections=3) as url, ExitStack() as crowd:
        for _ in range(3):
            first = crowd.enter_context(connected(url))
        assert exchange(first, "POST", "/v1/rerank", BODY).status == 200
        with connected(url) as fourth:
            for path in ("/livez", "/readyz", "/metrics"):
                assert exchange(fourth, "GET", path).status == 200
            reply = exchange(fourth, "POST", "/v1/rerank", BODY)
            counted = exchange(first, "GET", "/metrics").text

        assert (503, "1") == (reply.status, reply.headers["retry-after"])
        assert json.loads(reply.text)["error"]["type"] == "too_many_connections"
        assert reply.will_close
        assert 'rerank_rejected_total{reason="too_many_connections"} 1.0' in counted
        assert exchange(first, "POST", "/v1/rerank", BODY).status == 200
