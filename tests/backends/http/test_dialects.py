"""Each dialect's requests, as its server expects them, and responses, as its server sends them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import ConfigError, InvalidResponse
from rerank_plugins.backends.http.decoding import decode_results
from rerank_plugins.backends.http.dialects import DIALECTS
from tests.support.places import DATA

RECORDED = sorted((DATA / "wire").glob("*.json"))

FLAT = {"query": "q", "documents": ["a", "b"]}
TEXTS = [{"text": "a"}, {"text": "b"}]
BODIES = {
    "azure": {"model": "m", **FLAT},
    "cohere": {"model": "m", **FLAT},
    "contextual": {"model": "m", **FLAT},
    "dashscope": {"model": "m", "input": FLAT},
    "dashscope-compatible": {"model": "m", **FLAT},
    "deepinfra": {"queries": ["q", "q"], "documents": ["a", "b"]},
    "infinity": {"model": "m", **FLAT},
    "jina": {"model": "m", **FLAT},
    "llamacpp": {"model": "m", **FLAT},
    "mixedbread": {"model": "m", "query": "q", "input": ["a", "b"], "top_k": 2},
    "nim": {"model": "m", "query": {"text": "q"}, "passages": TEXTS, "truncate": "END"},
    "openvino": {"model": "m", **FLAT},
    "pinecone": {
        "model": "m",
        "query": "q",
        "documents": TEXTS,
        "return_documents": False,
        "parameters": {"truncate": "END"},
    },
    "qianfan": {"model": "m", **FLAT},
    "rerank": {"model": "m", **FLAT},
    "sglang": {"model": "m", **FLAT},
    "siliconflow": {"model": "m", **FLAT},
    "tei": {"model": "m", "query": "q", "texts": ["a", "b"], "truncate": True},
    "vllm": {"model": "m", **FLAT, "truncate_prompt_tokens": -1},
    "voyage": {"model": "m", **FLAT, "truncation": True},
    "xinference": {"model": "m", **FLAT},
    "zeroentropy": {"model": "m", **FLAT},
    "zhipu": {"model": "m", **FLAT},
}


@pytest.mark.parametrize("name", DIALECTS)
def test_requests_have_exactly_these_fields(name):
    assert BODIES[name] == DIALECTS[name].encode("q", ["a", "b"], model="m")


@pytest.mark.parametrize("name", DIALECTS)
def test_without_a_model_the_field_is_left_out(name):
    """Null is refused by vLLM."""
    assert "model" not in DIALECTS[name].encode("q", ["a"])


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("contextual", {"instruction": "Säge"}),
        ("dashscope", {"parameters": {"instruct": "Säge"}}),
        ("dashscope-compatible", {"instruct": "Säge"}),
        ("deepinfra", {"instruction": "Säge"}),
        ("rerank", {"instruction": "Säge"}),
        ("sglang", {"instruct": "Säge"}),
        ("siliconflow", {"instruction": "Säge"}),
        ("vllm", {"instruction": "Säge"}),
        ("voyage", {"query": "Säge\nQuery: q"}),
        ("xinference", {"kwargs": '{"instruction": "Säge"}'}),
    ],
)
def test_an_instruction_is_in_the_field_that_the_server_reads(name, added):
    sent = DIALECTS[name].encode("q", ["a", "b"], model="m", instruction="Säge")

    assert BODIES[name] | added == sent


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("infinity", {"raw_scores": True}),
        ("rerank", {"raw_scores": True}),
        ("tei", {"raw_scores": True}),
        ("vllm", {"use_activation": False, "activation": False}),
    ],
)
def test_raw_scores_are_requested(name, added):
    assert BODIES[name] | added == DIALECTS[name].encode("q", ["a", "b"], model="m", raw=True)


@pytest.mark.parametrize(
    ("name", "base_url", "expected"),
    [
        ("cohere", "https://api.cohere.com", "https://api.cohere.com/v2/rerank"),
        ("cohere", "https://api.cohere.com/v2", "https://api.cohere.com/v2/rerank"),
        ("cohere", "http://litellm:4000/v1/", "http://litellm:4000/v1/rerank"),
        ("cohere", "https://x/providers/cohere/v2/rerank", "https://x/providers/cohere/v2/rerank"),
        (
            "cohere",
            "https://dashscope.aliyuncs.com/compatible-api/v1/reranks",
            "https://dashscope.aliyuncs.com/compatible-api/v1/reranks",
        ),
        (
            "dashscope",
            "https://dashscope-intl.aliyuncs.com/api/v1",
            "https://dashscope-intl.aliyuncs.com/api/v1/services/rerank/text-rerank/text-rerank",
        ),
        ("infinity", "http://gpu:7997", "http://gpu:7997/rerank"),
        ("infinity", "http://gpu:7997/v1", "http://gpu:7997/v1/rerank"),
        ("nim", "http://gpu:8000/v1/ranking", "http://gpu:8000/v1/ranking"),
        ("nim", "https://x/v1/retrieval/m/reranking", "https://x/v1/retrieval/m/reranking"),
        ("tei", "http://[::1]:8080//", "http://[::1]:8080/rerank"),
        ("tei", "https://gateway/team/tei/", "https://gateway/team/tei/rerank"),
        ("xinference", "http://gpu:9997", "http://gpu:9997/v1/rerank"),
        ("xinference", "http://gpu:9997/v1/", "http://gpu:9997/v1/rerank"),
        ("xinference", "http://gpu:9997/v1/rerank/", "http://gpu:9997/v1/rerank"),
        ("xinference", "https://gateway/x/v1", "https://gateway/x/v1/rerank"),
        ("xinference", "https://gateway/x", "https://gateway/x/v1/rerank"),
    ],
)
def test_a_base_url_becomes_the_rerank_url(name, base_url, expected):
    assert expected == DIALECTS[name].rerank_url(base_url)


FOUNDRY = "https://name.services.ai.azure.com"


@pytest.mark.parametrize(
    ("name", "base_url", "expected"),
    [
        ("azure", FOUNDRY, f"{FOUNDRY}/providers/cohere/v2/rerank"),
        ("azure", f"{FOUNDRY}/providers/cohere/", f"{FOUNDRY}/providers/cohere/v2/rerank"),
        ("azure", f"{FOUNDRY}/v1/rerank", f"{FOUNDRY}/v1/rerank"),
        ("contextual", None, "https://api.contextual.ai/v1/rerank"),
        ("dashscope-compatible", None, "https://dashscope.aliyuncs.com/compatible-api/v1/reranks"),
        ("mixedbread", None, "https://api.mixedbread.com/v1/reranking"),
        ("openvino", "http://gpu:8000", "http://gpu:8000/v3/rerank"),
        ("openvino", "http://gpu:8000/v3/", "http://gpu:8000/v3/rerank"),
        ("pinecone", None, "https://api.pinecone.io/rerank"),
        ("qianfan", None, "https://qianfan.baidubce.com/v2/rerank"),
        ("rerank", "http://gpu:8787", "http://gpu:8787/v1/rerank"),
        ("rerank", "http://gpu:8787/v2/rerank", "http://gpu:8787/v2/rerank"),
        ("zeroentropy", None, "https://api.zeroentropy.dev/v1/models/rerank"),
        (
            "zeroentropy",
            "https://api.zeroentropy.dev/v1",
            "https://api.zeroentropy.dev/v1/models/rerank",
        ),
        ("zhipu", None, "https://open.bigmodel.cn/api/paas/v4/rerank"),
        (
            "zhipu",
            "https://open.bigmodel.cn/api/paas/v4",
            "https://open.bigmodel.cn/api/paas/v4/rerank",
        ),
    ],
)
def test_the_services_of_vendors_have_these_urls(name, base_url, expected):
    dialect = DIALECTS[name]

    assert expected == dialect.rerank_url(base_url or dialect.base_url)


@pytest.mark.parametrize(
    ("base_url", "model", "expected"),
    [
        ("https://api.deepinfra.com", "Qwen/Qwen3-Reranker-8B", "Qwen/Qwen3-Reranker-8B"),
        ("https://api.deepinfra.com/v1/inference/a/b", "a/b", "a/b"),
        ("https://api.deepinfra.com/v1", "my model?x=#", "my%20model%3Fx%3D%23"),
    ],
)
def test_a_model_may_stand_in_the_url_and_not_in_the_body(base_url, model, expected):
    dialect = DIALECTS["deepinfra"]

    assert f"https://api.deepinfra.com/v1/inference/{expected}" == dialect.rerank_url(
        base_url, model
    )
    assert "model" not in dialect.encode("q", ["a"], model=model)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "gpu:9997",
        "localhost",
        "ftp://gpu",
        "http://",
        "http://gpu:99999",
        "http://gpu:port",
        "http://[::1",
        "http://user:secret@gpu",
        "http://gpu?key=secret",
        "http://gpu#secret",
    ],
)
def test_other_base_urls_are_refused_without_their_secrets(base_url):
    with pytest.raises(ConfigError, match="base_url") as caught:
        DIALECTS["xinference"].rerank_url(base_url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_replies_are_read(path):
    """Or refused, where they leave documents out. Each file says where its body comes from."""
    recorded = json.loads(path.read_text(encoding="utf-8"))

    assert recorded["origin"]
    if reason := recorded.get("refused"):
        with pytest.raises(InvalidResponse, match=reason):
            decode_results(recorded["body"], recorded["count"])
    else:
        assert recorded["scores"] == decode_results(recorded["body"], len(recorded["scores"]))


def test_every_family_has_a_recorded_reply():
    assert set(DIALECTS) <= {path.stem for path in RECORDED}


GOOD = [{"index": 0, "score": 0.5}, {"index": 1, "score": 0.25}]
BROKEN = {
    "a boolean index": ([*GOOD[:1], {"index": True, "score": 1.0}], "index of result 1"),
    "a boolean score": ([*GOOD[:1], {"index": 1, "score": True}], "document 1 is a boolean"),
    "a fraction as index": ([*GOOD[:1], {"index": 1.0, "score": 1.0}], "index of result 1"),
    "a list as body": ([], "0 scores for 2"),
    "a negative index": ([*GOOD[:1], {"index": -1, "score": 1.0}], "not within 0 to 1"),
    "a null score": ([*GOOD[:1], {"index": 1, "relevance_score": None}], "null"),
    "a number as body": (3, "no list"),
    "a score that is text": ([*GOOD[:1], {"index": 1, "score": "0.5"}], "document 1 is a string"),
    "a string as body": ("results", "no list"),
    "a string as index": (
        [*GOOD[:1], {"index": "1", "score": 0.5}],
        "index of result 1 is a string",
    ),
    "an index out of range": ([*GOOD[:1], {"index": 2, "score": 1.0}], "not within 0 to 1"),
    "an infinite score": ([*GOOD[:1], {"index": 1, "score": math.inf}], "not finite"),
    "a huge score": ([*GOOD[:1], {"index": 1, "score": 10**400}], "not finite"),
    "a huge index": ([*GOOD[:1], {"index": 10**400, "score": 1}], "not within 0 to 1"),
    "no index": ([*GOOD[:1], {"score": 1.0}], "index of result 1 is null or missing"),
    "no score": ([*GOOD[:1], {"index": 1}], "no score for document 1"),
    "not a list": ({"results": {"0": 0.5, "1": 0.25}}, "no list"),
    "null as body": (None, "no list"),
    "null as results": ({"results": None}, "no list"),
    "numbers instead of objects": ({"results": [0.5, 0.25]}, "result 0"),
    "one score too few": ({"results": GOOD[:1]}, "1 scores for 2"),
    "one score too many": ({"results": [*GOOD, GOOD[0]]}, "3 scores for 2"),
    "scores that are text": ({"scores": ["0.5", "0.25"]}, "document 0 is a string"),
    "scores too few": ({"scores": [0.5]}, "1 scores for 2"),
    "scores with null": ({"scores": [0.5, None]}, "document 1 is null"),
    "the same index twice": ({"results": [GOOD[0], GOOD[0]]}, "two scores for document 0"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_replies_are_refused_with_a_reason(case):
    body, reason = BROKEN[case]

    with pytest.raises(InvalidResponse, match=reason):
        decode_results(body, 2)


LAYOUTS = {
    "bare": lambda items: items,
    "data": lambda items: {"object": "list", "data": items},
    "output": lambda items: {"output": {"results": items}, "request_id": "1"},
    "rankings": lambda items: {"rankings": items, "usage": {}},
    "results": lambda items: {"id": "1", "results": items, "meta": None},
}
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["results", "data", "index", "score", "output"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(scores=st.lists(FINITE, max_size=20), data=st.data())
def test_scores_come_back_in_the_order_of_the_documents(scores, data):
    key = data.draw(st.sampled_from(["relevance_score", "score", "logit"]))
    items = [{"index": i, key: score, "document": "x"} for i, score in enumerate(scores)]
    layout = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]

    assert scores == decode_results(layout(data.draw(st.permutations(items))), len(scores))


@given(body=JSON, count=st.integers(0, 3))
def test_any_body_gives_valid_scores_or_an_error(body, count):
    """Never another exception, never a partial list."""
    try:
        scores = decode_results(body, count)
    except InvalidResponse:
        return

    assert count == len(scores)
    assert all(type(score) is float and math.isfinite(score) for score in scores)
