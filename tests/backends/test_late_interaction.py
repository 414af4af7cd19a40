"""MaxSim over windows: worked by hand, and by a slow loop over any vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.late_interaction import TextVectors, compress, max_sim, quantize


def test_max_sim_takes_the_best_match_of_each_token():
    """Worked by hand: cosines 1 and 0.6."""
    documents = [vectors([[1, 0], [0.8, 0.6]]), vectors()]

    assert max_sim(vectors([[1, 0], [0, 1]]), documents) == pytest.approx([0.8, 0.0], abs=5e-3)


def test_the_best_window_counts():
    """A token of one window and one of the other would match both query tokens."""
    query = vectors([[1, 0], [0, 1]])
    documents = [vectors([[1, 0]], [[0, 1]]), vectors([[1, 0], [0, 1]]), vectors([[0.6, 0.8]])]

    assert max_sim(query, documents) == pytest.approx([0.5, 1.0, 0.7], abs=5e-3)


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

    assert [7.0] == max_sim(query, [document], total=True).tolist()
    assert [3.5] == max_sim(query, [document]).tolist()


def test_compressed_vectors_keep_their_directions_and_lengths():
    exact = TextVectors(np.array([[3, 4], [0, 0], [-0.1, 0.02]], np.float32), tokens=3)
    rounded = compress(exact)

    assert (np.int8, 3) == (rounded.rows.dtype, rounded.tokens)
    assert np.allclose(exact.vectors(), rounded.vectors(), rtol=0, atol=0.02)
    assert np.allclose([5, 0, np.hypot(0.1, 0.02)], np.linalg.norm(rounded.vectors(), axis=1))


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

    actual = max_sim(vectors(query), [vectors(*document) for document in documents])

    assert actual == pytest.approx(expected, abs=0.02)
