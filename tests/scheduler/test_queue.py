"""The queue of requests: the clients take turns, and a full queue refuses those who filled it."""

from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_plugins.scheduler.queue import FairQueue
from rerank_plugins.scheduler.request import QueuedRequest


def request(client, documents=1, cost=10):
    return QueuedRequest("q", [""] * documents, [cost] * documents, None, client)


def queue_of(requests, *, quantum=100, most_cost=10**9, slice_cost=None, **limits):
    queue = FairQueue(quantum=quantum, most_cost=most_cost, **limits)
    queue.slice_cost = slice_cost or quantum
    for each in requests:
        queue.add(each)
    return queue


def costs(batch):
    """Return what each client has in a batch."""
    spent = Counter()
    for each, indices in batch:
        spent[each.client] += sum(each.costs[index] for index in indices)
    return dict(spent)


def batches(queue, cost):
    while queue:
        yield costs(queue.fill(cost=cost, pairs=None))


@pytest.mark.parametrize("documents", [1, 5, 50], ids="{} documents a request".format)
def test_a_light_client_is_served_in_the_next_batch(documents):
    """However many requests of another one wait, and however large they are."""
    heavy = [request("heavy", documents) for _ in range(500 // documents)]
    queue = queue_of([*heavy, request("light", 3)])

    assert {"heavy": 100, "light": 30} == costs(queue.fill(cost=130, pairs=None))


@pytest.mark.parametrize("client", [None, "alone"])
def test_one_client_has_all_of_each_batch(client):
    queue = queue_of([request(client, 5) for _ in range(20)])

    assert [{client: 500}, {client: 500}] == list(batches(queue, 500))


def test_clients_share_alike_whatever_their_requests_cost():
    small = [request("small", 1) for _ in range(80)]
    medium = [request("medium", 10) for _ in range(8)]
    large = [request("large", 40) for _ in range(2)]
    spent = Counter()
    for batch in batches(queue_of([*small, *medium, *large]), 100):
        spent.update(batch)
        assert max(spent.values()) - min(spent.values(), default=0) <= 200 or spent.total() > 2000

    assert {"small": 800, "medium": 800, "large": 800} == spent


def test_a_client_with_a_single_request_is_not_cut_off():
    """Its turn is that of any request, beside which the others of a client must wait."""
    queue = queue_of([*(request("heavy", 8) for _ in range(9)), request("light", 8)], slice_cost=20)

    assert {"heavy": 20, "light": 80} == costs(queue.fill(cost=100, pairs=None))


def test_a_turn_goes_on_in_the_next_batch():
    queue = queue_of([request(name, 10) for name in "abc" for _ in range(2)])

    first, second, third, *_ = batches(queue, 150)
    assert [{"a": 100, "b": 50}, {"b": 50, "c": 100}] == [first, second]
    assert {"a": 100, "b": 50} == third


def test_a_new_client_waits_for_one_turn_of_each():
    """A stream of new clients does not keep the others waiting."""
    queue = queue_of([request("old", 10) for _ in range(5)])
    old = 0
    for number in range(5):
        queue.add(request(f"new {number}", 10))
        old += costs(queue.fill(cost=200, pairs=None))["old"]

    assert 500 == old


@pytest.mark.parametrize(
    "limits", [{"most_cost": 1000}, {"most_pairs": 100}, {"longest_wait": 990}], ids=str
)
def test_a_full_queue_refuses_the_client_who_filled_it(limits):
    longest_wait = limits.pop("longest_wait", None)
    queue = queue_of([], **limits)
    if longest_wait is not None:
        queue.longest_wait = longest_wait
    while queue.has_room(one := request("heavy", 5)):
        queue.add(one)
    admitted = queue.pairs

    assert 100 == admitted
    assert not queue.has_room(request("heavy", 5))
    assert all(queue.has_room(request(name, 5)) for name in ("light", "other"))
    for number in range(3):
        queue.add(request(f"light {number}", 5))
    assert queue.pairs == admitted + 15
    assert not queue.has_outside


def test_what_waits_outside_for_one_client_keeps_no_other_outside():
    queue = queue_of([request("heavy", 50) for _ in range(20)], most_cost=1000)
    assert queue.has_outside

    queue.add(request("light", 3))

    assert 3 == {client.name: client.pairs for client in queue._clients}["light"]
    assert {"heavy", "light"} == {*costs(queue.fill(cost=130, pairs=None))}


@pytest.mark.parametrize("clients", ["ab", "abcd"])
def test_clients_take_turns_outside(clients):
    queue = queue_of([], most_cost=1000)
    for name in clients:
        queue._outside[name] = deque(request(name, 90) for _ in range(3))
    order = []
    while queue.has_outside or queue:
        before = {client.name for client in queue._clients}
        queue.admit()
        order += [client.name for client in queue._clients if client.name not in before]
        queue.fill(cost=300, pairs=None)

    assert [*clients * 3] == order


def test_who_leaves_from_outside_is_forgotten():
    gone = [request("heavy", 50) for _ in range(20)]
    queue = queue_of(gone, most_cost=1000)
    for each in gone:
        each.future.cancel()
    queue.admit()

    assert not queue.has_outside


def test_a_queue_looks_at_a_few_of_many_clients_outside(monkeypatch):
    """For each it adds up what all the others in the queue have."""
    queue = queue_of([request(None, 100), *(request(None, 100) for _ in range(3))], most_cost=1000)
    for number in range(1000):
        queue._outside[f"client {number}"] = deque([request(f"client {number}", 1000)])
    looks = []
    monkeypatch.setattr(queue, "has_room", lambda each: looks.append(each.client))
    for _ in range(3):
        queue.admit()

    assert len({*looks}) == len(looks) < 100
    assert len(queue._outside) == 1001


def test_clients_with_little_fill_the_queue_together():
    queue = queue_of([], most_cost=1000)
    count = 0
    while queue.has_room(one := request(f"client {count}", 5)):
        queue.add(one)
        count += 1

    assert 20 == count


def test_a_client_whose_requests_are_cancelled_is_forgotten():
    requests = [request("heavy", 5) for _ in range(3)]
    queue = queue_of([*requests, request("light")])
    for each in requests:
        queue.remove(each)
    with pytest.raises(ValueError):  # noqa: PT011  # whatever it says
        queue.remove(requests[0])

    assert (10, 1) == (queue.cost, queue.pairs)
    assert [{"light": 10}] == list(batches(queue, 100))
    assert not queue


_REQUESTS = st.tuples(
    st.sampled_from(["a", "b", "c", None]), st.lists(st.integers(1, 60), min_size=1, max_size=12)
)


@settings(max_examples=200)
@given(
    st.lists(_REQUESTS, min_size=1, max_size=12),
    st.tuples(st.integers(1, 120), st.integers(1, 20)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.sets(st.integers(0, 11)),
)
def test_every_document_has_its_place_in_one_batch(sizes, limits, turns, cancelled):
    """Whatever is cancelled meanwhile, and however the turns fall."""
    (cost, pairs), (quantum, slice_cost) = limits, turns
    requests = [QueuedRequest("q", [""] * len(each), each, None, client) for client, each in sizes]
    queue = queue_of(requests, quantum=quantum, slice_cost=slice_cost)
    filled = {each: [] for each in requests}
    doomed = {requests[index] for index in cancelled if index < len(requests)}
    while queue:
        batch = queue.fill(cost=cost, pairs=pairs)
        spent = [each.costs[index] for each, indices in batch for index in indices]
        assert 1 <= len(spent) <= pairs
        assert sum(spent) <= cost or len(spent) == 1
        for each, indices in batch:
            filled[each] += indices
        if doomed and (each := doomed.pop()).pending:
            queue.remove(each)
            filled[each] += each.pending

    assert {each: list(range(len(each.costs))) for each in requests} == {
        each: sorted(indices) for each, indices in filled.items()
    }
    assert (0, 0) == (queue.cost, queue.pairs)
