"""A model's process runs out of memory: batches shrink, and nothing is lost."""

import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")
if not hasattr(resource, "prlimit"):
    pytest.skip("limits another process", allow_module_level=True)

from rerank_plugins import BackendOutOfMemory, load_backend
from rerank_plugins.wrappers.process import ModelProcess
from tests.support.monitoring import children, metric
from tests.support.server_process import double_process, fetch, wait_for_status

MIB = 2**20
PAIR = 64 * MIB
"""What a pair takes: malloc gives so large a piece back to the system at once."""


def limit(process, more):
    """Let a process have so many bytes beside those that it has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
    address_space = pages * os.sysconf("SC_PAGE_SIZE") + more
    _, hard = resource.prlimit(process, resource.RLIMIT_AS)
    resource.prlimit(process, resource.RLIMIT_AS, (address_space, hard))


def rerank(url, count):
    """Return the status, and how many scores or which error there were."""
    body = json.dumps({"query": "q", "documents": ["a panda"] * count}).encode()
    status, reply = fetch(url, "/v1/rerank", body)
    return status, len(reply["results"]) if status == 200 else reply["error"]["type"]


def test_batches_shrink_to_the_memory_limit_and_then_the_server_ends(tmp_path):
    """S8: the limit is remembered; three single pairs that do not fit are the end."""
    with (
        double_process(tmp_path, "Hungry", pair_bytes=PAIR) as (process, url),
        ThreadPoolExecutor(16) as pool,
    ):
        wait_for_status(url, 200)
        (model,) = children(process.pid)
        initial_limit = metric(url, "rerank_batch_tokens_limit")
        limit(model, 8 * PAIR + PAIR // 2)

        assert {(200, 20)} == set(pool.map(lambda _: rerank(url, 20), range(48)))
        assert (200, 64) == rerank(url, 64)
        splits = metric(url, "rerank_oom_splits_total")
        lowered_limit = metric(url, "rerank_batch_tokens_limit")
        assert 1 <= splits <= 10
        assert 0 < lowered_limit < initial_limit
        assert {(200, 20)} == set(pool.map(lambda _: rerank(url, 20), range(48)))
        assert (splits, lowered_limit) == (
            metric(url, "rerank_oom_splits_total"),
            metric(url, "rerank_batch_tokens_limit"),
        )
        assert 2 * 48 * 20 + 64 == metric(url, "rerank_pairs_total")
        assert [model] == children(process.pid)

        limit(model, PAIR // 2)
        for _ in range(3):
            assert (503, "out_of_memory") == rerank(url, 1)
        assert 70 == process.wait(60)


IMPATIENT = """
from rerank_plugins.cli import main
from rerank_plugins.server import lifecycle

lifecycle._MEMORY_RETRY_SECONDS = 0.2
main()
"""


def test_a_server_recovers_when_memory_is_free_again(tmp_path):
    """It is not ready meanwhile, so no request of a client would; and nobody has to restart it."""
    server = double_process(tmp_path, "Hungry", program=("-c", IMPATIENT), pair_bytes=PAIR)
    with server as (process, url):
        wait_for_status(url, 200)
        (model,) = children(process.pid)
        limit(model, PAIR // 2)
        assert (503, "out_of_memory") == rerank(url, 4)
        assert "out_of_memory" == fetch(url)[1]["status"]
        assert 200 == fetch(url, "/livez")[0]

        limit(model, 100 * PAIR)
        wait_for_status(url, 200)
        assert (200, 4) == rerank(url, 4)
        assert [model] == children(process.pid)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_pair_that_does_not_fit_raises_out_of_memory(checkpoint, engine):
    """What ONNX Runtime and torch really raise; the shorter pairs are scored as before."""
    spec = {
        "kind": "local",
        "model": checkpoint("modernbert"),
        "engine": engine,
        "device": "cpu",
        "max_length": 8192,
    }
    with ModelProcess(load_backend(spec)) as model:
        short = ["a panda", "bamboo " * 50]
        expected = model.score("what is a panda?", short)
        before = model.process_id
        limit(before, 100 * MIB)
        with pytest.raises(BackendOutOfMemory, match="lower `max_length`"):
            model.score("what is a panda?", ["panda " * 8192])

        assert pytest.approx(expected) == model.score("what is a panda?", short)
        assert before == model.process_id
