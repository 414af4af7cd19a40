"""Which header `Host` a server accepts."""

import http.client
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.server.hosts import is_allowed_host
from rerank_plugins.testing import FakeBackend
from tests.support.serving import listening, serving

KEY = "a-key-for-tests-0123456789"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:8787", True),
        ("192.168.1.5", True),
        ("[::1]:8787", True),
        ("[2001:db8::1]", True),
        ("localhost:8787", True),
        ("LOCALHOST", True),
        ("rerank.localhost", True),
        ("rerank:8787", True),
        ("", True),
        ("evil.example", False),
        ("evil.example:8787", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", False),
        ("evil.", True),  # no name of the public DNS
        ("evil.example.", False),
        ("Ours.example:443", True),
        ("ours.example.", True),
        ("x.ours.example", False),
        ("127.1", False),
    ],
)
def test_names_of_the_public_dns_must_be_listed(host, expected):
    assert expected == is_allowed_host(host, ["ours.example", "OTHER.example"])


def test_all_names_can_be_allowed():
    assert is_allowed_host("evil.example", ["*"])


def status(url, host, path="/livez"):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("GET", path, headers={"host": host})
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.status


@pytest.fixture(scope="module")
def url():
    with listening(FakeBackend()) as url:
        yield url


@pytest.mark.parametrize("path", ["/livez", "/info", "/ui", "/openapi.json", "/nope"])
def test_a_page_that_rebinds_its_name_is_refused(url, path):
    """An open server on this machine; a page could read all that a visitor may."""
    assert 421 == status(url, "evil.example", path)
    assert 421 != status(url, urlsplit(url).netloc, path)


def test_a_listed_name_is_served():
    with listening(FakeBackend(), allowed_hosts=("ours.example",)) as url:
        assert 200 == status(url, "ours.example")
        assert 421 == status(url, "evil.example")


def test_a_server_with_keys_answers_to_any_name(tmp_path):
    """No page of others has a key."""
    (tmp_path / "keys").write_text(f"alice:{KEY}\n")
    with listening(FakeBackend(), api_keys_file=str(tmp_path / "keys")) as url:
        assert 200 == status(url, "any.example")
        assert 401 == status(url, "any.example", "/info")


def test_a_server_that_others_reach_answers_to_any_name_unless_names_are_listed():
    with serving(FakeBackend()) as client:
        assert 200 == client.get("/info", headers={"host": "any.example"}).status_code
    with serving(FakeBackend(), allowed_hosts=("ours.example",)) as client:
        reply = client.get("/info", headers={"host": "any.example"})
    assert (421, "wrong_host") == (reply.status_code, reply.json()["error"]["type"])
    assert "any.example" not in reply.text
