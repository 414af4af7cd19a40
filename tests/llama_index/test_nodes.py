"""The nodes returned: their order, their scores and what else they keep."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.schema import (
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)

from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FakeBackend
from tests.llama_index.nodes import (
    BEST_FIRST,
    QUERY,
    TEXTS,
    ScoresBackend,
    both_ways,
    dumped,
    ids,
    wrapped,
)


async def test_nodes_come_back_best_first():
    """All words of the query first; equal scores keep the retriever's order."""
    result = await both_ways(
        RerankPostprocessor(backend=FakeBackend(), top_n=None), wrapped(*TEXTS)
    )

    assert BEST_FIRST == ids(result)
    assert [1.0, 0.75, 0.5, 0.0, 0.0] == [item.score for item in result]


@pytest.mark.parametrize(
    ("top_n", "expected"),
    [(None, BEST_FIRST), (0, []), (2, [3, 1]), (5, BEST_FIRST), (99, BEST_FIRST)],
)
async def test_top_n_keeps_the_best(top_n, expected):
    postprocessor = RerankPostprocessor(backend=FakeBackend(), top_n=top_n)

    assert expected == ids(await both_ways(postprocessor, wrapped(*TEXTS)))


async def test_top_n_is_three_by_default():
    assert [3, 1, 2] == ids(
        await both_ways(RerankPostprocessor(backend=FakeBackend()), wrapped(*TEXTS))
    )


async def test_min_score_is_inclusive():
    postprocessor = RerankPostprocessor(backend=FakeBackend(), min_score=0.75)

    assert [3, 1] == ids(await both_ways(postprocessor, wrapped(*TEXTS)))


async def test_negative_logits_and_zeros_sort_as_numbers():
    """The framework's own sort key takes 0.0 and None for the same."""
    backend = ScoresBackend(-4.0, 0.0, -1.0, 2.0, scale="logit")
    result = await both_ways(RerankPostprocessor(backend=backend, top_n=None), wrapped(*"abcd"))

    assert [3, 1, 2, 0] == ids(result)


async def test_nodes_without_a_retriever_score_are_ranked_too():
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(n))) for n, text in enumerate(TEXTS)]
    result = await both_ways(RerankPostprocessor(backend=FakeBackend()), nodes)

    assert [3, 1, 2] == ids(result)
    assert {"retriever_rank": 4} == result[0].metadata


async def test_the_retrievers_rank_and_score_are_in_the_metadata():
    result = await both_ways(RerankPostprocessor(backend=FakeBackend()), wrapped(*TEXTS))

    assert [
        {"retriever_rank": 4, "retriever_score": pytest.approx(0.6)},
        {"retriever_rank": 2, "retriever_score": pytest.approx(0.8)},
        {"retriever_rank": 3, "retriever_score": pytest.approx(0.7)},
    ] == [item.metadata for item in result]


async def test_a_second_reranker_keeps_the_retrievers_rank_and_score():
    nodes = wrapped(*TEXTS)
    nodes[2].score = None
    first = await both_ways(RerankPostprocessor(backend=FakeBackend(), top_n=None), nodes)
    second = await both_ways(
        RerankPostprocessor(backend=FakeBackend(lambda _, text: -len(text)), top_n=None), first
    )

    assert {item.node_id: item.metadata for item in first} == {
        item.node_id: item.metadata for item in second
    }
    assert "retriever_score" not in next(i for i in second if i.node_id == "2").metadata


async def test_scores_are_python_floats():
    """NumPy's scalars would break `json.dumps`."""
    nodes = wrapped("a", "b")
    nodes[0].score = np.float32(0.5)
    backend = ScoresBackend(np.float32(0.25), np.float64(0.5))
    result = await both_ways(RerankPostprocessor(backend=backend), nodes)

    assert [float, float] == [type(item.score) for item in result]
    assert 0.25 == json.loads(json.dumps(result[1].to_dict()))["score"]
    assert 0.5 == result[1].metadata["retriever_score"]


@pytest.mark.parametrize("score", [np.float32(0.5), np.array(0.5)])
async def test_a_score_that_the_retriever_wrote_under_our_key_becomes_json(score):
    nodes = wrapped("a", metadata={"retriever_score": score})
    nodes[0].score = None
    (ranked,) = await both_ways(RerankPostprocessor(backend=FakeBackend()), nodes)

    assert 0.5 == json.loads(json.dumps(ranked.metadata))["retriever_score"]


async def test_the_callers_nodes_do_not_change():
    metadata = {"page": 7, "tags": ["x"]}
    nodes = wrapped(*TEXTS, metadata=metadata, excluded_llm_metadata_keys=["tags"])
    before = copy.deepcopy(nodes)
    result = await both_ways(RerankPostprocessor(backend=FakeBackend()), nodes)
    for item in result:
        item.score = -1.0
        item.node.metadata["added"] = True
        item.node.excluded_llm_metadata_keys.append("added")
        item.node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="x")

    assert before == nodes


@pytest.mark.parametrize(
    "node",
    [
        LlamaDocument(text="panda", id_="0", metadata={"page": 1}),
        IndexNode(text="panda", id_="0", index_id="i", embedding=[0.5]),
        Node(text_resource=MediaResource(text="panda"), id_="0"),
        TextNode(
            text="panda",
            id_="0",
            start_char_idx=3,
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")},
        ),
    ],
    ids=lambda node: type(node).__name__,
)
async def test_nodes_keep_all_but_their_score(node):
    """Class, id, text, embedding and relationships stay; two metadata keys are added."""
    result = await both_ways(
        RerankPostprocessor(backend=FakeBackend()), [NodeWithScore(node=node, score=0.5)]
    )
    expected = {
        **node.to_dict(),
        "metadata": {**node.metadata, "retriever_rank": 1, "retriever_score": 0.5},
        "excluded_embed_metadata_keys": [
            "retriever_rank",
            "retriever_score",
            "rerank_status",
            "rerank_truncated",
            "rerank_cutoff",
            "rerank_duplicates",
            "rerank_passage",
        ],
        "excluded_llm_metadata_keys": [
            "retriever_rank",
            "retriever_score",
            "rerank_status",
            "rerank_truncated",
            "rerank_cutoff",
            "rerank_duplicates",
            "rerank_passage",
        ],
    }

    assert type(node) is type(result[0].node)
    assert expected == result[0].node.to_dict()
    assert node.ref_doc_id == result[0].node.ref_doc_id


async def test_a_subclass_of_the_wrapper_is_kept():
    class Marked(NodeWithScore):
        mark: str

    result = await both_ways(
        RerankPostprocessor(backend=FakeBackend()),
        [Marked(node=TextNode(text="panda"), score=0.1, mark="m")],
    )

    assert ("m", 0.25) == (result[0].mark, result[0].score)


async def test_equal_calls_give_equal_results_from_threads():
    postprocessor = RerankPostprocessor(backend=FakeBackend())
    nodes = wrapped(*TEXTS)
    expected = dumped(postprocessor.postprocess_nodes(nodes, query_str=QUERY))
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(
            lambda _: postprocessor.postprocess_nodes(nodes, query_str=QUERY), range(32)
        ):
            assert expected == dumped(result)


async def test_ten_thousand_nodes_are_ranked():
    backend = FakeBackend(lambda _, text: int(text) / 10_000)
    nodes = wrapped(*map(str, range(10_000)))

    assert [9999, 9998, 9997] == ids(await both_ways(RerankPostprocessor(backend=backend), nodes))


async def test_the_model_in_the_package_finds_the_answer():
    nodes = wrapped("hi", "Paris is the capital of France.", "The panda is a bear of China.")
    result = await both_ways(RerankPostprocessor(backend="embedded", top_n=1), nodes, "pandas?")

    assert [2] == ids(result)
    json.dumps(result[0].to_dict())
