"""A proxy that `trusted_proxies` does not name is told of, once."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from starlette.testclient import TestClient

from rerank_plugins.server import ServerSettings, create_app
from rerank_plugins.server.undeclared_proxies import _client_of
from rerank_plugins.testing import FakeBackend
from tests.support.serving import ready

ADVICE = "trusted_proxies"


def lines(caplog, *requests, trusted=()):
    """Return what a server says of proxies after requests of peers with `X-Forwarded-For`."""
    app = create_app(FakeBackend(), settings=ServerSettings(trusted_proxies=trusted))
    with TestClient(app) as client:
        ready(client)
        for peer, forwarded_for in requests:
            headers = {} if forwarded_for is None else {"x-forwarded-for": forwarded_for}
            with_peer = TestClient(app, client=(peer, 50_000))
            assert 200 == with_peer.get("/v1/models", headers=headers).status_code
    return [record.getMessage() for record in caplog.records if ADVICE in record.getMessage()]


SHARED = {
    "two clients": [("10.0.0.1", "9.9.9.9"), ("10.0.0.1", "8.8.8.8")],
    "clients that say more": [("10.0.0.1", "6.6.6.6, 9.9.9.9"), ("10.0.0.1", "6.6.6.6, 8.8.8.8")],
    "IPv6": [("10.0.0.1", "2001:db8::1"), ("10.0.0.1", "2001:db8:1::1")],
    "others in between": [("10.0.0.1", "9.9.9.9"), ("7.7.7.7", None), ("10.0.0.1", "8.8.8.8")],
    "many": [("10.0.0.1", f"9.9.9.{number}") for number in range(20)],
}


@pytest.mark.parametrize("case", SHARED)
def test_an_undeclared_proxy_of_several_clients_is_told_of_once(caplog, case):
    (line,) = lines(caplog, *SHARED[case])
    assert "10.0.0.1 forwards for several clients" in line


def test_a_proxy_behind_a_declared_one_is_told_of(caplog):
    """Such as a CDN before the nginx that the settings name."""
    requests = [("10.0.0.1", f"9.9.9.{number}, 7.7.7.7") for number in range(3)]
    (line,) = lines(caplog, *requests, trusted=("10.0.0.1",))
    assert "7.7.7.7 forwards for several clients" in line


QUIET = {
    "no header": [("10.0.0.1", None)] * 3,
    "one client": [("10.0.0.1", "9.9.9.9")] * 3,
    "one client each": [("10.0.0.1", "9.9.9.9"), ("10.0.0.2", "8.8.8.8")],
    "no addresses": [("10.0.0.1", "unknown"), ("10.0.0.1", "_hidden"), ("10.0.0.1", "")],
    "no address of its own": [("testclient", "9.9.9.9"), ("testclient", "8.8.8.8")],
}


@pytest.mark.parametrize("case", QUIET)
def test_nothing_is_said_where_nobody_is_known_to_share(caplog, case):
    assert [] == lines(caplog, *QUIET[case])


def test_nothing_is_said_of_a_declared_proxy(caplog):
    requests = SHARED["many"] + SHARED["clients that say more"][:1]
    assert [] == lines(caplog, *requests, trusted=("10.0.0.0/8",))


def test_the_memory_of_it_is_bounded(caplog):
    """And what clients claim does not push out what is known of a proxy."""
    claims = [(f"10.1.{number // 250}.{number % 250}", "9.9.9.9") for number in range(300)]
    proxy = [("10.0.0.1", "9.9.9.9"), *claims, ("10.0.0.1", "8.8.8.8")]
    assert 1 == len(lines(caplog, *proxy))
    caplog.clear()
    assert [] == lines(caplog, *claims, ("10.0.0.1", "9.9.9.9"), ("10.0.0.1", "8.8.8.8"))


class Address(str):
    """Counts with how many it is compared."""

    __slots__ = ()
    __hash__ = str.__hash__
    compared = 0

    def __eq__(self, other):
        Address.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        (["10.0.0.1"] * 2000, ""),
        (["9.9.9.9"] * 2000, "9.9.9.9"),
        (["9.9.9.9"] * 1000 + ["10.0.0.1"] * 1000, "9.9.9.9"),
        (["9.9.9.9", "10.0.0.1", "8.8.8.8", "10.0.0.1", "7.7.7.7"], "9.9.9.9"),
    ],
)
def test_each_hop_is_looked_at_once(hops, client):
    """Anybody can send thousands of them in one header."""
    Address.compared = 0
    found = _client_of(Address("10.0.0.1"), ", ".join(hops))

    assert client == found
    assert Address.compared <= len(hops)
