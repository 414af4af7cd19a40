"""The routes of the server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import APIRouter
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

import rerank_plugins
from rerank_plugins.server.body import BodyReader
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.server.paths import public_paths
from rerank_plugins.server.rerank import RerankHandler
from rerank_plugins.server.schemas import (
    AuthStatus,
    ErrorResponse,
    ModelCard,
    ModelList,
    PlainResponse,
    ProbeStatus,
    RequestLimits,
    RerankResponse,
    ServerInfo,
    ServerPaths,
    TEIResult,
)
from rerank_plugins.server.settings import ServerSettings

__all__ = ["RerankRoute", "routes"]

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "The body is not JSON.",
        404: "There is no such model.",
        408: "The body arrived too slowly.",
        413: "The request is too long.",
        415: "The body is not declared as JSON, or is compressed.",
        422: "A field is missing, unknown or out of range.",
        500: "The model failed at this request.",
        502: "The backend failed.",
        503: "Overloaded, loading or ending; `Retry-After` tells when to try again.",
        504: "The scores did not come in time.",
    }.items()
}

_PROBE: dict[str, Any] = {
    "response_description": "Yes.",
    "responses": {503: {"model": ProbeStatus, "description": "No; `status` holds the reason."}},
}


class RerankRoute(APIRoute):
    """A route whose body is read within the limits of the settings.

    FastAPI describes the route from its endpoint's signature. It does not read the body: it takes
    one of any size at any pace, and spends seconds of the event loop on one of 4 MB that pydantic
    refuses (`test_body.py`).
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = self.endpoint
        model: type[BaseModel] = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            bodies: BodyReader = request.app.state.bodies
            body = await bodies.read(request, model)
            response: Response = await endpoint(request, body)
            return response

        return handle


class _MetricsResponse(Response):
    """A response in Prometheus's text format."""

    media_type = CONTENT_TYPE_LATEST


def routes(
    lifecycle: Lifecycle, settings: ServerSettings, metrics: ServerMetrics, *, needs_keys: bool
) -> APIRouter:
    """Return the routes of one server."""
    router = APIRouter()
    handler = RerankHandler(lifecycle, settings)
    any_response = RerankResponse | list[TEIResult] | PlainResponse
    for path, endpoint, response_model in (
        ("/v1/rerank", handler.rerank_v1, RerankResponse | list[TEIResult]),
        ("/v2/rerank", handler.rerank, RerankResponse),
        ("/rerank", handler.rerank_any, any_response),
    ):
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            route_class_override=RerankRoute,
            response_model=response_model,
            response_description="Best first.",
            responses=_ERRORS,
            summary="Rerank documents.",
            operation_id=f"rerank{path.replace('/', '_')}",
        )

    @router.get("/livez", summary="Does the server make progress?", **_PROBE)
    async def livez(response: Response) -> ProbeStatus:
        response.status_code = 200 if lifecycle.is_alive else 503
        return ProbeStatus(status="alive" if lifecycle.is_alive else "stalled")

    @router.get("/healthz", summary="The same as `/readyz`.", **_PROBE)
    @router.get("/health", summary="The same as `/readyz`.", **_PROBE)
    @router.get("/readyz", summary="Does the server take requests?", **_PROBE)
    async def readyz(response: Response) -> ProbeStatus:
        reason = lifecycle.why_not_ready()
        response.status_code = 503 if reason else 200
        return ProbeStatus(status=reason or "ready")

    @router.get(
        "/",
        summary="What there is; a browser is led to `/ui`.",
        response_model=ServerPaths,
        responses={307: {"description": "To `/ui`."}} if settings.ui else None,
    )
    async def index(request: Request) -> object:
        if settings.ui and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("ui", headers={"Vary": "Accept"})
        return ServerPaths(paths=public_paths(request.app.openapi()))

    @router.get("/metrics", summary="Metrics for Prometheus.", response_class=_MetricsResponse)
    async def read_metrics() -> Response:
        return _MetricsResponse(generate_latest(metrics.registry))

    @router.get("/info", summary="Model, scale and limits.")
    async def info() -> ServerInfo:
        return _info(lifecycle, settings)

    @router.get("/v1/models", summary="Names that `model` may have.")
    async def models() -> ModelList:
        return ModelList(data=[_card(lifecycle, name) for name in lifecycle.model_names()])

    @router.get("/v1/models/{name:path}", summary="One model.", responses={404: _ERRORS[404]})
    async def model(name: str) -> ModelCard:
        lifecycle.check_model(name)
        return _card(lifecycle, name)

    @router.get("/v1/cluster/auth", summary="Xinference: do requests need a key?")
    async def cluster_auth() -> AuthStatus:
        return AuthStatus(auth=needs_keys)

    return router


def _info(lifecycle: Lifecycle, settings: ServerSettings) -> ServerInfo:
    return ServerInfo(
        model_id=lifecycle.model_names()[0],
        model_type={"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        max_client_batch_size=settings.max_documents,
        max_concurrent_requests=settings.max_connections,
        max_batch_tokens=settings.batch_tokens,
        max_input_length=lifecycle.assumed_length,
        auto_truncate=True,
        version=rerank_plugins.__version__,
        scale=lifecycle.backend.scale,
        status=lifecycle.why_not_ready() or "ready",
        backend=lifecycle.facts,
        limits=RequestLimits(
            body_bytes=settings.body_bytes,
            documents=settings.max_documents,
            document_characters=settings.document_characters,
            query_characters=settings.query_characters,
        ),
    )


def _card(lifecycle: Lifecycle, name: str) -> ModelCard:
    return ModelCard(id=name, model_name=name, max_model_len=lifecycle.max_length)
