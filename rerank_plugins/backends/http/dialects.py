"""The kinds of rerank servers: a `Dialect` for each.

A new dialect is an entry in `DIALECTS` and nothing else. Importing this module is cheap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rerank_plugins.backends.http.dialect import Dialect, Fields

__all__ = ["DIALECTS"]


def _as_texts(query: str, documents: Sequence[str]) -> Fields:
    return {"query": query, "texts": documents}


def _as_passages(query: str, documents: Sequence[str]) -> Fields:
    return {"query": {"text": query}, "passages": [{"text": text} for text in documents]}


def _as_input(query: str, documents: Sequence[str]) -> Fields:
    return {"input": {"query": query, "documents": documents}}


def _as_objects(query: str, documents: Sequence[str]) -> Fields:
    return {"query": query, "documents": [{"text": text} for text in documents]}


def _as_counted_input(query: str, documents: Sequence[str]) -> Fields:
    return {"query": query, "input": documents, "top_k": len(documents)}


def _as_pairs(query: str, documents: Sequence[str]) -> Fields:
    return {"queries": [query] * len(documents), "documents": documents}


def _as_field(instruction: str) -> Fields:
    return {"instruction": instruction}


def _as_instruct(instruction: str) -> Fields:
    return {"instruct": instruction}


def _as_json_text(instruction: str) -> Fields:
    return {"kwargs": json.dumps({"instruction": instruction}, ensure_ascii=False)}


def _as_parameter(instruction: str) -> Fields:
    return {"parameters": {"instruct": instruction}}


def _before_query(instruction: str, query: str) -> str:
    return f"{instruction}\nQuery: {query}"


# In brackets: the version that was run, or the SDK or source that was read. Without
# `max_documents` the server has no such limit, and requests are split by bytes alone.
_DIALECTS = (
    Dialect(  # [LiteLLM 1.108; a script that was run against Foundry, with the account's key]
        name="azure",
        path="/providers/cohere/v2/rerank",
        scale="probability",
        key_variables=("AZURE_AI_API_KEY",),
        key_header="api-key",
        key_prefix="",
        max_documents=1000,
    ),
    Dialect(  # [SDK 7.3.1; LiteLLM proxy 1.106 answers the same]
        name="cohere",
        path="/v2/rerank",
        base_url="https://api.cohere.com",
        scale="probability",
        key_variables=("COHERE_API_KEY", "CO_API_KEY"),
        max_documents=1000,
    ),
    Dialect(  # [SDK 0.11]
        name="contextual",
        path="/v1/rerank",
        base_url="https://api.contextual.ai",
        scale="probability",
        key_variables=("CONTEXTUAL_API_KEY", "CONTEXTUAL_AI_API_KEY"),
        instruct=_as_field,
    ),
    Dialect(  # [SDK 2.0.2, native protocol]
        name="dashscope",
        path="/api/v1/services/rerank/text-rerank/text-rerank",
        base_url="https://dashscope.aliyuncs.com",
        scale="probability",
        key_variables=("DASHSCOPE_API_KEY",),
        max_documents=500,
        shape=_as_input,
        instruct=_as_parameter,
    ),
    Dialect(  # [vendor's page; LiteLLM 1.108]
        name="dashscope-compatible",
        path="/compatible-api/v1/reranks",
        base_url="https://dashscope.aliyuncs.com",
        scale="probability",
        key_variables=("DASHSCOPE_API_KEY",),
        max_documents=500,
        instruct=_as_instruct,
    ),
    Dialect(  # [vendor's page; LiteLLM 1.108]
        name="deepinfra",
        path="/v1/inference/{model}",
        base_url="https://api.deepinfra.com",
        scale="probability",
        key_variables=("DEEPINFRA_API_KEY", "DEEPINFRA_TOKEN"),
        shape=_as_pairs,
        repeats_query=True,
        instruct=_as_field,
    ),
    Dialect(  # [run 0.0.78]
        name="infinity",
        path="/rerank",
        scale="probability",
        key_variables=("INFINITY_API_KEY",),
        needs_model=False,
        max_documents=2048,
        max_characters=122_880,
        raw={"raw_scores": True},
        prompts_by="nobody",  # it strips white space from both texts
    ),
    Dialect(  # [vendor's page; the scale differs between its models]
        name="jina",
        path="/v1/rerank",
        base_url="https://api.jina.ai",
        scale="unknown",
        key_variables=("JINA_API_KEY",),
    ),
    Dialect(  # [run 2026-10; logits, but for Qwen3 models probabilities: its pull request 14029]
        name="llamacpp",
        path="/v1/rerank",
        scale="unknown",
        key_variables=("LLAMA_API_KEY",),
        needs_model=False,
    ),
    Dialect(  # [SDK 0.54]
        name="mixedbread",
        path="/v1/reranking",
        base_url="https://api.mixedbread.com",
        scale="probability",
        key_variables=("MXBAI_API_KEY",),
        shape=_as_counted_input,
    ),
    Dialect(  # [langchain-nvidia 1.5]
        name="nim",
        path="/v1/ranking",
        scale="logit",
        key_variables=("NVIDIA_API_KEY",),
        max_documents=512,
        shape=_as_passages,
        always={"truncate": "END"},
    ),
    Dialect(  # [source of 2026, its calculator]
        name="openvino",
        path="/v3/rerank",
        scale="probability",
        key_variables=("OPENVINO_API_KEY",),
    ),
    Dialect(  # [SDK 10.2; it repeats the documents unless told]
        name="pinecone",
        path="/rerank",
        base_url="https://api.pinecone.io",
        scale="probability",
        key_variables=("PINECONE_API_KEY",),
        key_header="Api-Key",
        key_prefix="",
        headers={"X-Pinecone-Api-Version": "2026-07"},
        max_documents=100,
        shape=_as_objects,
        always={"return_documents": False, "parameters": {"truncate": "END"}},
    ),
    Dialect(  # [vendor's page]
        name="qianfan",
        path="/v2/rerank",
        base_url="https://qianfan.baidubce.com",
        scale="probability",
        key_variables=("QIANFAN_API_KEY",),
        max_documents=64,
        max_characters=4096,
    ),
    Dialect(  # [run: the server of this package]
        name="rerank",
        path="/v1/rerank",
        scale="probability",
        key_variables=("RERANK_API_KEY",),
        needs_model=False,
        max_documents=1000,
        raw={"raw_scores": True},
        instruct=_as_field,
    ),
    Dialect(  # [source of 2025-12; it refuses blank documents; the scale depends on the model]
        name="sglang",
        path="/v1/rerank",
        scale="unknown",
        key_variables=("SGLANG_API_KEY",),
        needs_model=False,
        blank=".",
        instruct=_as_instruct,
    ),
    Dialect(  # [vendor's page]
        name="siliconflow",
        path="/v1/rerank",
        base_url="https://api.siliconflow.cn",
        scale="probability",
        key_variables=("SILICONFLOW_API_KEY",),
        instruct=_as_field,
    ),
    Dialect(  # [source 1.9.3]
        name="tei",
        path="/rerank",
        scale="probability",
        key_variables=("TEI_API_KEY",),
        needs_model=False,
        max_documents=32,
        shape=_as_texts,
        always={"truncate": True},
        raw={"raw_scores": True},
        prompts_by="client",
    ),
    Dialect(  # [run 0.32]
        name="vllm",
        path="/v1/rerank",
        scale="probability",
        key_variables=("VLLM_API_KEY",),
        needs_model=False,
        always={"truncate_prompt_tokens": -1},
        raw={"use_activation": False, "activation": False},  # the second before 0.12
        instruct=_as_field,
        prompts_by="client",
    ),
    Dialect(  # [SDK 0.5.0]
        name="voyage",
        path="/v1/rerank",
        base_url="https://api.voyageai.com",
        scale="probability",
        key_variables=("VOYAGE_API_KEY",),
        max_documents=1000,
        always={"truncation": True},
        in_query=_before_query,
    ),
    Dialect(  # [run 4.1.0; the scale depends on the model's engine]
        name="xinference",
        path="/v1/rerank",
        scale="unknown",
        key_variables=("XINFERENCE_API_KEY",),
        instruct=_as_json_text,
    ),
    Dialect(  # [SDK 0.1.0a11]
        name="zeroentropy",
        path="/v1/models/rerank",
        base_url="https://api.zeroentropy.dev",
        scale="probability",
        key_variables=("ZEROENTROPY_API_KEY",),
    ),
    Dialect(  # [vendor's page]
        name="zhipu",
        path="/api/paas/v4/rerank",
        base_url="https://open.bigmodel.cn",
        scale="probability",
        key_variables=("ZHIPUAI_API_KEY", "ZAI_API_KEY"),
        max_documents=128,
        max_characters=4096,
    ),
)
DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in _DIALECTS}
"""Each kind of remote backend, by name."""
