"""Every fault of a server, through every interface: which error, how often asked, what remains."""

import time
from typing import NamedTuple

import pytest

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    InvalidResponse,
)
from rerank_plugins.testing import FakeResponse, FakeServer, faults, in_turn, reset, serve_dialect
from tests.integration.faults.surfaces import (
    ATTEMPTS,
    KEY,
    QUERY,
    RANKED,
    TEXTS,
    TOLERANCE,
    client,
    everything_said,
)
from tests.integration.faults.surfaces import surfaces as on

DEADLINE = 0.25


class Row(NamedTuple):
    """What a fault leads to."""

    error: type[BackendError]
    asked: int
    """Requests that reach the server in one call of a client that retries."""
    hidden: bool
    """Whether `on_error="original_order"` returns the documents as they came."""


HUNG = Row(BackendTimeout, 1, hidden=True)
DOWN = Row(BackendUnavailable, ATTEMPTS, hidden=True)
SLOW = Row(BackendTimeout, ATTEMPTS, hidden=True)
BUSY = Row(BackendOverloaded, ATTEMPTS, hidden=True)
NONSENSE = Row(InvalidResponse, 2, hidden=True)
OUT_OF_STEP = Row(InvalidResponse, 3, hidden=True)
"""The second attempt meets the rest of the first reply, and a third is free."""
BROKEN = Row(BackendError, 1, hidden=True)
REFUSED = Row(BackendRejected, 1, hidden=False)
LOCKED = Row(AuthenticationError, 1, hidden=False)

TABLE = {
    "silence": HUNG,
    "hang-up": DOWN,
    "reset": DOWN,
    "cut short": DOWN,
    "dripping head": HUNG,
    "dripping body": HUNG,
    "not HTTP": NONSENSE,
    "endless headers": BROKEN,
    "length too short": OUT_OF_STEP,
    "empty body": NONSENSE,
    "no content": NONSENSE,
    "HTML": NONSENSE,
    "HTML as JSON": NONSENSE,
    "text": NONSENSE,
    "truncated JSON": NONSENSE,
    "not UTF-8": NONSENSE,
    "deep nesting": BROKEN,
    "too many digits": NONSENSE,
    "too large": BROKEN,
    "gzip bomb": BROKEN,
    "false gzip": NONSENSE,
    "unknown packing": NONSENSE,
    "error with status 200": NONSENSE,
    "no results": NONSENSE,
    "one too few": NONSENSE,
    "one too many": NONSENSE,
    "same index twice": NONSENSE,
    "index out of range": NONSENSE,
    "negative index": NONSENSE,
    "fraction as index": NONSENSE,
    "boolean index": NONSENSE,
    "string as index": NONSENSE,
    "NaN": NONSENSE,
    "infinite score": NONSENSE,
    "overflowing score": NONSENSE,
    "null score": NONSENSE,
    "string as score": NONSENSE,
    "boolean score": NONSENSE,
    "status 400": REFUSED,
    "status 401": LOCKED,
    "status 402": REFUSED,
    "status 403": LOCKED,
    "status 404": REFUSED,
    "status 405": REFUSED,
    "status 408": SLOW,
    "status 413": REFUSED,
    "status 422": REFUSED,
    "status 424": BROKEN,
    "status 429": BUSY,
    "status 498": LOCKED,
    "status 500": DOWN,
    "status 501": REFUSED,
    "status 502": DOWN,
    "status 503": BUSY,
    "status 504": SLOW,
    "status 529": DOWN,
    "redirect": REFUSED,
}
ENDLESS = [name for name, row in TABLE.items() if row is HUNG]
ALONE = {"status 413", "status 422"}
"""Of several documents these may mean the number, and fewer are sent; one is one too many."""


@pytest.fixture(scope="module")
def shared():
    with FakeServer(FakeResponse()) as fake_server:
        yield fake_server


@pytest.fixture(params=TABLE)
def case(request, shared):
    """A server with one fault, asked for a document or three, and what is to come of it."""
    name = request.param
    shared.response = faults("cohere")[name]
    shared.requests.clear()
    return shared, TABLE[name], TEXTS[:1] if name in ALONE else TEXTS, name in ENDLESS


def test_the_table_has_every_fault():
    assert faults().keys() == TABLE.keys()


@pytest.mark.parametrize("surface", on())
def test_a_fault_is_one_error(case, surface):
    """Its class says whether to retry; it takes the expected attempts, within the deadline."""
    fake_server, row, texts, endless = case
    deadline = DEADLINE if endless else 30.0
    backend = client(fake_server.url, deadline=deadline)
    began = time.monotonic()
    with pytest.raises(BackendError) as caught:
        surface.ask(backend, texts)
    took = time.monotonic() - began
    backend.close()

    assert row.error is type(caught.value)
    assert row.asked == len(fake_server.requests)
    assert took < deadline + TOLERANCE
    assert not endless or took >= deadline - 0.01
    messages = everything_said(caught.value)
    assert not [text for text in (QUERY, *TEXTS, KEY) if text in messages]


@pytest.mark.parametrize("surface", on("langchain", "llama_index"))
def test_the_original_order_hides_errors_that_the_caller_cannot_fix(case, surface):
    fake_server, row, texts, endless = case
    backend = client(fake_server.url, deadline=DEADLINE if endless else 30.0)
    if row.hidden:
        ranked = surface.ask(backend, texts, on_error="original_order")
        status = f"fallback:{row.error.__name__}"
        assert [(text, None, status) for text in texts] == ranked
    else:
        with pytest.raises(row.error):
            surface.ask(backend, texts, on_error="original_order")
    backend.close()

    assert row.asked == len(fake_server.requests)


@pytest.mark.parametrize("surface", on("bare"))
@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.asked > 1])
def test_a_fault_that_passes_is_not_noticed(shared, surface, name):
    """The second attempt finds a healthy server."""
    shared.response = in_turn(faults("cohere")[name], serve_dialect("cohere"))
    shared.requests.clear()
    with client(shared.url, deadline=30.0) as backend:
        assert RANKED == [(text, score) for text, score, _ in surface.ask(backend)]

    assert len(shared.requests) == (3 if TABLE[name] is OUT_OF_STEP else 2)


@pytest.mark.parametrize("surface", on())
def test_slow_attempts_share_the_deadline(fake_server, surface):
    """Each attempt has its own shorter limit, and none begins that could not end in time."""
    fake_server.response = faults("cohere")["silence"]
    with client(fake_server.url, attempts=50, deadline=0.5, timeout=0.15) as backend:
        began = time.monotonic()
        with pytest.raises(BackendTimeout):
            surface.ask(backend)

    assert 0.3 <= time.monotonic() - began < 0.5 + TOLERANCE
    assert 2 <= len(fake_server.requests) <= 4


@pytest.mark.parametrize("surface", on())
@pytest.mark.parametrize("status", [200, 400, 401, 413, 422, 424, 429, 500, 503])
def test_a_server_that_repeats_texts_and_keys_is_not_quoted(fake_server, surface, status):
    repeated = f"no {KEY}: {QUERY} {TEXTS} {TEXTS[1]}"
    fake_server.response = FakeResponse({"error": {"message": repeated}}, status)
    with client(fake_server.url) as backend, pytest.raises(BackendError) as caught:
        surface.ask(backend, TEXTS[:1])

    messages = everything_said(caught.value)
    assert not [text for text in (QUERY, *TEXTS, KEY) if text in messages]


@pytest.mark.parametrize("surface", on())
@pytest.mark.parametrize("order", ["reversed", "shuffled", "as they came"])
def test_results_in_any_order_with_any_document_are_matched_by_index(fake_server, surface, order):
    """The order is made anew, and ours is the document, whatever the server repeats."""
    right = serve_dialect("cohere")

    def behave(received):
        answer = right(received)
        results = answer.body["results"]
        for result in results:
            result["document"] = {"text": "another"}
        key = {"reversed": lambda r: r["relevance_score"], "shuffled": lambda r: -r["index"]}
        results.sort(key=key.get(order, lambda r: r["index"]))
        return answer

    fake_server.response = behave
    with client(fake_server.url) as backend:
        assert RANKED == [(text, score) for text, score, _ in surface.ask(backend)]


@pytest.mark.parametrize("surface", on())
def test_ties_keep_the_order_that_came_in(fake_server, surface):
    fake_server.response = serve_dialect("cohere", score=lambda query, document: 0.5)
    with client(fake_server.url) as backend:
        assert TEXTS == [text for text, *_ in surface.ask(backend)]


@pytest.mark.parametrize("surface", on(modes=["sync"]))
def test_a_kept_connection_that_died_is_not_noticed(fake_server, surface):
    """It is replaced once, without a retry: the client here has none."""
    right, seen = serve_dialect("cohere"), set()

    def dies_when_used_again(received):
        def write(handler):
            if handler in seen:
                return reset(received)(handler)
            seen.add(handler)
            return right(received).send(handler)

        return write

    fake_server.response = dies_when_used_again
    with client(fake_server.url, attempts=1) as backend:
        for _ in range(6):
            assert RANKED == [(text, score) for text, score, _ in surface.ask(backend)]

    assert 6 + 3 == len(fake_server.requests)
