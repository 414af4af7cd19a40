"""The fault kit does what its names say, as an independent client sees it."""

import contextlib
import http.client
import json
import time
import urllib.error
import urllib.request

import pytest

from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.testing import FakeResponse, FakeServer, corrupt, faults, in_turn, serve_dialect
from rerank_plugins.testing.faults import cut_short, drip, hang_up, reset, silence

BODIES = {
    "deepinfra": {"queries": ["q", "q"], "documents": ["a", "q"]},
    "dashscope": {"model": "m", "input": {"query": "q", "documents": ["a", "q"]}},
    "mixedbread": {"model": "m", "query": "q", "input": ["a", "q"]},
    "pinecone": {"model": "m", "query": "q", "documents": [{"text": "a"}, {"text": "q"}]},
    "nim": {"model": "m", "query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "q"}]},
    "tei": {"query": "q", "texts": ["a", "q"]},
}
COHERE = {"model": "m", "query": "q", "documents": ["a", "q"]}


def post(fake_server, body=COHERE, timeout=10.0):
    request = urllib.request.Request(fake_server.url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        return json.load(reply)


def test_a_fake_server_records_its_requests():
    with FakeServer(FakeResponse({"fine": True})) as fake_server:
        assert {"fine": True} == post(fake_server, {"a": 1})
        (received,) = fake_server.requests

    assert ("POST", "", {"a": 1}, 8) == (
        received.method,
        received.path.strip("/"),
        received.body,
        received.size,
    )


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (
            lambda received: FakeResponse(received.body["texts"]),
            "`response` raised KeyError: 'texts'",
        ),
        (lambda received: {"results": []}, "`response` returned a `dict`"),
        ({"results": []}, "`response` is a `dict`"),
    ],
)
def test_a_mistake_in_a_behaviour_is_sent_to_the_client(response, expected):
    """Where nothing came back, it would look like a fault of the network."""
    with FakeServer(response) as fake_server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(fake_server)
        with caught.value as reply:  # read while the server is there: its end cuts the body short
            assert 500 == reply.code
            assert expected in json.load(reply)["error"]


def test_a_body_that_is_not_json_is_received_as_none():
    with FakeServer(FakeResponse({"fine": True})) as fake_server:
        with urllib.request.urlopen(fake_server.url, b"{", timeout=10) as reply:
            assert {"fine": True} == json.load(reply)
        assert (None, 1) == (fake_server.requests[0].body, fake_server.requests[0].size)


def test_a_request_with_another_method_is_answered_with_405():
    with FakeServer(serve_dialect("cohere")) as fake_server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(fake_server.url, timeout=10)
        with caught.value as reply:
            assert 405 == reply.code


def test_behaviours_take_turns_and_the_last_stays():
    with FakeServer(
        in_turn(FakeResponse(1), lambda _: FakeResponse(2), FakeResponse(3))
    ) as fake_server:
        assert [1, 2, 3, 3] == [post(fake_server) for _ in range(4)]


def test_an_empty_list_of_behaviours_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        in_turn()


def test_an_unknown_dialect_is_refused():
    with pytest.raises(ValueError, match="'nope'; valid: azure, cohere, "):
        serve_dialect("nope")


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_each_dialect_is_served_and_can_be_corrupted(dialect):
    def cut(results):
        del results[1:]

    body = BODIES.get(dialect, COHERE)
    with FakeServer(serve_dialect(dialect)) as fake_server:
        right = json.dumps(post(fake_server, body))
        fake_server.response = corrupt(dialect, cut)
        corrupted = json.dumps(post(fake_server, body))

    if dialect == "deepinfra":  # it sends numbers alone
        assert ([0.0, 1.0], [0.0]) == (json.loads(right)["scores"], json.loads(corrupted)["scores"])
    else:
        assert [2, 1] == [text.count('"index"') for text in (right, corrupted)]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_each_dialect_has_the_same_faults(dialect):
    assert faults("cohere").keys() == faults(dialect).keys()


SLOW = {"dripping body", "dripping head", "silence"}


@pytest.mark.parametrize("name", sorted(faults().keys() - SLOW))
@pytest.mark.parametrize("dialect", ["cohere", "dashscope", "tei"])
def test_each_fault_is_an_error_or_another_reply(name, dialect):
    """No fault is the right answer, whatever the dialect."""
    body = json.dumps(BODIES.get(dialect, COHERE)).encode()

    def ask():
        request = urllib.request.Request(fake_server.url, body)
        with urllib.request.urlopen(request, timeout=10) as reply:
            kind, packing = reply.headers["Content-Type"], reply.headers["Content-Encoding"]
            return reply.status, kind, packing, reply.read()

    with FakeServer(serve_dialect(dialect)) as fake_server:
        right = ask()
        fake_server.response = faults(dialect)[name]
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert right != ask()


@pytest.mark.parametrize("behaviour", [hang_up, reset, cut_short])
def test_a_broken_connection_breaks(behaviour):
    with FakeServer(behaviour) as fake_server, pytest.raises((OSError, http.client.HTTPException)):
        post(fake_server)


def test_silence_lasts_until_the_client_hangs_up():
    with FakeServer(silence) as fake_server:
        with pytest.raises(OSError, match="timed out"):
            post(fake_server, timeout=0.1)

        assert fake_server.wait_until_idle()


def test_a_drip_outlasts_a_limit_per_read():
    limit, pause, pieces = 1.0, 0.05, 30

    with FakeServer(drip(pause)) as fake_server:
        host = fake_server.url.removeprefix("http://")
        with contextlib.closing(http.client.HTTPConnection(host, timeout=limit)) as connection:
            started = time.monotonic()
            connection.request("POST", "/", b"{}")
            body = connection.getresponse().read(pieces)

    assert b" " * pieces == body
    assert limit < time.monotonic() - started


def test_unexpected_requests_are_refused_as_the_strictest_server_does():
    with (
        FakeServer(serve_dialect("cohere")) as fake_server,
        pytest.raises(urllib.error.HTTPError) as caught,
    ):
        post(fake_server, COHERE | {"top_n": None})

    with caught.value:
        assert 400 == caught.value.status
