"""Queries and documents, and what is refused before any work."""

import pytest

from rerank_plugins import Content, Query, UnsupportedInputError
from rerank_plugins.content import CheckedDocuments, check_request, check_texts
from rerank_plugins.testing import bad_requests

BOTH = frozenset({"text", "image"})
PICTURE = Content(image=b"\x89PNG")


@pytest.mark.parametrize("kind", bad_requests())
def test_check_texts_refuses(kind):
    query, documents = bad_requests()[kind]
    with pytest.raises(UnsupportedInputError):
        check_texts(query, documents)


def test_messages_repeat_no_text():
    with pytest.raises(UnsupportedInputError) as caught:
        check_texts("q", ["fine", "secret words \ud800"])

    assert "document 1" in str(caught.value)
    assert "U+D800 at 13" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_check_texts_returns_the_texts_in_order():
    documents = ("a", Content(text="b"), "", "\x00", "熊猫")

    assert ("q", ("a", "b", "", "\x00", "熊猫")) == check_texts("q", documents)


def test_content_needs_text_or_image():
    with pytest.raises(UnsupportedInputError, match="neither text nor an image"):
        Content()


def test_a_query_needs_text_or_image():
    with pytest.raises(UnsupportedInputError, match="neither text nor an image"):
        Query()


def test_what_holds_nothing_but_text_becomes_a_string():
    assert ("q", ("a",)) == check_request(Query("q"), [Content(text="a")], inputs=BOTH)


def test_images_pass_where_they_can_be_scored():
    query, documents = Query(image=b"\x89PNG"), [PICTURE, "a", Content(text="b", image="b.png")]

    assert (query, tuple(documents)) == check_request(query, documents, inputs=BOTH)


def test_instructions_pass_where_a_model_takes_them():
    query = Query("q", instruction="judge the tone")

    assert query is check_request(query, ["a"], instructions=True)[0]


@pytest.mark.parametrize(
    ("query", "documents", "message"),
    [
        (Query("q", image=b""), ["a"], "the query holds an image, and this backend scores text"),
        (Query("q", instruction="i"), ["a"], "the query holds an instruction, and this backend"),
        ("q", ["a", PICTURE], "document 1 holds an image, and this backend scores text only"),
        (Query(" "), ["a"], "the query is empty or only white space"),
        (Query(3), ["a"], "the query must be a string, not `int`"),
        ("q", [Content(text=b"a")], "document 0 must be a string or `Content`, not `bytes`"),
        (Query("q \udfff"), ["a"], r"the query holds a lone surrogate \(U\+DFFF at 2\)"),
    ],
)
def test_what_a_text_backend_cannot_score_is_refused(query, documents, message):
    with pytest.raises(UnsupportedInputError, match=message):
        check_texts(query, documents)


@pytest.mark.parametrize("instruction", [" ", "", 3, "i \ud800"])
def test_an_instruction_is_a_text(instruction):
    with pytest.raises(UnsupportedInputError, match="the instruction"):
        check_request(Query("q", instruction=instruction), ["a"], instructions=True)


@pytest.mark.parametrize(("text", "picture"), [("a \ud800", b""), (3, "x.png")])
def test_the_text_beside_an_image_is_checked(text, picture):
    with pytest.raises(UnsupportedInputError, match="document 0"):
        check_request("q", [Content(text, picture)], inputs=BOTH)


def test_what_is_checked_passes_again_unread():
    _, documents = check_texts("q", ["a", "b"])

    class Unreadable(CheckedDocuments):
        def __iter__(self):
            raise AssertionError

    again = Unreadable(documents)
    assert again is check_texts("q", again)[1]
    assert isinstance(documents, CheckedDocuments)
