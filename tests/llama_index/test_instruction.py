"""What the model should judge."""

import asyncio
import pickle

import pytest
from llama_index.core.schema import NodeWithScore, TextNode

from rerank_plugins import ConfigError
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FakeBackend
from tests.llama_index.nodes import BEST_FIRST, QUERY, TEXTS
from tests.support.instructed import InstructedBackend


def nodes():
    return [NodeWithScore(node=TextNode(text=text, id_=str(at))) for at, text in enumerate(TEXTS)]


def test_the_setting_reaches_the_model():
    backend = InstructedBackend()
    postprocessor = RerankPostprocessor(backend, top_n=None, instruction="find bears")
    ranked = postprocessor.postprocess_nodes(nodes(), query_str=QUERY)
    again = asyncio.run(postprocessor.apostprocess_nodes(nodes(), query_str=QUERY))

    assert BEST_FIRST == [int(node.node.node_id) for node in ranked]
    assert ranked == again
    assert ["find bears"] * 2 == backend.given


def test_one_assigned_later_holds_from_then_on():
    backend = InstructedBackend()
    postprocessor = RerankPostprocessor(backend)
    postprocessor.postprocess_nodes(nodes(), query_str=QUERY)
    postprocessor.instruction = "find bears"
    postprocessor.postprocess_nodes(nodes(), query_str=QUERY)

    assert [None, "find bears"] == backend.given


def test_it_survives_being_written_down():
    postprocessor = RerankPostprocessor("vllm+http://gpu:8000?model=m", instruction="find bears")

    assert "find bears" == RerankPostprocessor.from_dict(postprocessor.to_dict()).instruction
    assert "find bears" == pickle.loads(pickle.dumps(postprocessor)).instruction


@pytest.mark.parametrize("backend", [FakeBackend(), "tei+http://gpu:8080"])
def test_a_backend_that_can_not_send_one_refuses_by_name(backend):
    with pytest.raises(ConfigError, match=r"backend '(fake|tei)' can't tell its model"):
        RerankPostprocessor(backend, instruction="find bears")
