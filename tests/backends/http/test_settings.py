"""The settings of HTTPBackend, and keys, which no error, repr or spec may contain."""

import html
import json
import math
import pickle
import urllib.parse
from dataclasses import replace

import pytest

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    ConfigError,
    load_backend,
)
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.testing import FakeResponse
from tests.backends.http.remote import DOCUMENTS, QUERY, make

WRONG = {
    "a model is missing": ({"dialect": "xinference", "model": None}, "needs `model`"),
    "a URL is missing": ({"base_url": None}, "needs `base_url`"),
    "both keys": ({"api_key": "a", "api_key_env": "B"}, "either `api_key` or `api_key_env`"),
    "no instruction here": (
        {"instruction": "x"},
        "these can: contextual, dashscope, .*deepinfra, rerank, .*, vllm, voyage, xinference$",
    ),
    "no logits from here": ({"dialect": "cohere", "scale": "logit"}, "infinity, rerank, tei, vllm"),
    "no parallel requests": (
        {"max_parallel": 0},
        "`max_parallel` must be an integer of at least 1",
    ),
    "no such dialect": ({"dialect": "xinfrence"}, "did you mean 'xinference'"),
    "no such scale": ({"scale": "logits"}, "did you mean 'logit'"),
    "no such scale of a server": ({"server_scale": "raw"}, "valid: probability, logit, unknown"),
    "no time": ({"timeout": 0}, "`timeout` must be"),
    "no time to connect": ({"connect_timeout": math.nan}, "`connect_timeout` must be"),
    "no URL": ({"base_url": "", "dialect": "cohere"}, "`base_url` must be like"),
    "not a number": ({"timeout": "10"}, "`timeout` must be"),
    "not a URL": ({"base_url": "gpu:9997"}, "`base_url` must be like"),
    "zero documents": (
        {"max_documents": 0},
        "`max_documents` must be None or an integer of at least 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_refused_when_the_backend_is_built(case):
    options, reason = WRONG[case]
    usual = {"base_url": "http://gpu", "dialect": "tei", "model": "m"}

    with pytest.raises(ConfigError, match=reason):
        HTTPBackend(**usual | options)


@pytest.mark.parametrize("name", [name for name in DIALECTS if DIALECTS[name].base_url])
def test_vendors_need_no_url(name):
    backend = load_backend(f"{name}:some-model")

    assert DIALECTS[name].base_url in backend.name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"api_key_env": "TEAM_KEY", "timeout": 3.0, "connect_timeout": 1.0, "max_documents": 7},
        {"instruction": "find answers", "listwise": True, "max_parallel": 2, "verify": False},
        {"scale": "logit", "server_scale": "logit"},
    ],
)
def test_a_backend_survives_its_spec_and_pickle(fake_server, options):
    backend = make(fake_server, **options)
    spec = backend.to_spec()

    assert {"kind": "xinference", "base_url": fake_server.url, "model": "m", **options} == spec
    for copy in (load_backend(spec), pickle.loads(pickle.dumps(backend))):
        assert spec == copy.to_spec()
        assert backend.describe() == copy.describe()


def test_the_name_holds_everything_that_changes_scores(fake_server):
    names = {
        make(fake_server, **options).name
        for options in (
            {},
            {"model": "other"},
            {"instruction": "x"},
            {"server_scale": "logit"},
            {"server_scale": "logit", "scale": "logit"},
        )
    }

    assert 5 == len(names)
    assert make(fake_server, timeout=3).name == make(fake_server, max_parallel=1).name


def test_describe_sends_nothing(fake_server):
    assert "m" == make(fake_server).describe()["model"]
    assert [] == fake_server.requests


SECRET = "sk-very-secret-key"  # made up


@pytest.fixture
def _no_keys(monkeypatch):
    for dialect in DIALECTS.values():
        for variable in dialect.key_variables:
            monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("_no_keys")
@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_the_usual_variable_holds_the_key(fake_server, monkeypatch, dialect):
    """It is read at each request."""
    with make(fake_server, dialect) as backend:
        for key in ("one", "two"):
            monkeypatch.setenv(DIALECTS[dialect].key_variables[0], f" {key}\n")
            backend.score(QUERY, DOCUMENTS)

    header, prefix = DIALECTS[dialect].key_header, DIALECTS[dialect].key_prefix
    sent = [received.headers[header] for received in fake_server.requests]
    assert [f"{prefix}one", f"{prefix}two"] == sent


@pytest.mark.usefixtures("_no_keys")
def test_a_named_variable_takes_precedence(fake_server, ask, monkeypatch):
    monkeypatch.setenv("XINFERENCE_API_KEY", "usual")
    monkeypatch.setenv("TEAM_KEY", SECRET)
    ask(make(fake_server, api_key_env="TEAM_KEY"))

    assert f"Bearer {SECRET}" == fake_server.requests[0].headers["Authorization"]


@pytest.mark.usefixtures("_no_keys")
@pytest.mark.parametrize("base_url", [None, "https://api.cohere.com/v2"])
def test_without_a_key_no_request_goes_to_a_vendor(ask, base_url):
    backend = HTTPBackend(base_url, dialect="cohere", model="m", timeout=0.001)

    with pytest.raises(AuthenticationError, match=r"^cohere at .*: no key was sent: set COHERE"):
        ask(backend)


@pytest.mark.usefixtures("_no_keys")
def test_without_a_key_requests_go_to_a_gateway(fake_server, ask):
    ask(make(fake_server, "cohere"))

    assert "Authorization" not in fake_server.requests[0].headers


def test_a_named_variable_must_be_set(fake_server, ask, monkeypatch):
    monkeypatch.delenv("TEAM_KEY", raising=False)

    with pytest.raises(ConfigError, match="'TEAM_KEY'"):
        ask(make(fake_server, api_key_env="TEAM_KEY"))

    assert [] == fake_server.requests


@pytest.mark.parametrize("pasted", ["sk-hunter2", "hunter2", "Hunter2==", ""])
def test_a_key_in_place_of_its_variable_is_refused_and_not_repeated(pasted):
    with pytest.raises(ConfigError, match="such as TEI_API_KEY, and never the secret") as caught:
        HTTPBackend("http://gpu", dialect="tei", api_key_env=pasted)

    assert not pasted or pasted not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        f"Bearer {SECRET}",
        f"bearer   {SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"BEARER Bearer {SECRET}",
        f"Bearer: {SECRET}",
        f'"{SECRET}"',
        f"'Bearer {SECRET}'",
        f"Bearer '{SECRET}'",
        f" {SECRET}\r\n",
    ],
)
def test_a_key_is_sent_once_with_its_word(fake_server, ask, monkeypatch, key):
    monkeypatch.setenv("TEAM_KEY", key)
    ask(make(fake_server, api_key=key))
    ask(make(fake_server, api_key_env="TEAM_KEY"))

    sent = {received.headers.get("Authorization") for received in fake_server.requests}
    assert {f"Bearer {SECRET}"} == sent


def test_the_word_of_an_own_dialect_is_sent_once(fake_server, ask):
    dialect = replace(DIALECTS["xinference"], key_header="X-Key", key_prefix="Token ")
    ask(HTTPBackend(fake_server.url, dialect=dialect, model="m", api_key=f"token {SECRET}"))

    assert f"Token {SECRET}" == fake_server.requests[0].headers["X-Key"]


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        (f"Token {SECRET}", f"Token {SECRET}"),
        (f"Basic {SECRET}==", f"Basic {SECRET}=="),
        (f"ApiKey {SECRET}", f"ApiKey {SECRET}"),
        (f"token  '{SECRET}'", f"token {SECRET}"),
        (f"Authorization: Basic {SECRET}", f"Basic {SECRET}"),
        (f"authorization: Signed-By-Us {SECRET}", f"Signed-By-Us {SECRET}"),
        (f"Bearer Token {SECRET}", f"Bearer Token {SECRET}"),
        (f"Tokenish {SECRET}", f"Bearer Tokenish {SECRET}"),
        (f"Authorization: {SECRET}", f"Bearer {SECRET}"),
    ],
)
def test_another_scheme_is_sent_as_it_is(fake_server, ask, monkeypatch, key, sent):
    """What is no scheme, such as a password of several words, stays a part of the key."""
    monkeypatch.setenv("TEAM_KEY", key)
    ask(make(fake_server, api_key=key))
    ask(make(fake_server, api_key_env="TEAM_KEY"))

    headers = {received.headers.get("Authorization") for received in fake_server.requests}
    assert {sent} == headers


def test_a_key_with_another_scheme_is_masked_without_it(fake_server, ask):
    fake_server.response = FakeResponse({"error": f"unknown key {SECRET}"}, status=401)
    with pytest.raises(AuthenticationError) as caught:
        ask(make(fake_server, api_key=f"Token {SECRET}"))

    assert "unknown key [key]" in str(caught.value)


@pytest.mark.usefixtures("_no_keys")
@pytest.mark.parametrize("key", ["Bearer", "Bearer ", "Authorization: Bearer"])
def test_a_word_without_a_key_is_no_key(fake_server, ask, monkeypatch, key):
    monkeypatch.setenv("TEAM_KEY", key)
    with pytest.raises(ConfigError, match="'TEAM_KEY', named by `api_key_env`, is not set"):
        ask(make(fake_server, api_key_env="TEAM_KEY"))


@pytest.mark.parametrize("key", [f"{SECRET}\r\nX-Evil: 1", f"{SECRET}ü", f"{SECRET}\x00"])
def test_keys_that_no_header_can_hold_are_refused(fake_server, ask, key):
    with pytest.raises(ConfigError) as caught:
        ask(make(fake_server, api_key=key))

    assert SECRET not in str(caught.value)
    assert [] == fake_server.requests


def test_a_literal_key_is_sent_and_never_shown(fake_server, ask):
    backend = make(fake_server, api_key=SECRET)
    ask(backend)

    assert f"Bearer {SECRET}" == fake_server.requests[0].headers["Authorization"]
    for shown in (repr(backend), backend.name, backend.describe()):
        assert SECRET not in str(shown)
    for write in (backend.to_spec, lambda: pickle.dumps(backend)):
        with pytest.raises(ConfigError, match="api_key_env") as caught:
            write()
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [200, 400, 401])
def test_a_key_that_the_server_repeats_is_not_shown(fake_server, ask, status):
    fake_server.response = FakeResponse(
        {"error": {"message": f"the key {SECRET} is wrong"}}, status
    )

    with pytest.raises(BackendError, match=r"the key \[key\] is wrong") as caught:
        ask(make(fake_server, api_key=SECRET))

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [200, 400, 401, 413, 500])
@pytest.mark.parametrize("rotated", ["sk-another-key", None])
def test_the_key_that_was_sent_is_masked_though_it_is_rotated_meanwhile(
    fake_server, ask, monkeypatch, status, rotated
):
    """And if its variable is gone by then, the error is still that of the server."""

    def rotate(received):
        if rotated is None:
            monkeypatch.delenv("TEAM_KEY", raising=False)
        else:
            monkeypatch.setenv("TEAM_KEY", rotated)
        return FakeResponse({"error": f"the key {SECRET} is wrong"}, status)

    monkeypatch.setenv("TEAM_KEY", SECRET)
    fake_server.response = rotate
    with pytest.raises(BackendError, match=r"the key \[key\] is wrong") as caught:
        ask(make(fake_server, api_key_env="TEAM_KEY"), DOCUMENTS[:1])

    assert SECRET not in str(caught.value)


def test_a_response_counts_though_the_variable_of_the_key_is_gone_by_then(
    fake_server, ask, monkeypatch
):
    right = fake_server.response

    def forget(received):
        monkeypatch.delenv("TEAM_KEY")
        return right

    monkeypatch.setenv("TEAM_KEY", SECRET)
    fake_server.response = forget

    assert len(DOCUMENTS) == len(ask(make(fake_server, api_key_env="TEAM_KEY")))


STRANGE = 'sk "it\'s"  a\\key<&>/+%'  # made up
QUOTED = {
    "as it is": str,
    "cut": lambda key: key + "x" * 300,
    "HTML": html.escape,
    "JSON": json.dumps,
    "JSON in JSON": lambda key: json.dumps({"detail": json.dumps({"key": key})}),
    "Python": lambda key: repr({"headers": {"Authorization": f"Bearer {key}"}}),
    "Python in JSON": lambda key: json.dumps(repr(key)),
    "URL": lambda key: urllib.parse.quote(key, safe=""),
}


@pytest.mark.parametrize("case", QUOTED)
@pytest.mark.parametrize("key", [SECRET, STRANGE], ids=["plain", "strange"])
@pytest.mark.parametrize("status", [200, 400])
def test_a_key_that_the_server_quotes_is_masked(fake_server, ask, status, key, case):
    fake_server.response = FakeResponse({"error": f"no: {QUOTED[case](key)}"}, status)

    with pytest.raises(BackendError, match=r"\[key\]") as caught:
        ask(make(fake_server, api_key=key))

    assert not [word for word in ("very-secret", "it's", "it\\'s") if word in str(caught.value)]


def test_the_error_of_a_refused_key_names_its_variable(fake_server, ask, monkeypatch):
    monkeypatch.setenv("TEAM_KEY", SECRET)
    fake_server.response = FakeResponse({"detail": "API key has expired"}, 401)

    with pytest.raises(AuthenticationError, match=r"expired.*environment variable TEAM_KEY"):
        ask(make(fake_server, api_key_env="TEAM_KEY"))
