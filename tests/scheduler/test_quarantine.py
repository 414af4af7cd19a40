"""A document that crashes a model's process is identified and refused for a while."""

import pytest

from rerank_plugins import BackendCrashed, DocumentQuarantined, Query
from rerank_plugins.scheduler import quarantine
from rerank_plugins.scheduler.quarantine import Quarantine


class Process:
    """Scores by length in batches that it remembers; `kill` ends it, and so does `unlucky`."""

    def __init__(self):
        self.batches = []
        self.unlucky = False

    def __call__(self, requests):
        texts = [text for _, documents in requests for text in documents]
        self.batches.append(texts)
        if "kill" in texts or self.unlucky:
            raise BackendCrashed("it died", retry_after=1.0)
        return [[float(len(text)) for text in documents] for _, documents in requests]


@pytest.fixture
def process():
    return Process()


def ask(scheduler, texts, query="q", costs=None):
    future = scheduler.submit(query, texts, costs or [10] * len(texts), wait=True)
    return future.exception(30) or future.result()


def test_a_document_that_crashes_alone_twice_is_refused(scheduler, process):
    documents, costs = ["aa", "kill", "b"], [1, 3, 2]
    for _ in range(2):
        assert isinstance(ask(scheduler, documents, costs=costs), BackendCrashed)
    third = ask(scheduler, documents, costs=costs)
    with pytest.raises(DocumentQuarantined, match="document 1 ended the model's process") as fourth:
        ask(scheduler, [*documents, "c"])

    assert isinstance(third, DocumentQuarantined)
    assert (1, 1) == (third.document, fourth.value.document)
    assert [["kill"], ["kill"]] == process.batches[1:]
    assert [2.0, 1.0] == ask(scheduler, ["aa", "b"])


def test_suspects_are_scored_alone_after_a_crash(scheduler, process):
    """Others in its batch have been scored by then, and get their scores."""
    process.unlucky = True
    ask(scheduler, ["a", "bb", "ccc"])
    process.unlucky = False
    scores = ask(scheduler, ["a", "new", "bb", "newer"])
    once_more = ask(scheduler, ["a", "bb", "ccc"])

    assert [1.0, 3.0, 2.0, 5.0] == scores
    assert [1.0, 2.0, 3.0] == once_more
    assert [["newer", "new"], ["bb"], ["a"], ["bb", "a"], ["ccc"]] == process.batches[1:]


def test_a_document_that_is_alone_when_a_process_ends_by_itself_is_not_refused(scheduler, process):
    for _ in range(3):
        process.unlucky = True
        assert isinstance(ask(scheduler, ["a"]), BackendCrashed)
        assert isinstance(ask(scheduler, ["a"]), BackendCrashed)
        process.unlucky = False
        assert [1.0] == ask(scheduler, ["a"])


@pytest.mark.parametrize("crashes", [1, 2, 3])
def test_a_process_that_ends_by_itself_quarantines_no_document(scheduler, process, crashes):
    """However often it ends: what is scored in between is cleared."""
    for _ in range(crashes):
        process.unlucky = True
        assert isinstance(ask(scheduler, ["a", "bb"]), BackendCrashed)
        process.unlucky = False
        assert [1.0, 2.0] == ask(scheduler, ["a", "bb"])


def test_another_query_is_not_refused_for_the_document(scheduler, process):
    for _ in range(3):
        ask(scheduler, ["kill"], query="one")
    with pytest.raises(DocumentQuarantined):
        ask(scheduler, ["kill"], query="one")

    assert isinstance(ask(scheduler, ["kill"], query="other"), BackendCrashed)
    assert [3.0] == ask(scheduler, ["ill"], query="one")


@pytest.mark.parametrize("query", ["q", Query("q", instruction="i")], ids=str)
def test_a_document_is_released_after_a_while(query, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(quarantine, "monotonic", lambda: now[0])
    quarantined = Quarantine()
    quarantined.suspect(query, ["a", "b"])
    assert [False, True] == [quarantined.suspect_alone(query, "b") for _ in range(2)]
    with pytest.raises(DocumentQuarantined):
        quarantined.check(query, ["a", "b"])
    assert [True, False] == quarantined.suspects(query, ["a", "b"])
    now[0] += 601

    quarantined.check(query, ["a", "b"])
    assert [False, False] == quarantined.suspects(query, ["a", "b"])
    assert not quarantined.has_suspects


def test_the_number_of_hashes_is_bounded():
    quarantined = Quarantine()
    quarantined.suspect("q", map(str, range(10_000)))

    assert 4096 == len(quarantined._suspects._until)
    assert [False, True] == quarantined.suspects("q", ["0", "9999"])
