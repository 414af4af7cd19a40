"""One scorer in a process of its own: a line of JSON in, a line of JSON out.

It runs in the virtual environment of the scorer's library, so it imports nothing but the
standard library and that. The first line is `{"loader", "model", "options"}`, each other one
`{"requests": [[query, documents], …]}`. A reply holds `logits`, or only `error`, and what the
process used so far: `cpu` in seconds, `memory` in MiB.
"""
# ruff: noqa: PLC0415 - each environment has the libraries of some scorers only

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Requests = list[tuple[str, list[str]]]
Score = Callable[[Requests], list[list[float]]]
"""From requests, each a query and its documents, to logits."""


def backend(model: str, *, spec: str) -> Score:
    """Ours, by its spec."""
    from rerank_plugins import load_backend

    ours = load_backend(spec.format(model=model))
    return lambda requests: [list(scores) for scores in ours.score_many(requests)]


def sentence_transformers(model: str, **options: Any) -> Score:
    """`CrossEncoder.predict` with its defaults, but for its activation, which costs nothing."""
    import torch
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(model, device="cpu", **options)
    plain = {"show_progress_bar": False, "activation_fn": torch.nn.Identity()}
    return _over_pairs(lambda pairs: encoder.predict(pairs, **plain).tolist())


def multi_vector(model: str) -> Score:
    """`MultiVectorEncoder` with its defaults, which keeps no vectors."""
    from sentence_transformers import MultiVectorEncoder

    encoder = MultiVectorEncoder(model, device="cpu")

    def score(query: str, documents: list[str]) -> list[float]:
        vectors = encoder.encode_document(documents, show_progress_bar=False)
        asked = encoder.encode_query([query], show_progress_bar=False)
        scores: list[float] = encoder.similarity(asked, vectors)[0].tolist()
        return scores

    return _one_by_one(score)


def flashrank(model: str) -> Score:
    """A folder with the name of a known model; its default truncates at 128 tokens."""
    from flashrank import Ranker, RerankRequest

    folder, name = os.path.split(model)
    ranker = Ranker(model_name=name, cache_dir=folder, max_length=512, log_level="ERROR")

    def score(query: str, documents: list[str]) -> list[float]:
        passages = [{"id": n, "text": document} for n, document in enumerate(documents)]
        ranked = ranker.rerank(RerankRequest(query=query, passages=passages))
        by_id = {passage["id"]: float(passage["score"]) for passage in ranked}
        return [_logit(by_id[n]) for n in range(len(documents))]

    return _one_by_one(score)


def fastembed(model: str) -> Score:
    """A folder with `onnx/model.onnx`, registered under a name of its own."""
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    TextCrossEncoder.add_custom_model("local/model", sources=ModelSource(hf="local/model"))
    encoder = TextCrossEncoder("local/model", specific_model_path=model)
    return _over_pairs(lambda pairs: [float(value) for value in encoder.rerank_pairs(pairs)])


def flagembedding(model: str) -> Score:
    """In float32: half precision is slower on a processor."""
    from FlagEmbedding import FlagReranker

    ranker = FlagReranker(model, use_fp16=False, devices=["cpu"])
    return _over_pairs(lambda pairs: [float(value) for value in ranker.compute_score(pairs)])


def rerankers(model: str) -> Score:
    """Its cross-encoder, in float32."""
    from rerankers import Reranker

    ranker = Reranker(model, model_type="cross-encoder", device="cpu", dtype="float32", verbose=0)

    def score(query: str, documents: list[str]) -> list[float]:
        ranked = ranker.rank(query, documents, doc_ids=list(range(len(documents))))
        by_id = {result.document.doc_id: float(result.score) for result in ranked.results}
        return [by_id[n] for n in range(len(documents))]

    return _one_by_one(score)


def infinity(model: str) -> Score:
    """Its engine in this process, without its server."""
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    arguments = EngineArgs(
        model_name_or_path=model,
        engine="torch",
        device="cpu",
        dtype="float32",
        model_warmup=False,
        trust_remote_code=False,
    )
    engine = AsyncEmbeddingEngine.from_args(arguments)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())

    async def one(query: str, documents: list[str]) -> list[float]:
        ranked, _ = await engine.rerank(query=query, docs=documents, raw_scores=True)
        by_id = {result.index: float(result.relevance_score) for result in ranked}
        return [by_id[n] for n in range(len(documents))]

    async def score(requests: Requests) -> list[list[float]]:
        return await asyncio.gather(*(one(*request) for request in requests))

    return lambda requests: loop.run_until_complete(score(requests))


def _one_by_one(score: Callable[[str, list[str]], list[float]]) -> Score:
    """For libraries whose calls take one query."""
    return lambda requests: [score(query, documents) for query, documents in requests]


def _over_pairs(score: Callable[[list[tuple[str, str]]], list[float]]) -> Score:
    """For libraries whose calls take pairs."""

    def over(requests: Requests) -> list[list[float]]:
        logits = iter(score([(query, text) for query, texts in requests for text in texts]))
        return [[next(logits) for _ in texts] for _, texts in requests]

    return over


LOADERS: dict[str, Callable[..., Score]] = {
    function.__name__: function
    for function in (
        backend,
        fastembed,
        flagembedding,
        flashrank,
        infinity,
        multi_vector,
        rerankers,
        sentence_transformers,
    )
}


def _logit(probability: float) -> float:
    inside = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(inside / (1 - inside))


def _memory() -> dict[str, int]:
    """MiB in memory now, at the peak, and without mapped files."""
    fields = {"VmRSS": "now", "VmHWM": "peak", "RssAnon": "anonymous"}
    sizes = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in fields:
            sizes[fields[name]] = int(value.split()[0]) // 1024
    return sizes


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like an answer

    def answer(**fields: Any) -> None:
        used = {"cpu": time.process_time(), "memory": _memory()}
        answers.write(json.dumps({**fields, **used}) + "\n")
        answers.flush()

    asked = json.loads(sys.stdin.readline())
    try:
        score = LOADERS[asked["loader"]](asked["model"], **asked["options"])
        answer()
        for line in sys.stdin:
            requests = json.loads(line)["requests"]
            answer(logits=score(requests))
    except Exception as exc:  # whatever it is, the run goes on without this scorer
        answer(error=f"{type(exc).__name__}: {exc}")
        raise


if __name__ == "__main__":
    main()
