"""The interface: what a minimal backend inherits."""

import asyncio
import threading

import pytest
from hypothesis import strategies as st

from rerank_plugins import Backend, BackendError, ConfigError
from rerank_plugins.content import check_texts
from rerank_plugins.testing import FakeBackend

finite = st.floats(allow_nan=False, allow_infinity=False)


class Smallest(Backend):
    """Implements only the abstract members of the interface."""

    @property
    def name(self):
        return "smallest"

    def score(self, query, documents):
        self.thread = threading.get_ident()
        return [float(len(text)) for text in check_texts(query, documents)[1]]


def test_defaults_serve_a_backend_that_only_scores():
    """`score_many`, `ascore`, `describe` and the with-statements work unimplemented."""

    async def use():
        async with Smallest() as backend:
            return await backend.ascore("q", ["ab", "c"]), backend.thread

    scores, thread = asyncio.run(use())

    assert [2.0, 1.0] == scores
    assert threading.get_ident() != thread
    with Smallest() as backend:
        assert [[1.0], []] == backend.score_many([("q", ["a"]), ("q", [])])
        assert {
            "name": "smallest",
            "scale": "unknown",
            "cacheable": True,
            "calibration": "uncalibrated",
        } == backend.describe()
        assert "<Smallest>" == repr(backend)


def test_a_backend_without_a_spec_raises_on_to_spec():
    with pytest.raises(ConfigError, match="`Smallest` can't be written as a spec"):
        Smallest().to_spec()


def test_leaving_the_with_statement_closes():
    with FakeBackend() as backend:
        assert 0 == backend.closed

    assert 1 == backend.closed


class Around(Smallest):
    """A backend with children."""

    kind = "around"

    def __init__(self, *children):
        self._children = children

    @property
    def children(self):
        return self._children


def test_walk_yields_a_chain_from_the_outside_in():
    leaves = [Smallest(), Smallest(), Smallest()]
    inner = Around(*leaves[1:])
    outer = Around(leaves[0], inner)

    assert [outer, leaves[0], inner, *leaves[1:]] == list(outer.walk())
    assert [leaves[0]] == list(leaves[0].walk())


def test_a_backend_without_children_refuses_children():
    leaf = Smallest()

    assert leaf is leaf.with_children(())
    with pytest.raises(ConfigError, match="asks no other backend"):
        leaf.with_children([Smallest()])


def test_a_label_is_kind_and_model():
    class Named(Smallest):
        kind = "mine"
        model = "some/model"

    assert "Smallest" == Smallest().label
    assert "mine:some/model" == Named().label
    assert "<Named mine:some/model>" == repr(Named())


def test_a_stray_stop_iteration_hangs_no_async_caller():
    class Exhausted(Smallest):
        def score(self, query, documents):
            return [next(iter(()))]

        def close(self):
            next(iter(()))

    async def wait(awaitable):
        with pytest.raises(BackendError, match="failed with StopIteration"):
            await asyncio.wait_for(awaitable, 10)

    asyncio.run(wait(Exhausted().ascore("q", ["a"])))
    asyncio.run(wait(Exhausted().aclose()))


def test_aclose_does_not_block_the_loop():
    class Slow(Smallest):
        def close(self):
            self.thread = threading.get_ident()

    backend = Slow()
    asyncio.run(backend.aclose())

    assert threading.get_ident() != backend.thread
