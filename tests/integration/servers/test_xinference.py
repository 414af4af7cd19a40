"""Xinference 4.1, with the access control that it starts with."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from rerank_plugins import (
    AuthenticationError,
    BackendUnavailable,
    InvalidResponse,
    load_backend,
)
from rerank_plugins.backends.http.discovery import probe
from tests.integration.servers.agreement import (
    DOCUMENTS,
    QUERY,
    Agreement,
    Refusals,
    ServerContract,
)
from tests.integration.servers.launch import descendants


@pytest.fixture(scope="module")
def spec_of(xinference):
    def spec(model="tiny", key="RERANK_TEST_KEY_XINFERENCE"):
        return f"xinference+{xinference.url}?model={model}&timeout=300&api_key_env={key}"

    return spec


class TestAgreement(Agreement):
    pass


class TestContract(ServerContract):
    pass


class TestRefusals(Refusals):
    unknown_model = 404


def test_it_is_recognised(xinference):
    """With a key by the models it lists, without one by what it leaves open."""
    key = os.environ["RERANK_TEST_KEY_XINFERENCE"]
    info, guarded = probe(xinference.url, api_key=key, timeout=60), probe(xinference.url)

    assert ("xinference", xinference.url) == (info.dialect, info.base_url)
    assert {"nan", "tiny"} == set(info.models)
    assert info.authorized
    assert ("xinference", (), False) == (guarded.dialect, guarded.models, guarded.authorized)


def test_a_key_without_permission_is_an_authentication_error(spec_of):
    with (
        load_backend(spec_of(key="RERANK_TEST_KEY_XINFERENCE_OTHER")) as backend,
        pytest.raises(AuthenticationError) as caught,
    ):
        backend.score(QUERY, DOCUMENTS)

    assert 403 == caught.value.status_code


def test_scores_that_are_not_numbers_are_an_invalid_response(spec_of):
    """The server sends null for NaN, with status 200."""
    with load_backend(spec_of(model="nan")) as backend, pytest.raises(InvalidResponse):
        backend.score(QUERY, DOCUMENTS)


def model_process(server):
    """Return the number of the process that holds the model."""
    for process in descendants(server.process.pid):
        with suppress(OSError):  # ended meanwhile
            if "Model: tiny-" in Path(f"/proc/{process}/cmdline").read_text():
                return process
    raise AssertionError(server.tail())


def test_a_killed_model_is_replaced_by_a_local_one_until_it_is_back(xinference, tiny):
    """Last, because the server needs half a minute to start the model again."""
    remote = {"kind": "xinference", "base_url": xinference.url, "model": "tiny", "timeout": 30.0}
    remote |= {"server_scale": "probability", "api_key_env": "RERANK_TEST_KEY_XINFERENCE"}
    local = {"kind": "local", "model": str(tiny), "engine": "torch"}
    chain = load_backend({"backend": remote, "retry": {"attempts": 2}, "fallback": [local]})
    back = threading.Event()

    def work(_):
        outcomes = []
        while not back.is_set():
            outcomes.append(chain.score(QUERY, DOCUMENTS))
            time.sleep(0.2)  # the local model would take the processors that Xinference needs
        return outcomes

    with chain, load_backend(remote) as alone, ThreadPoolExecutor(2) as pool:
        expected = pytest.approx(chain.children[-1].score(QUERY, DOCUMENTS), rel=0, abs=1e-5)
        assert expected == alone.score(QUERY, DOCUMENTS)
        workers = [pool.submit(work, number) for number in range(2)]
        try:
            os.kill(model_process(xinference), signal.SIGKILL)
            failures = failures_until_it_is_back(alone)
        finally:
            back.set()

        assert failures  # a client without a fallback notices
        assert expected == alone.score(QUERY, DOCUMENTS)
        for worker in workers:
            outcomes = worker.result()
            assert outcomes
            assert all(expected == scores for scores in outcomes)


def failures_until_it_is_back(backend):
    """Ask until there were failures and then scores; nothing else may come."""
    failures: list[BackendUnavailable] = []
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            backend.score(QUERY, DOCUMENTS)
        except BackendUnavailable as error:
            failures.append(error)
        else:
            if failures:
                return failures
        time.sleep(0.2)
    raise AssertionError([str(error) for error in failures[-3:]])
