"""The pair encoder against transformers' own tokenizers."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from rerank_plugins import ConfigError
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.tokenizer import PairTokenizer, cut_pair
from tests.support.checkpoints import EVERY_KIND

TEXTS = [
    "",
    " ",
    "panda",
    "What is a panda?",
    "nul \x00, zero\u200bwidth, [SEP] </s> <pad> and  two  spaces",
    "大熊猫是中国特有的熊科动物。",
    "الباندا العملاقة",
    "The giant panda is a bear species endemic to China. " * 30,
]


def requests(seed: int, *, words: int = 1000) -> list[tuple[str, list[str]]]:
    """Queries and documents from short to too long, with repeats; at most `words` each.

    Far too long pairs are left to `cut_pair`: the reference keeps every piece it cuts off, for
    each piece of the query and the document together, and that takes gigabytes.
    """
    chosen = random.Random(seed)
    texts = [*TEXTS, *(" ".join(chosen.choices(TEXTS[2:4], k=k)) for k in (9, 30, 200))]
    texts = [" ".join(text.split(" ")[:words]) for text in texts]
    queries = [text for text in texts if text.strip()]
    return [(query, chosen.choices(texts, k=9)) for query in queries]


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("max_length", [8, 33, 512])
@pytest.mark.parametrize("side", ["left", "right"])
def test_ids_equal_transformers(
    kind: str, max_length: int, side: str, checkpoint: Callable[[str], str]
) -> None:
    """The same ids and types for every pair, cut or whole, cached or not.

    Texts stay within some times `max_length`: the reference keeps every combination of what it
    cut off the query and off the document.
    """
    folder = checkpoint(kind)
    reference = AutoTokenizer.from_pretrained(folder, truncation_side=side)
    encoder = PairTokenizer(
        Tokenizer.from_file(str(Path(folder) / "tokenizer.json")),
        max_length=max_length,
        cut_left=side == "left",
    )
    for asked in (requests(1, words=2 * max_length), requests(2, words=2 * max_length)):
        pairs = encoder.encode(asked)
        expected = reference(
            [query for query, documents in asked for _ in documents],
            [document for _, documents in asked for document in documents],
            truncation=True,
            max_length=max_length,
            return_token_type_ids=True,
        )

        assert len(expected["input_ids"]) == len(pairs)
        for i, (ids, types) in enumerate(
            zip(expected["input_ids"], expected["token_type_ids"], strict=True)
        ):
            assert (ids, types) == tuple(part.tolist() for part in pairs.row(i))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 30))
def test_truncation_equals_that_of_tokenizers(query: int, document: int, room: int) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(room, strategy="longest_first")
    sources = tokenizer.encode("a " * query, "a " * document).sequence_ids

    assert (sources.count(0), sources.count(1)) == cut_pair(query, document, room)


def test_truncations_are_counted_and_each_cause_logged_once(
    checkpoint: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """No text reaches the log."""
    encoder = PairTokenizer.load(resolve(checkpoint("bert"), max_length=16), cached_tokens=0)
    with caplog.at_level(logging.WARNING):
        encoder.encode([("panda", ["panda", "panda " * 50])])
        facts = {"windowed_documents": 0, "truncated_documents": 1}
        assert {"truncated_pairs": 1, "truncated_queries": 0, **facts} == encoder.describe()
        assert ["a document was cut to 24 %"] == [m.partition(";")[0] for m in caplog.messages]
        caplog.clear()

        encoder.encode([("panda " * 50, ["bear " * 50, "bear", "bear"])])
    facts = {"windowed_documents": 0, "truncated_documents": 2}
    assert {"truncated_pairs": 4, "truncated_queries": 3, **facts} == encoder.describe()
    assert 1 == len(caplog.messages)
    assert "50 tokens" in caplog.messages[0]
    assert "panda" not in caplog.messages[0]


def test_settings_of_the_callers_tokenizer_do_not_matter(checkpoint: Callable[[str], str]) -> None:
    """Neither its padding and truncation now, nor what is set later."""
    path = str(Path(checkpoint("bert")) / "tokenizer.json")
    plain, set_up = Tokenizer.from_file(path), Tokenizer.from_file(path)
    set_up.enable_padding(length=40)
    set_up.enable_truncation(5)
    encoder = PairTokenizer(set_up, max_length=64)
    set_up.enable_truncation(3)

    expected = PairTokenizer(plain, max_length=64).encode(requests(0))
    assert np.array_equal(expected.ids, encoder.encode(requests(0)).ids)


def test_take_returns_pairs_in_the_order_asked(checkpoint: Callable[[str], str]) -> None:
    pairs = PairTokenizer.load(resolve(checkpoint("bert")), cached_tokens=0).encode(requests(0))
    taken = pairs.take([5, 0, 5])

    assert 3 == len(taken)
    assert [pairs.lengths[i] for i in (5, 0, 5)] == taken.lengths.tolist()
    for position, index in enumerate((5, 0, 5)):
        assert np.array_equal(pairs.row(index)[0], taken.row(position)[0])
        assert np.array_equal(pairs.row(index)[1], taken.row(position)[1])
    assert 0 == len(pairs.take([]))


def test_threads_share_an_encoder(checkpoint: Callable[[str], str]) -> None:
    """A cache so small that entries come and go changes nothing."""
    encoder = PairTokenizer.load(resolve(checkpoint("bert"), max_length=64), cached_tokens=300)
    expected = [encoder.encode(requests(seed)).ids.tolist() for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        encoded = pool.map(lambda i: encoder.encode(requests(i % 4)).ids.tolist(), range(32))
        for i, ids in enumerate(encoded):
            assert expected[i % 4] == ids


def test_no_room_for_text_is_an_error(checkpoint: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match="no room for text beside 3 special tokens"):
        PairTokenizer.load(resolve(checkpoint("bert"), max_length=4), cached_tokens=0)


def test_pairs_in_another_order_are_refused() -> None:
    """A template that can't be reproduced is noticed when the encoder is built."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[SEP]": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$B [SEP] $A", special_tokens=[("[SEP]", 2)]
    )
    with pytest.raises(UnsupportedByEngine, match="does not join a query and a document"):
        PairTokenizer(tokenizer, max_length=64)


def test_a_broken_tokenizer_file_is_an_error(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    for file in Path(checkpoint("bert")).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ConfigError, match="can't read the tokenizer"):
        PairTokenizer.load(resolve(str(tmp_path)), cached_tokens=0)
