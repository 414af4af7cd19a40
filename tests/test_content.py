"""Queries and documents, and what is refused before any work."""

import copy
import pickle

import pytest

from rerank_plugins import Content, Query, UnsupportedInputError
from rerank_plugins.content import CheckedDocuments, check_request, check_texts
from rerank_plugins.testing import bad_requests

BOTH = frozenset({"text", "image"})
EVERYTHING = {"inputs": BOTH, "instructions": True}
PICTURE = Content(image=b"\x89PNG")


@pytest.mark.parametrize("kind", bad_requests())
def test_check_texts_refuses_invalid_input(kind):
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


def test_content_with_text_only_becomes_a_string():
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
def test_input_that_a_text_backend_cannot_score_is_refused(query, documents, message):
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


def test_checked_input_is_not_checked_again():
    _, documents = check_texts("q", ["a", "b"])

    assert isinstance(documents, CheckedDocuments)
    assert documents is check_texts("q", documents)[1]
    assert documents is check_request("q", documents, inputs=BOTH, instructions=True)[1]


def test_slices_and_pickles_of_checked_input_are_not_checked_again():
    request = check_request(Query("q", instruction="i"), ["a", PICTURE, "c"], **EVERYTHING)

    for copied in (pickle.loads(pickle.dumps(request)), copy.deepcopy(request)):
        query, documents = copied
        assert request == copied
        assert documents is check_request(query, documents, **EVERYTHING)[1]
        part = documents.take([2, 0])
        assert ("c", "a") == part
        assert part is check_request(query, part, **EVERYTHING)[1]


@pytest.mark.parametrize("query", [" ", None, "\ud800", Query("q", image=b""), Query(" ")])
def test_checked_documents_are_checked_again_with_another_query(query):
    _, documents = check_texts("q", ["a"])

    with pytest.raises(UnsupportedInputError, match="the query"):
        check_texts(query, documents)


@pytest.mark.parametrize(
    ("query", "documents"),
    [
        ("q", ["a", PICTURE]),
        (Query("q", image=b"p"), ["a"]),
        (Query("q", instruction="i"), ["a"]),
    ],
)
def test_checked_input_is_checked_again_for_a_backend_of_fewer_inputs(query, documents):
    query, checked = check_request(query, documents, **EVERYTHING)

    with pytest.raises(UnsupportedInputError, match="this backend"):
        check_texts(query, checked)


@pytest.mark.parametrize("image", [3, ["x.png"], bytearray(b"p"), "x\ud800.png"])
def test_an_image_is_bytes_or_a_string(image):
    with pytest.raises(UnsupportedInputError, match="the image of document 1"):
        check_request("q", ["a", Content("b", image)], inputs=BOTH)
    with pytest.raises(UnsupportedInputError, match="the image of the query"):
        check_request(Query(image=image), ["a"], inputs=BOTH)
