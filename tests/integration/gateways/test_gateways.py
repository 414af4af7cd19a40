"""A real nginx and a real HAProxy in front of the server, as Debian ships them."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest

from rerank_plugins import BackendRejected, BackendTimeout, BackendUnavailable, load_backend
from rerank_plugins.testing import Delay, FakeServer, Proxy, serve_dialect, silence, word_overlap
from tests.support.ports import free_port

QUERY = "where does the giant panda live?"
TEXTS = ["the giant panda does live in China", "hi"]
EXPECTED = [word_overlap(QUERY, text) for text in TEXTS]
DISTANCE, CALLS = 0.25, 5
"""Seconds to the gateway, which closes what is idle for 0.3 s."""
REQUIRED = "RERANK_TEST_TOOLS_REQUIRED"

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 300ms;
    client_max_body_size 200k;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    upstream servers {{
        server 127.0.0.1:{first} max_fails=1 fail_timeout=1s;
        server 127.0.0.1:{second} max_fails=1 fail_timeout=1s;
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://servers;
            proxy_next_upstream error timeout http_502 http_503 non_idempotent;
        }}
        location /gone/ {{ proxy_pass http://127.0.0.1:9/; }}
        location /slow/ {{ proxy_pass http://127.0.0.1:{slow}/; proxy_read_timeout 300ms; }}
    }}
}}
"""
HAPROXY = """
global
    maxconn 256
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-keep-alive 300ms
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response
frontend gateway
    bind 127.0.0.1:{port}
    use_backend gone if {{ path_beg /gone/ }}
    use_backend slow if {{ path_beg /slow/ }}
    default_backend servers
backend servers
    balance roundrobin
    server first 127.0.0.1:{first}
    server second 127.0.0.1:{second}
backend gone
    retries 0
    server gone 127.0.0.1:9
backend slow
    timeout server 300ms
    server slow 127.0.0.1:{slow}
"""
GATEWAYS = {
    "haproxy": (HAPROXY, ["-db", "-f"], "haproxy"),
    "nginx": (NGINX, ["-c"], "nginx-light"),
}


@pytest.fixture
def lines():
    """Two healthy servers, each behind a line that can be cut."""
    with (
        FakeServer(serve_dialect("cohere")) as one,
        FakeServer(serve_dialect("cohere")) as other,
        Proxy(one.url) as first,
        Proxy(other.url) as second,
    ):
        yield first, second


@pytest.fixture(params=GATEWAYS)
def gateway(request, lines, tmp_path):
    """The URL of a gateway in front of both, of one that is gone and of one that is slow."""
    template, options, package = GATEWAYS[request.param]
    binary = shutil.which(request.param, path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if binary is None:
        missing = pytest.fail if os.environ.get(REQUIRED, "0") not in ("", "0") else pytest.skip
        missing(f"needs {request.param}, as in: apt-get install {package}")
    port = free_port()
    first, second = (line.port for line in lines)
    with FakeServer(silence) as slow:
        ports = {"port": port, "first": first, "second": second, "slow": slow.url.split(":")[-1]}
        config = tmp_path / "gateway.conf"
        config.write_text(template.format(folder=tmp_path, **ports))
        process = subprocess.Popen([binary, *options, config])
        try:
            _wait(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait(port, process):
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return


def spec(url, **options):
    return {"kind": "cohere", "base_url": url, "model": "m", "timeout": 60.0, **options}


def test_a_connection_that_the_gateway_closes_meanwhile_is_no_failure(gateway):
    """The request crosses the closing of the connection, so it gets no response."""
    with Proxy(gateway, Delay(DISTANCE)) as far:
        with load_backend(spec(far.url)) as backend:
            assert [EXPECTED] * CALLS == [backend.score(QUERY, TEXTS) for _ in range(CALLS)]
        assert 0 < bare_failures(far.url)  # else nothing was put to the test


def bare_failures(url):
    """Count the failures of a client without our retries in the same situation."""
    failures = 0
    body = {"model": "m", "query": QUERY, "documents": TEXTS}
    with httpx.Client(trust_env=False, timeout=60) as client:
        for _ in range(CALLS):
            try:
                client.post(f"{url}/v2/rerank", json=body).raise_for_status()
            except (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError):
                failures += 1
    return failures


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_its_error_pages_become_our_errors(gateway, mode):
    async def fail(url, texts):
        async with load_backend(spec(url)) as backend:
            await backend.ascore(QUERY, texts) if mode == "async" else backend.score(QUERY, texts)

    with pytest.raises(BackendTimeout, match=r"answered 504: '504 Gateway Time-?out"):
        await fail(f"{gateway}/slow", TEXTS)
    status = "50[23]: '50[23] (Bad Gateway|Service Unavailable)"  # nginx 502, HAProxy 503
    with pytest.raises(BackendUnavailable, match=status):
        await fail(f"{gateway}/gone", TEXTS)


@pytest.mark.parametrize("gateway", ["nginx"], indirect=True)  # HAProxy has no such limit
def test_a_body_that_the_gateway_finds_too_large_is_rejected(gateway):
    with load_backend(spec(gateway)) as backend, pytest.raises(BackendRejected) as caught:
        backend.score(QUERY, ["panda " * 50_000])

    assert 413 == caught.value.status_code
    assert "413 Request Entity Too Large" in str(caught.value)


def test_no_call_fails_when_a_server_behind_it_dies_under_load(gateway, lines):
    """What the gateway can't repeat, because a reply had begun, our client does."""
    backend = load_backend({"backend": spec(gateway), "retry": {"deadline": 60.0}})

    def work(_):
        return [backend.score(QUERY, TEXTS) for _ in range(50)]

    with backend, ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(work, thread) for thread in range(4)]
        time.sleep(0.1)
        lines[0].stop()

        assert [[EXPECTED] * 50] * 4 == [call.result() for call in calls]


def test_without_servers_it_is_unavailable_and_one_that_is_back_is_enough(gateway, lines):
    for line in lines:
        line.stop()
    with load_backend(spec(gateway)) as backend:
        with pytest.raises(BackendUnavailable):
            backend.score(QUERY, TEXTS)
        lines[1].start()
        end = time.monotonic() + 60
        scores = None
        while scores is None and time.monotonic() < end:  # the gateway looks again after 1 s
            with contextlib.suppress(BackendUnavailable):
                scores = backend.score(QUERY, TEXTS)

    assert EXPECTED == scores
