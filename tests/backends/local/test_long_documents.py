"""Long documents in windows: every token is read, and short ones score as they did."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank_plugins import UnsupportedInputError
from rerank_plugins._internal.long_documents import LongDocuments
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.tokenizer import Pairs, PairTokenizer
from rerank_plugins.hooks import CallStarted, Event, Windowed
from rerank_plugins.hooks._dispatch import observe_call as heard_by

SENTENCES = [
    "The giant panda is a bear. ",
    "大熊猫是中国特有的熊科动物。",
    "Где живёт панда? ",
    "الباندا العملاقة دب. ",
    "एक पांडा। ",
    "🐼🐼 ",
    "x" * 40 + " ",
    "\n\n  \t",
]
DOCUMENTS = st.lists(st.sampled_from(SENTENCES), max_size=40).map("".join)
QUERIES = st.sampled_from(["panda", "What is a panda? " * 9, "panda " * 40])


def encoder(folder: str, max_length: int = 48, **options: Any) -> PairTokenizer:
    return PairTokenizer.load(
        resolve(folder, max_length=max_length),
        cached_tokens=0,
        long_documents=LongDocuments(**options),
    )


def same(one: Pairs, other: Pairs) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(Pairs)
    )


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert"])
def test_windows_cover_every_token_and_are_slices(
    kind: str, checkpoint: Callable[[str], str]
) -> None:
    """Of any script; and what fits is read as if nothing could be long."""
    windows, plain = encoder(checkpoint(kind)), encoder(checkpoint(kind), long_documents="truncate")

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(QUERIES, st.lists(DOCUMENTS, min_size=1, max_size=4))
    def check(query: str, documents: list[str]) -> None:
        pairs, cut = windows.encode([(query, documents)]), plain.encode([(query, documents)])
        assert max(pairs.lengths) <= 48
        if cut.windows is None:
            assert same(pairs, cut)
            return
        assert pairs.windows is not None
        start = 0
        for place, document in enumerate(documents):
            stop = start + pairs.windows.counts[place]
            if stop - start == 1:
                assert np.array_equal(pairs.row(start), cut.row(place))
            else:
                passages = [p for p in pairs.windows.passages[start:stop] if p is not None]
                covered = {at for first, last in passages for at in range(first, last)}
                missed = {*range(len(document))} - covered
                assert not "".join(document[at] for at in missed).strip()
            start = stop
        assert not pairs.windows.read
        assert len(pairs) == start

    check()


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_the_best_window_makes_the_score(engine: Any, checkpoint: Callable[[str], str]) -> None:
    """Whatever shares the batches; the passage scores the same as a document of its own."""
    documents = ["a bear", *("".join(SENTENCES[i:] + SENTENCES[:i]) * 9 for i in range(3)), ""]
    options: Any = {"engine": engine, "device": "cpu", "max_length": 64, "scale": "logit"}
    with (
        LocalBackend(checkpoint("bert"), **options) as backend,
        LocalBackend(checkpoint("bert"), long_documents="truncate", **options) as plain,
    ):
        scores = backend.score("panda", documents)
        alone = [backend.score("panda", [document]) for document in documents]
        cut = plain.score("panda", documents)
        own = [documents[at][start:end] for at, (start, end) in scores.passages.items()]
        of_passages = plain.score("panda", own)

    assert {1, 2, 3} == {*scores.passages} == {*scores.windows} == scores.chunked == cut.truncated
    assert not scores.truncated
    assert [cut[0], cut[4]] == pytest.approx([scores[0], scores[4]], abs=1e-5)
    assert list(scores) == pytest.approx([one[0] for one in alone], abs=1e-5)
    assert [scores[at] for at in scores.passages] == pytest.approx(list(of_passages), abs=1e-4)
    assert scores.usage is not None
    assert sum(one.usage.tokens or 0 for one in alone if one.usage) == scores.usage.tokens


def test_the_mean_of_the_best_windows(checkpoint: Callable[[str], str]) -> None:
    document = "".join(SENTENCES) * 9
    options: Any = {"engine": "onnx", "max_length": 64, "scale": "logit"}
    with (
        LocalBackend(checkpoint("bert"), **options) as best,
        LocalBackend(checkpoint("bert"), best_windows=3, **options) as mean,
    ):
        one, three = best.score("panda", [document, "a"]), mean.score("panda", [document, "a"])
        assert best.name != mean.name

    assert three[0] < one[0]
    assert three[1] == one[1]
    assert three.passages == one.passages


def test_shorter_windows_give_shorter_passages(checkpoint: Callable[[str], str]) -> None:
    """Also of documents that would fit."""
    document = "".join(SENTENCES[:3])
    with LocalBackend(checkpoint("bert"), engine="onnx", window_tokens=16) as backend:
        scores = backend.score("panda", [document, "a bear"])

    (start, end) = scores.passages[0]
    assert end - start < len(document)
    assert {0} == scores.chunked


def test_what_no_window_reads_is_told_once(
    checkpoint: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    long = "The giant panda is a bear. " * 99
    options: Any = {"engine": "onnx", "max_length": 64, "max_windows": 3}
    with LocalBackend(checkpoint("bert"), **options) as backend:
        heard: list[Event] = []
        started = CallStarted("library", "local", None, 1, 3)
        with caplog.at_level(logging.WARNING), heard_by((heard.append,), started):
            scores = backend.score("panda", ["a", long, long + "!"])
            assert scores == backend.score("panda", ["a", long, long + "!"])
        facts = backend.describe()

    assert {1, 2} == scores.truncated == {*scores.read}
    assert all(0.1 < share < 0.5 for share in scores.read.values())
    assert {1: 3, 2: 3} == scores.windows
    assert all(end <= scores.read[at] * len(long) + 1 for at, (_, end) in scores.passages.items())
    assert [Windowed(2, 6)] * 2 == [event for event in heard if isinstance(event, Windowed)]
    assert (4, 4) == (facts["windowed_documents"], facts["truncated_documents"])
    assert 1 == len(caplog.messages)
    assert "`max_windows`=3" in caplog.messages[0]
    assert "panda" not in caplog.text


def test_documents_that_are_too_long_may_be_refused(checkpoint: Callable[[str], str]) -> None:
    options: Any = {"engine": "onnx", "max_length": 64, "long_documents": "error"}
    with LocalBackend(checkpoint("bert"), **options) as backend:
        assert 1 == len(backend.score("panda", ["bear " * 60]))
        with pytest.raises(UnsupportedInputError, match="has 61 tokens, and the model reads 60"):
            backend.score("panda", ["bear", "bear " * 61])


@pytest.mark.parametrize("max_length", [6, 512])
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert"])
@pytest.mark.parametrize(
    "document",
    ["x" * 200_000, " " * 200_000, "ab " * 70_000, "大" * 70_000, "\u0301" * 70_000],
    ids=["a word", "white space", "no sentence", "no space", "marks"],
)
def test_documents_of_any_sort_are_bounded(
    kind: str, document: str, max_length: int, checkpoint: Callable[[str], str]
) -> None:
    pairs = encoder(checkpoint(kind), max_length, max_windows=9).encode([("panda", [document])])

    assert 1 <= len(pairs) <= 9
    assert max(pairs.lengths) <= max_length
    if pairs.windows is not None:
        for passage in filter(None, pairs.windows.passages):
            assert 0 <= passage.start <= passage.end <= len(document)


class TestPrompts:
    """Of a language model, a window is a prompt of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> str:
        from tests.support.checkpoints import build_language_model  # noqa: PLC0415 - needs torch

        return str(build_language_model("qwen3", tmp_path_factory.mktemp("qwen3")))

    @pytest.mark.slow
    def test_the_best_prompt_makes_the_score(self, folder: str) -> None:
        documents = ["a bear", "".join(SENTENCES) * 9, "bear. " * 200]
        options: Any = {"engine": "torch", "device": "cpu", "max_length": 160, "scale": "logit"}
        with (
            LocalBackend(folder, **options) as backend,
            LocalBackend(folder, long_documents="truncate", **options) as plain,
        ):
            scores = backend.score("panda", documents)
            cut = plain.score("panda", documents)
            own = [documents[at][start:end] for at, (start, end) in scores.passages.items()]
            of_passages = plain.score("panda", own)

        assert {1, 2} == {*scores.passages} == cut.truncated == {*cut.read}
        assert not scores.truncated
        assert scores[0] == pytest.approx(cut[0], abs=1e-5)
        assert [scores[1], scores[2]] == pytest.approx(list(of_passages), abs=1e-4)
        assert not of_passages.truncated
