"""What every backend keeps, as tests.

A backend is checked by one small class, in any test runner that collects `test_*` methods:

    class TestMyBackend(BackendContract):
        def make_backend(self) -> Backend:
            return MyBackend(...)
"""

from __future__ import annotations

import asyncio
import base64
import math
import os
import pickle
import signal
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.content import Content, Query
from rerank_plugins.errors import BackendRejected, ConfigError, UnsupportedInputError
from rerank_plugins.scores import Scores
from rerank_plugins.spec import load_backend

__all__ = ["BackendContract", "bad_requests"]


_IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A PNG of one pixel."""

_FORK_SECONDS = 30.0


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


async def _longest_block(work: Awaitable[object]) -> float:
    """Return the longest time for which work kept the event loop from everything else."""
    task, last, longest = asyncio.ensure_future(work), time.monotonic(), 0.0
    while not task.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        last, longest = now, max(longest, now - last)
    await task
    return longest


@contextmanager
def _no_names(backends: Sequence[Backend]) -> Iterator[None]:
    """Make `name` and `describe()`, which may load a model, fail in this block."""

    def fail(self: Backend) -> str:
        raise AssertionError(f"the identity of `{type(self).__name__}` may load its model")

    classes = {type(backend) for backend in backends}
    own = {(kind, name): vars(kind).get(name) for kind in classes for name in ("name", "describe")}
    try:
        for kind in classes:
            kind.name = property(fail)  # type: ignore[method-assign,assignment]
            kind.describe = fail  # type: ignore[method-assign,assignment]
        yield
    finally:
        for (kind, name), value in own.items():
            if value is None:
                delattr(kind, name)
            else:  # at its old place among the attributes
                setattr(kind, name, value)


def _succeeds_in_child(test: Callable[[], None]) -> bool:
    """Run a test in a forked child; return whether it passed in time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork among threads: the point
        child = os.fork()
    if child == 0:
        code = 1
        try:
            test()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + _FORK_SECONDS
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(ended[1]) == 0


def _pointwise_only(backend: Backend) -> None:
    """Skip a test of what only backends can keep that score each document by itself."""
    if not backend.pointwise:
        raise SkipTest("`pointwise` is False")


def _is_refused(score: Callable[[Any, Any], object], query: object, documents: object) -> bool:
    try:
        score(query, documents)
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
    forkable = True
    """Whether a forked child must be able to use a backend of its parent."""
    longest_block = 1.0
    """Seconds for which async methods may keep the event loop from everything else."""

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

    def test_facts_of_scores_are_well_formed(self) -> None:
        """`Scores` name the backend and the scale, and mark only documents that exist."""
        with self.make_backend() as backend:
            raw = backend.score(self.query, self.documents)
            scores, count = as_scores(raw, len(self.documents), backend), len(self.documents)
            parts = [*backend.walk()]

            assert scores.backend in {part.name for part in parts}
            assert scores.model in {part.model for part in parts}
            assert scores.scale in {part.scale for part in parts}
            for positions in (scores.truncated, scores.chunked, scores.passages, scores.highlights):
                assert all(0 <= position < count for position in positions)
            assert 0 <= scores.cached <= count
            if scores.usage is not None:
                numbers = (scores.usage.tokens, scores.usage.search_units)
                assert all(number is None or number >= 0 for number in numbers)

    def test_no_documents_give_no_scores(self) -> None:
        """`[]` in, `[]` out, by every method."""
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
            requests = bad_requests()
            if "image" in backend.inputs:
                del requests["image document"]
            else:
                requests["image query"] = (Query("q", image=_IMAGE), ["a"])
            if not backend.instructions:
                requests["instruction"] = (Query("q", instruction="judge"), ["a"])
            for kind, (query, documents) in requests.items():
                for score in (
                    backend.score,
                    lambda q, d: backend.score_many([(q, d)]),
                    lambda q, d: asyncio.run(backend.ascore(q, d)),
                ):
                    assert _is_refused(score, query, documents), f"{kind} was accepted"

    def test_images_that_inputs_promises_are_scored(self) -> None:
        """A backend whose `inputs` hold images scores them, alone and beside a text."""
        with self.make_backend() as backend:
            if "image" not in backend.inputs:
                raise SkipTest("`inputs` is text only")
            scores = backend.score(self.query, [Content(image=_IMAGE), Content("a", image=_IMAGE)])

            assert 2 == len(scores)
            assert all(math.isfinite(score) for score in scores)

    def test_an_instruction_is_honoured_or_refused(self) -> None:
        """Never dropped: a model that turns out to take none is a refusal, too."""
        query = Query(self.query, instruction="Judge the topic.")
        with self.make_backend() as backend:
            if not backend.instructions:
                raise SkipTest("`instructions` is False, which another test checks")
            try:
                scores = backend.score(query, ["a"])
            except UnsupportedInputError as error:
                assert "instruction" in str(error)  # noqa: PT017  # or else it is scored
            except BackendRejected:
                return  # the server has no field for it
            else:
                assert 1 == len(scores)
                assert math.isfinite(scores[0])

    def test_the_event_loop_stays_free(self) -> None:
        """Loading, scoring and closing leave the loop to others."""

        async def use() -> tuple[float, float]:
            backend = self.make_backend()
            try:
                scoring = await _longest_block(backend.ascore(self.query, self.documents))
            finally:
                closing = await _longest_block(backend.aclose())
            return scoring, closing

        assert max(asyncio.run(use())) < self.longest_block

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
        """Equal settings have equal names; `describe()` holds the name, `repr()` the label."""
        with self.make_backend() as backend, self.make_backend() as twin:
            assert backend.name
            assert backend.name == twin.name
            assert backend.name == backend.describe()["name"]
            assert backend.scale == backend.describe()["scale"]
            leaves = [node for node in backend.walk() if not node.children]
            assert all(leaf.label in repr(backend) for leaf in leaves)

    def test_identity_is_cheap(self) -> None:
        """The identity of a backend loads no model and calls no server."""
        backend = self.make_backend()
        parts = list(backend.walk())
        with _no_names(parts):
            for part in parts:
                assert part.kind
                assert part.label
                assert part.model is None or isinstance(part.model, str)
                assert part.inputs >= {"text"}
                assert type(part).__name__ in repr(part)
                assert part.with_children(part.children).children == part.children
        backend.close()

    def test_spec_builds_the_same_backend(self) -> None:
        """`load_backend(backend.to_spec())` scores alike, if there is a spec."""
        with self.make_backend() as backend:
            try:
                spec = backend.to_spec()
            except ConfigError as error:
                raise SkipTest(str(error)) from None
            expected = backend.score(self.query, self.documents)
            with load_backend(spec) as copy:
                types = [type(part) for part in backend.walk()]
                assert types == [type(part) for part in copy.walk()]
                assert spec == copy.to_spec()
                self.assert_close(expected, copy.score(self.query, self.documents))

    def test_a_forked_child_can_score(self) -> None:
        """Before the first call, after it, and while other threads load and score."""
        if not self.forkable or not hasattr(os, "fork"):
            raise SkipTest("no fork")
        with self.make_backend() as reference:
            expected = reference.score(self.query, self.documents)

        def score() -> None:
            self.assert_close(expected, backend.score(self.query, self.documents))

        with self.make_backend() as backend:
            assert _succeeds_in_child(score), "idle"
            with ThreadPoolExecutor(1) as pool:
                loading = pool.submit(score)
                time.sleep(0.01)
                assert _succeeds_in_child(score), "while another thread loads"
                loading.result(_FORK_SECONDS)
                assert _succeeds_in_child(score), "after scoring"
                scoring = pool.submit(score)
                assert _succeeds_in_child(score), "while another thread scores"
                scoring.result(_FORK_SECONDS)
            score()

    def test_survives_pickle(self) -> None:
        """A copy sent to another process scores the same."""
        if not self.picklable:
            raise SkipTest("`picklable` is False")
        with self.make_backend() as backend:
            expected = backend.score(self.query, self.documents)
            with pickle.loads(pickle.dumps(backend)) as copy:
                assert backend.name == copy.name
                self.assert_close(expected, copy.score(self.query, self.documents))
