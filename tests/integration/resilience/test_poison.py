"""A request that breaks the model fails alone, and a thousand of them break nothing else."""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from tests.support.doubles import Marked
from tests.support.monitoring import children, metric, process_resources, wait_until
from tests.support.server_process import double_process, fetch, wait_for_status
from tests.support.serving import listening

log = logging.getLogger(__name__)

MIB = 2**20
POISONS = {
    "poison": (502, "backend_failed"),
    "crash": (500, "internal_error"),
    "panic": (502, "backend_failed"),
    "nan": (502, "backend_failed"),
    "short": (502, "backend_failed"),
}


def rerank(url, documents):
    """Return the status and the reply, or the status and the type of the error."""
    body = json.dumps({"query": "q", "documents": documents}).encode()
    status, reply = fetch(url, "/v1/rerank", body)
    return status, reply if status == 200 else reply["error"]["type"]


def texts(number):
    """Return three documents whose lengths identify the request."""
    return ["x" * (1 + number % 4), "x" * (1 + number // 4 % 4), "x" * (1 + number // 16)]


def is_right(response, documents):
    status, reply = response
    scores = {result["index"]: result["relevance_score"] for result in reply["results"]}
    return status == 200 and scores == {i: float(len(text)) for i, text in enumerate(documents)}


class Waiting(Marked):
    """Blocks in the first batch, so that later requests share the next."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def score_many(self, requests):
        self.entered.release()
        assert self.open.wait(60)
        return super().score_many(requests)


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_request_fails_alone_among_31_good_ones_of_its_batch(poison):
    model = Waiting()
    with listening(model, warm_up=False) as url, ThreadPoolExecutor(33) as pool:
        first = pool.submit(rerank, url, ["first"])
        model.entered.acquire(timeout=30)
        good = {number: pool.submit(rerank, url, texts(number)) for number in range(15)}
        bad = pool.submit(rerank, url, ["a", poison, "b"])
        good |= {number: pool.submit(rerank, url, texts(number)) for number in range(15, 31)}
        wait_until(lambda: metric(url, "rerank_queue_pairs") == 32 * 3)
        model.open.set()

        assert 200 == first.result(60)[0]
        for number, response in good.items():
            assert is_right(response.result(60), texts(number))
        assert POISONS[poison] == bad.result(60)
    assert 32 * 3 == len(model.batches[1])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    "poisons",
    [60, pytest.param(1_000, marks=[pytest.mark.nightly, pytest.mark.timeout(900)])],
)
def test_poisoned_requests_leak_nothing_in_server_and_model(tmp_path, poisons):
    """What they hold is compared after a third of the poisons and at the end."""
    kinds = list(POISONS)

    def exchange(number):
        poison = kinds[number % len(kinds)]
        assert is_right(rerank(url, texts(number % 64)), texts(number % 64))
        assert POISONS[poison] == rerank(url, ["a", poison])

    with (
        double_process(tmp_path, "Marked") as (process, url),
        ThreadPoolExecutor(8) as pool,
    ):
        wait_for_status(url, 200)
        (model,) = children(process.pid)
        list(pool.map(exchange, range(poisons // 3)))
        before = [process_resources(pid) for pid in (process.pid, model)]
        list(pool.map(exchange, range(poisons // 3, poisons)))
        after = [process_resources(pid) for pid in (process.pid, model)]

        wait_for_status(url, 200)
        assert [model] == children(process.pid)
        assert 0 == metric(url, "rerank_queue_pairs")
        assert poisons <= metric(url, "rerank_model_failures_total")
        assert 2 * poisons == metric(url, "rerank_requests_total", route="/v1/rerank")
        for number in range(32):
            assert is_right(rerank(url, texts(number)), texts(number))
    for earlier, later in zip(before, after, strict=True):
        log.info("%s, then %s", earlier, later)
        assert later.threads <= earlier.threads + 8  # as many as clients
        assert later.files <= earlier.files + 8
        assert later.resident <= earlier.resident + 16 * MIB
