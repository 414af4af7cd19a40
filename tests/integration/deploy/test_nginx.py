"""nginx in front of real servers: limits, failover, and connections that are kept."""

import http.client
import re
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx2 as httpx
import pytest

from rerank_plugins import load_backend
from rerank_plugins.server import create_app
from rerank_plugins.server.middleware import PROBE_PATHS
from rerank_plugins.server.schemas import ErrorResponse
from rerank_plugins.server.settings import ServerSettings
from tests.integration.deploy.processes import KEY, server
from tests.integration.deploy.recipes import DEPLOY, run, tool
from tests.support.ports import free_ports

CONF = (DEPLOY / "nginx" / "rerank.conf").read_text(encoding="utf-8")
BODY = {"query": "what is a panda?", "documents": ["A city.", "A bear of China."]}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", "2", "-subj", "/CN=rerank.example.com"),
        *("-addext", "subjectAltName=DNS:rerank.example.com,IP:127.0.0.1"),
        *("-keyout", folder / "rerank.key", "-out", folder / "rerank.pem"),
    )
    return folder


@contextmanager
def nginx(folder, certificate, port, upstreams):
    """Run nginx with the recipe, on other ports and with a certificate of its own."""
    conf = CONF.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    for recipe, real in zip(("8787", "8788"), upstreams, strict=True):
        assert f"127.0.0.1:{recipe}" in conf
        conf = conf.replace(f"127.0.0.1:{recipe}", f"127.0.0.1:{real}")
    conf = conf.replace("/etc/ssl/", f"{certificate}/")
    (folder / "rerank.conf").write_text(conf, encoding="utf-8")
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = folder / "nginx.conf"
    whole.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;"
        f"events {{}} http {{ access_log off; {temporary} include {folder}/rerank.conf; }}",
        encoding="utf-8",
    )
    run("nginx", "-t", "-q", "-p", folder, "-c", whole)
    process = subprocess.Popen([tool("nginx"), "-p", str(folder), "-c", str(whole)])
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def front(tmp_path_factory, certificate):
    """Two servers behind nginx: the client, and the servers' processes and logs."""
    tool("nginx")
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    port, one, two = free_ports(3)
    with (
        server(folder, one) as first,
        server(folder, two) as second,
        nginx(folder, certificate, port, (one, two)) as url,
        httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cafile=certificate / "rerank.pem"),
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=30,
        ) as client,
    ):
        yield client, (first, second)


def problem(text):
    """Return the type of an error, which must have the format of the server's own."""
    return ErrorResponse.model_validate_json(text).error.type


def test_scores_pass_unchanged(front):
    client, _ = front
    reply = client.post("/v1/rerank", json=BODY)
    scores = load_backend("embedded").score(BODY["query"], BODY["documents"])

    assert reply.status_code == 200
    results = {item["index"]: item["relevance_score"] for item in reply.json()["results"]}
    assert [results[0], results[1]] == pytest.approx(scores, abs=1e-6)


def test_nginx_refuses_a_body_that_is_too_long(front):
    client, (first, second) = front
    before = [log.read_text().count("POST") for _, log in (first, second)]
    reply = client.post("/v1/rerank", content=b"x" * (4 * 1024 * 1024 + 1))

    assert reply.status_code == 413
    assert problem(reply.text) == "too_large"
    assert before == [log.read_text().count("POST") for _, log in (first, second)]


def test_the_limit_is_the_servers_own(front):
    size = int(re.search(r"client_max_body_size (\d+)m;", CONF)[1])

    assert size * 1024 * 1024 == ServerSettings().body_bytes


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/livez", "/readyz", "/openapi.json"),
        *("/v1/../metrics", "/v1/models/%2e%2e/%2e%2e/metrics", "/v1/models/..%2f..%2fmetrics"),
    ],
)
def test_paths_that_clients_do_not_need_are_404(front, path):
    client, _ = front
    reply = client.get(path)

    assert reply.status_code == 404
    assert problem(reply.text) == "not_found"


def test_all_paths_of_clients_are_exposed(front):
    """Xinference's client, for one, fetches whether there are keys, and the model by its name."""
    client, _ = front
    paths = set(create_app("embedded").openapi()["paths"]) - PROBE_PATHS - {"/"}
    assert len(paths) >= 7
    for path in paths:
        reply = client.get(path.replace("{name}", "BAAI/bge-reranker-base"))
        kind = "" if reply.status_code == 200 else problem(reply.text)
        expected = {"model_not_found"} if "{name}" in path else {"", "wrong_method"}
        assert kind in expected, path


MALFORMED = {
    "no request line": b"hello\r\n\r\n",
    "no host": b"GET /info HTTP/1.1\r\n\r\n",
    "a header of 20 kB": b"GET /info HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",
    "a path of 20 kB": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_invalid_http_gets_json(front, certificate, case):
    client, _ = front
    context = ssl.create_default_context(cafile=certificate / "rerank.pem")
    address = (client.base_url.host, client.base_url.port)
    with (
        socket.create_connection(address, timeout=30) as raw,
        context.wrap_socket(raw, server_hostname="rerank.example.com") as stream,
    ):
        stream.sendall(MALFORMED[case])
        reply = http.client.HTTPResponse(stream)  # nginx may not read, nor end, what it refuses
        reply.begin()
        body = reply.read().decode()

    assert reply.status in {400, 414}
    assert problem(body) == "bad_request"


def test_the_page_works_behind_nginx(front):
    client, _ = front
    page = client.get("/ui")
    backends = client.get("/ui/backends")

    assert "<title>Rerank</title>" in page.text
    assert backends.json()["ready"] is True
    assert client.get("/ui/backends", headers={"Authorization": "Bearer x"}).status_code == 401


def test_the_server_checks_keys(front):
    client, _ = front
    reply = client.post(
        "/v1/rerank", json=BODY, headers={"Authorization": "Bearer wrong-wrong-wrong"}
    )

    assert reply.status_code == 401


def test_a_forwarded_address_from_the_client_is_overwritten(tmp_path, certificate):
    port, one, two = free_ports(3)
    context = ssl.create_default_context(cafile=certificate / "rerank.pem")
    with (
        nginx(tmp_path, certificate, port, (one, two)),
        socket.create_server(("127.0.0.1", one)) as listener,
        socket.create_server(("127.0.0.1", two)) as other,
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, server_hostname="rerank.example.com") as client,
    ):
        client.sendall(
            b"GET /info HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n"
            b"Forwarded: for=6.6.6.6\r\nConnection: close\r\n\r\n"
        )
        (chosen,) = select.select([listener, other], [], [], 20)[0]
        upstream, _ = chosen.accept()
        with upstream:
            seen = upstream.recv(65536).decode().split("\r\n")

    assert "X-Forwarded-For: 127.0.0.1" in seen
    assert "6.6.6.6" not in "".join(seen)
    assert "Connection: close" not in seen
    assert seen[0].endswith("HTTP/1.1")


def test_connections_to_the_servers_are_kept(front):
    """Thirty requests, one after the other, need two connections, not thirty."""
    client, servers = front

    def opened(process):
        return len([*Path(f"/proc/{process.pid}/fd").iterdir()])

    client.post("/v1/rerank", json=BODY)
    before = [opened(process) for process, _ in servers]
    for _ in range(30):
        assert client.post("/v1/rerank", json=BODY).status_code == 200
    after = [opened(process) for process, _ in servers]

    assert all(0 <= new - old <= 1 for new, old in zip(after, before, strict=True))
    assert any(after)


def test_nginx_closes_idle_connections_before_the_server_does():
    upstream = int(re.search(r"keepalive_timeout (\d+)s;", CONF)[1])

    assert upstream < ServerSettings().keep_alive_seconds


def test_nginx_waits_longer_than_the_servers_deadline():
    seconds = int(re.search(r"proxy_read_timeout (\d+)s;", CONF)[1])

    assert seconds >= ServerSettings().request_seconds + 5


def test_too_many_requests_get_json(tmp_path, certificate):
    port, one, two = free_ports(3)
    with nginx(tmp_path, certificate, port, (one, two)) as url:
        context = ssl.create_default_context(cafile=certificate / "rerank.pem")
        with httpx.Client(base_url=url, verify=context) as client:
            headers = {"Authorization": "Bearer one"}
            replies = [client.get("/info", headers=headers) for _ in range(250)]
    refused = [reply for reply in replies if reply.status_code == 429]

    assert refused
    assert refused[0].headers["Retry-After"] == "1"
    assert problem(refused[0].text) == "rate_limited"
    rest = [reply for reply in replies if reply.status_code != 429]
    assert {503} == {reply.status_code for reply in rest}  # there is no server at all
    assert problem(rest[0].text) == "unavailable"


def test_busy_servers_get_requests_again_and_again(tmp_path, certificate):
    """A server that says 503 to some requests must get the others."""
    ports = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self):
            ports.append(self.server.server_port)
            self.send_response(503)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"busy")

        def log_message(self, *_):
            pass

    with ExitStack() as stack:
        servers = [stack.enter_context(HTTPServer(("127.0.0.1", 0), Busy)) for _ in range(2)]
        for each in servers:
            threading.Thread(target=each.serve_forever).start()
            stack.callback(each.shutdown)
        upstreams = [each.server_port for each in servers]
        (port,) = free_ports(1)
        url = stack.enter_context(nginx(tmp_path, certificate, port, upstreams))
        context = ssl.create_default_context(cafile=certificate / "rerank.pem")
        client = stack.enter_context(httpx.Client(base_url=url, verify=context))
        replies = [client.get("/info") for _ in range(20)]

    assert {(503, "busy", "7")} == {
        (reply.status_code, reply.text, reply.headers["Retry-After"]) for reply in replies
    }
    assert [20, 20] == [ports.count(each) for each in upstreams]


def test_a_server_that_dies_costs_nobody_a_request(front):
    """The last test: it ends one of the servers."""
    client, ((first, _), _) = front
    replies = [client.post("/v1/rerank", json=BODY).status_code for _ in range(10)]
    first.send_signal(signal.SIGKILL)
    replies += [client.post("/v1/rerank", json=BODY).status_code for _ in range(30)]

    assert replies == [200] * 40
