"""MaxSim over windows: worked by hand, and by a slow loop over any vectors."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.late_interaction import (
    Sentence,
    TextVectors,
    compress,
    from_bytes,
    max_sim,
    quantize,
    to_bytes,
)
from rerank_plugins.scores import Passage


def test_max_sim_takes_the_best_match_of_each_token():
    """Worked by hand: cosines 1 and 0.6."""
    documents = [vectors([[1, 0], [0.8, 0.6]]), vectors()]

    assert scores(vectors([[1, 0], [0, 1]]), documents) == pytest.approx([0.8, 0.0], abs=5e-3)


def test_the_best_window_counts():
    """A token of one window and one of the other would match both query tokens."""
    query = vectors([[1, 0], [0, 1]])
    documents = [vectors([[1, 0]], [[0, 1]]), vectors([[1, 0], [0, 1]]), vectors([[0.6, 0.8]])]

    assert scores(query, documents) == pytest.approx([0.5, 1.0, 0.7], abs=5e-3)


def test_the_mean_of_the_best_windows_may_count():
    """Worked by hand: windows of 1, 0 and 0.6; the best is told, whatever counts."""
    document = vectors([[0, 1]], [[1, 0]], [[0.6, 0.8]])
    query = vectors([[1, 0]])

    for best_windows, expected in ((1, 1.0), (2, 0.8), (3, 1.6 / 3), (9, 1.6 / 3)):
        (match,) = max_sim(query, [document], best_windows=best_windows)

        assert match.score == pytest.approx(expected, abs=5e-3)
        assert 1 == match.window


def test_the_best_sentence_of_the_best_window_is_told():
    """The second window is better; the third sentence, its first, matches both query tokens."""
    document = vectors([[1, 0], [0, 1]], [[0.6, 0.8], [0.8, 0.6], [1, 0.1], [0.1, 1]], [[1, 0]])
    rows = (0, 1, 2, 4, 6)
    document = document._replace(
        sentences=tuple(Sentence(row, Passage(row, row + 1)) for row in rows)
    )
    query = vectors([[1, 0], [0, 1]])
    plain, other = vectors([[1, 0]]), vectors([[1, 0]], [[0, 1]])

    for number in range(3):  # whatever stands in front of it
        match = max_sim(query, [*[other] * number, document, plain])[number]
        assert (0, Passage(0, 1)) == (match.window, match.sentence)
    match = max_sim(query.at(np.array([True, True])), [document._replace(windows=(0, 2, 5))])[0]
    assert 0 == match.window
    (match,) = max_sim(vectors([[0.1, 1]]), [document])
    assert (1, Passage(4, 5)) == (match.window, match.sentence)
    assert max_sim(query, [plain])[0].sentence is None


def test_a_mask_keeps_what_was_read():
    two = vectors([[1, 0]], [[0, 1]])

    assert (2, (0,), 1) == (
        (kept := two.at(np.array([True, False]))).tokens,
        kept.windows,
        len(kept.rows),
    )


def test_exact_vectors_are_compared_as_they_are_and_may_be_added_up():
    """Worked by hand: (2·3 + 1·1), and its mean."""
    query = TextVectors(np.array([[2, 0], [0, 1]], np.float32))
    document = TextVectors(np.array([[3, 0], [0, 1], [-1, 0.5]], np.float32))

    assert [(7.0, 0, None)] == max_sim(query, [document], total=True)
    assert [(3.5, 0, None)] == max_sim(query, [document])


def test_compressed_vectors_keep_their_directions_and_lengths():
    exact = TextVectors(np.array([[3, 4], [0, 0], [-0.1, 0.02]], np.float32), tokens=3)
    rounded = compress(exact)

    assert (np.int8, 3) == (rounded.rows.dtype, rounded.tokens)
    assert np.allclose(exact.vectors(), rounded.vectors(), rtol=0, atol=0.02)
    assert np.allclose([5, 0, np.hypot(0.1, 0.02)], np.linalg.norm(rounded.vectors(), axis=1))


def scores(query, documents):
    return [match.score for match in max_sim(query, documents)]


def vectors(*windows):
    return quantize([np.array(window, np.float32) for window in windows])


tokens = st.lists(st.integers(-9, 9).filter(bool), min_size=3, max_size=3)
windows = st.lists(tokens, min_size=1, max_size=4)
texts = st.lists(windows, max_size=3)


@given(windows, st.lists(texts, max_size=5))
def test_max_sim_equals_a_loop_over_windows_and_tokens(query, documents):
    def unit(rows):
        rows = np.array(rows, float)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    expected = [
        max(
            (float((unit(query) @ unit(window).T).max(axis=1).mean()) for window in document),
            default=0.0,
        )
        for document in documents
    ]

    actual = scores(vectors(query), [vectors(*document) for document in documents])

    assert actual == pytest.approx(expected, abs=0.02)


@given(windows, st.lists(texts, max_size=3), st.data())
def test_the_best_sentence_equals_that_of_a_loop(query, documents, data):
    """Of sentences that are cut anywhere in the windows."""
    embedded = []
    for document in documents:
        own, starts, row = vectors(*document), [], 0
        for window in document:
            inner = st.sets(st.integers(row, row + len(window) - 1))
            starts += sorted({row, *data.draw(inner)})
            row += len(window)
        sentences = tuple(Sentence(at, Passage(at, at + 1)) for at in starts)
        embedded.append(own._replace(sentences=sentences))
    asked = vectors(query)

    for document, match in zip(embedded, max_sim(asked, embedded), strict=True):
        if not document.sentences:
            assert match.sentence is None
            continue
        bounds = [*(sentence.row for sentence in document.sentences), len(document.rows)]
        start, stop = [*document.windows, len(document.rows)][match.window : match.window + 2]
        values = {
            first: (asked.vectors() @ document.vectors()[first:last].T).max(axis=1).mean()
            for first, last in itertools.pairwise(bounds)
            if start <= first < stop
        }
        assert match.sentence is not None
        assert max(values.values()) == pytest.approx(values[match.sentence.start], abs=1e-5)


@given(st.lists(windows, min_size=1, max_size=3), st.none() | st.floats(0, 1))
def test_windows_and_passages_come_back_from_bytes(text, read):
    """As a store keeps them."""
    passages = tuple(Passage(at, at + 3) for at in range(len(text))) if len(text) > 1 else ()
    kept = vectors(*text)._replace(passages=passages, read=read, is_truncated=read is not None)

    back = from_bytes(to_bytes(kept))

    assert back is not None
    assert kept[2:] == back[2:]
    assert np.array_equal(kept.vectors(), back.vectors())
    assert from_bytes(to_bytes(kept)[:-1]) is None
