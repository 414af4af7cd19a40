"""Headers of the user's own, with secrets from the environment."""

import pickle

import pytest

from rerank_plugins import BackendError, ConfigError, load_backend
from rerank_plugins.backends.http import Dialect, HTTPBackend
from rerank_plugins.testing import FakeResponse
from tests.backends.http.remote import DOCUMENTS, EXPECTED, QUERY, make

SECRET = "gw-very-secret"  # made up
HEADERS = {"X-Team": "search", "X-Gateway-Key": "$GATEWAY_KEY"}


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("GATEWAY_KEY", SECRET)


def test_they_are_sent_with_each_request(fake_server, ask, monkeypatch):
    monkeypatch.setenv("TEAM_KEY", "sk-team")
    ask(make(fake_server, headers=HEADERS, api_key_env="TEAM_KEY"))
    sent = fake_server.requests[0].headers

    assert ("search", SECRET) == (sent["X-Team"], sent["X-Gateway-Key"])
    assert ("Bearer sk-team", "application/json") == (sent["Authorization"], sent["Content-Type"])


def test_variables_are_read_at_each_request(fake_server, monkeypatch):
    with make(fake_server, headers=HEADERS) as backend:
        backend.score(QUERY, DOCUMENTS)
        monkeypatch.setenv("GATEWAY_KEY", "another")
        backend.score(QUERY, DOCUMENTS)

    sent = [received.headers["X-Gateway-Key"] for received in fake_server.requests]
    assert [SECRET, "another"] == sent


def test_they_are_a_part_of_the_name_without_their_secrets(fake_server, monkeypatch):
    """A gateway may choose the model by one, and a cache tells scores apart by the name."""
    several = (None, HEADERS, {**HEADERS, "X-Team": "ads"}, {"X-Route": "large"}, {"X-Rout": "e"})
    names = [make(fake_server, headers=headers).name for headers in several]
    monkeypatch.setenv("GATEWAY_KEY", "another")
    same = make(fake_server, headers={name.upper(): HEADERS[name] for name in reversed(HEADERS)})

    assert len({*names}) == len(several)
    assert names[1] == same.name
    assert not any(SECRET in name for name in names)


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_secret_that_the_server_repeats_is_masked(fake_server, ask, monkeypatch, status):
    """Though the variable is gone by then."""

    def behave(received):
        monkeypatch.delenv("GATEWAY_KEY")
        return FakeResponse({"error": f"bad gateway key {SECRET}"}, status)

    fake_server.response = behave
    with pytest.raises(BackendError, match=r"bad gateway key \[key\]") as caught:
        ask(make(fake_server, headers=HEADERS))

    assert SECRET not in str(caught.value)


def test_a_variable_must_be_set(fake_server, ask, monkeypatch):
    monkeypatch.delenv("GATEWAY_KEY")

    with pytest.raises(ConfigError, match="'GATEWAY_KEY', named by the header 'X-Gateway-Key'"):
        ask(make(fake_server, headers=HEADERS))
    assert [] == fake_server.requests


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "ü", "a\x00b"])
def test_invalid_header_values_are_refused(fake_server, ask, monkeypatch, value):
    with pytest.raises(ConfigError, match="X-Team"):
        make(fake_server, headers={"X-Team": value})
    if "\x00" not in value:
        monkeypatch.setenv("GATEWAY_KEY", value)
        with pytest.raises(ConfigError, match="GATEWAY_KEY"):
            ask(make(fake_server, headers=HEADERS))
    assert [] == fake_server.requests


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "$GATEWAY_KEY"},
        {"content-TYPE": "text/plain"},
        {"Host": "elsewhere"},
        {"X Team": "search"},
        {"": "search"},
        {"X-Team": 3},
        {3: "search"},
        ["X-Team"],
        "X-Team: search",
    ],
    ids=repr,
)
def test_other_headers_are_refused_when_the_backend_is_built(headers):
    with pytest.raises(ConfigError, match="header"):
        HTTPBackend("http://gpu", dialect="tei", headers=headers)


@pytest.mark.parametrize("name", ["X-Api-Key", "Proxy-Authorization", "Cookie", "x-access-token"])
def test_a_secret_in_place_of_its_variable_is_refused_and_not_repeated(name):
    with pytest.raises(ConfigError, match="looks like a secret") as caught:
        HTTPBackend("http://gpu", dialect="tei", headers={name: SECRET})

    assert SECRET not in str(caught.value)


def test_the_header_of_the_key_is_that_of_the_dialect():
    own = Dialect(name="own", path="/judge", scale="unknown", key_header="X-Key", needs_model=False)
    with pytest.raises(ConfigError, match="the backend sets it itself"):
        HTTPBackend("http://gpu", dialect=own, headers={"x-key": "$GATEWAY_KEY"})
    HTTPBackend("http://gpu", dialect=own, headers={"Authorization": "$GATEWAY_KEY"})


def test_specs_files_and_copies_keep_them_without_their_secrets(fake_server, ask, tmp_path):
    spec = {"kind": "xinference", "base_url": fake_server.url, "model": "m", "headers": HEADERS}
    backend = load_backend(spec)
    file = tmp_path / "rerank.toml"
    file.write_text(
        f'[backend]\nkind = "xinference"\nbase_url = "{fake_server.url}"\nmodel = "m"\n'
        'headers = {X-Team = "search", X-Gateway-Key = "$GATEWAY_KEY"}\n'
    )

    for copy in (backend, load_backend(file), pickle.loads(pickle.dumps(backend))):
        assert spec == copy.to_spec()
        assert SECRET not in f"{copy!r} {copy.name} {copy.describe()} {copy.to_spec()}"
        assert EXPECTED == ask(copy)
        assert SECRET == fake_server.requests[-1].headers["X-Gateway-Key"]


@pytest.mark.parametrize("headers", ["X-Team", ["X-Team"], {"X-Team": 3}])
def test_headers_that_are_not_a_table_are_refused_in_a_spec(headers):
    with pytest.raises(ConfigError, match="`headers` must be a table"):
        load_backend({"kind": "tei", "base_url": "http://gpu", "headers": headers})
