"""The passage that answers: in the metadata, and in place of its node."""

import pytest
from llama_index.core.schema import MediaResource, MetadataMode, Node, NodeWithScore, TextNode

from rerank_plugins import ConfigError
from rerank_plugins.llama_index import RerankPostprocessor
from tests.llama_index.nodes import both_ways
from tests.support.passages import ANSWER, LONG, PassageBackend

START = LONG.index(ANSWER)
SPAN = [START, START + len(ANSWER)]


def nodes():
    """With metadata, which is scored in front of the text."""
    return [
        NodeWithScore(node=TextNode(text="short", id_="a", metadata={"title": "t"})),
        NodeWithScore(
            node=TextNode(
                text=LONG, id_="b", metadata={"title": "u"}, start_char_idx=100, end_char_idx=200
            )
        ),
    ]


@pytest.mark.parametrize("keep", ["document", "passage"])
async def test_the_passage_is_counted_in_the_nodes_own_text(keep):
    given = nodes()

    best, other = await both_ways(RerankPostprocessor(backend=PassageBackend(), keep=keep), given)

    assert SPAN == best.node.metadata["rerank_passage"]
    assert "rerank_passage" not in other.node.metadata
    assert (ANSWER if keep == "passage" else LONG) == best.node.text
    assert "rerank_passage" not in best.node.get_content(metadata_mode=MetadataMode.LLM)
    if keep == "passage":
        assert (100 + SPAN[0], 100 + SPAN[1]) == (
            best.node.start_char_idx,
            best.node.end_char_idx,
        )
    assert [LONG, 100] == [given[1].node.text, given[1].node.start_char_idx]


@pytest.mark.parametrize("template", ["{metadata_str}\n\n{content}", "{content}\n\n{metadata_str}"])
@pytest.mark.parametrize("text", [f"{LONG}\n", f"\r\n  {LONG}", f" {LONG} \n\n"])
async def test_white_space_around_a_text_hides_no_passage(text, template):
    """The framework strips it once there is metadata, as every file that was read has."""
    node = TextNode(text=text, metadata={"file": "a.md"}, text_template=template)

    (best,) = await both_ways(
        RerankPostprocessor(backend=PassageBackend(), keep="passage"), [NodeWithScore(node=node)]
    )

    start, end = best.node.metadata["rerank_passage"]
    assert ANSWER == text[start:end] == best.node.text


async def test_nodes_of_resources_are_cut_too():
    given = [NodeWithScore(node=Node(text_resource=MediaResource(text=LONG)))]

    (best,) = await both_ways(RerankPostprocessor(backend=PassageBackend(), keep="passage"), given)

    assert ANSWER == best.node.get_content(metadata_mode=MetadataMode.NONE)
    assert LONG == given[0].node.text_resource.text


def test_the_setting_is_checked_and_written_down():
    with pytest.raises(ConfigError, match="unknown `keep`"):
        RerankPostprocessor(backend="embedded", keep="sentence")
    written = RerankPostprocessor(backend="embedded", keep="passage").to_dict()
    assert "passage" == RerankPostprocessor.from_dict(written).keep
