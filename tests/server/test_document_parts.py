"""Long documents of one client in parts: nobody waits for all windows of one."""

import asyncio
from itertools import pairwise

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import Backend, Scores, load_backend
from rerank_plugins.errors import DocumentQuarantined
from rerank_plugins.scores import Passage, Usage
from rerank_plugins.server import ServerSettings
from rerank_plugins.server.document_parts import DocumentParts
from rerank_plugins.server.isolation import isolate
from rerank_plugins.server.scoring import BatchedScoring
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.batching import BatchingBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.process import ModelProcess
from rerank_plugins.wrappers.retry import RetryingBackend

WINDOWS = 128
ENGLISH = "The parties agree to keep this secret. " * 820
HAN = "双方同意保守秘密。" * 3600
TEXTS = {
    "sentences": ENGLISH,
    "no ends of sentences": "word " * 6500,
    "no spaces": "x" * 32_000,
    "Chinese": HAN,
    "no ends in Chinese": "密" * 32_000,
    "marks": "a" + "\u0301\u0316" * 16_000,
    "one letter of another script": "word " * 3000 + "é" + "word " * 3000,
    "dense at the start": "密" * 4000 + "word " * 5000,
}


def tokens(text):
    """Estimate the tokens of a text by each of its characters."""
    return sum(0.25 if letter.isascii() else 1 for letter in text)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("length", [64, 512, 1024])
def test_parts_cover_a_document_and_none_takes_much(text, length):
    split = DocumentParts(length, length * WINDOWS).split(["short", text])
    (whole,), parts = split.parts
    read = max(part.end for part in parts)

    assert whole == (0, 5)
    assert split.texts == ["short", *(text[part.start : part.end] for part in parts)]
    assert all(a.start < b.start <= a.end < b.end for a, b in pairwise(parts))
    assert parts[0].start == 0
    assert read == len(text) or len(parts) == WINDOWS // 2
    assert max(map(tokens, split.texts)) <= 2 * length


def test_parts_begin_with_sentences():
    for text, end in ((ENGLISH, " "), (HAN, "。")):
        (parts,) = DocumentParts(512, 512 * WINDOWS).split([text]).parts
        assert all(text[part.start - 1] == end for part in parts[1:])


@pytest.mark.parametrize("longest", [64, 512, 2048])
def test_no_document_is_split_of_which_little_is_read(longest):
    assert [ENGLISH] == DocumentParts(512, longest).split([ENGLISH]).texts


def test_what_may_fit_is_not_split():
    texts = ["密" * 2048, "word " * 1638, "=" * 8192]
    assert texts == DocumentParts(512, 512 * WINDOWS).split(texts).texts


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ("local:m", True),
        ("local:m?max_windows=9", True),
        ("local:m?best_windows=2", False),
        ("local:m?long_documents=error", False),
        ("embedded", True),
        ("embedded?max_length=512", False),
        ("embedded?long_documents=truncate", False),
        ("tei+http://127.0.0.1:9", False),
    ],
)
def test_backends_tell_whether_the_best_part_counts(spec, counts):
    backend = load_backend(spec)
    assert backend.best_part_counts is counts
    assert ModelProcess(RetryingBackend(backend)).best_part_counts is counts


class Reader(Backend):
    """Scores how often a text says "secret", in windows of 100 characters."""

    name = "reader"
    best_part_counts = True
    document_tokens = 512 * WINDOWS

    def __init__(self):
        self.batches = []

    def score(self, query, documents):
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests):
        self.batches.append([text for _, texts in requests for text in texts])
        return [self._scores(texts) for _, texts in requests]

    def _scores(self, texts):
        places = [text.find("secret") for text in texts]
        return Scores(
            [0.9 if place >= 0 else 0.1 for place in places],
            scale="probability",
            truncated=[at for at, text in enumerate(texts) if text.endswith("cut")],
            read={at: 0.5 for at, text in enumerate(texts) if text.endswith("cut")},
            windows={at: -(-len(t) // 100) for at, t in enumerate(texts) if len(t) > 100},
            passages={at: Passage(p, p + 6) for at, p in enumerate(places) if p >= 0},
            highlights={at: Passage(p, p + 3) for at, p in enumerate(places) if p >= 0},
            usage=Usage(tokens=len(texts)),
        )


def scored(backend, texts, *, length=64):
    async def score():
        scoring = BatchedScoring(backend, ServerSettings(), (), length * WINDOWS, length)
        try:
            return await scoring.score("q", texts)
        finally:
            scoring.close()

    return asyncio.run(score())


def test_the_best_part_makes_the_score():
    late = "word " * 900 + "secret " + "word " * 100
    backend = Reader()
    scores = scored(backend, ["secret", late, "word " * 1000, "word " * 999 + "cut"])

    assert [0.9, 0.9, 0.1, 0.1] == list(scores)
    assert scores.passages[0] == (0, 6)
    start, end = scores.passages[1]
    assert late[start:end] == "secret"
    assert {0: (0, 3), 1: (start, start + 3)} == scores.highlights
    assert scores.windows.keys() == {1, 2, 3}
    assert 50 <= scores.windows[1] < 75
    assert scores.truncated == {3}
    assert 0.9 < scores.read[3] < 1
    texts = [text for batch in backend.batches for text in batch]
    assert scores.usage.tokens == len(texts) > 20
    assert max(map(len, texts)) <= 512


def test_a_document_beyond_the_most_windows_is_cut_and_that_is_told():
    scores = scored(Reader(), ["word " * 13_000 + "secret"])
    assert ([0.1], {0}) == (list(scores), scores.truncated)
    assert 0.3 < scores.read[0] < 0.6


def test_others_are_scored_between_the_parts_of_a_document():
    class Gate(Reader):
        def score_many(self, requests):
            if not self.batches:
                self.ask()
            return super().score_many(requests)

    async def score():
        backend, loop, light = Gate(), asyncio.get_running_loop(), []
        scoring = BatchedScoring(
            backend, ServerSettings(batch_tokens=256, queue_seconds=1e9), (), 64 * WINDOWS, 64
        )

        async def ask():
            light.append(asyncio.create_task(scoring.score("q", ["light"])))
            await asyncio.sleep(0)

        backend.ask = lambda: asyncio.run_coroutine_threadsafe(ask(), loop).result()
        heavy = await scoring.score("q", ["word " * 6500])
        await light[0]
        scoring.close()
        return heavy, [batch for batch in backend.batches if "light" in batch], backend.batches

    heavy, with_light, batches = asyncio.run(score())
    assert len(heavy) == 1
    assert batches.index(with_light[0]) <= 2 < len(batches)


def test_a_refused_part_is_told_as_its_document():
    class Refuses(Reader):
        def score_many(self, requests):
            raise DocumentQuarantined("document 3 …", document=3)

    with pytest.raises(DocumentQuarantined, match="document 1 ended") as caught:
        scored(Refuses(), ["a", "word " * 1000])
    assert caught.value.document == 1


def chain(backend):
    """Return what a server makes of a chain with this backend, without processes."""
    settings = ServerSettings()
    processes = isolate(FallbackBackend([backend, FakeBackend()]), settings)
    first = processes.children[0]
    while first.process is None:
        first = first.wrapped
    replaced = first.wrapped

    def without(part):
        return replaced if part is first else part.with_children([*map(without, part.children)])

    return without(processes.children[0])


def test_a_model_of_a_chain_is_asked_for_parts():
    reader = Reader()
    backend = chain(reader)
    late = "word " * 4000 + "secret " + "word " * 1000
    scores = backend.score("q", ["secret", late])
    start, end = scores.passages[1]

    assert [0.9, 0.9] == list(scores)
    assert late[start:end] == "secret"
    assert max(len(text) for batch in reader.batches for text in batch) <= 4096
    assert "reader+parts" == backend.name
    backend.close()

    other = FakeBackend()
    assert "batching" == chain(other).kind
    assert isinstance(chain(other), BatchingBackend)


def test_a_refused_part_of_a_chain_is_told_as_its_document():
    class Refuses(Reader):
        def score_many(self, requests):
            raise DocumentQuarantined("document 3 …", document=3)

    with chain(Refuses()) as backend, pytest.raises(DocumentQuarantined, match="document 1 "):
        backend.score("q", ["a", "word " * 5000])
