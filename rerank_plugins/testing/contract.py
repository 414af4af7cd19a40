"""What every backend keeps, as tests.

A backend is checked by one small class, in any test runner that collects `test_*` methods:

    class TestMyBackend(BackendContract):
        def make_backend(self) -> Backend:
            return MyBackend(...)
"""

from __future__ import annotations

import asyncio
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import SkipTest

from rerank_plugins.backend import Backend
from rerank_plugins.content import Content
from rerank_plugins.errors import UnsupportedInputError
from rerank_plugins.scores import Scores

__all__ = ["BackendContract", "bad_requests"]


def bad_requests() -> dict[str, tuple[Any, Any]]:
    """Requests that every text backend must refuse with `UnsupportedInputError`."""
    return {
        "blank query": ("  \n\t", ["a"]),
        "bytes document": ("q", [b"a"]),
        "empty query": ("", ["a"]),
        "image document": ("q", [Content(image=b"\x89PNG")]),
        "lone surrogate in a document": ("q", ["fine", "broken \ud800"]),
        "lone surrogate in the query": ("q \udfff", ["a"]),
        "none document": ("q", ["a", None]),
        "none documents": ("q", None),
        "none query": (None, ["a"]),
        "number document": ("q", [1]),
        "one string for documents": ("q", "a document"),
    }


def _pointwise_only(backend: Backend) -> None:
    """Skip a test of what only backends can keep that score each document by itself."""
    if not backend.pointwise:
        raise SkipTest("`pointwise` is False")


def _is_refused(ask: Callable[[Any, Any], object], query: object, documents: object) -> bool:
    try:
        ask(query, documents)
    except UnsupportedInputError as error:
        return bool(str(error))
    return False


class BackendContract(ABC):
    """What each `Backend` keeps, as `test_*` methods; subclass it and build one backend.

    What only backends can keep that score each document by itself is skipped for the others,
    whose `pointwise` is False.
    """

    query = "what is a panda?"
    documents: tuple[str, ...] = (
        "hi",
        "The giant panda is a bear species endemic to China.",
        "",
        "Paris is the capital of France.",
        "大熊猫是中国特有的熊科动物。",
        "الباندا العملاقة دب يعيش في الصين",
        "nul \x00 and zero\u200bwidth",
        "The giant panda is a bear species endemic to China.",
    )
    tolerance = 1e-5
    """Largest difference allowed between two scores that should be equal."""
    picklable = True
    """Whether backends must survive `pickle`."""

    @abstractmethod
    def make_backend(self) -> Backend:
        """Build a fresh backend that works."""

    def assert_close(self, expected: Sequence[float], actual: Sequence[float]) -> None:
        """Compare scores, each within `tolerance`."""
        assert len(expected) == len(actual)
        for one, other in zip(expected, actual, strict=True):
            assert math.isclose(one, other, rel_tol=0.0, abs_tol=self.tolerance), (
                f"{list(expected)} != {list(actual)}"
            )

    def test_one_finite_float_per_document(self) -> None:
        """Scores are Python floats, finite, and within the declared scale."""
        with self.make_backend() as backend:
            scores = backend.score(self.query, self.documents)

            assert len(scores) == len(self.documents)
            assert all(type(score) is float and math.isfinite(score) for score in scores)
            if backend.scale == "probability":
                assert all(0.0 <= score <= 1.0 for score in scores)

    def test_no_documents_give_no_scores(self) -> None:
        """`[]` in, `[]` out, in every way of asking."""
        with self.make_backend() as backend:
            assert [] == backend.score(self.query, [])
            assert [] == backend.score_many([])
            assert [[], []] == backend.score_many([(self.query, []), (self.query, ())])
            assert [] == asyncio.run(backend.ascore(self.query, []))

    def test_equal_documents_score_alike(self) -> None:
        """A document's score does not depend on its position."""
        with self.make_backend() as backend:
            _pointwise_only(backend)
            scores = backend.score(self.query, self.documents)

            self.assert_close([scores[1]], [scores[7]])

    def test_scores_follow_the_input_order(self) -> None:
        """Reversed documents give reversed scores; a lone document keeps its score."""
        with self.make_backend() as backend:
            _pointwise_only(backend)
            scores = backend.score(self.query, self.documents)
            backwards = backend.score(self.query, self.documents[::-1])
            alone = backend.score(self.query, [self.documents[3]])

            self.assert_close(scores, backwards[::-1])
            self.assert_close([scores[3]], alone)

    def test_content_scores_as_its_text(self) -> None:
        """`Content(text=…)` and the plain string are the same document."""
        with self.make_backend() as backend:
            plain = backend.score(self.query, [self.documents[1]])
            content = backend.score(self.query, [Content(text=self.documents[1])])

            self.assert_close(plain, content)

    def test_score_many_equals_score(self) -> None:
        """Asking at once or one by one gives the same scores."""
        requests = [
            (self.query, self.documents[:3]),
            ("capital of France", self.documents[3:]),
            (self.query, ()),
        ]
        with self.make_backend() as backend:
            one_by_one = [backend.score(query, documents) for query, documents in requests]
            at_once = backend.score_many(requests)

            assert len(one_by_one) == len(at_once)
            for expected, actual in zip(one_by_one, at_once, strict=True):
                self.assert_close(expected, actual)

    def test_ascore_equals_score_in_several_loops(self) -> None:
        """One backend serves sync callers and several event loops, one after another."""
        with self.make_backend() as backend:
            expected = backend.score(self.query, self.documents)
            for _ in range(2):
                self.assert_close(expected, asyncio.run(backend.ascore(self.query, self.documents)))

    def test_score_works_inside_a_running_loop(self) -> None:
        """A notebook can call the sync method."""

        async def notebook_cell() -> Scores:
            return backend.score(self.query, self.documents)

        with self.make_backend() as backend:
            expected = backend.score(self.query, self.documents)

            self.assert_close(expected, asyncio.run(notebook_cell()))

    def test_concurrent_ascore_keeps_requests_apart(self) -> None:
        """Requests in flight together get their own scores."""

        async def gather() -> list[Scores]:
            calls = [backend.ascore(self.query, self.documents[:n]) for n in range(1, 9)]
            return list(await asyncio.gather(*calls))

        with self.make_backend() as backend:
            _pointwise_only(backend)
            expected = backend.score(self.query, self.documents)
            for count, scores in enumerate(asyncio.run(gather()), start=1):
                self.assert_close(expected[:count], scores)

    def test_threads_share_a_backend(self) -> None:
        """Eight threads on one backend get what one thread gets."""
        with self.make_backend() as backend, ThreadPoolExecutor(8) as pool:
            expected = backend.score(self.query, self.documents)
            for scores in pool.map(lambda _: backend.score(self.query, self.documents), range(16)):
                self.assert_close(expected, scores)

    def test_bad_requests_are_refused_alike(self) -> None:
        """Input that can't be scored raises `UnsupportedInputError`, sync, async and batched."""
        with self.make_backend() as backend:
            for kind, (query, documents) in bad_requests().items():
                for ask in (
                    backend.score,
                    lambda q, d: backend.score_many([(q, d)]),
                    lambda q, d: asyncio.run(backend.ascore(q, d)),
                ):
                    assert _is_refused(ask, query, documents), f"{kind} was accepted"

    def test_large_requests_are_scored(self) -> None:
        """10,000 documents, and one of a megabyte, get their scores."""
        with self.make_backend() as backend:
            many = backend.score(self.query, ["panda", "hi"] * 5_000)
            long = backend.score(self.query, ["panda " * 175_000, "hi"])

            assert 10_000 == len(many)
            assert 2 == len(long)
            assert all(math.isfinite(score) for score in [*many, *long])

    def test_works_again_after_close(self) -> None:
        """Closing twice is fine, and so is using the backend again."""
        backend = self.make_backend()
        expected = backend.score(self.query, self.documents)
        backend.close()
        backend.close()

        self.assert_close(expected, backend.score(self.query, self.documents))
        backend.close()

    def test_describes_itself(self) -> None:
        """Equal settings have equal names; `describe()` tells the name, `repr()` the label."""
        with self.make_backend() as backend, self.make_backend() as twin:
            assert backend.name
            assert backend.name == twin.name
            assert backend.name == backend.describe()["name"]
            assert backend.scale == backend.describe()["scale"]
            leaves = [node for node in backend.walk() if not node.children]
            assert all(leaf.label in repr(backend) for leaf in leaves)

    def test_survives_pickle(self) -> None:
        """A copy sent to another process scores the same."""
        if not self.picklable:
            raise SkipTest("`picklable` is False")
        with self.make_backend() as backend:
            expected = backend.score(self.query, self.documents)
            with pickle.loads(pickle.dumps(backend)) as copy:
                assert backend.name == copy.name
                self.assert_close(expected, copy.score(self.query, self.documents))
