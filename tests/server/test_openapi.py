"""Responses match the OpenAPI, for valid and invalid requests that schemathesis generates."""

import copy
import json
import re
from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")
pytest.importorskip("schemathesis", reason="a tool of development")

import httpx2 as httpx
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from rerank_plugins import BackendOverloaded, BackendRejected, BackendTimeout, load_backend
from rerank_plugins.server import ServerSettings, create_app
from rerank_plugins.testing import FailingBackend, FakeBackend
from tests.support.serving import listening, serving

pytest_plugins = ["schemathesis.pytest.plugin"]  # it takes a second, so only here

KEY = "a-key-for-tests-0123456789"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
TOO_LONG = "413"
PROBE_PATHS = ("/livez", "/readyz", "/health", "/healthz")


OPEN = ServerSettings(model_names=("mine", "also mine"), max_documents=20, query_characters=200)
STRICT = replace(OPEN, strict=True)
GUARDED = replace(OPEN, api_keys_env="RERANK_TEST_KEYS", client_rate="1000000/second")


def described(settings):
    """Return the OpenAPI of a server of the embedded model, once the model is loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANK_TEST_KEYS", f"us:{KEY}")
        app = create_app("embedded", settings=settings)
    app.state.lifecycle.facts = load_backend("embedded").describe()
    return app.openapi()


def strictly(described):
    """Return the OpenAPI with all unnamed fields of responses forbidden."""
    strict = copy.deepcopy(described)
    for name, schema in strict["components"]["schemas"].items():
        if "Request" not in name and "properties" in schema:
            schema["additionalProperties"] = False
    return strict


def texts(value):
    """Yield the strings in a value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def cases_of(settings):
    """Return a generator of requests from the OpenAPI of a server with these settings."""
    schema = schemathesis.openapi.from_dict(strictly(described(settings)))
    schema.config.generation.with_security_parameters = False
    refusal = schema.config.checks.negative_data_rejection
    refusal.expected_statuses.append(TOO_LONG)
    refusal.enabled = settings.strict
    return schema


def check(case, url, headers=None):
    """Send a request, and compare the response with the OpenAPI."""
    reply = case.call_and_validate(base_url=url, headers=headers, timeout=60)
    if reply.status_code >= 400 and case.path not in PROBE_PATHS:
        assert len(reply.content) <= 4096
        error = reply.json()
        assert error["error"]["request_id"] == reply.headers["x-request-id"][0]
        for text in texts([case.body, case.path_parameters, case.query]):
            assert len(text) < 8 or text in WORDS or text not in error["message"]


few = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # what fails is short enough
    suppress_health_check=[*HealthCheck],
)
many = settings(few, max_examples=800, derandomize=False)  # more than 5,000 in all


@pytest.fixture(scope="module")
def url():
    with listening(load_backend("embedded"), **vars(OPEN)) as url:
        assert described(OPEN) == httpx.get(f"{url}/openapi.json").json()
        yield url


@pytest.fixture(scope="module")
def strict_url():
    with listening(load_backend("embedded"), **vars(STRICT)) as url:
        assert described(STRICT) == httpx.get(f"{url}/openapi.json").json()
        yield url


@pytest.fixture(scope="module")
def guarded_url():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANK_TEST_KEYS", f"us:{KEY}")
        with listening(load_backend("embedded"), **vars(GUARDED)) as url:
            response = httpx.get(f"{url}/openapi.json", headers=WITH_KEY)
            assert described(GUARDED) == response.json()
            yield url


WORDS = json.dumps(described(OPEN))
open_cases, guarded_cases, strict_cases = map(cases_of, (OPEN, GUARDED, STRICT))


@open_cases.parametrize()
@few
def test_replies_are_as_described(case, url):
    check(case, url)


@strict_cases.parametrize()
@few
def test_a_strict_server_refuses_what_is_not_described(case, strict_url):
    check(case, strict_url)


@pytest.mark.slow  # as the test above, for more statuses
@guarded_cases.parametrize()
@few
def test_replies_to_those_with_a_key_are_as_described(case, guarded_url):
    check(case, guarded_url, WITH_KEY)


REFUSED = {
    400: {"content": b"{", "headers": {"content-type": "application/json"}},
    404: {"json": {"query": "q", "documents": [], "model": "theirs"}},
    413: {"json": {"query": "q", "documents": ["a"] * 21}},
    415: {"content": b"q", "headers": {"content-type": "text/plain"}},
    422: {"json": {"query": " ", "documents": []}},
}
FAILED = {
    500: RuntimeError("a bug"),
    502: BackendRejected("no", status_code=400),
    503: BackendOverloaded("busy"),
    504: BackendTimeout("slow"),
}


def test_every_described_status_is_sent_as_described(monkeypatch):
    monkeypatch.setenv("RERANK_TEST_KEYS", f"us:{KEY}")
    operation = guarded_cases["/v1/rerank"]["POST"]
    replies = []
    options = {**vars(GUARDED), "client_rate": "6/minute"}
    good = {"json": {"query": "q", "documents": ["a"]}}
    with serving(FakeBackend(), **options) as client:
        replies.append(client.post("/v1/rerank", **good))  # without a key
        client.headers |= WITH_KEY
        requests = (*REFUSED.values(), good, good)
        replies += [client.post("/v1/rerank", **request) for request in requests]
    for error in FAILED.values():
        with serving(FailingBackend(error), **vars(OPEN) | {"warm_up": False}) as client:
            replies.append(client.post("/v1/rerank", **good))

    for reply in replies:
        operation.validate_response(reply)
    assert [401, *REFUSED, 200, 429, *FAILED] == [reply.status_code for reply in replies]
    slow = 408  # in test_scenarios.py
    sent = {str(reply.status_code) for reply in replies}
    assert sent | {str(slow)} == set(operation.definition.raw["responses"])


def test_the_header_of_teis_tokens_is_described_where_it_is_sent():
    paths = described(OPEN)["paths"]
    described_at = [
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if "X-Compute-Tokens" in operation["responses"]["200"]["headers"]
    ]

    assert ["/rerank"] == described_at


def test_a_blank_query_is_defined_by_pythons_white_space():
    query = described(OPEN)["components"]["schemas"]["RerankRequest"]["properties"]["query"]
    blank = {char for char in map(chr, range(0x110000)) if not re.search(query["pattern"], char)}

    assert {char for char in map(chr, range(0x110000)) if char.isspace()} == blank


@pytest.mark.nightly
@pytest.mark.timeout(3000)
@open_cases.parametrize()
@many
def test_thousands_of_replies_are_as_described(case, url):
    check(case, url)


@pytest.mark.nightly
@pytest.mark.timeout(3000)
@guarded_cases.parametrize()
@many
def test_thousands_of_replies_to_those_with_a_key_are_as_described(case, guarded_url):
    check(case, guarded_url, WITH_KEY)
