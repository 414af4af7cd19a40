"""A response on the wire, and the application's mistakes."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.server.exchange import Exchange


class Wire:
    """Stands in for the connection."""

    def __init__(self):
        self.sent = b""
        self.aborted = False

    async def drain(self):
        pass

    def write(self, data):
        self.sent += data

    def update(self):
        pass

    def abort(self):
        self.aborted = True


async def response(*messages, method="GET", version="1.1", keep_alive=True):
    wire = Wire()
    scope = {"method": method, "http_version": version}
    exchange = Exchange(
        wire,
        scope,
        keep_alive=keep_alive,
        expects_continue=False,
        headers=[(b"date", b"today")],
    )

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    await exchange.run(app)
    return wire, exchange


def start(*headers, status=200):
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data=b"", *, more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


@pytest.mark.parametrize(
    ("messages", "options", "expected"),
    [
        (
            [start((b"Content-Length", b"2")), body(b"ok")],
            {},
            b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            [start(), body(b"ok")],
            {"keep_alive": False},
            b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        ),
        (
            [start((b"connection", b"Close")), body(b"o", more=True), body(more=True), body(b"k")],
            {},
            (
                b"HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\n"
                b"connection: close\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
            ),
        ),
        (
            [start(), body(b"o", more=True), body(b"k")],
            {"version": "1.0"},
            b"HTTP/1.1 200 OK\r\ndate: today\r\nconnection: close\r\n\r\nok",
        ),
        (
            [start((b"content-length", b"2")), body(b"ok")],
            {"method": "HEAD"},
            b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\n\r\n",
        ),
        ([start(status=204), body()], {}, b"HTTP/1.1 204 No Content\r\ndate: today\r\n\r\n"),
        (
            [start(status=499), body()],
            {},
            b"HTTP/1.1 499 \r\ndate: today\r\ncontent-length: 0\r\n\r\n",
        ),
    ],
)
async def test_a_response_says_where_it_ends(messages, options, expected):
    wire, exchange = await response(*messages, **options)

    assert expected == wire.sent
    assert exchange.response_complete
    assert not wire.aborted


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [start()],
        [body(b"ok")],
        [start(), body(b"ok", more=True)],
        [start((b"content-length", b"3")), body(b"ok")],
        [start((b"content-length", b"1")), body(b"ok")],
        [start((b"a", b"b\r\nc: d")), body(b"ok")],
        [start((b"a\nb", b"c")), body(b"ok")],
    ],
)
async def test_a_response_that_breaks_the_protocol_ends_the_connection(messages, caplog):
    """The client must not take what it has for a response, nor the next response for its rest."""
    wire, exchange = await response(*messages)

    assert wire.aborted
    assert not exchange.response_complete
    assert b"\nc: d" not in wire.sent


async def test_an_error_of_the_application_is_logged_without_its_text(caplog):
    wire = Wire()
    exchange = Exchange(wire, {}, keep_alive=True, expects_continue=False, headers=[])

    async def app(scope, receive, send):
        raise ValueError("a secret text")

    await exchange.run(app)
    assert wire.aborted
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text
