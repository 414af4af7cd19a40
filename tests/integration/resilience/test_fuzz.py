"""Mangled bodies: a server responds to all of them, and keeps nothing of them."""

import http.client
import json
import logging
import random
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from tests.support.memory import resident
from tests.support.server_process import server_process, wait_for_status

log = logging.getLogger(__name__)

MIB = 2**20
CONFIG = '[backend]\nkind = "embedded"\ncached_tokens = 0\n'
PIECES = [
    *(b"\xff", b"\xed\xa0\x80", b"\x00", b"\xef\xbb\xbf", rb"\ud800", rb"\u0000", b"\\", b'"'),
    *(b"[" * 300, b'{"a":' * 300, b"NaN", b"1e999", b"9" * 5000, b'"query":"q",', b'"x":[{}],'),
    *(b"}", b"]", b",", b":", b" " * 1000, "\u202e".encode(), "\U0001f43c".encode(), b"null"),
]


def mangled(chance):
    """Return a valid body with random damage."""
    texts = [chance.randbytes(chance.randrange(12)).decode("latin-1") for _ in range(2)]
    body = bytearray(json.dumps({"query": "q", "documents": texts, "top_n": 2}).encode())
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(body) + 1)
        match chance.randrange(4):
            case 0:
                body[place:place] = chance.choice(PIECES)
            case 1:
                body[place:place] = chance.randbytes(chance.randrange(20))
            case 2:
                del body[place : place + chance.randrange(1, 20)]
            case _:
                body[place : place + 1] = chance.randbytes(1)
    if chance.randrange(50) == 0:
        body += chance.choice(PIECES) * chance.randrange(400)
    return bytes(body)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("bodies", "growth"),
    [
        (1_500, 16 * MIB),
        pytest.param(60_000, 16 * MIB, marks=[pytest.mark.nightly, pytest.mark.timeout(1800)]),
    ],
)
def test_mangled_bodies_are_no_5xx_and_leave_nothing(tmp_path, bodies, growth):
    """Memory is compared after a third of the bodies and at the end."""
    chance = random.Random(11)
    statuses = Counter()
    with server_process(tmp_path, "--no-model-process", table="ui = false\n", config=CONFIG) as (
        process,
        url,
    ):
        wait_for_status(url, 200)
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        memory = 0
        for number in range(bodies):
            path = chance.choice(["/v1/rerank", "/v2/rerank", "/rerank"])
            body = mangled(chance)
            connection.request("POST", path, body, {"content-type": "application/json"})
            reply = connection.getresponse()
            content = reply.read()
            statuses[reply.status] += 1
            assert reply.status < 500, body
            assert len(content) <= 4096
            if number == bodies // 3:
                memory = resident(process.pid)
        grown = resident(process.pid) - memory
        connection.close()

    log.info("%s; grown by %.1f MiB", statuses, grown / MIB)
    assert {200, 400, 422} <= {*statuses}
    assert grown <= growth
