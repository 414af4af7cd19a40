"""The scheduler: every document once, in shared, fair and bounded batches."""

import asyncio
import logging
import multiprocessing
import threading
import time
import traceback
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_plugins import (
    BackendError,
    BackendOutOfMemory,
    BackendOverloaded,
    BackendUnavailable,
    InvalidResponse,
)
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.hooks import (
    BatchFinished,
    BatchShrunk,
    CallStarted,
    Dequeued,
    Dropped,
    Truncated,
    _dispatch,
)
from rerank_plugins.hooks._dispatch import emit, observe_call
from rerank_plugins.scheduler import Scheduler, estimated_tokens
from rerank_plugins.scheduler.batch import BatchScorer


class Scorer:
    """Scores by length; blocks each batch until it is released; records its batches."""

    def __init__(self):
        self.batches = []
        self.started = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.let_go.set()
        self.threads = set()

    def __call__(self, requests):
        self.batches.append([(query, list(texts)) for query, texts in requests])
        self.threads.add(threading.get_ident())
        self.started.release()
        assert self.let_go.wait(30)
        if any("poison" in texts for _, texts in requests):
            raise ZeroDivisionError("poison")
        if any("nan" in texts for _, texts in requests):
            return [[float("nan")] * len(texts) for _, texts in requests]
        return [[float(len(text)) for text in texts] for _, texts in requests]

    def hold(self):
        self.let_go.clear()

    def scored(self):
        return [text for batch in self.batches for _, texts in batch for text in texts]


@pytest.fixture
def scorer():
    return Scorer()


def ask(scheduler, texts, *, query="q", cost=10, wait=True):
    return scheduler.submit(query, texts, [cost] * len(texts), wait=wait)


def held(scheduler, scorer):
    """Occupy the worker with one request, so that later requests wait together."""
    scorer.hold()
    future = ask(scheduler, ["first"])
    assert scorer.started.acquire(timeout=30)
    return future


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.integers(1, 120), min_size=1, max_size=30), min_size=1, max_size=8),
    st.integers(1, 200),
    st.integers(1, 60),
)
def test_every_document_is_scored_once_within_the_budget(costs, batch_cost, quantum):
    scorer = Scorer()
    scheduler = Scheduler(scorer, batch_cost=batch_cost, quantum=quantum)
    price = {}
    futures = []
    for number, request in enumerate(costs):
        texts = [f"{number}:{place}" + "x" * place for place in range(len(request))]
        price |= dict(zip(texts, request, strict=True))
        futures.append((texts, scheduler.submit(f"q{number}", texts, request, wait=True)))

    for texts, future in futures:
        assert [float(len(text)) for text in texts] == future.result(30)
    assert sorted(price) == sorted(scorer.scored())
    for batch in scorer.batches:
        prices = [price[text] for _, texts in batch for text in texts]
        assert sum(prices) <= batch_cost or len(prices) == 1
    assert 0 == scheduler.queued_cost
    scheduler.close()


def test_a_small_request_overtakes_a_large_one(scorer):
    scheduler = Scheduler(scorer, batch_cost=100, quantum=50)
    first = held(scheduler, scorer)
    large = ask(scheduler, [f"large {n}" for n in range(500)])
    small = ask(scheduler, ["small 1", "small 2"])
    scorer.let_go.set()
    small.result(30)

    assert first.done()
    assert any("small 1" in texts for _, texts in scorer.batches[1])
    assert 500 == len(large.result(30))
    scheduler.close()


def test_waiting_requests_share_a_batch(scorer):
    scheduler = Scheduler(scorer, batch_cost=1000)
    held(scheduler, scorer)
    futures = [ask(scheduler, ["a", "bb"], query=f"q{n}") for n in range(20)]
    scorer.let_go.set()

    assert [[1.0, 2.0]] * 20 == [future.result(30) for future in futures]
    assert 2 == len(scorer.batches)
    assert 1 == len(scorer.threads)
    scheduler.close()


def test_a_single_request_does_not_wait_for_others(scorer):
    scheduler = Scheduler(scorer)

    assert [1.0] == ask(scheduler, ["a"]).result(30)
    assert [[("q", ["a"])]] == scorer.batches
    scheduler.close()


def test_a_cancelled_request_is_not_scored(scorer):
    scheduler = Scheduler(scorer, batch_cost=100)
    held(scheduler, scorer)
    doomed = ask(scheduler, ["doomed"] * 500)
    kept = ask(scheduler, ["kept"])
    assert doomed.cancel()
    scorer.let_go.set()

    assert [4.0] == kept.result(30)
    scheduler.close()
    assert "doomed" not in scorer.scored()
    assert 0 == scheduler.queued_cost


def test_cancelling_the_task_cancels_the_request(scorer):
    scheduler = Scheduler(scorer, batch_cost=100)

    async def abandon():
        held(scheduler, scorer)
        task = asyncio.ensure_future(asyncio.wrap_future(ask(scheduler, ["doomed"] * 500)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(abandon())
    scorer.let_go.set()
    scheduler.close()

    assert "doomed" not in scorer.scored()


def test_an_error_reaches_only_its_request(scorer):
    scheduler = Scheduler(scorer, batch_cost=1000)
    held(scheduler, scorer)
    good = [ask(scheduler, ["a"] * 3) for _ in range(5)]
    bad = ask(scheduler, ["b", "poison"])
    also_good = ask(scheduler, ["ccc"])
    scorer.let_go.set()

    with pytest.raises(ZeroDivisionError, match="poison"):
        bad.result(30)
    assert [[1.0] * 3] * 5 == [future.result(30) for future in good]
    assert [3.0] == also_good.result(30)
    assert [1.0] == ask(scheduler, ["a"]).result(30)
    scheduler.close()


def test_a_failed_request_is_not_scored_further(scorer):
    scheduler = Scheduler(scorer, batch_cost=10)
    bad = scheduler.submit("q", ["poison", "never"], [11, 10], wait=True)

    with pytest.raises(ZeroDivisionError):
        bad.result(30)
    scheduler.close()
    assert ["poison"] == scorer.scored()


def test_a_nan_score_is_one_error(scorer):
    scheduler = Scheduler(scorer)

    with pytest.raises(InvalidResponse, match="not a finite number"):
        ask(scheduler, ["nan"]).result(30)
    scheduler.close()


def test_too_few_scores_are_one_error():
    scheduler = Scheduler(lambda requests: [])

    with pytest.raises(InvalidResponse, match="got 0 lists of scores for 1 requests"):
        ask(scheduler, ["a"]).result(30)
    scheduler.close()


def test_a_full_queue_refuses_requests_that_do_not_wait(scorer):
    scheduler = Scheduler(scorer, batch_cost=100, queue_cost=100)
    held(scheduler, scorer)
    ask(scheduler, ["a"] * 9)
    with pytest.raises(BackendOverloaded, match="90 tokens of 9 documents wait to be scored"):
        ask(scheduler, ["b"] * 2, wait=False)
    waiting = ask(scheduler, ["b"] * 2, wait=True)
    assert 90 == scheduler.queued_cost
    scorer.let_go.set()

    assert [1.0, 1.0] == waiting.result(30)
    scheduler.close()


def at_speed(speed, scorer, **options):
    """Return a scheduler that assumes this throughput of its scorer."""
    scheduler = Scheduler(scorer, **options)
    scheduler._scorer.speed = float(speed)
    scheduler._scorer._remember_speed = lambda *_: None
    return scheduler


@pytest.mark.parametrize(
    "limit", [{"queue_seconds": 1.0}, {"queue_cost": 15_000}, {"queue_pairs": 500}], ids=str
)
def test_a_large_request_takes_no_more_of_the_queue_than_a_small_one(scorer, limit):
    """Else one legal request of 1,000 documents would be a 503 for everybody else."""
    scheduler = at_speed(10_000, scorer, **limit)
    held(scheduler, scorer)
    large = ask(scheduler, ["large"] * 1000, cost=20, wait=False)
    small = [ask(scheduler, ["s"], wait=False) for _ in range(50)]
    with pytest.raises(BackendOverloaded):
        ask(scheduler, ["large, too"] * 1000, cost=20, wait=False)
    scorer.let_go.set()

    assert [[1.0]] * 50 == [future.result(30) for future in small]
    assert 1000 == len(large.result(30))
    scheduler.close()


def test_small_requests_still_fill_the_queue(scorer):
    scheduler = at_speed(10_000, scorer, queue_seconds=1.0)
    held(scheduler, scorer)
    admitted = [ask(scheduler, ["a"], cost=1000, wait=False) for _ in range(11)]
    with pytest.raises(BackendOverloaded):
        ask(scheduler, ["a"], cost=1000, wait=False)
    scorer.let_go.set()

    assert [[1.0]] * 11 == [future.result(30) for future in admitted]
    scheduler.close()


def pairs_in(batch):
    return {query: len(texts) for query, texts in batch}


def test_a_large_request_is_scored_in_slices(scorer, monkeypatch):
    """Whoever comes meanwhile waits for one; it has one turn, too, in a batch with others."""
    monkeypatch.setattr("rerank_plugins.scheduler.queue.usable_cpus", lambda: 4)
    scheduler = at_speed(10_000, scorer)  # so a slice is 1,000
    held(scheduler, scorer)
    large = ask(scheduler, ["large"] * 1000, query="large", cost=20)
    small = [ask(scheduler, ["s"] * 4, query=f"small {number}") for number in range(3)]
    scorer.let_go.set()
    for future in (large, *small):
        future.result(30)
    _, shared, alone, *_ = map(pairs_in, scorer.batches)

    assert {"large": 50, "small 0": 4, "small 1": 4, "small 2": 4} == shared
    assert {"large": 50} == alone
    scheduler.close()


@pytest.mark.parametrize(
    ("speed", "documents"), [(10_000, 50), (1, 4), (1e9, 400)], ids=["a tenth", "least", "most"]
)
def test_a_slice_keeps_all_processors_busy_and_fits_into_a_batch(
    scorer, monkeypatch, speed, documents
):
    monkeypatch.setattr("rerank_plugins.scheduler.queue.usable_cpus", lambda: 4)
    scheduler = at_speed(speed, scorer, batch_cost=8000, quantum=4000)
    large = ask(scheduler, ["large"] * 1000, query="large", cost=20)
    large.result(30)

    assert {"large": documents} == pairs_in(scorer.batches[0])
    scheduler.close()


def test_an_empty_queue_takes_any_request(scorer):
    scheduler = Scheduler(scorer, batch_cost=100, queue_cost=100)

    assert 1000 == len(ask(scheduler, ["a"] * 1000, wait=False).result(30))
    scheduler.close()


def test_callers_that_wait_for_room_are_queued_in_order(scorer):
    scheduler = Scheduler(scorer, batch_cost=20, queue_cost=20)
    held(scheduler, scorer)
    futures = [ask(scheduler, [f"{n}", f"{n}"], wait=True) for n in range(6)]
    futures[2].cancel()
    scorer.let_go.set()
    for number in (0, 1, 3, 4, 5):
        futures[number].result(30)
    scheduler.close()

    assert ["first", *"00", *"11", *"33", *"44", *"55"] == scorer.scored()


def test_closing_finishes_what_is_queued(scorer):
    scheduler = Scheduler(scorer, batch_cost=10)
    futures = [ask(scheduler, ["a"] * 5) for _ in range(5)]
    scheduler.close()

    assert all(future.done() for future in futures)
    assert [1.0] == ask(scheduler, ["a"]).result(30)
    scheduler.close()


def test_an_idle_worker_ends_and_starts_again(scorer, monkeypatch):
    monkeypatch.setattr("rerank_plugins.scheduler.scheduler._IDLE_SECONDS", 0.01)
    scheduler = Scheduler(scorer, name="short-lived")
    ask(scheduler, ["a"]).result(30)
    deadline = time.monotonic() + 30
    while any(thread.name == "short-lived" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert [1.0] == ask(scheduler, ["a"]).result(30)
    scheduler.close()


def test_eight_threads_get_their_own_scores(scorer):
    scheduler = Scheduler(scorer, batch_cost=50)

    def caller(number):
        texts = ["x" * (number + place) for place in range(7)]
        for _ in range(50):
            assert [float(len(t)) for t in texts] == ask(scheduler, texts).result(30)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(caller, range(8)))
    scheduler.close()
    assert 0 == scheduler.queued_cost


def score_in_child(scheduler, results):
    results.put(ask(scheduler, ["abc"]).result(30))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_gets_a_worker_of_its_own(scorer):
    scheduler = Scheduler(scorer)
    ask(scheduler, ["a"]).result(30)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=score_in_child, args=(scheduler, results))
    child.start()

    assert [3.0] == results.get(timeout=30)
    child.join(30)
    scheduler.close()


def test_cancelling_a_future_cancels_its_request(scorer):
    scheduler = Scheduler(scorer)
    held(scheduler, scorer)
    future = ask(scheduler, ["a"])
    future.cancel()
    scorer.let_go.set()

    with pytest.raises(CancelledError):
        future.result(30)
    scheduler.close()


@pytest.mark.parametrize(
    ("query", "document", "tokens"),
    [
        ("", "", 4),
        ("a" * 40, "a" * 400, 114),
        ("panda", "熊猫" * 10, 25),
        ("q", "a" * 4000, 512),
    ],
)
def test_tokens_are_estimated_from_the_script(query, document, tokens):
    assert tokens == estimated_tokens(query, document, limit=512)


def test_a_batch_holds_at_most_batch_pairs_documents(scorer):
    scheduler = Scheduler(scorer, batch_pairs=4)
    held(scheduler, scorer)
    futures = [ask(scheduler, ["a"] * 3) for _ in range(4)]
    scorer.let_go.set()

    assert [[1.0] * 3] * 4 == [future.result(30) for future in futures]
    assert [1, 4, 4, 4] == [sum(len(texts) for _, texts in batch) for batch in scorer.batches]
    scheduler.close()


@pytest.mark.parametrize("limits", [{"batch_pairs": 5}, {"batch_cost": 50}], ids=str)
def test_a_request_split_by_the_end_of_a_batch_continues_in_the_next(scorer, limits):
    """And not after all others, when its client would wait for two rounds of the queue."""
    scheduler = Scheduler(scorer, **limits)
    held(scheduler, scorer)
    futures = [ask(scheduler, ["a"] * 4, query=str(number)) for number in range(6)]
    scorer.let_go.set()
    for future in futures:
        future.result(30)

    whole = [[("q", 1)], [("0", 4), ("1", 1)], [("1", 3), ("2", 2)], [("2", 2), ("3", 3)]]
    sizes = [[(query, len(texts)) for query, texts in batch] for batch in scorer.batches]
    assert [*whole, [("3", 1), ("4", 4)], [("5", 4)]] == sizes
    scheduler.close()


def test_a_poisoned_request_is_found_by_halving(scorer):
    scheduler = Scheduler(scorer, batch_cost=10_000)
    held(scheduler, scorer)
    good = [ask(scheduler, ["a"]) for _ in range(20)]
    bad = ask(scheduler, ["poison"])
    good += [ask(scheduler, ["a"]) for _ in range(11)]
    scorer.let_go.set()

    assert [[1.0]] * 31 == [future.result(30) for future in good]
    with pytest.raises(ZeroDivisionError):
        bad.result(30)
    assert 1 + 11 == len(scorer.batches)  # the first one; then 32, 16, 16, 8, 8, … 1, 1
    scheduler.close()


def test_an_unavailable_backend_fails_a_batch_without_halving():
    batches = []

    def gone(requests):
        batches.append(requests)
        started.set()
        assert let_go.wait(30)
        raise BackendUnavailable("gone")

    started, let_go = threading.Event(), threading.Event()
    scheduler = Scheduler(gone)
    futures = [ask(scheduler, ["first"])]
    assert started.wait(30)
    futures += [ask(scheduler, ["a"]) for _ in range(8)]
    let_go.set()

    assert all(isinstance(future.exception(30), BackendUnavailable) for future in futures)
    assert 2 == len(batches)
    scheduler.close()


def test_each_caller_gets_an_error_of_its_own():
    """Notes and tracebacks that a caller adds are not those of others, who get all the rest."""
    cause = OSError("unplugged")

    def gone(requests):
        error = BackendUnavailable("gone", retry_after=7.0)
        error.add_note("a note")
        raise error from cause

    scorer = Scorer()
    scheduler = Scheduler(lambda requests: gone(requests) if held_back else scorer(requests))
    held_back = []
    first = held(scheduler, scorer)
    held_back.append(True)
    futures = [ask(scheduler, ["a"]) for _ in range(3)]
    scorer.let_go.set()
    one, other, third = (future.exception(30) for future in futures)
    one.add_note("of one")
    with pytest.raises(BackendUnavailable):
        raise other

    assert [5.0] == first.result(30)
    assert ["a note"] == other.__notes__ == third.__notes__
    assert (BackendUnavailable, "gone", 7.0) == (type(third), str(third), third.retry_after)
    assert cause is third.__cause__
    depths = [len(traceback.extract_tb(error.__traceback__)) for error in (one, other)]
    assert depths[0] == depths[1] - 1
    scheduler.close()


class Wordless(BackendUnavailable):
    def __init__(self):
        super().__init__("gone")


class Prefixed(BackendUnavailable):
    def __init__(self, what):
        super().__init__(f"{what} is gone")


@pytest.mark.parametrize(
    ("error", "message"), [(Wordless(), "gone"), (Prefixed("it"), "it is gone")]
)
def test_errors_with_custom_constructors_reach_callers_unchanged(error, message):
    def gone(requests):
        raise error

    scheduler = Scheduler(gone)
    raised = ask(scheduler, ["a"]).exception(30)
    scheduler.close()

    assert (type(error), message) == (type(raised), str(raised))


def test_batches_shrink_when_memory_runs_out():
    sizes = []

    def small_memory(requests):
        size = sum(len(texts) for _, texts in requests)
        sizes.append(size)
        if size > 8:
            raise MemoryError
        return [[1.0] * len(texts) for _, texts in requests]

    events = []
    scheduler = Scheduler(small_memory, batch_cost=640, hooks=[events.append])

    assert 64 == len(ask(scheduler, ["a"] * 64).result(30))
    assert [64, 32, 16] + [8] * 8 == sizes
    assert 80 == scheduler.batch_cost
    assert 64 == len(ask(scheduler, ["a"] * 64).result(30))
    assert [8] * 8 == sizes[-8:]
    failed = [e for e in events if isinstance(e, BatchFinished) and e.outcome != "ok"]
    assert [("out_of_memory", 64, 640), ("out_of_memory", 32, 320)] == [
        (event.outcome, event.documents, event.tokens) for event in failed[:2]
    ]
    assert [BatchShrunk(80)] == [e for e in events if isinstance(e, BatchShrunk)]
    scheduler.close()


@pytest.mark.parametrize("others", [0, 1, 40])
def test_a_document_that_runs_out_of_memory_alone_shrinks_no_batch(others):
    def score(requests):
        if any("huge" in texts for _, texts in requests):
            raise MemoryError
        return [[1.0] * len(texts) for _, texts in requests]

    events = []
    scheduler = Scheduler(score, batch_cost=640, hooks=[events.append])
    huge = ask(scheduler, ["huge"] + ["a"] * 20)
    rest = [ask(scheduler, ["a"], query=str(number)) for number in range(others)]

    assert isinstance(huge.exception(30), MemoryError)
    assert [[1.0]] * others == [future.result(30) for future in rest]
    assert 640 == scheduler.batch_cost
    assert not [event for event in events if isinstance(event, BatchShrunk)]
    scheduler.close()


def test_batches_that_are_too_large_shrink_beside_a_document_that_is(scorer):
    def score(requests):
        if any("huge" in texts for _, texts in requests) or pairs_of(requests) > 8:
            raise MemoryError
        return [[1.0] * len(texts) for _, texts in requests]

    def pairs_of(requests):
        return sum(len(texts) for _, texts in requests)

    scheduler = Scheduler(score, batch_cost=640)
    huge, good = ask(scheduler, ["huge"]), ask(scheduler, ["a"] * 63)

    assert isinstance(huge.exception(30), MemoryError)
    assert [1.0] * 63 == good.result(30)
    assert 40 < scheduler.batch_cost < 160
    scheduler.close()


def test_a_document_that_fits_into_no_memory_is_an_error():
    def no_memory(requests):
        raise MemoryError

    scheduler = Scheduler(no_memory)

    with pytest.raises(MemoryError):
        ask(scheduler, ["a"] * 4).result(30)
    scheduler.close()


def test_a_pair_that_fits_into_no_memory_fails_alone_and_shrinks_nothing():
    def score(requests):
        if any("huge" in texts for _, texts in requests):
            raise BackendOutOfMemory("a pair does not fit")
        return [[1.0] * len(texts) for _, texts in requests]

    scheduler = Scheduler(score, batch_cost=640)
    huge, small = ask(scheduler, ["huge", "a"]), ask(scheduler, ["a"] * 30)

    with pytest.raises(BackendOutOfMemory):
        huge.result(30)
    assert [1.0] * 30 == small.result(30)
    assert 640 == scheduler.batch_cost
    scheduler.close()


def test_the_queue_is_as_long_as_the_wait_allows():
    clock = threading.Semaphore(0)

    def slow(requests):
        started.release()
        assert clock.acquire(timeout=30)
        time.sleep(0.05)
        return [[1.0] * len(texts) for _, texts in requests]

    started = threading.Semaphore(0)
    scheduler = Scheduler(slow, batch_cost=10, queue_seconds=0.1)
    clock.release()
    ask(scheduler, ["a"]).result(30)  # the speed is known now: 200 a second, or less
    futures = [ask(scheduler, ["a"])]
    for _ in range(2):
        assert started.acquire(timeout=30)
    futures += [ask(scheduler, ["a"] * 3, wait=False)]
    with pytest.raises(BackendOverloaded) as caught:
        ask(scheduler, ["a"] * 5, wait=False)
    clock.release(10)

    assert caught.value.retry_after >= 1
    assert [[1.0], [1.0] * 3] == [future.result(30) for future in futures]
    scheduler.close()


def test_a_cancelled_request_leaves_the_queue_at_once(scorer):
    events = []
    scheduler = Scheduler(scorer, batch_cost=100, queue_cost=100, hooks=[events.append])
    held(scheduler, scorer)
    doomed = ask(scheduler, ["doomed"] * 9)
    assert (9, 90) == (scheduler.queued_pairs, scheduler.queued_cost)
    doomed.cancel()

    assert (0, 0) == (scheduler.queued_pairs, scheduler.queued_cost)
    assert Dropped(9) in events
    kept = ask(scheduler, ["kept"] * 9, wait=False)
    scorer.let_go.set()
    assert 9 == len(kept.result(30))
    scheduler.close()


def test_a_failed_request_leaves_the_queue(scorer):
    scheduler = Scheduler(scorer, batch_cost=10)
    bad = scheduler.submit("q", ["poison", "never"], [11, 10], wait=True)

    with pytest.raises(ZeroDivisionError):
        bad.result(30)
    scheduler.close()
    assert (0, 0) == (scheduler.queued_pairs, scheduler.queued_cost)


def test_stalled_for_reports_a_hanging_batch(scorer):
    scheduler = Scheduler(scorer)
    assert 0.0 == scheduler.stalled_for()
    first = held(scheduler, scorer)

    assert 0.0 < scheduler.stalled_for()
    scorer.let_go.set()
    first.result(30)
    scheduler.close()
    assert 0.0 == scheduler.stalled_for()


def test_hooks_receive_waits_and_batches(scorer):
    """The scheduler's hooks receive those of all requests, a call's hooks its own; each once."""
    own, of_call = [], []
    scheduler = Scheduler(scorer, hooks=[own.append])
    started = CallStarted("library", "local", None, 1, 2)
    with observe_call((of_call.append, own.append), started):
        ask(scheduler, ["a", "b"]).result(30)
    ask(scheduler, ["c"]).result(30)
    scheduler.close()

    waited, batch, *others = [event for event in own if isinstance(event, Dequeued | BatchFinished)]
    assert waited.seconds >= 0
    assert (2, 20, "ok") == (batch.documents, batch.tokens, batch.outcome)
    assert [Dequeued, BatchFinished] == [type(event) for event in others]
    assert [waited, batch] == of_call[1:-1]


def test_a_request_whose_scores_are_unusable_is_a_failed_batch(scorer):
    events = []
    scheduler = Scheduler(scorer, hooks=[events.append])
    with pytest.raises(InvalidResponse):
        ask(scheduler, ["nan"]).result(30)
    scheduler.close()

    batches = [event.outcome for event in events if isinstance(event, BatchFinished)]
    assert ["ok", "invalid_response"] == batches


def test_each_hook_of_a_call_receives_a_batch_once():
    """The worker is a thread of its own, which knows nothing of those who called."""
    started = CallStarted("library", "local", None, 1, 1)
    one, other = [], []
    let_go = threading.Event()

    def run(requests):
        assert let_go.wait(30)
        emit(Truncated(len(requests)))
        return [[0.5] * len(texts) for _, texts in requests]

    scheduler = Scheduler(run)
    first = ask(scheduler, ["alone, and heard by nobody"])
    while scheduler.queued_pairs:
        time.sleep(0.001)
    futures = []
    for heard in ((one.append,), (one.append,), (one.append, other.append)):
        with observe_call(heard, started):
            futures.append(ask(scheduler, ["a"]))
    futures.append(ask(scheduler, ["b"]))
    let_go.set()
    for future in (first, *futures):
        future.result(30)
    scheduler.close()

    assert [Truncated(4)] == [event for event in one if isinstance(event, Truncated)]
    assert [Truncated(4)] == [event for event in other if isinstance(event, Truncated)]


class Raising:
    """Raises on every event, with the text of a document."""

    def __call__(self, event):
        raise ZeroDivisionError("poison")


@pytest.fixture
def _fresh_throttle(monkeypatch):
    monkeypatch.setattr(_dispatch, "_may_warn", Throttle())


@pytest.mark.usefixtures("_fresh_throttle")
def test_a_hook_that_raises_fails_no_call_and_is_logged_once(scorer, caplog):
    scheduler = Scheduler(scorer, hooks=[Raising()], batch_cost=100)
    held(scheduler, scorer)
    doomed, bad = ask(scheduler, ["doomed"] * 3), ask(scheduler, ["poison"])
    good = [ask(scheduler, ["a", "bb"]) for _ in range(3)]
    with caplog.at_level(logging.ERROR):
        assert doomed.cancel()
        scorer.let_go.set()

        assert [[1.0, 2.0]] * 3 == [future.result(30) for future in good]
        with pytest.raises(ZeroDivisionError, match="poison"):
            bad.result(30)
        assert [1.0] == ask(scheduler, ["a"]).result(30)
        scheduler.close()
    (record,) = caplog.records
    assert "rerank_plugins.hooks" == record.name
    assert "the hook Raising failed at Dequeued: ZeroDivisionError" == record.getMessage()
    assert not record.exc_info


@pytest.mark.usefixtures("_fresh_throttle")
def test_a_hook_that_raises_fails_no_async_call(caplog):
    def small_memory(requests):
        if sum(len(texts) for _, texts in requests) > 2:
            raise MemoryError
        return [[1.0] * len(texts) for _, texts in requests]

    scheduler = Scheduler(small_memory, hooks=[Raising()])

    async def callers():
        asked = (asyncio.wrap_future(ask(scheduler, ["a"] * 3)) for _ in range(20))
        return await asyncio.wait_for(asyncio.gather(*asked), 30)

    assert [[1.0] * 3] * 20 == asyncio.run(callers())
    scheduler.close()
    assert 1 == len(caplog.records)


def test_a_hook_may_use_the_scheduler_from_another_thread(scorer):
    """It receives the event of a request that leaves while no lock is held."""

    def use(event):
        if isinstance(event, Dropped):
            with ThreadPoolExecutor(1) as pool:
                seen.append(pool.submit(ask, scheduler, ["b"]).result(30))

    seen = []
    scheduler = Scheduler(scorer, hooks=[use])
    held(scheduler, scorer)
    ask(scheduler, ["doomed"]).cancel()
    scorer.let_go.set()

    assert [[1.0]] == [future.result(30) for future in seen]
    scheduler.close()


class Unreadable(list):
    """A list of the right length; reading it raises."""

    def __iter__(self):
        raise ZeroDivisionError("unreadable")


@pytest.mark.parametrize(
    ("scores", "error"),
    [
        ([np.array(0.5)], InvalidResponse),
        ([None], InvalidResponse),
        ([[1.0, 2.0]], InvalidResponse),
        ([["1.0"]], InvalidResponse),
        ([Unreadable([1.0])], ZeroDivisionError),
        (None, InvalidResponse),
    ],
    ids=["no dimensions", "none", "too many", "a string", "unreadable", "no list"],
)
def test_whatever_a_scorer_returns_the_next_request_is_scored(scores, error):
    answers = [scores, [[1.0]]]
    scheduler = Scheduler(lambda requests: answers.pop(0))

    assert isinstance(ask(scheduler, ["a"]).exception(30), error)
    assert [1.0] == ask(scheduler, ["a"]).result(30)
    scheduler.close()


def test_a_worker_that_can_not_start_leaves_no_request_queued(scorer, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    scheduler = Scheduler(scorer)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            ask(scheduler, ["lost"])

    assert 0 == scheduler.queued_pairs
    assert [1.0] == ask(scheduler, ["a"]).result(30)
    assert ["a"] == scorer.scored()
    scheduler.close()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_error_that_would_end_the_event_loop_becomes_a_backend_error(error):
    def leave(requests):
        raise error

    scheduler = Scheduler(leave)

    async def caller():
        with pytest.raises(BackendError, match=f"the model failed with {error.__name__}"):
            await asyncio.wrap_future(ask(scheduler, ["a"]))

    asyncio.run(caller())
    scheduler.close()


@pytest.mark.parametrize("batches", [1, 100, 1000])
def test_batches_that_take_no_time_say_nothing_of_the_next(batches):
    """Such as those of documents that a cache knows: the next would be a full one."""
    scorer = BatchScorer(lambda requests: [], backend=None, batch_cost=16_384)
    scorer._remember_speed(1000.0, 1.0)
    for _ in range(batches):
        scorer._remember_speed(1e6, 0.1 / batches)
    assert 1000 < scorer.speed < 1400

    for _ in range(100):
        scorer._remember_speed(1e6, 0.25)
    assert scorer.speed > 9e5
    scorer._remember_speed(1000.0, 16.0)
    assert scorer.speed < 9e5
