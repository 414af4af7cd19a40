"""What happens to a server in production, on real connections; counts and orders, never seconds."""

import http.client
import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.testing import FakeBackend
from tests.support.doubles import Marked
from tests.support.monitoring import get, metric, wait_until
from tests.support.serving import listening


class Gate(FakeBackend):
    """Scores a document by the number in it, once released; records the batches."""

    def __init__(self):
        super().__init__(lambda query, text: int(text) / 1e6)
        self.batches = []
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def score_many(self, requests):
        self.batches.append([text for _, texts in requests for text in texts])
        self.entered.release()
        assert self.open.wait(60)
        return super().score_many(requests)

    def score(self, query, documents):
        return [self._function(query, text) for text in documents]


@pytest.fixture
def gate():
    backend = Gate()
    yield backend
    backend.open.set()


def post_rerank(url, documents, path="/v1/rerank", headers=()):
    """Return the status, the headers and the parsed reply."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    body = json.dumps({"query": "q", "documents": documents})
    connection.request("POST", path, body, {"content-type": "application/json", **dict(headers)})
    reply = connection.getresponse()
    response = reply.status, dict(reply.getheaders()), json.loads(reply.read())
    connection.close()
    return response


def opened(url, data):
    """Return a connection that has sent `data`."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    connection.sendall(data)
    return connection


def request(documents, *, length=None):
    body = json.dumps({"query": "q", "documents": documents}).encode()
    length = len(body) if length is None else length
    head = f"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def numbers(first, count):
    return [str(number) for number in range(first, first + count)]


def test_requests_of_disconnected_clients_are_not_scored(gate):
    """S4: what waits for them is dropped; those who stay get their own scores."""
    with listening(gate, warm_up=False) as url, ThreadPoolExecutor(9) as pool:
        first = pool.submit(post_rerank, url, ["1"])
        gate.entered.acquire(timeout=30)
        leaving = [opened(url, request(numbers(1000 * n, 20))) for n in range(1, 21)]
        wait_until(lambda: metric(url, "rerank_queue_pairs") == 400)
        staying = [pool.submit(post_rerank, url, numbers(100_000 * n, 20)) for n in range(1, 9)]
        wait_until(lambda: metric(url, "rerank_queue_pairs") == 560)
        for number, connection in enumerate(leaving):
            reset(connection) if number % 2 else connection.close()
        wait_until(lambda: metric(url, "rerank_queue_pairs") == 160)
        gate.open.set()

        assert 200 == first.result(60)[0]
        for n, reply in enumerate(staying, start=1):
            status, _, body = reply.result(60)
            expected = [int(text) / 1e6 for text in numbers(100_000 * n, 20)]
            by_index = sorted(body["results"], key=lambda result: result["index"])
            assert 200 == status
            assert pytest.approx(expected) == [result["relevance_score"] for result in by_index]
        assert 400 == metric(url, "rerank_cancelled_pairs_total")

    scored = {int(text) for batch in gate.batches for text in batch}
    assert not [number for number in scored if 1000 <= number < 100_000]


def test_excess_requests_are_refused_at_once_and_accepted_ones_are_scored(gate):
    """S2: a bounded queue, whole requests only, and when to come back."""
    with listening(gate, warm_up=False, queue_pairs=100) as url, ThreadPoolExecutor(41) as pool:
        first = pool.submit(post_rerank, url, ["1"])
        gate.entered.acquire(timeout=30)
        requests = [pool.submit(post_rerank, url, numbers(1000 * n, 20)) for n in range(1, 41)]
        refused = [reply for reply in requests if reply not in waiting(requests, 5)]
        gate.open.set()
        answered = [reply.result(60) for reply in requests]

        assert 200 == first.result(60)[0]
        assert 35 == len(refused)
        for status, headers, body in (reply.result() for reply in refused):
            assert (503, "overloaded") == (status, body["error"]["type"])
            assert int(headers["retry-after"]) >= 1
        accepted = [body for status, _, body in answered if status == 200]
        assert 5 == len(accepted)
        assert {20} == {len(body["results"]) for body in accepted}


def waiting(futures, count):
    """Wait until only `count` are not done, and return those."""
    wait_until(lambda: sum(not future.done() for future in futures) == count)
    return [future for future in futures if not future.done()]


CLIENTS = {
    "address": [{"x-forwarded-for": "192.0.2.1"}, {"x-forwarded-for": "192.0.2.2"}],
    "key": [
        {"authorization": "Bearer heavy-secret-of-16"},
        {"authorization": "Bearer light-secret-of-16"},
    ],
    "network": [{"x-forwarded-for": "2001:db8::1"}, {"x-forwarded-for": "2001:db8:1::1"}],
}


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_that_fills_the_queue_is_refused_and_not_the_others(gate, tmp_path, kind):
    """S2: it is told apart by its key or its address."""
    (tmp_path / "keys").write_text("heavy:heavy-secret-of-16\nlight:light-secret-of-16\n")
    (tmp_path / "keys").chmod(0o600)
    settings = {"queue_pairs": 100, "batch_pairs": 100, "trusted_proxies": ("127.0.0.1",)}
    if kind == "key":
        settings["api_keys_file"] = str(tmp_path / "keys")
    heavy, light = CLIENTS[kind]
    with (
        listening(gate, warm_up=False, **settings) as url,
        ThreadPoolExecutor(61) as pool,
    ):

        def ask(client, number):
            texts = numbers(1000 * number, 20)
            return pool.submit(post_rerank, url, texts, headers=client)

        first = pool.submit(post_rerank, url, ["1"], headers=heavy)
        gate.entered.acquire(timeout=30)
        requests = [ask(heavy, number) for number in range(1, 41)]
        waiting(requests, 5)
        others = [ask(light, number) for number in range(101, 103)]
        wait_until(lambda: "rerank_queue_pairs 140.0" in get(url, "/metrics", heavy)[1])
        refused = ask(heavy, 41).result(60)
        gate.open.set()

        assert 503 == refused[0]
        assert [200] * 3 == [reply.result(60)[0] for reply in (first, *others)]
        assert 5 == sum(reply.result(60)[0] == 200 for reply in requests)


def test_a_request_of_a_thousand_documents_delays_no_small_one(gate):
    """S12: small requests are scored before the large one is half done."""
    with listening(gate, warm_up=False, batch_pairs=64) as url, ThreadPoolExecutor(11) as pool:
        first = pool.submit(post_rerank, url, ["1"])
        gate.entered.acquire(timeout=30)
        large = pool.submit(post_rerank, url, numbers(100_000, 1000))
        wait_until(lambda: metric(url, "rerank_queue_pairs") == 1000)
        small = [pool.submit(post_rerank, url, numbers(1000 * n, 10)) for n in range(1, 10)]
        wait_until(lambda: metric(url, "rerank_queue_pairs") == 1090)
        gate.open.set()
        statuses = {reply.result(60)[0] for reply in (first, large, *small)}

    assert {200} == statuses
    order = [int(text) for batch in gate.batches for text in batch]
    last_small = max(place for place, number in enumerate(order) if 1000 <= number < 100_000)
    before = sum(number >= 100_000 for number in order[:last_small])
    assert before < 500


def test_a_large_request_does_not_get_small_ones_refused():
    """S12: the large one fills the queue ten times over; small ones wait for their turn only."""
    slow = Marked(per_pair=0.001)
    long = ["a panda " * 375] * 1000
    with (
        listening(slow, warm_up=False, queue_seconds=0.1) as url,
        ThreadPoolExecutor(1) as pool,
    ):
        assert 200 == post_rerank(url, long[:50])[0]  # the speed is known now
        large = pool.submit(post_rerank, url, long)
        wait_until(lambda: metric(url, "rerank_queue_pairs") > 500)
        served = {post_rerank(url, ["a"] * 10)[0] for _ in range(5)}
        assert metric(url, "rerank_queue_pairs") > 0
        status, headers, _ = post_rerank(url, long)

        assert ({200}, 503) == (served, status)
        assert int(headers["retry-after"]) >= 1
        assert 200 == large.result(60)[0]


def test_a_content_length_above_the_limit_is_refused_before_the_body(gate):
    """S9: nobody has to send four gigabytes to hear that they are too many."""
    with listening(gate, warm_up=False, body_bytes=1000) as url:
        connection = opened(url, request([], length=4_000_000_000))
        reply = connection.recv(65536)
        connection.close()

        assert reply.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("cut", ["in the headers", "in the body", "no byte"])
def test_connections_that_send_slowly_are_closed(gate, cut):
    """S10: and meanwhile others are answered."""
    gate.open.set()
    whole = request(numbers(1, 20))
    sent = {"in the headers": whole[:40], "in the body": whole[:-5], "no byte": b""}[cut]
    with listening(gate, warm_up=False, header_seconds=0.5, body_seconds=0.5) as url:
        slow = [opened(url, sent) for _ in range(50)]

        assert 200 == post_rerank(url, ["1"])[0]
        for connection in slow:  # else this waits for longer than a test may take
            reply = b""
            try:
                while part := connection.recv(65536):
                    reply += part
            except ConnectionResetError:
                pass
            connection.close()
            assert not reply or reply.startswith(b"HTTP/1.1 408 ")


def test_a_hanging_model_fails_liveness_and_hangs_no_client(gate):
    """S18: callers get an error in time, and the liveness probe fails."""
    settings = {"warm_up": False, "request_seconds": 0.5, "watchdog_seconds": 0.5}
    with listening(gate, **settings) as url, ThreadPoolExecutor(4) as pool:
        replies = [pool.submit(post_rerank, url, [str(n)]) for n in range(1, 5)]

        for status, headers, body in (reply.result(60) for reply in replies):
            assert (504, "timeout") == (status, body["error"]["type"])
            assert int(headers["retry-after"]) >= 1
        wait_until(lambda: get(url, "/livez")[0] == 503)
        assert 503 == get(url, "/readyz")[0]
        gate.open.set()
        wait_until(lambda: get(url, "/livez")[0] == 200)
        assert 200 == post_rerank(url, ["5"])[0]


def test_the_metrics_count_what_clients_count(gate):
    """S19: after refusals and failures of all kinds."""
    gate.open.set()
    with listening(gate, warm_up=False, max_documents=30) as url, ThreadPoolExecutor(8) as pool:
        requests = [["1", "2"]] * 20 + [numbers(1, 31)] * 7 + [[1]] * 5 + [["x"]] * 3
        statuses = [
            reply[0] for reply in pool.map(lambda documents: post_rerank(url, documents), requests)
        ]

        assert 20 == statuses.count(200)
        assert 7 == statuses.count(413)
        assert len(requests) == metric(url, "rerank_requests_total", route="/v1/rerank")
        assert 20 == metric(url, "rerank_requests_total", route="/v1/rerank", outcome="ok")
        assert 40 == metric(url, "rerank_pairs_total")
        assert len(requests) == metric(
            url, "rerank_request_duration_seconds_count", route="/v1/rerank"
        )
        assert 0 == metric(url, "rerank_queue_pairs")
        assert 1 == metric(url, "rerank_inflight_requests")  # that of the metrics
