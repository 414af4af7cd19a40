"""How a connection handles clients that misbehave when they send or read."""

import asyncio
import http.client
import json
import re
import select
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from random import Random
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

import uvicorn
from uvicorn.server import ServerState

from rerank_plugins.server import ServerSettings
from rerank_plugins.server.connections import http_protocol
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.testing import FakeBackend
from tests.support.monitoring import get, metric, wait_until
from tests.support.serving import listening

MIB = 2**20
KEY = "a-key-for-tests-0123456789"
BODY = json.dumps({"query": "q", "documents": ["a"]}).encode()
JSON = "Content-Type: application/json\r\n"
CHUNKS = "Transfer-Encoding: chunked"
SECONDS = 0.3
LIMITS = {
    "header_seconds": SECONDS,
    "body_seconds": SECONDS,
    "write_seconds": SECONDS,
    "keep_alive_seconds": SECONDS,
    "warm_up": False,
}


class Gate(FakeBackend):
    """Blocks until it is released."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()

    def score_many(self, requests):
        assert self.open.wait(60)
        return super().score_many(requests)


@pytest.fixture(scope="module")
def url():
    """A server with ordinary limits."""
    with listening(FakeBackend()) as url:
        yield url


@pytest.fixture(scope="module")
def hasty():
    """A server with short timeouts."""
    with listening(FakeBackend(), **LIMITS) as url:
        yield url


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A server with short timeouts, and keys."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(f"alice:{KEY}\n")
    with listening(FakeBackend(), api_keys_file=str(keys), **LIMITS) as url:
        yield url


@pytest.fixture
def gate():
    backend = Gate()
    yield backend
    backend.open.set()


def head(method="GET", path="/livez", *lines, version="1.1", host="Host: x"):
    return "\r\n".join(
        [f"{method} {path} HTTP/{version}", *([host] if host else []), *lines, "", ""]
    ).encode()


def post(body=BODY, *lines, path="/v1/rerank"):
    """Return a whole request for scores."""
    length = f"Content-Length: {len(body)}"
    return head("POST", path, "Content-Type: application/json", length, *lines) + body


def chunked(*chunks, end=b"0\r\n\r\n"):
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def opened(url, data=b""):
    """Return a connection that has sent `data`."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=30)
    connection.sendall(data)
    return connection


def received(connection):
    """Return all that comes until the server closes or resets the connection."""
    reply = b""
    try:
        while part := connection.recv(65536):
            reply += part
    except ConnectionError:
        pass
    connection.close()
    return reply


def answers(data):
    """Return the statuses and the bodies of all replies in a stream."""
    responses = []
    while data:
        fields, _, data = data.partition(b"\r\n\r\n")
        status = int(fields.split()[1])
        if status >= 200:
            (length,) = re.findall(rb"\r\ncontent-length: (\d+)", fields)
            responses.append((status, data[: int(length)]))
            data = data[int(length) :]
    return responses


def statuses(data):
    return [status for status, _ in answers(data)]


def pushed(connection, piece, most=64 * MIB):
    """Send without an end; return how much went until the server would take no more."""
    connection.setblocking(False)
    sent = 0
    try:
        while sent < most:
            if select.select([], [connection], [], 30)[1]:
                sent += connection.send(piece)
    except ConnectionError:
        pass
    connection.close()
    return sent


INVALID_HTTP = {
    "no request line": (400, b"hello\r\n\r\n"),
    "another protocol": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a header without a colon": (400, b"GET /livez HTTP/1.1\r\nhost\r\n\r\n"),
    "a space before the colon": (400, head("GET", "/livez", "A : b")),
    "a folded header": (400, head("GET", "/livez", "A: b", " c")),
    "two lengths": (400, head("POST", "/", "Content-Length: 1", "Content-Length: 2")),
    "a length and chunks": (
        400,
        head("POST", "/", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ),
    "chunks not last": (400, head("POST", "/", "Transfer-Encoding: chunked, identity")),
    "compressed chunks": (501, head("POST", "/", "Transfer-Encoding: gzip, chunked")),
    "an unknown coding and chunks": (501, head("POST", "/", "Transfer-Encoding: x,chunked")),
    "a negative length": (400, head("POST", "/", "Content-Length: -1")),
    "a bare line feed": (400, b"GET /livez HTTP/1.1\nHost: x\n\n"),
    "a path with bytes": (400, b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n"),
    "no host": (400, head(host=None)),
    "two hosts": (400, head("GET", "/livez", "Host: y")),
    "a tunnel": (405, head("CONNECT", "example.com:443")),
    "endless headers": (431, b"GET /livez HTTP/1.1\r\n" + b"x-header: yes\r\n" * 5000),
    "one endless header": (431, b"GET /livez HTTP/1.1\r\na: " + b"y" * 70_000),
    "very many headers": (431, head("GET", "/livez", *["a:b"] * 200)),
    "an endless path": (431, b"GET /" + b"y" * 70_000),
    "endless empty lines": (431, b"\r\n" * 40_000),
}


@pytest.mark.parametrize("case", INVALID_HTTP)
def test_invalid_http_gets_json_and_the_end_of_the_connection(url, case):
    expected, sent = INVALID_HTTP[case]
    before = metric(url, "rerank_rejected_total")
    with opened(url, sent) as raw:
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
    assert before + 1 == metric(url, "rerank_rejected_total")
    assert 1 <= metric(url, "rerank_rejected_total", reason=error["error"]["type"])


ENDLESS = {
    "trailers": (head("GET", "/livez", CHUNKS) + b"0\r\n", b"x-a: bbbbbbbbbbbb\r\n" * 1000),
    "one trailer": (head("GET", "/livez", CHUNKS) + b"0\r\nx-a: ", b"b" * 20_000),
    "chunk extension": (head("POST", "/v1/rerank", CHUNKS) + b"5;a", b"b" * 20_000),
    "tiny chunks": (
        head("POST", "/v1/rerank", CHUNKS, "Content-Type: application/json"),
        b"1\r\n \r\n" * 3000,
    ),
    "chunks after a 404": (
        head("POST", "/nope", CHUNKS),
        b"%x\r\n%b\r\n" % (20_000, b"b" * 20_000),
    ),
    "body after a 405": (head("PUT", "/livez", "Content-Length: 9999999999"), b"b" * 20_000),
    "body after a reply": (head("GET", "/livez", "Content-Length: 9999999999"), b"b" * 20_000),
    "body after a 413": (head("POST", "/rerank", "Content-Length: 9999999999"), b"b" * 20_000),
    "rubbish after a 400": (b"rubbish\r\n\r\n", b"b" * 20_000),
    "bytes after the last request": (head("GET", "/livez", "Connection: close"), b"b" * 20_000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_request_loses_its_connection(url, what):
    """Whether or not there has been a reply: 6 MiB are 4 of body, and what the system buffers."""
    first, more = ENDLESS[what]

    assert pushed(opened(url, first), more) < 32 * MIB


def test_a_body_after_a_401_is_cut(locked):
    first = head("POST", "/v1/rerank", "Content-Length: 9999999999")

    assert pushed(opened(locked, first), b"b" * 20_000) < 32 * MIB


SLOW = {
    "nothing": b"",
    "a part of a head": head()[:20],
    "a head but its last byte": head()[:-1],
    "an empty line": b"\r\n",
    "a body after a 404": head("POST", "/nope", "Content-Length: 5") + b"1",
    "a body after a 405": head("PUT", "/livez", "Content-Length: 5") + b"1",
    "a body after a reply": head("GET", "/livez", "Content-Length: 5") + b"1",
    "a body after a 413": head("POST", "/rerank", "Content-Length: 9999999999") + b"1",
    "a trailer": head("GET", "/livez", CHUNKS) + b"0\r\nx: y",
    "a chunk's size": head("GET", "/livez", CHUNKS) + b"5",
    "a body that it asked for": post(BODY, "Expect: 100-continue")[: -len(BODY)],
    "the body of a second request": head() + post()[:-1],
    "no second request": head(),
    "a part of a second request": head() + b"GET /",
}


@pytest.mark.parametrize("what", SLOW)
def test_a_client_that_does_not_go_on_loses_its_connection(hasty, what):
    """Whatever it was sending, and whether or not it has its reply."""
    reply = received(opened(hasty, SLOW[what]))

    assert len(statuses(reply)) <= 2


def test_a_client_that_does_not_go_on_after_a_401_loses_its_connection(locked):
    first = head("POST", "/v1/rerank", "Content-Length: 5") + b"1"

    assert [401] == statuses(received(opened(locked, first)))


def test_occasional_bytes_do_not_extend_a_timeout(hasty):
    """The clock of a state runs from its start, not from the last byte."""
    for first in (
        b"GET /",
        head("GET", "/livez", "Content-Length: 999") + b"1",
        b"rubbish\r\n\r\n",
    ):
        connection = opened(hasty, first)
        sent = 0
        while True:
            try:
                connection.sendall(b"a")
            except ConnectionError:
                break
            sent += 1
            time.sleep(0.02)
            assert sent < 500
        connection.close()


def large(size):
    """Return a request with a reply of more than `size` bytes."""
    documents = ["y" * 30_000] * (size // 30_000 + 1)
    content = {"query": "q", "documents": documents, "return_documents": True}
    return post(json.dumps(content).encode())


@pytest.fixture(scope="module")
def hungry():
    """A server that takes large bodies, and not much in all."""
    settings = {"body_bytes": 32 * MIB, "buffer_bytes": 32 * MIB, **LIMITS}
    with listening(FakeBackend(), **{**settings, "body_seconds": 30.0}) as url:
        yield url


def unread(url, data):
    """Return a connection with a small window that has sent `data`."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect((urlsplit(url).hostname, urlsplit(url).port))
    connection.sendall(data)
    return connection


@pytest.mark.parametrize("pace", ["never", "a byte now and then"])
def test_a_reply_that_nobody_reads_is_dropped(hungry, pace):
    before = metric(hungry, "rerank_requests_total", route="/v1/rerank")
    connection = unread(hungry, large(12 * MIB))
    if pace == "never":
        wait_until(lambda: metric(hungry, "rerank_requests_total", route="/v1/rerank") > before)
        time.sleep(1.5 * SECONDS)
    else:
        for _ in range(60):
            try:
                connection.recv(1)
            except ConnectionError:
                break
            time.sleep(0.02)

    assert len(received(connection)) < 12 * MIB


def test_all_clients_together_hold_no_more_than_the_buffer():
    """The slowest lose their connections, and others are served."""
    settings = {"body_bytes": MIB, "buffer_bytes": 4 * MIB, "warm_up": False}
    with listening(FakeBackend(), **settings) as url:
        part = head("POST", "/v1/rerank", JSON.strip(), f"Content-Length: {MIB}") + b" " * 900_000
        slow = [opened(url, part) for _ in range(12)]

        assert [200] == statuses(received(opened(url, post(BODY, "Connection: close"))))
        readable, _, _ = select.select(slow, [], [], 30)
        assert set(readable) <= set(slow[:8])
        wait_until(lambda: len(select.select(slow, [], [], 0)[0]) == 8)
        for connection in slow[8:]:
            connection.sendall(b" " * (MIB - 900_000))
        assert {400, 503} >= {statuses(each.recv(65536))[0] for each in slow[8:]}
        for connection in slow:
            connection.close()


UPGRADES = {
    "h2c": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"],
    "websocket": ["Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"],
    "unknown": ["connection: upgrade", "upgrade: foo/2, bar"],
}


@pytest.mark.parametrize("protocol", UPGRADES)
@pytest.mark.parametrize("cut", ["together", "after the head", "in the head", "in the body"])
def test_a_proposal_of_another_protocol_is_ignored(url, protocol, cut):
    """RFC 9110, 7.8: and the body is the request's, whatever it looks like."""
    smuggled = json.dumps({"query": "\n\nGET /info HTTP/1.1", "documents": ["a"]}).encode()
    whole = post(smuggled, *UPGRADES[protocol])
    places = {
        "together": len(whole),
        "after the head": len(whole) - len(smuggled),
        "in the head": 60,
        "in the body": len(whole) - 5,
    }
    connection = opened(url, whole[: places[cut]])
    if cut != "together":
        time.sleep(0.02)
        connection.sendall(whole[places[cut] :])
    connection.sendall(head("GET", "/info", "Connection: close"))
    (first, scores), (second, _) = answers(received(connection))

    assert (200, 200) == (first, second)
    assert 1 == len(json.loads(scores)["results"])


def test_proposals_of_another_protocol_without_a_body_or_in_chunks_are_ignored(url):
    proposal = UPGRADES["h2c"]
    requests = [
        head("GET", "/livez", *proposal),
        head("POST", "/v1/rerank", *proposal, CHUNKS, JSON.strip()) + chunked(BODY[:9], BODY[9:]),
        head("OPTIONS", "/livez", *proposal),
        head("GET", "/readyz", *proposal, "Connection: close"),
    ]

    assert [200, 200, 405, 200] == statuses(received(opened(url, b"".join(requests))))


@pytest.mark.parametrize("options", ["", "Upgrade", "keep-alive, Upgrade"])
def test_a_proposal_leaves_a_request_the_version_that_it_has(url, options):
    """HTTP/1.0 knows no `Upgrade`, and its clients wait for the connection to end."""
    connection = opened(
        url, head("GET", "/livez", f"Connection: {options}", "Upgrade: h2c", version="1.0")
    )

    assert [200] == statuses(received(connection))


@pytest.mark.parametrize("last", [b"rubbish\r\n\r\n", head("GET", "/", "A : b"), post()[:-1]])
def test_a_half_closed_client_learns_of_its_error_after_the_replies_before_it(gate, last):
    with listening(gate, warm_up=False) as url:
        connection = opened(url, post() + head() + last)
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        gate.open.set()

        assert [200, 200, 400] == statuses(received(connection))


@pytest.mark.parametrize("last", [b"rubbish\r\n\r\n", head("GET", "/", "A : b"), head(host=None)])
def test_an_error_does_not_overtake_the_replies_before_it(gate, last):
    with listening(gate, warm_up=False) as url:
        connection = opened(url, post() + head() + last)
        assert not select.select([connection], [], [], 0.2)[0]
        gate.open.set()

        assert [200, 200, 400] == statuses(received(connection))


def test_replies_come_in_the_order_of_their_requests(gate):
    with listening(gate, warm_up=False) as url:
        connection = opened(url, post() + head("GET", "/nope") + head("PUT"))
        gate.open.set()
        connection.sendall(head("GET", "/livez", "Connection: close"))

        assert [200, 404, 405, 200] == statuses(received(connection))


def test_a_crowd_of_pipelined_requests_is_answered_in_part(gate):
    """A client sends the others again, on another connection (RFC 9112, 9.3.2)."""
    with listening(gate, warm_up=False) as url:
        connection = opened(url, post() + head("GET", "/livez", "A: b") * 10_000)
        wait_until(lambda: metric(url, "rerank_queue_pairs") <= 1)
        gate.open.set()
        codes = statuses(received(connection))

    assert [200] * 17 == codes


class Wire:
    """Stands in for a transport whose client reads all."""

    def __init__(self):
        self.sent = b""
        self.closed = False

    def write(self, data):
        self.sent += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def can_write_eof(self):
        return False

    def get_write_buffer_size(self):
        return 0

    def get_extra_info(self, name):
        return None

    def set_write_buffer_limits(self, high):
        assert high == 0


def feed(connection, data):
    """Have a connection receive data, each time as much as it takes."""
    while data:
        buffer = connection.get_buffer(-1)
        piece, data = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(piece)] = piece
        connection.buffer_updated(len(piece))


@pytest.mark.parametrize(
    ("ahead", "served"),
    [
        (head("GET", "/1", "A: " + "b" * 30_000) * 9, 3),
        (post(b" " * 30_000, path="/1") * 9, 3),
        (post(b" " * 100_000, path="/1") * 2, 1),
        (head("GET", "/1", CHUNKS) + chunked(b" " * 100_000) + head("GET", "/2"), 1),
        (head("GET", "/1") * 99, 17),
    ],
)
async def test_little_is_kept_of_what_waits_for_another_request(ahead, served):
    """However much arrives in one piece."""
    paths = []
    arrived = asyncio.Event()

    async def app(scope, receive, send):
        await arrived.wait()
        paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, log_config=None)
    config.load()
    state = ServerState()
    wire = Wire()
    protocol = http_protocol(ServerSettings(), ServerMetrics())
    connection = protocol(config=config, server_state=state, app_state={})
    connection.connection_made(wire)
    feed(connection, head("GET", "/0") + ahead)
    arrived.set()
    while state.tasks:
        await asyncio.gather(*state.tasks)

    assert ["/0", *["/1"] * (served - 1)] == paths
    assert wire.closed
    assert 1 == wire.sent.count(b"connection: close\r\n")
    connection.connection_lost(None)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", ["/livez", "/v1/rerank", "/nope"])
def test_a_client_that_closes_its_sending_side_gets_its_reply(gate, version, path):
    with listening(gate, warm_up=False) as url:
        lines = [JSON.strip(), f"Content-Length: {len(BODY)}"] if path == "/v1/rerank" else []
        method, body = ("POST", BODY) if lines else ("GET", b"")
        connection = opened(url, head(method, path, *lines, version=version) + body)
        connection.shutdown(socket.SHUT_WR)
        if lines:
            time.sleep(0.2)
        gate.open.set()

        assert [404 if path == "/nope" else 200] == statuses(received(connection))


def test_a_request_that_is_cut_off_gets_an_error(url):
    connection = opened(url, post()[:-1])
    connection.shutdown(socket.SHUT_WR)

    assert [400] == statuses(received(connection))


def test_a_client_that_closes_while_it_waits_is_given_up(gate):
    """Its end of input looks like that of one that still reads."""
    with listening(gate, warm_up=False) as url:
        gone = [opened(url, post()) for _ in range(3)]
        wait_until(lambda: metric(url, "rerank_inflight_requests") == 4)
        for connection in gone:
            connection.close()
        wait_until(lambda: metric(url, "rerank_inflight_requests") == 1)
        gate.open.set()


def test_expect_100_continue(url):
    """The body is asked for once somebody wants to read it, and not after a refusal."""
    asked = opened(url, post(BODY, "Expect: 100-continue", "Connection: close")[: -len(BODY)])
    assert b"HTTP/1.1 100 Continue\r\n\r\n" == asked.recv(100)
    asked.sendall(BODY)
    assert [200] == statuses(received(asked))

    refused = opened(url, head("POST", "/nope", "Content-Length: 5", "Expect: 100-continue"))
    reply = received(refused)
    assert [404] == statuses(reply)
    assert b"connection: close" in reply


def in_chunks(random, body):
    """Return a body in chunks of any lengths, with extensions and trailers."""
    encoded = b""
    while body:
        length = random.randint(1, len(body))
        extension = random.choice([b"", b";a=b", b";x"])
        encoded += b"%x%b\r\n%b\r\n" % (length, extension, body[:length])
        body = body[length:]
    return encoded + b"0\r\n" + random.choice([b"", b"X: y\r\n"]) + b"\r\n"


def any_request(random, *lines):
    """Return a request, often one with another request in its body, and the expected status."""
    method, path, body, status = random.choice(
        [
            ("GET", "/livez", b"", 200),
            ("POST", "/v1/rerank", BODY, 200),
            ("DELETE", "/nope", head("GET", "/info"), 404),
            ("PUT", "/livez", head("GET", "/info")[:-1], 405),
        ]
    )
    if "Connection: close" not in lines and random.random() < 0.3:
        lines += ("Connection: Upgrade", "Upgrade: h2c")
    if body and random.random() < 0.5:
        sent = head(method, path, JSON.strip(), CHUNKS, *lines) + in_chunks(random, body)
    else:
        length = f"Content-Length: {len(body)}"
        sent = head(method, path, JSON.strip(), length, *lines) + body
    return sent, status


@pytest.mark.parametrize("seed", range(100))
def test_requests_in_any_order_and_pieces_get_their_replies(url, seed):
    random = Random(seed)
    requests = [any_request(random) for _ in range(random.randint(0, 6))]
    requests.append(any_request(random, "Connection: close"))
    data = b"".join(sent for sent, _ in requests)
    pieces = sorted(random.sample(range(1, len(data)), random.choice([0, 1, 2, 8, 40])))
    connection = opened(url)
    for start, end in zip([0, *pieces], [*pieces, len(data)], strict=True):
        connection.sendall(data[start:end])
    if random.random() < 0.5:
        connection.shutdown(socket.SHUT_WR)

    assert [status for _, status in requests] == statuses(received(connection))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_the_body_of_any_method_is_not_read_as_a_request(url, method, framing):
    inner = head("GET", "/info")
    if framing == "length":
        first = head(method, "/nope", f"Content-Length: {len(inner)}") + inner
    else:
        first = head(method, "/nope", CHUNKS) + chunked(inner)
    reply = received(opened(url, first + head("GET", "/livez", "Connection: close")))

    assert 2 == reply.count(b"HTTP/1.1 ")
    assert b"max_client_batch_size" not in reply
    assert reply.endswith(b'{"status":"alive"}')


def test_trailers_are_not_read_as_headers(locked):
    sent = head("POST", "/v1/rerank", CHUNKS, JSON.strip(), "Connection: close")
    reply = received(
        opened(
            locked, sent + chunked(BODY, end=f"0\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        )
    )

    assert [401] == statuses(reply)


def test_a_refused_body_of_legal_size_costs_no_connection(locked):
    """A client sends all of its body before it reads that it has no key; and goes on with one."""
    body = b"y" * MIB
    last = post(BODY, f"Authorization: Bearer {KEY}", "Connection: close")
    connection = opened(locked, post(body) + last)

    assert [401, 200] == statuses(received(connection))


@pytest.mark.parametrize("path", ["/v1/rerank", "/nope"])
def test_who_sends_too_much_still_reads_why(url, path):
    """Most clients send all of a body before they read."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("POST", path, b"y" * 9 * MIB, {"content-type": "application/json"})

    assert connection.getresponse().status == (404 if path == "/nope" else 413)
    connection.close()


@pytest.mark.parametrize("space", [" ", "   "], ids=len)
@pytest.mark.parametrize(
    ("lines", "body"),
    [((f"Content-Length: {len(BODY)}",), BODY), ((CHUNKS,), chunked(BODY))],
    ids=["length", "chunks"],
)
def test_space_after_a_value_is_no_part_of_it(url, space, lines, body):
    """RFC 9110, 5.5; llhttp leaves it."""
    lines = [f"{line}{space}" for line in (*lines, "Content-Type: application/json")]
    request = head("POST", "/v1/rerank", *lines, "Connection: close") + body

    assert [200] == statuses(received(opened(url, request)))


@contextmanager
def crowded(url, count, data=b""):
    """Give connections that wait, all of which the server knows."""
    with ExitStack() as stack:
        connections = [stack.enter_context(opened(url, data)) for _ in range(count)]
        assert 200 == get(url, "/livez")[0]
        yield connections


@pytest.mark.parametrize(
    "data", [b"", b"GET /", head(), head("GET", "/livez", "Content-Length: 5") + b"1"]
)
def test_the_connections_that_wait_longest_are_evicted(data):
    """A crowd of clients that do nothing keeps nobody out, neither new ones nor those at work."""
    with listening(FakeBackend(), max_connections=20, warm_up=False) as url:
        for _ in range(3):
            with crowded(url, 60, data):
                request = post(BODY, "Connection: close")
                assert [200] == statuses(received(opened(url, request)))
        assert metric(url, "rerank_evicted_connections_total", needed="place") >= 3 * 20


def test_too_many_requests_in_progress_are_refused_except_probes(gate):
    """Else a crowd would have the server killed by its liveness probe."""
    with listening(gate, warm_up=False, max_connections=3) as url:
        first = [opened(url, post(BODY, "Connection: close")) for _ in range(3)]
        wait_until(lambda: metric(url, "rerank_inflight_requests") == 4)
        for path in ("/livez", "/readyz", "/metrics"):
            assert 200 == get(url, path)[0]
        refused = received(opened(url, post()))
        for _ in range(30):
            opened(url, b"GET /").close()
        counted = metric(url, "rerank_rejected_total", reason="too_many_connections")
        gate.open.set()

        assert [503] == statuses(refused)
        assert b"retry-after: 1\r\n" in refused
        assert "too_many_connections" == json.loads(answers(refused)[0][1])["error"]["type"]
        assert 1 == counted
        assert [[200]] * 3 == [statuses(received(connection)) for connection in first]
        assert [200] == statuses(received(opened(url, post(BODY, "Connection: close"))))
