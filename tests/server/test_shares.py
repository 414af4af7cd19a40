"""What clients share: one that takes what it can leaves something for the next one."""

import json
from sys import getsizeof

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import BackendOverloaded
from rerank_plugins.server.shares import RequestsInProgress, TextMemory, may_have_more
from tests.server.test_connections import BODY, Gate, answers, opened, post, received
from tests.support.monitoring import metric, wait_until
from tests.support.serving import listening, ready, serving

GREEDY, OTHER, LIGHT = (f"X-Forwarded-For: 10.0.0.{number}" for number in (1, 2, 3))
_JSON = {"content-type": "application/json"}
BEHIND_A_PROXY = {"trusted_proxies": ("127.0.0.1",), "warm_up": False}


@pytest.fixture
def gate():
    backend = Gate()
    yield backend
    backend.open.set()


@pytest.mark.parametrize("clients", [1, 2, 10, 50])
def test_something_is_left_however_many_clients_take_what_they_can(clients):
    most, taken = 4096, [0] * clients
    for _ in range(most):
        for client in range(clients):
            free = most - sum(taken)
            taken[client] += may_have_more(taken[client], free)

    free = most - sum(taken)
    assert free >= most // (8 * clients)
    assert may_have_more(0, free)
    assert max(taken) - min(taken) <= 8


@pytest.mark.parametrize("most", [1, 2, 7])
def test_few_places_are_all_for_one_client(most):
    counts = RequestsInProgress()
    for _ in range(most):
        assert counts.may_add("a", most)
        counts.add("a")

    assert not counts.may_add("a", most)
    assert not counts.may_add("b", most)


def test_only_clients_with_requests_are_remembered():
    counts = RequestsInProgress()
    for client in "aab":
        counts.add(client)
    assert (2, 1, 0) == (counts["a"], counts["b"], counts["c"])
    assert 2 == len(counts)
    for client in "aba":
        counts.remove(client)

    assert 0 == len(counts)


def test_the_memory_of_texts_is_bounded_and_shared():
    text = "a" * 1000
    size = getsizeof(text)
    memory = TextMemory(10 * size)

    def held_by(client, count):
        holds = []
        while len(holds) < count:
            hold = memory.hold(client, [text])
            try:
                hold.__enter__()
            except BackendOverloaded:
                break
            holds.append(hold)
        return holds

    greedy = held_by("greedy", 20)
    light = held_by("light", 1)
    assert (9, 1) == (len(greedy), len(light))
    for hold in [*greedy, *light]:
        hold.__exit__(None, None, None)

    assert (0, 0) == (memory.held_bytes, len(memory._held))
    with memory.hold("alone", [text] * 50):
        pass


@pytest.mark.parametrize("first", ["all", "heads"])
def test_one_client_does_not_take_all_places(gate, first):
    """However slow the backend is, and also if the bodies come when nothing else is in progress."""
    with listening(gate, max_connections=20, **BEHIND_A_PROXY) as url:
        request = post(BODY, GREEDY, "Connection: close")
        cut = len(request) - (1 if first == "heads" else 0)
        greedy = [opened(url, request[:cut]) for _ in range(20)]
        if first == "heads":  # none takes a place
            wait_until(lambda: metric(url, "rerank_inflight_requests") == 21)
            for connection in greedy:
                connection.sendall(request[cut:])
        wait_until(
            lambda: (
                metric(url, "rerank_inflight_requests") == 19  # and the one for the metrics
                and metric(url, "rerank_rejected_total", reason="too_many_connections") == 2
            )
        )
        others = [opened(url, post(BODY, each, "Connection: close")) for each in (LIGHT, OTHER)]
        wait_until(lambda: metric(url, "rerank_inflight_requests") == 21)
        gate.open.set()

        assert [200, 200] == [answers(received(each))[0][0] for each in others]
        replies = sorted(answers(received(each))[0] for each in greedy)
        assert [200] * 18 + [503] * 2 == [status for status, _ in replies]
        refusal = json.loads(replies[-1][1])["error"]
        assert ("too_many_connections", True) == (
            refusal["type"],
            "of this client" in refusal["message"],
        )


@pytest.mark.parametrize(
    ("letter", "accepted"), [("a", 12), ("é", 12), ("\N{GRINNING FACE}", 3)], ids=ascii
)
def test_texts_that_wait_for_their_scores_take_bounded_memory(gate, letter, accepted):
    """A model reads the beginning of a text, but all of it is kept; and four bytes a letter."""
    large = json.dumps({"query": "q", "documents": [letter + "a" * 20_000]}).encode()
    with listening(gate, buffer_bytes=2**18, body_bytes=2**18, **BEHIND_A_PROXY) as url:
        greedy = [opened(url, post(large, GREEDY, "Connection: close")) for _ in range(16)]
        wait_until(
            lambda: (
                metric(url, "rerank_rejected_total", reason="overloaded") == 16 - accepted
                and metric(url, "rerank_inflight_requests") == accepted + 1  # that for the metrics
            )
        )
        light = opened(url, post(BODY, LIGHT, "Connection: close"))
        wait_until(lambda: metric(url, "rerank_inflight_requests") == accepted + 2)
        gate.open.set()

        statuses = sorted(answers(received(each))[0][0] for each in greedy)
        assert [200] * accepted + [503] * (16 - accepted) == statuses
        assert [200] == [status for status, _ in answers(received(light))]


def test_texts_are_let_go_of_however_a_request_ends(gate):
    with serving(gate, warm_up=False, request_seconds=0.2) as client:
        ready(client)
        memory = client.app.state.texts
        assert 504 == client.post("/v1/rerank", content=BODY, headers=_JSON).status_code
        gate.open.set()
        assert 200 == client.post("/v1/rerank", content=BODY, headers=_JSON).status_code
        long = json.dumps({"query": "q" * 5000, "documents": ["a"]})
        assert 413 == client.post("/v1/rerank", content=long, headers=_JSON).status_code
        assert 0 == memory.held_bytes
