"""The LangChain adapter, against the installed LangChain."""

import asyncio
import copy
import importlib
import json
import math
import pickle
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import bm25s
import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.load import dumpd, dumps, loads
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableLambda,
    RunnablePassthrough,
)
from langchain_core.tracers.context import collect_runs
from langchain_core.vectorstores import InMemoryVectorStore

from rerank_plugins import (
    Backend,
    BackendOverloaded,
    ConfigError,
    InvalidResponse,
    MissingDependencyError,
    UnsupportedInputError,
    load_backend,
)
from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.testing import FailingBackend, FakeBackend

QUERY = "giant panda bear"
TEXTS = (
    "Paris is the capital of France.",
    "A panda is a bear.",
    "The giant panda is a bear of China.",
    "The sun bear lives in trees.",
    "Nothing at all.",
)
BEST_FIRST = [2, 1, 3, 0, 4]
SCORES = [1.0, 2 / 3, 1 / 3, 0.0, 0.0]


class BM25Retriever(BaseRetriever):
    """A real retriever of a few lines; it takes `k` with the call."""

    documents: list[Document]
    k: int = 4

    def _get_relevant_documents(self, query, *, run_manager, k=None):
        index = bm25s.BM25()
        texts = [document.page_content for document in self.documents]
        index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
        tokens = bm25s.tokenize(query, show_progress=False)
        found, _ = index.retrieve(tokens, k=k or self.k, show_progress=False)
        return [self.documents[position] for position in found[0]]

    async def _aget_relevant_documents(self, query, *, run_manager, k=None):
        return self._get_relevant_documents(query, run_manager=run_manager, k=k)


class Gold(Document):
    """A subclass with a field of its own."""

    grade: int


class AsyncBackend(FakeBackend):
    """Answers on the event loop; its sync method must not be used."""

    def score(self, query, documents):
        raise AssertionError

    async def ascore(self, query, documents):
        self.thread = threading.current_thread()
        await asyncio.sleep(0)
        return FakeBackend.score(self, query, documents)


class WrittenBackend(FakeBackend):
    """Says that it is the embedded backend."""

    def to_spec(self):
        return {"kind": "embedded"}


class Answers(Backend):
    """Answers with the same list, right or wrong."""

    name = "answers"

    def __init__(self, scores, scale="unknown"):
        self.scores = scores
        self.scale = scale

    def score(self, query, documents):
        return self.scores


def documents():
    return [Document(text, id=f"d{n}", metadata={"n": n}) for n, text in enumerate(TEXTS)]


def request(**settings):
    return {"documents": documents(), "query": QUERY, **settings}


def order(found):
    return [document.metadata["n"] for document in found]


def everything(top_n=None, **settings):
    return RerankCompressor(backend=FakeBackend(), top_n=top_n, **settings)


def tree(run):
    """The names of a run and of the runs under it."""
    return {run.name: [tree(child) for child in run.child_runs]} if run.child_runs else run.name


def run_in_two_loops(make):
    return asyncio.run(make()), asyncio.run(make())


# Order, cut and copies


def test_best_documents_come_first():
    found = everything().compress_documents(documents(), QUERY)

    assert BEST_FIRST == order(found)
    assert SCORES == [document.metadata["relevance_score"] for document in found]
    assert [3, 2, 4, 1, 5] == [document.metadata["retriever_rank"] for document in found]
    assert all(type(document.metadata["relevance_score"]) is float for document in found)


def test_equal_scores_keep_their_order():
    compressor = RerankCompressor(backend=FakeBackend(lambda q, d: 0.5), top_n=None)

    assert [0, 1, 2, 3, 4] == order(compressor.compress_documents(documents(), QUERY))


@pytest.mark.parametrize(("top_n", "kept"), [(None, 5), (0, 0), (1, 1), (5, 5), (99, 5)])
def test_top_n_cuts(top_n, kept):
    assert BEST_FIRST[:kept] == order(everything(top_n).compress_documents(documents(), QUERY))


def test_three_documents_are_kept_by_default():
    assert BEST_FIRST[:3] == order(RerankCompressor(FakeBackend()).invoke(request()))


def test_min_score_cuts():
    assert BEST_FIRST[:2] == order(everything(min_score=0.5).compress_documents(documents(), QUERY))


def test_min_score_cuts_logits():
    compressor = RerankCompressor(Answers([3.0, -1.0, 0.5], "logit"), min_score=0)

    assert [0, 2] == order(compressor.compress_documents(documents()[:3], QUERY))


def test_id_subclass_and_metadata_survive():
    gold = Gold(page_content=QUERY, id="g", metadata={"source": "s", "score": 7}, grade=4)
    (found,) = everything().compress_documents([gold], QUERY)

    assert Gold is type(found)
    assert ("g", 4, QUERY) == (found.id, found.grade, found.page_content)
    assert {"source": "s", "score": 7, "relevance_score": 1.0, "retriever_rank": 1} == (
        found.metadata
    )


def test_nothing_of_the_callers_changes():
    given = documents()
    before = copy.deepcopy(given)
    found = everything().compress_documents(given, QUERY)
    for document in found:
        document.metadata["mine"] = True

    assert before == given
    assert not {id(document) for document in found} & {id(document) for document in given}


def test_new_score_wins_over_a_stale_one():
    stale = Document(QUERY, metadata={"relevance_score": 0.01})
    (found,) = everything().compress_documents([stale], QUERY)

    assert 1.0 == found.metadata["relevance_score"]
    assert 0.01 == found.metadata["retriever_score"]


def test_second_reranker_keeps_what_the_retriever_said():
    given = documents()
    for document in given:
        document.metadata["relevance_score"] = 10.0 - document.metadata["n"]
    backwards = RerankCompressor(Answers([0.0, 1.0, 2.0, 3.0, 4.0]), top_n=None)
    once = everything().compress_documents(given, QUERY)
    twice = backwards.compress_documents(once, QUERY)

    assert BEST_FIRST[::-1] == order(twice)
    for document in twice:
        n = document.metadata["n"]
        assert n + 1 == document.metadata["retriever_rank"]
        assert 10.0 - n == document.metadata["retriever_score"]


def test_results_are_json():
    found = everything().compress_documents(documents(), QUERY)

    assert json.loads(json.dumps([document.metadata for document in found]))


# Input


@pytest.mark.parametrize("empty", [[], ()])
def test_no_documents_give_none_without_work(empty):
    backend = FakeBackend()
    compressor = RerankCompressor(backend)

    assert [] == compressor.compress_documents(empty, QUERY)
    assert [] == asyncio.run(compressor.acompress_documents(empty, ""))
    assert [] == backend.calls


BAD_INPUT = {
    "blank query": (documents(), " \n", "white space"),
    "bytes for documents": (b"text", QUERY, "not `bytes`"),
    "dictionary": ([{"page_content": "x"}], QUERY, "document 0 must be"),
    "lone surrogate in the query": (documents(), "\ud800", "lone surrogate"),
    "none among documents": ([*documents(), None], QUERY, "document 5 must be .*NoneType"),
    "none for documents": (None, QUERY, "not `NoneType`"),
    "none query": (documents(), None, "the query must be a string"),
    "number": (documents(), 3, "the query must be a string"),
    "one document": (documents()[0], QUERY, "must be a list"),
    "one string": ("text", QUERY, "not `str`"),
    "strings": (["text"], QUERY, "document 0 must be a LangChain `Document`, not `str`"),
    "text missing": (
        [Document.model_construct(page_content=None, metadata={})],
        QUERY,
        "0 must be",
    ),
    "lone surrogate": (
        [Document.model_construct(page_content="\udfff", metadata={})],
        QUERY,
        "lone surrogate",
    ),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_refused(kind):
    given, query, message = BAD_INPUT[kind]
    compressor = everything()

    with pytest.raises(UnsupportedInputError, match=message):
        compressor.compress_documents(given, query)
    with pytest.raises(UnsupportedInputError, match=message):
        asyncio.run(compressor.acompress_documents(given, query))
    with pytest.raises(UnsupportedInputError, match=message):
        compressor.invoke({"documents": given, "query": query})


def test_odd_text_is_scored():
    odd = ["", " ", "nul \x00", "大熊猫", "الباندا", "panda " * 175_000, "giant"]
    found = everything().compress_documents([Document(text) for text in odd], QUERY)

    assert len(odd) == len(found)
    assert {"panda " * 175_000, "giant"} == {document.page_content for document in found[:2]}


def test_ten_thousand_documents_are_scored():
    found = everything(5).compress_documents(documents() * 2_000, QUERY)

    assert [2] * 5 == order(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (documents(), r"must be a mapping \{.*not `list`"),
        (QUERY, "not `str`"),
        ({"documents": []}, "lacks `query`"),
        ({"query": QUERY}, "lacks `documents`"),
    ],
)
def test_input_of_a_wrong_shape_is_refused(given, message):
    with pytest.raises(UnsupportedInputError, match=message):
        everything().invoke(given)


# Backends that fail


@pytest.mark.parametrize(
    "scores", [[1.0], [1.0] * 6, [1.0, math.nan, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, math.inf], []]
)
def test_wrong_answers_are_errors(scores):
    """Not fewer documents, not a random order."""
    compressor = RerankCompressor(Answers(scores))

    with pytest.raises(InvalidResponse):
        compressor.compress_documents(documents(), QUERY)
    with pytest.raises(InvalidResponse):
        asyncio.run(compressor.acompress_documents(documents(), QUERY))


def test_outage_is_an_error():
    """A reranker that is down is not the same as nothing found."""
    compressor = RerankCompressor(FailingBackend(BackendOverloaded("busy", retry_after=2.0)))

    with pytest.raises(BackendOverloaded) as caught:
        compressor.compress_documents(documents(), QUERY)
    assert 2.0 == caught.value.retry_after
    with pytest.raises(BackendOverloaded):
        asyncio.run(compressor.acompress_documents(documents(), QUERY))


def test_numpy_scores_become_floats():
    numpy = pytest.importorskip("numpy")
    compressor = RerankCompressor(Answers(numpy.array([0.5, 0.25], dtype=numpy.float32)))
    found = compressor.compress_documents(documents()[:2], QUERY)

    assert [float, float] == [type(document.metadata["relevance_score"]) for document in found]


# Settings


@pytest.mark.parametrize("top_n", [-1, 1.5, "5", True, math.inf])
def test_wrong_top_n_is_refused(top_n):
    with pytest.raises(ConfigError, match="top_n"):
        RerankCompressor(FakeBackend(), top_n=top_n)
    with pytest.raises(ConfigError, match="top_n"):
        RerankRetriever(RunnableLambda(len), backend=FakeBackend(), top_n=top_n)
    with pytest.raises(ConfigError, match="top_n"):
        everything().invoke(request(top_n=top_n))


@pytest.mark.parametrize("min_score", [math.nan, math.inf, "0.5", True])
def test_wrong_min_score_is_refused(min_score):
    with pytest.raises(ConfigError, match="min_score"):
        RerankCompressor(FakeBackend(), min_score=min_score)
    with pytest.raises(ConfigError, match="min_score"):
        everything().invoke(request(min_score=min_score))


def test_min_score_needs_a_scale():
    compressor = RerankCompressor(FakeBackend(scale="unknown"))

    with pytest.raises(ConfigError, match="server_scale=logit"):
        RerankCompressor(FakeBackend(scale="unknown"), min_score=0.5)
    with pytest.raises(ConfigError, match="server_scale=logit"):
        compressor.invoke(request(min_score=0.5))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("api_key", "api_key_env"),
        ("base_url", "xinference\\+http"),
        ("batch_size", "batch_tokens"),
        ("device", "device=cuda:0"),
        ("k", "is called `top_n`"),
        ("model", "local:"),
        ("model_name", "local:"),
        ("model_uid", "xinference"),
        ("score_threshold", "is called `min_score`"),
        ("server_url", "xinference\\+http"),
        ("top_k", "is called `top_n`"),
        ("topn", "did you mean 'top_n'"),
        ("whatever", "valid: backend, min_score, name, on_error, top_n"),
    ],
)
def test_names_from_elsewhere_are_answered(name, answer):
    with pytest.raises(ConfigError, match=answer) as caught:
        RerankCompressor(**{name: "s3cret"})

    assert "s3cret" not in str(caught.value)
    assert "RerankCompressor" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "answer"), [("base_retriever", "retriever"), ("top_k", "`top_n`")]
)
def test_retriever_answers_names_from_elsewhere(name, answer):
    with pytest.raises(ConfigError, match=answer):
        RerankRetriever(RunnableLambda(len), backend=FakeBackend(), **{name: 1})


@pytest.mark.parametrize(
    ("name", "answer"),
    [("base_retriever", "first argument .* `retriever`"), ("base_compressor", "`backend`")],
)
def test_retriever_answers_the_names_of_contextual_compression(name, answer):
    with pytest.raises(ConfigError, match=answer):
        RerankRetriever(**{name: RunnableLambda(len)})


def test_unknown_settings_of_a_call_are_answered():
    with pytest.raises(ConfigError, match="is called `top_n`"):
        everything().invoke(request(k=3))
    with pytest.raises(ConfigError, match=r"RerankCompressor.invoke.*valid: documents, min_score"):
        everything().invoke(request(), verbose=True)


def test_settings_assigned_later_are_checked():
    compressor = everything()
    compressor.top_n = 1
    assert [2] == order(compressor.invoke(request()))
    compressor.top_n = -1
    with pytest.raises(ConfigError, match="top_n"):
        compressor.invoke(request())
    with pytest.raises(ValueError, match="backend"):
        compressor.backend = "embedded"


def test_validation_errors_show_no_values():
    with pytest.raises(ValueError, match="api_key_env") as caught:
        RerankCompressor.model_validate({"backend": FakeBackend(), "api_key": "s3cret"})

    assert "s3cret" not in str(caught.value)


def test_backend_is_what_load_backend_takes(tmp_path, monkeypatch):
    backend = FakeBackend()
    path = tmp_path / "rerank.toml"
    path.write_text('[backend]\nkind = "local"\nmodel = "some/model"\n')
    monkeypatch.setenv("RERANK_BACKEND", "local:some/model")
    expected = load_backend("local:some/model").to_spec()

    assert backend is RerankCompressor(backend).backend
    for spec in (
        "local:some/model",
        {"kind": "local", "model": "some/model"},
        {"backend": {"kind": "local", "model": "some/model"}},
        path,
        str(path),
        None,
    ):
        assert expected == RerankCompressor(backend=spec).backend.to_spec()


def test_wrong_spec_is_a_config_error():
    with pytest.raises(ConfigError, match="unknown kind"):
        RerankCompressor(backend="nonsense")
    with pytest.raises(ConfigError, match="must be a string"):
        RerankCompressor(backend=3)


def test_retriever_must_be_one():
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))

    with pytest.raises(ConfigError, match=r"InMemoryVectorStore.*as_retriever\(\)"):
        RerankRetriever(store, backend=FakeBackend())


def test_missing_framework_names_the_extra(monkeypatch):
    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "langchain_core":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [*sys.modules]:
        if name.partition(".")[0] == "langchain_core" or name == "rerank_plugins.langchain":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])

    with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[langchain\]"):
        importlib.import_module("rerank_plugins.langchain")


# A Runnable


def test_is_a_compressor_and_a_runnable():
    assert isinstance(everything(), BaseDocumentCompressor)
    assert isinstance(everything(), Runnable)


def test_stands_in_a_chain():
    found = RunnableLambda(lambda query: documents())
    chain = {"documents": found, "query": RunnablePassthrough()} | everything(2) | order

    assert [2, 1] == chain.invoke(QUERY)
    assert [2, 1] == asyncio.run(chain.ainvoke(QUERY))
    assert [[2, 1], [0, 2]] == chain.batch([QUERY, "capital of trees"])
    assert [2, 1] == list(chain.stream(QUERY))[-1]
    assert "RerankCompressor" in chain.get_graph().draw_mermaid()


def test_describes_its_input_and_output():
    assert {"documents", "query", "top_n", "min_score"} == set(
        everything().get_input_jsonschema()["$defs"]["RerankInput"]["properties"]
    )
    assert "array" == everything().get_output_jsonschema()["type"]


def test_settings_for_one_call():
    compressor = everything(top_n=4)

    assert BEST_FIRST[:1] == order(compressor.invoke(request(top_n=1)))
    assert BEST_FIRST[:1] == order(compressor.invoke(request(top_n=3), top_n=1))
    assert BEST_FIRST[:1] == order(compressor.bind(top_n=1).invoke(request()))
    assert BEST_FIRST == order(compressor.invoke(request(top_n=None)))
    assert [] == order(compressor.invoke(request(top_n=0)))
    assert BEST_FIRST[:2] == order(compressor.invoke(request(min_score=0.5)))
    assert BEST_FIRST[:4] == order(compressor.invoke(request()))


def test_configurable_fields():
    compressor = everything(top_n=4).configurable_fields(
        top_n=ConfigurableField(id="top_n"), min_score=ConfigurableField(id="min_score")
    )

    def found(**configurable):
        return order(compressor.invoke(request(), {"configurable": configurable}))

    assert BEST_FIRST[:4] == found()
    assert BEST_FIRST[:1] == found(top_n=1)
    assert BEST_FIRST[:2] == found(top_n=None, min_score=0.5)
    with pytest.raises(ConfigError, match="top_n"):
        found(top_n=-1)


def test_configurable_alternatives_swap_local_for_remote():
    compressor = everything(1).configurable_alternatives(
        ConfigurableField(id="where"), default_key="here", there=everything(2)
    )

    assert [2] == order(compressor.invoke(request()))
    assert [2, 1] == order(compressor.invoke(request(), {"configurable": {"where": "there"}}))


def test_batch_keeps_requests_apart():
    requests = [request(top_n=n % 6) for n in range(40)]
    compressor = everything()
    expected = [BEST_FIRST[: n % 6] for n in range(40)]

    async def gather():
        return await asyncio.gather(*(compressor.ainvoke(one) for one in requests))

    assert expected == [order(found) for found in compressor.batch(requests)]
    assert expected == [order(found) for found in asyncio.run(compressor.abatch(requests))]
    assert expected == [order(found) for found in asyncio.run(gather())]
    with ThreadPoolExecutor(8) as pool:
        assert expected == [order(found) for found in pool.map(compressor.invoke, requests)]


def test_batch_can_return_exceptions():
    good, bad = everything().batch([request(), request(top_n=-1)], return_exceptions=True)

    assert BEST_FIRST == order(good)
    assert isinstance(bad, ConfigError)


def test_async_calls_use_the_backends_own():
    backend = AsyncBackend()
    compressor = RerankCompressor(backend)

    async def ask():
        found = await compressor.acompress_documents(documents(), QUERY)
        assert backend.thread is threading.current_thread()
        return order(found)

    assert (BEST_FIRST[:3], BEST_FIRST[:3]) == run_in_two_loops(ask)


def test_name_of_the_backend_is_not_asked_for():
    """It may load a model: too early for empty input, and not on the event loop."""

    class Slow(AsyncBackend):
        name = property(lambda self: pytest.fail("asked for the name"))

        def __repr__(self):
            return "<Slow>"

    compressor = RerankCompressor(Slow())

    assert [] == compressor.compress_documents([], QUERY)
    assert BEST_FIRST[:3] == order(asyncio.run(compressor.ainvoke(request())))
    assert "<Slow>" in repr(compressor)


def test_cancelling_reaches_the_backend_and_the_caller():
    outcome = []

    class Endless(FakeBackend):
        async def ascore(self, query, documents):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                outcome.append("backend")
                raise

    async def ask():
        with collect_runs() as runs:
            task = asyncio.create_task(RerankCompressor(Endless()).ainvoke(request()))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            (run,) = runs.traced_runs
            assert "CancelledError" in run.error

    asyncio.run(ask())

    assert ["backend"] == outcome


def test_timeout_around_a_call_is_a_timeout():
    class Endless(FakeBackend):
        async def ascore(self, query, documents):
            await asyncio.sleep(3600)

    async def ask():
        retriever = RerankRetriever(RunnableLambda(lambda q: documents()), backend=Endless())
        async with asyncio.timeout(0.01):
            await retriever.ainvoke(QUERY)

    with pytest.raises(TimeoutError):
        asyncio.run(ask())


# Traces


def test_each_call_is_one_run():
    compressor = everything(2)

    async def ask():
        await compressor.ainvoke(request())
        await compressor.acompress_documents(documents(), QUERY)

    with collect_runs() as runs:
        compressor.invoke(request())
        compressor.compress_documents(documents(), QUERY)
        asyncio.run(ask())

    assert ["RerankCompressor"] * 4 == [tree(run) for run in runs.traced_runs]
    for run in runs.traced_runs:
        assert {**request(), "top_n": 2, "min_score": None} == run.inputs
        assert [2, 1] == order(run.outputs["output"])
        assert "fake" == run.metadata["rerank_backend"]
        assert "probability" == run.metadata["rerank_scale"]


def test_run_can_be_named():
    with collect_runs() as runs:
        everything(name="second stage").invoke(request())
        everything().invoke(
            request(), {"run_name": "this time", "tags": ["t"], "metadata": {"m": 1}}
        )

    assert ["second stage", "this time"] == [run.name for run in runs.traced_runs]
    assert ["t"] == runs.traced_runs[1].tags
    assert 1 == runs.traced_runs[1].metadata["m"]
    assert "fake" == runs.traced_runs[1].metadata["rerank_backend"]


def test_failing_call_is_a_failed_run():
    compressor = RerankCompressor(FailingBackend(BackendOverloaded("busy")))

    with collect_runs() as runs:
        with pytest.raises(BackendOverloaded):
            compressor.compress_documents(documents(), QUERY)
        with pytest.raises(BackendOverloaded):
            asyncio.run(compressor.acompress_documents(documents(), QUERY))

    assert 2 == len(runs.traced_runs)
    assert all("busy" in run.error for run in runs.traced_runs)
    assert all(run.end_time for run in runs.traced_runs)


def test_callbacks_given_to_the_compressor_are_called():
    seen = []

    class Sync(BaseCallbackHandler):
        def on_chain_start(self, serialized, inputs, **kwargs):
            seen.append(("start", kwargs["name"]))

        def on_chain_end(self, outputs, **kwargs):
            seen.append(("end", order(outputs)))

    class Async(AsyncCallbackHandler):
        async def on_chain_end(self, outputs, **kwargs):
            seen.append(("async end", order(outputs)))

    everything(1).compress_documents(documents(), QUERY, [Sync()])
    assert [("start", "RerankCompressor"), ("end", [2])] == seen

    seen.clear()
    asyncio.run(everything(1).acompress_documents(documents(), QUERY, callbacks=[Async()]))
    assert [("async end", [2])] == seen


def test_call_without_callbacks_joins_the_run_around_it():
    """A compressor called by hand in a chain's function is seen too."""
    compressor = everything()
    outer = RunnableLambda(lambda q: compressor.compress_documents(documents(), q)).with_config(
        run_name="outer"
    )

    with collect_runs() as runs:
        outer.invoke(QUERY)

    assert [{"outer": ["RerankCompressor"]}] == [tree(run) for run in runs.traced_runs]


def test_events_can_be_streamed():
    async def events():
        return [
            (event["event"], order(event["data"]["output"]) if "output" in event["data"] else None)
            async for event in everything(1).astream_events(request(), version="v2")
            if event["name"] == "RerankCompressor"
        ]

    assert ("on_chain_start", None) == asyncio.run(events())[0]
    assert ("on_chain_end", [2]) == asyncio.run(events())[-1]


# LangChain's own wrappers


def wrapped(compressor):
    return ContextualCompressionRetriever(
        base_compressor=compressor,
        base_retriever=BM25Retriever(documents=documents()),
    )


def test_contextual_compression_retriever_takes_us():
    retriever = wrapped(everything(2))

    assert [2, 1] == order(retriever.invoke(QUERY))
    assert [2, 1] == order(asyncio.run(retriever.ainvoke(QUERY)))


def test_contextual_compression_retriever_shows_the_reranking():
    with collect_runs() as runs:
        wrapped(everything(2)).invoke(QUERY)
        asyncio.run(wrapped(everything(2)).ainvoke(QUERY))

    expected = {"ContextualCompressionRetriever": ["BM25Retriever", "RerankCompressor"]}
    assert [expected, expected] == [tree(run) for run in runs.traced_runs]


def test_pipelines_take_us():
    pipeline = DocumentCompressorPipeline(transformers=[everything(4), everything(2)])

    with collect_runs() as runs:
        assert [2, 1] == order(wrapped(pipeline).invoke(QUERY))
        assert [2, 1] == order(asyncio.run(wrapped(pipeline).ainvoke(QUERY)))
    for run in runs.traced_runs:
        assert ["BM25Retriever", "RerankCompressor", "RerankCompressor"] == [
            child.name for child in run.child_runs
        ]
    assert [] == pipeline.compress_documents([], QUERY)


# The retriever


def test_retriever_reranks_what_it_finds():
    retriever = RerankRetriever(
        BM25Retriever(documents=documents()), backend=FakeBackend(), top_n=2
    )
    found = retriever.invoke(QUERY)

    assert [2, 1] == order(found)
    assert [1.0, 2 / 3] == [document.metadata["relevance_score"] for document in found]
    assert [2, 1] == order(asyncio.run(retriever.ainvoke(QUERY)))
    assert [[2, 1], [0, 3]] == [order(one) for one in retriever.batch([QUERY, "capital of trees"])]


def test_retriever_over_a_vector_store():
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(documents())
    retriever = RerankRetriever(
        store.as_retriever(search_kwargs={"k": 5}), backend=FakeBackend(), top_n=3
    )
    found = retriever.invoke(QUERY)

    assert BEST_FIRST[:3] == order(found)
    assert ["d2", "d1", "d3"] == [document.id for document in found]
    assert "relevance_score" not in store.get_by_ids(["d2"])[0].metadata
    assert (BEST_FIRST[:3], BEST_FIRST[:3]) == tuple(
        order(one) for one in run_in_two_loops(lambda: retriever.ainvoke(QUERY))
    )


def test_retriever_takes_settings_with_the_call():
    retriever = RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend())

    assert [2] == order(retriever.invoke(QUERY, top_n=1))
    assert 4 == len(retriever.invoke(QUERY, top_n=None))
    assert [2, 1] == order(retriever.invoke(QUERY, min_score=0.5))
    assert [2] == order(asyncio.run(retriever.ainvoke(QUERY, top_n=1)))
    assert 3 == len(retriever.invoke(QUERY))
    with pytest.raises(ConfigError, match="top_n"):
        retriever.invoke(QUERY, top_n=-1)


def test_other_keywords_reach_the_inner_retriever():
    retriever = RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend())

    assert 2 == len(retriever.invoke(QUERY, k=2))
    assert 5 == len(asyncio.run(retriever.ainvoke(QUERY, k=5, top_n=None)))


@pytest.mark.parametrize(
    ("name", "answer"), [("top_k", "called `top_n`"), ("score_threshold", "called `min_score`")]
)
def test_misnamed_settings_of_a_call_do_not_reach_the_inner_retriever(name, answer):
    retriever = RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend())

    with pytest.raises(ConfigError, match=answer):
        retriever.invoke(QUERY, **{name: 1})
    with pytest.raises(ConfigError, match=answer):
        asyncio.run(retriever.ainvoke(QUERY, **{name: 1}))


def test_retriever_is_configurable():
    retriever = RerankRetriever(
        BM25Retriever(documents=documents()), backend=FakeBackend(), tags=["t"], metadata={"m": 1}
    ).configurable_fields(top_n=ConfigurableField(id="top_n"))

    with collect_runs() as runs:
        assert [2] == order(retriever.invoke(QUERY, {"configurable": {"top_n": 1}}))
    assert ["t"] == runs.traced_runs[0].tags
    assert 1 == runs.traced_runs[0].metadata["m"]


def test_retriever_shows_both_steps():
    retriever = RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend())

    with collect_runs() as runs:
        retriever.invoke(QUERY)
        asyncio.run(retriever.ainvoke(QUERY))

    expected = {"RerankRetriever": ["BM25Retriever", "RerankCompressor"]}
    assert [expected, expected] == [tree(run) for run in runs.traced_runs]


def test_retriever_does_not_hide_an_outage():
    retriever = RerankRetriever(
        BM25Retriever(documents=documents()), backend=FailingBackend(BackendOverloaded("busy"))
    )

    with collect_runs() as runs, pytest.raises(BackendOverloaded):
        retriever.invoke(QUERY)
    with pytest.raises(BackendOverloaded):
        asyncio.run(retriever.ainvoke(QUERY))
    assert [None, True] == [
        run.error and "busy" in run.error for run in runs.traced_runs[0].child_runs
    ]


def test_retriever_that_finds_nothing_returns_nothing():
    retriever = RerankRetriever(RunnableLambda(lambda query: []), backend=FakeBackend())

    assert [] == retriever.invoke(QUERY)
    assert [] == asyncio.run(retriever.ainvoke(QUERY))


# Written down


def restored(runnable):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `loads` is marked as beta
        return loads(
            dumps(runnable),
            allowed_objects=[RerankCompressor, RerankRetriever],
            valid_namespaces=["rerank_plugins"],
        )


def test_dump_holds_the_spec_of_the_backend():
    compressor = RerankCompressor(WrittenBackend(), top_n=0, min_score=0.0)

    assert {
        "lc": 1,
        "type": "constructor",
        "id": ["rerank_plugins", "langchain", "RerankCompressor"],
        "name": "RerankCompressor",
        "kwargs": {
            "backend": {"kind": "embedded"},
            "top_n": 0,
            "min_score": 0.0,
            "on_error": "raise",
        },
    } == dumpd(compressor)
    assert {} == compressor.lc_secrets


class OwnCompressor(RerankCompressor):
    """A user's subclass."""


def test_dump_of_a_subclass_names_the_module_of_its_own():
    assert [*__name__.split("."), "OwnCompressor"] == dumpd(OwnCompressor(WrittenBackend()))["id"]


def test_dump_can_be_loaded():
    compressor = RerankCompressor(backend="embedded", top_n=None, min_score=0.25, name="mine")
    retriever = RerankRetriever(
        RerankRetriever(RunnableLambda(len), backend="embedded"), backend="embedded", top_n=7
    )
    copied = restored(compressor)

    assert (None, 0.25, "mine") == (copied.top_n, copied.min_score, copied.name)
    assert compressor.backend.name == copied.backend.name
    assert dumpd(compressor) == dumpd(copied)
    with pytest.raises(NotImplementedError, match="RunnableLambda"):
        restored(retriever)


def test_dump_of_a_remote_backend_names_the_key_only(monkeypatch):
    monkeypatch.setenv("RERANK_TEST_KEY", "s3cret")
    compressor = RerankCompressor("cohere:rerank-v3.5?api_key_env=RERANK_TEST_KEY")
    dumped = dumps(compressor)

    assert "RERANK_TEST_KEY" in dumped
    assert "s3cret" not in dumped + repr(compressor) + str(compressor)
    assert b"s3cret" not in pickle.dumps(compressor)
    assert compressor.backend.name == restored(compressor).backend.name


def test_backend_that_cannot_be_written_is_said_so():
    """Not an error: tracers dump whatever they see."""
    dumped = dumpd(everything())

    assert "not_implemented" == dumped["type"]
    assert "FakeBackend fake" in dumped["repr"]


def test_dump_in_a_chain():
    chain = RunnablePassthrough() | RerankCompressor(WrittenBackend())

    assert "embedded" == dumpd(chain)["kwargs"]["last"]["kwargs"]["backend"]["kind"]


@pytest.mark.parametrize(
    "copied", [lambda o: pickle.loads(pickle.dumps(o)), copy.deepcopy, copy.copy]
)
def test_copies_work(copied):
    compressor = copied(everything(2, name="mine"))
    retriever = copied(
        RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend(), top_n=2)
    )

    assert [2, 1] == order(compressor.invoke(request()))
    assert "mine" == compressor.get_name()
    assert [2, 1] == order(retriever.invoke(QUERY))


def test_a_deep_copy_shares_the_backend():
    """Else the model would be loaded twice, and a literal key could not be copied."""
    compressor = everything(2)

    assert compressor.backend is copy.deepcopy(compressor).backend


def test_it_is_written_as_json():
    dumped = json.loads(RerankCompressor("local:some/model", top_n=2).model_dump_json())

    assert {"kind": "local", "model": "some/model"} == dumped["backend"]
    assert 2 == dumped["top_n"]


# With a real model


def test_embedded_backend_reranks():
    retriever = RerankRetriever(
        BM25Retriever(documents=documents()), backend="embedded", top_n=2, min_score=0.0
    )

    found = retriever.invoke("Which city is the seat of the French government?", k=5)
    assert 0 == order(found)[0]
    assert order(found) == order(
        asyncio.run(retriever.ainvoke("Which city is the seat of the French government?", k=5))
    )
