"""Chains of wrappers: identity, copies, specs, facts and input, in any order of wrappers."""

import asyncio
import pickle
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_plugins import ConfigError, UnsupportedInputError, arerank, load_backend
from rerank_plugins.backend import Backend
from rerank_plugins.backends.embedded import EmbeddedBackend
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.content import Content, Query, check_request
from rerank_plugins.errors import BackendError, InvalidResponse
from rerank_plugins.hooks import CallFinished
from rerank_plugins.scores import Scores, Usage
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.base import WrapperBackend
from rerank_plugins.wrappers.batching import BatchingBackend
from rerank_plugins.wrappers.breaker import CircuitBreakingBackend
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.instrument import InstrumentedBackend
from rerank_plugins.wrappers.process import ModelProcess
from rerank_plugins.wrappers.retry import RetryingBackend

WRAPPERS = {
    "batching": BatchingBackend,
    "breaker": CircuitBreakingBackend,
    "cache": CachedBackend,
    "fallback": lambda backend: FallbackBackend([backend]),
    "instrument": lambda backend: InstrumentedBackend(backend, hooks=["logging"]),
    "retry": RetryingBackend,
}
ALL = {**WRAPPERS, "process": ModelProcess}


def remote(model="m"):
    return HTTPBackend("http://localhost:9", dialect="vllm", model=model)


def skeleton(backend):
    """The structure of a backend, without its state."""
    options = backend._options() if isinstance(backend, WrapperBackend) else backend.to_spec()
    return type(backend), options, [skeleton(child) for child in backend.children]


def chain_of(leaf, names):
    """Put wrappers around a backend, innermost first; skip those that refuse it."""
    for name in names:
        with suppress(ConfigError):
            leaf = ALL[name](leaf)
    return leaf


LEAVES = st.one_of(
    st.sampled_from(["m", "other"]).map(remote),
    st.just(None).map(lambda _: EmbeddedBackend()),
)
CHAINS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(chain_of, inner, st.lists(st.sampled_from(sorted(ALL)), max_size=4)),
        st.lists(inner, min_size=1, max_size=3).map(FallbackBackend),
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(CHAINS)
def test_a_spec_round_trips_or_is_refused(backend):
    try:
        spec = backend.to_spec()
    except ConfigError:
        return

    assert skeleton(backend) == skeleton(load_backend(spec))


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["retry"],
        ["breaker"],
        ["cache"],
        ["instrument"],
        ["retry", "breaker"],
        ["retry", "breaker", "cache", "instrument"],
    ],
    ids="+".join,
)
def test_a_chain_that_a_file_can_build_has_a_spec(names):
    backend = chain_of(remote(), names)

    assert skeleton(backend) == skeleton(load_backend(backend.to_spec()))


def test_a_fallback_chain_of_remote_and_local_backends_is_written():
    backend = FallbackBackend(
        [chain_of(remote(), ["retry", "cache"]), CachedBackend(EmbeddedBackend())]
    )

    assert skeleton(backend) == skeleton(load_backend(backend.to_spec()))


@pytest.mark.parametrize(
    "build",
    [
        lambda: RetryingBackend(EmbeddedBackend()),
        lambda: RetryingBackend(CachedBackend(remote())),
        lambda: RetryingBackend(RetryingBackend(remote())),
        lambda: RetryingBackend(InstrumentedBackend(remote(), hooks=["logging"])),
        lambda: BatchingBackend(remote()),
        lambda: ModelProcess(EmbeddedBackend()),
        lambda: FallbackBackend([remote()]),
        lambda: FallbackBackend([RetryingBackend(remote()), remote()]),
        lambda: FallbackBackend([remote(), CachedBackend(remote())]),
        lambda: FallbackBackend([FallbackBackend([remote(), remote("b")]), remote("c")]),
        lambda: FallbackBackend([RetryingBackend(remote()), RetryingBackend(EmbeddedBackend())]),
    ],
)
def test_a_chain_that_no_file_can_build_has_no_spec(build):
    with pytest.raises(ConfigError, match="can't be written"):
        build().to_spec()


class Unloadable(FakeBackend):
    """Its name needs a model, which must not be loaded."""

    @property
    def name(self):
        raise AssertionError("loaded the model")


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_identity_loads_nothing(wrap):
    backend = wrap(Unloadable())
    (leaf,) = backend.children

    assert [backend, leaf] == list(backend.walk())
    assert leaf.model == backend.model or isinstance(backend, FallbackBackend)
    assert leaf.label == backend.label
    assert backend.kind
    assert repr(leaf) in repr(backend)
    assert None is backend.endpoint


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_of_a_server_names_the_server(wrap):
    assert "localhost:9" == wrap(remote()).endpoint


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_a_copy_has_other_children_and_the_same_options(wrap):
    backend = wrap(FakeBackend(name="one"))
    other = FakeBackend(name="other")
    copy = backend.with_children([other])

    assert (other,) == copy.children
    assert "one" == backend.children[0].name
    assert (type(backend), backend._options()) == (type(copy), copy._options())
    with pytest.raises(ConfigError, match="can't have 2"):
        backend.with_children([other, other])


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
@pytest.mark.parametrize("wrong", ["embedded", None, FakeBackend], ids=repr)
def test_wrapping_anything_but_a_backend_is_refused(wrap, wrong):
    with pytest.raises(ConfigError, match="needs backends, not"):
        wrap(wrong)


def test_a_copy_is_checked_like_any_other():
    listwise = FakeBackend()
    listwise.pointwise = listwise.cacheable = False
    for wrap in (BatchingBackend, CachedBackend):
        with pytest.raises(ConfigError):
            wrap(FakeBackend()).with_children([listwise])


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_a_pickled_copy_is_the_same_chain(wrap):
    backend = wrap(remote())

    assert skeleton(backend) == skeleton(pickle.loads(pickle.dumps(backend)))


class Seeing(Backend):
    """Scores texts and images, and takes instructions; returns facts."""

    inputs = frozenset({"text", "image"})
    instructions = True
    name = "seeing"
    scale = "logit"

    def score(self, query, documents):
        weight = 100.0 if isinstance(query, Query) else 0.0
        return Scores(
            [weight + (10.0 if isinstance(item, Content) else len(item)) for item in documents],
            backend=self.name,
            scale=self.scale,
            truncated=[place for place, item in enumerate(documents) if item == "long"],
            usage=Usage(tokens=len(documents)),
        )


class Plain(Backend):
    """A user's backend, which returns a list."""

    name = "plain"
    scale = "logit"

    def score(self, query, documents):
        return [float(len(document)) for document in documents]


QUERY = Query("q", instruction="judge")
IMAGE = Content(image=b"\x89PNG")


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_input_that_the_backend_can_score_is_passed_on(wrap, ask):
    with wrap(Seeing()) as backend:
        assert [110.0, 102.0] == backend.score(QUERY, [IMAGE, "ab"])
        assert [10.0, 1.0] == ask(backend, [IMAGE, "a"])
    with wrap(Plain()) as backend:
        for query, documents in ((QUERY, ["a"]), ("q", [IMAGE])):
            with pytest.raises(UnsupportedInputError):
                backend.score(query, documents)


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_facts_survive(wrap, ask):
    with wrap(Seeing()) as backend:
        scores = ask(backend, ["a", "long", "bb"])

    assert [1.0, 4.0, 2.0] == scores
    assert ({1}, "seeing", "logit") == (scores.truncated, scores.backend, scores.scale)
    assert (Usage(tokens=3), 0) == (scores.usage, scores.cached)


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_a_plain_list_becomes_scores(wrap, ask):
    with wrap(Plain()) as backend:
        scores = ask(backend, ["a", "bb"])

    assert ([1.0, 2.0], "plain", "logit") == (scores, scores.backend, scores.scale)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(WRAPPERS)), max_size=6))
def test_any_order_of_wrappers_scores_with_all_facts(names):
    with chain_of(Seeing(), names) as backend:
        scores = backend.score(QUERY, [IMAGE, "long"])
        many = backend.score_many([("q", ["a", "long"]), (QUERY, [])])

    assert ([110.0, 104.0], {1}, "seeing") == (scores, scores.truncated, scores.backend)
    assert ([[1.0, 4.0], []], {1}) == (many, many[0].truncated)


class Short(Plain):
    """Returns one list too few."""

    def score_many(self, requests):
        return super().score_many(requests)[1:]


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_too_few_lists_are_an_invalid_response(wrap):
    with wrap(Short()) as backend, pytest.raises(InvalidResponse, match="got 0 lists"):
        backend.score_many([("q", ["a"])])


class Slow(Plain):
    """Needs time to return its name, and returns a plain list."""

    label = "slow"

    @property
    def name(self):
        time.sleep(0.3)
        return "slow"


@pytest.mark.parametrize("wrap", [lambda backend: backend, *WRAPPERS.values()])
def test_a_name_does_not_block_the_loop(wrap):
    async def longest_pause(awaitable):
        task, pause = asyncio.ensure_future(awaitable), 0.0
        while not task.done():
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            pause = max(pause, time.perf_counter() - before)
        await task
        return pause

    assert 0.2 > asyncio.run(longest_pause(arerank("q", ["a", "bb"], backend=wrap(Slow()))))


class Streaming(Plain):
    """Yields the lists of scores one by one."""

    def score_many(self, requests):
        yield from super().score_many(requests)


class Silent(Plain):
    """Returns None."""

    def score_many(self, requests):
        super().score_many(requests)


def test_a_spec_of_a_users_backend_must_name_its_kind():
    class Nameless(Plain):
        def to_spec(self):
            return {"size": 1}

    with pytest.raises(ConfigError, match="names no `kind`"):
        CachedBackend(Nameless()).to_spec()


def test_a_fallback_chain_is_made_of_a_list():
    with pytest.raises(ConfigError, match="must be a list of backends, not <Plain>"):
        FallbackBackend(Plain())


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_lists_of_scores_may_be_yielded_but_must_be_there(wrap):
    with wrap(Streaming()) as backend:
        assert [[1.0], [2.0]] == backend.score_many([("q", ["a"]), ("q", ["bb"])])
    with wrap(Silent()) as backend, pytest.raises(InvalidResponse, match="got `NoneType`"):
        backend.score_many([("q", ["a"])])


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_requests_may_be_yielded(wrap):
    with wrap(Plain()) as backend:
        assert [[1.0], [2.0]] == backend.score_many(("q", [text]) for text in ("a", "bb"))


class Exhausted(Plain):
    """Raises `StopIteration`, which no future can hold."""

    def score(self, query, documents):
        return [next(iter(()))]


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_a_stray_stop_iteration_reaches_the_caller_as_an_error(wrap):
    async def wait(backend):
        await asyncio.wait_for(backend.ascore("q", ["a"]), 30)

    with wrap(Exhausted()) as backend:
        with pytest.raises((BackendError, RuntimeError), match="StopIteration"):
            backend.score("q", ["a"])
        with pytest.raises(BackendError, match="StopIteration"):
            asyncio.run(wait(backend))


class Checking(Seeing):
    """Counts the documents that it has to check."""

    def __init__(self):
        self.checked = 0

    def score(self, query, documents):
        checked = check_request(query, documents, inputs=self.inputs, instructions=True)
        self.checked += checked[1] is not documents
        return super().score(*checked)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(WRAPPERS)), min_size=1, max_size=6))
def test_a_request_is_checked_once_in_any_order_of_wrappers(names):
    leaf = Checking()
    with chain_of(leaf, names) as backend:
        backend.score(QUERY, [IMAGE, "a", "a"])
        backend.score_many([("q", ["b"]), ("q", ["c", "d"])])

    assert 0 == leaf.checked


class Careless(Seeing):
    """A user's wrapper that says it scores images and hands all on to a text-only backend."""

    inner = FakeBackend()

    def score(self, query, documents):
        return self.inner.score(query, documents)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_text_backend_checks_input_that_a_wrapper_let_pass(wrap, ask):
    with wrap(Careless()) as backend:
        with pytest.raises(UnsupportedInputError, match="document 0 holds an image"):
            ask(backend, [IMAGE])
        with pytest.raises(UnsupportedInputError, match="the query holds an instruction"):
            backend.score(QUERY, ["a"])


# What the cache adds to the facts.


def test_scores_from_the_cache_are_counted_and_cost_nothing(ask):
    backend = CachedBackend(Seeing())
    ask(backend, ["a", "long"])
    scores = ask(backend, ["new", "long", "a", "new"])

    assert [3.0, 4.0, 1.0, 3.0] == scores
    assert (2, {1}, Usage(tokens=1)) == (scores.cached, scores.truncated, scores.usage)
    assert None is ask(backend, ["a"]).usage


def test_usage_is_counted_once_for_requests_that_share_it():
    backend = CachedBackend(Seeing())
    one, other = backend.score_many([("q", ["a", "b"]), ("q", ["b", "c"])])

    assert (Usage(tokens=3), None) == (one.usage, other.usage)
    assert (0, 0) == (one.cached, other.cached)


def test_cached_scores_are_counted_once_for_requests_that_share_them():
    inner = CachedBackend(Seeing())
    inner.score("q", ["a"])
    one, other = CachedBackend(inner).score_many([("q", ["a", "b"]), ("q", ["b", "c"])])

    assert (1, 0) == (one.cached, other.cached)


def test_a_request_without_documents_has_the_scale_of_the_others():
    empty, full = CachedBackend(Seeing()).score_many([("q", []), ("q", ["a"])])

    assert ([], "logit", "logit") == (empty, empty.scale, full.scale)


def test_queries_and_documents_with_images_have_scores_of_their_own():
    backend = CachedBackend(Seeing())
    backend.score("q", ["a"])
    for query, document in (
        (QUERY, "a"),
        (Query("q", instruction="other"), "a"),
        (Query("q", image=b"q"), "a"),
        ("q", Content("a", image=b"a")),
        ("q", Content("a", image=b"b")),
        ("q", Content("a", image="b")),
    ):
        assert 0 == backend.score(query, [document]).cached
        assert 1 == backend.score(query, [document]).cached


# What hooks receive.


def test_the_end_of_a_call_has_the_facts_of_its_scores(ask):
    events = []
    backend = InstrumentedBackend(CachedBackend(Seeing()), hooks=[events.append])
    ask(backend, ["a", "long"])
    ask(backend, ["long", "bb"])
    first, second = (event for event in events if isinstance(event, CallFinished))

    assert (2, 1, 0, None) == (first.tokens, first.truncated, first.cached, first.scored_by)
    assert (1, 1, 1) == (second.tokens, second.truncated, second.cached)


def test_the_end_of_a_call_names_who_scored_where_there_is_a_choice(ask):
    events = []
    ask(InstrumentedBackend(FallbackBackend([Seeing(), Plain()]), hooks=[events.append]))

    assert "seeing" == events[-1].scored_by
