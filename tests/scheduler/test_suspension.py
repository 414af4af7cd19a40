"""A client whose documents crash a model's process has to wait, and the others have not."""

import threading

import pytest

from rerank_plugins import BackendCrashed
from rerank_plugins._internal.context import on_behalf_of
from rerank_plugins.scheduler import ClientSuspended, suspension
from rerank_plugins.scheduler.suspension import Suspensions


@pytest.fixture
def now(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(suspension, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def suspensions(now):
    suspensions = Suspensions()
    suspensions.arrive("good")
    return suspensions


def seconds_left(suspensions, client):
    try:
        suspensions.check(client)
    except ClientSuspended as error:
        return error.retry_after
    return 0.0


def test_each_further_crash_suspends_for_twice_as_long(suspensions, now):
    lasting = []
    for _ in range(7):
        suspensions.blame("bad")
        suspensions.arrive("good")
        lasting.append(seconds_left(suspensions, "bad"))
        now[0] += lasting[-1]
        assert 0 == seconds_left(suspensions, "bad")

    assert [0, 10, 20, 40, 80, 160, 320] == lasting
    assert 0 == seconds_left(suspensions, "good")


def test_crashes_are_forgotten_after_a_while(suspensions, now):
    """A process that ends by itself every now and then suspends nobody."""
    for _ in range(5):
        suspensions.blame("unlucky")
        suspensions.arrive("good")
        assert 0 == seconds_left(suspensions, "unlucky")
        now[0] += 601
    assert 0 == suspensions.danger("unlucky")


@pytest.mark.parametrize("client", [None, "alone"])
def test_a_client_that_is_alone_is_not_suspended(now, client):
    suspensions = Suspensions()
    for _ in range(3):
        suspensions.arrive(client)
        suspensions.blame(client)
    assert 0 == seconds_left(suspensions, client)
    suspensions.arrive("other")
    assert (client is not None) == bool(seconds_left(suspensions, client))
    now[0] += 61  # the other one is gone

    assert 0 == seconds_left(suspensions, client)


def test_the_number_of_clients_is_bounded(suspensions):
    for number in range(10_000):
        suspensions.blame(f"client {number}")
        suspensions.blame(f"client {number}")

    assert 4096 == len(suspensions._suspects) == len(suspensions._crashes)
    assert 4096 == len(suspensions._until)


class Process:
    """Scores by length in batches that it remembers, once it may; a text with `kill` ends it."""

    def __init__(self):
        self.batches = []
        self.entered = threading.Semaphore(0)
        self.may_score = threading.Event()
        self.may_score.set()

    def __call__(self, requests):
        texts = [text for _, documents in requests for text in documents]
        self.batches.append(texts)
        self.entered.release()
        assert self.may_score.wait(30)
        if any("kill" in text for text in texts):
            raise BackendCrashed("it died", retry_after=1.0)
        return [[float(len(text)) for text in documents] for _, documents in requests]


@pytest.fixture
def process():
    return Process()


def submit(scheduler, client, *texts):
    with on_behalf_of(client):
        return scheduler.submit("q", texts, [10] * len(texts), wait=True)


def together(scheduler, process, requests):
    """Submit requests that share a batch; return their errors or scores."""
    process.may_score.clear()
    process.entered = threading.Semaphore(0)
    first = submit(scheduler, "first", "first")
    assert process.entered.acquire(timeout=30)
    futures = [submit(scheduler, client, *texts) for client, *texts in requests]
    process.may_score.set()
    assert [5.0] == first.result(30)
    return [future.exception(30) or list(future.result()) for future in futures]


def test_a_client_with_another_killing_text_each_time_is_refused(scheduler, process):
    """Its second crash alone is the last one for now."""
    submit(scheduler, "good", "a").result(30)
    for number in range(2):
        error = submit(scheduler, "bad", f"kill {number}").exception(30)
        assert isinstance(error, BackendCrashed)
    for number in range(2, 9):
        with pytest.raises(ClientSuspended, match="suspended for 10 s"):
            submit(scheduler, "bad", f"kill {number}")

    assert [1.0] == submit(scheduler, "good", "a").result(30)
    assert [["a"], ["kill 0"], ["kill 1"], ["a"]] == process.batches


def test_after_a_crash_the_clients_in_it_share_no_batch(scheduler, process):
    crashed = together(scheduler, process, [("good", "a"), ("bad", "kill 0"), ("other", "b")])
    assert [BackendCrashed] * 3 == [type(each) for each in crashed]
    process.batches.clear()
    results = together(
        scheduler, process, [("bad", "kill 1"), ("new", "c"), ("good", "dd", "ee"), ("other", "f")]
    )

    assert isinstance(results.pop(0), BackendCrashed)
    assert [[1.0], [2.0, 2.0], [1.0]] == results
    assert [["first"], ["c"], ["kill 1"]] == process.batches[:3]
    assert [["ee", "dd"], ["f"]] == process.batches[3:]


def test_after_a_crash_of_its_own_each_request_of_a_client_is_alone_and_last(scheduler, process):
    submit(scheduler, "bad", "kill 0").exception(30)
    process.batches.clear()
    results = together(
        scheduler, process, [("bad", "a"), ("bad", "bb"), ("good", "c"), ("new", "d")]
    )

    assert [[1.0], [2.0], [1.0], [1.0]] == results
    assert [["first"], ["c", "d"], ["a"], ["bb"]] == process.batches


def test_what_waits_when_a_client_is_suspended_is_not_scored(scheduler, process):
    submit(scheduler, "good", "a").result(30)
    submit(scheduler, "bad", "kill 0").exception(30)
    submit(scheduler, "good", "a").result(30)
    killing = [("bad", f"kill {number}") for number in range(1, 9)]
    crashed, *refused, scores = together(scheduler, process, [*killing, ("good", "bb")])

    assert isinstance(crashed, BackendCrashed)
    assert [ClientSuspended] * 7 == [type(each) for each in refused]
    assert [2.0] == scores
    assert 2 == sum("kill" in text for batch in process.batches for text in batch)


def test_a_document_that_comes_again_counts_once(scheduler, process):
    """It is refused by itself (`test_quarantine.py`); its client is not suspended for it."""
    submit(scheduler, "good", "a").result(30)
    for _ in range(3):
        submit(scheduler, "unlucky", "kill").exception(30)

    assert [1.0] == submit(scheduler, "unlucky", "a").result(30)
