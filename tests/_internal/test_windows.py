"""Windows of any text: what they cover, how long they are, and where they are cut."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins._internal.windows import sentences, split

TEXTS = st.text(
    st.sampled_from("ab .!?\n。！？，؟।大熊猫пандаباندا กขฃ🐼\u200b\u0301\u3000\udfff")
    | st.characters(),
    min_size=1,
    max_size=200,
)


def spans_of(text, cuts, shared):
    """Cut a text into tokens; some stand twice, as the bytes of one character do."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    spans = list(itertools.pairwise(places))
    for at in shared:
        spans.insert(at % len(spans), spans[at % len(spans)])
    return spans


@given(
    TEXTS,
    st.lists(st.integers(0, 999), max_size=150),
    st.lists(st.integers(0, 999), max_size=9),
    st.integers(1, 40),
    st.integers(1, 12),
)
def test_windows_cover_every_token_in_order(text, cuts, shared, size, limit):
    """Up to the limit; none is too long, and each is an exact slice that holds its tokens."""
    spans = spans_of(text, cuts, shared)

    windows = split(text, spans, size, limit=limit)

    read = 0
    for window in windows:
        assert window.first <= read < window.last <= window.first + size
        read = window.last
        own = spans[window.first : window.last]
        start, end = min(own)[0], max(end for _, end in own)
        assert start <= window.start <= window.end <= end
        assert text[start:end].strip() in {"", text[window.start : window.end]}
        parts = sentences(text, spans, window)
        bounds = [window.first, *(part.last for part in parts)]
        assert bounds == [*(part.first for part in parts), window.last] == sorted(set(bounds))
        assert all(start <= part.start <= part.end <= end for part in parts)
    assert len(windows) <= limit
    assert read == len(spans) or len(windows) == limit
    assert len(split(text, spans, size, limit=10**9)) <= 1 + len(spans) // (size // 4 + 1)


@given(TEXTS, st.integers(1, 40))
def test_what_fits_is_one_window(text, size):
    spans = spans_of(text, range(0, len(text), 3), ())
    if len(spans) <= size:
        assert [(0, len(spans))] == [w[:2] for w in split(text, spans, size, limit=9)]


@pytest.mark.parametrize(
    ("sentence", "repeats"),
    [
        ("The giant panda is a bear. ", 40),
        ("What is it?! It's a bear (“black and white”). ", 40),
        ("大熊猫是中国特有的熊科动物。", 40),
        ("そうですか？はい！", 60),
        ("ما هذا؟ هذا دب. ", 60),
        ("पांडा भालू है। ", 60),
        ("a line without an end\n", 40),
    ],
)
def test_windows_start_and_end_with_sentences(sentence, repeats):
    text = sentence * repeats
    spans = [(at, at + 1) for at in range(len(text))]

    windows = split(text, spans, 200, limit=99)

    assert len(windows) > 2
    ends = tuple(".?!。！？؟।d")
    for window in windows:
        part = text[window.start : window.end]
        assert part.endswith(ends)
        assert not window.start or text[: window.start].rstrip().endswith(ends)


def test_sentences_of_a_window_are_told_apart():
    text = "One is here. Two? 三在这里。四也在。 Five"
    spans = [(at, at + 1) for at in range(len(text))]
    (window,) = split(text, spans, 99, limit=1)
    parts = sentences(text, spans, window)

    expected = ["One is here.", "Two?", "三在这里。", "四也在。", "Five"]
    assert expected == [text[part.start : part.end] for part in parts]


def test_words_stay_whole_where_no_sentence_ends():
    text = "panda " * 300
    spans = [(at, at + 1) for at in range(len(text))]

    for window in split(text, spans, 100, limit=99):
        assert {"panda"} == {*text[window.start : window.end].split()}


def test_windows_are_of_about_one_length():
    """A text a little too long is read in halves, not whole and again at its end."""
    text = "x" * 1010
    spans = [(at, at + 1) for at in range(len(text))]

    lengths = [window.last - window.first for window in split(text, spans, 1000, limit=99)]

    assert 2 == len(lengths)
    assert max(lengths) - min(lengths) < 10


@pytest.mark.parametrize("row", [".", "!?", '."', "…\n", "\n", ". "])
def test_a_row_of_signs_takes_linear_time(row):
    """Quadratic, 8,000 dots took three seconds; a token may hold 64 of them."""
    text = (row * 100_000)[:100_000]
    spans = [(start, min(start + 64, len(text))) for start in range(0, len(text), 64)]
    began = time.process_time()
    windows = split(text, spans, 500, limit=128)

    assert time.process_time() - began < 3
    assert windows[-1].last == len(spans)
