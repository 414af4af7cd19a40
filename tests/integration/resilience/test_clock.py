"""The machine's clock jumps by an hour, and no timeout or interval changes (S20)."""

import http.client
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.places import ROOT
from tests.support.ports import free_port

pytest.importorskip("fastapi", reason="needs the extra `server`")

from prometheus_client.parser import text_string_to_metric_families

from tests.support.server_process import server_process, wait_for_status

REQUIRED = "RERANK_TEST_TOOLS_REQUIRED"
HOUR = 3600


class Clock:
    """The wall clock of processes with the environment `env`; their monotonic clock is real."""

    def __init__(self, folder):
        if shutil.which("faketime") is None:
            if os.environ.get(REQUIRED, "0") not in ("", "0"):
                pytest.fail(f"faketime is not installed, and {REQUIRED} is set")
            pytest.skip("faketime is not installed")
        self._file = folder / "clock"
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }
        self.jump(0)

    def jump(self, seconds):
        """Put the clock `seconds` off the real time."""
        written = self._file.with_name("next")
        written.write_text(f"{seconds:+d}\n")
        written.replace(self._file)


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path)


class Client:
    """One connection, which stays open."""

    def __init__(self, url):
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=100)
        self._connection.connect()
        self._socket = self._connection.sock

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()

    def post(self, *documents):
        body = json.dumps({"query": "panda", "documents": documents})
        headers = {"content-type": "application/json"}
        self._connection.request("POST", "/v1/rerank", body, headers)
        reply = self._connection.getresponse()
        reply.read()
        return reply.status

    def get(self, path):
        """Return the status, the body, and by how many seconds the server's clock is off."""
        self._connection.request("GET", path)
        reply = self._connection.getresponse()
        body = reply.read().decode()
        assert self._connection.sock is self._socket  # never closed
        return reply.status, body, parsedate_to_datetime(reply.headers["date"]).timestamp()

    def metric(self, name, **labels):
        """Return the sum of the samples of a metric that have these labels."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = (sample for family in families for sample in family.samples)
        return sum(
            s.value for s in samples if s.name == name and labels.items() <= s.labels.items()
        )

    def wait_for_clock(self, off):
        """Wait until the server sees how its clock has been put."""
        deadline = time.monotonic() + 30
        while abs(self.get("/livez")[2] - time.time() - off) > 60:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_clock_jumps_while_requests_are_scored(tmp_path, clock):
    """No deadline, limit of the queue, rate, watchdog, life time in the cache, or connection."""
    # It sleeps for four seconds over 80 documents; the server sees a jump within two.
    config = '[backend]\nkind = "tests.support.doubles:Marked"\nper_pair = 0.05\n'
    config += '[cache]\nstore = "memory"\nttl = 600\n'
    env = {**clock.env, "PYTHONPATH": str(ROOT)}
    table = 'client_rate = "8/hour"\nwatchdog_seconds = 100.0\n'
    table += "request_seconds = 90.0\nqueue_seconds = 90.0\n"
    with (
        server_process(tmp_path, table=table, config=config, env=env) as (_, url),
        ThreadPoolExecutor(1) as pool,
        Client(url) as client,
        Client(url) as other,
    ):
        wait_for_status(url, 200)
        assert 200 == client.post("a bear", "a city")
        for off in (HOUR, -HOUR, 0):
            long = pool.submit(other.post, *[f"{off} {number}" for number in range(80)])
            while client.metric("rerank_inflight_requests") < 2:
                time.sleep(0.01)
            clock.jump(off)
            client.wait_for_clock(off)
            assert [200, 200] == [client.get(path)[0] for path in ("/livez", "/readyz")]
            assert 200 == client.post("a bear", "a city")
            assert 200 == long.result(100)

        scored = 2 + 3 * 80
        assert scored == client.metric("rerank_cache_lookups_total", result="miss")
        assert 3 * 2 == client.metric("rerank_cache_lookups_total", result="hit")
        assert [200, 429, 429] == [client.post("a bear") for _ in range(3)]
        assert 0 == client.metric("rerank_model_restarts_total")
        assert 0 == client.metric("rerank_model_failures_total")
        assert 0 <= client.metric("rerank_request_duration_seconds_sum") < HOUR / 2
        assert 0 <= client.metric("rerank_queue_wait_seconds_sum") < HOUR / 2


def test_an_open_breaker_waits_for_real_seconds(tmp_path, clock):
    port = free_port()
    config = f"""
[backend]
kind = "infinity"
base_url = "http://127.0.0.1:{port}"
[breaker]
failures = 1
cooldown = 1800.0
[[fallback]]
kind = "embedded"
"""
    with server_process(tmp_path, config=config, env=clock.env) as (_, url), Client(url) as client:
        wait_for_status(url, 200)
        assert 200 == client.post("a bear")
        attempts = client.metric("rerank_client_attempts_total")
        for off in (HOUR, -HOUR):
            clock.jump(off)
            client.wait_for_clock(off)
            assert 200 == client.post("a bear")

        assert attempts == client.metric("rerank_client_attempts_total") > 0
