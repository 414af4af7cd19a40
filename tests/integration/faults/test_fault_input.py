"""Input at the edge, through every interface: refused before it is sent, or scored as it is."""

import pytest

from rerank_plugins import BackendRejected, UnsupportedInputError
from rerank_plugins.testing import FakeResponse, serve_dialect, word_overlap
from tests.integration.faults.surfaces import QUERY, client
from tests.integration.faults.surfaces import surfaces as on

STRANGE = [
    "nul \x00 panda",
    "zero\u200bwidth panda",
    "\u202eright to left",
    "",
    " \n",
    "panda " * 9,
]


@pytest.mark.parametrize("on_error", ["raise", "original_order"])
@pytest.mark.parametrize("surface", on())
@pytest.mark.parametrize(
    ("query", "texts"),
    [
        ("panda \ud800", ["fine"]),
        (QUERY, ["fine", "broken \ud800"]),
        (" \n", ["fine"]),
    ],
    ids=["surrogate in the query", "surrogate in a document", "blank query"],
)
def test_input_that_is_not_text_is_refused_before_sending(
    fake_server, surface, query, texts, on_error
):
    with client(fake_server.url) as backend, pytest.raises(UnsupportedInputError):
        surface.ask(backend, texts, query=query, on_error=on_error)

    assert [] == fake_server.requests


@pytest.mark.parametrize("surface", on())
def test_no_documents_send_no_request(fake_server, surface):
    with client(fake_server.url) as backend:
        assert [] == surface.ask(backend, [])

    assert [] == fake_server.requests


@pytest.mark.parametrize("surface", on())
def test_strange_texts_keep_their_place(fake_server, surface):
    """Each gets the score of its own text; a blank one is scored as a space."""
    with client(fake_server.url) as backend:
        score_of = {text: score for text, score, _ in surface.ask(backend, STRANGE)}

    assert {text: word_overlap(QUERY, text) for text in STRANGE} == score_of


@pytest.mark.parametrize("surface", on())
def test_10000_documents_are_scored_in_parts(fake_server, surface):
    fake_server.response = serve_dialect("tei")
    texts = [f"panda {number}" if number % 3 else f"hi {number}" for number in range(10_000)]
    with client(fake_server.url, dialect="tei", deadline=110.0) as backend:
        ranked = surface.ask(backend, texts, query="panda")

    assert sorted(texts) == sorted(text for text, *_ in ranked)
    assert all(score == word_overlap("panda", text) for text, score, _ in ranked)
    assert {32} == {len(received.body["texts"]) for received in fake_server.requests[:300]}
    assert fake_server.max_in_flight <= 4


@pytest.mark.parametrize("surface", on())
def test_one_refused_part_fails_the_whole_call(fake_server, surface):
    """Never half a ranking, even with `on_error="original_order"`."""
    right = serve_dialect("tei")

    def behave(received):
        return (
            FakeResponse({"error": "no"}, 400)
            if "bad" in received.body["texts"]
            else right(received)
        )

    fake_server.response = behave
    texts = [*["panda"] * 1_000, "bad", *["panda"] * 1_000]
    with client(fake_server.url, dialect="tei") as backend, pytest.raises(BackendRejected):
        surface.ask(backend, texts, on_error="original_order")
