"""The keys of cached scores, and the seal of their values."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.wrappers.cache_keys import PairHasher, SealedScore, seal, store_key, unseal

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def digest(query="q", document="d", *, name="model", scale="logit", secret="s"):
    return PairHasher(name, scale, secret).digests(query, [document])[0]


def test_fields_do_not_run_into_each_other():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(name="ab", scale="c") != digest(name="a", scale="bc")


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_pairs_have_equal_digests_only_if_they_are_equal(query, document, query2, document2):
    same = (query, document) == (query2, document2)

    assert same == (digest(query, document) == digest(query2, document2))


@pytest.mark.parametrize(
    "change", [{"query": "Q"}, {"document": "D"}, {"name": "n"}, {"scale": "u"}, {"secret": ""}]
)
def test_everything_that_makes_a_score_is_in_the_key(change):
    assert store_key(digest()) != store_key(digest(**change))


def test_digests_keep_the_order_of_the_documents():
    hasher = PairHasher("model", "logit", "s")

    assert [digest("q", "a"), digest("q", "b")] == hasher.digests("q", ["a", "b"])


def test_keys_and_values_do_not_change_between_releases():
    """Stores outlive a process: a change here must come with another version."""
    assert "11893b136c16543abef266b5514439b55e7a33a2" == store_key(digest()).hex()
    assert "000000000000e03f00566454eaf40b46" == seal(digest(), SealedScore(0.5)).hex()


@given(FLOATS)
def test_a_score_comes_back_to_the_last_bit(score):
    value = unseal(digest(), seal(digest(), SealedScore(score)))

    assert struct.pack("d", score) == struct.pack("d", value.score)


@given(
    st.booleans(),
    st.none() | st.floats(0, 1),
    st.integers(1, 10**6),
    *[st.none() | st.tuples(st.integers(0, 2**40), st.integers(0, 2**40))] * 2,
)
def test_what_is_known_of_the_document_comes_back(truncated, read, windows, passage, highlight):
    value = SealedScore(0.5, truncated, read, windows, passage, highlight)

    assert value == unseal(digest(), seal(digest(), value))


@given(FLOATS, st.integers(0, 127))
def test_a_flipped_bit_is_noticed(score, bit):
    value = bytearray(seal(digest(), SealedScore(score)))
    value[bit // 8] ^= 1 << bit % 8

    assert unseal(digest(), bytes(value)) is None


@given(st.binary(max_size=40) | st.none() | st.integers() | st.text())
def test_garbage_is_no_score(value):
    assert unseal(digest(), value) is None


@pytest.mark.parametrize("other", [{"document": "e"}, {"query": "r"}, {"secret": "t"}])
def test_a_value_of_another_pair_is_no_score(other):
    assert unseal(digest(), seal(digest(**other), SealedScore(0.5))) is None


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_sealed_value_that_is_not_finite_is_no_score(score):
    assert unseal(digest(), seal(digest(), SealedScore(score))) is None
