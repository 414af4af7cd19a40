"""The postprocessor inside LlamaIndex's own engines."""

import copy

import pytest
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.schema import (
    MetadataMode,
)
from llama_index.core.tools import RetrieverTool

from rerank_plugins.errors import BackendTimeout
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FailingBackend, FakeBackend
from tests.llama_index.nodes import QUERY, TEXTS, NothingRetriever, dumped, ids


def query_engine(index, *, backend=None, postprocessors=None, **options):
    postprocessor = RerankPostprocessor(backend=backend or FakeBackend(), top_n=2)
    return RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=5),
        llm=MockLLM(),
        node_postprocessors=postprocessors or [postprocessor],
        **options,
    )


async def test_a_query_engine_answers_from_the_best(index):
    """The mock model repeats its prompt: the best nodes and nothing that we added."""
    engine = query_engine(index)
    for response in (engine.query(QUERY), await engine.aquery(QUERY)):
        assert [3, 1] == ids(response.source_nodes)
        assert TEXTS[3] in str(response)
        assert TEXTS[2] not in str(response)
        assert "page: 3" in str(response)
        assert "retriever_" not in str(response)


async def test_a_streaming_query_engine_answers_from_the_best(index):
    engine = query_engine(index, streaming=True)
    response = engine.query(QUERY)
    text = "".join(response.response_gen)
    aresponse = await engine.aquery(QUERY)

    assert [3, 1] == ids(response.source_nodes) == ids(aresponse.source_nodes)
    assert TEXTS[3] in text


async def test_reranking_leaves_the_index_as_it_was(index):
    before = copy.deepcopy(index.docstore.docs)
    engine = query_engine(index)
    first = dumped(engine.query(QUERY).source_nodes)
    second = dumped((await engine.aquery(QUERY)).source_nodes)

    assert before == index.docstore.docs
    assert first == second


async def test_an_engine_without_hits_gives_an_empty_answer():
    engine = RetrieverQueryEngine.from_args(
        NothingRetriever(),
        llm=MockLLM(),
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend())],
    )

    assert [] == engine.query(QUERY).source_nodes
    assert [] == (await engine.aquery(QUERY)).source_nodes


async def test_it_works_beside_other_postprocessors(index):
    """A cutoff after us means what it says: our scores are probabilities."""
    engine = query_engine(
        index,
        postprocessors=[
            RerankPostprocessor(backend=FakeBackend(), top_n=None),
            SimilarityPostprocessor(similarity_cutoff=0.75),
        ],
    )

    assert [3, 1] == ids(engine.query(QUERY).source_nodes)
    assert [3, 1] == ids((await engine.aquery(QUERY)).source_nodes)


@pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
async def test_chat_engines_answer_from_the_best(index, kind):
    engine = kind.from_defaults(
        retriever=index.as_retriever(similarity_top_k=5),
        llm=MockLLM(),
        memory=ChatMemoryBuffer.from_defaults(token_limit=4000),  # the default leaves SQLite open
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend(), top_n=2)],
    )
    answers = [engine.chat(QUERY)]
    engine.reset()
    answers.append(await engine.achat(QUERY))
    engine.reset()
    stream = engine.stream_chat(QUERY)
    text = "".join(stream.response_gen)
    engine.reset()
    astream = await engine.astream_chat(QUERY)
    atext = "".join([token async for token in astream.async_response_gen()])

    for answer in (*answers, stream, astream):
        assert [3, 1] == ids(answer.source_nodes)
    for reply in (*map(str, answers), text, atext):
        assert TEXTS[3] in reply
        assert "retriever_" not in reply


async def test_a_citation_engine_cites_the_best(index):
    engine = CitationQueryEngine.from_args(
        index,
        llm=MockLLM(),
        similarity_top_k=5,
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend(), top_n=1)],
    )
    for response in (engine.query(QUERY), await engine.aquery(QUERY)):
        assert [f"Source 1:\n{TEXTS[3]}\n"] == [
            item.node.get_content(MetadataMode.NONE) for item in response.source_nodes
        ]


async def test_a_retriever_tool_returns_the_best(index):
    tool = RetrieverTool.from_defaults(
        index.as_retriever(similarity_top_k=5),
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend(), top_n=1)],
    )
    for output in (tool.call(QUERY), await tool.acall(QUERY)):
        assert [3] == ids(output.raw_output)
        assert "retriever_" not in output.content


async def test_the_frameworks_evaluator_measures_it(index):
    """It calls the synchronous method inside the running loop."""
    retriever = VectorIndexRetriever(index, similarity_top_k=5)
    evaluator = RetrieverEvaluator.from_metric_names(
        ["mrr"],
        retriever=retriever,
        node_postprocessors=[RerankPostprocessor(backend=FakeBackend(), top_n=2)],
    )

    assert 1.0 == (await evaluator.aevaluate(QUERY, ["3"])).metric_vals_dict["mrr"]
    assert 0.5 == evaluator.evaluate(QUERY, ["1"]).metric_vals_dict["mrr"]


async def test_an_outage_is_an_error_not_an_empty_answer(index):
    engine = query_engine(index, backend=FailingBackend(BackendTimeout("no answer in 10 s")))
    with pytest.raises(BackendTimeout, match="no answer in 10 s"):
        engine.query(QUERY)
    with pytest.raises(BackendTimeout, match="no answer in 10 s"):
        await engine.aquery(QUERY)
