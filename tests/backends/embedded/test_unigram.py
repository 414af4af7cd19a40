"""The tokenizer splits as the reference does, in every script, and loses nothing."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from rerank_plugins.backends.embedded import files
from rerank_plugins.backends.embedded.unigram import SPACE, UNKNOWN, UnigramTokenizer, normalize
from rerank_plugins.evaluation import load_dataset
from tests.support.places import DATA

SCRIPTS = {
    "Latin": "The giant panda eats bamboo: 12 to 38 kg (26–84 lb) a day!",
    "Latin with accents": "Où vit le panda géant ? Größe, Ärger, žlutý kůň, İstanbul, điện",
    "Han, simplified": "大熊猫是一种生活在中国的动物。",
    "Han, traditional": "大熊貓是一種生活在中國的動物。",
    "kana": "ジャイアントパンダは中国にすんでいます。",
    "Hangul": "대왕판다는 중국에 사는 동물이다.",
    "Cyrillic": "Большая панда живёт в горах Китая.",
    "Greek": "Το γιγαντιαίο πάντα ζει στην Κίνα.",
    "Arabic": "يعيش الباندا العملاق في الصين.",
    "Hebrew": "הפנדה הענקית חיה בסין.",
    "Devanagari": "विशाल पांडा चीन में रहता है।",
    "Thai": "แพนด้ายักษ์อาศัยอยู่ในประเทศจีน",
    "Bengali": "বিশালাকার পান্ডা চীনে বাস করে।",
    "Tamil": "பாண்டா சீனாவில் வாழ்கிறது",
    "Georgian": "გიგანტური პანდა ჩინეთში ცხოვრობს",
    "code": "def f(x: list[int]) -> int:\n    return x[-1]  # last_item",
    "emoji": "I love the pandas ❤️ 🐼🐼 and the family 👩‍👩‍👧",
    "mixed": "iPhone 的电池 vs. батарея 電池 2024年",
}


@pytest.fixture(scope="module")
def vocabulary():
    pieces = (files.FOLDER / files.PIECES).read_text("utf-8").split("\n")
    return pieces, np.load(files.FOLDER / files.SCORES).tolist()


@pytest.fixture(scope="module")
def tokenizer(vocabulary):
    return UnigramTokenizer(*vocabulary)


@pytest.fixture(scope="module")
def reference(vocabulary):
    """The same vocabulary in Hugging Face's library; text is given word by word."""
    model = models.Unigram(list(zip(*vocabulary, strict=True)), unk_id=UNKNOWN)
    return Tokenizer(model)


def split(tokenizer, text):
    ids, is_cut = tokenizer.encode(normalize(text), 10**6)
    assert not is_cut
    return ids


def split_by_reference(reference, text):
    words = filter(None, normalize(text).split(" "))
    return [i for word in words for i in reference.encode(SPACE + word).ids]


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_every_script_is_split_as_by_the_reference(tokenizer, reference, text):
    assert split_by_reference(reference, text) == split(tokenizer, text)


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_every_script_is_read_in_its_own_letters_and_not_one_by_one(tokenizer, vocabulary, text):
    ids = split(tokenizer, text)
    letters = "".join(vocabulary[0][i] for i in ids).replace(SPACE, "")

    assert normalize(text).replace(" ", "") == letters
    assert len(ids) < 0.75 * len(letters) + 3


@pytest.mark.parametrize(
    "dataset",
    [str(DATA / "covidqa"), str(DATA / "cosqa"), "demo:xquad-zh"],
    ids=["covidqa", "cosqa", "xquad-zh"],
)
def test_real_texts_are_split_as_by_the_reference(tokenizer, reference, dataset):
    for text in [*load_dataset(dataset).documents.values()][:60]:
        assert split_by_reference(reference, text) == split(tokenizer, text)


small = ["<s>", "<pad>", "</s>", "<unk>", SPACE, "a", "b", "ab", "ba", "aba", SPACE + "a", "猫"]
weights = [0.0] * 4 + [-3.0, -2.0, -2.5, -3.7, -4.1, -5.2, -4.4, -6.0]


@given(st.text("ab猫 ", max_size=40))
def test_any_text_is_split_as_by_the_reference(text):
    reference = Tokenizer(models.Unigram(list(zip(small, weights, strict=True)), unk_id=UNKNOWN))

    ids = split(UnigramTokenizer(small, weights), text)

    assert split_by_reference(reference, text) == ids


@pytest.mark.parametrize("text", ["𠮷野家", "ᚠᚢᚦ", "ꦗꦮ", "ᏣᎳᎩ", "ཀཁ", "🫠🧿"])
def test_characters_without_a_piece_are_told_apart(tokenizer, text):
    """Each is read as a letter of its own, always the same one."""
    ids = split(tokenizer, text)
    single = [split(tokenizer, character)[1:] for character in text]

    assert UNKNOWN not in ids
    assert all(single)
    assert len(text) == len({tuple(each) for each in single})
    assert ids == split(tokenizer, text + " " + text)[len(ids) :]


def test_a_character_without_a_piece_is_read_as_one_of_the_rarest_letters():
    """Worked by hand: the letters are a, b and 猫, at 5, 6 and 11; 29356 modulo 3 is 1."""
    tokenizer = UnigramTokenizer(small, weights)

    assert [10, 6, 6, 5] == split(tokenizer, "a犬犬a")


def test_a_vocabulary_without_letters_reads_unknown_ones_as_unknown():
    tokenizer = UnigramTokenizer(small[:5], weights[:5])

    assert [4, UNKNOWN] == split(tokenizer, "a")


@pytest.mark.parametrize("count", [3, len(small) - 1, len(small) + 1])
def test_pieces_without_scores_are_refused(count):
    with pytest.raises(ValueError, match=f"12 pieces have {count} scores"):
        UnigramTokenizer(small, (weights * 2)[:count])


@given(st.text(), st.integers(0, 20))
def test_a_limit_cuts_the_end(text, limit):
    tokenizer = UnigramTokenizer(small, weights)
    every, _ = tokenizer.encode(normalize(text), 10**6)

    assert tokenizer.encode(normalize(text), limit) == (every[:limit], len(every) > limit)


def test_a_long_text_without_spaces_is_split_in_parts(tokenizer):
    """A megabyte of it would take seconds, of which the limit needs the start only."""
    text = "猫" * 5000

    ids, is_cut = tokenizer.encode(text, 16)

    assert is_cut
    assert ids == tokenizer.encode(text[:600], 16)[0]
    assert len(text) + 1 >= len(split(tokenizer, text)) > 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a\t\r\n b  ", "a b"),
        ("a\u200bb\ufeffc\u2028d", "a b c d"),
        ("a\x01b\x7fc\0d", "abcd"),
        ("ﬁ ① ｶﾞ Ａ", "fi 1 ガ A"),
        ("e\u0301", "é"),
        ("10～20", "10～20"),
        ("▁a", "a"),
        ("", ""),
    ],
)
def test_text_is_normalized(text, expected):
    assert normalize(text) == expected


@given(st.text())
def test_normalized_text_stays_as_it_is(text):
    once = normalize(text)

    assert once == normalize(once)
    assert once == " ".join(once.split(" ")).strip(" ")
    assert unicodedata.is_normalized("NFKC", once.replace("\uff5e", ""))
