"""The routes of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

import rerank_plugins
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.server.rerank import Reranker
from rerank_plugins.server.responses import as_json
from rerank_plugins.server.schemas import (
    AnyRerankRequest,
    AuthReply,
    Info,
    ModelCard,
    ModelList,
    PlainReply,
    ProblemReply,
    RerankReply,
    RerankRequest,
    Status,
    TEIReply,
)
from rerank_plugins.server.settings import ServerSettings

__all__ = ["routes"]

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemReply, "description": description}
    for status, description in {
        400: "No JSON.",
        404: "No such model.",
        408: "The body came too slowly.",
        413: "Too long.",
        415: "No JSON, or compressed.",
        422: "A field is missing, unknown or out of range.",
        500: "This request made the model fail.",
        502: "The backend failed.",
        503: "Overloaded, loading or ending; `Retry-After` says when to come back.",
        504: "The scores did not come in time.",
    }.items()
}

_PROBE: dict[int | str, dict[str, Any]] = {
    200: {"model": Status, "description": "Yes."},
    503: {"model": Status, "description": "No; `status` says why."},
}


class _Metrics(Response):
    """In Prometheus's text format."""

    media_type = CONTENT_TYPE_LATEST


def routes(
    lifecycle: Lifecycle, settings: ServerSettings, metrics: ServerMetrics, *, needs_keys: bool
) -> APIRouter:
    """Return the routes of one server."""
    router = APIRouter()
    reranker = Reranker(lifecycle, settings)
    _post(router, "/v1/rerank", reranker.by_documents, RerankRequest, RerankReply)
    _post(router, "/v2/rerank", reranker.by_documents, RerankRequest, RerankReply)
    shapes = RerankReply | list[TEIReply] | PlainReply
    _post(router, "/rerank", reranker.by_shape, AnyRerankRequest, shapes)

    @router.get("/livez", summary="Is there progress?", response_model=None, responses=_PROBE)
    async def livez() -> Response:
        alive = lifecycle.is_alive
        return as_json({"status": "alive" if alive else "stalled"}, 200 if alive else 503)

    @router.get("/readyz", summary="Are requests welcome?", response_model=None, responses=_PROBE)
    async def readyz() -> Response:
        reason = lifecycle.why_not_ready()
        return as_json({"status": reason or "ready"}, 503 if reason else 200)

    @router.get(
        "/metrics",
        summary="Metrics, for Prometheus.",
        response_class=_Metrics,
        response_model=None,
    )
    async def read_metrics() -> Response:
        return _Metrics(generate_latest(metrics.registry))

    @router.get(
        "/info",
        summary="Model, scale and limits.",
        response_model=None,
        responses={200: {"model": Info, "description": "The facts."}},
    )
    async def info() -> Response:
        return as_json(_info(lifecycle, settings))

    @router.get("/v1/models", summary="Names that `model` may have.")
    async def models() -> ModelList:
        return ModelList(data=[_card(lifecycle, name) for name in lifecycle.model_names()])

    @router.get("/v1/models/{name:path}", summary="One model.", responses={404: _PROBLEMS[404]})
    async def model(name: str) -> ModelCard:
        lifecycle.check_model(name)
        return _card(lifecycle, name)

    @router.get(
        "/v1/cluster/auth",
        summary="Xinference: must requests have a key?",
        response_model=None,
        responses={200: {"model": AuthReply, "description": "The answer."}},
    )
    async def cluster_auth() -> Response:
        return as_json({"auth": needs_keys})

    return router


def _post(
    router: APIRouter,
    path: str,
    answer: Callable[[Request], Awaitable[Response]],
    takes: type[Any],
    gives: Any,
) -> None:
    """Add a route that reads its body by itself, and say in OpenAPI what that is."""
    schema = {"$ref": f"#/components/schemas/{takes.__name__}"}
    router.add_api_route(
        path,
        answer,
        methods=["POST"],
        response_model=None,
        responses={200: {"model": gives, "description": "Best first."}, **_PROBLEMS},
        summary="Rerank documents.",
        operation_id=f"rerank{path.replace('/', '_')}",
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    )


def _info(lifecycle: Lifecycle, settings: ServerSettings) -> dict[str, object]:
    """Return the facts; the first keys are those of Text Embeddings Inference."""
    return {
        "model_id": lifecycle.model_names()[0],
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_client_batch_size": settings.max_documents,
        "max_input_length": lifecycle.max_length,
        "auto_truncate": True,
        "version": rerank_plugins.__version__,
        "scale": lifecycle.backend.scale,
        "status": lifecycle.why_not_ready() or "ready",
        "backend": lifecycle.facts,
        "limits": {
            "body_bytes": settings.body_bytes,
            "documents": settings.max_documents,
            "document_characters": settings.document_characters,
            "query_characters": settings.query_characters,
        },
    }


def _card(lifecycle: Lifecycle, name: str) -> ModelCard:
    return ModelCard(id=name, model_name=name, max_model_len=lifecycle.max_length)
