"""Which connections are closed when there are too many, or when they buffer too much."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.server.connection_pressure import Connections, State, spare_connections


class Client:
    evicted = False
    has_sent = False

    def __init__(self, owner=None):
        self.owner = owner

    def evict(self):
        self.evicted = True

    def has_input(self):
        return self.has_sent


def crowd(connections, *states):
    clients = [Client() for _ in states]
    for client, state in zip(clients, states, strict=True):
        assert connections.add(client, state)
    return clients


def filled(state, most=4):
    connections = Connections(most, 1000)
    clients = crowd(connections, *[state] * (most + spare_connections(most)))
    return connections, clients


@pytest.mark.parametrize("state", [state for state in State if state is not State.SERVING])
def test_connections_that_wait_for_their_client_are_evicted_longest_first(state):
    connections, clients = filled(state)
    connections.move(clients[0], state, State.SERVING)
    connections.move(clients[0], State.SERVING, state)

    for _ in range(2):
        assert connections.add(Client(), state)
    assert [False, True, True, False] == [client.evicted for client in clients[:4]]
    assert len(clients) == len(connections)


@pytest.mark.parametrize("state", [State.IDLE, State.HEAD, State.BODY, State.WRITING])
def test_a_connection_that_has_sent_what_is_not_read_yet_is_spared(state):
    """Else those that are accepted together push each other out before one is read."""
    connections, clients = filled(state)
    for client in clients[:-1]:
        client.has_sent = True
    assert connections.add(Client(), state)
    assert [*[False] * 11, True] == [client.evicted for client in clients]

    newest = Client()
    newest.has_sent = True
    connections, clients = filled(state)
    for client in clients:
        client.has_sent = True
    assert connections.add(newest, state)
    assert [True, *[False] * 11] == [client.evicted for client in clients]


@pytest.mark.parametrize("state", [State.IDLE, State.HEAD, State.ENDING])
def test_who_has_the_most_connections_loses_them_first(state):
    """A flood from one address leaves those of others alone, also where these waited longer."""
    connections = Connections(4, 1000)
    light = [Client("light"), Client("other"), Client(None)]
    for client in light:
        assert connections.add(client, State.IDLE)
    flood = [Client("heavy") for _ in range(100)]
    for client in flood:
        assert connections.add(client, state)

    assert 12 == len(connections)
    assert not any(client.evicted for client in light)
    assert [True] * 91 + [False] * 9 == [client.evicted for client in flood]
    for client in flood:
        connections.remove(client)
    assert {"light": 1, "other": 1} == connections._owned


def test_a_connection_with_a_request_in_progress_is_not_evicted():
    connections, clients = filled(State.SERVING)

    assert not connections.places.free
    assert not connections.add(Client(), State.HEAD)
    assert not any(client.evicted for client in clients)


def test_an_idle_connection_goes_before_a_slow_one():
    connections = Connections(1, 1000)
    slow = crowd(connections, State.WRITING, State.BODY, State.HEAD, State.ENDING)
    (idle,) = crowd(connections, State.IDLE)
    crowd(connections, *[State.SERVING] * 4)
    connections.move(slow[0], State.WRITING, State.WRITING)
    slow.append(slow.pop(0))

    for expected in (idle, *slow):
        assert connections.add(Client(), State.SERVING)
        assert expected.evicted
    assert not connections.add(Client(), State.HEAD)


def test_the_slowest_are_evicted_when_all_buffer_too_much():
    connections = Connections(10, 1000)
    first, idle, second, scored = crowd(
        connections, State.BODY, State.IDLE, State.BODY, State.SERVING
    )
    connections.hold(first, 400)
    connections.hold(second, 400)
    connections.hold(second, 600)
    assert 1000 == connections.held_bytes
    connections.hold(scored, 1)

    assert first.evicted
    assert not second.evicted
    assert not idle.evicted
    assert 601 == connections.held_bytes
    connections.remove(second)
    connections.remove(second)
    assert 1 == connections.held_bytes


def test_each_eviction_is_told_with_its_reason():
    needed = []
    connections = Connections(4, 1000, on_evicted=needed.append)
    clients = crowd(connections, *[State.BODY] * 12)
    assert connections.add(Client(), State.HEAD)
    for client in clients[1:4]:
        connections.hold(client, 400)
    connections.remove(clients[5])

    assert ["place", "memory"] == needed


def test_evicted_connections_are_no_longer_counted():
    connections, clients = filled(State.HEAD)
    connections.hold(clients[0], 500)
    connections.add(Client(), State.HEAD)

    assert 0 == connections.held_bytes
    connections.move(clients[0], State.HEAD, State.IDLE)
    assert len(clients) == len(connections)
    connections.remove(clients[0])
    assert len(clients) == len(connections)
