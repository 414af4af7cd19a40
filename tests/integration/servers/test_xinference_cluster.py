"""A Xinference cluster, a supervisor and two workers, one of which is killed under load.

It takes minutes and 5 GB to start, so only `pytest -m nightly tests/integration/servers` runs it.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack

import pytest

from rerank_plugins import BackendUnavailable, Scores, load_backend
from tests.integration.servers.agreement import DOCUMENTS, QUERY
from tests.integration.servers.launch import ask, environment, serving
from tests.support.ports import free_port

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3000)]

CALLERS = 4
BEFORE, AFTER = 10.0, 30.0
"""Seconds of load before and after the kill; the supervisor notices after about six."""


@pytest.fixture(scope="module")
def cluster(tiny, tmp_path_factory):
    """The URL of a supervisor whose two workers serve one replica each, and the workers."""
    folder, port, inner = tmp_path_factory.mktemp("cluster"), free_port(), free_port()
    binaries = environment("xinference")
    settings = {
        "XINFERENCE_AUTH_ADVANCED": "0",
        "XINFERENCE_ENABLE_VIRTUAL_ENV": "0",
        "XINFERENCE_HEALTH_CHECK_FAILURE_THRESHOLD": "3",
        "XINFERENCE_HEALTH_CHECK_INTERVAL": "2",
    }

    def start(name, *options):
        home = folder / name
        home.mkdir()
        program = "xinference-supervisor" if name == "supervisor" else "xinference-worker"
        return stack.enter_context(
            serving(
                name,
                [binaries / program, "-H", "127.0.0.1", *options],
                port=port,  # a worker is asked for through its supervisor
                health="/v1/cluster/auth",
                folder=home,
                environment={**settings, "XINFERENCE_HOME": str(home)},
                within=900.0,
            )
        )

    def worker(name):
        own, metrics = str(free_port()), str(free_port())
        joining = ["-e", f"http://127.0.0.1:{port}", "--worker-port", own]
        return start(name, *joining, "-MH", "127.0.0.1", "--metrics-exporter-port", metrics)

    with ExitStack() as stack:
        supervisor = start("supervisor", "-p", str(port), "--supervisor-port", str(inner))
        workers = [worker("worker-1"), worker("worker-2")]
        wait_for(
            lambda: json.dumps(read(f"{supervisor.url}/v1/cluster/info")).count('"Worker"') > 1
        )
        body = {"model_uid": "tiny", "model_type": "rerank", "replica": 2}
        body |= {"model_name": "bge-reranker-base", "model_path": str(tiny)}
        ask(f"{supervisor.url}/v1/models", body)
        yield supervisor.url, workers


def read(url):
    with urllib.request.urlopen(url, timeout=30) as reply:
        return json.load(reply)


def wait_for(condition, seconds=900.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


async def load(backend, seconds, seen):
    """Score again and again; note what comes and when."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            scores = await backend.ascore(QUERY, DOCUMENTS)
        except BackendUnavailable as error:
            seen.append((time.monotonic(), error))
        else:
            seen.append((time.monotonic(), scores))


async def test_with_retries_no_call_fails_when_a_worker_is_killed(cluster, tiny):
    url, workers = cluster
    asked = {"kind": "xinference", "base_url": url, "model": "tiny", "timeout": 30.0}
    # Until the dead worker is noticed, half of all attempts go there: three are too few for
    # every call, and they are more than one retry in ten calls.
    retrying = load_backend(
        {"backend": asked, "retry": {"attempts": 10, "deadline": 60.0, "budget": 1.0}}
    )
    bare = load_backend({"backend": asked})
    with load_backend(f"local:{tiny}?engine=torch") as local:
        expected = pytest.approx(local.score(QUERY, DOCUMENTS), rel=0, abs=1e-5)
    seen: dict[str, list[tuple[float, object]]] = {"bare": [], "retrying": []}
    async with retrying, bare, asyncio.TaskGroup() as tasks:
        for name, backend in (("bare", bare), ("retrying", retrying)):
            for _ in range(CALLERS // 2):
                tasks.create_task(load(backend, BEFORE + AFTER, seen[name]))
        await asyncio.sleep(BEFORE)
        await asyncio.to_thread(workers[1].kill)
        killed = time.monotonic()
    for name, outcomes in seen.items():
        failures = [(at, one) for at, one in outcomes if isinstance(one, Exception)]
        last = max((at - killed for at, _ in failures), default=0.0)
        kinds = Counter(type(one).__name__ for _, one in failures)
        print(f"{name}: {len(outcomes)} calls, {dict(kinds)}, the last {last:.1f} s after the kill")  # noqa: T201 - for the report

    assert all(expected == scores for _, scores in seen["retrying"])
    answered = [scores for _, scores in seen["bare"] if not isinstance(scores, Exception)]
    assert all(expected == scores for scores in answered)
    assert len(answered) < len(seen["bare"])  # else the kill was noticed by nobody at all
    assert any(at > killed + AFTER / 2 for at, one in seen["bare"] if isinstance(one, Scores))
