"""`Retry-After` in every form, through every interface."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from rerank_plugins import BackendOverloaded
from rerank_plugins.testing import FakeResponse, in_turn, serve_dialect
from tests.integration.faults.surfaces import RANKED, TEXTS, client
from tests.integration.faults.surfaces import surfaces as on

AT_ONCE = {
    "a date that has passed": "Wed, 21 Oct 2015 07:28:00 GMT",
    "garbage": "soon, perhaps",
    "infinite": "inf",
    "negative": "-5",
    "none": "",
    "zero": "0",
}
YEAR = 365 * 86_400


@pytest.mark.parametrize("surface", on())
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("case", AT_ONCE)
def test_without_a_usable_or_future_retry_after_there_is_no_wait(
    fake_server, surface, status, case
):
    headers = {"Retry-After": AT_ONCE[case]} if AT_ONCE[case] else {}
    fake_server.response = in_turn(FakeResponse(b"", status, headers), serve_dialect("cohere"))
    with client(fake_server.url) as backend:
        assert RANKED == [(text, score) for text, score, _ in surface.ask(backend)]

    assert 2 == len(fake_server.requests)


@pytest.mark.parametrize("surface", on())
@pytest.mark.parametrize("header", ["Retry-After", "Retry-After-Ms"])
def test_a_retry_after_within_the_deadline_is_waited_for(fake_server, surface, header):
    wait = {"Retry-After": "0.3", "Retry-After-Ms": "300"}[header]
    fake_server.response = in_turn(FakeResponse(b"", 503, {header: wait}), serve_dialect("cohere"))
    with client(fake_server.url) as backend:
        began = time.monotonic()
        assert RANKED == [(text, score) for text, score, _ in surface.ask(backend)]

    assert 0.3 <= time.monotonic() - began
    assert 2 == len(fake_server.requests)


@pytest.mark.parametrize("surface", on())
@pytest.mark.parametrize("form", ["date", "seconds"])
def test_a_retry_after_beyond_the_deadline_is_raised_at_once(fake_server, surface, form):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=YEAR), usegmt=True)
    wait = date if form == "date" else str(YEAR)
    fake_server.response = FakeResponse(b"", 429, {"Retry-After": wait})
    with client(fake_server.url, deadline=20.0) as backend:
        began = time.monotonic()
        with pytest.raises(BackendOverloaded) as caught:
            surface.ask(backend)

    assert time.monotonic() - began < 10.0
    assert pytest.approx(YEAR, abs=300) == caught.value.retry_after
    assert 1 == len(fake_server.requests)


@pytest.mark.parametrize("surface", on("langchain", "llama_index"))
def test_the_original_order_is_returned_at_once_too(fake_server, surface):
    fake_server.response = FakeResponse(b"", 429, {"Retry-After": str(YEAR)})
    with client(fake_server.url) as backend:
        ranked = surface.ask(backend, on_error="original_order")

    assert [(text, None, "fallback:BackendOverloaded") for text in TEXTS] == ranked
    assert 1 == len(fake_server.requests)
