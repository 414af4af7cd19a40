"""The token cache: exact, bounded, asked once per text."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rerank_plugins.backends.local.token_cache import TokenCache, Tokens


class Encoder:
    """Encodes a text as its code points, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        self.asked += texts
        return [(np.array([ord(c) for c in text], np.int32), len(text)) for text in texts]


def words(tokens: dict[str, Tokens]) -> dict[str, str]:
    return {text: "".join(map(chr, ids)) for text, (ids, _) in tokens.items()}


@pytest.mark.parametrize("limit", [0, 1, 10**6])
def test_each_text_gets_its_own_ids(limit: int) -> None:
    cache, encode = TokenCache(limit), Encoder()
    for texts in (["ab", "c", "ab", ""], ["c", "d"], ["ab", ""]):
        assert {text: text for text in texts} == words(cache.fill(texts, encode))


def test_known_texts_are_not_encoded_again() -> None:
    cache, encode = TokenCache(10**6), Encoder()
    cache.fill(["a", "b", "a"], encode)
    cache.fill(["b", "c"], encode)

    assert ["a", "b", "c"] == encode.asked


def test_without_room_repeats_are_still_encoded_once_a_call() -> None:
    cache, encode = TokenCache(0), Encoder()
    cache.fill(["a", "b", "a"], encode)

    assert ["a", "b"] == encode.asked
    assert 0 == len(cache)


def test_the_least_recently_used_text_leaves_first() -> None:
    cache, encode = TokenCache(2 * 65), Encoder()  # two texts of one token
    for text in ("a", "b", "a", "c"):
        cache.fill([text], encode)
    encode.asked.clear()
    cache.fill(["a"], encode)
    cache.fill(["b"], encode)

    assert ["b"] == encode.asked
    assert 2 == len(cache)


def test_size_is_bounded_by_tokens() -> None:
    cache, encode = TokenCache(1000), Encoder()
    for i in range(500):
        cache.fill([str(i) * 30], encode)

    size = len(cache)
    cache.fill(["x" * 2000], encode)

    assert 0 < size <= 1000 // 94
    assert size == len(cache), "a text above the limit displaces nothing"


def test_threads_share_it() -> None:
    cache, encode = TokenCache(500), Encoder()
    with ThreadPoolExecutor(8) as pool:
        for i, encoded in enumerate(
            pool.map(lambda i: cache.fill([str(i % 7), str(i % 5)], encode), range(400))
        ):
            assert {str(i % 7): str(i % 7), str(i % 5): str(i % 5)} == words(encoded)
