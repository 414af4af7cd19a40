"""S6: the model's process is killed again and again; all get an answer, and nothing leaks."""

import http.client
import json
import logging
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")
if not Path("/proc/self/task").exists():
    pytest.skip("looks into /proc", allow_module_level=True)

from tests.support.monitoring import children, metric, process_resources, wait_until
from tests.support.server_process import double_process, fetch, wait_for_status

log = logging.getLogger(__name__)

PAUSE = 0.05
"""What a client waits after a 503."""


@dataclass(frozen=True)
class Reply:
    began: float
    ended: float
    status: int
    type: str | None


def send_requests(url, number, ended):
    """Send requests until `ended` is set, and return the responses; each must get one."""
    documents = ["x" * (1 + number)] * 10
    body = json.dumps({"query": "q", "documents": documents}).encode()
    replies = []
    while not ended.is_set():
        began = time.monotonic()
        status, content = fetch(url, "/v1/rerank", body)
        problem = None if status == 200 else content["error"]["type"]
        replies.append(Reply(began, time.monotonic(), status, problem))
        if status == 200:
            scores = [result["relevance_score"] for result in content["results"]]
            assert [float(1 + number)] * 10 == scores
        else:
            time.sleep(PAUSE)
    return replies


@pytest.mark.parametrize(
    ("kills", "clients", "life", "max_response_seconds", "max_restart_seconds"),
    [
        (2, 8, 0, 60, 60),
        # One that dies within ten seconds is the second time started again after a pause.
        pytest.param(*(20, 32, 10.5, 1, 5), marks=[pytest.mark.nightly, pytest.mark.timeout(1200)]),
    ],
)
def test_killed_models_restart_hang_no_client_and_leak_nothing(
    tmp_path, *, kills, clients, life, max_response_seconds, max_restart_seconds
):
    ended, killed, back = threading.Event(), [], []
    with (
        double_process(tmp_path, "Marked", per_pair=0.001) as (process, url),
        ThreadPoolExecutor(clients) as pool,
    ):
        wait_for_status(url, 200)
        replies = [pool.submit(send_requests, url, number, ended) for number in range(clients)]
        try:
            time.sleep(1)
            before = process_resources(process.pid)
            for _ in range(kills):
                time.sleep(life)
                (model,) = children(process.pid)
                killed.append(time.monotonic())
                os.kill(model, signal.SIGKILL)
                wait_until(
                    lambda old=model: fetch(url)[0] == 200 and children(process.pid) != [old], 90
                )
                back.append(time.monotonic())
        finally:
            ended.set()
        responses = [each for future in replies for each in future.result(100)]
        after = process_resources(process.pid)

        assert 1 == len(children(process.pid))
        assert kills == metric(url, "rerank_model_restarts_total")
        assert len(responses) == metric(url, "rerank_requests_total", route="/v1/rerank")
        assert 0 == metric(url, "rerank_queue_pairs")
    in_flight = [
        (reply, reply.ended - moment)
        for moment in killed
        for reply in responses
        if reply.began < moment < reply.ended
    ]
    slowest = max(seconds for reply, seconds in in_flight if reply.status == 503)
    last = max(seconds for _, seconds in in_flight)  # that waited for the next process
    longest = max(end - begin for begin, end in zip(killed, back, strict=True))
    log.info("%s", Counter((reply.status, reply.type) for reply in responses))
    log.info("%d in flight, refused within %.3f s, served in %.3f", len(in_flight), slowest, last)
    log.info("back within %.3f s; %s, then %s", longest, before, after)
    assert {(200, None), (503, "model_restarting")} == {
        (each.status, each.type) for each in responses
    }
    assert slowest <= max_response_seconds
    assert last <= max_restart_seconds
    assert longest <= max_restart_seconds
    assert after.threads <= before.threads + 4
    assert after.files <= before.files + 8


def post_from(url, address, query, document):
    """Return the status, the type of an error, and `Retry-After`, for a client of this address."""
    netloc = urlsplit(url).netloc
    connection = http.client.HTTPConnection(netloc, timeout=60, source_address=(address, 0))
    body = json.dumps({"query": query, "documents": [document]})
    connection.request("POST", "/v1/rerank", body, {"content-type": "application/json"})
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    kind = None if reply.status == 200 else content["error"]["type"]
    return reply.status, kind, reply.headers["retry-after"]


def test_a_client_that_kills_the_model_is_refused_and_the_others_are_served(tmp_path):
    """Each time with a text that the server does not know: two crashes are all it gets."""
    with double_process(tmp_path, "Marked") as (_, url):
        wait_for_status(url, 200)
        killer = []
        for number in range(6):
            killer.append(post_from(url, "127.0.0.2", f"q{number}", "kill"))
            assert (200, None, None) == post_from(url, "127.0.0.3", "q", "a")
        restarts = metric(url, "rerank_model_restarts_total")

    assert 2 == restarts
    assert [(503, "model_restarting")] * 2 == [reply[:2] for reply in killer[:2]]
    assert [(503, "client_suspended")] * 4 == [reply[:2] for reply in killer[2:]]
    assert all(1 <= int(seconds) <= 10 for *_, seconds in killer[2:])
