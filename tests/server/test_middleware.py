"""The middleware: it denies by default, whatever the path."""

import asyncio
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

import jwt as pyjwt

from rerank_plugins import load_backend
from rerank_plugins.server import JWTSettings
from rerank_plugins.server.middleware import PUBLIC_PATHS
from rerank_plugins.testing import FakeBackend
from tests.support.serving import serving

KEY = "a-key-for-tests-0123456789"
SECRET = "a-secret-for-tests-" * 4
BODY = {"query": "q", "documents": ["a"]}


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text(f"# two\nalice:{KEY}\n")
    return file


@pytest.fixture
def tokens(monkeypatch):
    monkeypatch.setenv("RERANK_JWT_SECRET", SECRET)
    return JWTSettings(
        algorithm="HS256", audience="rerank", issuer="us", secret_env="RERANK_JWT_SECRET"
    )


def token(key=SECRET, algorithm="HS256", headers=None, **changed):
    claims = {"exp": int(time.time()) + 60, "aud": "rerank", "iss": "us", "sub": "bob", **changed}
    claims = {name: value for name, value in claims.items() if value is not None}
    return pyjwt.encode(claims, key, algorithm=algorithm, headers=headers)


def post_rerank(client, credential=None, scheme="Bearer"):
    headers = {} if credential is None else {"authorization": f"{scheme} {credential}"}
    return client.post("/v1/rerank", json=BODY, headers=headers)


def test_every_route_but_the_probes_needs_a_key(keys):
    with serving(FakeBackend(), api_keys_file=str(keys), ui=False) as client:
        paths = list(client.app.openapi()["paths"])
        assert len(paths) > 8
        for path in [*paths, "/nope", "/docs", "/openapi.json", "//livez", "/livez/../info"]:
            expected = 200 if path in PUBLIC_PATHS else 401
            reply = client.get(f"http://testserver{path.replace('{name}', 'x')}")
            assert expected == reply.status_code, path
        for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
            assert 401 == client.post(path, json=BODY).status_code
        assert 401 == client.get("/info", headers={"host": "x/livez?"}).status_code


def test_only_valid_keys_are_accepted(keys, caplog):
    caplog.set_level("DEBUG")
    with serving(FakeBackend(), api_keys_file=str(keys)) as client:
        assert 200 == post_rerank(client, KEY).status_code
        for wrong in (None, "x", KEY[:-1], KEY + "x", "é" * 20):
            headers = {} if wrong is None else {"authorization": f"Bearer {wrong}".encode()}
            reply = client.post("/v1/rerank", json=BODY, headers=headers)
            assert (401, "unauthorized") == (reply.status_code, reply.json()["error"]["type"])
            assert reply.headers["www-authenticate"].startswith("Bearer")
        assert 401 == post_rerank(client, KEY, "Basic").status_code
        metrics = client.get("/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    assert 'rerank_auth_failures_total{reason="unknown"} 4.0' in metrics
    assert KEY not in caplog.text + metrics
    assert "key:alice" in caplog.text
    for reason in ("missing", "unknown", "malformed"):
        assert f"key refused: {reason}, " in caplog.text


def test_no_cookie_and_no_query_is_parsed(monkeypatch):
    """FastAPI parses both for every route, and one cookie of 64 KiB may take it five seconds."""
    parsed = []
    monkeypatch.setattr("starlette.requests.cookie_parser", lambda text: parsed.append(text) or {})
    monkeypatch.setattr(
        "starlette.datastructures.parse_qsl", lambda text, **_: parsed.extend(filter(None, [text]))
    )
    with serving(FakeBackend()) as client:
        paths = [*client.app.openapi()["paths"], "/ui", "/ui/backends", "/openapi.json", "/nope"]
        for path in paths:
            for method in ("GET", "POST"):
                client.request(method, f"{path}?a=b", headers={"cookie": "c=d"}, json=BODY)
    assert len(paths) > 12
    assert [] == parsed


_HEAD_BYTES = 65_000
HEADS = {
    "a cookie of quotes": {"cookie": 'a="' + r"\"" * (_HEAD_BYTES // 2) + '"'},
    "many cookies": {"cookie": "a=b;" * (_HEAD_BYTES // 4)},
    "many keys of a query": {"query": "&a=%20" * (_HEAD_BYTES // 6)},
    "many versions": {"path": "/v1" * (_HEAD_BYTES // 3) + "/x"},
    "many slashes": {"path": "/" * _HEAD_BYTES},
    "many names in one": {"path": "/v1/models/" + "a/" * (_HEAD_BYTES // 2)},
    "many hops, all of them the client": {"x-forwarded-for": "1.1.1.1," * (_HEAD_BYTES // 8)},
    "many hops, then the client": {
        "x-forwarded-for": "::," * (_HEAD_BYTES // 11) + "1.1.1.1," * (_HEAD_BYTES // 11)
    },
    "a host of dots": {"host": "." * _HEAD_BYTES},
    "a host of colons": {"host": "[" + ":" * _HEAD_BYTES},
    "a key of dots": {"authorization": "Bearer " + "." * _HEAD_BYTES},
    "a request id": {"x-request-id": "a" * _HEAD_BYTES},
    "a media type": {"content-type": "application/json;" + " " * _HEAD_BYTES},
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("method", "at"), [("GET", "/livez"), ("POST", "/v1/rerank")])
def test_no_head_is_costly(keys, name, method, at):
    """It blocks the event loop before any key is checked: 20 ms of CPU at most."""
    fields = {"path": at, "query": "", **HEADS[name]}
    path, query = fields.pop("path"), fields.pop("query")
    headers = {"content-type": "application/json", **fields}
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": query.encode(), "root_path": "", "http_version": "1.1", "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("1.1.1.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message):
        statuses.append(message.get("status"))

    for settings in ({}, {"api_keys_file": str(keys)}):
        with serving(FakeBackend(), **settings) as client:
            client.get("/nope", headers={"api-key": KEY})  # the first 404 lists the paths
            statuses, began = [], time.thread_time()
            asyncio.run(client.app(scope, receive, send))
            seconds = time.thread_time() - began

        assert statuses
        assert statuses[0] != 500
        assert 0.02 > seconds


AGO, AHEAD = "20 s ago", "in 10 min"  # counted from the test, not from the import
SECONDS = {AGO: -20, AHEAD: 600}


@pytest.mark.parametrize("name", ["api-key", "x-api-key", "Api-Key"])
def test_a_key_may_come_without_bearer(keys, name):
    with serving(FakeBackend(), api_keys_file=str(keys)) as client:
        assert 200 == client.post("/v1/rerank", json=BODY, headers={name: KEY}).status_code
        for sent in ([(name, KEY[:-1])], [(name, "")], [(name, KEY)] * 2):
            assert 401 == client.post("/v1/rerank", json=BODY, headers=sent).status_code
        both = {name: KEY, "authorization": "Bearer wrong"}
        reply = client.post("/v1/rerank", json=BODY, headers=both)
    assert 401 == reply.status_code
    assert "api-key: KEY" in reply.json()["message"]


@pytest.mark.parametrize("path", ["/v1/v1/rerank", "//v1/rerank/", "/models", "/v1//models/fake"])
def test_a_path_that_means_another_needs_a_key_too(keys, path):
    with serving(FakeBackend(), api_keys_file=str(keys), address_rate="8/minute") as client:
        url = f"http://testserver{path}"
        assert 401 == client.get(url).status_code
        with_key = {"api-key": KEY}
        assert client.get(url, headers=with_key).status_code in (200, 405)
        assert 200 == client.get("http://testserver//v1/cluster/auth").status_code


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, 200),
        ({"exp": AGO}, 200),  # within the leeway
        ({"exp": 1}, 401),
        ({"exp": None}, 401),
        ({"aud": None}, 401),
        ({"aud": "other"}, 401),
        ({"iss": None}, 401),
        ({"iss": "them"}, 401),
        ({"sub": None}, 401),
        ({"sub": "a\nb"}, 401),
        ({"nbf": AHEAD}, 401),
        ({"key": SECRET[::-1]}, 401),
        ({"algorithm": "HS512"}, 401),
        ({"algorithm": "none", "key": None}, 401),
        ({"headers": {"crit": ["x"], "x": 1}}, 401),
    ],
    ids=str,
)
def test_tokens_with_any_invalid_part_are_refused(tokens, changed, status):
    if shifted := {name: now for name, now in changed.items() if now in (AGO, AHEAD)}:
        changed = {name: int(time.time()) + SECONDS[now] for name, now in shifted.items()}
    with serving(FakeBackend(), jwt=tokens) as client:
        assert status == post_rerank(client, token(**changed)).status_code
        assert 401 == post_rerank(client, "a.b." + "c" * 9000).status_code


def test_too_many_requests_get_429_and_retry_after(keys):
    with serving(FakeBackend(), client_rate="2/minute") as client:
        replies = [post_rerank(client) for _ in range(3)]
        assert 200 == client.get("/livez").status_code
    assert [200, 200, 429] == [reply.status_code for reply in replies]
    assert 25 <= int(replies[2].headers["retry-after"]) <= 30
    assert '"client";q=2;w=60' == replies[0].headers["ratelimit-policy"]


def test_metrics_count_towards_the_rate_of_an_address(keys):
    """They take time to write, and a server without keys shows them to anybody."""
    with serving(FakeBackend(), address_rate="3/minute") as client:
        statuses = [client.get("/metrics").status_code for _ in range(4)]
        assert 429 == client.get("/info").status_code
        assert [200] * 9 == [client.get("/livez").status_code for _ in range(9)]
    assert [200, 200, 200, 429] == statuses


def test_the_number_of_series_is_bounded():
    """S19: after each route has served and refused, and whatever paths clients think of."""
    with serving(load_backend("embedded"), compare=("embedded",)) as client:
        known = [*client.app.openapi()["paths"], "/openapi.json", "/ui", "/ui/backends"]
        for path in [*known, "/ui/rerank/1", *(f"/{number}" for number in range(50))]:
            for body in (BODY, {}):
                client.post(path.replace("{name}", "x"), json=body)
            client.get(path.replace("{name}", "x"))
        text = client.get("/metrics").text
    series = [line for line in text.splitlines() if not line.startswith("#")]

    assert 'rerank_request_duration_seconds_count{route="/v1/rerank"} 3.0' in text
    assert len(series) < 300
