"""Ensembles: how rankings fuse, whose failure counts, and what the scores tell."""

import asyncio
import logging
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    BackendUnavailable,
    ConfigError,
    Passage,
    Scores,
    UnsupportedInputError,
    Usage,
    load_backend,
)
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.testing import BackendContract, FailingBackend, FakeBackend
from rerank_plugins.wrappers import ensemble
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.ensemble import EnsembleBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.instrument import InstrumentedBackend

DOWN = BackendUnavailable("down")


class Fixed(FakeBackend):
    """Gives the same scores each time, with facts."""

    def __init__(self, values, name="fixed", **facts):
        super().__init__(name=name)
        self.values = values
        self.facts = facts

    def score(self, query, documents):
        return Scores(self.values[: len(documents)], backend=self.name, **self.facts)


class TestEnsemble(BackendContract):
    def make_backend(self):
        return EnsembleBackend([FakeBackend(name="a"), FakeBackend(name="b", scale="logit")])


def test_ranks_are_fused_whatever_the_scales(ask):
    one, other = Fixed([0.9, 0.5, 0.1]), Fixed([-5.0, 70.0, -4.0])
    scores = ask(EnsembleBackend([one, other]), ["a", "b", "c"])

    assert scores == [1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62]


def test_documents_that_score_alike_share_the_best_rank(ask):
    scores = ask(EnsembleBackend([Fixed([1, 2, 2, 0]), Fixed([0, 0, 0, 0])], k=1), list("abcd"))

    assert [1 / 4 + 1 / 2, 1 / 2 + 1 / 2, 1 / 2 + 1 / 2, 1 / 5 + 1 / 2] == scores


@given(st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=2, max_size=4))
def test_who_is_ahead_everywhere_stays_ahead(members):
    fused = EnsembleBackend([Fixed(values) for values in members]).score("q", list("abcde"))

    for first in range(5):
        for second in range(5):
            pairs = [(values[first], values[second]) for values in members]
            if all(a >= b for a, b in pairs):
                assert fused[first] >= fused[second]
                assert fused[first] > fused[second] or all(a == b for a, b in pairs)


def test_facts_are_joined(ask):
    one = Fixed(
        [1, 0],
        "one",
        truncated=[0],
        passages={0: Passage(0, 1)},
        usage=Usage(tokens=3),
        cached=1,
        label="l1",
    )
    other = Fixed(
        [0, 1],
        "two",
        windows={1: 2},
        passages={0: Passage(1, 2), 1: Passage(2, 3)},
        highlights={0: Passage(1, 2), 1: Passage(2, 3)},
        usage=Usage(tokens=4, search_units=1),
        label="l2",
    )
    scores = ask(EnsembleBackend([one, other]))

    assert ({0}, {1}, 1) == (scores.truncated, scores.chunked, scores.cached)
    assert {0: Passage(0, 1), 1: Passage(2, 3)} == scores.passages
    assert {1: Passage(2, 3)} == scores.highlights, "that of 0 stands in another passage"
    assert Usage(tokens=7, search_units=1) == scores.usage
    assert ("rrf(k=60; one + two)", "l1 + l2", "unknown") == (
        scores.backend,
        scores.label,
        scores.scale,
    )


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.1, 0.9), (0.1, None), (None, 0.1)])
def test_the_least_that_was_read_is_told(ask, shares):
    """None: one of them has read all."""
    parts = [{} if share is None else {0: share} for share in shares]
    members = [Fixed([1, 0], truncated=part, read=part) for part in parts]

    assert {0: 0.1} == ask(EnsembleBackend(members)).read


class Meeting(FakeBackend):
    """Scores once all members of the ensemble have been called."""

    def __init__(self, barrier):
        super().__init__()
        self.barrier = barrier

    def score(self, query, documents):
        self.barrier.wait(30)
        return super().score(query, documents)


def test_backends_score_side_by_side(ask):
    barrier = threading.Barrier(3)

    assert [3 / 61, 3 / 62] == pytest.approx(ask(EnsembleBackend([Meeting(barrier)] * 3)))


@pytest.mark.parametrize("on_failure", ["raise", "skip"])
@pytest.mark.parametrize(
    "error", [AuthenticationError("key"), ConfigError("c"), UnsupportedInputError("u"), KeyError()]
)
def test_what_the_caller_must_mend_is_raised(ask, error, on_failure):
    backend = EnsembleBackend([FakeBackend(), FailingBackend(error)], on_failure=on_failure)

    with pytest.raises(type(error)):
        ask(backend)


@pytest.mark.parametrize("error", [DOWN, BackendError("out of memory")])
def test_a_failure_is_that_of_all_unless_told_otherwise(ask, error, caplog, monkeypatch):
    monkeypatch.setattr(ensemble, "_may_warn", Throttle())
    members = [FailingBackend(error), FakeBackend(name="works")]
    with pytest.raises(type(error)):
        ask(EnsembleBackend(members))
    with caplog.at_level(logging.WARNING, "rerank_plugins.wrappers.ensemble"):
        scores = ask(EnsembleBackend(members, on_failure="skip"))

    assert ([1 / 61, 1 / 62], "rrf(k=60; works)") == (scores, scores.backend)
    assert [str(error) in message for message in caplog.messages] == [True]


def test_if_all_fail_the_first_failure_is_raised(ask):
    members = [FailingBackend(BackendError("one")), FailingBackend(DOWN)]

    with pytest.raises(BackendError, match="one"):
        ask(EnsembleBackend(members, on_failure="skip"))


def test_a_failure_ends_the_calls_of_the_others():
    ended = asyncio.Event()

    class Slow(FakeBackend):
        async def ascore(self, query, documents):
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

    async def call():
        with pytest.raises(BackendUnavailable):
            await EnsembleBackend([Slow(), FailingBackend(DOWN)]).ascore("q", ["d"])
        return ended.is_set()

    assert asyncio.run(call())


def test_it_is_listwise_and_not_cached():
    backend = EnsembleBackend([FakeBackend(), FakeBackend()])

    assert (False, False) == (backend.pointwise, backend.cacheable)
    with pytest.raises(ConfigError, match="can't be cached"):
        CachedBackend(backend)


SPEC = {
    "backend": {"kind": "embedded"},
    "retry": {"attempts": 2},
    "cache": {"store": "memory"},
    "ensemble": [{"kind": "vllm", "base_url": "http://localhost:9", "model": "m"}],
    "fusion": {"k": 10, "on_failure": "skip"},
    "instrument": {"hooks": ["logging"]},
}


def test_a_file_builds_it_and_its_spec_is_that_file():
    backend = load_backend(SPEC)
    (chain,) = backend.children

    assert isinstance(backend, InstrumentedBackend)
    assert ["cache", "cache"] == [child.kind for child in chain.children]
    assert ["embedded", "vllm"] == [leaf.kind for leaf in chain.walk() if not leaf.children]
    assert backend.to_spec() == load_backend(backend.to_spec()).to_spec()
    assert backend.to_spec() == pickle.loads(pickle.dumps(backend)).to_spec()
    written = backend.to_spec()
    assert SPEC["fusion"] == written["fusion"]
    assert SPEC["ensemble"][0].items() <= written["ensemble"][0].items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fallback": [{"kind": "embedded"}]}, "exclude each other"),
        ({"ensemble": []}, r"`\[fusion\]` in the mapping needs `\[\[ensemble\]\]`"),
        ({"ensemble": {"kind": "embedded"}}, r"must be a list of tables; write: \[\[ensemble\]\]"),
        ({"fusion": {"c": 3}}, "unknown option 'c' for table 'fusion'.*valid: k, on_failure"),
        ({"fusion": {"k": 0}}, "`k` must be an integer of at least 1"),
        ({"fusion": {"on_failure": "ignore"}}, "`?on_failure`? must be 'raise' or 'skip'"),
        ({"fusion": 60}, "`fusion` must be a table"),
    ],
)
def test_wrong_files_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        load_backend({**SPEC, **change})


def test_wrong_members_are_refused():
    for wrong in ([FakeBackend()], [], FakeBackend()):
        with pytest.raises(ConfigError, match="must be a list of two or more"):
            EnsembleBackend(wrong)
    inner = FallbackBackend([load_backend("embedded")] * 2)
    with pytest.raises(ConfigError, match="can't be written as a spec"):
        EnsembleBackend([inner, load_backend("embedded")]).to_spec()
