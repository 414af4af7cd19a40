"""What holds for any texts: order, batches, threads, windows and scripts."""

import gc
import multiprocessing
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_plugins.backends.embedded import EmbeddedBackend
from rerank_plugins.backends.embedded.embedder import TokenEmbedder
from rerank_plugins.backends.embedded.lengths import WINDOW
from rerank_plugins.backends.embedded.scorer import CHUNK, LateInteractionScorer
from rerank_plugins.backends.embedded.unigram import UnigramTokenizer, normalize

SCRIPTS = {
    "Latin": ("What do giant pandas eat?", "The giant panda lives on bamboo."),
    "Latin with accents": ("Où vit le panda géant ?", "Le panda géant habite en Chine."),
    "Han, simplified": ("大熊猫吃什么？", "大熊猫主要以竹子为食。"),
    "Han, traditional": ("臺灣最高的山是哪一座？", "玉山是臺灣最高的山峰。"),
    "kana": ("さくらはいつさきますか", "さくらは はるに さきます。"),
    "Hangul": ("한국의 수도는 어디입니까?", "서울은 대한민국의 수도이다."),
    "Cyrillic": ("Кто написал «Войну и мир»?", "Роман «Война и мир» написал Толстой."),
    "Arabic": ("ما هو أطول نهر في العالم؟", "نهر النيل هو أطول نهر في العالم."),
    "Hebrew": ("מי כתב את ההמנון של ישראל?", "נפתלי הרץ אימבר כתב את ההמנון."),
    "Devanagari": ("ताज महल कहाँ है?", "ताज महल आगरा में स्थित है।"),
    "Thai": ("ต้มยำกุ้งใส่อะไรบ้าง", "ต้มยำกุ้งใส่ตะไคร้ ใบมะกรูด และพริก"),
    "emoji": ("🚀🌕", "🚀 to the 🌕"),
    "mixed": ("iPhone 的电池能用多久?", "iPhone 15 的电池 battery 可用 20 小时。"),
    "code": ("def read_csv(path):", "rows = read_csv(path)  # def of a reader"),
    "Han outside the basic plane": ("𠮷田", "𠮷田さん"),
    "private use": ("\ue0a0\ue0b0", "\ue0a0\ue0b0\ue0b2"),
    "Cherokee": ("ᏣᎳᎩ", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ"),
    "Runic": ("ᚠᚢᚦ", "ᚠᚢᚦ ᚱᚴ"),
    "Javanese": ("ꦗꦮ", "ꦲꦏ꧀ꦱꦫ ꦗꦮ"),
    "new emoji": ("🫠🫥", "🫥 🫠"),
}
"""Script → a query, and the document that answers it."""

DOCUMENTS = [answer for _, answer in SCRIPTS.values()]

ODD = {
    "NUL": "\0",
    "a control character": "\x01",
    "punctuation": "?!… 。，",
    "zero width": "\u200b\u200d\ufeff",
    "marks of direction": "\u200f\u202e\u2066",
    "a mark without a letter": "\u0301",
    "the space of the pieces": "\u2581",
    "a noncharacter": "\uffff\U0010ffff",
    "one long word": "x" * 1_000_000,
    "a ligature of 18 letters": "\ufdfa" * 99,
    "data": "QmFzZTY0" * 999,
}


@pytest.fixture(scope="module")
def embedded():
    with EmbeddedBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def bounded():
    """Reads little of a text without end."""
    with EmbeddedBackend(max_windows=4) as backend:
        yield backend


@pytest.mark.parametrize(("query", "answer"), SCRIPTS.values(), ids=SCRIPTS)
def test_the_answer_in_its_own_script_is_first_of_all_scripts(embedded, query, answer):
    scores = np.array(embedded.score(query, DOCUMENTS))

    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert (scores <= 1).all()
    assert answer == DOCUMENTS[scores.argmax()]


@pytest.mark.parametrize(
    ("query", "equal", "other"),
    [
        ("𠮷𠮷", "𠮷𠮷", "𠀀𠀁"),
        ("where is 𠮷𠮷?", "the place is 𠮷𠮷", "the place is 𠀀𠀁"),
        ("ᚠᚢᚦ", "ᚱᚴ ᚠᚢᚦ", "ᚱᚴ ᛅᚾᛏ"),
        ("ꀀꀁ", "ꀃ ꀀꀁ", "ꁑ ꁒꁓ"),
        ("🫠", "🫠", "🫥"),
        ("Qxvzyw", "Qxvzyw", "Zkrqyp"),
        ("谁是繇？", "繇是一位将军。", "钺是一位将军。"),
        ("什么是鲷？", "鲷是一种鱼。", "鹟是一种鱼。"),
        ("圐圙", "圐圙在内蒙古", "旮旯在内蒙古"),
        ("\ue001", "\ue001", "\ue002"),
    ],
)
def test_a_rare_word_matches_itself_best(embedded, query, equal, other):
    """Words of unknown characters used to equal each other."""
    scores = embedded.score(query, [other, equal, "panda", "熊猫"])

    assert scores[1] > scores[0] + 0.1
    assert scores[1] > max(scores[2:]) + 0.1


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_score_like_any(bounded, text):
    """As a document and as a query; a script that reads nothing prefers nothing."""
    as_document = bounded.score("panda", [text, "panda"])
    as_query = bounded.score(text, ["panda", text, ""])

    assert 0 <= as_document[0] < as_document[1] <= 1
    assert 0 <= as_query[2] <= min(as_query[:2])
    assert as_query[0] <= as_query[1] <= 1


texts = st.one_of(
    st.sampled_from(DOCUMENTS),
    st.text(max_size=20),
    st.text(st.characters(min_codepoint=0x10000, exclude_categories=["Cs"]), max_size=8),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.randoms(use_true_random=False), st.data())
def test_order_and_batches_change_no_score(embedded, documents, random, data):
    """But for the rounding of matrix products, whose order depends on their sizes."""
    query = data.draw(st.sampled_from([query for query, _ in SCRIPTS.values()]))
    expected = np.array(embedded.score(query, documents))
    order = random.sample(range(len(documents)), len(documents))
    cut = random.randrange(len(documents) + 1)

    permuted = embedded.score(query, [documents[i] for i in order])
    parts = [*embedded.score(query, documents[:cut]), *embedded.score(query, documents[cut:])]

    assert list(permuted) == pytest.approx(expected[order], abs=1e-6)
    assert parts == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_threads_change_no_score(embedded, threads):
    query = SCRIPTS["Latin"][0]
    with EmbeddedBackend(threads=threads, cached_tokens=0) as backend:
        assert list(embedded.score(query, DOCUMENTS)) == list(backend.score(query, DOCUMENTS))


def test_chunks_of_documents_change_no_score(embedded):
    many = [f"panda {number}" for number in range(CHUNK + 2)]

    alone = [embedded.score("panda 65", [many[i]])[0] for i in (0, CHUNK - 1, CHUNK, CHUNK + 1)]

    scores = embedded.score("panda 65", many)
    assert alone == pytest.approx([scores[i] for i in (0, -3, -2, -1)], abs=1e-6)


@cache
def words(count):
    """Return a text of so many tokens, of one token each."""
    return " ".join(["the"] * (count - 3) + ["old", "red", "car"])


@pytest.mark.parametrize(
    ("tokens", "windows"), [(255, 1), (256, 1), (257, 2), (480, 2), (481, 3), (1025, 5)]
)
def test_windows_of_256_tokens_share_32(tokens, windows):
    with EmbeddedBackend() as backend:
        scores = backend.score("panda", [words(tokens)])
        (match,) = backend._scorer.matches("panda", [words(tokens)])

    assert windows == match.windows
    assert tokens + (windows - 1) * 32 == match.tokens
    assert not match.is_truncated
    assert ({0: windows} if windows > 1 else {}) == scores.windows


@pytest.mark.parametrize("max_length", [3, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW])
def test_max_length_cuts_at_any_token(max_length):
    with EmbeddedBackend(max_length=max_length) as backend:
        whole, cut = words(max_length), words(max_length) + " sea"
        scores = backend.score("sea", [whole, cut])

        assert scores[0] == pytest.approx(scores[1], abs=1e-6)
        assert scores.truncated == {1}
        assert (max_length > WINDOW) == (scores.chunked == {0, 1})


def test_a_window_scores_like_a_document_of_its_own(embedded):
    """The best one counts, wherever it lies."""
    first, second = words(WINDOW), words(WINDOW).replace("old red car", "new sea air")
    documents = [f"{first} {second}", f"{second} {first}"]

    both = embedded.score("old red car", documents)

    for place, text in enumerate(documents):
        start, end = both.passages[place]
        assert "old red car" in text[start:end]
        assert embedded.score("old red car", [text[start:end]])[0] == pytest.approx(
            both[place], abs=1e-6
        )


def test_a_query_longer_than_a_window_is_read_to_its_end(embedded):
    train, steam = "A steam train crosses the viaduct.", "Pandas eat bamboo."
    start = "the " * (WINDOW + 9)

    scores = embedded.score(start + train, [train, steam])

    assert scores[0] > scores[1]
    assert not scores.truncated
    assert scores != embedded.score(start + steam, [train, steam])


def test_a_closed_or_copied_backend_scores_the_same():
    backend = EmbeddedBackend(threads=2)
    expected = list(backend.score("大熊猫吃什么？", DOCUMENTS[:3]))
    backend.close()

    assert expected == list(backend.score("大熊猫吃什么？", DOCUMENTS[:3]))
    assert expected == list(
        pickle.loads(pickle.dumps(backend)).score("大熊猫吃什么？", DOCUMENTS[:3])
    )


def test_threads_may_share_a_tokenizer_that_forgets_its_words(monkeypatch):
    """It forgets while others read."""
    monkeypatch.setattr("rerank_plugins.backends.embedded.unigram._CACHED_WORDS", 3)
    with EmbeddedBackend() as backend:
        backend.score("x", ["y"])
        tokenizer = backend._scorer._embedder._tokenizer
    normal = [normalize(text) for text in DOCUMENTS]
    expected = [UnigramTokenizer.encode(tokenizer, text, 99) for text in normal]

    with ThreadPoolExecutor(8) as pool:
        every = pool.map(lambda text: tokenizer.encode(text, 99), normal * 300)

    assert expected * 300 == list(every)
    assert len(tokenizer._words) <= 3


def answer_of_child(backend, place):
    place.send(list(backend.score("大熊猫吃什么？", ["竹子", "巴黎是法国的首都。"])))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_reads_the_mapped_words():
    """Words that the parent has read, and others."""
    with EmbeddedBackend(threads=2) as backend:
        backend.score("panda", ["bear"])
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(
            target=answer_of_child, args=(backend, there)
        )
        child.start()
        assert here.poll(60)
        scores = here.recv()
        child.join(60)

        assert 0 == child.exitcode
        assert scores == list(backend.score("大熊猫吃什么？", ["竹子", "巴黎是法国的首都。"]))


class Instant:
    """A session that takes no time: a vector per token, from its word."""

    def run(self, outputs, feeds):
        return [feeds["words"][..., :8] + 1e-3]


def test_memory_stays_flat_over_many_documents(monkeypatch):
    """Of thousands of distinct ones, the cache keeps the last hundreds, and nothing else grows."""
    monkeypatch.setattr("rerank_plugins.backends.embedded.unigram._CACHED_WORDS", 256)
    embedder = TokenEmbedder(max_length=64, threads=1, cached_tokens=1 << 15)
    embedder._session = Instant()
    scorer = LateInteractionScorer(embedder)

    def score(start, count):
        for number in range(start, start + count, 1000):
            scorer.score(
                "panda", [f"document {n} of a panda" for n in range(number, number + 1000)]
            )
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early, late = score(0, 1000), score(1000, 4000)
    finally:
        tracemalloc.stop()

    assert late < early + (1 << 19)
