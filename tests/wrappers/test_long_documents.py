"""Long documents of remote backends: windows by characters or tokens, given or learned."""

import pickle
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import (
    Backend,
    BackendRejected,
    ConfigError,
    Passage,
    Scores,
    UnsupportedInputError,
    load_backend,
)
from rerank_plugins._internal.context import on_behalf_of
from rerank_plugins._internal.token_count import counter
from rerank_plugins.testing import BackendContract, FakeBackend
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.long_documents import LongDocumentsBackend

TOKENIZER = Path(__file__).parents[1] / "data" / "wordpiece"
LONG = "The sea is blue. " * 200 + "The panda eats bamboo. " + "The sky is red. " * 200


class Limited(FakeBackend):
    """Refuses requests with a longer text, as llama.cpp does."""

    def __init__(self, limit, message="input is too large to process"):
        super().__init__()
        self.limit, self.message, self.asked = limit, message, []

    def score(self, query, documents):
        self.asked.append([len(text) for text in documents])
        if max(map(len, documents)) > self.limit:
            raise BackendRejected(self.message, status_code=500)
        return super().score(query, documents)


class TestContract(BackendContract):
    def make_backend(self) -> Backend:
        return LongDocumentsBackend(FakeBackend(), max_characters=20)


class TestContractByTokens(BackendContract):
    def make_backend(self) -> Backend:
        return LongDocumentsBackend(FakeBackend(), window_tokens=8, count_tokens=TOKENIZER)


@pytest.mark.parametrize(
    "message",
    [
        "input is too large to process. increase the physical batch size",
        "This model's maximum context length is 512 tokens",
        "the input exceeds the limit of 512 tokens",
        "`inputs` must have less than 512 tokens. Given: 2000",
    ],
)
def test_one_long_document_fails_no_call(message):
    """It is halved until the server takes it; later calls begin there."""
    limited = Limited(1000, message)
    backend = LongDocumentsBackend(limited)

    scores = backend.score("panda bamboo", ["a panda", LONG])
    again = backend.score("panda bamboo", ["a panda", LONG])

    start, end = scores.passages[1]
    assert "panda eats bamboo" in LONG[start:end]
    assert end - start <= 1000
    assert {1: len(limited.asked[-1]) - 1} == scores.windows
    assert not scores.truncated
    assert (list(scores), scores.passages) == (list(again), again.passages)
    assert max(limited.asked[-1]) <= 1000
    assert not backend.cacheable


class Budget(FakeBackend):
    """Refuses a pair of more characters than a model reads, as servers with one limit for both."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.asked = limit, []

    def score(self, query, documents):
        self.asked.append(max(map(len, documents)))
        if len(query) + self.asked[-1] > self.limit:
            raise BackendRejected("input is too large to process", status_code=500)
        return super().score(query, documents)


@pytest.mark.parametrize("query", ["panda " * 400, "panda " * 300])
def test_a_long_query_shortens_no_windows_of_others(query):
    """Neither one that the server never takes, nor one that leaves little to its documents."""
    server = Budget(2100)
    backend = LongDocumentsBackend(server)
    before = backend.score("panda bamboo", [LONG])
    size = server.asked[-1]
    with suppress(BackendRejected):
        backend.score(query, [LONG])
        assert server.asked[-1] <= 300

    again = backend.score("panda bamboo", [LONG])

    assert size == server.asked[-1] > 1000
    assert (list(before), before.windows) == (list(again), again.windows)


class Tokens(Budget):
    """Refuses texts of more tokens than a model reads: one for 4 ASCII characters, or 1 other."""

    def score(self, query, documents):
        self.asked.append(max(map(len, documents)))
        costs = [len(text) if not text.isascii() else len(text) // 4 for text in documents]
        if max(costs) > self.limit:
            raise BackendRejected("input is too large to process", status_code=500)
        return FakeBackend.score(self, query, documents)


@pytest.mark.parametrize("odd", ["\U0001f43c", "é", "\u0301"])
def test_odd_texts_of_a_client_shorten_no_windows_of_others(odd):
    server = Tokens(512)
    backend = LongDocumentsBackend(server)

    def asked(client, text):
        with on_behalf_of(client):
            scores = backend.score("panda bamboo", [text])
        return server.asked[-1], list(scores), scores.windows

    before = asked("other", LONG)
    assert before[0] > 1000
    assert asked("odd", odd * 3000)[0] <= 512
    assert asked("odd", LONG)[0] <= 524
    assert before == asked("other", LONG)
    for number in range(3000):
        with on_behalf_of(f"client {number}"):
            backend._learn(number + 300)
    assert len(backend._learned) <= 1024


def test_what_the_server_tells_of_documents_that_fit_stays():
    class Telling(FakeBackend):
        def score(self, query, documents):
            at = len(documents) - 1
            facts = {"read": {at: 0.5}, "windows": {at: 2}, "passages": {at: Passage(3, 5)}}
            values = list(super().score(query, documents))
            return Scores(values, truncated=[at], highlights={at: Passage(4, 5)}, **facts)

    backend = LongDocumentsBackend(Telling(), max_characters=50)
    scores = backend.score("panda", [LONG, "a panda"])
    (cut,) = LongDocumentsBackend(Telling(), max_characters=50, max_windows=1).score_many(
        [("panda", ["   " + LONG])]
    )

    assert (2, Passage(3, 5), 0.5) == (scores.windows[1], scores.passages[1], scores.read[1])
    assert 1 in scores.truncated
    assert {1: Passage(4, 5)} == scores.highlights
    assert "s" == ("   " + LONG)[slice(*cut.highlights[0])]
    assert " s" == ("   " + LONG)[slice(*cut.passages[0])]
    assert cut.read[0] < 0.01
    assert backend.name == scores.backend


def test_other_refusals_and_short_texts_are_raised():
    with pytest.raises(BackendRejected, match="no such model"):
        LongDocumentsBackend(Limited(10, "no such model")).score("q", [LONG])
    limited = Limited(10)
    with pytest.raises(BackendRejected, match="too large"):
        LongDocumentsBackend(limited).score("q", [LONG])
    assert len(limited.asked) < 9


def test_short_documents_are_sent_as_they_are():
    limited = Limited(10**6)
    documents = ["a panda", "b"]

    assert limited.score("panda", documents) == LongDocumentsBackend(
        limited, max_characters=10
    ).score("panda", documents)
    assert limited.asked[0] == limited.asked[1]


def test_the_start_alone_or_an_error():
    cut = LongDocumentsBackend(FakeBackend(), long_documents="truncate", max_characters=100)
    strict = LongDocumentsBackend(FakeBackend(), long_documents="error", max_characters=100)
    scores = cut.score("panda", ["panda", LONG])

    assert {1} == scores.truncated
    assert {1: 100 / len(LONG)} == scores.read
    assert 0 == scores[1]
    with pytest.raises(UnsupportedInputError, match="document 1 has 6623 characters"):
        strict.score("panda", ["panda", LONG])


def test_what_no_window_has_is_told():
    scores = LongDocumentsBackend(FakeBackend(), max_characters=100, max_windows=2).score(
        "panda", [LONG]
    )

    assert {0: 2} == scores.windows
    assert {0} == scores.truncated
    assert scores.read[0] < 0.05


@given(st.lists(st.text(max_size=300), max_size=5), st.integers(1, 60), st.integers(1, 4))
def test_a_score_is_that_of_its_passage(documents, size, best_windows):
    """Of any script; and with the mean of several windows, never more."""
    backend = LongDocumentsBackend(
        FakeBackend(), max_characters=size, best_windows=best_windows, max_windows=999
    )
    scores: Scores = backend.score("a b", documents)

    for at, (start, end) in scores.passages.items():
        (alone,) = FakeBackend().score("a b", [documents[at][start:end]])
        assert end - start <= size
        assert scores[at] <= alone + 1e-9
        assert best_windows > 1 or scores[at] == alone
    assert not scores.truncated


def test_a_file_builds_it_inside_of_the_cache(tmp_path):
    file = tmp_path / "rerank.toml"
    file.write_text(
        '[backend]\nkind = "tei"\nbase_url = "http://127.0.0.1:9"\n'
        "[long_documents]\nmax_characters = 2000\n[cache]\n"
    )
    backend = load_backend(file)

    assert isinstance(backend, CachedBackend)
    assert isinstance(backend.wrapped, LongDocumentsBackend)
    assert backend.cacheable
    assert load_backend(backend.to_spec()).to_spec() == backend.to_spec()
    with pytest.raises(ConfigError, match="can't be cached"):
        CachedBackend(LongDocumentsBackend(FakeBackend()))


def _with_marks(text):
    return 2 + len(text.split())


COUNTERS = {
    "a folder": str(TOKENIZER),
    "a path": TOKENIZER / "tokenizer.json",
    "words, with two tokens around each text": _with_marks,
    "rounded down": lambda text: len(text) // 4,
    "bytes": lambda text: len(text.encode()),
    "more for the whole than for its words": lambda text: len(text) ** 2 // 50,
    "never few": lambda text: 1000 if text else 0,
}


@pytest.mark.parametrize("count_tokens", COUNTERS.values(), ids=COUNTERS)
def test_windows_by_tokens_that_the_user_counts(count_tokens):
    """Each window has at most so many, or is a character; and all of them cover the document."""
    fake = Limited(10**6)
    backend = LongDocumentsBackend(
        fake, window_tokens=60, count_tokens=count_tokens, max_windows=10**5
    )
    texts = ["a panda", LONG, "熊猫吃竹子。" * 50, "a" * 999, " " * 999 + "x"]
    count = counter(count_tokens)
    for text in texts:
        parts = backend._parts(0, text, None)
        spans = parts.passages or [(0, len(text))]

        assert [text[start:end] for start, end in spans] == parts.texts
        assert all(count(part) <= 60 or len(part) == 1 for part in parts.texts)
        assert count(text) > 60 or [text] == parts.texts
        starts, ends = zip(*spans, strict=True)
        gaps = zip([0, *ends], [*starts, len(text)], strict=True)
        assert not "".join(text[end:start] for end, start in gaps).strip()


def test_the_passage_of_a_tokenizer_holds_the_answer():
    backend = LongDocumentsBackend(FakeBackend(), window_tokens=60, count_tokens=TOKENIZER)
    scores = backend.score("panda bamboo", ["a panda", LONG])
    (start, end) = scores.passages[1]

    assert "panda eats bamboo" in LONG[start:end]
    assert {1: 32} == scores.windows
    assert {1} == scores.truncated
    assert backend.score("panda bamboo", [LONG[start:end]])[0] == scores[1]


@pytest.mark.parametrize("text", ["a" * 10**7, " " * 10**7 + "b", "汉" * 10**6, "a b " * 10**6])
@pytest.mark.parametrize("size", [1, 60])
def test_odd_texts_are_counted_no_further_than_needed(text, size):
    counted = []

    def count(part):
        counted.append(len(part))
        return len(part.split())

    backend = LongDocumentsBackend(FakeBackend(), window_tokens=size, count_tokens=count)
    scores = backend.score("q", [text])

    assert {0: 32} == scores.windows
    assert sum(counted) < 200_000
    assert {0} == scores.truncated


def test_the_start_alone_or_an_error_by_tokens():
    options = {"window_tokens": 60, "count_tokens": TOKENIZER}
    cut = LongDocumentsBackend(FakeBackend(), long_documents="truncate", **options)
    strict = LongDocumentsBackend(FakeBackend(), long_documents="error", **options)
    scores = cut.score("panda", ["panda", LONG])

    assert {1} == scores.truncated
    assert 0.01 < scores.read[1] < 0.05
    assert not scores.windows
    with pytest.raises(
        UnsupportedInputError, match="document 1, of 6623 characters, has more than"
    ):
        strict.score("panda", ["panda", LONG])


def test_a_refusal_of_given_windows_is_raised():
    limited = Limited(10)
    backend = LongDocumentsBackend(limited, window_tokens=60, count_tokens=TOKENIZER)
    with pytest.raises(BackendRejected, match="too large"):
        backend.score("q", [LONG])
    assert 1 == len(limited.asked)


def test_the_name_says_which_tokenizer_it_is(tmp_path):
    """A file by what it says, as an edited one makes other scores; a function can't be told."""
    backend = LongDocumentsBackend(FakeBackend(), window_tokens=60, count_tokens=TOKENIZER)
    same = LongDocumentsBackend(
        FakeBackend(), window_tokens=60, count_tokens=TOKENIZER / "tokenizer.json"
    )
    text = (TOKENIZER / "tokenizer.json").read_text("utf-8")
    (tmp_path / "tokenizer.json").write_text(text + " ", "utf-8")
    other = LongDocumentsBackend(FakeBackend(), window_tokens=60, count_tokens=tmp_path)
    function = LongDocumentsBackend(FakeBackend(), window_tokens=60, count_tokens=_with_marks)

    assert backend.cacheable
    assert backend.name == same.name == pickle.loads(pickle.dumps(backend)).name
    assert 3 == len({backend.name, other.name, function.name})
    assert not function.cacheable
    assert "_with_marks" == function.describe()["long_documents"]["count_tokens"]
    with pytest.raises(ConfigError, match="`count_tokens` is a function"):
        function.to_spec()


def test_a_file_names_the_tokenizer(tmp_path):
    file = tmp_path / "rerank.toml"
    file.write_text(
        '[backend]\nkind = "tei"\nbase_url = "http://127.0.0.1:9"\n'
        f"[long_documents]\nwindow_tokens = 400\ncount_tokens = '{TOKENIZER}'\n[cache]\n"
    )
    backend = load_backend(file)

    assert backend.cacheable
    assert load_backend(backend.to_spec()).name == backend.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_tokens": 9}, "belong together"),
        ({"count_tokens": len}, "belong together"),
        ({"window_tokens": 9, "count_tokens": len, "max_characters": 9}, "not both"),
        ({"window_tokens": 0, "count_tokens": len}, "at least 1"),
        ({"window_tokens": 9, "count_tokens": "no/such"}, "there is no file"),
        ({"window_tokens": 9, "count_tokens": 3}, "must be a function"),
        ({"window_tokens": 9, "count_tokens": lambda text: "3"}, "must return an integer"),
        ({"window_tokens": 2, "count_tokens": _with_marks}, "leaves no room"),
    ],
)
def test_wrong_windows_by_tokens_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        LongDocumentsBackend(FakeBackend(), **options)
