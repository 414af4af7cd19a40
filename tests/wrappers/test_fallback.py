"""Fallback chains: which backend scores, whose error is raised, and what is reported."""

import asyncio
import logging
import pickle

import pytest

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
    MissingDependencyError,
    UnsupportedInputError,
)
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.testing import BackendContract, FailingBackend, FakeBackend
from rerank_plugins.wrappers import fallback
from rerank_plugins.wrappers.fallback import FallbackBackend
from tests.support.asking import score

DOWN = BackendUnavailable("down")


def failing(error=DOWN, scale="probability"):
    backend = FailingBackend(error)
    backend.scale = scale
    return backend


class TestFallback(BackendContract):
    def make_backend(self):
        return FallbackBackend([FakeBackend(name="first"), FakeBackend(name="second")])


class TestFallingBack(BackendContract):
    def make_backend(self):
        return FallbackBackend([failing(), FakeBackend()])


def test_the_first_working_backend_scores(ask):
    first, second = FakeBackend(name="first"), FakeBackend(name="second")
    scores = ask(FallbackBackend([first, second]))

    assert [1.0, 0.0] == scores
    assert (1, 0) == (len(first.calls), len(second.calls))
    assert "first" == scores.backend


@pytest.mark.parametrize(
    "error",
    [
        BackendError("out of memory"),
        BackendOverloaded("busy"),
        BackendTimeout("slow"),
        DOWN,
        InvalidResponse("nonsense"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_next_backend_scores_when_one_fails(ask, error):
    scores = ask(FallbackBackend([failing(error), FakeBackend(name="second")]))

    assert [1.0, 0.0] == scores
    assert "second" == scores.backend


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("key"),
        BackendRejected("too long"),
        ConfigError("c"),
        KeyError("bug"),
        UnsupportedInputError("u"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_the_caller_must_fix_are_raised(ask, error):
    second = FakeBackend()
    with pytest.raises(type(error)) as caught:
        ask(FallbackBackend([failing(error), second]))

    assert error is caught.value
    assert [] == second.calls


def test_cancellation_is_not_a_failure():
    class Hanging(FakeBackend):
        async def ascore(self, query, documents):
            await asyncio.sleep(60)

    second = FakeBackend()

    async def cancel():
        task = asyncio.create_task(FallbackBackend([Hanging(), second]).ascore("q", ["a"]))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())
    assert [] == second.calls


def test_the_last_error_is_raised_with_a_note_for_each_before(ask):
    errors = [BackendUnavailable("one"), InvalidResponse("two"), BackendTimeout("three")]
    with pytest.raises(BackendTimeout, match="three") as caught:
        ask(FallbackBackend([failing(error) for error in errors]))

    assert errors[2] is caught.value
    assert [
        "before that, <FailingBackend failing>: BackendUnavailable: one",
        "before that, <FailingBackend failing>: InvalidResponse: two",
    ] == caught.value.__notes__


def test_an_error_of_the_second_backend_says_why_it_was_called(ask):
    """Nobody expects an error of the second backend while the first works."""
    missing = MissingDependencyError("install the extra")
    with pytest.raises(MissingDependencyError) as caught:
        ask(FallbackBackend([failing(), failing(missing), FakeBackend()]))

    assert "before that, <FailingBackend failing>: BackendUnavailable: down" in (
        caught.value.__notes__
    )


def test_one_call_is_answered_by_one_backend():
    """Scores of two models in one list would mean nothing."""

    class Once(FakeBackend):
        def score(self, query, documents):
            if self.calls:
                raise DOWN
            return [0.25 for _ in super().score(query, documents)]

    chain = FallbackBackend([Once(), FakeBackend()])

    assert [[1.0], [0.0]] == chain.score_many([("q", ["q"]), ("q", ["r"])])


def test_nested_chains_name_the_innermost_backend_that_scored(ask):
    inner = FallbackBackend([failing(), FakeBackend(name="innermost")])
    assert "innermost" == ask(FallbackBackend([inner, FakeBackend()])).backend


def test_concurrent_calls_each_name_the_backend_that_scored():
    def by_text(query, document):
        if document == "down":
            raise DOWN
        return 1.0

    chain = FallbackBackend([FakeBackend(by_text, name="first"), FakeBackend(name="second")])

    async def who(text):
        return (await chain.ascore("q", [text])).backend

    async def everyone():
        return await asyncio.gather(*(who(text) for text in ["up", "down"] * 50))

    assert ["first", "second"] * 50 == asyncio.run(everyone())


def test_an_outage_is_one_line_in_the_log(caplog, monkeypatch):
    monkeypatch.setattr(fallback, "_may_warn", Throttle())
    with caplog.at_level(logging.WARNING):
        for _ in range(9):
            score(FallbackBackend([failing(), FakeBackend()]))

    assert ["failing failed, trying the next backend: down"] == caplog.messages


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        (["probability", "probability"], "probability"),
        (["logit", "logit"], "logit"),
        (["unknown", "probability"], "unknown"),
        (["logit", "unknown"], "unknown"),
    ],
)
def test_the_scale_is_unknown_unless_all_backends_share_it(scales, expected):
    assert expected == FallbackBackend([FakeBackend(scale=scale) for scale in scales]).scale


def test_different_scales_are_refused():
    with pytest.raises(ConfigError, match="FakeBackend b>: logit"):
        FallbackBackend([FakeBackend(name="a"), FakeBackend(name="b", scale="logit")])


def test_an_empty_chain_is_refused():
    with pytest.raises(ConfigError, match="needs a backend"):
        FallbackBackend([])


def test_scores_are_not_cached_outside_the_chain():
    assert not FallbackBackend([FakeBackend()]).cacheable


def test_all_are_closed_even_if_one_fails_to():
    class Stuck(FakeBackend):
        def close(self):
            raise RuntimeError("stuck")

    for close in (lambda chain: chain.close(), lambda chain: asyncio.run(chain.aclose())):
        first, last = FakeBackend(), FakeBackend()
        with pytest.raises(RuntimeError, match="stuck"):
            close(FallbackBackend([first, Stuck(), last]))

        assert (1, 1) == (first.closed, last.closed)


def test_it_describes_every_backend():
    chain = FallbackBackend([failing(), FakeBackend(name="second")])

    assert "<FailingBackend failing> | <FakeBackend second>" == chain.name
    assert ["failing", "second"] == [part["name"] for part in chain.describe()["backends"]]


def test_it_survives_pickle_with_all_its_parts():
    chain = pickle.loads(pickle.dumps(FallbackBackend([FakeBackend(name="a"), FakeBackend()])))

    assert ["a", "fake"] == [backend.name for backend in chain.children]
