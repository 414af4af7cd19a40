"""S4: clients disconnect at random times, over raw sockets; their queued work is not scored."""

import json
import logging
import random
import socket
import struct
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.testing import FakeBackend
from tests.support.monitoring import metric, wait_until
from tests.support.serving import listening

log = logging.getLogger(__name__)

DOCUMENTS = 20
CLIENTS = 64
STAYING = 4  # of ten
SETTINGS = {"warm_up": False, "queue_seconds": 100.0, "request_seconds": 100.0, "batch_pairs": 64}


class Recording(FakeBackend):
    """Scores a document by the number in it, and remembers when it began to."""

    def __init__(self, per_pair):
        super().__init__(lambda query, text: int(text) / 1e6)
        self.per_pair = per_pair
        self.began = {}

    def score_many(self, requests):
        texts = [int(text) for _, texts in requests for text in texts]
        self.began |= dict.fromkeys(texts, time.monotonic())
        time.sleep(self.per_pair * len(texts))
        return super().score_many(requests)


def texts(number):
    return range(number * DOCUMENTS, (number + 1) * DOCUMENTS)


def sent(url, number):
    """Return a connection on which request `number` was sent."""
    parts = urlsplit(url)
    body = json.dumps({"query": "q", "documents": [str(text) for text in texts(number)]}).encode()
    head = f"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    connection = socket.create_connection((parts.hostname, parts.port), timeout=100)
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return connection


def reply_on(connection):
    """Return the status and the scores in the order of the documents."""
    reply = HTTPResponse(connection)
    reply.begin()
    results = sorted(json.loads(reply.read())["results"], key=lambda result: result["index"])
    return reply.status, [result["relevance_score"] for result in results]


def leave(connection, number):
    """End a connection: by RST if the number is odd, else by FIN."""
    if number % 2:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(
    ("requests", "per_pair", "wasted", "seconds"),
    [
        (200, 0.001, 0.5, 30),
        pytest.param(2_000, 0.002, 0.05, 1, marks=[pytest.mark.nightly, pytest.mark.timeout(900)]),
    ],
)
def test_queued_pairs_of_disconnected_clients_are_not_scored(requests, per_pair, wasted, seconds):
    """A pair waited if its batch began after the client had left, or never did."""
    model = Recording(per_pair)
    chance = random.Random(4)
    patience = [
        None if chance.randrange(10) < STAYING else chance.random() for _ in range(requests)
    ]
    longest = CLIENTS * DOCUMENTS * per_pair  # in line
    left = {}

    def client(number):
        connection = sent(url, number)
        if patience[number] is None:
            with connection:
                return reply_on(connection)
        time.sleep(patience[number] * longest)
        leave(connection, number)
        left[number] = time.monotonic()
        return None

    with listening(model, **SETTINGS) as url, ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(client, range(requests)))
        together = [sent(url, requests + number) for number in range(CLIENTS)]
        wait_until(lambda: metric(url, "rerank_queue_pairs") > 0)
        for number, connection in enumerate(together):
            leave(connection, number)
        last = time.monotonic()
        wait_until(lambda: metric(url, "rerank_queue_pairs") == 0, seconds)
        emptied = time.monotonic() - last
        wait_until(lambda: metric(url, "rerank_inflight_requests") == 1)  # that of the metrics

    counts = defaultdict(int)
    for number, reply in enumerate(replies):
        if reply is not None:
            assert (200, [text / 1e6 for text in texts(number)]) == reply
            continue
        for text in texts(number):
            began = model.began.get(text)
            if began is None or began > left[number]:
                counts["waiting"] += 1
                counts["scored"] += began is not None
    log.info("%d of %d left; %s; empty after %.3f s", len(left), requests, dict(counts), emptied)
    assert len(left) == sum(seconds is not None for seconds in patience)
    assert counts["waiting"] > DOCUMENTS  # else nobody left in time
    assert counts["scored"] <= wasted * counts["waiting"]
